"""Animated glTF and USD show the points of each time at that time, and their cameras see what the pictures show."""

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from exported_walls import EVERYTHING, TIMES, save, wall, written
from scenes import HEIGHT, WIDTH, make_scene
from scipy.spatial.transform import Rotation
from walls import make_curves

from recon4d.errors import UserError
from recon4d.geometry import project, transform_points
from recon4d.io import PointSelection, SavedResults, export_results, read_results
from recon4d.io.exporters.gltf_animation import linear_colors
from recon4d.records import Scene

ORDER = TIMES.argsort().tolist()
STEP = 0.1
"""Time between two frames, for which the last one is shown too."""


@pytest.fixture
def results(tmp_path: Path) -> SavedResults:
    return read_results(save(tmp_path / "results", wall()))


def wall_with_lens(factors: torch.Tensor, shift: torch.Tensor | None = None) -> Scene:
    """Make the wall with other focal lengths and principal points; factors of the rows of the intrinsics."""
    scene = wall()
    intrinsics = scene.cameras.intrinsics * torch.diag_embed(factors).expand(3, 3, 3).sum(dim=-1, keepdim=True)
    intrinsics[:, :2, 2] = scene.cameras.intrinsics[:, :2, 2] + (0 if shift is None else shift)
    return replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics))


class Glb:
    """A binary glTF file, read by hand."""

    def __init__(self, file: Path) -> None:
        data = file.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        self.content = json.loads(data[20 : 20 + size])
        assert struct.unpack_from("<I4s", data, 20 + size)[1] == b"BIN\0"
        self.buffer = data[28 + size :]
        (animation,) = self.content["animations"]
        self.channels = [
            (channel["target"], animation["samplers"][channel["sampler"]]) for channel in animation["channels"]
        ]

    def array(self, index: int) -> np.ndarray:
        accessor = self.content["accessors"][index]
        view = self.content["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2"}[accessor["componentType"]]
        columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        values = np.frombuffer(self.buffer, kind, accessor["count"] * columns, view["byteOffset"])
        values = values.reshape(-1, columns)
        np.testing.assert_array_equal(accessor["min"], values.min(axis=0))
        return values[:, 0] if columns == 1 else values

    def node(self, name: str) -> int:
        return [node["name"] for node in self.content["nodes"]].index(name)

    def curve(self, node: int, path: str) -> tuple[np.ndarray, np.ndarray, str]:
        (sampler,) = [sampler for target, sampler in self.channels if target == {"node": node, "path": path}]
        return self.array(sampler["input"]), self.array(sampler["output"]), sampler["interpolation"]

    def shown_at(self, time: float) -> list[str]:
        """Names of the nodes with points whose scale is 1 at a time."""
        shown = []
        for number, node in enumerate(self.content["nodes"]):
            if node["name"] == "camera":
                continue
            keys, scales, interpolation = self.curve(number, "scale")
            assert interpolation == "STEP"
            assert (scales == scales[:, :1]).all()
            scale = scales[np.searchsorted(keys, np.float32(time), side="right") - 1, 0]
            assert scale in (0, 1)
            shown += [node["name"]] * int(scale)
        return shown


