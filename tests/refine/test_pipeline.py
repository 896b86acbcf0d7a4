"""Cameras that were nearly right become right, and never worse by what the clip itself says."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scenes import make_scene

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import (
    invert,
    project,
    rigid,
    rotation_angle,
    rotation_from_axis_angle,
    transform_points,
)
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine import (
    RefineConfig,
    refine_clip,
    refine_scene,
    static_tracks,
)
from recon4d.refine.cameras.bundle_adjustment import (
    Adjusted,
    FreeLens,
    Problem,
    adjust,
    adjust_points,
    parallax,
    residuals,
)
from recon4d.refine.cameras.hypotheses import LocatedTracks, firm_frames, select_tracks
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.cameras.scoring import negative_log_likelihoods
from recon4d.refine.tracks.two_view_filter import consistent_tracks

STATIC, DYNAMIC = (4, 11), (2, 9)
"""Clips of worlds-v1: at most .3 % of pixels move; at least 22 % do."""


def world(position: int) -> Scene:
    return WORLDS_V1["8"].sample(position).scene


def disturbed(scene: Scene, degrees: float = 2, share: float = 0.05, seed: int = 0) -> Scene:
    """Every camera but the first turned by `degrees` about a random axis and moved by `share` of the longest way; focal
    lengths longer by `share`."""
    generator = torch.Generator().manual_seed(seed)
    axes, ways = torch.nn.functional.normalize(torch.randn(2, scene.num_frames, 3, generator=generator), dim=-1)
    turn = rotation_from_axis_angle(torch.deg2rad(torch.tensor(degrees)) * axes)
    turn[0] = torch.eye(3)
    ways[0] = 0
    centers = scene.cameras.centers
    length = (centers - centers[0]).norm(dim=-1).max()
    world_from_cam = rigid(scene.cameras.world_from_cam[:, :3, :3] @ turn, centers + share * length * ways)
    intrinsics = scene.cameras.intrinsics * torch.tensor([[1 + share, 1, 1], [1, 1 + share, 1], [1, 1, 1]])
    return replace(scene, cameras=Cameras(world_from_cam, intrinsics))


def rotation_errors(scene: Scene, truth: Scene) -> torch.Tensor:
    """Degrees, of every two frames' rotation to each other."""
    turned, wanted = (one.cameras.world_from_cam[:, :3, :3].double() for one in (scene, truth))
    relative, true = (each.transpose(1, 2)[:, None] @ each for each in (turned, wanted))
    return rotation_angle(relative.transpose(-1, -2) @ true).rad2deg()


def with_noise(tracks: FeatureTracks, size: tuple[int, int], pixels: float, wrong: float) -> FeatureTracks:
    """Tracks seen `pixels` off, and a share of `wrong` anywhere in the picture."""
    generator = torch.Generator().manual_seed(0)
    moved = tracks.pixels + pixels * torch.randn(tracks.pixels.shape, generator=generator)
    anywhere = torch.rand(tracks.pixels.shape, generator=generator) * torch.tensor([size[1], size[0]])
    is_wrong = torch.rand(tracks.visibility.shape, generator=generator) < wrong
    return FeatureTracks(torch.where(is_wrong[..., None], anywhere, moved), tracks.visibility)


@pytest.mark.parametrize("position", STATIC)
def test_disturbed_cameras_of_a_still_world_come_back(position: int) -> None:
    truth = world(position)
    before = disturbed(truth)
    refinement = refine_scene(before, static_tracks(truth, 800))
    assert refinement.accepted
    assert not refinement.is_rotation_only
    assert rotation_errors(before, truth).mean() > 2
    assert rotation_errors(refinement.scene, truth).max() < 0.1
    focal = refinement.scene.cameras.intrinsics[:, 0, 0] / truth.cameras.intrinsics[:, 0, 0]
    torch.testing.assert_close(focal, torch.ones(8), atol=0.005, rtol=0)
    # The path too: in the unit of the depth, which was not disturbed.
    extent = truth.cameras.centers.norm(dim=-1).max()
    off = (refinement.scene.cameras.centers - truth.cameras.centers).norm(dim=-1).max()
    assert off < 0.03 * extent
    assert refinement.error_after < 0.1 * refinement.error_before


