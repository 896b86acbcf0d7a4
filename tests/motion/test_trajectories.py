"""Curves and rigid pieces of scenes whose motion is known exactly, and the scene between its frames."""

from dataclasses import replace

import pytest
import torch
from scenes import make_scene

from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.geometry import rigid, rotation_angle, rotation_from_axis_angle, similarity, transform_points
from recon4d.motion import fit_trajectories
from recon4d.motion.curves import fit_curves
from recon4d.motion.rigid_pieces import find_rigid_pieces
from recon4d.records import Scene
from recon4d.records.trajectories import Trajectories

TIMES = torch.linspace(0, 3, 16)


def path(times: torch.Tensor, phase: float) -> torch.Tensor:
    """Return a smooth path through space of one point, shape (time, 3)."""
    return torch.stack([torch.sin(2 * times + phase), times.square() / 4, torch.cos(times)], dim=-1)


def curves_of(points: torch.Tensor, weights: torch.Tensor, times: torch.Tensor) -> Trajectories:
    """Fit curves to points (time, curve, 3)."""
    count = points.shape[1]
    return Trajectories(
        control_points=fit_curves(points, weights, times),
        interval=torch.stack([times[0], times[-1]]),
        times=times,
        visibility=weights.T,
        confidence=torch.ones(count),
        anchors=torch.zeros(count, dtype=torch.long),
        pixels=torch.zeros(count, 2),
        support=torch.zeros(count, 2),
        pieces=torch.full((count,), -1),
        world_from_piece=torch.zeros(0, len(times), 4, 4),
    )


