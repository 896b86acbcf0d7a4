"""Files of every kind that is read, each with a function that reads them and checks what was read."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.fuzz_data_sets import data_set_targets
from benchmarks.fuzz_samples import (
    COUNT,
    HEIGHT,
    WIDTH,
    Target,
    check_cameras,
    check_clip,
    check_finite,
    check_scene,
    export,
    sample,
    sample_clip,
    sample_depths,
    sample_info,
    sample_pictures,
)
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks
from recon4d.inference.windows.window_alignment import WindowAlignment
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder, open_work_folder
from recon4d.io import (
    PointSelection,
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
from recon4d.zoo import create_model, load_model, save_model


def targets() -> list[Target]:
    """List all kinds of input.

    Returns:
        The targets, in the order of the table.
    """
    return [
        *_picture_targets(),
        *_video_targets(),
        Target("frames of a folder", _make_photos, lambda folder: check_clip(read_clip(folder))),
        Target("scene.npz", _make_scene, _read_scene, ("scene.npz",)),
        Target("result folder", _make_scene, _export_scene, ("scene.npz", "frames/*")),
        Target("long clip", _make_long, _read_long, ("index.npz", "frames/*.npz")),
        Target("interrupted run", _make_run, _read_run, ("windows/*",)),
        Target("checkpoint", _make_checkpoint, _read_checkpoint),
        *_camera_targets(),
        *_depth_targets(),
        *_mask_targets(),
        *data_set_targets(),
    ]


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


def _picture_maker(kind: str, options: dict) -> Callable[[Path], None]:
    return lambda folder: sample_pictures()[0].save(folder / f"a.{kind}", **options)


def _animation_maker(kind: str, options: dict) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        first, *others = sample_pictures()
        first.save(folder / f"a.{kind}", save_all=True, append_images=others, **options)

    return make


def _read_picture(name: str) -> Callable[[Path], None]:
    return lambda folder: check_clip(read_clip(folder / name))


def _make_photos(folder: Path) -> None:
    for number, picture in enumerate(sample_pictures()):
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
            for picture in [*sample_pictures()] * 4:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.array(picture), format="rgb24")))
            container.mux(stream.encode(None))

    return make


# Results and checkpoints


def _make_scene(folder: Path) -> None:
    clip = sample_clip()
    write_results(folder, clip, sample().scene, sample_info(clip))


def _read_scene(folder: Path) -> None:
    load_scene_info(folder)
    load_times(folder)
    check_scene(load_scene(folder))


def _export_scene(folder: Path) -> None:
    results = read_results(folder)
    check_scene(results.scene)
    formats = ["colmap", "nerfstudio", "tum", "ply"]
    export_results(folder / "exported", open_frames(folder), formats, PointSelection(max_points=100))


def _make_long(folder: Path) -> None:
    clip, scene = sample_clip(), sample().scene
    (folder / "frames").mkdir()
    for number in range(COUNT):
        save_frame(folder, number, replace(scene.frames([number]), tracks=None), number / 10, sample_info(clip))
        save_image(folder, number, clip.images[number])
    windows, placement = torch.zeros(COUNT, dtype=torch.int64), torch.eye(4, dtype=torch.float64)[None]
    index = LongScene(
        scene.cameras, torch.arange(COUNT) / 10, scene.size, windows, placement, torch.zeros(1), 1.0, sample_info(clip)
    )
    save_index(folder, index)


def _read_long(folder: Path) -> None:
    index = load_index(folder)
    check_cameras(index.cameras.world_from_cam, index.cameras.intrinsics)
    check_scene(load_frames(folder, range(index.num_frames)))


def _make_run(folder: Path) -> None:
    clip, scene = sample_clip(), sample().scene
    work, window = open_work_folder(folder, sample_info(clip)), _window()
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
    work, window = open_work_folder(folder, sample_info(sample_clip())), _window()
    assert isinstance(work, WorkFolder)
    check_scene(work.load_window_scene(0))
    work.load_window_intrinsics(0)
    work.load_alignment(window)
    work.load_stitching(window)
    work.load_placement()


def _make_checkpoint(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(create_model("recon4d_tiny", pretrained=False), folder / "a.safetensors", "int8")


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
        cameras = read_camera_file(folder / name).for_clip(sample_clip(), CameraOptions())
        check_cameras(cameras.world_from_cam, cameras.intrinsics)

    return read


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
    return lambda folder: _flatten(folder, export(folder, kind) / "sparse" / "0")


def _make_transforms(folder: Path) -> None:
    _flatten(folder, export(folder, "nerfstudio"))


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
        check_cameras(torch.empty(0, 4, 4), read_intrinsics(str(folder / name), sample_clip(), None).matrices)

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


def _depth_maker(kind: str, write: Callable[[Path, np.ndarray], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for number, depths in enumerate(sample_depths()):
            write(folder / f"{number:06d}.{kind}", np.ascontiguousarray(depths))

    return make


def _make_depths(folder: Path) -> None:
    np.savez(folder / "a.npz", depths=sample_depths())


def _make_points(folder: Path) -> None:
    pixels = np.random.default_rng(0).uniform(0, HEIGHT, (20, 2))
    np.savez(folder / "a.npz", depths=np.full(20, 2.0), pixels=pixels, frames=np.arange(20) % COUNT)


def _read_depth(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        depths = read_depth_priors(folder / name, sample_clip()).depths
        known = depths[~depths.isnan()]
        check_finite("depth", known)
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
            assert read_masks(folder / f"a.{kind}", sample_clip()).shape == (COUNT, HEIGHT, WIDTH)

        return read

    kinds = {"png": "L", "jpg": "L", "tif": "L", "webp": "RGB"}
    return [Target(f"mask {kind}", maker(kind, mode), reader(kind)) for kind, mode in kinds.items()]