@pytest.mark.parametrize("position", DYNAMIC)
def test_disturbed_cameras_of_a_moving_world_are_never_worse(position: int) -> None:
    truth = world(position)
    before = disturbed(truth)
    refinement = refine_scene(before, static_tracks(truth, 800))
    assert not refinement.is_rotation_only
    after = refinement.scene
    assert rotation_errors(after, truth).max() <= rotation_errors(before, truth).max()
    assert rotation_errors(after, truth).mean() <= rotation_errors(before, truth).mean()
    # Tracks were right in the world, and the wrong cameras of later times have no part in them.
    assert after.tracks is not None
    assert truth.tracks is not None
    off = (after.tracks.points - truth.tracks.points).norm(dim=-1)[truth.tracks.confidence > 0]
    assert off.median() < 0.01 * truth.depths.median()
    assert off.quantile(0.9) < 0.03 * truth.depths.median()


@pytest.mark.parametrize("position", [2, 4])
def test_noise_wrong_matches_and_unmarked_movers_are_withstood(position: int) -> None:
    truth = world(position)
    everything = static_tracks(replace(truth, dynamic=torch.zeros_like(truth.dynamic)))
    tracks = with_noise(everything, truth.size, pixels=0.15, wrong=0.03)
    before = disturbed(truth)
    refinement = refine_scene(before, tracks)
    assert refinement.accepted
    assert rotation_errors(refinement.scene, truth).mean() < 0.35 * rotation_errors(before, truth).mean()


@pytest.mark.parametrize("position", [4, 2])
def test_cameras_that_are_nowhere_near_are_found_by_the_mapper(position: int) -> None:
    """A start in which no camera moves: the tracks alone tell where they were."""
    truth = world(position)
    lost = truth.cameras.world_from_cam[:1].expand_as(truth.cameras.world_from_cam)
    intrinsics = truth.cameras.intrinsics * torch.tensor([[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]])
    before = replace(truth, cameras=Cameras(lost, intrinsics))
    refinement = refine_scene(before, with_noise(static_tracks(truth, 800), truth.size, 0.1, 0.02))
    assert rotation_errors(before, truth).mean() > 5
    assert refinement.accepted
    assert rotation_errors(refinement.scene, truth).max() < 0.5
    focal = refinement.scene.cameras.intrinsics[:, 0, 0] / truth.cameras.intrinsics[:, 0, 0]
    torch.testing.assert_close(focal, torch.ones(8), atol=0.02, rtol=0)


def test_the_mapper_is_asked_again_with_the_networks_lens_where_its_own_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def recorded(*arguments: Any) -> Cameras:
        asked.append(arguments[-1])
        return map_tracks(*arguments)

    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.map_tracks", recorded)
    frames = [0, 2, 4, 6]
    truth = replace(world(4), tracks=None).frames(frames)
    before, tracks = disturbed(truth), static_tracks(world(4), 400).frames(frames)
    for config, wanted in (
        (RefineConfig(), [False]),
        (RefineConfig(plenty_exact_share=1.1), [False, True]),
        (RefineConfig(finds_lens=False), [True]),
    ):
        asked.clear()
        assert refine_scene(before, tracks, config).error_after < 1
        assert asked == wanted


def test_known_focal_lengths_stay() -> None:
    truth = world(4)
    before = disturbed(truth)
    known = replace(before, cameras=replace(before.cameras, intrinsics=truth.cameras.intrinsics))
    after = refine_scene(known, static_tracks(truth, 800), RefineConfig(finds_lens=False))
    assert after.accepted
    torch.testing.assert_close(after.scene.cameras.intrinsics, truth.cameras.intrinsics, atol=1e-3, rtol=0)
    assert rotation_errors(after.scene, truth).max() < 0.1


