"""Tests of stereo: depth is correct where it is verified, and verified only where images determine it."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from perturbed_scenes import synthetic_sample
from torch.utils._python_dispatch import TorchDispatchMode

from recon4d.errors import UserError
from recon4d.geometry import pixel_indices
from recon4d.records import (
    Calibration,
    Cameras,
    Clip,
    ErrorCurve,
    Priors,
    Scene,
    Tracks,
)
from recon4d.refine import refine_clip
from recon4d.refine.depth.alignment import PointDepths, fit_depth_alignment
from recon4d.refine.depth.multiview_consistency import VERIFIED_CONFIDENCE, plane_sweep_depth
from recon4d.refine.depth.plane_sweep import StereoConfig, stereo_depths
from recon4d.refine.grayscale import grayscale_images, working_size
from recon4d.refine.track_transfer import hold_static_tracks
from recon4d.refine.tracks.corner_tracking import scene_guides

SIZE = (96, 128)
STATIC, DYNAMIC, STATIC_CAMERA = 11, 2, 5
"""Clips of worlds-v1: a static scene, a scene with large dynamic objects, and one with a static camera."""


class Exact(NamedTuple):
    """A clip and its ground truth in maps of `SIZE`."""

    clip: Clip
    scene: Scene


@cache
def exact_sample(position: int, frames: tuple[int, ...] = (0, 2, 4, 6)) -> Exact:
    sample = synthetic_sample(position)
    scene = replace(sample.scene, tracks=None).frames(list(frames)).resized(*SIZE)
    return Exact(sample.clip.frames(list(frames)), scene)


def flattened(scene: Scene) -> Scene:
    """Blur the depth of a scene and reduce its contrast, so that only near and far remain."""
    blurred = F.avg_pool2d(scene.depths.clamp(min=0.1).log()[:, None], 31, 1, 15, count_include_pad=False)[:, 0]
    return replace(scene, depths=(0.7 * blurred + 0.3 * blurred.mean()).exp())


def errors(depths: torch.Tensor, truth: Scene) -> torch.Tensor:
    return torch.where(truth.depth_confidence > 0, (depths / truth.depths.clamp(min=1e-6) - 1).abs(), torch.nan)


def test_depth_of_a_static_scene_is_verified_and_correct() -> None:
    sample = exact_sample(STATIC)
    before = flattened(sample.scene)
    found = stereo_depths(grayscale_images(sample.clip, SIZE), sample.scene.cameras, before.depths)
    assert errors(before.depths, sample.scene).nanmedian() > 0.05
    off = errors(found.depths, sample.scene)[found.verified]
    assert found.verified.float().mean() > 0.5
    assert off.nanmedian() < 0.01
    assert off.nanquantile(0.95) < 0.05


def test_fine_steps_find_depth_between_distant_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = exact_sample(STATIC)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.PLANE_STEP", 3.0)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.PLANE_COUNT_RANGE", (8, 160))
    images, expected = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    fine = stereo_depths(images, sample.scene.cameras, expected)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.FINE_STEPS", ())
    coarse = stereo_depths(images, sample.scene.cameras, expected)
    fine_error, coarse_error = (errors(one.depths, sample.scene)[fine.verified].nanmedian() for one in (fine, coarse))
    assert fine_error < 0.6 * coarse_error


def test_larger_images_are_searched_about_the_depth_of_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """At half the size, the range of depths is as wide as ever, but few depths are compared at the full size."""
    sample = exact_sample(STATIC)
    images, expected = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    at_one_size = stereo_depths(images, sample.scene.cameras, expected)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.COARSEST_SIDE", 60)
    at_two_sizes = stereo_depths(images, sample.scene.cameras, expected)
    off = errors(at_two_sizes.depths, sample.scene)[at_two_sizes.verified]
    assert at_two_sizes.verified.float().mean() > 0.8 * at_one_size.verified.float().mean()
    assert off.nanmedian() < 0.01
    assert off.nanquantile(0.95) < 0.06


def test_the_result_does_not_depend_on_how_many_samples_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = exact_sample(STATIC)
    images, expected = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.PLANE_COUNT_RANGE", (48, 48))
    together = stereo_depths(images, sample.scene.cameras, expected)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.FRAMES_AT_ONCE", 1)
    monkeypatch.setattr("recon4d.refine.depth.plane_sweep.SAMPLES_AT_ONCE", 5 * SIZE[0] * SIZE[1])
    alone = stereo_depths(images, sample.scene.cameras, expected)
    assert (together.verified == alone.verified).float().mean() > 0.999
    assert ((together.depths / alone.depths - 1).abs() < 1e-4).float().mean() > 0.99


class HostWaits(TorchDispatchMode):
    """Counts operations that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += func in waits
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_a_device_only_to_plan() -> None:
    sample = exact_sample(STATIC)
    images, expected = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    points = PointDepths(torch.full((4, 30, 2), 20.5), torch.ones(4, 30), torch.ones(4, 30, dtype=torch.bool))
    with HostWaits() as waits:
        stereo_depths(images, sample.scene.cameras, expected)
        fit_depth_alignment(expected, points)
    assert waits.count <= 3