class TestCurves:
    def test_every_second_frame_tells_the_others(self) -> None:
        """The curve is much closer to the frames that it has not seen than straight lines are."""
        points = torch.stack([path(TIMES, phase) for phase in (0.0, 1.0, 2.5)], dim=1)
        curves = curves_of(points[::2], torch.ones(8, 3), TIMES[::2])
        between = slice(1, 14, 2)
        off = (curves.positions(TIMES[between]).movedim(1, 0) - points[between]).norm(dim=-1)
        straight = ((points[:-2:2] + points[2::2]) / 2 - points[between]).norm(dim=-1)
        assert off.mean() < 0.2 * straight.mean()

    def test_velocity_and_acceleration_are_derivatives(self) -> None:
        curves = curves_of(path(TIMES, 0.0)[:, None], torch.ones(16, 1), TIMES)
        times, step = torch.tensor([0.7, 1.9]), 1e-2
        before, here, after = (curves.positions(times + shift) for shift in (-step, 0.0, step))
        torch.testing.assert_close(curves.velocities(times), (after - before) / (2 * step), atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(
            curves.accelerations(times), (after - 2 * here + before) / step**2, atol=0.2, rtol=0.1
        )

    def test_outside_the_clip_points_move_on_straight_lines(self) -> None:
        curves = curves_of(path(TIMES, 0.0)[:, None], torch.ones(16, 1), TIMES)
        late = torch.tensor([3.0, 3.5, 4.0])
        end, half, whole = curves.positions(late)[0]
        torch.testing.assert_close(half - end, whole - half, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole - end, curves.velocities(late)[0, 0], atol=1e-4, rtol=1e-4)
        assert torch.equal(curves.accelerations(late)[0, 1:], torch.zeros(2, 3))

    def test_hidden_times_do_not_matter(self) -> None:
        """Positions of weight 0 may be anything; the curve continues through them."""
        points, weights = path(TIMES, 0.0)[:, None].clone(), torch.ones(16, 1)
        weights[6:9] = 0
        points[6:9] = torch.nan
        curves = curves_of(points, weights, TIMES)
        off = (curves.positions(TIMES)[0] - path(TIMES, 0.0)).norm(dim=-1)
        assert off.max() < 0.05
        assert off[weights[:, 0] > 0].max() < 0.01

    def test_noise_of_a_straight_line_does_not_bend_it(self) -> None:
        """The number of control points is decided by evidence: a line needs one segment."""
        generator = torch.Generator().manual_seed(0)
        line = TIMES[:, None, None] * torch.tensor([1.0, -0.5, 0.2])
        points = (line + 0.05 * torch.randn(16, 40, 3, generator=generator)).expand(16, 40, 3)
        curves = curves_of(points, torch.ones(16, 40), TIMES)
        assert (curves.positions(TIMES).movedim(1, 0) - line).norm(dim=-1).mean() < 0.05
        assert curves.accelerations(TIMES).norm(dim=-1).median() < 1

    def test_few_observations_have_few_control_points(self) -> None:
        """As many unknowns as observations would go through all the noise."""
        generator = torch.Generator().manual_seed(0)
        line = (TIMES[:, None, None] * torch.tensor([1.0, -0.5, 0.2])).expand(16, 40, 3)
        weights = torch.zeros(16, 40)
        weights[[0, 3, 6, 9, 12, 15]] = 1
        curves = curves_of(line + 0.05 * torch.randn(16, 40, 3, generator=generator), weights, TIMES)
        assert curves.accelerations(TIMES).norm(dim=-1).median() < 0.6


class TestPieces:
    def test_two_bodies_and_loose_points_are_told_apart(self) -> None:
        generator = torch.Generator().manual_seed(0)
        turns = (torch.tensor([0.0, 0.8, 0.1]), torch.tensor([0.3, -0.2, -0.6]))
        bodies = []
        for turn, shift in zip(turns, (torch.tensor([1.0, 0.0, 0.3]), torch.tensor([-0.5, 0.4, 0.0])), strict=True):
            motion = rigid(rotation_from_axis_angle(TIMES[:, None] * turn), TIMES[:, None] * shift)
            start = torch.rand(60, 3, generator=generator) + 3 * shift
            bodies.append(transform_points(motion, start.expand(16, 60, 3)))
        loose = torch.rand(30, 3, generator=generator) + TIMES[:, None, None] * torch.randn(30, 3, generator=generator)
        points = torch.cat([bodies[0], bodies[1][:, :40], loose], dim=1)
        points = points + 0.002 * torch.randn(points.shape, generator=generator)
        found = find_rigid_pieces(points, tolerance=0.02)
        assert found.pieces[:60].eq(0).float().mean() > 0.95
        assert found.pieces[60:100].eq(1).float().mean() > 0.95
        assert found.pieces[100:].lt(0).float().mean() > 0.9
        angle = rotation_angle(found.world_from_piece[0, -1, :3, :3])
        torch.testing.assert_close(angle, 3 * turns[0].norm(), atol=0.02, rtol=0)

    def test_points_without_a_common_motion_have_no_pieces(self) -> None:
        points = torch.randn(16, 50, 3, generator=torch.Generator().manual_seed(0))
        found = find_rigid_pieces(points, tolerance=0.02)
        assert found.pieces.eq(-1).all()
        assert found.world_from_piece.shape == (0, 16, 4, 4)


@pytest.fixture(scope="module")
def moving() -> tuple[Scene, torch.Tensor]:
    """Return the truth of a synthetic clip in which objects move, with its times."""
    sample = SyntheticScenes(SyntheticConfig(12, 48, 64, static_scene_share=0, static_camera_share=0)).sample(1)
    assert sample.scene.is_dynamic.float().mean() > 0.02
    return sample.scene, sample.clip.times


class TestScene:
    def test_it_is_the_frame_at_the_times_of_frames(self, moving: tuple[Scene, torch.Tensor]) -> None:
        scene, times = moving
        moment = fit_trajectories(scene, times).at(float(times[5]))
        torch.testing.assert_close(moment.camera.world_from_cam[0], scene.cameras.world_from_cam[5], atol=1e-4, rtol=0)
        column, row = moment.source_pixels.unbind(dim=-1)
        static = ~moment.is_dynamic
        assert (moment.source_frames[static] == 5).all()
        torch.testing.assert_close(moment.points[static], scene.points_from_depth[5, row[static], column[static]])
        assert moment.is_dynamic.any()
        assert scene.is_dynamic[moment.source_frames, row, column].eq(moment.is_dynamic).all()
        assert (moment.velocities[static] == 0).all()
        assert (moment.velocities[~static].norm(dim=-1) > 0).all()

    def test_between_frames_moving_points_are_near_those_of_a_denser_clip(
        self, moving: tuple[Scene, torch.Tensor]
    ) -> None:
        scene, times = moving
        sparse = fit_trajectories(scene.frames(slice(0, 11, 2)), times[:11:2])
        assert sparse.trajectories is not None
        assert scene.tracks is not None
        positions = sparse.trajectories.positions(times[[3, 5, 7]])
        column, row = sparse.trajectories.pixels.long().unbind(dim=-1)
        query = row * scene.size[1] + column
        true = scene.tracks.points[0, [3, 5, 7]][:, query].movedim(1, 0)
        is_seen = scene.tracks.visibility[0, [3, 5, 7]][:, query].T > 0.5
        nearest = scene.tracks.points[0, [2, 4, 6]][:, query].movedim(1, 0)
        off, baseline = ((one - true).norm(dim=-1)[is_seen].mean() for one in (positions, nearest))
        assert off < 0.4 * baseline

    def test_another_world_frame_and_unit_change_nothing_else(self, moving: tuple[Scene, torch.Tensor]) -> None:
        scene, times = moving
        fitted = fit_trajectories(scene, times)
        new = similarity(
            torch.tensor(2.0), rotation_from_axis_angle(torch.tensor([0.1, 0.5, -0.2])), torch.tensor([1.0, -2.0, 0.5])
        )
        time = float(times[3] + times[4]) / 2
        one, other = fitted.at(time), fitted.transformed(new).at(time)
        torch.testing.assert_close(other.points, transform_points(new, one.points), atol=1e-3, rtol=1e-3)
        curves, moved = fitted.trajectories, fitted.transformed(new).trajectories
        assert curves is not None
        assert moved is not None
        start = curves.positions(times[:1])[:, 0]
        for before, after in zip(curves.world_from_piece[:, 7], moved.world_from_piece[:, 7], strict=True):
            there = transform_points(new, transform_points(before, start))
            torch.testing.assert_close(
                transform_points(after, transform_points(new, start)), there, atol=1e-3, rtol=1e-3
            )

    def test_frames_can_be_selected_and_maps_resized(self, moving: tuple[Scene, torch.Tensor]) -> None:
        scene, times = moving
        fitted = fit_trajectories(scene, times)
        assert fitted.trajectories is not None
        part = fitted.frames([0, 6, 7]).resized(24, 32)
        assert part.trajectories is not None
        assert torch.equal(part.trajectories.times, times[[0, 6, 7]])
        assert torch.equal(part.trajectories.positions(times), fitted.trajectories.positions(times))
        torch.testing.assert_close(part.trajectories.pixels, fitted.trajectories.pixels / 2)
        assert part.at(float(times[6])).points.isfinite().all()

    def test_static_scenes_have_no_curves(self) -> None:
        scene = make_scene()
        fitted = fit_trajectories(replace(scene, dynamic=torch.zeros_like(scene.dynamic)), torch.arange(3) / 10)
        assert fitted.trajectories is not None
        assert fitted.trajectories.num_curves == 0
        assert not fitted.at(0.15).is_dynamic.any()

    def test_what_is_missing_is_named(self, moving: tuple[Scene, torch.Tensor]) -> None:
        scene, times = moving
        with pytest.raises(UserError, match=r"trajectories need tracks: reconstruct the clip with anchors"):
            fit_trajectories(replace(scene, tracks=None), times)
        with pytest.raises(UserError, match="trajectories need increasing times"):
            fit_trajectories(scene, torch.full_like(times, torch.nan))
        with pytest.raises(UserError, match=r"no trajectories; wanted recon4d\.motion\.fit_trajectories"):
            scene.at(0.1)
