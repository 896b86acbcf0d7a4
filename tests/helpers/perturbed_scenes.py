"""Scenes of worlds-v1 with perturbed cameras, noisy tracks and rotation errors, for tests of refinement."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from recon4d.datasets import Sample
from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import pixel_indices, rigid, rotation_angle, rotation_from_axis_angle
from recon4d.records import Cameras, FeatureTracks, Scene

STATIC, DYNAMIC = (4, 11), (2, 9)
"""Clips of worlds-v1 with at most 0.3 % and with at least 22 % of dynamic pixels."""


@cache
def synthetic_sample(position: int) -> Sample:
    """Return a clip of worlds-v1, split 8, with its ground truth; it is created once in each process."""
    return WORLDS_V1["8"].sample(position)


def synthetic_scene(position: int) -> Scene:
    """Return the ground truth of a clip of worlds-v1, split 8."""
    return synthetic_sample(position).scene


def feature_tracks_of_scene(scene: Scene, num_tracks: int = 4000) -> FeatureTracks:
    """Project the true 3D tracks of static pixels into the images; more than `num_tracks` are thinned at random."""
    tracks = scene.tracks
    assert tracks is not None
    row, column = pixel_indices(tracks.pixels, scene.size)
    is_static = ~scene.is_dynamic[tracks.anchors[:, None], row, column]
    visibility = tracks.visibility * (tracks.visibility > 0.5) * (tracks.confidence > 0) * is_static[:, None]
    visibility = visibility.movedim(1, 0).flatten(1, 2)
    observed = (visibility > 0).any(dim=0).nonzero()[:, 0].numpy()
    drawn = np.sort(np.random.default_rng(0).permutation(observed)[:num_tracks])
    return FeatureTracks(scene.track_pixels.movedim(1, 0).flatten(1, 2)[:, drawn], visibility[:, drawn])


def perturb_cameras(scene: Scene, degrees: float = 2, share: float = 0.05, seed: int = 0) -> Scene:
    """Rotate and move every camera but the first, and lengthen all focal lengths.

    Each camera is rotated by `degrees` about a random axis and moved by `share` of the largest distance from the first
    camera; focal lengths are multiplied by 1 + `share`.
    """
    generator = torch.Generator().manual_seed(seed)
    axes, directions = torch.nn.functional.normalize(torch.randn(2, scene.num_frames, 3, generator=generator), dim=-1)
    rotation = rotation_from_axis_angle(torch.deg2rad(torch.tensor(degrees)) * axes)
    rotation[0] = torch.eye(3)
    directions[0] = 0
    centers = scene.cameras.centers
    length = (centers - centers[0]).norm(dim=-1).max()
    world_from_cam = rigid(scene.cameras.world_from_cam[:, :3, :3] @ rotation, centers + share * length * directions)
    intrinsics = scene.cameras.intrinsics * torch.tensor([[1 + share, 1, 1], [1, 1 + share, 1], [1, 1, 1]])
    return replace(scene, cameras=Cameras(world_from_cam, intrinsics))


def rotation_errors(scene: Scene, truth: Scene) -> torch.Tensor:
    """Return the error of the relative rotation of every two frames, in degrees."""
    predicted, true = (one.cameras.world_from_cam[:, :3, :3].double() for one in (scene, truth))
    relative, true_relative = (each.transpose(1, 2)[:, None] @ each for each in (predicted, true))
    return rotation_angle(relative.transpose(-1, -2) @ true_relative).rad2deg()


def add_noise(tracks: FeatureTracks, size: tuple[int, int], pixels: float, wrong: float) -> FeatureTracks:
    """Add Gaussian noise of `pixels`, and put a share of `wrong` observations anywhere in the image."""
    generator = torch.Generator().manual_seed(0)
    moved = tracks.pixels + pixels * torch.randn(tracks.pixels.shape, generator=generator)
    anywhere = torch.rand(tracks.pixels.shape, generator=generator) * torch.tensor([size[1], size[0]])
    is_wrong = torch.rand(tracks.visibility.shape, generator=generator) < wrong
    return FeatureTracks(torch.where(is_wrong[..., None], anywhere, moved), tracks.visibility)
