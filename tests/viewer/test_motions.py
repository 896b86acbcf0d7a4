"""The viewer shows what moves between the frames, and sampled motions as faint lines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import read_recording
from walls import make_clip, make_curves, make_scene

from recon4d.errors import UserError
from recon4d.records import Scene
from recon4d.viewer import ViewConfig, record_scene, save_view
from recon4d.viewer.motions import ALTERNATIVE_CURVES, FAINTNESS, select_alternatives
from recon4d.viewer.trails import rainbow

pytest.importorskip("rerun", reason="the viewer is the extra 'view'")
TIMES = torch.arange(3) / 10


def curved(samples: bool = True) -> Scene:
    curves = replace(make_curves(samples=samples), visibility=torch.ones(4, 3))
    return replace(make_scene(), trajectories=curves)


def test_points_between_the_frames_are_on_the_curves(tmp_path: Path) -> None:
    scene = curved()
    save_view(tmp_path / "a.rrd", record_scene(scene, TIMES, make_clip().images, ViewConfig(interpolated_frames=1)))
    rows = read_recording(tmp_path / "a.rrd")["world/points/curves"]
    by_time = sorted((row for row in rows), key=lambda row: row.seconds)
    assert [row.seconds for row in by_time] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [row.frame for row in by_time] == [0, None, 1, None, 2]
    for row in by_time:
        np.testing.assert_allclose(row.array("Points3D:positions"), scene.at(row.seconds).points[-4:], atol=1e-5)
        assert (row.colors() == make_clip().images[0, :, 0, 0].numpy()).all()
    save_view(tmp_path / "b.rrd", record_scene(scene, TIMES))
    assert "world/points/curves" not in read_recording(tmp_path / "b.rrd")


def test_samples_are_faint_lines_of_their_own(tmp_path: Path) -> None:
    scene = curved()
    curves = scene.trajectories
    assert curves is not None
    assert curves.samples is not None
    save_view(tmp_path / "a.rrd", record_scene(scene, TIMES))
    recording = read_recording(tmp_path / "a.rrd")
    for number in range(2):
        (row,) = recording[f"world/motions/sample_{number}"]
        assert row.seconds is None
        lines = np.asarray([np.asarray(line) for line in row.columns["LineStrips3D:strips"]])
        ends = curves.samples.positions(curves.samples.interval)[number]
        np.testing.assert_allclose(lines[:, [0, -1]], ends, atol=1e-5)
        assert row.colors("LineStrips3D:colors").max() <= FAINTNESS * int(rainbow(4).max())
    save_view(tmp_path / "b.rrd", record_scene(curved(samples=False), TIMES))
    assert not any("motions" in name for name in read_recording(tmp_path / "b.rrd"))


def test_few_of_many_curves_have_alternatives() -> None:
    assert [len(one.lines) for one in select_alternatives(make_curves(500))] == [ALTERNATIVE_CURVES] * 2
    assert select_alternatives(make_curves(0)) == []


def test_times_between_photos_and_without_curves_are_refused() -> None:
    config = ViewConfig(interpolated_frames=1)
    with pytest.raises(UserError, match="interpolated frames need trajectories"):
        record_scene(make_scene(), TIMES, config=config)
    with pytest.raises(UserError, match="interpolated frames need trajectories"):
        record_scene(curved(), torch.full((3,), torch.nan), config=config)
