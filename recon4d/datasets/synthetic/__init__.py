"""Endless dynamic synthetic scenes with exact ground truth, ray cast in plain torch on any device."""

from recon4d.datasets.synthetic.counter_rng import Draws, scene_keys
from recon4d.datasets.synthetic.generation import (
    RenderParts,
    compiled_parts,
    make_scenes,
    overlap_and_motion,
    render_scenes,
)
from recon4d.datasets.synthetic.ground_truth import Lattice
from recon4d.datasets.synthetic.scene import SyntheticConfig, SyntheticScene
from recon4d.datasets.synthetic.source import SyntheticScenes
from recon4d.datasets.synthetic.textures import load_pictures

__all__ = [
    "Draws",
    "Lattice",
    "RenderParts",
    "SyntheticConfig",
    "SyntheticScene",
    "SyntheticScenes",
    "compiled_parts",
    "load_pictures",
    "make_scenes",
    "overlap_and_motion",
    "render_scenes",
    "scene_keys",
]
