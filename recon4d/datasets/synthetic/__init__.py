"""Procedural dynamic scenes with exact ground truth, rendered by ray casting in PyTorch on any device."""

from recon4d.datasets.synthetic.counter_rng import CounterRng, scene_keys
from recon4d.datasets.synthetic.generation import (
    RenderSteps,
    compile_render_steps,
    make_scenes,
    overlap_and_motion,
    render_scenes,
)
from recon4d.datasets.synthetic.ground_truth import Lattice
from recon4d.datasets.synthetic.scene import SyntheticConfig, SyntheticScene
from recon4d.datasets.synthetic.source import SyntheticScenes
from recon4d.datasets.synthetic.textures import load_textures

__all__ = [
    "CounterRng",
    "Lattice",
    "RenderSteps",
    "SyntheticConfig",
    "SyntheticScene",
    "SyntheticScenes",
    "compile_render_steps",
    "load_textures",
    "make_scenes",
    "overlap_and_motion",
    "render_scenes",
    "scene_keys",
]
