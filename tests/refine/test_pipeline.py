"""Tests of `refine_scene` and `refine_clip`: perturbed cameras are recovered, and scenes never become worse."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from perturbed_scenes import (
    DYNAMIC,
    STATIC,
    add_noise,
    feature_tracks_of_scene,
    perturb_cameras,
    rotation_errors,
    synthetic_scene,
)
from scenes import make_scene

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import invert, transform_points
from recon4d.records import Cameras, FeatureTracks, Scene
from recon4d.refine import RefineConfig, refine_clip, refine_scene
from recon4d.refine.cameras.bundle_adjustment import BundleProblem, BundleResult, FreeIntrinsics, adjust
from recon4d.refine.cameras.mapper import map_tracks
from recon4d.refine.cameras.scoring import TrackScores, score_tracks


@pytest.mark.parametrize("position", STATIC)
def test_perturbed_cameras_of_a_static_scene_are_recovered(position: int) -> None:
    truth = synthetic_scene(position)
    before = perturb_cameras(truth)
    refinement = refine_scene(before, feature_tracks_of_scene(truth, 300))
    assert refinement.is_accepted
    assert refinement.reason == ""
    assert not refinement.is_rotation_only
    assert rotation_errors(before, truth).mean() > 2
    assert rotation_errors(refinement.scene, truth).max() < 0.1
    focal = refinement.scene.cameras.intrinsics[:, 0, 0] / truth.cameras.intrinsics[:, 0, 0]
    torch.testing.assert_close(focal, torch.ones(8), atol=0.005, rtol=0)
    # The path too, in the unit of the depth, which was not perturbed.
    extent = truth.cameras.centers.norm(dim=-1).max()
    off = (refinement.scene.cameras.centers - truth.cameras.centers).norm(dim=-1).max()
    assert off < 0.03 * extent
    assert refinement.error_after < 0.1 * refinement.error_before


@pytest.mark.parametrize("position", DYNAMIC)
def test_perturbed_cameras_of_a_dynamic_scene_never_become_worse(position: int) -> None:
    truth = synthetic_scene(position)
    before = perturb_cameras(truth)
    refinement = refine_scene(before, feature_tracks_of_scene(truth, 300))
    assert not refinement.is_rotation_only
    after = refinement.scene
    assert rotation_errors(after, truth).max() <= rotation_errors(before, truth).max()
    assert rotation_errors(after, truth).mean() <= rotation_errors(before, truth).mean()
    # The 3D tracks were right in the world, and the wrong cameras of later frames have no influence on them.
    assert after.tracks is not None
    assert truth.tracks is not None
    off = (after.tracks.points - truth.tracks.points).norm(dim=-1)[truth.tracks.confidence > 0]
    assert off.median() < 0.01 * truth.depths.median()
    assert off.quantile(0.9) < 0.03 * truth.depths.median()


@pytest.mark.parametrize("position", [2, 4])
def test_noise_outliers_and_unmarked_dynamic_tracks_are_tolerated(position: int) -> None:
    truth = synthetic_scene(position)
    everything = feature_tracks_of_scene(replace(truth, dynamic=torch.zeros_like(truth.dynamic)))
    tracks = add_noise(everything, truth.size, pixels=0.15, wrong=0.03)
    before = perturb_cameras(truth)
    refinement = refine_scene(before, tracks)
    assert refinement.is_accepted
    assert rotation_errors(refinement.scene, truth).mean() < 0.35 * rotation_errors(before, truth).mean()


@pytest.mark.parametrize("position", [4, 2])
def test_the_mapper_finds_cameras_that_are_far_from_the_prediction(position: int) -> None:
    """In the prediction no camera moves, so that only the tracks contain the poses."""
    truth = synthetic_scene(position)
    static_poses = truth.cameras.world_from_cam[:1].expand_as(truth.cameras.world_from_cam)
    intrinsics = truth.cameras.intrinsics * torch.tensor([[1.3, 1, 1], [1, 1.3, 1], [1, 1, 1]])
    before = replace(truth, cameras=Cameras(static_poses, intrinsics))
    refinement = refine_scene(before, add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.1, 0.02))
    assert rotation_errors(before, truth).mean() > 5
    assert refinement.is_accepted
    assert rotation_errors(refinement.scene, truth).max() < 0.5
    focal = refinement.scene.cameras.intrinsics[:, 0, 0] / truth.cameras.intrinsics[:, 0, 0]
    torch.testing.assert_close(focal, torch.ones(8), atol=0.02, rtol=0)


@pytest.mark.end_to_end
def test_the_mapper_also_runs_with_the_predicted_intrinsics_if_its_own_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bool] = []

    def recorded(*arguments: Any) -> Cameras:
        calls.append(arguments[-1])
        return map_tracks(*arguments)

    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.map_tracks", recorded)
    frames = [0, 2, 4, 6]
    truth = replace(synthetic_scene(4), tracks=None).frames(frames)
    before, tracks = perturb_cameras(truth), feature_tracks_of_scene(synthetic_scene(4), 400).frames(frames)
    for config, sufficient_fractions, expected in (
        (RefineConfig(), (1.0, 0.9, 0.75), []),  # the predicted cameras suffice
        (RefineConfig(), (1.1, 1.1, 0.75), [False]),
        (RefineConfig(), (1.1, 1.1, 1.1), [False, True]),
        (RefineConfig(refine_intrinsics=False), (1.1, 1.1, 1.1), [True]),
    ):
        calls.clear()
        monkeypatch.setattr("recon4d.refine.cameras.model_selection.SUFFICIENT_INLIER_FRACTIONS", sufficient_fractions)
        assert refine_scene(before, tracks, config).error_after < 1
        assert calls == expected


def test_intrinsics_do_not_change_if_they_are_not_refined() -> None:
    truth = synthetic_scene(4)
    before = perturb_cameras(truth)
    given = replace(before, cameras=replace(before.cameras, intrinsics=truth.cameras.intrinsics))
    after = refine_scene(given, feature_tracks_of_scene(truth, 300), RefineConfig(refine_intrinsics=False))
    assert after.is_accepted
    torch.testing.assert_close(after.scene.cameras.intrinsics, truth.cameras.intrinsics, atol=1e-3, rtol=0)
    assert rotation_errors(after.scene, truth).max() < 0.1


def test_a_shifted_principal_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image that was cropped on two sides."""
    truth = synthetic_scene(4)
    before, tracks = perturb_cameras(truth), feature_tracks_of_scene(truth, 300)
    shift = torch.tensor([9.0, -7.0])
    shifted = FeatureTracks(tracks.pixels + shift, tracks.visibility)
    refinement = refine_scene(before, shifted)
    assert refinement.is_accepted
    found, center = (scene.cameras.intrinsics[:, :2, 2] for scene in (refinement.scene, truth))
    torch.testing.assert_close(found - center, shift.expand(8, 2), atol=0.3, rtol=0)
    assert rotation_errors(refinement.scene, truth).max() < 0.1

    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.MAX_PRINCIPAL_POINT_OFFSET", 0.03)
    assert torch.equal(refine_scene(before, shifted).scene.cameras.intrinsics[:, :2, 2], center)


