"""Data sets that are mutated: a valid folder of each reader, and functions that read them and check what was read."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.fuzz_samples import (
    COUNT,
    HEIGHT,
    WIDTH,
    Target,
    check_clip,
    check_scene,
    export,
    sample,
    sample_depths,
    sample_pictures,
)
from recon4d.datasets import (
    CameraFolder,
    ColmapModels,
    DynamicReplica,
    Kubric,
    KubricTracks,
    NerfstudioFolders,
    PointOdyssey,
    SequenceDataset,
    SevenScenes,
    Sintel,
    TapVid3D,
    Tum,
    write_dynamic_replica,
    write_kubric,
    write_point_odyssey,
)
from recon4d.io import write_raster


def data_set_targets() -> list[Target]:
    """List the data sets.

    Returns:
        The targets, in the order of the table.
    """
    return [
        Target("Point Odyssey", _make_point_odyssey, _reader(PointOdyssey), ("train/a/*.npz", "train/a/*/*")),
        Target(
            "Dynamic Replica",
            lambda folder: write_dynamic_replica(folder, "train", "a", sample()),
            _reader(lambda root: DynamicReplica(root, "train")),
            ("train/*.jgz", "train/a/*/*"),
        ),
        Target("Kubric", _make_kubric, _reader(Kubric), ("a/*",)),
        Target("Kubric metadata", _make_kubric, _reader(Kubric), ("a/*.json",)),
        Target("Kubric tracks npy", _make_kubric_npy, _reader(KubricTracks), ("a/a.npy", "a/frames/*")),
        Target("Kubric tracks h5", _make_kubric_h5, _reader(KubricTracks)),
        Target("Sintel", _make_sintel, _reader(Sintel), ("training/*/a/*",)),
        Target("TUM RGB-D", _make_tum, _reader(lambda root: Tum(root, (50, 50, 32, 24))), ("a/*.txt", "a/*/*")),
        Target("7-Scenes", _make_seven_scenes, _reader(SevenScenes), ("a/*",)),
        Target("TAPVid-3D", _make_tapvid, _reader(TapVid3D), ("*.npz",)),
        Target("folder with cameras", _make_camera_folder, _reader(CameraFolder), ("a/*",)),
        Target("COLMAP model", _make_colmap_model, _reader(ColmapModels), ("a/*.bin", "a/sparse/0/*")),
        Target("nerfstudio folder", _make_nerfstudio, _reader(NerfstudioFolders), ("a/transforms.json", "a/depth/*")),
    ]


def _reader(open_data: Callable[[Path], SequenceDataset]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        data = open_data(folder)
        (name, *_) = data.names()
        found = data.read(name, range(data.num_frames(name))[:COUNT])
        check_clip(replace(found.clip, times=found.clip.times.nan_to_num(0) + torch.arange(found.clip.num_frames)))
        check_scene(found.scene)
        known = found.scene.depths[found.scene.depth_confidence > 0]
        if len(known):
            assert known.isfinite().all(), "a known depth is not finite"
            assert (known > 0).all(), "a known depth is not positive"

    return read


def _make_point_odyssey(folder: Path) -> None:
    write_point_odyssey(folder, "train", "a", sample())


def _make_kubric(folder: Path) -> None:
    write_kubric(folder, "a", sample())


def _kubric_annotation() -> dict[str, np.ndarray]:
    """Tracks, cameras and ranges in the layout of the dumps; cameras look along Blender's -z."""
    scene, queries = sample().scene, 4
    points = np.random.default_rng(0).uniform(1, 3, (queries, COUNT, 3)).astype(np.float32)
    to_unit = np.diag([1 / WIDTH, 1 / HEIGHT, 1])
    return {
        "coords": np.full((queries, COUNT, 2), 20, np.float32),
        "traj_3d": points,
        "occluded": np.zeros((queries, COUNT), bool),
        "depth_range": np.array([1.0, 50.0], np.float32),
        "intrinsics": (to_unit @ scene.cameras.intrinsics.double().numpy()) * [1, -1, -1],
        "matrix_world": (scene.cameras.world_from_cam.double().numpy() * [1, -1, -1, 1]).astype(np.float32),
    }


def _kubric_depths() -> np.ndarray:
    return ((sample_depths() - 1) * (65535 / 49)).clip(0, 65535).astype(np.uint16)


def _make_kubric_npy(folder: Path) -> None:
    frames = folder / "a" / "frames"
    frames.mkdir(parents=True)
    for number, (picture, steps) in enumerate(zip(sample_pictures(), _kubric_depths(), strict=True)):
        picture.save(frames / f"{number:03d}.png")
        write_raster(frames / f"{number:03d}_depth.png", steps)
    np.save(folder / "a" / "a.npy", np.array(_kubric_annotation(), dtype=object), allow_pickle=True)


