"""The length of the unit from GPS positions and known distances."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rig_scenes import make_rig, make_rig_clip, make_rig_scene
from scenes import make_clip, make_scene

from recon4d.errors import UserError
from recon4d.geometry import rotation_from_axis_angle
from recon4d.inference.metric_positions import baseline_scale, check_gps, fit_gps_scale
from recon4d.io import read_clip
from recon4d.io.gps import DEFAULT_ERROR, GpsPositions, earth_centered, read_gps
from recon4d.records import ClipSource, Scene

UNIT = 2.5
"""Length of the unit in meters."""


def scene_on_a_path(count: int = 24) -> Scene:
    scene = make_scene(count)
    angle = torch.linspace(0, 5, count)
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[:, :3, 3] = torch.stack([8 * angle, 10 * angle.sin(), 0.5 * angle.cos()], dim=-1)
    return replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))


def measured(scene: Scene, error: float, wrong: int = 0) -> GpsPositions:
    generator = torch.Generator().manual_seed(0)
    turn = rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.7])).double()
    positions = UNIT * scene.cameras.centers.double() @ turn.T + torch.tensor([50.0, -20, 7]).double()
    positions += error * torch.randn(positions.shape, generator=generator)
    positions[:wrong] += 200 * torch.randn(wrong, 3, generator=generator)
    return GpsPositions(positions, max(error, 0.01))


def test_the_scale_of_exact_positions_is_exact() -> None:
    scene = scene_on_a_path()
    fit = fit_gps_scale(scene, measured(scene, 0))
    assert fit.metres_per_unit == pytest.approx(UNIT, rel=1e-5)
    assert fit.residual < 1e-3
    assert fit.num_positions == 24


def test_the_scale_tolerates_noise_gaps_and_wrong_positions() -> None:
    scene = scene_on_a_path()
    gps = measured(scene, 3, wrong=6)
    gps.positions[10:14] = torch.nan
    fit = fit_gps_scale(scene, gps)
    assert fit.num_positions == 20
    assert fit.metres_per_unit == pytest.approx(UNIT, rel=0.06)
    assert 1 < fit.residual < 12


def test_positions_that_determine_no_scale_are_refused() -> None:
    scene = scene_on_a_path()
    with pytest.raises(UserError, match=r"lie within .* m and have an error of 60 m"):
        check_gps(GpsPositions(measured(scene, 0).positions, 60.0))
    with pytest.raises(UserError, match="2 frames have a GPS position"):
        check_gps(GpsPositions(measured(scene, 0).positions[:2], 1.0))
    poses = scene.cameras.world_from_cam[:1].expand(24, 4, 4)
    still = replace(scene, cameras=replace(scene.cameras, world_from_cam=poses))
    with pytest.raises(UserError, match="all cameras are at one place"):
        fit_gps_scale(still, measured(scene, 0))
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    gps = measured(scene, 0)
    with pytest.raises(UserError, match="the cameras contradict the GPS positions"):
        fit_gps_scale(scene, GpsPositions(gps.positions[shuffled], 1.0))


def test_positions_of_exif_are_meters_east_north_and_up(tmp_path: Path) -> None:
    places = [(48.0, 11.0, 500.0), (48.001, 11.0, 500.0), (48.0, 11.001, 510.0), None]
    for number, place in enumerate(places):
        exif = Image.Exif()
        if place is not None:
            fields = {1: "N", 2: (place[0], 0.0, 0.0), 3: "E", 4: (place[1], 0.0, 0.0), 5: b"\0", 6: place[2], 31: 3.5}
            exif.get_ifd(0x8825).update(fields)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / f"{number}.jpg", exif=exif)
    gps = read_gps(read_clip(tmp_path))
    assert gps.error == pytest.approx(3.5)
    # One thousandth of a degree: 111.2 m along the meridian and 74.6 m along the parallel, at 48 degrees north.
    wanted = torch.tensor([[0, 0, 0], [0, 111.2, 0], [74.6, 0, 10]]).double()
    torch.testing.assert_close(gps.positions[:3], wanted, atol=0.1, rtol=0)
    assert gps.positions[3].isnan().all()
    assert gps.repeated(2).positions.shape == (8, 3)


def test_hemispheres_minutes_and_missing_altitudes(tmp_path: Path) -> None:
    for number in range(3):
        exif = Image.Exif()
        exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 30.0, 36.0 * number), 3: "W", 4: (70.0, 15.0, 0.0)})
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / f"{number}.jpg", exif=exif)
    gps = read_gps(read_clip(tmp_path))
    assert gps.error == DEFAULT_ERROR
    step = torch.linalg.norm(earth_centered(-33.5, -70.25, 0) - earth_centered(-33.51, -70.25, 0))
    torch.testing.assert_close(gps.positions[1, 1], -step, atol=0.1, rtol=0)  # to the south
    assert float(gps.positions[1, 0]) == pytest.approx(0, abs=0.1)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "none.png")
    with pytest.raises(UserError, match="has no GPS positions"):
        read_gps(read_clip(tmp_path / "none.png"))


def test_a_known_distance_between_pictures_or_cameras_gives_the_unit() -> None:
    scene = make_scene(3)
    clip = replace(make_clip(3), source=ClipSource("x", ("a/left.jpg", "a/right.jpg", "7"), (0, 1, 2)))
    distance = float((scene.cameras.centers[0] - scene.cameras.centers[1]).norm())
    for names in (("left", "right"), ("left.jpg", "a/right.jpg"), ("0", "1"), ("right", "left")):
        first, second = (name if "." not in name or "/" in name else f"a/{name}" for name in names)
        assert baseline_scale(scene, clip, first, second, 3.0) == pytest.approx(3 / distance)
    rig = make_rig(2, 4)
    rig_scene = make_rig_scene(2, 4)
    wanted = 0.5 / math.sqrt(0.6**2 + 0.05**2 + 0.1**2)
    assert baseline_scale(rig_scene, make_rig_clip(rig), "left", "right", 0.5) == pytest.approx(wanted, rel=1e-4)
    for first, second, message in (
        ("left", "left", "to itself"),
        ("left", "none", "no frame has this name; wanted a name such as a/left.jpg"),
        ("0", "3", "frame number from 0 to 2"),
    ):
        with pytest.raises(UserError, match=message):
            baseline_scale(scene, clip, first, second, 1.0)
    twice = replace(clip, source=ClipSource("x", ("a/1.jpg", "b/1.jpg", "c.jpg"), (0, 1, 2)))
    with pytest.raises(UserError, match="2 frames have this name"):
        baseline_scale(scene, twice, "1", "c", 1.0)
