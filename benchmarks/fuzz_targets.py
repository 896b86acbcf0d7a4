"""Files of every kind that is read, each with a function that reads them and checks what was read."""

import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from recon4d.datasets import (
    CameraFolder,
    ColmapModels,
    DynamicReplica,
    Kubric,
    NerfstudioFolders,
    PointOdyssey,
    Sample,
    SequenceDataset,
    SevenScenes,
    Sintel,
    TapVid3D,
    Tum,
    write_dynamic_replica,
    write_kubric,
    write_point_odyssey,
)
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder, open_work_folder
from recon4d.io import (
    PointSelection,
    SceneInfo,
    export_results,
    load_scene,
    load_scene_info,
    load_times,
    open_frames,
    read_camera_file,
    read_clip,
    read_results,
    write_raster,
    write_results,
)
from recon4d.io.cameras.camera_file import CameraOptions
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.depth_priors import read_depth_priors
from recon4d.io.exporters.exr import write_exr
from recon4d.io.long_archive import LongScene, load_frames, load_index, save_frame, save_image, save_index
from recon4d.io.masks import read_masks
from recon4d.io.photos import register_heif
from recon4d.records import Clip, ClipSource, Scene
from recon4d.zoo import create_model, load_model, save_model

COUNT, HEIGHT, WIDTH = 3, 48, 64
"""Frames and size of all files. Small, so that thousands of mutants can be read."""
MAX_VALUE = 1e6
"""Positions and depths above this are nonsense: no seed has more than 100."""


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    name: str
    """Name, for the table."""
    make: Callable[[Path], None]
    """Writes valid files to an empty folder."""
    read: Callable[[Path], None]
    """Reads the folder; raises AssertionError if what was read is nonsense."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files that are mutated."""


def targets() -> list[Target]:
    """List all kinds of input.

    Returns:
        The targets, in the order of the table.
    """
    return [
        *_picture_targets(),
        *_video_targets(),
        Target("frames of a folder", _make_photos, lambda folder: _check_clip(read_clip(folder))),
        Target("scene.npz", _make_scene, _read_scene, ("scene.npz",)),
        Target("result folder", _make_scene, _export_scene, ("scene.npz", "frames/*")),
        Target("long clip", _make_long, _read_long, ("index.npz", "frames/*.npz")),
        Target("interrupted run", _make_run, _read_run, ("windows/*",)),
        Target("checkpoint", _make_checkpoint, _read_checkpoint),
        *_camera_targets(),
        *_depth_targets(),
        *_mask_targets(),
        *_data_set_targets(),
    ]


@cache
def sample() -> Sample:
    """Create the synthetic clip from which most files are made.

    Returns:
        A clip with exact ground truth.
    """
    made = SyntheticScenes(SyntheticConfig(num_frames=COUNT, height=HEIGHT, width=WIDTH)).sample(3)
    return replace(made, clip=replace(made.clip, times=torch.arange(COUNT) / 10))


def _clip() -> Clip:
    source = ClipSource("clip", tuple(f"{number:06d}.jpg" for number in range(COUNT)), tuple(range(COUNT)))
    return replace(sample().clip, source=source)


def _check_clip(clip: Clip) -> None:
    assert clip.images.dtype == torch.uint8
    assert clip.num_frames >= 1
    assert min(clip.size) >= 1
    times = clip.times
    if not times.isnan().all():
        _check_finite("a time", times)
        assert (times.diff() > 0).all(), "times do not ascend"


def _check_finite(name: str, values: torch.Tensor, limit: float = MAX_VALUE) -> None:
    assert values.isfinite().all(), f"{name} is not finite"
    assert values.abs().max() <= limit, f"{name} is as large as {values.abs().max():.3g}"


def _check_cameras(world_from_cam: torch.Tensor, intrinsics: torch.Tensor | None) -> None:
    """Check that known cameras are rigid and known intrinsics have a positive focal length."""
    known = world_from_cam[~world_from_cam.isnan().all(dim=(-2, -1))]
    if len(known):
        _check_finite("a pose", known, 1e12)
        rotations = known[:, :3, :3].double()
        error = (rotations @ rotations.mT - torch.eye(3)).abs().max()
        assert error < 0.02, f"a rotation is off by {error:.3g}"
        assert (torch.linalg.det(rotations) > 0).all(), "a rotation is a reflection"
        assert (known[:, 3] == known.new_tensor([0, 0, 0, 1])).all(), "a last row is wrong"
    if intrinsics is not None:
        known = intrinsics[~intrinsics.isnan().all(dim=(-2, -1))]
        if len(known):
            _check_finite("intrinsics", known, 1e9)
            assert (known[:, 0, 0] > 0).all(), "a focal length is not positive"
            assert (known[:, 1, 1] > 0).all(), "a focal length is not positive"


