"""One camera for all frames of an export, and the unit by a measured baseline."""

from pathlib import Path

import pycolmap
import pytest
import torch
from scenes import make_clip, make_scene

from recon4d.cli.main import main
from recon4d.io import SceneInfo, write_results
from recon4d.records import Cameras


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write a scene whose frames have focal lengths of 100 %, 110 % and 130 %."""
    scene, clip = make_scene(3), make_clip(3, *make_scene(3).size)
    zoom = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [1.1, 1.1, 1.0], [1.3, 1.3, 1.0]]))
    cameras = Cameras(scene.cameras.world_from_cam, zoom @ scene.cameras.intrinsics)
    (tmp_path / "out").mkdir()
    info = SceneInfo("truth", True, "0", None, scene.size, {})
    write_results(tmp_path / "out", clip, scene.with_cameras(cameras), info)
    return tmp_path / "out"


@pytest.mark.parametrize(("options", "count"), [((), 3), (("--one-camera",), 1)])
def test_the_number_of_cameras(results: Path, tmp_path: Path, options: tuple[str, ...], count: int) -> None:
    kinds = ("colmap", "colmap-text")
    assert main(["export", str(results), "--to", *kinds, "--out", str(tmp_path / "e"), *options]) == 0
    for kind in kinds:
        model = pycolmap.Reconstruction(tmp_path / "e" / kind / "sparse" / "0")
        assert len(model.cameras) == count
        assert len(model.images) == 3
        median = 1.1 * make_scene(3).cameras.intrinsics[1, 0, 0]
        if count == 1:
            assert float(next(iter(model.cameras.values())).params[0]) == pytest.approx(float(median), rel=1e-5)
        # Observations are where the cameras see the points, also with the common lens.
        assert model.compute_mean_reprojection_error() < 0.5


def test_a_baseline_gives_meters(results: Path, tmp_path: Path, capsys) -> None:
    arguments = ["export", str(results), "--to", "tum", "--out", str(tmp_path / "e")]
    assert main([*arguments, "--baseline", "0", "2", "7.5"]) == 0
    rows = [line.split() for line in (tmp_path / "e" / "tum" / "trajectory.txt").read_text().splitlines()[1:]]
    first, last = (torch.tensor([float(value) for value in rows[frame][1:4]]) for frame in (0, 2))
    assert float((first - last).norm()) == pytest.approx(7.5, rel=1e-5)
    assert main([*arguments, "--overwrite", "--baseline", "0", "9", "7.5"]) == 2
    assert "wanted two of 0 to 2" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--baseline", "0", "2", "7.5", "--metres-per-unit", "2"]) == 2
    assert "give only one of the two" in capsys.readouterr().err