def test_a_principal_point_beside_the_middle_is_found() -> None:
    """As of a picture that was cropped on two sides: everything is seen elsewhere than from the middle of the lens."""
    truth = world(4)
    before, tracks = disturbed(truth), static_tracks(truth, 800)
    shift = torch.tensor([9.0, -7.0])
    refinement = refine_scene(before, FeatureTracks(tracks.pixels + shift, tracks.visibility))
    assert refinement.accepted
    found, middle = (scene.cameras.intrinsics[:, :2, 2] for scene in (refinement.scene, truth))
    torch.testing.assert_close(found - middle, shift.expand(8, 2), atol=0.3, rtol=0)
    assert rotation_errors(refinement.scene, truth).max() < 0.1
    too_far = refine_scene(
        before, FeatureTracks(tracks.pixels + shift, tracks.visibility), RefineConfig(largest_shift=0.03)
    )
    assert torch.equal(too_far.scene.cameras.intrinsics[:, :2, 2], middle)


def test_a_principal_point_that_noise_would_move_stays() -> None:
    truth = world(11)
    after = refine_scene(disturbed(truth), with_noise(static_tracks(truth, 800), truth.size, 0.15, 0.02)).scene
    assert torch.equal(after.cameras.intrinsics[:, :2, 2], truth.cameras.intrinsics[:, :2, 2])


def test_pixels_of_pictures_are_square() -> None:
    """Maps of another aspect than the pictures say by it how their focal lengths across and down are related."""
    frames = [0, 2, 4, 6]
    sample = WORLDS_V1["8"].sample(4)
    truth = replace(sample.scene, tracks=None).resized(96, 112).frames(frames)
    before = disturbed(truth, degrees=1, share=0.02)
    wrong = before.cameras.intrinsics * torch.tensor([[1.06, 1, 1], [1, 1, 1], [1, 1, 1]])
    before = replace(before, cameras=replace(before.cameras, intrinsics=wrong))
    tracks = static_tracks(sample.scene, 3000).frames(frames)
    matches = FeatureTracks(tracks.pixels * torch.tensor([112 / 256, 96 / 192]), tracks.visibility)
    refinement = refine_clip(sample.clip.frames(frames), before, matches)
    assert refinement.accepted
    found = refinement.scene.cameras.intrinsics
    torch.testing.assert_close(found[:, 0, 0] / found[:, 1, 1], torch.full((4,), (112 / 256) / (96 / 192)))
    torch.testing.assert_close(found, truth.cameras.intrinsics, rtol=0.02, atol=1e-3)
    assert rotation_errors(refinement.scene, truth).max() < 0.2


def test_tracks_that_fit_no_cameras_exactly_leave_the_scene_as_it_was() -> None:
    truth = world(4)
    before = disturbed(truth)
    refinement = refine_scene(before, with_noise(static_tracks(truth, 800), truth.size, 0.6, 0.0))
    assert not refinement.accepted
    assert refinement.scene is before
    assert "exactly" in refinement.reason


def test_of_two_motions_the_one_that_the_network_sees_as_still_is_taken() -> None:
    """More than half of all tracks are on something that moves as a whole; the network's cameras are nearly right."""
    truth = world(4)
    tracks = static_tracks(truth, count=2000)
    mover = world(11)
    of_mover = static_tracks(mover, count=4000)
    both = FeatureTracks(
        torch.cat([tracks.pixels[:, :700], of_mover.pixels[:, :1000]], dim=1),
        torch.cat([tracks.visibility[:, :700], of_mover.visibility[:, :1000]], dim=1),
    )
    after = refine_scene(disturbed(truth, degrees=0.3, share=0.01), both).scene
    assert rotation_errors(after, truth).mean() < 0.2
    # A network that sees the other motion is believed too.
    other = replace(truth, cameras=disturbed(mover, degrees=0.3, share=0.01).cameras)
    assert rotation_errors(refine_scene(other, both).scene, mover).mean() < 1


def test_firm_frames_are_the_largest_group_that_shares_tracks() -> None:
    seen = torch.zeros(6, 60, dtype=torch.bool)
    seen[0:3, :20] = True  # 0, 1 and 2 share 20
    seen[2:4, 20:30] = True  # 2 and 3 share 10
    seen[4:6, 30:60] = True  # 4 and 5 share 30, with nobody else
    assert firm_frames(seen, 10).tolist() == [True, True, True, True, False, False]
    assert firm_frames(seen, 11).tolist() == [True, True, True, False, False, False]
    chain = torch.zeros(9, 80, dtype=torch.bool)
    for frame in range(8):
        chain[frame : frame + 2, 10 * frame : 10 * frame + 10] = True
    assert firm_frames(chain, 10).all()


