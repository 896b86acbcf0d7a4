"""Without Open3D, what needs it says so in one line, and everything else works."""

import sys
from pathlib import Path

import pytest
from scenes import make_scene

from recon4d.errors import UserError
from recon4d.eval.metrics.points import point_scores
from recon4d.io.exporters.meshes import write_alpha
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.open3d_loader import load_open3d


@pytest.fixture
def _without_open3d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)


@pytest.mark.usefixtures("_without_open3d")
def test_the_error_names_the_versions_of_python_that_have_it(tmp_path: Path) -> None:
    frames = SelectedFrames.__new__(SelectedFrames)  # nothing of it is read
    for function in (load_open3d, lambda: write_alpha(tmp_path, frames)):
        with pytest.raises(UserError, match=r"need open3d 0\.19, which .* wheels for Python 3\.11 and"):
            function()


@pytest.mark.usefixtures("_without_open3d")
def test_other_metrics_of_points_are_scored() -> None:
    scene = make_scene()
    found = {score.metric: score for score in point_scores(scene, scene)}
    assert found["point_epe"].value < 1e-4
    assert found["chamfer"].value < 1e-4
    assert found["normal_consistency"].value != found["normal_consistency"].value
    assert "need open3d" in found["normal_consistency"].note


def test_it_is_loaded_where_it_is_installed() -> None:
    pytest.importorskip("open3d")
    assert load_open3d().geometry.PointCloud is not None
