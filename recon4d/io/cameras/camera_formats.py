"""Known cameras of a clip from a file or folder of any format, recognized by its contents."""

from collections.abc import Sequence
from pathlib import Path

import torch

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import invert
from recon4d.io.archive import load_cameras, load_scene_info, load_times, scene_size
from recon4d.io.cameras.camera_file import CameraFile
from recon4d.io.cameras.camera_json import load_json, read_camera_json, read_polycam
from recon4d.io.cameras.colmap_reader import find_model_folder, read_model
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.pose_files import list_pose_files, read_pose_array, read_pose_folder, read_pose_text
from recon4d.io.cameras.stored_intrinsics import StoredIntrinsics, intrinsics_from_colmap
from recon4d.io.checked_cameras import checked_cameras

JSON_NAMES = ("transforms.json", "metadata.json", "cameras.json")
"""Names of the JSON files that are looked for in a folder, in this order."""
POLYCAM_FOLDERS = (".", "cameras", "corrected_cameras", "keyframes/corrected_cameras", "keyframes/cameras")
"""Folders with Polycam's camera files, in an export of its raw data."""
MODEL_FILES = tuple(f"{part}.{suffix}" for part in ("cameras", "images", "points3D") for suffix in ("bin", "txt"))
"""Names of the files of a COLMAP model; any of them stands for the folder."""
ARRAY_NAMES = ("poses_bounds.npy", "poses.npy", "poses.txt")
"""Names of pose files that are looked for in a folder."""


def read_camera_file(path: Path, only_poses: bool = False) -> CameraFile:
    """Read cameras from a file or folder, whose format is recognized by its contents.

    Args:
        path: A transforms.json of nerfstudio, instant-ngp or Blender, Record3D's metadata.json, a camera file of
            Polycam (`camera_json`); a text file or array of poses (`pose_files`); a scene.npz of recon4d; a file of a
            COLMAP model; or a folder that holds a COLMAP model (itself, in sparse/0, sparse or colmap/sparse/0) or one
            of these files.
        only_poses: Whether focal lengths and lenses are passed over, as those of panoramas.

    Returns:
        The cameras.

    Raises:
        UserError: If the path does not exist, has another format or is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir():
        return _read_folder(path, only_poses)
    if path.name in MODEL_FILES and find_model_folder(path.parent) == path.parent / ".":
        return _read_colmap(path.parent, only_poses)
    with os_errors_as_user_errors(f"cannot read {path}"), path.open("rb") as file:
        beginning = file.read(256)
    if beginning.startswith(b"PK"):
        return _read_archive(path)
    if beginning.startswith(b"\x93NUMPY"):
        return read_pose_array(path)
    text = beginning.decode("utf-8-sig", errors="replace").replace("\x00", "").lstrip("\ufeff\ufffd")
    is_json = text.lstrip().startswith(("{", "["))
    return read_camera_json(path, only_poses) if is_json else read_pose_text(path)


def _read_folder(path: Path, only_poses: bool) -> CameraFile:
    if (path / "scene.npz").is_file():
        return _read_archive(path)
    if find_model_folder(path) is not None:
        return _read_colmap(path, only_poses)
    if (found := _read_json_of_folder(path, only_poses)) is not None:
        return found
    for name in ARRAY_NAMES:
        if (path / name).is_file():
            return read_camera_file(path / name, only_poses)
    for folder in (path, path / "pose", path / "poses"):
        if folder.is_dir() and list_pose_files(folder):
            return read_pose_folder(folder)
    raise UserError(
        f"cameras {path}: the folder holds neither a scene.npz, nor a COLMAP model (cameras and images, .bin or .txt), "
        "nor a transforms.json, nor poses (one 4x4 text file for each picture)"
    )


def _read_json_of_folder(path: Path, only_poses: bool) -> CameraFile | None:
    for name in JSON_NAMES:
        if (path / name).is_file():
            return read_camera_json(path / name, only_poses)
    if parts := sorted(path.glob("transforms_*.json")):
        return _join([read_camera_json(part, only_poses) for part in parts], path)
    for name in POLYCAM_FOLDERS:
        files = sorted((path / name).glob("*.json")) if (path / name).is_dir() else []
        if files and isinstance(load_json(files[0]), dict) and "t_00" in load_json(files[0]):
            return read_polycam(files, only_poses)
    return None


def _join(parts: Sequence[CameraFile], path: Path) -> CameraFile:
    """Join the files of Blender's splits: transforms_train.json, transforms_test.json and transforms_val.json."""
    names = [part.names for part in parts]
    lenses = [part.intrinsics or (None,) * len(part.world_from_cam) for part in parts]
    return CameraFile(
        path,
        f"{', '.join(part.path.name for part in parts)}",
        torch.cat([part.world_from_cam for part in parts]),
        None if None in names else tuple(name for part in names for name in part or ()),
        intrinsics=tuple(lens for part in lenses for lens in part) if any(part.intrinsics for part in parts) else None,
    )


def _read_archive(path: Path) -> CameraFile:
    cameras, info, times = load_cameras(path), load_scene_info(path), load_times(path)
    height, width = scene_size(path)
    intrinsics = tuple(
        StoredIntrinsics(Lens("PINHOLE"), fx, fy, center_x=cx, center_y=cy, width=width, height=height)
        if all(map(torch.isfinite, torch.tensor([fx, fy, cx, cy])))
        else None
        for fx, fy, cx, cy in cameras.intrinsics.double()[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    )
    return CameraFile(
        path,
        "recon4d",
        checked_cameras(f"cameras {path}", cameras.world_from_cam, allow_unknown=True),
        None if info.source is None else info.source.names,
        times.double(),
        intrinsics,
        is_upright=True,
    )


def _read_colmap(path: Path, only_poses: bool) -> CameraFile:
    model, place = read_model(path.name, path), f"cameras {path}"
    if missing := [image.name for image in model.images if image.camera_id not in model.cameras]:
        raise UserError(f"{place}: the camera of {missing[0]} is not in the model")
    cameras = {
        key: intrinsics_from_colmap(place, camera.model, camera.width, camera.height, camera.parameters)
        for key, camera in model.cameras.items()
        if key in {image.camera_id for image in model.images} and not only_poses
    }
    return CameraFile(
        path,
        "COLMAP",
        invert(torch.stack([image.cam_from_world for image in model.images])),
        tuple(image.name for image in model.images),
        intrinsics=None if only_poses else tuple(cameras[image.camera_id] for image in model.images),
    )