def _make_kubric_h5(folder: Path) -> None:
    stored = _kubric_annotation()
    stored["target_points"] = stored.pop("coords")
    stored["video"] = np.stack([np.array(picture) for picture in sample_pictures()]).astype(np.float32) / 127.5 - 1
    stored["depth_16bit"] = _kubric_depths()[..., None]
    with h5py.File(folder / "a.h5", "w") as file:
        for name, array in stored.items():
            file[name] = array


def _make_sintel(folder: Path) -> None:
    scene = sample().scene
    for number, picture in enumerate(sample_pictures()):
        stem = f"frame_{number + 1:04d}"
        for kind in ("final", "depth", "camdata_left"):
            (folder / "training" / kind / "a").mkdir(parents=True, exist_ok=True)
        picture.save(folder / "training" / "final" / "a" / f"{stem}.png")
        header = struct.pack("<fii", 202021.25, WIDTH, HEIGHT)
        depths = scene.depths[number].numpy().astype("<f4").tobytes()
        (folder / "training" / "depth" / "a" / f"{stem}.dpt").write_bytes(header + depths)
        pose = torch.linalg.inv(scene.cameras.world_from_cam[number].double())[:3].reshape(-1).tolist()
        intrinsics = scene.cameras.intrinsics[number].double().reshape(-1).tolist()
        values = struct.pack("<f21d", 202021.25, *intrinsics, *pose)
        (folder / "training" / "camdata_left" / "a" / f"{stem}.cam").write_bytes(values)


def _make_tum(folder: Path) -> None:
    root = folder / "a"
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for number, picture in enumerate(sample_pictures()):
        stamp = f"1311868164.{number}00000"
        picture.save(root / "rgb" / f"{stamp}.png")
        write_raster(root / "depth" / f"{stamp}.png", (sample_depths()[number] * 1000).astype(np.uint16))
        lists["rgb"].append(f"{stamp} rgb/{stamp}.png")
        lists["depth"].append(f"{stamp} depth/{stamp}.png")
        lists["groundtruth"].append(f"{stamp} {number} 0 0 0 0 0 1")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("# header\n" + "\n".join(lines) + "\n")


def _make_seven_scenes(folder: Path) -> None:
    (folder / "a").mkdir()
    for number, picture in enumerate(sample_pictures()):
        stem = f"frame-{number:06d}"
        picture.save(folder / "a" / f"{stem}.color.png")
        write_raster(folder / "a" / f"{stem}.depth.png", (sample_depths()[number] * 1000).astype(np.uint16))
        np.savetxt(folder / "a" / f"{stem}.pose.txt", sample().scene.cameras.world_from_cam[number].numpy())


def _make_tapvid(folder: Path) -> None:
    import io

    jpegs = np.empty(COUNT, dtype=object)
    for number, picture in enumerate(sample_pictures()):
        stream = io.BytesIO()
        picture.save(stream, "JPEG")
        jpegs[number] = stream.getvalue()
    arrays: dict = {
        "images_jpeg_bytes": jpegs,
        "tracks_XYZ": np.random.default_rng(0).uniform(1, 3, (COUNT, 4, 3)).astype(np.float32),
        "visibility": np.ones((COUNT, 4), bool),
        "fx_fy_cx_cy": np.array([50.0, 50, 32, 24]),
        "extrinsics_w2c": sample().scene.cameras.world_from_cam.double().inverse().numpy(),
    }
    np.savez(folder / "a.npz", **arrays)


def _make_camera_folder(folder: Path) -> None:
    (folder / "a").mkdir()
    cameras, frames = sample().scene.cameras, []
    for number, picture in enumerate(sample_pictures()):
        picture.save(folder / "a" / f"{number}.png")
        frames.append({"image": f"{number}.png", "world_from_cam": cameras.world_from_cam[number].tolist()})
    stored = {"width": WIDTH, "height": HEIGHT, "intrinsics": cameras.intrinsics[0].tolist(), "frames": frames}
    (folder / "a" / "cameras.json").write_text(json.dumps(stored))


def _make_colmap_model(folder: Path) -> None:
    export(folder, "colmap").rename(folder / "a")
    (folder / "exported").joinpath("export.json").unlink(missing_ok=True)


def _make_nerfstudio(folder: Path) -> None:
    export(folder, "nerfstudio").rename(folder / "a")
