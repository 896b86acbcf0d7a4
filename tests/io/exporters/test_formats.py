"""Exported files keep their meaning: formats are read back by other programs, by hand or byte by byte."""

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from exported_walls import save, wall, written
from scenes import HEIGHT, WIDTH, make_scene
from scipy.spatial.transform import Rotation

from recon4d import geometry as g
from recon4d.cli.main import main
from recon4d.io import (
    FORMATS,
    PointSelection,
    SavedResults,
    export_results,
    read_photo,
    read_raster,
    read_results,
)
from recon4d.io.exporters.gaussian_splats import PROPERTIES, gaussians
from recon4d.io.exporters.meshes import voxel_length
from recon4d.records import Scene

open3d = pytest.importorskip("open3d")

PAGE = (Path(__file__).parents[3] / "docs" / "export.md").read_text()

EVERYTHING = PointSelection(drop=0.0)


class TestNerfstudio:
    def test_the_camera_looks_along_minus_z_with_y_up(self, tmp_path, results):
        folder = written(tmp_path, results, "nerfstudio")
        content = json.loads((folder / "transforms.json").read_text())
        # The first camera is the identity in OpenCV axes.
        assert content["frames"][0]["transform_matrix"] == [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
        scene, cameras = results.scene, results.original_cameras()
        for frame, entry in enumerate(content["frames"]):
            assert (folder / entry["file_path"]).read_bytes() == results.frame_files[frame].read_bytes()
            gl = np.linalg.inv(entry["transform_matrix"]) @ [*scene.points[frame, 3, 5].tolist(), 1.0]
            assert gl[2] < 0
            # Projection in OpenGL axes: x is right, y is up.
            x = entry["cx"] + entry["fl_x"] * gl[0] / -gl[2]
            y = entry["cy"] - entry["fl_y"] * gl[1] / -gl[2]
            np.testing.assert_allclose([x, y], [2 * 5.5, 2 * 3.5], atol=1e-4)
            assert (entry["h"], entry["w"]) == (2 * HEIGHT, 2 * WIDTH)
        assert cameras.intrinsics[0, 0, 0] == content["frames"][0]["fl_x"]
        cloud = trimesh.load(folder / content["ply_file_path"])
        np.testing.assert_allclose(cloud.vertices[:, 2], 4 + cloud.vertices[:, 0] / 4, atol=1e-5)

    @pytest.mark.parametrize(("length", "has_factor"), [(1.0, False), (50.0, True), (0.01, True)])
    def test_depth_times_the_factor_is_in_the_unit_of_the_cameras(self, tmp_path, results, length, has_factor):
        """nerfstudio multiplies values by its option, 0.001 by default; the summary names any other factor."""
        scene = results.scene
        scene.depth_confidence[1, 2, 3] = 0.0
        results = results.with_scene(scene.scaled(length))
        (exported,) = export_results(tmp_path / "out", results, ["nerfstudio"], EVERYTHING)
        folder = tmp_path / "out" / "nerfstudio"
        content = json.loads((folder / "transforms.json").read_text())
        factors = re.findall(r"--depth-unit-scale-factor (\S+)", exported.summary)
        factor = float(factors[0]) if factors else 1e-3
        assert bool(factors) == has_factor
        assert content["depth_unit_scale_factor"] == factor
        for frame, entry in enumerate(content["frames"]):
            values = read_raster(folder / entry["depth_file_path"])
            assert values.dtype == np.uint16
            assert values.shape == scene.size
            wanted = results.scene.depths[frame].numpy() * (results.scene.depth_confidence[frame].numpy() > 0)
            np.testing.assert_allclose(values * factor, wanted, atol=0.51 * factor)
            assert (values == 0).sum() == (frame == 1)


class TestClouds:
    def test_dynamic_points_are_only_in_the_clouds_of_times(self, tmp_path, results):
        folder = written(tmp_path, results, "ply")
        counts = {path.name: len(trimesh.load(path).vertices) for path in folder.iterdir()}
        a_frame = HEIGHT * WIDTH
        times = {f"time_{name}.ply": a_frame for name in ("first_picture", "second", "third")}
        assert counts == {"static.ply": 3 * a_frame * 3 // 4, **times}
        cloud = trimesh.load(folder / "time_second.ply")
        np.testing.assert_allclose(cloud.vertices, results.scene.points[1].reshape(-1, 3), atol=1e-5)
        assert np.abs(np.asarray(cloud.colors)[:, :3].astype(int) - [100, 100, 200]).max() <= 3

    def test_glb_has_y_up(self, tmp_path, results):
        (geometry,) = trimesh.load(written(tmp_path, results, "glb") / "time_first_picture.glb").geometry.values()
        wanted = results.scene.points[0].reshape(-1, 3).numpy() * [1, -1, -1]
        np.testing.assert_allclose(geometry.vertices, wanted, atol=1e-5)
        # The upper half of the picture is above the camera.
        assert geometry.vertices[0, 1] > 0

    def test_the_least_confident_are_dropped_and_the_rest_is_subsampled(self, tmp_path, results):
        confidence = torch.arange(results.scene.depths.numel()).reshape(results.scene.depths.shape) + 1.0
        graded = results.with_scene(replace(results.scene, depth_confidence=confidence, dynamic=0 * confidence))

        def count(out: str, selection: PointSelection) -> int:
            return len(trimesh.load(written(tmp_path / out, graded, "ply", selection) / "static.ply").vertices)

        total = confidence.numel()
        assert count("half", PointSelection(drop=50)) == total // 2
        assert count("least", PointSelection(drop=0, min_confidence=total - 9)) == 10
        assert count("thin", PointSelection(drop=0, max_points=17)) == 17


class TestTrajectory:
    def test_lines_are_by_time_and_quaternions_have_w_last(self, tmp_path, results):
        lines = (written(tmp_path, results, "tum") / "trajectory.txt").read_text().splitlines()
        rows = np.array([[float(word) for word in line.split()] for line in lines if not line.startswith("#")])
        np.testing.assert_allclose(rows[:, 0], [0.0, 0.1, 0.2], atol=1e-6)
        matrices = results.scene.cameras.world_from_cam[[1, 2, 0]].numpy()
        np.testing.assert_allclose(rows[:, 1:4], matrices[:, :3, 3], atol=1e-6)
        np.testing.assert_allclose(Rotation.from_quat(rows[:, 4:]).as_matrix(), matrices[:, :3, :3], atol=1e-6)

    def test_photos_are_numbered_and_unknown_cameras_left_out(self, tmp_path):
        scene = wall()
        scene.cameras.world_from_cam[1] = torch.nan
        results = read_results(save(tmp_path / "photos", scene, torch.full((3,), torch.nan)))
        lines = (written(tmp_path, results, "tum") / "trajectory.txt").read_text().splitlines()
        assert "frame number" in lines[0]
        assert [float(line.split()[0]) for line in lines[1:]] == [0.0, 2.0]


class TestReducedImages:
    @pytest.mark.parametrize("name", ["colmap", "colmap-text", "nerfstudio"])
    def test_smaller_copies_have_the_same_names(self, tmp_path, name):
        factor = 2 * -(-64 // min(HEIGHT, WIDTH))  # pictures whose half has 64 pixels or more
        results = read_results(save(tmp_path / "results", wall(), factor=factor))
        folder = written(tmp_path, results, name)
        assert {path.name for path in folder.iterdir() if path.name.startswith("images")} == {"images", "images_2"}
        names = {path.name for path in (folder / "images").iterdir()}
        assert {path.name for path in (folder / "images_2").iterdir()} == names
        for number, copy in enumerate(("first_picture.jpg", "second.jpg", "third.jpg")):
            image = read_photo(folder / "images_2" / copy)
            assert image.shape == (3, factor * HEIGHT // 2, factor * WIDTH // 2)
            assert (image[0].int() - (40 + 60 * number)).abs().max() <= 4

    def test_copies_that_would_be_too_small_are_left_out(self, tmp_path, results):
        folder = written(tmp_path, results, "colmap")
        assert not list(folder.glob("images_*"))


class TestGaussians:
    def test_properties_have_the_names_that_trainers_and_viewers_read(self, tmp_path, results):
        data = (written(tmp_path, results, "splats") / "splats.ply").read_bytes()
        header, body = data.split(b"end_header\n", 1)
        named = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
        further = [f"f_rest_{number}" for number in range(45)]  # degree 3
        wanted = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
        assert (
            named
            == [*["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"], *further, *wanted]
            == list(PROPERTIES)
        )
        rows = np.frombuffer(body, "<f4").reshape(-1, len(named))
        assert len(rows) == 3 * HEIGHT * WIDTH * 3 // 4
        np.testing.assert_allclose(rows[:, 2], 4 + rows[:, 0] / 4, atol=1e-5)
        # The red of the three pictures is 40, 100 and 160.
        red = (0.5 + 0.28209479177387814 * rows[:, 6]) * 255
        thirds = red.reshape(3, -1)
        assert np.abs(thirds - np.array([[40], [100], [160]])).max() <= 3
        np.testing.assert_allclose(1 / (1 + np.exp(-rows[:, 54])), 0.1, atol=1e-6)
        assert (rows[:, 9:54] == 0).all()
        np.testing.assert_array_equal(rows[:, 58:], np.tile([1, 0, 0, 0], (len(rows), 1)))

    def test_size_is_the_distance_to_the_three_nearest(self):
        grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), dim=-1).reshape(-1, 2)
        points = torch.cat([2 * grid, torch.zeros(16, 1)], dim=1)
        scales = np.exp(gaussians(points, torch.zeros(16, 3, dtype=torch.uint8))[:, 55:58])
        inner, corner = 5, 0
        np.testing.assert_allclose(scales[inner], 2.0, rtol=1e-6)
        # A corner has two neighbors at 2 and one at 2 sqrt 2.
        np.testing.assert_allclose(scales[corner], math.sqrt((4 + 4 + 8) / 3), rtol=1e-6)

    def test_coinciding_points_have_a_finite_size(self):
        points = torch.tensor([[0.0, 0, 0]] * 4 + [[1.0, 0, 0], [1.0, 2, 0]])
        assert np.isfinite(gaussians(points, torch.zeros(6, 3, dtype=torch.uint8))).all()


class TestSurfaces:
    @pytest.mark.parametrize("name", ["tsdf", "poisson", "alpha"])
    def test_the_mesh_is_the_wall(self, tmp_path, results, name):
        # The dynamic part is in front of the wall.
        depths = torch.where(results.scene.dynamic > 0, 0.8 * results.scene.depths, results.scene.depths)
        results = results.with_scene(replace(results.scene, depths=depths))
        mesh = open3d.io.read_triangle_mesh(str(written(tmp_path, results, name) / f"{name}.ply"))
        vertices = np.asarray(mesh.vertices)
        assert len(mesh.triangles) > 50
        voxel = voxel_length(results.scene.depths.median(), results.scene.cameras.intrinsics[:, 0, 0].median())
        distances = np.abs(vertices @ [-0.25, 0, 1] - 4) / math.hypot(0.25, 1)
        assert np.quantile(distances, 0.9) < voxel / 4
        # It is as large as the static part of the wall in the pictures.
        points = results.scene.points[results.scene.dynamic == 0].numpy()
        assert np.abs(vertices.min(axis=0) - points.min(axis=0)).max() < 3 * voxel
        assert np.abs(vertices.max(axis=0) - points.max(axis=0)).max() < 3 * voxel
        assert np.abs(np.asarray(mesh.vertex_colors)[:, 1] * 255 - 100).max() < 5
        if name != "alpha":  # An alpha shape is closed and has a back side.
            mesh.compute_triangle_normals()
            centroids = vertices[np.asarray(mesh.triangles)].mean(axis=1)
            toward = (np.asarray(mesh.triangle_normals) * (0 - centroids)).sum(axis=1) > 0
            assert toward.mean() > 0.9

    def test_poisson_leaves_holes_open(self, tmp_path, results):
        confidence, dynamic = torch.zeros(3, HEIGHT, WIDTH), torch.zeros(3, HEIGHT, WIDTH)
        confidence[0] = 1.0
        dynamic[0, 2:10, 4:12] = 1.0
        holed = results.with_scene(replace(results.scene, depth_confidence=confidence, dynamic=dynamic))
        mesh = open3d.io.read_triangle_mesh(str(written(tmp_path, holed, "poisson") / "poisson.ply"))
        # The first camera is the world. Distances from the center of the hole are in pixels of the maps.
        pixels = g.project(torch.from_numpy(np.asarray(mesh.vertices)).float(), results.scene.cameras.intrinsics[0])
        distances = (pixels - torch.tensor([8.0, 6.0])).norm(dim=-1)
        assert float(distances.min()) > 1.0
        assert float(distances.max()) > 7.0


class TestUnitsAndGround:
    def test_scaling_changes_units_and_not_meters(self):
        scene = make_scene(metres_per_unit=3.0)
        twice = scene.scaled(2.0)
        torch.testing.assert_close(twice.depths, 2 * scene.depths)
        torch.testing.assert_close(twice.cameras.centers, 2 * scene.cameras.centers)
        assert float(twice.metres_per_unit) == 1.5
        metric = scene.in_metres(0.5)
        torch.testing.assert_close(metric.points, 0.5 * scene.points)
        assert float(metric.metres_per_unit) == 1.0

    def test_one_known_distance_gives_meters(self):
        scene = make_scene()
        metric = scene.in_metres_by_distance(1, (3, 2), (12, 9), 7.0)
        apart = metric.points_from_depth[1, 2, 3] - metric.points_from_depth[1, 9, 12]
        assert float(apart.norm()) == pytest.approx(7.0, rel=1e-5)
        assert float(metric.metres_per_unit) == 1.0

    def test_the_ground_becomes_level(self):
        trace = exact_scene()
        _, scene = trace(torch.arange(3) / 6)
        # The world is rotated and translated.
        turn = g.rotation_from_axis_angle(torch.tensor([0.7, -2.0, 0.4]))
        scene = scene.transformed(g.rigid(turn, torch.tensor([3.0, -1.0, 2.0]))).levelled()
        points = scene.points_from_depth[scene.depth_confidence > 0]
        on_ground = points[:, 1].abs() < 0.01
        # More than half of the pixels show the ground, and nothing is below it.
        assert on_ground.double().mean() > 0.5
        near = scene.depths[scene.depth_confidence > 0] < 20
        assert float(points[near, 1].max()) < 0.01
        center, forward = scene.cameras.centers[0], scene.cameras.world_from_cam[0, :3, 2]
        # The first camera is 1.7 above the origin, which is on the ground, and looks along z and 0.12 rad down.
        torch.testing.assert_close(center, torch.tensor([0.0, -1.7, 0.0]), atol=0.02, rtol=0)
        wanted = torch.tensor([0.0, math.sin(0.12), math.cos(0.12)])
        torch.testing.assert_close(forward, wanted, atol=0.005, rtol=0)


def exact_scene():
    """Load the function `trace` of examples/exact_scene.py."""
    path = Path(__file__).parents[3] / "examples" / "exact_scene.py"
    specification = importlib.util.spec_from_file_location("exact_scene", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.trace


class TestCommand:
    def test_overwriting_replaces_an_earlier_export_only(self, tmp_path, capsys):
        folder, out = save(tmp_path / "results", wall()), tmp_path / "out"
        command = ["export", str(folder), "--out", str(out), "--to"]
        assert main([*command, "tum"]) == 0
        first = (out / "tum" / "trajectory.txt").read_bytes()
        assert main([*command, "depth-png"]) == 2
        # A failed export keeps the earlier one: a picture is missing.
        (folder / "frames" / "second.jpg").rename(folder / "second.jpg")
        assert main([*command, "tum", "colmap", "--overwrite"]) == 2
        assert (out / "tum" / "trajectory.txt").read_bytes() == first
        (folder / "second.jpg").rename(folder / "frames" / "second.jpg")
        assert main([*command, "depth-png", "--overwrite"]) == 0
        assert {path.name for path in out.iterdir()} == {"depth-png", "export.json"}
        # Files that the export did not write are not deleted, at any depth.
        (out / "depth-png" / "trained").mkdir()
        (out / "depth-png" / "trained" / "model.ply").write_text("hours")
        capsys.readouterr()
        assert main([*command, "tum", "--overwrite"]) == 2
        assert "also holds depth-png/trained/model.ply" in capsys.readouterr().err
        assert (out / "depth-png" / "trained" / "model.ply").read_text() == "hours"
        for name in ("results", "notes"):
            other = tmp_path / name
            other.mkdir(exist_ok=True)
            (other / "note.txt").write_text("mine")
            assert main(["export", str(folder), "--out", str(other), "--to", "tum", "--overwrite"]) == 2
            assert "holds no export.json" in capsys.readouterr().err
            assert (other / "note.txt").exists()

    def test_the_removed_distortion_is_kept(self, tmp_path):
        scene = replace(wall(), distortion=torch.tensor([-0.25, 0.5, 0.0, 0.0, 0.0]))
        folder = save(tmp_path / "results", scene)
        assert main(["export", str(folder), "--to", "colmap", "--out", str(tmp_path / "out")]) == 0
        record = json.loads((tmp_path / "out" / "export.json").read_text())
        assert record["removed_distortion"] == {"k1": -0.25, "k2": 0.5, "p1": 0, "p2": 0, "k3": 0}

    def test_several_formats_in_meters(self, tmp_path, capsys):
        folder = save(tmp_path / "results", wall())
        out = tmp_path / "out"
        command = ["export", str(folder / "scene.npz"), "--to", "colmap", "tum", "--out", str(out)]
        assert main([*command, "--metres-per-unit", "2"]) == 0
        assert {path.name for path in out.iterdir()} == {"colmap", "tum", "export.json"}
        assert "reprojection residual" in capsys.readouterr().out
        last = (out / "tum" / "trajectory.txt").read_text().splitlines()[-1]
        # Frame 0 is the latest; frame 2, one line before it, is at (0.2, -0.1, 0.4) units.
        assert [float(word) for word in last.split()[1:4]] == [0, 0, 0]
        line = (out / "tum" / "trajectory.txt").read_text().splitlines()[-2]
        np.testing.assert_allclose([float(word) for word in line.split()[1:4]], [0.4, -0.2, 0.8], atol=1e-6)

    def test_user_errors_are_one_line_and_leave_nothing(self, tmp_path, capsys):
        folder = save(tmp_path / "results", wall())
        blind = wall()
        save(tmp_path / "blind", replace(blind, depth_confidence=torch.zeros_like(blind.depths)))
        alone = save(tmp_path / "alone", wall())
        for picture in (alone / "frames").iterdir():
            picture.unlink()
        np.savez(tmp_path / "foreign.npz", depth=np.zeros(3))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "letter.txt").write_text("mine")
        cases = [
            (tmp_path / "foreign.npz", "tum", "out", "recon4d did not write it"),
            (tmp_path / "nothing.npz", "tum", "out", "does not exist"),
            (tmp_path / "blind", "ply", "out", "no pixel has a known depth"),
            (tmp_path / "blind", "depth-exr", "out", "no pixel has a known depth"),
            (folder, "obj", "out", "no format 'obj'; wanted some of colmap, colmap-text"),
            (folder, "tum", "full", "is not empty"),
            (alone, "colmap", "out", "needs the frames beside the scene"),
        ]
        for scene, name, out, message in cases:
            capsys.readouterr()
            assert main(["export", str(scene), "--to", name, "--out", str(tmp_path / out)]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1
            assert message in lines[0]
            assert not (tmp_path / "out").exists()
        assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
        assert main(["export", str(folder), "--to", "tum", "--out", str(tmp_path / "out"), "--level"]) == 2
        assert "no ground plane found" in capsys.readouterr().err
        # If one of several formats fails, none is written.
        assert main(["export", str(tmp_path / "blind"), "--to", "tum", "ply", "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()

    def test_the_help_and_the_page_list_every_format(self, capsys):
        with pytest.raises(SystemExit):
            main(["export", "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for name in FORMATS:
            assert f"| `{name}` |" in PAGE
            assert name in text


def test_the_python_block_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = torch.arange(2) / 6
    _, scene = exact_scene()(times)
    save(tmp_path / "out", scene, times, factor=1)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    metric, results = names["metric"], names["results"]
    assert isinstance(metric, Scene)
    assert isinstance(results, SavedResults)
    apart = metric.points_from_depth[0, 150, 40] - metric.points_from_depth[0, 150, 90]
    assert float(apart.norm()) == pytest.approx(1.5, rel=1e-5)
    # The camera is 1.7 units above the ground, where y is 0.
    units = scene.points_from_depth[0, 150, 40] - scene.points_from_depth[0, 150, 90]
    cloud = trimesh.load(tmp_path / "out_level" / "ply" / "static.ply")
    assert np.quantile(cloud.vertices[:, 1], 0.99) == pytest.approx(0.0, abs=0.02)
    height = -float(results.scene.cameras.centers[0, 1])
    assert height == pytest.approx(1.7 * 1.5 / float(units.norm()), rel=0.01)


def test_pixels_of_unknown_motion_count_as_static(tmp_path):
    scene = replace(make_scene(), tracks=None, dynamic=torch.full((3, HEIGHT, WIDTH), torch.nan))
    folder = written(tmp_path, read_results(save(tmp_path / "results", scene)), "ply")
    assert len(trimesh.load(folder / "static.ply").vertices) == 3 * HEIGHT * WIDTH