def test_dynamic_pixels_are_hardly_ever_verified() -> None:
    sample = exact_sample(DYNAMIC)
    found = stereo_depths(grayscale_images(sample.clip, SIZE), sample.scene.cameras, flattened(sample.scene).depths)
    is_dynamic = sample.scene.dynamic > 0.5
    assert is_dynamic.float().mean() > 0.2
    assert found.verified[~is_dynamic].float().mean() > 4 * found.verified[is_dynamic].float().mean()
    assert found.verified[is_dynamic].float().mean() < 0.05


def test_without_parallax_or_texture_nothing_is_verified() -> None:
    sample = exact_sample(STATIC_CAMERA)
    expected = flattened(sample.scene).depths
    without_parallax = stereo_depths(grayscale_images(sample.clip, SIZE), sample.scene.cameras, expected)
    assert not without_parallax.verified.any()
    torch.testing.assert_close(without_parallax.depths, expected)

    moving = exact_sample(STATIC)
    noise = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0))
    without_texture = stereo_depths(0.5 + 0.01 * noise, moving.scene.cameras, expected)
    assert without_texture.verified.float().mean() < 0.05


def test_exposure_has_no_influence() -> None:
    sample = exact_sample(STATIC)
    images, before = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    darker = images * torch.tensor([1.0, 0.6, 0.9, 0.7])[:, None, None] + 0.05
    plain, other = (stereo_depths(one, sample.scene.cameras, before) for one in (images, darker))
    in_both = plain.verified & other.verified
    assert in_both.sum() > 0.9 * plain.verified.sum()
    assert (plain.depths / other.depths - 1).abs()[in_both].median() < 1e-3


def test_the_result_does_not_depend_on_the_world_frame() -> None:
    sample = exact_sample(STATIC, (0, 4))
    images, before = grayscale_images(sample.clip, SIZE), flattened(sample.scene).depths
    turned = sample.scene.cameras.transformed(sample.scene.cameras.world_from_cam[1])
    one, other = (stereo_depths(images, cameras, before) for cameras in (sample.scene.cameras, turned))
    assert (one.verified == other.verified).float().mean() > 0.99
    assert (one.depths / other.depths - 1).abs()[one.verified].median() < 1e-4


def test_verified_depth_is_taken_and_the_rest_is_aligned() -> None:
    sample = exact_sample(STATIC)
    moving = torch.full_like(sample.scene.dynamic, 0.8)
    before = replace(flattened(sample.scene), dynamic=moving)
    after = plane_sweep_depth(sample.clip, before)
    is_verified = after.verified
    assert torch.equal(after.scene.dynamic == 0, is_verified)
    assert torch.equal(after.scene.depth_confidence == VERIFIED_CONFIDENCE, is_verified)
    assert torch.equal(after.scene.point_confidence == VERIFIED_CONFIDENCE, is_verified)
    assert errors(after.scene.depths, sample.scene)[is_verified].nanmedian() < 0.01
    rest = errors(after.scene.depths, sample.scene)[~is_verified].nanmean()
    assert rest < 0.8 * errors(before.depths, sample.scene)[~is_verified].nanmean()
    torch.testing.assert_close(after.scene.points, after.scene.points_from_depth)


def test_ignored_pixels_are_not_verified() -> None:
    sample = exact_sample(STATIC)
    ignore = torch.zeros(4, *sample.clip.size, dtype=torch.bool)
    ignore[:, :, :128] = True
    clip = replace(sample.clip, priors=replace(Priors.unknown(4), ignore=ignore))
    before = replace(flattened(sample.scene), dynamic=torch.ones_like(sample.scene.dynamic))
    after = plane_sweep_depth(clip, before).scene
    assert (after.dynamic[:, :, :63] == 1).all()
    assert (after.dynamic[:, :, 65:] == 0).float().mean() > 0.4


def test_large_maps_keep_their_size() -> None:
    sample = exact_sample(STATIC)
    before = flattened(sample.scene)
    after = plane_sweep_depth(sample.clip, before, StereoConfig(side=64)).scene
    assert after.size == SIZE
    assert errors(after.depths, sample.scene).nanmedian() < 0.3 * errors(before.depths, sample.scene).nanmedian()
    assert working_size((480, 640), 240) == (207, 277)
    assert working_size((90, 120), 240) == (90, 120)


