"""Scenes with exact warps, and photometric and semantic losses of them."""

from dataclasses import replace

import torch
from scenes import make_scene

from recon4d.geometry import rigid, rotation_from_axis_angle
from recon4d.losses.photometric import (
    photometric_term,
)
from recon4d.losses.semantic import semantic_term
from recon4d.losses.term import Term
from recon4d.losses.warping import (
    Warp,
    is_unoccluded,
    warp_static,
)
from recon4d.records import Scene


def exact_scene(frames: int = 3, anchors: tuple[int, ...] = (0,)) -> Scene:
    """Return the scene of a slanted wall in float64, with full depth confidence."""
    scene = make_scene(frames, anchors).to(dtype=torch.float64)
    return replace(scene, depth_confidence=torch.ones_like(scene.depths))


def painted(scene: Scene, channels: int = 3, detail: float = 1.5) -> torch.Tensor:
    """Render images (time, channels, height, width) of a texture of smooth waves on the surface, from 0.1 to 0.9."""
    generator = torch.Generator().manual_seed(3)
    waves = detail * torch.randn(3, channels, generator=generator, dtype=torch.float64)
    phases = 6 * torch.rand(channels, generator=generator, dtype=torch.float64)
    return (0.5 + 0.4 * torch.sin(scene.points_from_depth @ waves + phases)).movedim(-1, -3)


def scaled_depth(scene: Scene, factor: torch.Tensor) -> Scene:
    return replace(scene, depths=scene.depths * factor)


def moved_camera(scene: Scene, frame: int, shift: torch.Tensor, turn: torch.Tensor) -> Scene:
    """Return the scene with one camera displaced and rotated."""
    step = rigid(rotation_from_axis_angle(turn), shift)
    cameras = scene.cameras.world_from_cam
    here = (torch.arange(scene.num_frames) == frame)[:, None, None]
    return replace(scene, cameras=replace(scene.cameras, world_from_cam=torch.where(here, cameras @ step, cameras)))


def unoccluded(scene: Scene, warp: Warp, target: int) -> torch.Tensor:
    return is_unoccluded(warp, scene.depths[target], scene.depth_confidence[target] > 0)


def photometric_of(scene: Scene, images: torch.Tensor, source: int = 0, target: int = 2) -> Term:
    warp = warp_static(scene, source, target)
    return photometric_term(images[source], images[target], warp, unoccluded(scene, warp, target))


def semantic_of(scene: Scene, features: torch.Tensor, source: int = 0, target: int = 2) -> Term:
    warp = warp_static(scene, source, target)
    return semantic_term(features[source], features[target], warp, unoccluded(scene, warp, target), 1.0)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
