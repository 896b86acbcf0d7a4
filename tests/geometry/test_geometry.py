"""Geometry: identities near degenerate input, batch shapes, and gradients by finite differences."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon4d import geometry as g

EYE = torch.eye(3, dtype=torch.float64)
ANGLES = st.sampled_from([0.0, 1e-9, 1e-6, 1e-3, 0.5, 2.0, math.pi - 1e-3, math.pi - 1e-7, math.pi])
SEEDS = st.integers(0, 10_000)


def random_axis(seed: int, *batch: int) -> Tensor:
    axis = torch.randn(*batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return axis / axis.norm(dim=-1, keepdim=True)


def random_rotation(seed: int, *batch: int) -> Tensor:
    return g.rotation_from_quaternion(
        torch.randn(*batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )


def random_points(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_is_rotation(rotation: Tensor, tolerance: float = 1e-12) -> None:
    eye = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), eye, atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.det(rotation), torch.ones_like(rotation[..., 0, 0]), atol=tolerance, rtol=0)


class TestRotations:
    @given(seed=SEEDS, angle=ANGLES)
    @settings(max_examples=60, deadline=None)
    def test_all_representations_give_the_same_rotation(self, seed: int, angle: float) -> None:
        axis = random_axis(seed)
        rotation = g.rotation_from_axis_angle(angle * axis)
        assert_is_rotation(rotation)
        half = torch.tensor(angle / 2, dtype=torch.float64)
        quaternion = torch.cat([half.cos()[None], half.sin() * axis])
        torch.testing.assert_close(g.rotation_from_quaternion(quaternion), rotation)
        torch.testing.assert_close(g.rotation_from_quaternion(g.quaternion_from_rotation(rotation)), rotation)
        assert torch.equal(g.rotation_to_6d(rotation), torch.cat([rotation[:, 0], rotation[:, 1]]))

    @given(seed=SEEDS, angle=ANGLES)
    @settings(max_examples=60, deadline=None)
    def test_angle_is_exact_near_zero_and_near_pi(self, seed: int, angle: float) -> None:
        measured = g.rotation_angle(g.rotation_from_axis_angle(angle * random_axis(seed)))
        assert abs(measured.item() - angle) < 1e-9

    def test_angle_of_a_tiny_float32_rotation_is_precise(self) -> None:
        # The arccosine of the trace would return 0 here.
        rotation = g.rotation_from_axis_angle(torch.tensor([0.0, 1e-5, 0.0]))
        assert g.rotation_angle(rotation).item() == pytest.approx(1e-5, rel=1e-3)

    def test_quarter_turn_about_z_maps_x_to_y(self) -> None:
        quaternion = torch.tensor([math.cos(math.pi / 4), 0.0, 0.0, math.sin(math.pi / 4)])
        rotated = g.rotation_from_quaternion(quaternion) @ torch.tensor([1.0, 0.0, 0.0])
        torch.testing.assert_close(rotated, torch.tensor([0.0, 1.0, 0.0]))

    def test_quaternion_has_no_negative_w_and_unit_length(self) -> None:
        quaternions = g.quaternion_from_rotation(random_rotation(3, 50))
        assert (quaternions[:, 0] >= 0).all()
        torch.testing.assert_close(quaternions.norm(dim=-1), torch.ones(50, dtype=torch.float64))

    def test_opposite_quaternions_are_the_same_rotation(self) -> None:
        quaternion = torch.randn(5, 4)
        torch.testing.assert_close(g.rotation_from_quaternion(quaternion), g.rotation_from_quaternion(-3 * quaternion))

    def test_nearest_rotation_is_close_and_never_a_reflection(self) -> None:
        rotation = random_rotation(2, 20)
        near = g.nearest_rotation(rotation + 1e-3 * random_points(5, 20, 3))
        assert_is_rotation(near)
        assert g.rotation_angle(near.transpose(-1, -2) @ rotation).max() < 5e-3
        assert_is_rotation(g.nearest_rotation(torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))))

    @pytest.mark.parametrize(
        ("function", "width"),
        [(g.rotation_from_quaternion, 4), (g.rotation_from_axis_angle, 3)],
    )
    def test_gradients(self, function: object, width: int) -> None:
        given = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(function, given.requires_grad_())

    def test_gradient_of_quaternion_along_the_group(self) -> None:
        def from_axis_angle(axis_angle: Tensor) -> Tensor:
            return g.quaternion_from_rotation(g.rotation_from_axis_angle(axis_angle))

        # The largest component changes near 0 and near pi; the gradient must be correct on both sides.
        axis_angles = torch.stack([1e-4 * random_axis(1), 1.0 * random_axis(2), 3.1 * random_axis(3)])
        assert torch.autograd.gradcheck(from_axis_angle, axis_angles.requires_grad_())

    def test_gradient_of_angle_at_the_identity_is_finite(self) -> None:
        rotation = torch.eye(3, requires_grad=True)
        g.rotation_angle(rotation).backward()
        assert rotation.grad is not None
        assert rotation.grad.isfinite().all()


class TestTransforms:
    def random_similarity(self, seed: int, *batch: int) -> Tensor:
        scale = torch.rand(batch, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
        return g.similarity(scale, random_rotation(seed, *batch), random_points(seed, *batch))

    def test_composition(self) -> None:
        b_from_a, c_from_b = self.random_similarity(1, 4), self.random_similarity(2, 4)
        points = random_points(3, 4, 6)
        in_c = g.transform_points(c_from_b, g.transform_points(b_from_a, points))
        torch.testing.assert_close(g.transform_points(c_from_b @ b_from_a, points), in_c)

    def test_inverse(self) -> None:
        b_from_a = self.random_similarity(4, 2, 3)
        eye = torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4)
        torch.testing.assert_close(g.invert(b_from_a) @ b_from_a, eye)

    def test_scale(self) -> None:
        torch.testing.assert_close(
            g.similarity_scale(g.similarity(torch.tensor(2.5), torch.eye(3), torch.ones(3))), torch.tensor(2.5)
        )

    def test_points_may_have_any_axes_after_the_batch(self) -> None:
        b_from_a = self.random_similarity(5, 2)
        points = random_points(6, 2, 3, 4)
        moved = g.transform_points(b_from_a, points)
        torch.testing.assert_close(moved[1, 2, 3], b_from_a[1, :3, :3] @ points[1, 2, 3] + b_from_a[1, :3, 3])

    def test_transformed_cameras_have_scaled_centers_and_stay_rigid(self) -> None:
        world_from_cam = g.rigid(random_rotation(7, 5), random_points(8, 5))
        new_from_world = self.random_similarity(9)
        new_from_cam = g.transform_cameras(new_from_world, world_from_cam)
        assert_is_rotation(new_from_cam[:, :3, :3])
        centers = g.transform_points(new_from_world, world_from_cam[:, :3, 3])
        torch.testing.assert_close(new_from_cam[:, :3, 3], centers)


class TestPinhole:
    intrinsics = torch.tensor([[100.0, 0.0, 30.0], [0.0, 120.0, 20.0], [0.0, 0.0, 1.0]], dtype=torch.float64)

    def test_first_pixel_center_is_a_half(self) -> None:
        grid = g.pixel_grid(3, 5)
        assert grid.shape == (3, 5, 2)
        assert grid[0, 0].tolist() == [0.5, 0.5]
        assert grid[2, 4].tolist() == [4.5, 2.5]

    def test_projection_of_a_point(self) -> None:
        point = torch.tensor([0.2, -0.1, 2.0], dtype=torch.float64)
        torch.testing.assert_close(g.project(point, self.intrinsics), torch.tensor([40.0, 14.0], dtype=torch.float64))

    def test_unproject_inverts_project_with_skew(self) -> None:
        skewed = self.intrinsics.clone()
        skewed[0, 1] = 3.0
        points = random_points(1, 10)
        points[:, 2] = points[:, 2].abs() + 0.5
        back = g.unproject(g.project(points, skewed), points[:, 2], skewed)
        torch.testing.assert_close(back, points)

    def test_map_is_unprojected_at_pixel_centers(self) -> None:
        depths = torch.full((2, 4, 6), 3.0, dtype=torch.float64)
        points = g.unproject_map(depths, self.intrinsics.expand(2, 3, 3))
        pixels = g.project(points, self.intrinsics.expand(2, 3, 3))
        torch.testing.assert_close(pixels, g.pixel_grid(4, 6, dtype=torch.float64).expand(2, 4, 6, 2))
        torch.testing.assert_close(points[..., 2], depths)

    def test_points_behind_the_camera_project_to_finite_pixels_with_finite_gradients(self) -> None:
        points = torch.tensor([[0.1, 0.1, 0.0], [0.1, 0.1, -1.0]], dtype=torch.float64, requires_grad=True)
        pixels = g.project(points, self.intrinsics)
        pixels.sum().backward()
        assert pixels.isfinite().all()
        assert points.grad is not None
        assert points.grad.isfinite().all()

    def test_fields_of_view_are_independent_of_the_principal_point(self) -> None:
        angles = torch.tensor([[1.2, 0.7]], dtype=torch.float64)
        principal_point = torch.tensor([[11.0, 40.0]], dtype=torch.float64)
        intrinsics = g.intrinsics_from_field_of_view(angles, principal_point, height=48, width=64)
        torch.testing.assert_close(g.field_of_view(intrinsics, 48, 64), angles)
        torch.testing.assert_close(intrinsics[:, :2, 2], principal_point)
        assert intrinsics[0, 0, 0].item() == pytest.approx(32 / math.tan(0.6))

    def test_projections_follow_resizing_cropping_and_padding(self) -> None:
        point = torch.tensor([0.1, 0.05, 1.0], dtype=torch.float64)
        x, y = g.project(point, self.intrinsics).tolist()
        resized = g.resized_intrinsics(self.intrinsics, (48, 64), (24, 96))
        assert g.project(point, resized).tolist() == pytest.approx([1.5 * x, 0.5 * y])
        cropped = g.cropped_intrinsics(self.intrinsics, left=5, top=7)
        assert g.project(point, cropped).tolist() == pytest.approx([x - 5, y - 7])
        padded = g.padded_intrinsics(cropped, left=5, top=7)
        torch.testing.assert_close(padded, self.intrinsics)

    def test_field_of_view_is_invariant_to_resizing(self) -> None:
        resized = g.resized_intrinsics(self.intrinsics, (48, 64), (30, 91))
        torch.testing.assert_close(g.field_of_view(resized, 30, 91), g.field_of_view(self.intrinsics, 48, 64))

    def test_gradients(self) -> None:
        points = random_points(4, 3)
        points[:, 2] += 4
        arguments = (points.requires_grad_(), self.intrinsics.clone().requires_grad_())
        assert torch.autograd.gradcheck(g.project, arguments)
        depths = (torch.rand(2, 3, dtype=torch.float64) + 1).requires_grad_()
        assert torch.autograd.gradcheck(g.unproject_map, (depths, self.intrinsics.clone().requires_grad_()))


class TestFits:
    def similarity(self, seed: int = 1, *batch: int) -> Tensor:
        scale = torch.full(batch, 1.7, dtype=torch.float64)
        return g.similarity(scale, random_rotation(seed, *batch), random_points(seed, *batch))

    def test_similarity_is_recovered_over_batches(self) -> None:
        points, b_from_a = random_points(2, 3, 2, 20), self.similarity(1, 3, 2)
        fit = g.fit_similarity(points, g.transform_points(b_from_a, points))
        torch.testing.assert_close(fit, b_from_a)

    def test_rigid_fit_has_scale_one_even_between_scaled_points(self) -> None:
        points = random_points(2, 20)
        fit = g.fit_rigid(points, g.transform_points(self.similarity(), points))
        torch.testing.assert_close(g.similarity_scale(fit), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(fit[:3, :3], self.similarity()[:3, :3] / 1.7)

    def test_mirrored_points_give_the_optimal_rotation_and_scale(self) -> None:
        # Without the sign of the smallest singular value, the scale would be 1 and the residual larger.
        points = random_points(5, 200)
        mirrored = points * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
        fit = g.fit_similarity(points, mirrored)
        assert_is_rotation(fit[:3, :3] / g.similarity_scale(fit), 1e-9)
        residual = (g.transform_points(fit, points) - mirrored).square().sum()
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            nudge = g.rigid(
                g.rotation_from_axis_angle(0.05 * torch.randn(3, dtype=torch.float64, generator=generator)),
                0.05 * torch.randn(3, dtype=torch.float64, generator=generator),
            )
            nudge[:3, :3] *= 1 + 0.05 * torch.randn(1, dtype=torch.float64, generator=generator)
            assert (g.transform_points(nudge @ fit, points) - mirrored).square().sum() >= residual
        assert 0.2 < g.similarity_scale(fit) < 0.6

    def test_zero_weight_removes_outliers(self) -> None:
        points, b_from_a = random_points(2, 20), self.similarity()
        target = g.transform_points(b_from_a, points)
        target[3] += 100
        weights = torch.ones(20, dtype=torch.float64)
        weights[3] = 0
        torch.testing.assert_close(g.fit_similarity(points, target, weights), b_from_a)
        assert not torch.allclose(g.fit_similarity(points, target), b_from_a)

    @pytest.mark.parametrize("directions", [1, 2])
    def test_points_on_a_line_or_plane_are_mapped_exactly(self, directions: int) -> None:
        basis = random_points(7, directions)
        points = random_points(8, 15)[:, :directions] @ basis + 3
        target = g.transform_points(self.similarity(), points)
        fit = g.fit_similarity(points, target)
        assert_is_rotation(fit[:3, :3] / g.similarity_scale(fit), 1e-9)
        torch.testing.assert_close(g.transform_points(fit, points), target)

    def test_coinciding_points_and_zero_weights_have_the_documented_result(self) -> None:
        points = torch.full((4, 3), 1.23, dtype=torch.float64)
        fit = g.fit_similarity(points, points + 2)
        expected = g.rigid(EYE, torch.full((3,), 2.0, dtype=torch.float64))
        torch.testing.assert_close(fit, expected)
        weightless = g.fit_similarity(random_points(1, 4), random_points(2, 4), torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(weightless, torch.eye(4, dtype=torch.float64))

    def test_gradients(self) -> None:
        points, target = random_points(1, 6), random_points(2, 6)
        assert torch.autograd.gradcheck(g.fit_similarity, (points.requires_grad_(), target.requires_grad_()))


class TestResampling:
    def test_unknown_pixels_do_not_contaminate_known_ones(self) -> None:
        values = torch.full((1, 8, 8), 2.0)
        values[:, :, 4:] = torch.nan
        valid = values[0].isfinite()
        for size in [(16, 16), (4, 4), (5, 11)]:
            resized, still_valid = g.resize_map(values, valid, size)
            assert resized.shape == (1, *size)
            torch.testing.assert_close(resized[0][still_valid], torch.full((int(still_valid.sum()),), 2.0))
            assert (resized[0][~still_valid] == 0).all()
            assert 0.4 < still_valid.float().mean() < 0.6

    def test_linear_maps_stay_linear(self) -> None:
        grid = g.pixel_grid(8, 12)
        plane = (2 * grid[..., 0] + 3 * grid[..., 1])[None]
        resized, _ = g.resize_map(plane, torch.ones(8, 12, dtype=torch.bool), (16, 24))
        finer = g.pixel_grid(16, 24) / 2
        expected = 2 * finer[..., 0] + 3 * finer[..., 1]
        # Pixels beyond the outermost centers are extrapolated.
        torch.testing.assert_close(resized[0, 1:-1, 1:-1], expected[1:-1, 1:-1])


def test_pixel_indices_are_clamped_to_the_image() -> None:
    pixels = torch.tensor([[0.0, 0.0], [2.99, 0.5], [3.0, 1.0], [-7.0, 9.0], [9.0, -1.0], [float("nan"), 1.5]])
    row, column = g.pixel_indices(pixels, (2, 4))
    assert row.tolist() == [0, 0, 1, 1, 0, 1]
    assert column.tolist() == [0, 2, 3, 0, 3, 0]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13, 100])
def test_evenly_spaced_indices_include_both_ends(count: int) -> None:
    indices = g.evenly_spaced_indices(count, 12).tolist()
    assert len(indices) == min(count, 12)
    assert (indices[0], indices[-1]) == (0, count - 1)
    gaps = {after - before for before, after in pairwise(indices)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert min(gaps, default=1) >= 1
