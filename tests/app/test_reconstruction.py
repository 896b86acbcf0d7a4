"""From a folder of files to a result, without a page: the record, the views, warnings and refusals."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import walls

from recon4d.app import JobOptions, reconstruct_folder, reconstruction
from recon4d.app.reconstruction import describe_results
from recon4d.app.scene_views import _grid_faces
from recon4d.errors import UserError
from recon4d.io import read_results, write_jpeg, write_results
from recon4d.records import Clip
from recon4d.runs.stages import Stages


class Recorded(Stages):
    """Stages that remember what they were told."""

    def __init__(self) -> None:
        super().__init__(is_refined=False)
        self.names: list[str] = []
        self.lines: list[str] = []

    def start(self, stage: str) -> None:
        super().start(stage)
        self.names.append(stage)

    def print(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A wall of exact depth, whose left half is red and moves."""
    folder = tmp_path / "results"
    folder.mkdir()
    info = walls.make_info(source=None, original_size=(walls.HEIGHT, walls.WIDTH))
    write_results(folder, walls.make_clip(), walls.make_scene(), info)
    return folder


def vertices(path: Path) -> list[np.ndarray]:
    scene = trimesh.load_scene(path)
    return [np.asarray(mesh.vertices) for mesh in scene.geometry.values()]  # pyright: ignore[reportAttributeAccessIssue]


def test_pictures_become_a_result_with_stages_lines_and_views(tmp_path: Path):
    inputs = tmp_path / "clip"
    inputs.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        image = torch.randint(0, 256, (3, 48, 64), generator=generator, dtype=torch.uint8)
        write_jpeg(inputs / f"{number}.jpg", image)
    stages = Recorded()
    options = JobOptions("recon4d_mini", num_frames=2, is_refined=False, tracked="none")
    result = reconstruct_folder(inputs, tmp_path / "out", options, stages)
    assert stages.names == ["reading", "network", "writing", "preparing the 3D view"]
    assert "2 frames of 64 x 48 pixels" in stages.lines[0]
    assert result.labels == ("picture 1", "picture 2")
    assert read_results(result.folder).scene.tracks is None
    assert all(path.stat().st_size > 0 for path in (*result.moments, *result.scenes))
    assert any("model: recon4d_mini" in line for line in result.summary)
    assert any("expected median error" in line for line in result.confidence)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.txt", b"hello", "is not a video"), ("a.jpg", b"hello", "a.jpg"), ("a.mp4", b"", "is not a video")],
)
def test_files_that_are_no_clip_are_one_line(name: str, content: bytes, message: str, tmp_path: Path):
    inputs = tmp_path / "clip"
    inputs.mkdir()
    (inputs / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        reconstruct_folder(inputs, tmp_path / "out", JobOptions("recon4d_mini"), Recorded())
    assert not (tmp_path / "out").exists()


def test_a_model_without_weights_is_refused(tmp_path: Path):
    inputs = tmp_path / "clip"
    inputs.mkdir()
    write_jpeg(inputs / "a.jpg", torch.zeros(3, 48, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match="recon4d_tiny has no trained weights yet"):
        reconstruct_folder(inputs, tmp_path / "out", JobOptions("recon4d_tiny", is_refined=False), Recorded())


def test_warnings_and_problems_are_what_to_distrust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(inputs, out, options, stages):
        out.mkdir()
        warnings.warn("the video is damaged", stacklevel=1)
        warnings.warn("old code", DeprecationWarning, stacklevel=1)
        info = walls.make_info(source=None, original_size=(walls.HEIGHT, walls.WIDTH), trained=False)
        write_results(out, walls.make_clip(), walls.make_scene(), info)

    monkeypatch.setattr(reconstruction, "_write_results", write)
    result = reconstruct_folder(tmp_path, tmp_path / "out", JobOptions("recon4d_mini"), Recorded())
    assert "the video is damaged" in result.distrust
    assert any("never trained" in line for line in result.distrust)
    assert "old code" not in result.distrust


class TestViews:
    def test_all_views_lie_in_the_unit_sphere_of_the_same_axes(self, results: Path):
        result = describe_results(results, 0.0)
        assert len(result.moments) == len(result.scenes) == walls.NUM_FRAMES
        surfaces = [max(vertices(path), key=len) for path in result.moments]
        largest = max(float(np.linalg.norm(surface, axis=1).max()) for surface in surfaces)
        assert 0.9 < largest <= 1.001

    def test_the_surface_has_the_shape_of_the_depth(self, results: Path):
        """Distances between vertices are those of the points, up to the one scale of all views."""
        scene = read_results(results).scene
        surface = max(vertices(describe_results(results, 0.0).moments[0]), key=len)
        points = scene.points_from_depth[0].reshape(-1, 3).double().numpy()
        extent = np.ptp(points, axis=0)[:2] / np.ptp(surface, axis=0)[:2]
        assert len(surface) == len(points)
        np.testing.assert_allclose(extent, extent[0], rtol=1e-3)

    def test_depth_edges_and_unknown_pixels_have_no_triangles(self):
        depths = torch.ones(3, 4)
        assert len(_grid_faces(torch.ones(3, 4, dtype=torch.bool), depths)) == 12
        depths[:, 2:] = 2.0
        assert len(_grid_faces(torch.ones(3, 4, dtype=torch.bool), depths)) == 8
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[0, 0] = False
        assert len(_grid_faces(mask, torch.ones(3, 4))) == 11

    def test_views_are_small(self, tmp_path: Path):
        """A scene of the size that results have: 512 pixels wide."""
        folder = tmp_path / "results"
        folder.mkdir()
        clip, scene = walls.make_clip(), walls.make_scene().resized(288, 512)
        clip = Clip(clip.resized(288, 512).images, clip.times)
        info = walls.make_info(source=None, original_size=clip.size)
        write_results(folder, clip, scene, info)
        result = describe_results(folder, 20.0)
        assert max(path.stat().st_size for path in (*result.moments, *result.scenes)) < 3e6
