"""Known cameras of a clip from a file: a TUM trajectory, a COLMAP model, a transforms.json or a scene.npz."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from recon4d.errors import DataError, UserError, os_errors_as_user_errors
from recon4d.geometry import (
    invert,
    resized_intrinsics,
    rigid,
    rotation_from_quaternion,
)
from recon4d.io.archive import load_cameras, load_scene_info, load_times, scene_size
from recon4d.io.cameras.colmap_reader import StoredCamera, find_model_folder, read_model
from recon4d.io.cameras.intrinsics import parse_floats
from recon4d.io.checked_values import (
    get_entry,
    parse_numbers,
    parse_rigid_matrices,
    pinhole_matrix,
    read_json,
)
from recon4d.io.frame_pairing import bare_name, match_by_name
from recon4d.records import Clip

NEAREST_SECONDS = 0.02
"""Largest difference in seconds between a frame and its camera, the default of TUM's ``associate.py``."""
COLMAP_PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
}
"""Names of the parameters of COLMAP's camera models, in their order."""
DISTORTION = ("k1", "k2", "p1", "p2", "k3")
"""Names of the distortion coefficients, in OpenCV's order."""
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Change of camera axes: OpenGL cameras look along -z and their y axis points up."""
ASPECT_TOLERANCE = 0.01
"""Largest relative difference between the aspect ratios of a camera file and a clip. Hand-tuned."""


@dataclass(frozen=True)
class CameraFile:
    """Cameras in OpenCV axes and a world of their own, with the data that assign them to frames."""

    path: Path
    """The file or folder, for messages."""
    world_from_cam: Float64[Tensor, "camera 4 4"]
    """Rigid poses, of shape (camera, 4, 4)."""
    names: tuple[str, ...] | None = None
    """Name of each camera's picture. None if the file has no names."""
    seconds: Float64[Tensor, "camera"] | None = None
    """Time of each camera in seconds, of shape (camera,). None if the file has no times."""
    intrinsics: Float64[Tensor, "camera 3 3"] | None = None
    """In pixels of pictures of `sizes`, of shape (camera, 3, 3). The center of the first pixel is (0.5, 0.5)."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """Height and width of each camera's picture. None means the size of the clip."""
    distortion: Float64[Tensor, "camera 5"] | None = None
    """OpenCV's k1, k2, p1, p2, k3, of shape (camera, 5). None if the file does not specify distortion."""

    def match_frames(self, clip: Clip) -> list[int | None]:
        """Assign a camera to each frame of a clip.

        The first rule that applies counts: by name; by time if every frame has a camera within `NEAREST_SECONDS`; in
        order if the numbers of cameras and frames agree; by time if some frames have a camera.

        Args:
            clip: The clip.

        Returns:
            For each frame the index of its camera, or None if it has none.

        Raises:
            UserError: If no rule applies.
        """
        by_name = match_by_name(clip, self.names or ())
        if any(index is not None for index in by_name):
            return by_name
        by_time = self._match_by_time(clip)
        if all(index is not None for index in by_time):
            return by_time
        if len(self.world_from_cam) == clip.num_frames:
            return list(range(clip.num_frames))
        if any(index is not None for index in by_time):
            return by_time
        raise UserError(
            f"cameras {self.path}: {len(self.world_from_cam)} cameras, and the clip has {clip.num_frames} frames; "
            "neither names nor times tell which belongs to which"
        )

    def frame_poses(self, clip: Clip) -> Float[Tensor, "time 4 4"]:
        """Compute the pose of each frame's camera.

        Args:
            clip: The clip.

        Returns:
            World from camera, of shape (time, 4, 4), float32; NaN for frames without a camera. The world is that of
            the first frame's camera if it has one, otherwise that of the file.

        Raises:
            UserError: As `match_frames`.
        """
        # In float64, because the origin of the file's world may be kilometers away.
        poses = _select(self.world_from_cam, self.match_frames(clip))
        return (invert(poses[0]) @ poses if poses[0].isfinite().all() else poses).float()

    def frame_intrinsics(self, clip: Clip) -> Float[Tensor, "time 3 3"] | None:
        """Compute the intrinsics of each frame's camera.

        Args:
            clip: The clip.

        Returns:
            Intrinsics in pixels of the clip, of shape (time, 3, 3); NaN for frames without a camera. None if the file
            has no intrinsics.

        Raises:
            UserError: If the pictures of the file have another aspect ratio than those of the clip, or as
                `match_frames`.
        """
        if self.intrinsics is None:
            return None
        sizes = self.sizes or (clip.size,) * len(self.intrinsics)
        for size in sizes:
            if abs(size[0] * clip.size[1] / (size[1] * clip.size[0]) - 1) > ASPECT_TOLERANCE:
                given, wanted = (f"{width} x {height}" for height, width in (size, clip.size))
                raise UserError(f"cameras {self.path}: they are of pictures of {given} pixels, and the clip's {wanted}")
        scaled = [resized_intrinsics(one, size, clip.size) for one, size in zip(self.intrinsics, sizes, strict=True)]
        return _select(torch.stack(scaled), self.match_frames(clip)).float()

    def frame_distortion(self, clip: Clip) -> Float[Tensor, "time 5"] | None:
        """Look up the distortion coefficients of each frame's camera.

        Args:
            clip: The clip.

        Returns:
            Coefficients k1, k2, p1, p2, k3, of shape (time, 5); 0 for frames without a camera. None if no camera of
            the file has lens distortion.

        Raises:
            UserError: As `match_frames`.
        """
        if self.distortion is None or not self.distortion.any():
            return None
        return _select(self.distortion, self.match_frames(clip)).nan_to_num().float()

    def _match_by_time(self, clip: Clip) -> list[int | None]:
        """Match the times of the clip, or the names of its pictures if these are times, as in TUM's folders."""
        if self.seconds is None:
            return [None] * clip.num_frames
        named = None if clip.source is None else parse_floats([bare_name(name) for name in clip.source.names])
        return [_nearest(self.seconds, seconds) for seconds in named or clip.times.tolist()]