def test_given_cameras_stay_and_depth_follows_them() -> None:
    """The cameras are in meters, and the predicted depth has another scale."""
    sample = exact_sample(STATIC)
    truth = sample.scene
    before = flattened(truth)
    before = replace(before, depths=3 * before.depths)
    priors = replace(
        Priors.unknown(4),
        world_from_cam=truth.cameras.world_from_cam,
        intrinsics=truth.cameras.resized(SIZE, sample.clip.size).intrinsics,
    )
    refined = refine_clip(replace(sample.clip, priors=priors), before, scene_guides(truth))
    assert refined.is_accepted
    assert torch.equal(refined.scene.cameras.world_from_cam, truth.cameras.world_from_cam)
    assert errors(refined.scene.depths, truth).nanmedian() < 0.01
    assert "cameras are as given" in str(refined)
    assert "verified" in str(refined)
    assert 0.3 < refined.verified_share < 1
    assert 1e-3 <= refined.verified_error < 0.03

    curve = ErrorCurve((1.0, 20.0), (0.4, 0.1))
    longer = refined.calibration(Calibration("worlds", depth=curve))
    assert longer is not None
    assert longer.depth is not None
    assert longer.points is None
    expected = longer.depth.expected_error(torch.tensor([1.0, 20.0, VERIFIED_CONFIDENCE]))
    torch.testing.assert_close(expected, torch.tensor([0.4, 0.1, refined.verified_error]))
    assert refined.calibration(None) is None


def test_tracks_of_verified_pixels_are_static_and_have_the_verified_confidence() -> None:
    sample = exact_sample(STATIC)
    still = flattened(sample.scene)
    pixels = torch.cartesian_prod(torch.arange(2.5, 96, 8), torch.arange(2.5, 128, 8)).flip(-1)[None]
    scene = replace(
        still,
        tracks=Tracks(
            points=torch.rand(1, 4, pixels.shape[1], 3, generator=torch.Generator().manual_seed(0)),
            visibility=torch.ones(1, 4, pixels.shape[1]),
            confidence=torch.ones(1, 4, pixels.shape[1]),
            anchors=torch.tensor([2]),
            pixels=pixels,
        ),
    )
    after = plane_sweep_depth(sample.clip, scene)
    tracks = hold_static_tracks(after.scene).tracks
    assert tracks is not None
    row, column = pixel_indices(pixels[0], SIZE)
    is_verified = after.verified[2, row, column]
    assert torch.equal(tracks.confidence[0] == VERIFIED_CONFIDENCE, is_verified.expand(4, -1))
    own = after.scene.points_from_depth[2, row, column]
    torch.testing.assert_close(tracks.points[0][:, is_verified], own[is_verified].expand(4, -1, -1))


def test_clips_with_given_depth_are_rejected() -> None:
    sample = exact_sample(STATIC, (0, 4))
    depths = torch.full((2, *sample.clip.size), torch.nan)
    depths[0, 3, 4] = 2.0
    priors = replace(Priors.unknown(2), depths=depths)
    with pytest.raises(UserError, match="depth of this clip is given"):
        refine_clip(replace(sample.clip, priors=priors), sample.scene, scene_guides(sample.scene))


def test_given_static_cameras_change_nothing() -> None:
    sample = exact_sample(STATIC_CAMERA)
    cameras = sample.scene.cameras
    priors = replace(Priors.unknown(4), world_from_cam=cameras.world_from_cam, intrinsics=cameras.intrinsics)
    refined = refine_clip(replace(sample.clip, priors=priors), sample.scene, scene_guides(sample.scene))
    assert not refined.is_accepted
    assert refined.scene is sample.scene
    assert "parallax" in str(refined)


@pytest.mark.parametrize("missing", ["some poses", "intrinsics"])
def test_incomplete_camera_priors_are_rejected(missing: str) -> None:
    sample = exact_sample(STATIC, (0, 4))
    poses = sample.scene.cameras.world_from_cam.clone()
    intrinsics = sample.scene.cameras.intrinsics
    if missing == "some poses":
        poses[1] = torch.nan
    else:
        intrinsics = torch.full_like(intrinsics, torch.nan)
    priors = replace(Priors.unknown(2), world_from_cam=poses, intrinsics=intrinsics)
    with pytest.raises(UserError, match="give the poses and the intrinsics of all frames, or no poses"):
        refine_clip(replace(sample.clip, priors=priors), sample.scene, scene_guides(sample.scene))


def test_cameras_of_two_frames_are_enough() -> None:
    sample = exact_sample(STATIC, (0, 4))
    found = stereo_depths(grayscale_images(sample.clip, SIZE), sample.scene.cameras, flattened(sample.scene).depths)
    assert errors(found.depths, sample.scene)[found.verified].nanmedian() < 0.015
    assert found.verified.float().mean() > 0.3
    alone = Cameras(sample.scene.cameras.world_from_cam[:1], sample.scene.cameras.intrinsics[:1])
    clip = Clip(sample.clip.images[:1], sample.clip.times[:1])
    one = stereo_depths(grayscale_images(clip, SIZE), alone, sample.scene.depths[:1])
    assert not one.verified.any()
