"""Samples written as PointOdyssey are read back up to rounding."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.datasets.readers.point_odyssey import PointOdyssey
from recon4d.datasets.writers.point_odyssey import write_point_odyssey
from recon4d.errors import UserError


def read(root: Path, frames: tuple[int, ...] = (0, 1, 2), anchors: tuple[int, ...] = (0,)) -> Sample:
    return PointOdyssey(root).read("seq", frames, anchors)


def smooth_sample(metres_per_unit: float = 1.0) -> Sample:
    """Create a sample of the slanted wall with smooth images, unknown values and an occluded point."""
    scene = make_scene(frames=3, anchors=(0, 2), metres_per_unit=metres_per_unit)
    ramp = torch.linspace(60, 180, 12 * 16).reshape(12, 16).to(torch.uint8)
    clip = replace(make_clip(frames=3), images=ramp.expand(3, 3, 12, 16).contiguous())
    confidence, visible = scene.tracks.confidence.clone(), scene.tracks.visibility.clone()
    confidence[0, 1, 5] = 0
    visible[0, 1, 6] = 0
    depth_confidence = scene.depth_confidence.clone()
    depth_confidence[0, 3, 4] = 0
    tracks = replace(scene.tracks, confidence=confidence, visibility=visible)
    return Sample(clip, replace(scene, depth_confidence=depth_confidence, tracks=tracks))


def write_generator_format(root: Path, split: str, name: str, sample: Sample) -> None:
    """Write the files of the public generator: all float16, with a visibility of 2 where a point is unknown."""
    write_point_odyssey(root, split, name, sample)
    folder = root / split / name
    with np.load(folder / "anno.npz") as arrays:
        stored = dict(arrays)
    visibilities = np.where(stored.pop("valids"), stored.pop("visibs"), 2)
    halves = {key: array.astype(np.float16) for key, array in {**stored, "visibilities": visibilities}.items()}
    np.savez(folder / "annotations.npz", allow_pickle=False, **halves)
    for file in ("anno.npz", "info.npz"):
        (folder / file).unlink()


@pytest.mark.parametrize("write", [write_point_odyssey, write_generator_format])
def test_a_written_sample_is_read_back_up_to_rounding(tmp_path: Path, write: Callable[..., None]) -> None:
    """Lengths are written in meters."""
    sample = smooth_sample(metres_per_unit=0.5)
    write(tmp_path, "train", "seq", sample)
    found = read(tmp_path)
    scene, wanted = found.scene, sample.scene.in_metres(0.5)
    assert (found.clip.images.int() - sample.clip.images.int()).abs().max() <= 6
    assert torch.allclose(scene.cameras.world_from_cam, wanted.cameras.world_from_cam, atol=1e-3)
    assert torch.equal(scene.cameras.intrinsics, wanted.cameras.intrinsics)
    assert torch.equal(scene.depth_confidence, wanted.depth_confidence)
    cut = ((wanted.depths - scene.depths) * wanted.depth_confidence).double()
    assert cut.min() > -1e-6
    assert cut.max() < 1000 / 65535
    assert cut.max() > 0.8 * 1000 / 65535, "rounded down, not to the nearest step"

    first = scene.tracks.points[0].unflatten(1, (2, -1)).transpose(0, 1)
    known = scene.tracks.confidence[0].unflatten(1, (2, -1)).transpose(0, 1) > 0
    expected = wanted.tracks.confidence[0] > 0
    expected[:, 3 * 16 + 4] = False  # not visible in the anchor frame, where its depth is unknown
    assert torch.equal(known[0], expected)
    assert torch.allclose(first[known], wanted.tracks.points[known], atol=4e-3)
    queries = wanted.tracks.pixels.shape[1]
    off = (scene.tracks.pixels[0, :queries] - wanted.tracks.pixels[0])[expected[0]]
    assert off.abs().max() < 0.02
    visibility = scene.tracks.visibility[0, :, :queries]
    assert (visibility[0] == 1).float().mean() > 0.99
    assert visibility[1, 5:7].tolist() == [0, 0]
    inside = ((wanted.track_pixels[0] > 0.1) & (wanted.track_pixels[0] < torch.tensor([15.9, 11.9]))).all(dim=-1)
    inside[1, 5:7] = False
    inside[:, 3 * 16 + 4] = False
    assert (visibility[inside] == 1).all()


def test_written_files_follow_version_1_2(tmp_path: Path) -> None:
    write_point_odyssey(tmp_path, "train", "seq", smooth_sample())
    folder = tmp_path / "train" / "seq"
    with np.load(folder / "anno.npz", allow_pickle=False) as arrays:
        stored = dict(arrays)
    shapes = {"trajs_2d": (3, 384, 2), "trajs_3d": (3, 384, 3), "valids": (3, 384), "visibs": (3, 384)}
    shapes |= {"intrinsics": (3, 3, 3), "extrinsics": (3, 4, 4)}
    assert {key: value.shape for key, value in stored.items()} == shapes
    assert {key: str(value.dtype) for key, value in stored.items()} == dict.fromkeys(shapes, "float32") | {
        "valids": "bool",
        "visibs": "bool",
    }
    for key in ("trajs_2d", "trajs_3d", "extrinsics"):
        assert np.array_equal(stored[key], stored[key].astype(np.float16))
    assert not (stored["visibs"] & ~stored["valids"]).any()
    # Pixels are the projections of the rounded points, up to their own rounding.
    in_camera = np.einsum("tij,tnj->tni", stored["extrinsics"][:, :3, :3].astype(float), stored["trajs_3d"])
    in_camera += stored["extrinsics"][:, None, :3, 3]
    on_image = np.einsum("tij,tnj->tni", stored["intrinsics"].astype(float), in_camera)
    assert np.allclose(stored["trajs_2d"], on_image[..., :2] / on_image[..., 2:], rtol=2**-11, atol=1e-6)

    with np.load(folder / "info.npz", allow_pickle=False) as info:
        assert {key: tuple(value) for key, value in info.items()} == shapes
    assert set(json.loads((folder / "scene_info.json").read_text())) == {
        *("sensor_width", "sensor_height", "focal_length", "assets"),
    }
    with Image.open(folder / "depths" / "depth_00002.png") as depth:
        assert depth.mode.startswith("I")
    with Image.open(folder / "rgbs" / "rgb_00002.jpg") as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (16, 12))


def test_a_scene_without_tracks_is_written_as_a_single_nan(tmp_path: Path) -> None:
    sample = smooth_sample()
    write_point_odyssey(tmp_path, "train", "seq", replace(sample, scene=replace(sample.scene, tracks=None)))
    with np.load(tmp_path / "train" / "seq" / "anno.npz", allow_pickle=False) as arrays:
        assert arrays["trajs_3d"].shape == ()
        assert np.isnan(arrays["trajs_3d"])
    with np.load(tmp_path / "train" / "seq" / "info.npz", allow_pickle=False) as info:
        assert info["trajs_3d"].shape == (0,)
    assert read(tmp_path).scene.tracks is None


def test_depth_of_a_kilometer_or_more_is_written_as_sky(tmp_path: Path) -> None:
    sample = smooth_sample()
    depths = sample.scene.depths.clone()
    depths[0, 0, :3] = torch.tensor([999.5, 1000, 4000])
    write_point_odyssey(tmp_path, "train", "seq", replace(sample, scene=replace(sample.scene, depths=depths)))
    with Image.open(tmp_path / "train" / "seq" / "depths" / "depth_00000.png") as stored:
        assert np.array(stored)[0, :3].tolist() == [65502, 65535, 65535]


def test_existing_sequences_and_batches_are_refused(tmp_path: Path) -> None:
    sample = smooth_sample()
    write_point_odyssey(tmp_path, "train", "seq", sample)
    with pytest.raises(UserError, match="exists"):
        write_point_odyssey(tmp_path, "train", "seq", sample)
    with pytest.raises(ValueError, match="batch"):
        write_point_odyssey(tmp_path, "train", "two", Sample.stack([sample, sample]))