def read_camera_file(path: Path) -> CameraFile:
    """Read cameras from a file or folder, whose format is recognized by its contents.

    Args:
        path: A TUM trajectory (rows of time tx ty tz qx qy qz qw), the folder of a COLMAP model (text or binary), a
            transforms.json of nerfstudio (OpenGL axes) or a scene.npz of recon4d, or a folder that holds one of the
            last two.

    Returns:
        The cameras.

    Raises:
        UserError: If the path does not exist, has another format or is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir():
        return _reader_of_folder(path)(path)
    with os_errors_as_user_errors(f"cannot read {path}"), path.open("rb") as file:
        beginning = file.read(256)
    if beginning.startswith(b"PK"):
        return _read_archive(path)
    return _read_transforms(path) if beginning.lstrip().startswith(b"{") else _read_trajectory(path)


def _reader_of_folder(path: Path) -> Callable[[Path], CameraFile]:
    if (path / "scene.npz").is_file():
        return _read_archive
    if find_model_folder(path) is not None:
        return _read_colmap
    if (path / "transforms.json").is_file():
        return lambda folder: _read_transforms(folder / "transforms.json")
    raise UserError(
        f"cameras {path}: the folder holds neither a scene.npz, nor a COLMAP model (cameras and images, .bin or .txt), "
        "nor a transforms.json"
    )


def _read_archive(path: Path) -> CameraFile:
    cameras, info, times = load_cameras(path), load_scene_info(path), load_times(path)
    return CameraFile(
        path,
        cameras.world_from_cam.double(),
        None if info.source is None else info.source.names,
        times.double(),
        cameras.intrinsics.double(),
        (scene_size(path),) * len(times),
    )


def _read_trajectory(path: Path) -> CameraFile:
    with os_errors_as_user_errors(f"cannot read {path}"):
        data = path.read_bytes()
    lines = data.decode("utf-8", errors="replace").splitlines()
    words = [line.partition("#")[0].replace(",", " ").split() for line in lines]
    rows = [parse_floats(row) for row in words if row]
    poses_and_times = [row for row in rows if row is not None and len(row) == 8 and all(map(math.isfinite, row))]
    if not rows or len(poses_and_times) < len(rows):
        raise UserError(
            f"cameras {path}: wanted rows of time tx ty tz qx qy qz qw, a COLMAP folder, "
            "a transforms.json or a scene.npz"
        )
    values = torch.tensor(poses_and_times, dtype=torch.float64)
    if (values[:, 4:].norm(dim=-1) < 0.5).any():
        raise UserError(f"cameras {path}: it holds a quaternion that is not of length 1")
    poses = rigid(rotation_from_quaternion(values[:, [7, 4, 5, 6]]), values[:, 1:4])
    return CameraFile(path, poses, seconds=values[:, 0])


def _read_colmap(path: Path) -> CameraFile:
    model = read_model(path.name, path)
    poses = torch.stack([image.pose for image in model.images])
    if missing := [image.name for image in model.images if image.camera_id not in model.cameras]:
        raise UserError(f"cameras {path}: the camera of {missing[0]} is not in the model")
    cameras = [model.cameras[image.camera_id] for image in model.images]
    parameters = [_colmap_parameters(path, camera) for camera in cameras]
    return CameraFile(
        path,
        invert(rigid(rotation_from_quaternion(poses[:, :4]), poses[:, 4:])),
        tuple(image.name for image in model.images),
        intrinsics=torch.stack([_pinhole(one) for one in parameters]),
        sizes=tuple((camera.height, camera.width) for camera in cameras),
        distortion=_distortion(parameters),
    )


def _colmap_parameters(path: Path, camera: StoredCamera) -> dict[str, float]:
    """The parameters of a COLMAP camera by name."""
    if camera.model not in COLMAP_PARAMETERS:
        raise UserError(f"cameras {path}: a camera of the model {camera.model}; wanted {', '.join(COLMAP_PARAMETERS)}")
    names = COLMAP_PARAMETERS[camera.model]
    if len(camera.parameters) != len(names):
        raise UserError(f"cameras {path}: a {camera.model} camera has {len(camera.parameters)} parameters")
    return dict(zip(names, camera.parameters, strict=True))


def _read_transforms(path: Path) -> CameraFile:
    sequence, file = path.parent.name, path.name
    stored = read_json(sequence, path)
    frames = get_entry(sequence, file, stored, "frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"cameras {path}: its frames are no list, or an empty one")
    matrices = [get_entry(sequence, file, frame, "transform_matrix") for frame in frames]
    poses = parse_rigid_matrices(sequence, file, matrices, len(frames)) @ OPENCV_FROM_OPENGL
    parameters = [_transforms_parameters(sequence, file, {**stored, **frame}) for frame in frames]
    has_intrinsics = all("fx" in one for one in parameters)
    return CameraFile(
        path,
        poses,
        tuple(str(get_entry(sequence, file, frame, "file_path")) for frame in frames),
        intrinsics=torch.stack([_pinhole(one) for one in parameters]) if has_intrinsics else None,
        sizes=tuple((int(one["h"]), int(one["w"])) for one in parameters) if has_intrinsics else None,
        distortion=_distortion(parameters) if has_intrinsics else None,
    )


def _transforms_parameters(sequence: str, file: str, values: dict[str, Any]) -> dict[str, float]:
    """The camera parameters of a frame by name; empty if the file has no focal length or size."""
    names = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", *DISTORTION)
    given = {name: float(parse_numbers(sequence, file, values[name], ())) for name in names if name in values}
    if not {"w", "h"} <= given.keys() or not {"fl_x", "camera_angle_x"} & given.keys():
        return {}
    model = values.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise DataError(sequence, file, f"has a camera of the model {model}; wanted OPENCV or PINHOLE")
    width, height = given["w"], given["h"]
    fx = given["fl_x"] if "fl_x" in given else width / 2 / math.tan(given["camera_angle_x"] / 2)
    fy = height / 2 / math.tan(given["camera_angle_y"] / 2) if "camera_angle_y" in given else fx
    parameters = {"fx": fx, "fy": given.get("fl_y", fy), "cx": width / 2, "cy": height / 2}
    if min(parameters["fx"], parameters["fy"], width, height) <= 0:
        raise DataError(sequence, file, "has a focal length or a size that is not above 0")
    return {**parameters, **given}


def _pinhole(parameters: dict[str, float]) -> Float64[Tensor, "3 3"]:
    fx = parameters["f"] if "f" in parameters else parameters["fx"]
    return pinhole_matrix(fx, parameters.get("fy", fx), parameters["cx"], parameters["cy"])


def _distortion(parameters: Sequence[dict[str, float]]) -> Float64[Tensor, "camera 5"]:
    rows = [[one.get(name, 0.0) for name in DISTORTION] for one in parameters]
    return torch.tensor(rows, dtype=torch.float64)


def _select(values: Float64[Tensor, "camera *shape"], indices: list[int | None]) -> Float64[Tensor, "time *shape"]:
    """The values at `indices`, NaN for None."""
    unknown = torch.full_like(values[0], torch.nan)
    return torch.stack([unknown if index is None else values[index] for index in indices])


def _nearest(times: Float64[Tensor, "camera"], seconds: float) -> int | None:
    """The index of the nearest time within `NEAREST_SECONDS`, if there is one."""
    if not math.isfinite(seconds):
        return None
    distances = torch.where(times.isfinite(), (times - seconds).abs(), torch.inf)
    best = int(distances.argmin())
    return best if distances[best] <= NEAREST_SECONDS else None