def test_noise_does_not_move_the_principal_point() -> None:
    truth = synthetic_scene(11)
    tracks = add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.15, 0.02)
    after = refine_scene(perturb_cameras(truth), tracks).scene
    assert torch.equal(after.cameras.intrinsics[:, :2, 2], truth.cameras.intrinsics[:, :2, 2])


def test_pixels_of_images_are_square() -> None:
    """The aspect ratio of maps relative to the images determines the ratio of the two focal lengths."""
    frames = [0, 2, 4, 6]
    sample = WORLDS_V1["8"].sample(4)
    truth = replace(sample.scene, tracks=None).resized(96, 112).frames(frames)
    before = perturb_cameras(truth, degrees=1, share=0.02)
    wrong = before.cameras.intrinsics * torch.tensor([[1.06, 1, 1], [1, 1, 1], [1, 1, 1]])
    before = replace(before, cameras=replace(before.cameras, intrinsics=wrong))
    tracks = feature_tracks_of_scene(sample.scene, 3000).frames(frames)
    matches = FeatureTracks(tracks.pixels * torch.tensor([112 / 256, 96 / 192]), tracks.visibility)
    refinement = refine_clip(sample.clip.frames(frames), before, matches)
    assert refinement.is_accepted
    found = refinement.scene.cameras.intrinsics
    torch.testing.assert_close(found[:, 0, 0] / found[:, 1, 1], torch.full((4,), (112 / 256) / (96 / 192)))
    torch.testing.assert_close(found, truth.cameras.intrinsics, rtol=0.02, atol=1e-3)
    assert rotation_errors(refinement.scene, truth).max() < 0.2