def _check_scene(scene: Scene) -> None:
    _check_cameras(scene.cameras.world_from_cam, scene.cameras.intrinsics)
    assert scene.depths.shape == scene.depth_confidence.shape == scene.point_confidence.shape


# Pictures and videos


def _picture_targets() -> list[Target]:
    register_heif()
    kinds = {
        "jpg": {},
        "png": {},
        "bmp": {},
        "tif": {},
        "webp": {},
        "avif": {},
        "heic": {"format": "HEIF"},
        "gif": {},
        "jp2": {},
        "tga": {},
        "ppm": {},
    }
    single = [
        Target(f"picture {kind}", _picture_maker(kind, options), _read_picture(f"a.{kind}"))
        for kind, options in kinds.items()
    ]
    with_times = {"duration": 50}
    animations = {"webp": with_times, "png": with_times, "tif": {}, "gif": with_times, "avif": with_times}
    animated = [
        Target(f"animation {kind}", _animation_maker(kind, options), _read_picture(f"a.{kind}"))
        for kind, options in animations.items()
    ]
    return single + animated


def _pictures() -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in sample().clip.images]


def _picture_maker(kind: str, options: dict) -> Callable[[Path], None]:
    return lambda folder: _pictures()[0].save(folder / f"a.{kind}", **options)


def _animation_maker(kind: str, options: dict) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        first, *others = _pictures()
        first.save(folder / f"a.{kind}", save_all=True, append_images=others, **options)

    return make


def _read_picture(name: str) -> Callable[[Path], None]:
    return lambda folder: _check_clip(read_clip(folder / name))


def _make_photos(folder: Path) -> None:
    for number, picture in enumerate(_pictures()):
        picture.save(folder / f"{number:06d}.jpg")


def _video_targets() -> list[Target]:
    kinds = {"mp4": "libx264", "mov": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
    kinds["ts"] = "mpeg2video"
    return [
        Target(f"video {kind}", _video_maker(kind, codec), _read_picture(f"a.{kind}")) for kind, codec in kinds.items()
    ]


def _video_maker(kind: str, codec: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with av.open(str(folder / f"a.{kind}"), "w") as container:
            container.metadata["title"] = "title"
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for picture in [*_pictures()] * 4:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.array(picture), format="rgb24")))
            container.mux(stream.encode(None))

    return make


# Results and checkpoints


def _info(clip: Clip) -> SceneInfo:
    return SceneInfo("model", True, "0", clip.source, clip.size, {"fps": 2.0})


def _make_scene(folder: Path) -> None:
    clip = _clip()
    write_results(folder, clip, sample().scene, _info(clip))


def _read_scene(folder: Path) -> None:
    load_scene_info(folder)
    load_times(folder)
    _check_scene(load_scene(folder))


def _export_scene(folder: Path) -> None:
    results = read_results(folder)
    _check_scene(results.scene)
    formats = ["colmap", "nerfstudio", "tum", "ply"]
    export_results(folder / "exported", open_frames(folder), formats, PointSelection(max_points=100))


def _make_long(folder: Path) -> None:
    clip, scene = _clip(), sample().scene
    (folder / "frames").mkdir()
    for number in range(COUNT):
        save_frame(folder, number, replace(scene.frames([number]), tracks=None), number / 10, _info(clip))
        save_image(folder, number, clip.images[number])
    windows, placement = torch.zeros(COUNT, dtype=torch.int64), torch.eye(4, dtype=torch.float64)[None]
    index = LongScene(
        scene.cameras, torch.arange(COUNT) / 10, scene.size, windows, placement, torch.zeros(1), 1.0, _info(clip)
    )
    save_index(folder, index)


def _read_long(folder: Path) -> None:
    index = load_index(folder)
    _check_cameras(index.cameras.world_from_cam, index.cameras.intrinsics)
    _check_scene(load_frames(folder, range(index.num_frames)))


def _make_run(folder: Path) -> None:
    clip, scene = _clip(), sample().scene
    work, window = open_work_folder(folder, _info(clip)), _window()
    work.save_window_scene(window, scene)
    work.save_alignment(window, WindowAlignment(torch.eye(4, dtype=torch.float64), 0.01, float("nan")))
    corners = torch.zeros(5, 4, dtype=torch.int64)
    tracks = StitchedTracks(torch.rand(5, 2), corners, torch.rand(5, 4), torch.rand(5, 3))
    work.save_stitching(window, tracks)
    identity = torch.eye(4, dtype=torch.float64)[None]
    work.save_placement(WindowPlacement(identity, torch.zeros(1), 1.0, torch.full((3, 3), torch.nan)))


def _window() -> Window:
    return Window(0, tuple(range(COUNT)), None, (), tuple(range(COUNT)))


