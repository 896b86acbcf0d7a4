"""Depth from pictures and exact cameras: true where it is proven, and proven only where that can be."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from scenes import make_scene

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import rows_and_columns
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
from recon4d.refine.depth.consistency import VERIFIED_CONFIDENCE, with_verified_depth
from recon4d.refine.depth.plane_sweep import StereoConfig, stereo_depths
from recon4d.refine.grayscale import gray_pictures, searched_size
from recon4d.refine.projection import project_points
from recon4d.refine.tracks.corner_tracking import scene_guides

SIZE = (96, 128)
STILL, MOVING, STANDING = 11, 2, 5
"""Clips of worlds-v1: nothing moves; much moves; the camera does not."""


class Exact(NamedTuple):
    """A clip, and what is true of it in maps of `SIZE`."""

    clip: Clip
    scene: Scene


@cache
def world(position: int, frames: tuple[int, ...] = (0, 2, 4, 6)) -> Exact:
    sample = WORLDS_V1["8"].sample(position)
    scene = replace(sample.scene, tracks=None).frames(list(frames)).resized(*SIZE)
    return Exact(sample.clip.frames(list(frames)), scene)


def flattened(scene: Scene) -> Scene:
    """A scene whose depth knows near from far, and little else."""
    blurred = F.avg_pool2d(scene.depths.clamp(min=0.1).log()[:, None], 31, 1, 15, count_include_pad=False)[:, 0]
    return replace(scene, depths=(0.7 * blurred + 0.3 * blurred.mean()).exp())


def errors(depths: torch.Tensor, truth: Scene) -> torch.Tensor:
    return torch.where(truth.depth_confidence > 0, (depths / truth.depths.clamp(min=1e-6) - 1).abs(), torch.nan)


def test_depth_of_a_still_world_is_proven_and_true() -> None:
    sample = world(STILL)
    before = flattened(sample.scene)
    found = stereo_depths(gray_pictures(sample.clip, SIZE), sample.scene.cameras, before.depths)
    assert errors(before.depths, sample.scene).nanmedian() > 0.05
    off = errors(found.depths, sample.scene)[found.verified]
    assert found.verified.float().mean() > 0.5
    assert off.nanmedian() < 0.01
    assert off.nanquantile(0.95) < 0.05


def test_between_planes_that_are_far_apart_depth_is_found_all_the_same() -> None:
    sample = world(STILL)
    far_apart = StereoConfig(plane_step=4.0, fewest_planes=8)
    fine, coarse = (
        stereo_depths(gray_pictures(sample.clip, SIZE), sample.scene.cameras, flattened(sample.scene).depths, config)
        for config in (far_apart, replace(far_apart, fine_steps=()))
    )
    both = fine.verified & coarse.verified
    fine_error, coarse_error = (errors(one.depths, sample.scene)[both].nanmedian() for one in (fine, coarse))
    assert fine_error < 0.5 * coarse_error


def test_what_moves_is_hardly_ever_proven() -> None:
    sample = world(MOVING)
    found = stereo_depths(gray_pictures(sample.clip, SIZE), sample.scene.cameras, flattened(sample.scene).depths)
    moves = sample.scene.dynamic > 0.5
    assert moves.float().mean() > 0.2
    assert found.verified[~moves].float().mean() > 4 * found.verified[moves].float().mean()
    assert found.verified[moves].float().mean() < 0.05


def test_without_parallax_or_pattern_nothing_is_proven() -> None:
    sample = world(STANDING)
    expected = flattened(sample.scene).depths
    standing = stereo_depths(gray_pictures(sample.clip, SIZE), sample.scene.cameras, expected)
    assert not standing.verified.any()
    torch.testing.assert_close(standing.depths, expected)

    moving = world(STILL)
    noise = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0))
    of_noise = stereo_depths(0.5 + 0.01 * noise, moving.scene.cameras, expected)
    assert of_noise.verified.float().mean() < 0.05


def test_exposure_does_not_matter() -> None:
    sample = world(STILL)
    pictures, before = gray_pictures(sample.clip, SIZE), flattened(sample.scene).depths
    darker = pictures * torch.tensor([1.0, 0.6, 0.9, 0.7])[:, None, None] + 0.05
    plain, other = (stereo_depths(one, sample.scene.cameras, before) for one in (pictures, darker))
    both = plain.verified & other.verified
    assert both.sum() > 0.9 * plain.verified.sum()
    assert (plain.depths / other.depths - 1).abs()[both].median() < 1e-3


def test_the_answer_does_not_depend_on_where_the_world_begins() -> None:
    sample = world(STILL, (0, 4))
    pictures, before = gray_pictures(sample.clip, SIZE), flattened(sample.scene).depths
    turned = sample.scene.cameras.transformed(sample.scene.cameras.world_from_cam[1])
    one, other = (stereo_depths(pictures, cameras, before) for cameras in (sample.scene.cameras, turned))
    assert (one.verified == other.verified).float().mean() > 0.99
    assert (one.depths / other.depths - 1).abs()[one.verified].median() < 1e-4


def test_a_scene_takes_proven_depth_and_bends_the_rest() -> None:
    sample = world(STILL)
    moving = torch.full_like(sample.scene.dynamic, 0.8)
    before = replace(flattened(sample.scene), dynamic=moving)
    after = with_verified_depth(sample.clip, before)
    is_proven = after.verified
    assert torch.equal(after.scene.dynamic == 0, is_proven)
    assert torch.equal(after.scene.depth_confidence == VERIFIED_CONFIDENCE, is_proven)
    assert torch.equal(after.scene.point_confidence == VERIFIED_CONFIDENCE, is_proven)
    assert errors(after.scene.depths, sample.scene)[is_proven].nanmedian() < 0.01
    rest = errors(after.scene.depths, sample.scene)[~is_proven].nanmean()
    assert rest < 0.8 * errors(before.depths, sample.scene)[~is_proven].nanmean()
    torch.testing.assert_close(after.scene.points, after.scene.points_from_depth)


def test_ignored_pixels_are_not_proven() -> None:
    sample = world(STILL)
    ignore = torch.zeros(4, *sample.clip.size, dtype=torch.bool)
    ignore[:, :, :128] = True
    clip = replace(sample.clip, priors=replace(Priors.nothing(4), ignore=ignore))
    before = replace(flattened(sample.scene), dynamic=torch.ones_like(sample.scene.dynamic))
    after = with_verified_depth(clip, before).scene
    assert (after.dynamic[:, :, :63] == 1).all()
    assert (after.dynamic[:, :, 65:] == 0).float().mean() > 0.4


def test_large_maps_keep_their_size() -> None:
    sample = world(STILL)
    before = flattened(sample.scene)
    after = with_verified_depth(sample.clip, before, StereoConfig(side=64)).scene
    assert after.size == SIZE
    assert errors(after.depths, sample.scene).nanmedian() < 0.3 * errors(before.depths, sample.scene).nanmedian()
    assert searched_size((480, 640), 240) == (207, 277)
    assert searched_size((90, 120), 240) == (90, 120)


def test_given_cameras_stay_and_depth_follows_them() -> None:
    """Cameras in meters, and depth of a network that does not know how long a meter is."""
    sample = world(STILL)
    truth = sample.scene
    before = flattened(truth)
    before = replace(before, depths=3 * before.depths)
    known = replace(
        Priors.nothing(4),
        world_from_cam=truth.cameras.world_from_cam,
        intrinsics=truth.cameras.resized(SIZE, sample.clip.size).intrinsics,
    )
    refined = refine_clip(replace(sample.clip, priors=known), before, scene_guides(truth))
    assert refined.accepted
    assert torch.equal(refined.scene.cameras.world_from_cam, truth.cameras.world_from_cam)
    assert errors(refined.scene.depths, truth).nanmedian() < 0.01
    assert "cameras are as given" in str(refined)
    assert "proven" in str(refined)
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


def test_tracks_of_proven_pixels_stand_still_and_are_as_sure() -> None:
    sample = world(STILL)
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
    after = with_verified_depth(sample.clip, scene)
    tracks = after.scene.tracks
    assert tracks is not None
    row, column = rows_and_columns(pixels[0], SIZE)
    begins_proven = after.verified[2, row, column]
    assert torch.equal(tracks.confidence[0] == VERIFIED_CONFIDENCE, begins_proven.expand(4, -1))
    own = after.scene.points_from_depth[2, row, column]
    torch.testing.assert_close(tracks.points[0][:, begins_proven], own[begins_proven].expand(4, -1, -1))


def test_known_depth_is_not_refined_away() -> None:
    sample = world(STILL, (0, 4))
    depths = torch.full((2, *sample.clip.size), torch.nan)
    depths[0, 3, 4] = 2.0
    known = replace(Priors.nothing(2), depths=depths)
    with pytest.raises(ValueError, match="depth of this clip is known"):
        refine_clip(replace(sample.clip, priors=known), sample.scene, scene_guides(sample.scene))


def test_given_cameras_that_stand_still_change_nothing() -> None:
    sample = world(STANDING)
    cameras = sample.scene.cameras
    known = replace(Priors.nothing(4), world_from_cam=cameras.world_from_cam, intrinsics=cameras.intrinsics)
    refined = refine_clip(replace(sample.clip, priors=known), sample.scene, scene_guides(sample.scene))
    assert not refined.accepted
    assert refined.scene is sample.scene
    assert "parallax" in str(refined)


@pytest.mark.parametrize("what", ["some cameras", "no lens"])
def test_half_known_cameras_are_refused(what: str) -> None:
    sample = world(STILL, (0, 4))
    poses = sample.scene.cameras.world_from_cam.clone()
    intrinsics = sample.scene.cameras.intrinsics
    if what == "some cameras":
        poses[1] = torch.nan
    else:
        intrinsics = torch.full_like(intrinsics, torch.nan)
    known = replace(Priors.nothing(2), world_from_cam=poses, intrinsics=intrinsics)
    with pytest.raises(ValueError, match="all cameras must be known with their lens, or none"):
        refine_clip(replace(sample.clip, priors=known), sample.scene, scene_guides(sample.scene))


def test_projected_points_fall_into_their_pixels() -> None:
    scene = make_scene()
    points = scene.points_from_depth[0].flatten(0, 1).expand(scene.num_frames, -1, -1)
    there = project_points(scene.cameras, points, scene.size)
    assert there.inside[0].all()
    row, column = there.places()
    height, width = scene.size
    assert torch.equal(row[0] * width + column[0], torch.arange(height * width))
    behind = project_points(scene.cameras, -points, scene.size)
    assert not behind.inside[0].any()


def test_cameras_of_two_frames_are_enough() -> None:
    sample = world(STILL, (0, 4))
    found = stereo_depths(gray_pictures(sample.clip, SIZE), sample.scene.cameras, flattened(sample.scene).depths)
    assert errors(found.depths, sample.scene)[found.verified].nanmedian() < 0.015
    assert found.verified.float().mean() > 0.3
    alone = Cameras(sample.scene.cameras.world_from_cam[:1], sample.scene.cameras.intrinsics[:1])
    clip = Clip(sample.clip.images[:1], sample.clip.times[:1])
    one = stereo_depths(gray_pictures(clip, SIZE), alone, sample.scene.depths[:1])
    assert not one.verified.any()
