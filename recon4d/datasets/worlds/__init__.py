"""Endless dynamic scenes with exact truth, rendered by closed-form ray casting in plain torch, on any device."""

from recon4d.datasets.worlds.make import (
    RenderParts,
    compiled_parts,
    make_worlds,
    overlap_and_motion,
    render_worlds,
)
from recon4d.datasets.worlds.pictures import load_pictures
from recon4d.datasets.worlds.randomness import Draws, scene_keys
from recon4d.datasets.worlds.source import Worlds
from recon4d.datasets.worlds.truth import Lattice
from recon4d.datasets.worlds.world import World, WorldConfig

__all__ = [
    "Draws",
    "Lattice",
    "RenderParts",
    "World",
    "WorldConfig",
    "Worlds",
    "compiled_parts",
    "load_pictures",
    "make_worlds",
    "overlap_and_motion",
    "render_worlds",
    "scene_keys",
]