class TestGltf:
    def test_each_time_shows_its_own_points_and_no_others(self, tmp_path: Path, results: SavedResults) -> None:
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        names = [f"time_{results.names[frame]}" for frame in ORDER]
        for number, name in enumerate(names):
            for later in (0.001, 0.5 * STEP, STEP - 0.001):
                assert glb.shown_at(number * STEP + later) == [name]
            node = glb.content["nodes"][glb.node(name)]
            assert node["extras"]["seconds"] == pytest.approx(number * STEP)
            assert node["scale"] == [float(number == 0)] * 3
        ends = [glb.array(sampler["input"]).max() for _, sampler in glb.channels]
        assert max(ends) == pytest.approx(len(ORDER) * STEP)

    def test_key_times_are_those_of_the_clip(self, tmp_path: Path, results: SavedResults) -> None:
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        times = (TIMES - TIMES.min()).sort().values
        np.testing.assert_allclose(glb.curve(glb.node("camera"), "translation")[0], times, atol=1e-6)

    def test_points_and_colors_are_those_of_the_frame(self, tmp_path: Path, results: SavedResults) -> None:
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        for frame in ORDER:
            mesh = glb.content["nodes"][glb.node(f"time_{results.names[frame]}")]["mesh"]
            (primitive,) = glb.content["meshes"][mesh]["primitives"]
            assert primitive["mode"] == 0
            points = glb.array(primitive["attributes"]["POSITION"]) * [1, -1, -1]
            expected = results.scene.points[frame].reshape(-1, 3).numpy()
            distance = np.linalg.norm(points[:, None] - expected, axis=-1).min(axis=1)
            assert distance.max() < 1e-5
            assert len(points) > len(expected) / 2
            red = glb.array(primitive["attributes"]["COLOR_0"])[:, 0] / 65535
            # Pictures have the red 40 + 60 * frame, in sRGB.
            np.testing.assert_allclose(red, ((40 + 60 * frame) / 255) ** 2.2, atol=0.02)

    def test_the_camera_projects_the_points_to_their_pixels(self, tmp_path: Path, results: SavedResults) -> None:
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        node = glb.node("camera")
        lens = glb.content["cameras"][glb.content["nodes"][node]["camera"]]["perspective"]
        centers, rotations = glb.curve(node, "translation")[1], glb.curve(node, "rotation")[1]
        assert (np.sum(rotations[1:] * rotations[:-1], axis=1) > 0).all()
        for number, frame in enumerate(ORDER):
            y_up = results.scene.points[frame, 3, 5].numpy() * [1, -1, -1]
            x, y, z = Rotation.from_quat(rotations[number]).inv().apply(y_up - centers[number])
            half = np.tan(lens["yfov"] / 2)
            in_view = [x / -z / (half * lens["aspectRatio"]), -y / -z / half]
            principal = results.scene.cameras.intrinsics[frame, :2, 2].numpy()
            np.testing.assert_allclose(principal + in_view * np.array([WIDTH, HEIGHT]) / 2, [5.5, 3.5], atol=1e-3)

    def test_a_zoom_is_animated(self, tmp_path: Path) -> None:
        scene = wall_with_lens(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 1.0]]))
        results = read_results(save(tmp_path / "zoom", scene))
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        pointers = [
            (target["extensions"]["KHR_animation_pointer"]["pointer"], glb.array(sampler["output"]))
            for target, sampler in glb.channels
            if target["path"] == "pointer"
        ]
        ((pointer, angles),) = pointers
        assert pointer == "/cameras/0/perspective/yfov"
        expected = [2 * np.arctan(HEIGHT / 2 / scene.cameras.intrinsics[frame, 1, 1]) for frame in ORDER]
        np.testing.assert_allclose(angles, expected, atol=1e-6)
        assert "KHR_animation_pointer" in glb.content["extensionsUsed"]

    def test_trimesh_reads_every_cloud(self, tmp_path: Path, results: SavedResults) -> None:
        scene = trimesh.load(written(tmp_path, results, "animation") / "animation.glb")
        assert len(scene.geometry) == len(ORDER)
        assert all(isinstance(cloud, trimesh.PointCloud) for cloud in scene.geometry.values())

    def test_all_times_share_the_largest_number_of_points(self, tmp_path: Path, results: SavedResults) -> None:
        file = written(tmp_path, results, "animation", PointSelection(drop=0.0, max_points=30)) / "animation.glb"
        counts = [accessor["count"] for accessor in Glb(file).content["accessors"] if accessor["componentType"] == 5123]
        assert len(counts) == len(ORDER)
        assert 20 <= sum(counts) <= 30

    def test_points_interpolated_frames_are_on_the_curves(self, tmp_path: Path) -> None:
        """What moves is shown at each time between the frames, beside the static points of the frames."""
        scene = replace(wall(), trajectories=replace(make_curves(samples=False), visibility=torch.ones(4, 3)))
        scene.dynamic[:, :4] = 1
        times = torch.tensor([0.0, 0.1, 0.2])
        results = read_results(save(tmp_path / "curves", scene, times))
        selection = replace(EVERYTHING, interpolated_frames=3)
        glb = Glb(written(tmp_path, results, "animation", selection) / "animation.glb")
        assert [name for name in glb.shown_at(0.051) if name.startswith("moving")] == ["moving_0.0500"]
        assert [name for name in glb.shown_at(0.051) if name.startswith("time")] == [f"time_{results.names[0]}"]
        curves = scene.trajectories
        assert curves is not None
        for step in range(9):
            time = 0.2 * step / 8
            mesh = glb.content["nodes"][glb.node(f"moving_{time:.4f}")]["mesh"]
            (primitive,) = glb.content["meshes"][mesh]["primitives"]
            points = glb.array(primitive["attributes"]["POSITION"]) * [1, -1, -1]
            np.testing.assert_allclose(points, scene.at(time).points[-4:], atol=1e-5)
            # Pictures have the red 40 + 60 * frame, in sRGB; curves are of the frames 0, 1, 2 and 0.
            red = glb.array(primitive["attributes"]["COLOR_0"])[:, 0] / 65535
            np.testing.assert_allclose(red, [((40 + 60 * frame) / 255) ** 2.2 for frame in (0, 1, 2, 0)], atol=0.02)
        (primitive,) = glb.content["meshes"][0]["primitives"]
        static = glb.array(primitive["attributes"]["POSITION"])
        assert len(static) < 0.7 * scene.points[0, ..., 0].numel()

    def test_points_interpolated_frames_need_curves(self, tmp_path: Path, results: SavedResults) -> None:
        with pytest.raises(UserError, match="interpolated frames need trajectories"):
            written(tmp_path, results, "animation", replace(EVERYTHING, interpolated_frames=1))
        with pytest.raises(UserError, match="101 interpolated frames between two frames; wanted 0 to 100"):
            replace(EVERYTHING, interpolated_frames=101)

    def test_photos_follow_each_other(self, tmp_path: Path) -> None:
        results = read_results(save(tmp_path / "photos", wall(), torch.full((3,), torch.nan)))
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        assert [glb.shown_at(time)[0] for time in (0.1, 0.6, 1.1)] == [f"time_{name}" for name in results.names]

    def test_frames_of_one_moment_share_a_node(self, tmp_path: Path) -> None:
        results = read_results(save(tmp_path / "rig", wall(), torch.tensor([0.0, 0.0, 1.0])))
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        assert [node["name"] for node in glb.content["nodes"]] == ["time_first_picture", "time_third", "camera"]
        keys = glb.curve(glb.node("camera"), "translation")[0]
        np.testing.assert_allclose(keys, [0, 1])

    def test_unknown_cameras_are_left_out(self, tmp_path: Path) -> None:
        scene = wall()
        scene.cameras.world_from_cam[2] = torch.nan
        results = read_results(save(tmp_path / "gap", scene))
        glb = Glb(written(tmp_path, results, "animation") / "animation.glb")
        assert len(glb.curve(glb.node("camera"), "rotation")[0]) == 2
        assert "mesh" not in glb.content["nodes"][glb.node("time_third")]

    def test_a_scene_without_points_is_refused(self, tmp_path: Path) -> None:
        scene = make_scene()
        scene = replace(scene, depth_confidence=torch.zeros_like(scene.depth_confidence), tracks=None)
        results = read_results(save(tmp_path / "empty", scene))
        with pytest.raises(UserError, match="no pixel has a known depth"):
            written(tmp_path, results, "animation")
        assert not (tmp_path / "out").exists()


