"""Tests of the reader of Dynamic Replica, against files written by hand and against the writer."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from malicious import Malicious
from PIL import Image
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.datasets.readers.dynamic_replica import DynamicReplica
from recon4d.datasets.writers.dynamic_replica import write_dynamic_replica
from recon4d.errors import DataError, UserError

HEIGHT, WIDTH = 12, 16
DEPTH = 4.5
"""Exact in float16; stored with a scale_adjustment of 2."""


def viewpoint(**changes: Any) -> dict[str, Any]:
    """Create a PyTorch3D camera at the origin, in units of half the shorter side: 6 pixels."""
    return {
        "R": np.eye(3).tolist(),
        "T": [0.0, 0.0, 0.0],
        "focal_length": [2.0, 2.5],
        "principal_point": [0.2, -0.1],
        "intrinsics_format": "ndc_isotropic",
        **changes,
    }


def frame(number: int, camera: str = "left", **changes: Any) -> dict[str, Any]:
    """Create one entry of the annotation, with file names that do not follow from the name of the sequence."""
    return {
        "sequence_name": "room",
        "frame_number": number,
        "frame_timestamp": number / 10,
        "camera_name": camera,
        "image": {"path": f"room_{camera}/rgb/at-{number}.png", "size": [HEIGHT, WIDTH]},
        "depth": {"path": f"room_{camera}/z/at-{number}.png", "scale_adjustment": 2.0, "mask_path": None},
        "viewpoint": viewpoint(),
        "trajectories": {"path": f"room_{camera}/tracks/{number}.pth"} if camera == "left" else None,
        **changes,
    }


def tracks() -> dict[str, torch.Tensor]:
    """Create the content of a trajectory file with three points."""
    return {
        "traj_2d": torch.tensor([[4.4, 3.6, 5.0], [6.8, 6.6, 9.0], [1.0, 2.0, 9.0]]),
        "traj_3d_world": torch.tensor([[1.0, 1.0, 5.0], [0.0, 0.0, 9.0], [2.0, 1.0, 9.0]]),
        "verts_inds_vis": torch.tensor([True, True, False]),
        "img": torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8),
        "instances": torch.zeros(3),
    }


def write_split(root: Path, frames: list[dict[str, Any]], stored: dict[int, Any] | None = None) -> Path:
    """Write a split ``train`` without recon4d, and return its folder.

    Images are 10 * (number + 1) everywhere, and 200 for the right camera. `stored` overrides the trajectories of some
    frames.
    """
    folder = root / "train"
    folder.mkdir(parents=True)
    for entry in frames:
        number, height, width = entry["frame_number"], *entry["image"]["size"]
        value = 10 * (number + 1) if entry["camera_name"] == "left" else 200
        for path in (entry["image"]["path"], entry["depth"]["path"]):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (value, value, value)).save(folder / entry["image"]["path"])
        depths = np.full((height, width), DEPTH, np.float16)
        depths[0, :6] = [np.inf, np.nan, -np.inf, 0, -1, 0.1]
        Image.fromarray(depths.view(np.uint16)).save(folder / entry["depth"]["path"])
        if entry["trajectories"]:
            (folder / entry["trajectories"]["path"]).parent.mkdir(parents=True, exist_ok=True)
            torch.save((stored or {}).get(number, tracks()), folder / entry["trajectories"]["path"])
    (folder / "frame_annotations_train.jgz").write_bytes(gzip.compress(json.dumps(frames).encode()))
    return folder


def read(root: Path, frames: tuple[int, ...] = (0, 1), anchors: tuple[int, ...] = (0,)) -> Sample:
    return DynamicReplica(root).read("room", frames, anchors)


def test_a_sequence_is_read_as_stored(tmp_path: Path) -> None:
    # Numbers with a gap and out of order, and two cameras.
    write_split(tmp_path, [frame(5), frame(0, "right"), frame(0), frame(2), frame(2, "right")])
    data = DynamicReplica(tmp_path, "train")
    assert data.names() == ["room"]
    assert data.num_frames("room") == 3

    sample = read(tmp_path, (0, 1, 2))
    assert sample.clip.images[:, 0, 3, 3].tolist() == [10, 30, 60]
    assert sample.clip.times.tolist() == pytest.approx([0, 0.2, 0.5])
    assert sample.clip.source.names == ("at-0.png", "at-2.png", "at-5.png")
    assert sample.clip.source.numbers == (0, 1, 2)
    assert sample.scene.metres_per_unit == 1
    assert sample.scene.dynamic.isnan().all()
    assert sample.scene.tracks.visibility[0].tolist() == [[1, 1, 0]] * 3
    assert sample.scene.tracks.confidence[0].tolist() == [[1, 1, 0]] * 3, (
        "points that are not visible in the anchor frame are no queries"
    )
    assert torch.allclose(sample.scene.tracks.pixels[0, :2], torch.tensor([[4.4, 3.6], [6.8, 6.6]]))


def test_sequences_without_a_left_camera_are_not_listed(tmp_path: Path) -> None:
    write_split(tmp_path, [frame(0), frame(0, "right", sequence_name="other")])
    assert DynamicReplica(tmp_path).names() == ["room"]
    write_split(tmp_path / "b", [frame(0, "right")])
    with pytest.raises(UserError, match="left camera"):
        DynamicReplica(tmp_path / "b")


def test_depth_is_float16_times_its_scale_and_unknown_if_not_finite(tmp_path: Path) -> None:
    write_split(tmp_path, [frame(0)])
    scene = read(tmp_path, (0,)).scene
    assert scene.depths[0, 1:].unique().tolist() == [9.0]
    assert scene.depth_confidence[0, 0, :7].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert scene.depths[0, 0, :6].tolist() == pytest.approx([0, 0, 0, 0, 0, 2 * float(np.float16(0.1))])
    assert (scene.depth_confidence[0, 1:] == 1).all()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ndc_isotropic", [[12.0, 0, 6.8], [0, 15, 6.6], [0, 0, 1]]),
        ("ndc_norm_image_bounds", [[16.0, 0, 6.4], [0, 15, 6.6], [0, 0, 1]]),
    ],
)
def test_both_formats_of_intrinsics_need_no_half_pixel_shift(tmp_path: Path, name: str, wanted: list) -> None:
    """Half the size is (8, 6), so the center is half - p s and the focal length f s, with s = 6 or s = (8, 6)."""
    write_split(tmp_path, [frame(0, viewpoint=viewpoint(intrinsics_format=name))])
    assert torch.allclose(read(tmp_path, (0,)).scene.cameras.intrinsics[0], torch.tensor(wanted))


def test_pytorch3d_axes_point_left_and_up(tmp_path: Path) -> None:
    """A point 1 to the left and 1 up at z = 5 projects to (6.8 - 12 / 5, 6.6 - 15 / 5), which is left and above."""
    write_split(tmp_path, [frame(0)])
    scene = read(tmp_path, (0,)).scene
    assert scene.tracks.points[0, 0, 0].tolist() == [-1, -1, 5]
    assert torch.allclose(scene.track_pixels[0, 0, 0], torch.tensor([4.4, 3.6]))


def test_a_rotated_camera_transforms_row_vectors(tmp_path: Path) -> None:
    """(1, 1, 5) R + T with R mapping x to y and y to -x is (-1, 1, 5) + (0.5, 0, 1) = (-0.5, 1, 6): right, up."""
    turned = viewpoint(R=[[0, 1, 0], [-1, 0, 0], [0, 0, 1]], T=[0.5, 0, 1])
    write_split(tmp_path, [frame(0), frame(1, viewpoint=turned)])
    scene = read(tmp_path).scene
    wanted = torch.tensor([6.8 + 12 * 0.5 / 6, 6.6 - 15 * 1 / 6])
    assert torch.allclose(scene.track_pixels[0, 1, 0], wanted, atol=1e-5)
    # Its center is -T R^T = -(0.5, 0, 1) R^T = (0, 0.5, -1) by hand, and x and y change sign.
    assert torch.allclose(scene.cameras.centers[1], torch.tensor([0.0, -0.5, -1.0]), atol=1e-6)


def test_points_are_visible_only_inside_the_image_in_front_and_if_finite(tmp_path: Path) -> None:
    stored = {key: value[[0, 0, 0, 0, 0]] for key, value in tracks().items() if key not in ("img", "instances")}
    stored["traj_2d"][1, 0] = WIDTH
    stored["traj_3d_world"][2, 2] = -5
    stored["traj_2d"][3, 1] = torch.inf
    stored["traj_3d_world"][4, 0] = torch.nan
    before = {key: value[[0, 0, 0, 0, 0]] for key, value in tracks().items() if key not in ("img", "instances")}
    write_split(tmp_path, [frame(0), frame(1)], {0: before, 1: stored})
    found = read(tmp_path).scene.tracks
    assert found.visibility[0].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert found.confidence[0].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert found.points.isfinite().all()


def test_occluded_points_are_valid_but_not_visible(tmp_path: Path) -> None:
    hidden = tracks() | {"verts_inds_vis": torch.tensor([False, True, True])}
    write_split(tmp_path, [frame(0), frame(1)], {1: hidden})
    found = read(tmp_path).scene.tracks
    assert found.visibility[0, 1].tolist() == [0, 1, 0]
    assert found.confidence[0, 1].tolist() == [1, 1, 0]


def test_frames_without_times_are_30_per_second(tmp_path: Path) -> None:
    write_split(tmp_path, [frame(number, frame_timestamp=None) for number in (0, 3)])
    assert read(tmp_path).clip.times.tolist() == pytest.approx([0, 0.1])


def test_all_frames_of_a_clip_must_have_trajectories_or_none(tmp_path: Path) -> None:
    write_split(tmp_path, [frame(0, trajectories=None), frame(1, trajectories=None), frame(2)])
    assert read(tmp_path, (0, 1)).scene.tracks is None
    assert read(tmp_path, (2,)).scene.tracks is not None
    with pytest.raises(DataError, match="some of the requested frames"):
        read(tmp_path, (1, 2))


def test_a_trajectory_file_that_would_execute_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path, [frame(0)], {0: tracks() | {"instances": Malicious(print, "opened")}})
    with pytest.raises(DataError, match=r"^room: .*tracks/0.pth: [^\n]+$"):
        read(tmp_path, (0,))
    assert "opened" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (torch.zeros(3), "does not hold a dictionary"),
        (tracks() | {"traj_2d": [[1.0, 2.0, 3.0]] * 3}, "does not hold a dictionary"),
        (
            {key: value for key, value in tracks().items() if key != "verts_inds_vis"},
            "does not hold a dictionary",
        ),
        (tracks() | {"traj_2d": torch.zeros(2, 3)}, "shapes"),
        (tracks() | {"traj_3d_world": torch.tensor(1.0)}, "shapes"),
        (tracks() | {"traj_3d_world": torch.zeros(3, 4)}, "shapes"),
        ({key: value[:2] for key, value in tracks().items()}, "holds 3 points, but the first frame 2"),
    ],
)
def test_wrong_trajectories_are_refused(tmp_path: Path, stored: Any, reason: str) -> None:
    write_split(tmp_path, [frame(0), frame(1)], {0: stored})
    with pytest.raises(DataError, match=rf"^room: [^\n]*{reason}[^\n]*$"):
        read(tmp_path)


@pytest.mark.parametrize("part", ["rgb/at-1.png", "z/at-1.png", "tracks/1.pth"])
@pytest.mark.parametrize("kept", [None, 45])
def test_missing_and_truncated_files_are_reported(tmp_path: Path, part: str, kept: int | None) -> None:
    file = write_split(tmp_path, [frame(0), frame(1)]) / "room_left" / part
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:kept])
    reason = "is missing" if kept is None else r"[^\n]+"
    with pytest.raises(DataError, match=rf"^room: .*{part}: {reason}$"):
        read(tmp_path)
    assert read(tmp_path, (0,)).clip.num_frames == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"viewpoint": viewpoint(R=[[1.0, 0, 0], [0, float("nan"), 0], [0, 0, 1]])}, "not finite"),
        ({"viewpoint": viewpoint(R=np.diag([1.0, 1, -1]).tolist())}, "not rotation matrices"),
        ({"viewpoint": viewpoint(R=[1.0])}, "shape"),
        ({"viewpoint": viewpoint(focal_length=[-1.0, 2])}, "pinhole"),
        ({"viewpoint": viewpoint(intrinsics_format="pixels")}, "intrinsics in 'pixels'"),
        ({"viewpoint": None}, "jgz"),
        ({"depth": {"path": "z/0.png"}}, "scale_adjustment"),
        ({"depth": {"path": "z/0.png", "scale_adjustment": float("nan")}}, "scale_adjustment nan"),
        ({"image": {"path": "../train/0.png", "size": [HEIGHT, WIDTH]}}, "outside of its folder"),
        ({"trajectories": "0.pth"}, "no trajectories.path"),
        ({"trajectories": {"path": "/0.pth"}}, "outside of its folder"),
    ],
)
def test_wrong_annotations_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    folder = write_split(tmp_path, [frame(0)])
    entry = frame(0) | changes
    (folder / "frame_annotations_train.jgz").write_bytes(gzip.compress(json.dumps([entry]).encode()))
    with pytest.raises(DataError, match=rf"^room: [^\n]*{reason}[^\n]*$"):
        read(tmp_path, (0,))


def test_an_image_whose_size_differs_from_the_annotation_is_refused(tmp_path: Path) -> None:
    folder = write_split(tmp_path, [frame(0)])
    entry = frame(0, image={"path": "room_left/rgb/at-0.png", "size": [HEIGHT, WIDTH - 1]})
    (folder / "frame_annotations_train.jgz").write_bytes(gzip.compress(json.dumps([entry]).encode()))
    with pytest.raises(DataError, match=r"at-0.png: has size \(12, 16\)"):
        read(tmp_path, (0,))


def test_missing_frames_sequences_and_splits_are_refused(tmp_path: Path) -> None:
    folder = write_split(tmp_path, [frame(0), frame(1)])
    with pytest.raises(ValueError, match="has frames 0 to 1"):
        read(tmp_path, (0, 2))
    with pytest.raises(DataError, match=r"nowhere: .*lists no such sequence"):
        DynamicReplica(tmp_path).num_frames("nowhere")
    with pytest.raises(UserError, match="does not exist"):
        DynamicReplica(tmp_path, "valid")
    no_number = json.dumps([frame(0) | {"frame_number": "0"}]).encode()
    for damaged in (b"not gzip", *map(gzip.compress, (b"{}", b"[1]", b"[{}]", no_number))):
        (folder / "frame_annotations_train.jgz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"^train: .*frame_annotations_train.jgz: [^\n]+$"):
            DynamicReplica(tmp_path)


def exact_sample(seed: int = 0, metres_per_unit: float = 1.0) -> Sample:
    """Create a sample of the slanted wall with an unknown depth, an unknown track point and an occluded one."""
    scene = make_scene(frames=3, anchors=(0, 2), seed=seed, metres_per_unit=metres_per_unit)
    confidence, visible = scene.tracks.confidence.clone(), scene.tracks.visibility.clone()
    confidence[0, 1, 5] = 0
    visible[0, 1, 6] = 0
    depth_confidence = scene.depth_confidence.clone()
    depth_confidence[0, 3, 4] = 0
    changed = replace(scene.tracks, confidence=confidence, visibility=visible)
    return Sample(make_clip(frames=3, seed=seed), replace(scene, depth_confidence=depth_confidence, tracks=changed))


def test_a_written_sample_is_read_back_up_to_rounding(tmp_path: Path) -> None:
    """Lengths are written in meters."""
    sample = exact_sample(metres_per_unit=0.5)
    write_dynamic_replica(tmp_path, "train", "room", sample)
    found = read(tmp_path, (0, 1, 2))
    scene, wanted = found.scene, sample.scene.in_metres(0.5)
    assert torch.equal(found.clip.images, sample.clip.images)
    assert torch.allclose(found.clip.times, sample.clip.times)
    assert torch.allclose(scene.cameras.world_from_cam, wanted.cameras.world_from_cam, atol=1e-6)
    assert torch.allclose(scene.cameras.intrinsics, wanted.cameras.intrinsics)
    assert torch.equal(scene.depth_confidence, wanted.depth_confidence)
    known = scene.depth_confidence > 0
    assert torch.allclose(scene.depths[known], wanted.depths[known], rtol=2**-11)

    positions = scene.tracks.points[0].unflatten(1, (2, -1)).transpose(0, 1)
    is_known = scene.tracks.confidence[0].unflatten(1, (2, -1)).transpose(0, 1) > 0
    assert torch.equal(is_known[0], wanted.tracks.confidence[0] > 0)
    assert torch.allclose(positions[is_known], wanted.tracks.points[is_known], atol=1e-5)
    queries = wanted.tracks.pixels.shape[1]
    assert torch.allclose(scene.tracks.pixels[0, :queries], wanted.tracks.pixels[0], atol=1e-4)
    assert scene.tracks.visibility[0, 1, 5:7].tolist() == [0, 0]
    inside = ((wanted.track_pixels[0] > 0.01) & (wanted.track_pixels[0] < torch.tensor([15.99, 11.99]))).all(dim=-1)
    inside[1, 5:7] = False
    assert (scene.tracks.visibility[0, :, :queries][inside] == 1).all()


def test_written_files_follow_the_format(tmp_path: Path) -> None:
    write_dynamic_replica(tmp_path, "train", "room", exact_sample())
    folder = tmp_path / "train"
    listed = json.loads(gzip.decompress((folder / "frame_annotations_train.jgz").read_bytes()))
    assert [entry["frame_number"] for entry in listed] == [0, 1, 2]
    assert listed[1]["image"] == {"path": "room/images/room-0001.png", "size": [12, 16]}
    assert listed[1]["depth"]["path"] == "room/depths/room_0001.geometric.png"
    assert listed[1]["trajectories"] == {"path": "room/trajectories/000001.pth"}
    # fx, fy = 20, 22; cx, cy = 7, 6.5; half the size is 8, 6.
    assert listed[0]["viewpoint"]["focal_length"] == pytest.approx([20 / 6, 22 / 6])
    assert listed[0]["viewpoint"]["principal_point"] == pytest.approx([1 / 6, -0.5 / 6])
    assert listed[0]["viewpoint"]["R"] == [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]
    with Image.open(folder / listed[0]["depth"]["path"]) as opened:
        depths = np.array(opened).astype(np.uint16).view(np.float16)
    assert depths[11, 15] == np.float16(exact_sample().scene.depths[0, 11, 15])
    stored = torch.load(folder / listed[1]["trajectories"]["path"], weights_only=True)
    assert {key: tuple(value.shape) for key, value in stored.items()} == {
        "traj_2d": (384, 3),
        "traj_3d_world": (384, 3),
        "verts_inds_vis": (384,),
        "img": (12, 16, 3),
        "instances": (384,),
    }
    assert stored["verts_inds_vis"].dtype == torch.bool
    pixels = stored["traj_2d"][:, :2]
    is_inside = ((pixels >= 0) & (pixels < torch.tensor([16, 12]))).all(dim=-1)
    assert pixels.isnan().any(dim=-1).nonzero().tolist() == [[5]]
    assert 10 < (~is_inside).sum() < 200
    assert stored["verts_inds_vis"].tolist() == (is_inside & (torch.arange(384) != 6)).tolist()


def test_sequences_are_appended_to_the_annotation(tmp_path: Path) -> None:
    first, second = exact_sample(), exact_sample(seed=3)
    second = Sample(
        clip=replace(second.clip, times=torch.full((3,), torch.nan)), scene=replace(second.scene, tracks=None)
    )
    write_dynamic_replica(tmp_path, "train", "room", first)
    write_dynamic_replica(tmp_path, "train", "attic", second)
    data = DynamicReplica(tmp_path)
    assert data.names() == ["attic", "room"]
    assert torch.equal(data.read("room", [2]).clip.images[0], first.clip.images[2])
    attic = data.read("attic", [0, 2])
    assert torch.equal(attic.clip.images[1], second.clip.images[2])
    assert attic.clip.times.tolist() == pytest.approx([0, 2 / 30])
    assert attic.scene.tracks is None
    with pytest.raises(UserError, match="exists"):
        write_dynamic_replica(tmp_path, "train", "room", first)
    assert DynamicReplica(tmp_path).num_frames("room") == 3