def test_a_scene_stays_unchanged_if_no_cameras_explain_its_tracks() -> None:
    """The noise of the tracks is a hundred times that of corners."""
    truth = synthetic_scene(4)
    before = perturb_cameras(truth)
    tracks = add_noise(feature_tracks_of_scene(truth, 1600), truth.size, 1.2, 0.0)
    refinement = refine_scene(before, tracks, RefineConfig(min_tracks=10))
    assert not refinement.is_accepted
    assert refinement.scene is before
    assert refinement.reason


@pytest.mark.parametrize(("wrong", "is_accepted"), [(0.4, True), (0.85, False)])
def test_cameras_that_explain_few_of_all_corners_are_rejected(wrong: float, is_accepted: bool) -> None:
    """Wrong tracks contradict every static scene; the few that are left could agree by chance."""
    truth = synthetic_scene(4)
    tracks = add_noise(feature_tracks_of_scene(truth, 1200), truth.size, 0.1, 0.0)
    anywhere = torch.rand(tracks.pixels.shape, generator=torch.Generator().manual_seed(1))
    pixels = tracks.pixels.clone()
    num_wrong = round(wrong * pixels.shape[1])
    pixels[:, :num_wrong] = (anywhere * torch.tensor([truth.size[1], truth.size[0]]))[:, :num_wrong]
    tracks = replace(tracks, pixels=pixels)
    refinement = refine_scene(perturb_cameras(truth), tracks)
    assert refinement.static_fraction == pytest.approx(1 - wrong, abs=0.15)
    assert refinement.inlier_fraction > 0.6
    assert refinement.is_accepted is is_accepted
    assert is_accepted or "of all corners" in refinement.reason


def test_noisy_tracks_still_improve_the_cameras_and_the_trust_is_told() -> None:
    truth = synthetic_scene(4)
    before = perturb_cameras(truth)
    refinement = refine_scene(before, add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.4, 0.0))
    assert refinement.is_accepted
    assert 0.3 <= refinement.inlier_fraction < 0.75
    assert rotation_errors(refinement.scene, truth).max() < 0.3 * rotation_errors(before, truth).max()
    assert f"explain {refinement.inlier_fraction:.0%}" in str(refinement)
    assert refinement.summary.inlier_fraction == refinement.inlier_fraction


@pytest.mark.end_to_end
def test_of_two_rigid_motions_the_one_is_taken_that_the_prediction_fits() -> None:
    """More than half of the tracks are on a rigidly moving object; the predicted cameras are nearly right."""
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 2000)
    other = synthetic_scene(11)
    other_tracks = feature_tracks_of_scene(other, 4000)
    both = FeatureTracks(
        torch.cat([tracks.pixels[:, :700], other_tracks.pixels[:, :1000]], dim=1),
        torch.cat([tracks.visibility[:, :700], other_tracks.visibility[:, :1000]], dim=1),
    )
    after = refine_scene(perturb_cameras(truth, degrees=0.3, share=0.01), both).scene
    assert rotation_errors(after, truth).mean() < 0.2
    # The same tracks with cameras near the other motion.
    predicted = replace(truth, cameras=perturb_cameras(other, degrees=0.3, share=0.01).cameras)
    assert rotation_errors(refine_scene(predicted, both).scene, other).mean() < 1