@pytest.mark.parametrize("lost", [5, 0])
def test_a_camera_that_no_track_holds_stays_where_it_was_predicted_beside_the_next(lost: int) -> None:
    truth = world(4)
    before = disturbed(truth, degrees=1, share=0.02)
    tracks = static_tracks(truth, 800)
    seen = tracks.visibility.clone()
    seen[lost] = 0
    after = refine_scene(before, FeatureTracks(tracks.pixels, seen))
    assert after.accepted
    others = [frame for frame in range(8) if frame != lost]
    assert rotation_errors(after.scene.frames(others), truth.frames(others)).max() < 0.1

    beside = 4 if lost else 1
    given, wanted = (
        invert(scene.cameras.world_from_cam[beside].double()) @ scene.cameras.world_from_cam[lost].double()
        for scene in (after.scene, before)
    )
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.scene.cameras.world_from_cam[0], before.cameras.world_from_cam[0])


def test_depth_is_bent_through_the_points_that_cameras_prove() -> None:
    truth = world(4)
    height, width = truth.size
    across = torch.linspace(-0.4, 0.4, width).exp() * torch.linspace(0.8, 1.2, height)[:, None]
    wrong = truth.depths**0.7 * across
    before = replace(disturbed(truth), depths=wrong)
    refinement = refine_scene(before, static_tracks(truth, 800))

    def off(scene: Scene) -> float:
        known = truth.depth_confidence > 0
        ratio = (scene.depths[known] / truth.depths[known]).log()
        return float((ratio - ratio.median()).abs().mean())

    assert off(before) > 0.15
    assert off(refinement.scene) < 0.35 * off(before)
    assert refinement.depth_after < 0.3 * refinement.depth_before
    assert "depth" in str(refinement)
    scene = refinement.scene
    torch.testing.assert_close(scene.points, scene.points_from_depth)


def test_cameras_that_would_turn_the_depth_inside_out_are_not_taken() -> None:
    truth = world(4)
    tracks = static_tracks(truth, 400)
    inverted = replace(disturbed(truth), depths=truth.depths.median() ** 2 / truth.depths)
    refinement = refine_scene(inverted, tracks)
    assert not refinement.accepted
    assert refinement.scene is inverted
    assert "inside out" in str(refinement)
    assert refine_scene(inverted, tracks, RefineConfig(least_correlation=-1.0)).accepted


def test_few_corners_are_followed_again_from_the_scene_itself() -> None:
    """Matches that know the left of the picture alone: the rest is found from where the first refinement has it."""
    frames = [0, 1, 2, 3]
    sample = WORLDS_V1["8"].sample(11)
    tracks = static_tracks(sample.scene, 3000).frames(frames)
    truth = replace(sample.scene, tracks=None).resized(96, 128)
    before = disturbed(truth, degrees=1, share=0.02).frames(frames)
    matches = FeatureTracks(0.5 * tracks.pixels, tracks.visibility * (tracks.pixels[..., 0] < 90))
    once, twice = (
        refine_clip(sample.clip.frames(frames), before, matches, RefineConfig(plenty=plenty)) for plenty in (0.0, 2.0)
    )
    assert once.accepted
    assert twice.accepted
    assert twice.error_before == once.error_before
    assert twice.num_tracks > 1.5 * once.num_tracks
    assert rotation_errors(twice.scene, truth.frames(frames)).max() < 0.2


def test_good_cameras_stay_good() -> None:
    truth = world(4)
    after = refine_scene(truth, with_noise(static_tracks(truth, 800), truth.size, 0.15, 0.0)).scene
    assert rotation_errors(after, truth).max() < 0.3


def test_a_still_camera_keeps_its_focal_length_and_its_place() -> None:
    """Nothing tells either of them."""
    truth = world(5)
    assert truth.cameras.centers.norm(dim=-1).max() < 1e-3
    before = disturbed(truth)
    after = refine_scene(before, with_noise(static_tracks(truth, 800), truth.size, 0.15, 0.03)).scene
    torch.testing.assert_close(after.cameras.intrinsics[:, 0, 0], before.cameras.intrinsics[:, 0, 0])
    assert rotation_errors(after, truth).mean() < 0.3
    assert after.cameras.centers.norm(dim=-1).max() < 1e-6