def test_colors_become_linear() -> None:
    given = torch.tensor([[0, 255, 188]], dtype=torch.uint8)
    np.testing.assert_allclose(linear_colors(given)[0] / 65535, [0, 1, 0.5029, 1], atol=1e-3)


def test_usd_needs_its_package(tmp_path: Path, results: SavedResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[usd\]'"):
        export_results(tmp_path / "out", results, ["usd"], EVERYTHING)


class TestUsd:
    @pytest.fixture
    def stage(self, tmp_path: Path, results: SavedResults):
        usd = pytest.importorskip("pxr.Usd", reason="USD is the extra 'usd'")
        return usd.Stage.Open(str(written(tmp_path, results, "usd") / "scene.usdc"))

    def test_points_are_time_samples_of_the_clip(self, stage, results: SavedResults) -> None:
        points = stage.GetPrimAtPath("/World/Points").GetAttribute("points")
        colors = stage.GetPrimAtPath("/World/Points").GetAttribute("primvars:displayColor")
        codes = np.array(points.GetTimeSamples())
        times = (TIMES - TIMES.min()).sort().values
        np.testing.assert_allclose(codes / stage.GetTimeCodesPerSecond(), times, atol=1e-6)
        assert [stage.GetStartTimeCode(), stage.GetEndTimeCode()] == pytest.approx([codes[0], codes[-1]])
        for code, frame in zip(codes, ORDER, strict=True):
            found = np.array(points.Get(code)) * [1, -1, -1]
            expected = results.scene.points[frame].reshape(-1, 3).numpy()
            assert np.linalg.norm(found[:, None] - expected, axis=-1).min(axis=1).max() < 1e-5
            red = np.array(colors.Get(code))[:, 0]
            assert len(red) == len(found)
            np.testing.assert_allclose(red, ((40 + 60 * frame) / 255) ** 2.2, atol=0.02)

    def test_points_are_not_interpolated(self, stage) -> None:
        points = stage.GetPrimAtPath("/World/Points").GetAttribute("points")
        first, second, _ = points.GetTimeSamples()
        between = points.Get(first + 0.7 * (second - first))
        np.testing.assert_array_equal(np.array(between), np.array(points.Get(first)))

    def test_the_camera_projects_the_points_to_their_pixels(self, stage, results: SavedResults) -> None:
        from pxr import Gf, UsdGeom  # pyright: ignore[reportMissingImports]

        camera = UsdGeom.Camera(stage.GetPrimAtPath("/World/Camera"))
        codes = stage.GetPrimAtPath("/World/Points").GetAttribute("points").GetTimeSamples()
        scene = results.scene
        for code, frame in zip(codes, ORDER, strict=True):
            frustum = camera.GetCamera(code).frustum
            to_clip = frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()
            world = scene.points[frame, 3, 5].double()
            x, y, _ = to_clip.Transform(Gf.Vec3d(*(world * torch.tensor([1.0, -1.0, -1.0])).tolist()))
            in_camera = transform_points(scene.cameras.cam_from_world[frame].double(), world[None])
            expected = project(in_camera, scene.cameras.intrinsics[frame].double())[0]
            pixel = [(x + 1) / 2 * WIDTH, (1 - y) / 2 * HEIGHT]
            np.testing.assert_allclose(pixel, expected, atol=1e-3)

    def test_points_interpolated_frames_are_on_the_curves(self, tmp_path: Path) -> None:
        usd = pytest.importorskip("pxr.Usd", reason="USD is the extra 'usd'")
        scene = replace(wall(), trajectories=replace(make_curves(samples=False), visibility=torch.ones(4, 3)))
        results = read_results(save(tmp_path / "curves", scene, torch.tensor([0.0, 0.1, 0.2])))
        file = written(tmp_path, results, "usd", replace(EVERYTHING, interpolated_frames=1)) / "scene.usdc"
        stage = usd.Stage.Open(str(file))
        points = stage.GetPrimAtPath("/World/Moving").GetAttribute("points")
        codes = points.GetTimeSamples()
        np.testing.assert_allclose(
            np.array(codes) / stage.GetTimeCodesPerSecond(), [0, 0.05, 0.1, 0.15, 0.2], atol=1e-6
        )
        for code in codes:
            found = np.array(points.Get(code)) * [1, -1, -1]
            expected = scene.at(code / stage.GetTimeCodesPerSecond()).points[-4:].numpy()
            # Every second time lacks one point, since USD would interpolate equal numbers.
            np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)
            assert len(found) >= 3

    def test_the_stage_has_y_up(self, stage) -> None:
        from pxr import UsdGeom  # pyright: ignore[reportMissingImports]

        assert UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.y
        assert stage.GetDefaultPrim().GetPath() == "/World"

    def test_skewed_lenses_are_where_the_film_is(self, tmp_path: Path) -> None:
        """A principal point away from the center moves the film, and pixels that are not square stretch it."""
        usd = pytest.importorskip("pxr.Usd", reason="USD is the extra 'usd'")
        scene = wall_with_lens(torch.tensor([1.0, 1.5, 1.0]), torch.tensor([3.0, -2.0]))
        results = read_results(save(tmp_path / "lens", replace(scene, points=scene.points_from_depth)))
        stage = usd.Stage.Open(str(written(tmp_path, results, "usd") / "scene.usdc"))
        self.test_the_camera_projects_the_points_to_their_pixels(stage, results)