@pytest.mark.parametrize("lost", [5, 0])
def test_a_camera_without_tracks_keeps_its_predicted_pose_relative_to_its_neighbor(lost: int) -> None:
    truth = synthetic_scene(4)
    before = perturb_cameras(truth, degrees=1, share=0.02)
    tracks = feature_tracks_of_scene(truth, 300)
    visibility = tracks.visibility.clone()
    visibility[lost] = 0
    after = refine_scene(before, FeatureTracks(tracks.pixels, visibility))
    assert after.is_accepted
    others = [frame for frame in range(8) if frame != lost]
    assert rotation_errors(after.scene.frames(others), truth.frames(others)).max() < 0.1

    neighbor = 4 if lost else 1
    relative, predicted = (
        invert(scene.cameras.world_from_cam[neighbor].double()) @ scene.cameras.world_from_cam[lost].double()
        for scene in (after.scene, before)
    )
    torch.testing.assert_close(relative, predicted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.scene.cameras.world_from_cam[0], before.cameras.world_from_cam[0])


def test_frames_without_tracks_are_told_as_unknown() -> None:
    truth = synthetic_scene(4)
    before, tracks = perturb_cameras(truth, degrees=1, share=0.02), feature_tracks_of_scene(truth, 300)
    visibility = tracks.visibility.clone()
    visibility[[3, 5]] = 0
    refinement = refine_scene(before, FeatureTracks(tracks.pixels, visibility))
    assert refinement.is_accepted
    assert refinement.unknown_frames == (3, 5)
    assert "frames 3, 5 are unknown" in str(refinement)
    assert not refinement.scene.depth_confidence[[3, 5]].any()
    assert refinement.scene.depth_confidence[4].any()
    visibility[4:] = 0
    too_few = refine_scene(before, FeatureTracks(tracks.pixels, visibility))
    assert not too_few.is_accepted
    assert "only 3 of 8 frames" in too_few.reason


def test_depth_is_aligned_to_triangulated_points() -> None:
    truth = synthetic_scene(4)
    height, width = truth.size
    across = torch.linspace(-0.4, 0.4, width).exp() * torch.linspace(0.8, 1.2, height)[:, None]
    before = replace(perturb_cameras(truth), depths=truth.depths**0.7 * across)
    refinement = refine_scene(before, feature_tracks_of_scene(truth, 300))

    def error(scene: Scene) -> float:
        is_known = truth.depth_confidence > 0
        ratio = (scene.depths[is_known] / truth.depths[is_known]).log()
        return float((ratio - ratio.median()).abs().mean())

    assert error(before) > 0.15
    assert error(refinement.scene) < 0.35 * error(before)
    assert refinement.depth_error_after < 0.3 * refinement.depth_error_before
    assert "depth" in str(refinement)
    scene = refinement.scene
    torch.testing.assert_close(scene.points, scene.points_from_depth)


def test_exact_tracks_decide_against_a_wrong_order_of_depth() -> None:
    """With strong perspective, the likelihood distinguishes a scene from its mirror image."""
    truth = synthetic_scene(4)
    inverted = replace(perturb_cameras(truth), depths=truth.depths.median() ** 2 / truth.depths)
    refinement = refine_scene(inverted, feature_tracks_of_scene(truth, 400))
    assert refinement.is_accepted
    assert rotation_errors(refinement.scene, truth).max() < 0.2