@pytest.mark.parametrize("seem_likelier", [False, True])
def test_cameras_that_are_worse_on_held_out_tracks_are_not_taken(
    seem_likelier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = world(4)
    tracks = static_tracks(truth, 800)

    def adjust_badly(problem: Problem, free_points: torch.Tensor, lens: FreeLens = "kept") -> Adjusted:
        good = adjust(problem, free_points, lens)
        return replace(good, cameras=disturbed(truth, degrees=0.3).cameras.to(dtype=torch.float64))

    calls: list[int] = []

    def likelier_each_time(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return negative_log_likelihoods(*arguments) * 0 - len(calls)

    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.adjust", adjust_badly)
    if seem_likelier:
        monkeypatch.setattr("recon4d.refine.cameras.model_selection.track_misfits", likelier_each_time)
    refinement = refine_scene(truth, tracks, RefineConfig(least_exact_share=0))
    assert not refinement.accepted
    assert refinement.scene is truth
    assert "held-out" in refinement.reason
    assert "as predicted" in str(refinement)
    assert refinement.error_before < 0.05


def test_too_few_tracks_change_nothing() -> None:
    truth = world(4)
    tracks = static_tracks(truth, count=25)
    refinement = refine_scene(truth, tracks)
    assert refinement.scene is truth
    assert "30 are needed" in refinement.reason
    none = FeatureTracks(torch.zeros(8, 0, 2), torch.zeros(8, 0))
    assert "0 static tracks" in refine_scene(truth, none).reason
    clip = WORLDS_V1["8"].sample(4).clip
    blank = replace(clip, images=torch.full_like(clip.images, 90))
    assert refine_clip(blank, truth, tracks).scene is truth
    one_frame = truth.frames([0])
    assert "one frame" in refine_scene(one_frame, FeatureTracks(tracks.pixels[:1], tracks.visibility[:1])).reason
    unseen = FeatureTracks(tracks.pixels, torch.zeros_like(tracks.visibility))
    assert refine_scene(truth, unseen).scene is truth
    unknown = replace(truth, depth_confidence=torch.zeros_like(truth.depths))
    assert refine_scene(unknown, static_tracks(truth, 800)).scene is unknown


def test_bad_input_is_refused() -> None:
    truth = world(4)
    tracks = static_tracks(truth, count=100)
    with pytest.raises(ValueError, match="tracks through 7"):
        refine_scene(truth, FeatureTracks(tracks.pixels[:7], tracks.visibility[:7]))
    lost = truth.cameras.world_from_cam.clone()
    lost[3] = torch.nan
    with pytest.raises(ValueError, match="not placed"):
        refine_scene(replace(truth, cameras=replace(truth.cameras, world_from_cam=lost)), tracks)
    with pytest.raises(ValueError, match="no tracks"):
        static_tracks(replace(truth, tracks=None))


def test_the_answer_is_the_same_every_time() -> None:
    truth = world(11)
    tracks = with_noise(static_tracks(truth, 300), truth.size, 0.15, 0.02)
    first, second = (refine_scene(disturbed(truth), tracks).scene.cameras for _ in range(2))
    assert torch.equal(first.world_from_cam, second.world_from_cam)
    assert torch.equal(first.intrinsics, second.intrinsics)


def test_static_tracks_are_seen_static_and_where_the_truth_has_them() -> None:
    truth = world(2)
    tracks = static_tracks(truth, count=500)
    assert tracks.pixels.shape == (8, 500, 2)
    assert (tracks.visibility[0] == 1).all()
    assert 0.3 < tracks.visibility.mean() < 1
    column, row = tracks.pixels[0].long().unbind(-1)
    assert (truth.dynamic[0, row, column] == 0).all()
    points = truth.points[0, row, column]
    for frame in range(1, 8):
        pixels = project(transform_points(truth.cameras.cam_from_world[frame], points), truth.cameras.intrinsics[frame])
        seen = tracks.visibility[frame] > 0
        torch.testing.assert_close(pixels[seen], tracks.pixels[frame, seen], atol=0.02, rtol=0)


def test_with_other_cameras_everything_stays_at_its_pixels() -> None:
    scene = make_scene(anchors=(0, 2))
    other = disturbed(scene, degrees=5, share=0.2).cameras
    moved = scene.with_cameras(other)
    torch.testing.assert_close(moved.points, moved.points_from_depth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.track_pixels, scene.track_pixels, atol=2e-3, rtol=0)
    again = moved.with_cameras(scene.cameras)
    torch.testing.assert_close(again.points, scene.points, atol=1e-5, rtol=1e-5)
    assert again.tracks is not None
    assert scene.tracks is not None
    torch.testing.assert_close(again.tracks.points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_what_lies_behind_a_camera_moves_with_it() -> None:
    scene = make_scene()
    assert scene.tracks is not None
    behind = transform_points(scene.cameras.world_from_cam, torch.tensor([[[0.3, -0.2, -1.0]]]).expand(3, 1, 3))
    tracks = replace(
        scene.tracks,
        points=behind[None],
        visibility=torch.zeros(1, 3, 1),
        confidence=torch.ones(1, 3, 1),
        pixels=torch.zeros(1, 1, 2),
    )
    other = disturbed(scene).cameras
    moved = replace(scene, tracks=tracks).with_cameras(other).tracks
    assert moved is not None
    in_camera = transform_points(other.cam_from_world, moved.points[0])
    torch.testing.assert_close(in_camera, torch.tensor([0.3, -0.2, -1.0]).expand(3, 1, 3), atol=1e-5, rtol=0)


def test_movers_break_the_epipolar_geometry() -> None:
    truth = world(2)
    everything = static_tracks(replace(truth, dynamic=torch.zeros_like(truth.dynamic)), count=1500)
    kept = consistent_tracks(truth.cameras, everything, truth.size)
    column, row = everything.pixels[0].long().unbind(-1)
    moves = truth.dynamic[0, row, column] > 0
    assert moves.float().mean() > 0.2
    assert kept[~moves].float().mean() > 0.9
    assert kept[moves].float().mean() < 0.6
    # Where the cameras stand plays no part in it.
    assert torch.equal(kept, consistent_tracks(disturbed(truth, share=0.0).cameras, everything, truth.size))


def test_tracks_seen_once_or_hardly_ever_are_not_consistent() -> None:
    truth = world(4)
    tracks = static_tracks(truth, count=300)
    seen = tracks.visibility.clone()
    seen[1:, :10] = 0
    kept = consistent_tracks(truth.cameras, FeatureTracks(tracks.pixels, seen), truth.size)
    assert not kept[:10].any()
    assert kept[10:].float().mean() > 0.9
    few = FeatureTracks(tracks.pixels[:, :15], tracks.visibility[:, :15])
    assert not consistent_tracks(truth.cameras, few, truth.size).any()


def exact_problem() -> tuple[Problem, torch.Tensor]:
    """A wall's tracks seen by three cameras, and its points."""
    scene = make_scene()
    tracks = static_tracks(scene)
    assert scene.tracks is not None
    points = scene.tracks.points[0, 0]
    return Problem(scene.cameras, tracks, points, scene.size), points


def test_residuals_are_pixels() -> None:
    problem, points = exact_problem()
    distance, seen = residuals(problem.cameras, problem.tracks, points)
    assert seen.all()
    assert distance.max() < 1e-3
    shifted = FeatureTracks(problem.tracks.pixels + torch.tensor([3.0, 4.0]), problem.tracks.visibility)
    five = torch.full((3, 192), 5.0).double()
    torch.testing.assert_close(residuals(problem.cameras, shifted, points)[0], five, atol=1e-3, rtol=0)
    behind, _ = residuals(problem.cameras, problem.tracks, -points)
    assert behind.isinf().all()


def test_parallax_is_the_angle_between_two_views() -> None:
    """Cameras at 0 and at 1 on the x axis see a point at (0, 0, 1) under 45 degrees; a third did not see it."""
    world_from_cam = torch.eye(4).repeat(3, 1, 1)
    world_from_cam[1, 0, 3], world_from_cam[2, 0, 3] = 1, 50
    cameras = Cameras(world_from_cam, torch.eye(3).expand(3, 3, 3))
    seen = torch.tensor([[1.0], [1.0], [0.0]])
    angle = parallax(cameras, FeatureTracks(torch.zeros(3, 1, 2), seen), torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(angle.rad2deg(), torch.tensor([45.0]).double())


def test_points_are_found_by_fixed_cameras() -> None:
    problem, points = exact_problem()
    start = points + 0.1 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    found = adjust_points(replace(problem, points=start))
    torch.testing.assert_close(found.float(), points, atol=1e-2, rtol=0)


def test_misfits_are_minus_the_log_likelihood_of_cauchys_distribution() -> None:
    """A still camera sees three tracks at two places, whose best points lie in the middle, and one at one, but once."""
    truth = world(4).frames([0, 0, 0])
    noise = RefineConfig.noise * 256
    pixels = torch.tensor([20.0, 30.0]).expand(3, 4, 2).clone()
    pixels[1, :, 0] += torch.tensor([0, 2 * noise, 1, 50])
    tracks = FeatureTracks(pixels, torch.ones(3, 4))
    tracks.visibility[2, :3] = 0
    located_tracks = LocatedTracks(tracks, torch.zeros(4, dtype=torch.long), torch.full((4,), 2.0))
    found = negative_log_likelihoods(truth.cameras, located_tracks, truth.size, RefineConfig())
    far = math.log1p(noise**-2)  # beyond a pixel it does not matter how far
    wanted = torch.tensor([0, math.log(2), math.log1p((0.5 / noise) ** 2), far / 3]).double()
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("lens", ["kept", "focal length", "whole"])
def test_as_much_of_the_lens_changes_as_may(lens: FreeLens) -> None:
    """Seen by longer lenses of another middle, in maps whose pixels are not square."""
    truth = world(4)
    tracks = static_tracks(truth, 300)
    tracks = select_tracks(tracks, (tracks.visibility.sum(dim=0) > 1).nonzero()[:, 0])
    row, column = tracks.pixels[0].long().flip(-1).unbind(-1)
    aspect, shift = torch.tensor([1.0, 1.3]), torch.tensor([4.0, -3.0])
    tracks = FeatureTracks((tracks.pixels + shift) * aspect, tracks.visibility)
    intrinsics = truth.cameras.intrinsics * torch.tensor([[1.1, 1, 1], [1.3, 1.1 * 1.3, 1.3], [1, 1, 1]])
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 128, 96 * 1.3
    start = Cameras(truth.cameras.world_from_cam, intrinsics)
    problem = Problem(start, tracks, truth.points[0, row, column], (250, 256))
    found = adjust(problem, torch.ones(len(row), dtype=torch.bool), lens).cameras.intrinsics.float()
    assert torch.equal(found, found[:1].expand(8, 3, 3))
    torch.testing.assert_close(found[0, 1, 1] / found[0, 0, 0], torch.tensor(1.3))
    moved = found[0, :2, 2] - start.intrinsics[0, :2, 2]
    if lens == "whole":
        torch.testing.assert_close(moved, shift * aspect, atol=0.1, rtol=0)
        torch.testing.assert_close(found[0, 0, 0], truth.cameras.intrinsics[0, 0, 0], rtol=2e-3, atol=0)
    else:
        torch.testing.assert_close(moved, torch.zeros(2), atol=1e-4, rtol=0)
        assert torch.isclose(found[0, 0, 0], start.intrinsics[0, 0, 0], rtol=1e-4) == (lens == "kept")


def test_the_first_camera_and_still_points_do_not_move() -> None:
    problem, points = exact_problem()
    off = disturbed(make_scene(), degrees=1, share=0.05).cameras
    still = torch.zeros(len(points), dtype=torch.bool)
    found = adjust(replace(problem, cameras=replace(off, intrinsics=problem.cameras.intrinsics)), still)
    torch.testing.assert_close(found.points.float(), points)
    torch.testing.assert_close(found.cameras.world_from_cam[0], torch.eye(4).double())
    wanted = problem.cameras.world_from_cam.double()
    torch.testing.assert_close(found.cameras.world_from_cam, wanted, atol=1e-4, rtol=0)
    assert torch.equal(invert(found.cameras.cam_from_world)[0], found.cameras.world_from_cam[0])
