"""Exported depth maps keep their meaning, unit and unknown pixels."""

import json
import math
import struct
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from exported_walls import written
from scenes import HEIGHT, WIDTH

from recon4d.io import (
    PointSelection,
    read_raster,
)
from recon4d.io.exporters.depth_maps import MAX_MEDIANS, steps_per_unit
from recon4d.io.exporters.exr import write_exr


class TestDepth:
    @pytest.mark.parametrize(("metres_per_unit", "step"), [(1.0, 0.001), (1.25, 0.0008), (math.nan, None)])
    def test_png_times_its_scale_is_the_depth(self, tmp_path, results, metres_per_unit, step):
        depths = results.scene.depths.clone()
        depths[0, 0, 0] = math.nan
        depths[0, 0, 1] = 1e4
        confidence = results.scene.depth_confidence.clone()
        confidence[2, 5, 5] = 0
        unit = torch.tensor(metres_per_unit)
        scene = replace(results.scene, depths=depths, depth_confidence=confidence, metres_per_unit=unit)
        folder = written(tmp_path, results.with_scene(scene), "depth-png")
        sidecar = json.loads((folder / "depth.json").read_text())
        scale = sidecar["units_per_value"]
        assert step is None or scale == pytest.approx(step)
        meters = sidecar["metres_per_value"]
        assert meters is None if math.isnan(metres_per_unit) else meters == pytest.approx(scale * metres_per_unit)
        stored = np.stack([read_raster(folder / name) for name in sidecar["files"]]).astype(np.float64)
        # Unknown, beyond the range, and of confidence 0.
        wanted = depths.double().numpy()
        for pixel in ((0, 0, 0), (0, 0, 1), (2, 5, 5)):
            assert stored[pixel] == 0
            wanted[pixel] = 0
        assert np.abs(stored * scale - wanted).max() <= scale / 2 + 1e-9
        assert (stored[wanted > 0] > 0).all()
        assert (sidecar["height"], sidecar["width"]) == scene.size
        np.testing.assert_allclose(sidecar["intrinsics"], scene.cameras.intrinsics)
        np.testing.assert_allclose(sidecar["world_from_cam"], scene.cameras.world_from_cam)

    @pytest.mark.parametrize("name", ["depth-png", "depth-exr"])
    def test_depth_below_the_minimum_confidence_is_unknown(self, tmp_path, results, name):
        confidence = results.scene.depth_confidence.clone()
        confidence[1] = 3.0
        doubted = results.with_scene(replace(results.scene, depth_confidence=confidence))
        folder = written(tmp_path, doubted, name, PointSelection(min_confidence=2.0))
        for frame, stem in enumerate(("first_picture", "second", "third")):
            path = folder / f"{stem}.{name.removeprefix('depth-')}"
            values = read_raster(path) if name == "depth-png" else read_plain_exr(path.read_bytes())[1]
            assert (values > 0).all() if frame == 1 else (values == 0).all()

    def test_the_range_without_meters_is_the_largest_depth_or_ten_medians(self):
        assert steps_per_unit(4.0, 2.0, math.nan) == 65535 / 4
        assert steps_per_unit(400.0, 2.0, math.nan) == 65535 / (2 * MAX_MEDIANS)
        # 40 m fit in millimeters, 400 m do not.
        assert steps_per_unit(4.0, 2.0, 10.0) == 10_000
        assert steps_per_unit(4.0, 2.0, 100.0) == 65535 / 4

    def test_opencv_reads_sixteen_bits(self, tmp_path, results):
        """OpenCV is an optional dependency of this test only."""
        cv2 = pytest.importorskip("cv2")
        folder = written(tmp_path, results, "depth-png")
        sidecar = json.loads((folder / "depth.json").read_text())
        for name, depths in zip(sidecar["files"], results.scene.depths.numpy(), strict=True):
            values = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
            assert values.dtype == np.uint16
            np.testing.assert_allclose(values * sidecar["units_per_value"], depths, atol=sidecar["units_per_value"])

    def test_exr_holds_the_depths_bit_for_bit(self, tmp_path, results):
        folder = written(tmp_path, results, "depth-exr")
        assert json.loads((folder / "depth.json").read_text())["units_per_value"] == 1
        for frame, name in enumerate(("first_picture", "second", "third")):
            channels, values = read_plain_exr((folder / f"{name}.exr").read_bytes())
            assert channels == ["Z"]
            assert np.array_equal(values, results.scene.depths[frame].numpy())

    def test_another_reader_of_exr_agrees(self, tmp_path):
        values = np.random.default_rng(0).uniform(0, 9, (5, 7)).astype(np.float32)
        values[0, 0] = 1e-7
        # FFmpeg reads colors and luminance only, in the same layout.
        write_exr(tmp_path / "y.exr", values, channel="Y")
        with av.open(str(tmp_path / "y.exr")) as opened:
            frame = next(opened.decode(video=0))
        plane = frame.planes[-1] if frame.format.name == "grayf32le" else frame.planes[0]
        assert (frame.height, frame.width) == (5, 7)
        rows = np.frombuffer(plane, np.float32).reshape(5, plane.line_size // 4)[:, :7]
        np.testing.assert_array_equal(rows, values)


def read_plain_exr(data: bytes) -> tuple[list[str], np.ndarray]:
    """Read the layout that openexr.com describes, attribute by attribute."""
    assert struct.unpack_from("<2i", data) == (20000630, 2)
    at, attributes = 8, {}
    while data[at]:
        name, kind = data[at:].split(b"\0", 2)[:2]
        at += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<i", data, at)
        attributes[name.decode()] = (kind.decode(), data[at + 4 : at + 4 + size])
        at += 4 + size
    needed = {"channels", "compression", "dataWindow", "displayWindow", "lineOrder", "pixelAspectRatio"}
    assert needed | {"screenWindowCenter", "screenWindowWidth"} == set(attributes)
    assert attributes["compression"] == ("compression", b"\0")
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"][1])
    kind, channels = attributes["channels"]
    name, rest = channels.split(b"\0", 1)
    assert (kind, struct.unpack("<iB3xii", rest[:16]), rest[16:]) == ("chlist", (2, 0, 1, 1), b"\0")
    height, width = y1 - y0 + 1, x1 - x0 + 1
    offsets = struct.unpack_from(f"<{height}Q", data, at + 1)
    rows = []
    for line, offset in enumerate(offsets):
        assert struct.unpack_from("<2i", data, offset) == (line, 4 * width)
        rows.append(np.frombuffer(data, "<f4", width, offset + 8))
    assert offsets[-1] + 8 + 4 * width == len(data)
    return [name.decode()], np.stack(rows)


def test_frame_arrays_are_those_of_the_scene(tmp_path, results):
    folder = written(tmp_path, results, "npz")
    with np.load(folder / "second.npz", allow_pickle=False) as arrays:
        scene = results.scene
        assert np.array_equal(arrays["depth"], scene.depths[1])
        np.testing.assert_allclose(arrays["points"], scene.points[1], atol=1e-5)
        assert arrays["image"].shape == (HEIGHT, WIDTH, 3)
        assert np.abs(arrays["image"].astype(int) - [100, 100, 200]).max() <= 3
        assert arrays["moving"].sum() == HEIGHT * WIDTH // 4
        assert arrays["confident"].all()
        assert arrays["time"] == 0.0
        assert np.array_equal(arrays["world_from_cam"], scene.cameras.world_from_cam[1])