@pytest.mark.end_to_end
def test_corners_are_tracked_again_from_the_refined_scene_if_few_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matches cover only the left part of the images; the rest is found with the first refined scene."""
    frames = [0, 1, 2, 3]
    sample = WORLDS_V1["8"].sample(11)
    tracks = feature_tracks_of_scene(sample.scene, 3000).frames(frames)
    truth = replace(sample.scene, tracks=None).resized(96, 128)
    before = perturb_cameras(truth, degrees=1, share=0.02).frames(frames)
    matches = FeatureTracks(0.5 * tracks.pixels, tracks.visibility * (tracks.pixels[..., 0] < 90))
    refinements = []
    for sufficient_coverage in (0.0, 2.0):
        monkeypatch.setattr("recon4d.refine.pipeline.SUFFICIENT_COVERAGE", sufficient_coverage)
        refinements.append(refine_clip(sample.clip.frames(frames), before, matches))
    once, twice = refinements
    assert once.is_accepted
    assert twice.is_accepted
    assert twice.error_before == once.error_before
    assert twice.num_tracks > 1.5 * once.num_tracks
    assert rotation_errors(twice.scene, truth.frames(frames)).max() < 0.2


def test_good_cameras_stay_good() -> None:
    truth = synthetic_scene(4)
    after = refine_scene(truth, add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.15, 0.0)).scene
    assert rotation_errors(after, truth).max() < 0.3


def test_a_static_camera_keeps_its_focal_length_and_position() -> None:
    """Its tracks determine neither of them."""
    truth = synthetic_scene(5)
    assert truth.cameras.centers.norm(dim=-1).max() < 1e-3
    before = perturb_cameras(truth)
    after = refine_scene(before, add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.15, 0.03)).scene
    torch.testing.assert_close(after.cameras.intrinsics[:, 0, 0], before.cameras.intrinsics[:, 0, 0])
    assert rotation_errors(after, truth).mean() < 0.3
    assert after.cameras.centers.norm(dim=-1).max() < 1e-6


@pytest.mark.parametrize("seem_likelier", [False, True])
def test_cameras_that_are_worse_on_held_out_tracks_are_rejected(
    seem_likelier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 300)

    def adjust_badly(
        problem: BundleProblem, is_free: torch.Tensor, intrinsics: FreeIntrinsics | None = None
    ) -> BundleResult:
        good = adjust(problem, is_free, intrinsics or FreeIntrinsics())
        return replace(good, cameras=perturb_cameras(truth, degrees=0.3).cameras.to(dtype=torch.float64))

    calls: list[int] = []

    def likelier_each_time(*arguments: Any) -> TrackScores:
        calls.append(1)
        scores = score_tracks(*arguments)
        return replace(scores, costs=scores.costs * 0 - len(calls) // 2) if len(scores.costs) > 200 else scores

    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.adjust", adjust_badly)
    if seem_likelier:
        monkeypatch.setattr("recon4d.refine.cameras.model_selection.score_tracks", likelier_each_time)
    refinement = refine_scene(truth, tracks, RefineConfig())
    assert bool(calls) == seem_likelier
    assert not refinement.is_accepted
    assert refinement.scene is truth
    assert "held-out" in refinement.reason
    assert "as predicted" in str(refinement)
    assert refinement.error_before < 0.05


def test_the_result_is_deterministic() -> None:
    truth = synthetic_scene(11)
    tracks = add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.15, 0.02)
    first, second = (refine_scene(perturb_cameras(truth), tracks).scene.cameras for _ in range(2))
    assert torch.equal(first.world_from_cam, second.world_from_cam)
    assert torch.equal(first.intrinsics, second.intrinsics)


def test_with_other_cameras_everything_stays_at_its_pixels() -> None:
    scene = make_scene(anchors=(0, 2))
    other = perturb_cameras(scene, degrees=5, share=0.2).cameras
    moved = scene.with_cameras(other)
    torch.testing.assert_close(moved.points, moved.points_from_depth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.track_pixels, scene.track_pixels, atol=2e-3, rtol=0)
    again = moved.with_cameras(scene.cameras)
    torch.testing.assert_close(again.points, scene.points, atol=1e-5, rtol=1e-5)
    assert again.tracks is not None
    assert scene.tracks is not None
    torch.testing.assert_close(again.tracks.points, scene.tracks.points, atol=1e-5, rtol=1e-5)


def test_points_behind_a_camera_move_with_it() -> None:
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
    other = perturb_cameras(scene).cameras
    moved = replace(scene, tracks=tracks).with_cameras(other).tracks
    assert moved is not None
    in_camera = transform_points(other.cam_from_world, moved.points[0])
    torch.testing.assert_close(in_camera, torch.tensor([0.3, -0.2, -1.0]).expand(3, 1, 3), atol=1e-5, rtol=0)