def _read_run(folder: Path) -> None:
    work, window = open_work_folder(folder, _info(_clip())), _window()
    assert isinstance(work, WorkFolder)
    _check_scene(work.load_window_scene(0))
    work.load_window_intrinsics(0)
    work.load_alignment(window)
    work.load_stitching(window)
    work.load_placement()


def _make_checkpoint(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(create_model("recon4d_tiny"), folder / "a.safetensors", "int8")


def _read_checkpoint(folder: Path) -> None:
    model = load_model(folder / "a.safetensors")
    assert isinstance(model.trained, bool)
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name


# Cameras


def _camera_targets() -> list[Target]:
    return [
        Target("TUM trajectory", _make_tum_trajectory, _read_cameras("a.txt")),
        Target("COLMAP text", _colmap_maker("colmap-text"), _read_cameras("."), ("*.txt",)),
        Target("COLMAP binary", _colmap_maker("colmap"), _read_cameras("."), ("*.bin",)),
        Target("transforms.json", _make_transforms, _read_cameras("transforms.json"), ("transforms.json",)),
        Target("cameras of scene.npz", _make_scene, _read_cameras("scene.npz"), ("scene.npz",)),
        Target("KITTI trajectory", _make_kitti, _read_cameras("a.txt")),
        Target("EuRoC trajectory", _make_euroc, _read_cameras("a.csv")),
        Target("poses npy", _make_npy_poses, _read_cameras("a.npy")),
        Target("intrinsics text", _make_intrinsics_text, _read_intrinsics("a.txt")),
        Target("intrinsics json", _make_intrinsics_json, _read_intrinsics("a.json")),
    ]


def _read_cameras(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        cameras = read_camera_file(folder / name).for_clip(_clip(), CameraOptions())
        _check_cameras(cameras.world_from_cam, cameras.intrinsics)

    return read


def _export(folder: Path, kind: str) -> Path:
    """Export the synthetic clip and return the folder of the format."""
    clip, work = _clip(), folder / "work"
    work.mkdir()
    write_results(work, clip, sample().scene, _info(clip))
    export_results(folder / "exported", read_results(work), [kind], PointSelection(max_points=20))
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    work.rmdir()
    return folder / "exported" / kind


def _flatten(folder: Path, source: Path) -> None:
    """Move the files of a folder below `folder` into it, and remove the other folders."""
    for path in list(source.iterdir()):
        path.rename(folder / path.name)
    for path in sorted((folder / "exported").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "exported").rmdir()


def _make_tum_trajectory(folder: Path) -> None:
    poses = sample().scene.cameras.world_from_cam
    lines = [f"{0.1 * number:.6f} {pose[0, 3]} {pose[1, 3]} {pose[2, 3]} 0 0 0 1" for number, pose in enumerate(poses)]
    (folder / "a.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")


def _colmap_maker(kind: str) -> Callable[[Path], None]:
    return lambda folder: _flatten(folder, _export(folder, kind) / "sparse" / "0")


def _make_transforms(folder: Path) -> None:
    _flatten(folder, _export(folder, "nerfstudio"))


def _make_kitti(folder: Path) -> None:
    rows = sample().scene.cameras.world_from_cam[:, :3].reshape(COUNT, 12)
    np.savetxt(folder / "a.txt", rows.numpy())


def _make_euroc(folder: Path) -> None:
    lines = [f"{1403636580838555648 + 10**8 * number},{number},0,0,1,0,0,0" for number in range(COUNT)]
    (folder / "a.csv").write_text("#timestamp [ns],x,y,z,qw,qx,qy,qz\n" + "\n".join(lines) + "\n")


def _make_npy_poses(folder: Path) -> None:
    np.save(folder / "a.npy", sample().scene.cameras.world_from_cam.numpy())


def _make_intrinsics_text(folder: Path) -> None:
    (folder / "a.txt").write_text("50 50 32 24\n")


def _make_intrinsics_json(folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]))


