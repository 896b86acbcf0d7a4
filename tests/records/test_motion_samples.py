"""Samples of motion: evaluation, change of the world, one sample as the motion of a scene."""

from dataclasses import replace

import pytest
import torch
from scenes import make_scene

from recon4d.errors import UserError
from recon4d.geometry import rotation_from_axis_angle, similarity, transform_points
from recon4d.records import MotionSamples, Trajectories

INTERVAL = torch.tensor([1.0, 3.0])


def straight_samples() -> MotionSamples:
    """Two samples of three curves that move with constant velocity: 1 and 2 units per second along x."""
    # Control points of a straight line are evenly spaced, from one segment before the interval to one after it.
    knots = torch.linspace(0.5, 3.5, 7) - 1
    start = torch.arange(3.0)[:, None]
    x = torch.stack([start + speed * knots for speed in (1.0, 2.0)])
    return MotionSamples(torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], dim=-1), INTERVAL)


def trajectories(samples: MotionSamples | None) -> Trajectories:
    return Trajectories(
        control_points=torch.zeros(3, 5, 3),
        interval=INTERVAL,
        times=torch.tensor([1.0, 2.0, 3.0]),
        visibility=torch.ones(3, 3),
        confidence=torch.ones(3),
        anchors=torch.zeros(3, dtype=torch.long),
        pixels=torch.zeros(3, 2),
        support=torch.zeros(3, 2),
        pieces=torch.zeros(3, dtype=torch.long),
        world_from_piece=torch.eye(4).expand(1, 3, 4, 4),
        samples=samples,
    )


def test_positions_mean_and_deviation() -> None:
    samples = straight_samples()
    times = torch.tensor([0.0, 1.0, 2.5, 4.0])  # the first and the last lie outside of the interval
    found = samples.positions(times)
    assert found.shape == (2, 3, 4, 3)
    torch.testing.assert_close(found[1, 2, :, 0], 2 + 2 * (times - 1))
    torch.testing.assert_close(samples.means(times)[0, :, 0], 1.5 * (times - 1))
    deviation = samples.standard_deviations(times)[0]
    torch.testing.assert_close(deviation[:, 0], (times - 1).abs() / 2**0.5)
    assert (deviation[:, 1:] == 0).all()


def test_a_single_sample_has_no_deviation() -> None:
    samples = replace(straight_samples(), control_points=straight_samples().control_points[:1])
    assert (samples.standard_deviations(INTERVAL) == 0).all()


def test_samples_move_with_the_world_of_the_scene() -> None:
    rotation = rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2]))
    new_from_world = similarity(torch.tensor(2.0), rotation, torch.tensor([1.0, 2.0, 3.0]))
    scene = replace(make_scene(3), trajectories=trajectories(straight_samples())).transformed(new_from_world)
    assert scene.trajectories is not None
    assert scene.trajectories.samples is not None
    wanted = transform_points(new_from_world, straight_samples().positions(INTERVAL))
    torch.testing.assert_close(scene.trajectories.samples.positions(INTERVAL), wanted)


def test_frames_leave_samples_as_they_are() -> None:
    curves = trajectories(straight_samples()).frames([0, 2])
    assert curves.samples is not None
    assert torch.equal(curves.samples.control_points, straight_samples().control_points)


def test_one_sample_is_the_motion() -> None:
    curves = trajectories(straight_samples()).sample(1)
    torch.testing.assert_close(curves.velocities(torch.tensor([2.0]))[0, 0], torch.tensor([2.0, 0, 0]))
    assert curves.samples is None
    assert (curves.pieces == -1).all()
    assert len(curves.world_from_piece) == 0


@pytest.mark.parametrize("index", [-1, 2])
def test_a_missing_sample_is_named(index: int) -> None:
    with pytest.raises(UserError, match=f"motion sample {index} does not exist; the scene has 2"):
        trajectories(straight_samples()).sample(index)
    with pytest.raises(UserError, match="the scene has 0"):
        trajectories(None).sample(0)
