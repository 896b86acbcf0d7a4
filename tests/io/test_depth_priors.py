"""Known depth in every format in which sensors and programs write it, with the right unit, size and frames."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from named_clips import named_clip
from PIL import Image

from recon4d.errors import UserError
from recon4d.io import write_raster
from recon4d.io.depth_files import read_depth_map
from recon4d.io.depth_priors import read_depth_priors
from recon4d.io.exporters.exr import write_exr
from recon4d.records import Clip

H, W = 24, 32
METERS = (0.5 + np.arange(H * W).reshape(H, W) / 100).astype(np.float32)
METERS[0, :3] = 0
"""Depths with some unknown ones, all multiples of a centimeter."""
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def make_clip(names: tuple[str, ...] = NAMES, size: tuple[int, int] = (H, W), numbers=(), path: str = "x") -> Clip:
    return named_clip(path, names, numbers, size=size)


def write_pfm(path: Path, values: np.ndarray) -> None:
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + values[::-1].astype("<f4").tobytes())


def write_openexr(path: Path, values: np.ndarray, channel: str = "Z", compression: str = "ZIP") -> None:
    import OpenEXR

    header = {"compression": getattr(OpenEXR, f"{compression}_COMPRESSION"), "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {channel: values}).write(str(path))


MILLIMETERS = (METERS * 1000).round().astype(np.uint16)
WRITERS = {
    "png": lambda path: write_raster(path, MILLIMETERS),
    "tif": lambda path: Image.fromarray(MILLIMETERS).save(path),
    "float.tif": lambda path: write_raster(path, METERS),
    "exr": lambda path: write_exr(path, METERS),
    "npy": lambda path: np.save(path, METERS),
    "uint16.npy": lambda path: np.save(path, MILLIMETERS),
    "channel.npy": lambda path: np.save(path, METERS[..., None].astype(np.float64)),
    "npz": lambda path: np.savez(path, METERS),
    "named.npz": lambda path: np.savez(path, depth=METERS, mask=METERS > 0),
    "pfm": lambda path: write_pfm(path, METERS),
}
UNITS = {"png": "16-bit PNG in millimeters", "tif": "16-bit TIFF in millimeters", "uint16.npy": "in millimeters"}


def expect(found: torch.Tensor, wanted: np.ndarray = METERS) -> None:
    assert found.isnan().numpy().tolist() == (wanted == 0).tolist()
    np.testing.assert_allclose(np.nan_to_num(found.numpy()), wanted, atol=1e-4)


@pytest.mark.parametrize("form", WRITERS)
def test_a_folder_of_maps_of_every_format(tmp_path, form):
    for name in "abc":
        WRITERS[form](tmp_path / f"{name}.{form.rpartition('.')[2]}")
    known = read_depth_priors(tmp_path, make_clip())
    for depths in known.depths:
        expect(depths)
    assert known.report.startswith("depth: 3 of 3 frames from ")
    assert UNITS.get(form, "in the unit of the values") in known.report
    assert "of 32 x 24 pixels" in known.report
    assert "from 0.53 to 8.17, median 4.35" in known.report


@pytest.mark.parametrize("channel", ["Z", "depth.Z", "ViewLayer.Depth.Z", "Y", "R", "V", "anything"])
@pytest.mark.parametrize("compression", ["ZIP", "PIZ", "RLE", "NO"])
def test_exr_of_other_programs(tmp_path, channel, compression):
    write_openexr(tmp_path / "a.exr", METERS, channel, compression)
    expect(torch.from_numpy(read_depth_map(tmp_path / "a.exr").values))


def test_exr_in_half_precision_and_background_of_renderers(tmp_path):
    depths = METERS.astype(np.float16)
    depths[5, 5] = 65504
    write_openexr(tmp_path / "half.exr", depths)
    found = read_depth_map(tmp_path / "half.exr").values
    assert np.isnan(found[5, 5])
    np.testing.assert_allclose(found[6], METERS[6], rtol=1e-3)
    depths = METERS.copy()
    depths[5, 5], depths[6, 6] = 1e10, 1e38
    write_openexr(tmp_path / "full.exr", depths)
    found = read_depth_map(tmp_path / "full.exr").values
    assert np.isnan(found[[5, 6], [5, 6]]).all()


def test_saturated_sensors_are_unknown(tmp_path):
    values = MILLIMETERS.copy()
    values[3, 4] = 65535
    write_raster(tmp_path / "a.png", values)
    assert np.isnan(read_depth_map(tmp_path / "a.png").values[3, 4])


@pytest.mark.parametrize(("steps", "unit"), [(5000, 0.0002), (256, 1 / 256), (1000, 0.001), (100, 0.01)])
def test_units_of_other_sensors(tmp_path, steps, unit):
    write_raster(tmp_path / "a.png", (METERS * steps).round().astype(np.uint16))
    known = read_depth_priors(tmp_path, make_clip(("a.jpg",)), unit)
    np.testing.assert_allclose(np.nan_to_num(known.depths[0].numpy()), METERS, atol=unit)
    assert f"values times {unit:g}" in known.report


@pytest.mark.parametrize("unit", [0.0, -1.0, np.nan, np.inf])
def test_units_that_are_none(tmp_path, unit):
    write_raster(tmp_path / "a.png", MILLIMETERS)
    with pytest.raises(UserError, match="the unit of depth is"):
        read_depth_priors(tmp_path, make_clip(("a.jpg",)), unit)


def test_maps_of_half_and_double_size_are_looked_up_and_never_mixed(tmp_path):
    write_raster(tmp_path / "a.png", MILLIMETERS)
    known = read_depth_priors(tmp_path, make_clip(("a.jpg",), (2 * H, 2 * W)))
    expect(known.depths[0], METERS.repeat(2, axis=0).repeat(2, axis=1))
    assert "of 32 x 24 pixels, resized to 64 x 48" in known.report
    half = read_depth_priors(tmp_path, make_clip(("a.jpg",), (H // 2, W // 2))).depths[0]
    expect(half, METERS[1::2, 1::2])
    # ScanNet: 640 x 480 beside 1296 x 968.
    write_raster(tmp_path / "a.png", np.full((480, 640), 2000, np.uint16))
    assert (read_depth_priors(tmp_path, make_clip(("a.jpg",), (968, 1296))).depths == 2).all()


@pytest.mark.parametrize(
    ("size", "message"), [((32, 24), "so one of them is turned"), ((24, 24), "wanted the same size")]
)
def test_maps_of_another_shape_are_refused(tmp_path, size, message):
    write_raster(tmp_path / "a.png", MILLIMETERS)
    with pytest.raises(UserError, match=message):
        read_depth_priors(tmp_path, make_clip(("a.jpg",), size))


def write_levels(folder: Path, names: list[str]) -> None:
    """Write a map of one depth for each name: 1 m for the first, 2 m for the second ..."""
    for number, name in enumerate(names, start=1):
        write_raster(folder / name, np.full((H, W), 1000 * number, np.uint16))


def levels(folder: Path, clip: Clip) -> list[float]:
    return read_depth_priors(folder, clip).depths[:, 0, 0].nan_to_num(0).tolist()


@pytest.mark.parametrize(
    ("maps", "frames", "wanted"),
    [
        (["b.png", "a.png", "c.png"], ("a.jpg", "b.jpg", "c.jpg"), [2, 1, 3]),
        (["b.png"], ("a.jpg", "b.jpg", "c.jpg"), [0, 1, 0]),
        (["0001_depth.png", "0002_depth.png"], ("0002.jpg", "0001.jpg"), [2, 1]),
        (["1.depth.png", "2.depth.png"], ("2.jpg", "1.jpg"), [2, 1]),
        (["depth_1.png", "depth_2.png", "depth_10.png"], ("rgb_10.jpg", "rgb_2.jpg"), [3, 2]),
        (["1305031102.16.png", "1305031102.19.png"], ("1305031102.175.png", "1305031102.9.png"), [1, 0]),
        (["x.png", "y.png", "z.png"], ("a.jpg", "b.jpg", "c.jpg"), [1, 2, 3]),
        (["f2.png", "f10.png", "f11.png"], ("a.jpg", "b.jpg", "c.jpg"), [1, 2, 3]),
    ],
)
def test_maps_belong_to_frames_by_name_time_order_or_number(tmp_path, maps, frames, wanted):
    write_levels(tmp_path, maps)
    assert levels(tmp_path, make_clip(frames)) == wanted


def test_maps_of_all_pictures_when_some_are_taken(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    for number in range(9):
        Image.new("RGB", (W, H)).save(tmp_path / "images" / f"p{chr(97 + number)}.jpg")
    write_levels(tmp_path / "depth", [f"d{number}.png" for number in range(9)])
    clip = make_clip(("pa.jpg", "pe.jpg", "pi.jpg"), numbers=(0, 4, 8), path=str(tmp_path / "images"))
    assert levels(tmp_path / "depth", clip) == [1, 5, 9]


def test_maps_that_cannot_be_assigned_are_refused(tmp_path):
    write_levels(tmp_path, ["x.png", "y.png"])
    with pytest.raises(UserError, match=r"the folder holds 2 maps, and the clip has 3 frames; wanted one each, or na"):
        read_depth_priors(tmp_path, make_clip())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint16])
@pytest.mark.parametrize("shape", [(3, H, W), (3, 1, H, W), (3, H, W, 1)])
def test_one_array_with_all_maps(tmp_path, dtype, shape):
    maps = MILLIMETERS if dtype == np.uint16 else METERS
    np.save(tmp_path / "d.npy", np.broadcast_to(maps, (3, H, W)).reshape(shape).astype(dtype))
    depths = read_depth_priors(tmp_path / "d.npy", make_clip()).depths
    assert depths.shape == (3, H, W)
    torch.testing.assert_close(depths[1].nan_to_num(0), torch.from_numpy(METERS), atol=4e-3, rtol=1e-3)


def test_a_single_map_belongs_to_a_single_frame(tmp_path):
    write_raster(tmp_path / "d.png", MILLIMETERS)
    expect(read_depth_priors(tmp_path / "d.png", make_clip(("a.jpg",))).depths[0])
    np.save(tmp_path / "d.npy", METERS)
    expect(read_depth_priors(tmp_path / "d.npy", make_clip(("a.jpg",))).depths[0])
    with pytest.raises(UserError, match=r"d.png: it is one map, and the clip has 3 frames; wanted a folder of maps"):
        read_depth_priors(tmp_path / "d.png", make_clip())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"nothing", "cannot be read as a picture"),
        ("a.exr", b"nothing", "cannot be read as EXR"),
        ("a.exr", struct.pack("<2i", 20000630, 2) + b"x", "cannot be read as EXR"),
        ("a.npy", b"\x93NUMPY", "cannot be read as npy"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '", "cannot be read as npy"),
        ("a.npz", b"PK", "not an npz archive"),
        ("a.pfm", b"Pf\n9999999 9999999\n-1\n", "cannot be read as PFM"),
        ("a.pfm", b"PF\n1 1\n-1\n123456789012", "cannot be read as PFM"),
    ],
)
def test_damaged_maps_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*{message}") as caught:
        read_depth_priors(tmp_path, make_clip(("a.jpg",)))
    assert "\n" not in str(caught.value)


def test_pictures_of_depth_for_viewing_are_refused(tmp_path):
    Image.new("L", (W, H), 90).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: its values have 8 bits, like a picture of depth for viewing"):
        read_depth_priors(tmp_path, make_clip(("a.jpg",)))
    assert (read_depth_priors(tmp_path, make_clip(("a.jpg",)), 0.1).depths == 9).all()
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: it is a picture in color"):
        read_depth_priors(tmp_path, make_clip(("a.jpg",)))


def test_depth_that_is_unknown_everywhere_or_missing_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no depth maps; wanted 16-bit PNG"):
        read_depth_priors(tmp_path, make_clip())
    write_raster(tmp_path / "a.png", np.zeros((H, W), np.uint16))
    with pytest.raises(UserError, match="not a single depth is finite and above 0"):
        read_depth_priors(tmp_path, make_clip())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.save(tmp_path / "a.npy", np.full((H, W), 1e300))
        with pytest.raises(UserError, match="not a single depth"):
            read_depth_priors(tmp_path / "a.npy", make_clip(("a.jpg",)))