def _read_intrinsics(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        _check_cameras(torch.empty(0, 4, 4), read_intrinsics(str(folder / name), _clip(), None).matrices)

    return read


# Depth and masks


def _depth_targets() -> list[Target]:
    writers: dict[str, Callable[[Path, np.ndarray], None]] = {
        "png": lambda path, depths: write_raster(path, (depths * 1000).astype(np.uint16)),
        "tif": write_raster,
        "exr": write_exr,
        "npy": np.save,
        "npz": lambda path, depths: np.savez(path, depth=depths),
        "pfm": lambda path, depths: path.write_bytes(f"Pf\n{WIDTH} {HEIGHT}\n-1\n".encode() + depths.tobytes()),
    }
    folders = [Target(f"depth {kind}", _depth_maker(kind, write), _read_depth(".")) for kind, write in writers.items()]
    return [
        *folders,
        Target("depth of all frames", _make_depths, _read_depth("a.npz")),
        Target("depth of points", _make_points, _read_depth("a.npz")),
    ]


def _depths() -> np.ndarray:
    return sample().scene.depths.clamp(max=50).numpy()


def _depth_maker(kind: str, write: Callable[[Path, np.ndarray], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for number, depths in enumerate(_depths()):
            write(folder / f"{number:06d}.{kind}", np.ascontiguousarray(depths))

    return make


def _make_depths(folder: Path) -> None:
    np.savez(folder / "a.npz", depths=_depths())


def _make_points(folder: Path) -> None:
    pixels = np.random.default_rng(0).uniform(0, HEIGHT, (20, 2))
    np.savez(folder / "a.npz", depths=np.full(20, 2.0), pixels=pixels, frames=np.arange(20) % COUNT)


def _read_depth(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        depths = read_depth_priors(folder / name, _clip()).depths
        known = depths[~depths.isnan()]
        _check_finite("depth", known)
        assert (known > 0).all(), "a depth is not positive"

    return read


def _mask_targets() -> list[Target]:
    def maker(kind: str, mode: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            is_far = (sample().scene.depths[0] > 3).numpy()
            Image.fromarray(is_far).convert("L").convert(mode).save(folder / f"a.{kind}")

        return make

    def reader(kind: str) -> Callable[[Path], None]:
        def read(folder: Path) -> None:
            assert read_masks(folder / f"a.{kind}", _clip()).shape == (COUNT, HEIGHT, WIDTH)

        return read

    kinds = {"png": "L", "jpg": "L", "tif": "L", "webp": "RGB"}
    return [Target(f"mask {kind}", maker(kind, mode), reader(kind)) for kind, mode in kinds.items()]


# Data sets


def _data_set_targets() -> list[Target]:
    return [
        Target("Point Odyssey", _make_point_odyssey, _reader(PointOdyssey), ("train/a/*.npz", "train/a/*/*")),
        Target(
            "Dynamic Replica",
            lambda folder: write_dynamic_replica(folder, "train", "a", sample()),
            _reader(lambda root: DynamicReplica(root, "train")),
            ("train/*.jgz", "train/a/*/*"),
        ),
        Target("Kubric", _make_kubric, _reader(Kubric), ("a/*",)),
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
        _check_clip(replace(found.clip, times=found.clip.times.nan_to_num(0) + torch.arange(found.clip.num_frames)))
        _check_scene(found.scene)
        known = found.scene.depths[found.scene.depth_confidence > 0]
        if len(known):
            assert known.isfinite().all(), "a known depth is not finite"
            assert (known > 0).all(), "a known depth is not positive"

    return read


def _make_point_odyssey(folder: Path) -> None:
    write_point_odyssey(folder, "train", "a", sample())


def _make_kubric(folder: Path) -> None:
    write_kubric(folder, "a", sample())


def _make_sintel(folder: Path) -> None:
    scene = sample().scene
    for number, picture in enumerate(_pictures()):
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
    for number, picture in enumerate(_pictures()):
        stamp = f"1311868164.{number}00000"
        picture.save(root / "rgb" / f"{stamp}.png")
        write_raster(root / "depth" / f"{stamp}.png", (_depths()[number] * 1000).astype(np.uint16))
        lists["rgb"].append(f"{stamp} rgb/{stamp}.png")
        lists["depth"].append(f"{stamp} depth/{stamp}.png")
        lists["groundtruth"].append(f"{stamp} {number} 0 0 0 0 0 1")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("# header\n" + "\n".join(lines) + "\n")


def _make_seven_scenes(folder: Path) -> None:
    (folder / "a").mkdir()
    for number, picture in enumerate(_pictures()):
        stem = f"frame-{number:06d}"
        picture.save(folder / "a" / f"{stem}.color.png")
        write_raster(folder / "a" / f"{stem}.depth.png", (_depths()[number] * 1000).astype(np.uint16))
        np.savetxt(folder / "a" / f"{stem}.pose.txt", sample().scene.cameras.world_from_cam[number].numpy())


def _make_tapvid(folder: Path) -> None:
    import io

    jpegs = np.empty(COUNT, dtype=object)
    for number, picture in enumerate(_pictures()):
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
    for number, picture in enumerate(_pictures()):
        picture.save(folder / "a" / f"{number}.png")
        frames.append({"image": f"{number}.png", "world_from_cam": cameras.world_from_cam[number].tolist()})
    stored = {"width": WIDTH, "height": HEIGHT, "intrinsics": cameras.intrinsics[0].tolist(), "frames": frames}
    (folder / "a" / "cameras.json").write_text(json.dumps(stored))


def _make_colmap_model(folder: Path) -> None:
    _export(folder, "colmap").rename(folder / "a")
    (folder / "exported").joinpath("export.json").unlink(missing_ok=True)


def _make_nerfstudio(folder: Path) -> None:
    _export(folder, "nerfstudio").rename(folder / "a")
