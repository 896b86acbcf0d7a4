"""Unsuitable scenes, options and stored calibrations are user errors; batches of scenes are defects of the caller."""

import pytest
import torch
from scenes import make_scene

from recon4d.errors import UserError
from recon4d.records import (
    ErrorCurve,
    Scene,
)


@pytest.mark.parametrize("factor", [0.0, -1.0, torch.inf, torch.nan])
def test_the_scale_must_be_positive_and_finite(factor: float) -> None:
    with pytest.raises(UserError, match="cannot be scaled by"):
        make_scene().scaled(factor)
    with pytest.raises(UserError, match="cannot be scaled by"):
        make_scene().in_metres(factor)


@pytest.mark.parametrize(
    ("frame", "pixel", "meters", "message"),
    [
        (0, (1, 1), 0.0, "the measured distance is 0 m"),
        (9, (1, 1), 1.0, "frame 9 does not exist; wanted 0 to 1"),
        (0, (99, 1), 1.0, r"pixel \(99, 1\) is outside maps"),
        (0, (3, 2), 1.0, "show the same point"),
        (0, (5, 5), 1.0, r"the depth of pixel \(5, 5\) of frame 0 is unknown"),
    ],
)
def test_unsuitable_measurements(frame: int, pixel: tuple[int, int], meters: float, message: str) -> None:
    scene = make_scene(frames=2)
    mask = torch.zeros_like(scene.depths, dtype=torch.bool)
    mask[0, 5, 5] = True
    with pytest.raises(UserError, match=message):
        scene.with_unknown(mask).in_metres_by_distance(frame, (3, 2), pixel, meters)


def test_a_scene_without_ground() -> None:
    with pytest.raises(UserError, match="the largest plane below the cameras contains"):
        make_scene().levelled()
    scene = make_scene()
    with pytest.raises(UserError, match="too few static points"):
        scene.with_unknown(torch.ones_like(scene.depths, dtype=torch.bool)).levelled()


def test_batches_are_not_user_errors() -> None:
    batch = Scene.stack([make_scene(), make_scene()])
    for function in (Scene.levelled, lambda scene: scene.in_metres_by_distance(0, (1, 1), (2, 2), 1.0)):
        with pytest.raises(ValueError, match=r"wanted a single scene, given a batch of shape \(2,\)") as caught:
            function(batch)
        assert not isinstance(caught.value, UserError)


def test_damaged_error_curves() -> None:
    for fields in (((), ()), ((1.0,), (-0.1,)), ((2.0, 1.0), (0.2, 0.1)), ((1.0, 2.0), (0.1, 0.2))):
        with pytest.raises(UserError, match="an error curve has"):
            ErrorCurve(*fields)
    with pytest.raises(UserError, match="wanted a fraction of depth above 0"):
        ErrorCurve((1.0,), (0.1,)).confidence_for_error(-0.5)


def test_the_own_unit_of_a_scene_converts_it_to_meters() -> None:
    scene = make_scene(metres_per_unit=3.0)
    metric = scene.in_metres()
    torch.testing.assert_close(metric.depths, 3 * scene.depths)
    assert float(metric.metres_per_unit) == 1.0
    with pytest.raises(UserError, match="the length of the scene's unit is unknown"):
        make_scene(metres_per_unit=torch.nan).in_metres()
