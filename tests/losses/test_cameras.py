"""The camera loss: exact cameras have none, and every stage counts."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.losses import (
    center_term,
    field_of_view_term,
    mean,
    principal_point_term,
    relative_translation_term,
    rotation_term,
)
from recon4d.records import Cameras

SIZE = (HEIGHT, WIDTH)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
