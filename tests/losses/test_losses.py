"""Losses of cameras, depth, points and motion: values by hand, gradients, and unknown ground truth."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.losses import (
    Term,
    center_term,
    depth_gradient_term,
    depths_at_anchors,
    dynamic_term,
    field_of_view_term,
    is_known_off_anchor,
    log_depth_term,
    masked_term,
    mean,
    merge_terms,
    motion_term,
    normalized,
    point_term,
    principal_point_term,
    relative_translation_term,
    rotation_term,
    sample_at_pixels,
    sample_tracks,
    scene_scale,
    track_confidence_term,
    tracking_point_term,
    visibility_term,
)
from recon4d.losses.errors import confidence_weighted_error, smooth_length
from recon4d.records import Cameras, Scene, Tracks

SIZE = (HEIGHT, WIDTH)
UNKNOWN = (math.nan, math.inf, -math.inf)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_points(scene: Scene, points: torch.Tensor, confidence: torch.Tensor | None = None) -> Scene:
    confidence = scene.point_confidence if confidence is None else confidence
    return replace(scene, points=points, point_confidence=confidence)


class TestTerms:
    def test_a_mean_over_ranks_is_total_over_count(self) -> None:
        first = masked_term(tensor(1, 2, 3), torch.tensor([True, True, False]))
        second = masked_term(tensor(7), torch.tensor([True]))
        assert (first.total, first.count) == (3, 2)
        assert mean(merge_terms(first, second)).item() == pytest.approx(10 / 3)

    def test_weights_scale_total_and_count(self) -> None:
        term = masked_term(tensor(1, 5), tensor(3, 0.5))
        assert (term.total, term.count) == (5.5, 3.5)
        assert mean(masked_term(tensor(4), tensor(0.5))) == 4

    def test_negative_and_unknown_weights_count_as_zero(self) -> None:
        term = masked_term(tensor(1, 5, 7), tensor(2, -1, math.nan))
        assert (term.total, term.count) == (2, 2)

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_invalid_values_may_be_anything(self, unknown: float) -> None:
        values = tensor(2, unknown).requires_grad_()
        term = masked_term(values, torch.tensor([True, False]))
        mean(term).backward()
        assert term.total == 2
        assert values.grad is not None
        assert values.grad.tolist() == [1, 0]

    def test_no_valid_entries_give_zero_with_zero_gradient(self) -> None:
        values = tensor(2, math.nan).requires_grad_()
        average = mean(masked_term(values, torch.tensor([False, False])))
        average.backward()
        assert average == 0
        assert values.grad is not None
        assert values.grad.tolist() == [0, 0]

    def test_half_types_are_summed_in_single_precision(self) -> None:
        term = masked_term(torch.ones(5000, dtype=torch.bfloat16), torch.ones(5000, dtype=torch.bool))
        assert term.total == 5000
        assert term.total.dtype == torch.float32

    def test_counts_have_no_gradient(self) -> None:
        weights = tensor(1, 2).requires_grad_()
        assert not masked_term(tensor(1, 1), weights).count.requires_grad

    def test_a_term_is_two_scalars(self) -> None:
        assert Term(torch.tensor(1.0), torch.tensor(2.0)).count == 2


class TestErrors:
    def test_smooth_length_is_quadratic_near_zero_and_a_length_far_from_it(self) -> None:
        assert smooth_length(tensor(3, 4), 0.1) == pytest.approx(math.sqrt(25.01) - 0.1)
        assert smooth_length(tensor(1e-6, 0), 1e-2) == pytest.approx(1e-12 / 2e-2)
        zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        smooth_length(zero, 1e-3).backward()
        assert zero.grad is not None
        assert zero.grad.tolist() == [0, 0, 0]

    def test_confidence_scales_the_error_and_is_rewarded(self) -> None:
        assert confidence_weighted_error(tensor(0.5), tensor(3)) == pytest.approx(0.5 + 1.5 - 0.1 * math.log(3))

    def test_the_optimal_confidence_is_a_tenth_divided_by_the_error(self) -> None:
        confidence = torch.linspace(1, 100, 99001, dtype=torch.float64)
        best = confidence_weighted_error(torch.full_like(confidence, 0.004), confidence).argmin()
        assert confidence[best].item() == pytest.approx(25, abs=1e-3)

    def test_confidence_is_bounded(self) -> None:
        huge = tensor(1e8).requires_grad_()
        loss = confidence_weighted_error(tensor(1), huge)
        loss.sum().backward()
        assert loss.item() == pytest.approx(3001 - 0.1 * math.log(3000))
        assert huge.grad == 0


class TestNormalization:
    def test_the_unit_is_the_mean_distance_from_the_first_camera(self) -> None:
        scene = make_scene()
        distances = (scene.points - scene.cameras.centers[0]).norm(dim=-1)
        assert_close(scene_scale(scene), distances.mean())

    def test_the_scale_uses_known_points_only(self) -> None:
        scene = make_scene()
        points, confidence = scene.points.clone(), torch.zeros_like(scene.depths)
        points[...] = math.nan
        points[0, 0, 0], confidence[0, 0, 0] = torch.tensor([3.0, 0.0, 4.0]), 1
        points[1, 0, 0], confidence[1, 0, 0] = torch.tensor([0.0, 0.0, 1.0]), 1
        points[1, 0, 1], confidence[1, 0, 1] = torch.tensor([math.inf, 0.0, 1.0]), 1
        assert scene_scale(with_points(scene, points, confidence)) == 3

    def test_far_points_are_capped_at_ten_medians(self) -> None:
        scene = make_scene(frames=1)
        points = torch.tensor([0.0, 0.0, 2.0]).repeat(1, HEIGHT, WIDTH, 1)
        points[0, 0, 0, 2] = 1e6
        pixels = HEIGHT * WIDTH
        assert scene_scale(with_points(scene, points)).item() == pytest.approx(((pixels - 1) * 2 + 20) / pixels)

    def test_the_median_is_over_known_points(self) -> None:
        scene = make_scene(frames=1)
        points = torch.tensor([0.0, 0.0, 1e-3]).repeat(1, HEIGHT, WIDTH, 1)
        confidence = torch.zeros(1, HEIGHT, WIDTH)
        for column, z in enumerate((1.0, 2.0, 3.0, 100.0)):
            points[0, 0, column, 2], confidence[0, 0, column] = z, 1
        # Lower median 2, so the last counts as 20.
        assert scene_scale(with_points(scene, points, confidence)).item() == pytest.approx(26 / 4)

    def test_the_scale_does_not_depend_on_the_world_frame(self) -> None:
        scene = make_scene()
        elsewhere = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, 0.2, 0.9])), torch.tensor([5.0, -3.0, 2.0]))
        assert_close(scene_scale(scene.transformed(elsewhere)), scene_scale(scene))

    def test_without_points_the_scale_comes_from_cameras(self) -> None:
        scene = make_scene(frames=3)
        scene = with_points(scene, scene.points * math.nan, torch.zeros_like(scene.depths))
        distances = scene.cameras.centers.norm(dim=-1)
        assert_close(scene_scale(scene), distances[1:].mean())
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[2] = math.nan
        scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
        assert_close(scene_scale(scene), distances[1])

    @pytest.mark.parametrize("frames", [1, 3])
    def test_without_any_length_the_scale_is_one(self, frames: int) -> None:
        scene = make_scene(frames=frames)
        cameras = replace(scene.cameras, world_from_cam=torch.eye(4).repeat(frames, 1, 1))
        scene = replace(with_points(scene, scene.points, torch.zeros_like(scene.depths)), cameras=cameras)
        assert scene_scale(scene) == 1
        assert scene_scale(with_points(scene, 0 * scene.points, torch.ones_like(scene.depths))) == 1

    def test_normalized_truth_has_unit_scale_in_the_first_camera(self) -> None:
        to_unit = g.similarity(
            torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.1, 1.0, 0.2])), torch.ones(3)
        )
        scene = make_scene(metres_per_unit=2.0)
        unit = normalized(scene.transformed(to_unit))
        scale = scene_scale(scene)
        assert_close(scene_scale(unit), torch.tensor(1.0))
        assert torch.equal(unit.cameras.world_from_cam[0], torch.eye(4))
        assert_close(unit.depths * scale, scene.depths)
        assert_close(unit.points * scale, scene.points, atol=1e-5, rtol=1e-5)
        assert_close(unit.cameras.centers * scale, scene.cameras.centers, atol=1e-5, rtol=1e-5)
        assert_close(unit.metres_per_unit, 2 * scale)
        assert unit.tracks is not None
        assert scene.tracks is not None
        assert_close(unit.tracks.points * scale, scene.tracks.points, atol=1e-5, rtol=1e-5)
        assert_close(unit.points_from_depth, unit.points, atol=1e-5, rtol=1e-5)

    def test_batches_are_normalized_one_by_one(self) -> None:
        near, far = (
            make_scene(),
            make_scene(seed=1).transformed(g.similarity(torch.tensor(7.0), torch.eye(3), torch.ones(3))),
        )
        both = normalized(Scene.stack([near, far]))
        for given, alone in zip((both[0], both[1]), (near, far), strict=True):
            assert_close(given.points, normalized(alone).points)

    def test_an_unknown_first_camera_keeps_the_world_frame(self) -> None:
        scene = make_scene()
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[0] = math.nan
        unit = normalized(replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam)))
        assert_close(unit.points * scene_scale(scene), scene.points)
        assert unit.cameras.world_from_cam[0].isnan().any()
        assert unit.cameras.world_from_cam[1:].isfinite().all()

    def test_unknown_points_go_to_the_origin(self) -> None:
        scene = make_scene()
        confidence = scene.point_confidence.clone()
        confidence[0, 0, 0] = 0
        points = scene.points.clone()
        points[0, 0, 0] = math.nan
        assert normalized(with_points(scene, points, confidence)).points[0, 0, 0].tolist() == [0, 0, 0]


def make_cameras(axis_angles: torch.Tensor, centers: torch.Tensor, focal: float = 20.0) -> Cameras:
    intrinsics = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], dtype=axis_angles.dtype)
    rotation = g.rotation_from_axis_angle(axis_angles)
    return Cameras(g.rigid(rotation, centers), intrinsics.expand(*axis_angles.shape[:-1], 3, 3))


def random_cameras(frames: int = 4, seed: int = 0, turn: float = 0.5) -> Cameras:
    return make_cameras(turn * noise(2, frames, 3, seed=seed), noise(2, frames, 3, seed=seed + 100))


POSE_TERMS = (rotation_term, relative_translation_term, center_term)


class TestCameras:
    def test_equal_cameras_have_no_loss(self) -> None:
        truth = random_cameras()
        for term in POSE_TERMS:
            assert mean(term(truth, truth)).item() == pytest.approx(0, abs=1e-7)
        assert mean(field_of_view_term(truth, truth, SIZE)) == 0
        assert mean(principal_point_term(truth, truth, SIZE)) == 0

    @pytest.mark.parametrize("angle", [0.05, 1.0, 3.0])
    def test_rotation_is_the_angle_between_relative_rotations(self, angle: float) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        turned = torch.stack([tensor(0, 0, 0), angle * tensor(0.6, 0, 0.8)])
        term = rotation_term(make_cameras(turned, static), make_cameras(static, static))
        assert term.count == 2
        assert mean(term).item() == pytest.approx(angle, abs=1.1e-3)

    def test_rotation_agrees_with_the_exact_angle_over_all_pairs(self) -> None:
        given, truth = random_cameras(), random_cameras(seed=1)
        angles = [
            g.rotation_angle((given.world_from_cam[b, i, :3, :3].T @ given.world_from_cam[b, j, :3, :3]).T
                             @ truth.world_from_cam[b, i, :3, :3].T @ truth.world_from_cam[b, j, :3, :3])
            for b in range(2) for i in range(4) for j in range(4) if i != j
        ]  # fmt: skip
        term = rotation_term(given, truth)
        assert term.count == 24
        assert mean(term).item() == pytest.approx(torch.stack(angles).mean().item(), abs=1.1e-3)

    def test_small_rotations_have_a_quadratic_loss(self) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        turned = torch.stack([tensor(0, 0, 0), tensor(0, 1e-4, 0)])
        term = rotation_term(make_cameras(turned, static), make_cameras(static, static))
        assert mean(term).item() == pytest.approx(math.hypot(1e-4, 1e-3) - 1e-3, rel=1e-3)

    def test_rotations_by_180_degrees_have_a_finite_gradient(self) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        for angle in (0.0, math.pi):
            given = make_cameras(torch.stack([tensor(0, 0, 0), tensor(0, 0, angle)]), static)
            matrices = given.world_from_cam.clone().requires_grad_()
            term = rotation_term(replace(given, world_from_cam=matrices), make_cameras(static, static))
            assert mean(term).item() == pytest.approx(angle, abs=1e-6)
            mean(term).backward()
            assert matrices.grad is not None
            assert matrices.grad.isfinite().all()

    def test_relative_errors_do_not_depend_on_the_world_frame(self) -> None:
        given, truth = random_cameras(), random_cameras(seed=1)
        elsewhere = g.rigid(g.rotation_from_axis_angle(noise(2, 3, seed=5)), noise(2, 3, seed=6))
        for term in (rotation_term, relative_translation_term):
            assert_close(
                mean(term(given.transformed(elsewhere), truth)), mean(term(given, truth)), atol=1e-7, rtol=1e-7
            )
        assert mean(center_term(given.transformed(elsewhere), truth)) != mean(center_term(given, truth))

    def test_translation_errors_are_relative_to_a_bounded_length(self) -> None:
        static = torch.zeros(3, 3, dtype=torch.float64)
        truth = make_cameras(static, torch.stack([tensor(0, 0, 0), tensor(0.1, 0, 0), tensor(2.1, 0, 0)]))
        given = make_cameras(static, torch.stack([tensor(0, 0, 0), tensor(0.1, 0.2, 0), tensor(2.1, 0, 0)]))
        # Pairs (0, 1), (0, 2), (1, 2); the first is shorter than .15 times the longest.
        wanted = (0.2 / (0.15 * 2.1 + 0.03) + 0 + 0.2 / (2 + 0.03)) / 3
        term = relative_translation_term(given, truth)
        assert term.count == 6
        assert mean(term).item() == pytest.approx(wanted, abs=1e-3)

    def test_translation_is_in_the_axes_of_the_camera(self) -> None:
        centers = torch.stack([tensor(0, 0, 0), tensor(1, 0, 0)])
        turned = torch.stack([tensor(0, 0, math.pi), tensor(0, 0, math.pi)])
        term = relative_translation_term(make_cameras(turned, centers), make_cameras(0 * turned, centers))
        assert mean(term).item() == pytest.approx(2 / 1.03, abs=1e-3)

    def test_translation_errors_are_bounded(self) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        far = make_cameras(static, torch.stack([tensor(0, 0, 0), tensor(1e4, 0, 0)]))
        assert mean(relative_translation_term(far, make_cameras(static, static))) == 4

    def test_the_longest_translation_is_over_known_pairs_of_the_clip(self) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        truth = make_cameras(static, torch.stack([tensor(5, 0, 0), tensor(5.1, 0, 0)]))
        given = make_cameras(static, torch.stack([tensor(5, 0, 0), tensor(5.1, 0.05, 0)]))
        wanted = relative_translation_term(given, truth).total
        third = truth.frames([0, 1, 1])
        world_from_cam = third.world_from_cam.clone()
        world_from_cam[2] = math.nan
        unknown = replace(third, world_from_cam=world_from_cam)
        assert_close(relative_translation_term(given.frames([0, 1, 1]), unknown).total, wanted)
        long = make_cameras(static, torch.stack([tensor(0, 0, 0), tensor(50, 0, 0)]))
        beside = relative_translation_term(Cameras.stack([given, long]), Cameras.stack([truth, long]))
        assert_close(beside.total, wanted)

    def test_center_loss_is_smooth_l1(self) -> None:
        static = torch.zeros(2, 3, dtype=torch.float64)
        given = make_cameras(static, torch.stack([tensor(0.01, 0, 0), tensor(0, -0.5, 0)]))
        wanted = (0.5 * 0.01**2 / 0.02 + (0.5 - 0.01)) / 6
        assert mean(center_term(given, make_cameras(static, static))).item() == pytest.approx(wanted)

    def test_field_of_view_is_in_radians(self) -> None:
        static = torch.zeros(1, 3, dtype=torch.float64)
        given, truth = make_cameras(static, static, focal=20), make_cameras(static, static, focal=10)
        wanted = sum(2 * math.atan(side / 20) - 2 * math.atan(side / 40) for side in SIZE) / 2
        assert mean(field_of_view_term(given, truth, SIZE)).item() == pytest.approx(wanted)

    def test_principal_point_loss_is_relative_to_the_image_size(self) -> None:
        truth = random_cameras()
        given = truth.padded(WIDTH / 4, HEIGHT / 2)
        assert mean(principal_point_term(given, truth, SIZE)).item() == pytest.approx((0.25 + 0.5) / 2)

    def test_frames_without_true_cameras_are_left_out(self) -> None:
        given, truth = random_cameras(), random_cameras(seed=1)
        known = [0, 1, 3]
        world_from_cam, intrinsics = truth.world_from_cam.clone(), truth.intrinsics.clone()
        world_from_cam[:, 2, 0, 3], intrinsics[:, 2, 0, 0] = math.nan, math.nan
        partly = Cameras(world_from_cam, intrinsics)
        matrices = given.world_from_cam.clone()
        matrices[:, 2] = math.nan
        broken = Cameras(matrices.requires_grad_(), given.intrinsics)
        for term in POSE_TERMS:
            left_out, without = term(broken, partly), term(given.frames(known), truth.frames(known))
            assert left_out.count == without.count
            assert_close(left_out.total, without.total)
            matrices.grad = None
            left_out.total.backward()
            assert matrices.grad is not None
            assert matrices.grad.isfinite().all()
        for term in (field_of_view_term, principal_point_term):
            assert term(given, partly, SIZE).count == 6
            assert term(given, partly, SIZE).total.isfinite()

    def test_without_true_cameras_the_loss_is_zero_with_zero_gradient(self) -> None:
        given = random_cameras()
        matrices = given.world_from_cam.clone().requires_grad_()
        nothing = given.map(lambda values: torch.full_like(values, torch.nan))
        for term in POSE_TERMS:
            value = mean(term(replace(given, world_from_cam=matrices), nothing))
            value.backward()
            assert value == 0
        assert matrices.grad is not None
        assert matrices.grad.abs().max() == 0

    def test_gradients(self) -> None:
        truth = random_cameras(seed=1)

        def loss(axis_angles: torch.Tensor, centers: torch.Tensor, focal: torch.Tensor) -> torch.Tensor:
            given = make_cameras(axis_angles, centers)
            given = replace(given, intrinsics=given.intrinsics * torch.stack([focal, focal, focal / focal])[:, None])
            terms = [term(given, truth) for term in POSE_TERMS] + [field_of_view_term(given, truth, SIZE)]
            return torch.stack([mean(term) for term in terms])

        inputs = (0.5 * noise(2, 4, 3), noise(2, 4, 3, seed=9), torch.tensor(1.3, dtype=torch.float64))
        assert torch.autograd.gradcheck(loss, tuple(value.requires_grad_() for value in inputs))

    def test_autocast_has_no_effect(self) -> None:
        given, truth = random_cameras().to(dtype=torch.float32), random_cameras(seed=1).to(dtype=torch.float32)
        for term in POSE_TERMS:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                inside = mean(term(given, truth))
            assert_close(inside, mean(term(given, truth)))


def all_valid(maps: torch.Tensor) -> torch.Tensor:
    return torch.ones(maps.shape, dtype=torch.bool)


class TestDepth:
    def test_log_depth_is_the_error_of_the_logarithm(self) -> None:
        depths, truth = tensor(2, 1).view(1, 1, 2), tensor(1, 1).view(1, 1, 2)
        term = log_depth_term(depths, torch.full_like(depths, 3), truth, all_valid(depths))
        assert term.count == 2
        assert mean(term).item() == pytest.approx(4 * math.log(2) / 2 - 0.1 * math.log(3))

    def test_small_true_depths_are_clamped(self) -> None:
        depths = tensor(0.02).view(1, 1, 1)
        value = mean(log_depth_term(depths, torch.ones_like(depths), torch.full_like(depths, 1e-5), all_valid(depths)))
        assert value == 0

    def test_a_depth_rounded_to_zero_is_finite(self) -> None:
        depths = torch.zeros(1, 1, 1, dtype=torch.float16)
        value = mean(log_depth_term(depths, torch.ones_like(depths), torch.ones(1, 1, 1), all_valid(depths)))
        assert value.item() == pytest.approx(-2 * math.log(1e-9), rel=1e-5)

    def test_depth_gradients_ignore_scale(self) -> None:
        truth = 1 + noise(2, 9, 10).abs()
        assert mean(depth_gradient_term(3 * truth, truth, all_valid(truth))).item() == pytest.approx(0, abs=1e-12)
        assert mean(depth_gradient_term(truth + 0.1, truth, all_valid(truth))) > 0

    def test_depth_gradients_of_a_ramp_grow_with_the_stride(self) -> None:
        ramp = torch.exp(0.01 * torch.arange(9, dtype=torch.float64)).expand(1, 9, 9)
        # Along x a difference is .01, .02, .04; along y there is none. Weights: pairs times the stride squared.
        pairs = {1: 9 * 8, 2: 5 * 4 * 4, 4: 3 * 2 * 16}
        wanted = 6 * sum(0.01 * k * n for k, n in pairs.items()) / (2 * sum(pairs.values()))
        value = depth_gradient_term(ramp, torch.ones_like(ramp), all_valid(ramp))
        assert value.count == 2 * sum(pairs.values())
        assert mean(value).item() == pytest.approx(wanted)
        along_y = depth_gradient_term(ramp.transpose(-1, -2), torch.ones_like(ramp), all_valid(ramp))
        assert mean(along_y).item() == pytest.approx(wanted)

    def test_an_edge_costs_at_most_one(self) -> None:
        depths = tensor(1, 1e6).view(1, 1, 2)
        assert mean(depth_gradient_term(depths, torch.ones_like(depths), all_valid(depths))) == 6

    def test_both_neighbors_must_be_valid(self) -> None:
        depths = tensor(1, 2, math.nan, 4, 5).view(1, 1, 5)
        valid = torch.tensor([True, True, False, True, True]).view(1, 1, 5)
        # Stride 1: pairs (0, 1) and (3, 4); stride 2: none; stride 4: (0, 4), clamped.
        value = depth_gradient_term(depths, torch.ones_like(depths), valid)
        assert value.count == 2 + 16
        assert value.total.item() == pytest.approx(6 * (math.log(2) + math.log(5 / 4) + 16))

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_depths_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        truth, valid = 1 + noise(1, 6, 7).abs(), noise(1, 6, 7, seed=1) > 0
        given = 1 + noise(1, 6, 7, seed=2).abs()
        confidence = 1 + noise(1, 6, 7, seed=3).abs()

        def losses(fill: float) -> tuple[torch.Tensor, torch.Tensor]:
            depths = torch.where(valid, given, fill).requires_grad_()
            confidences = torch.where(valid, confidence, fill).requires_grad_()
            wanted = torch.where(valid, truth, fill)
            terms = log_depth_term(depths, confidences, wanted, valid), depth_gradient_term(depths, wanted, valid)
            loss = mean(terms[0]) + mean(terms[1])
            loss.backward()
            assert depths.grad is not None
            assert depths.grad[~valid].abs().max() == 0
            return loss, depths.grad

        assert_close(losses(unknown), losses(1.5))

    def test_no_valid_entries_give_zero_with_zero_gradient(self) -> None:
        depths = torch.full((1, 6, 6), math.nan, requires_grad=True)
        none = torch.zeros(1, 6, 6, dtype=torch.bool)
        loss = mean(log_depth_term(depths, depths, depths.detach(), none))
        loss = loss + mean(depth_gradient_term(depths, depths.detach(), none))
        loss.backward()
        assert loss == 0
        assert depths.grad is not None
        assert depths.grad.abs().max() == 0

    def test_gradients_equal_finite_differences(self) -> None:
        truth, valid = 1 + noise(1, 5, 6).abs(), noise(1, 5, 6, seed=1) > -1
        inputs = (1 + noise(1, 5, 6, seed=2).abs(), 1 + noise(1, 5, 6, seed=3).abs())
        assert torch.autograd.gradcheck(
            lambda d, c: mean(log_depth_term(d, c, truth, valid)) + mean(depth_gradient_term(d, truth, valid)),
            tuple(value.requires_grad_() for value in inputs),
        )


class TestPoints:
    def test_point_errors_are_relative_to_depth(self) -> None:
        points, truth = tensor(3, 4, 2).view(1, 3), tensor(0, 0, 2).view(1, 3)
        value = mean(point_term(points, tensor(2), truth, tensor(2), torch.tensor([True])))
        assert value.item() == pytest.approx(3 * 2.5 - 0.1 * math.log(2), abs=1e-3)

    def test_depth_that_divides_errors_is_bounded(self) -> None:
        value = mean(
            point_term(tensor(0.3, 0, 0)[None], tensor(1), tensor(0, 0, 0)[None], tensor(1e-3), torch.tensor([True]))
        )
        assert value.item() == pytest.approx(2 * 0.3 / 0.15, abs=2e-3)

    def test_equal_points_have_no_loss(self) -> None:
        scene = make_scene()
        valid = all_valid(scene.depths)
        truth = point_term(scene.points, scene.point_confidence, scene.points, scene.depths, valid)
        assert mean(truth) == 0
        assert truth.count == scene.depths.numel()

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_points_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        valid = torch.tensor([True, False])
        points = torch.stack([tensor(1, 2, 3), tensor(unknown, 1, 1)]).requires_grad_()
        fill = tensor(2, unknown)
        term = point_term(points, fill, points.detach() + 1, fill, valid)
        mean(term).backward()
        assert term.count == 1
        assert points.grad is not None
        assert points.grad.isfinite().all()
        assert points.grad[1].tolist() == [0, 0, 0]

    def test_gradients(self) -> None:
        truth, depths, valid = noise(2, 3, 3), 0.1 + noise(2, 3).abs(), noise(2, 3, seed=4) > -0.5
        inputs = (noise(2, 3, 3, seed=1).requires_grad_(), (1 + noise(2, 3, seed=2).abs()).requires_grad_())
        assert torch.autograd.gradcheck(lambda p, c: mean(point_term(p, c, truth, depths, valid)), inputs)

    def test_tracking_compares_positions_at_every_time(self) -> None:
        scene = make_scene(anchors=(0, 2))
        truth, depths = scene.tracks, depths_at_anchors(scene)
        assert truth is not None
        assert mean(tracking_point_term(truth, truth, depths)) == 0
        points = truth.points.clone()
        points[1, 0] += torch.tensor([0.0, 0.3, 0.4])
        term = tracking_point_term(replace(truth, points=points), truth, depths)
        assert term.count == truth.confidence.numel()
        assert term.total.item() == pytest.approx((2 * 0.5 / depths[1]).sum().item(), rel=1e-3)

    def test_tracking_ignores_unknown_ground_truth(self) -> None:
        scene = make_scene()
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[0, 1, 5] = 0
        truth = replace(scene.tracks, confidence=confidence)
        depths = depths_at_anchors(scene)
        depths[0, 7] = math.nan
        assert tracking_point_term(scene.tracks, truth, depths).count == confidence.sum() - 3


def make_tracks(displacement: torch.Tensor, anchor: int = 0) -> Tracks:
    """Return tracks of one anchor; queries start at (q, 0, 2) and are displaced by (time, query, 3)."""
    time, queries = displacement.shape[:2]
    start = torch.arange(queries, dtype=torch.float64)[:, None] * tensor(1, 0, 0) + tensor(0, 0, 2)
    ones = torch.ones(1, time, queries, dtype=torch.float64)
    pixels = torch.zeros(1, queries, 2, dtype=torch.float64)
    return Tracks((start + displacement)[None], ones, ones, torch.tensor([anchor]), pixels)


class TestMotion:
    def displaced(self) -> torch.Tensor:
        """Return displacements of two queries at three times: the second is displaced by 1, then by 2, at depth 2."""
        displacement = torch.zeros(3, 2, 3, dtype=torch.float64)
        displacement[1, 1, 0], displacement[2, 1, 0] = 1, 2
        return displacement

    depths = torch.full((1, 2), 2.0, dtype=torch.float64)

    def test_dynamic_pixels_weigh_ten_times_as_much(self) -> None:
        truth = make_tracks(self.displaced())
        static = make_tracks(0 * self.displaced())
        term = motion_term(static, truth, self.depths)
        assert term.count == 2 * 1 + 2 * 10
        assert term.total.item() == pytest.approx(10 * (0.5 + 1), abs=5e-3)

    def test_a_displacement_above_a_fiftieth_of_depth_is_dynamic(self) -> None:
        displacement = torch.zeros(2, 2, 3, dtype=torch.float64)
        displacement[1] = torch.stack([tensor(0, 0, 0.039), tensor(0, 0, 0.0415)])
        truth = make_tracks(displacement)
        assert motion_term(truth, truth, self.depths).count == 11

    def test_displacement_is_from_the_tracks_own_point(self) -> None:
        truth = make_tracks(self.displaced())
        elsewhere = replace(truth, points=truth.points + tensor(5, 5, 5))
        assert mean(motion_term(elsewhere, truth, self.depths)).item() == pytest.approx(0, abs=1e-12)

    def test_the_anchor_need_not_be_the_first_frame(self) -> None:
        truth = make_tracks(self.displaced(), anchor=2)
        static = make_tracks(0 * self.displaced(), anchor=2)
        # Relative to the last frame the second query is displaced by -2, then by -1.
        term = motion_term(static, truth, self.depths)
        assert term.count == 22
        assert term.total.item() == pytest.approx(10 * (1 + 0.5), abs=5e-3)

    def test_only_known_times_of_points_known_in_the_anchor_are_used(self) -> None:
        truth = make_tracks(self.displaced())
        confidence = truth.confidence.clone()
        confidence[0, 1, 1] = 0
        assert motion_term(truth, replace(truth, confidence=confidence), self.depths).count == 12
        confidence = truth.confidence.clone()
        confidence[0, 0, 1] = 0
        unknown = replace(truth, confidence=confidence)
        assert is_known_off_anchor(unknown).tolist() == [[[False, False], [True, False], [True, False]]]
        assert motion_term(truth, unknown, self.depths).count == 2

    def test_unknown_depth_leaves_a_query_out(self) -> None:
        truth = make_tracks(self.displaced())
        assert motion_term(truth, truth, torch.tensor([[2.0, math.nan]])).count == 2

    def test_an_anchor_removed_by_slicing_has_no_loss(self) -> None:
        truth = make_tracks(self.displaced(), anchor=-1)
        assert motion_term(truth, truth, self.depths).count == 0
        assert not is_known_off_anchor(truth).any()

    @pytest.mark.parametrize("unknown", UNKNOWN)
    def test_unknown_points_have_neither_loss_nor_gradient(self, unknown: float) -> None:
        truth = make_tracks(self.displaced())
        confidence, points = truth.confidence.clone(), truth.points.clone()
        confidence[0, 1, 1], points[0, 1, 1] = 0, unknown
        given = (points + 0.1).requires_grad_()
        partly = replace(truth, confidence=confidence, points=points)
        term = motion_term(replace(truth, points=given), partly, self.depths)
        mean(term).backward()
        assert term.total.isfinite()
        assert given.grad is not None
        assert given.grad.isfinite().all()
        assert given.grad[0, 1, 1].tolist() == [0, 0, 0]

    def test_gradients(self) -> None:
        truth = make_tracks(self.displaced())
        given = (truth.points + noise(*truth.points.shape)).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda p: mean(motion_term(replace(truth, points=p), truth, self.depths)), given
        )

    def test_the_optimal_track_confidence_matches_the_error(self) -> None:
        truth = make_tracks(self.displaced())
        off = (truth.points + tensor(0, 0, 0.1)).requires_grad_()  # a twentieth of the depth of 2
        best = 0.1 / 0.05

        def cost(confidence: float) -> torch.Tensor:
            given = replace(truth, points=off, confidence=torch.full_like(truth.confidence, confidence))
            return mean(track_confidence_term(given, truth, self.depths))

        assert cost(best) < cost(1.2 * best)
        assert cost(best) < cost(0.8 * best)
        assert cost(best).item() == pytest.approx(0.05 + 0.1 - 0.1 * math.log(2), abs=5e-3)
        assert not cost(best).requires_grad

    def test_track_confidence_has_gradients_where_ground_truth_is_known(self) -> None:
        truth = make_tracks(self.displaced())
        known = truth.confidence.clone()
        known[0, 1, 1] = 0
        confidence = torch.full_like(truth.confidence, 2.0).requires_grad_()
        given = replace(truth, confidence=confidence)
        term = track_confidence_term(given, replace(truth, confidence=known), self.depths)
        assert term.count == 3
        (gradient,) = torch.autograd.grad(term.total, confidence)
        # No gradient at the anchor's own time or where unknown; elsewhere points are exact, so confidence should rise.
        assert (gradient < 0).tolist() == [[[False, False], [True, False], [True, True]]]
        assert (gradient > 0).sum() == 0

    def test_depth_at_the_anchor_is_that_of_its_depth_map(self) -> None:
        scene = make_scene(anchors=(1, 2))
        assert_close(depths_at_anchors(scene), scene.depths[[1, 2]].flatten(1), atol=1e-4, rtol=1e-4)
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[0, 1, 3] = 0
        confidence[1, 1, 4] = 0
        depths = depths_at_anchors(replace(scene, tracks=replace(scene.tracks, confidence=confidence)))
        assert depths.isnan().nonzero().tolist() == [[0, 3]]

    def test_depth_at_the_anchor_needs_tracks(self) -> None:
        with pytest.raises(ValueError, match="no tracks"):
            depths_at_anchors(replace(make_scene(), tracks=None))

    def test_visibility_is_binary_cross_entropy(self) -> None:
        logits = tensor(0.3, -2, 7)
        term = visibility_term(logits, tensor(1, 0, math.nan), torch.tensor([True, True, False]))
        wanted = -math.log(1 / (1 + math.exp(-0.3))) - math.log(1 - 1 / (1 + math.exp(2)))
        assert term.count == 2
        assert term.total.item() == pytest.approx(wanted)

    def test_dynamic_loss_is_over_known_pixels(self) -> None:
        logits = tensor(0.3, math.nan, -1).requires_grad_()
        term = dynamic_term(logits, tensor(1, math.nan, 0))
        term.total.backward()
        assert term.count == 2
        assert term.total.item() == pytest.approx(math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-1)))
        assert logits.grad is not None
        assert_close(logits.grad, tensor(1 / (1 + math.exp(-0.3)) - 1, 0, 1 / (1 + math.exp(1))))


class TestQueries:
    def test_values_are_bilinear_between_pixel_centers(self) -> None:
        grid = g.pixel_grid(HEIGHT, WIDTH, dtype=torch.float64).flatten(0, 1)
        plane = grid @ tensor(2, -3) + 1
        values = torch.stack([plane, 10 * plane], dim=-1)[None, None].expand(2, 3, -1, -1)
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
        pixels = 0.5 + share * tensor(WIDTH - 1, HEIGHT - 1)
        wanted = pixels @ tensor(2, -3) + 1
        read = sample_at_pixels(values, pixels, SIZE)
        assert read.shape == (2, 3, 5, 2)
        assert_close(read[:, 2], torch.stack([wanted, 10 * wanted], dim=-1))

    def test_sampling_at_all_pixels_is_the_identity(self) -> None:
        tracks = make_scene(anchors=(0, 1)).tracks
        assert tracks is not None
        moved = replace(
            tracks, points=noise(*tracks.points.shape).float(), visibility=noise(*tracks.visibility.shape).float()
        )
        read = sample_tracks(moved, tracks.pixels, SIZE)
        assert_close(read.points, moved.points)
        assert_close(read.visibility, moved.visibility)
        assert_close(read.confidence, moved.confidence)

    def test_beyond_the_outermost_centers_is_the_border(self) -> None:
        values = torch.arange(HEIGHT * WIDTH, dtype=torch.float64)[None, None, :, None]
        pixels = torch.tensor([[[-5.0, -5.0], [WIDTH + 9.0, HEIGHT + 0.0], [math.nan, 0.5]]], dtype=torch.float64)
        assert sample_at_pixels(values, pixels, SIZE).flatten().tolist() == [0, HEIGHT * WIDTH - 1, 0]

    def test_gradients_go_to_the_four_pixels_around(self) -> None:
        values = torch.zeros(1, 1, HEIGHT * WIDTH, 1, dtype=torch.float64, requires_grad=True)
        sample_at_pixels(values, tensor(3.75, 2.5).view(1, 1, 2), SIZE).sum().backward()
        assert values.grad is not None
        pulls = values.grad.view(HEIGHT, WIDTH)
        assert pulls[2, 3:5].tolist() == [0.75, 0.25]
        assert pulls.sum() == 1


def test_no_transfer_to_the_host() -> None:
    """Fake tensors have no values, so reading one on the host raises an error."""
    with FakeTensorMode() as mode:
        scene = normalized(make_scene(anchors=(0, 2)).map(mode.from_tensor))
        assert scene.tracks is not None
        depths = scene.depths.clone().requires_grad_()
        valid, anchor_depths = scene.depth_confidence > 0, depths_at_anchors(scene)
        tracks = sample_tracks(scene.tracks, scene.tracks.pixels, SIZE)
        terms = merge_terms(
            rotation_term(scene.cameras, scene.cameras),
            relative_translation_term(scene.cameras, scene.cameras),
            center_term(scene.cameras, scene.cameras),
            field_of_view_term(scene.cameras, scene.cameras, SIZE),
            principal_point_term(scene.cameras, scene.cameras, SIZE),
            log_depth_term(depths, scene.depth_confidence, scene.depths, valid),
            depth_gradient_term(depths, scene.depths, valid),
            point_term(scene.points, scene.point_confidence, scene.points, scene.depths, valid),
            tracking_point_term(tracks, scene.tracks, anchor_depths),
            motion_term(tracks, scene.tracks, anchor_depths),
            track_confidence_term(tracks, scene.tracks, anchor_depths),
            visibility_term(tracks.visibility, scene.tracks.visibility, is_known_off_anchor(scene.tracks)),
            dynamic_term(scene.dynamic, scene.dynamic),
        )
        mean(terms).backward()
