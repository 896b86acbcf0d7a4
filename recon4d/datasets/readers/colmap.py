"""Reader of COLMAP's sparse models, in text or binary format."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.assembly import sample_without_depth
from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images
from recon4d.datasets.readers.sequence_paths import list_folder, sequence_path
from recon4d.datasets.sample import Sample, Trajectories
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import (
    invert,
    project,
    rigid,
    rotation_from_quaternion,
    transform_points,
)
from recon4d.io.cameras.colmap_reader import (
    PARAMETER_COUNTS,
    StoredCamera,
    StoredImage,
    StoredModel,
    find_model_folder,
    read_model,
)
from recon4d.io.checked_values import parse_numbers, pinhole_matrix
from recon4d.io.confined_paths import confined_path
from recon4d.records import Clip, ClipSource

MAX_DISTORTION = 1e-6
"""Largest magnitude of a distortion coefficient that is treated as 0. Hand-tuned."""


class ColmapModels(SequenceDataset):
    """Sparse COLMAP models: photos with cameras and static points, without depth.

    A model consists of cameras, images and points3D as .bin or .txt files, in the folder itself, in sparse/0 or in
    sparse. Its photos are in images/ or in the folder itself. Frames are the registered images sorted by name, without
    times. COLMAP's pixel coordinates are those of this package: the center of the first pixel is (0.5, 0.5). The unit
    of length is unknown. The 3D points become static tracks that are visible in the images that observe them.

    Models with lens distortion are not supported: `read` raises `DataError`, so undistort the images first.

    Args:
        root: The folder of a model, or a folder of such folders.

    Raises:
        UserError: If there is no model.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        contents = list_folder(root)
        folders = {root.resolve().name: root}
        if find_model_folder(root) is None:
            folders = {path.name: path for path in contents if path.is_dir() and find_model_folder(path)}
        if not folders:
            raise UserError(
                f"{root} contains no COLMAP model (cameras.bin or cameras.txt), and neither do its subfolders"
            )
        self.folders = folders

    def names(self) -> list[str]:
        """See `SequenceDataset.names`."""
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(read_model(name, sequence_path(self.folders, name)).images)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        folder = sequence_path(self.folders, name)
        model = read_model(name, folder)
        registered = [model.images[frame] for frame in frames]
        stored_cameras = [_camera_of(name, model, image) for image in registered]
        image_folder = folder / "images" if (folder / "images").is_dir() else folder
        images = read_images(name, [confined_path(image_folder, image.name, "images", name) for image in registered])
        for image, camera in zip(registered, stored_cameras, strict=True):
            if (camera.height, camera.width) != images.shape[-2:]:
                found, wanted = tuple(images.shape[-2:]), (camera.height, camera.width)
                raise DataError(name, image.name, f"has size {found} (height, width), but its camera says {wanted}")
        poses = torch.stack([image.pose for image in registered])
        cam_from_world = rigid(rotation_from_quaternion(poses[:, :4]), poses[:, 4:])
        intrinsics = torch.stack([_intrinsics(name, camera) for camera in stored_cameras])
        cameras, first_from_world = cameras_from_first(name, "cameras", invert(cam_from_world), intrinsics)
        trajectories = _trajectories(name, model, registered, cam_from_world, intrinsics)
        points = transform_points(first_from_world, trajectories.points)
        trajectories = Trajectories(
            points=points.float(),
            pixels=trajectories.pixels.float(),
            valid=trajectories.valid,
            visibility=trajectories.visibility,
        )
        source = ClipSource(str(folder), tuple(image.name for image in registered), tuple(frames))
        clip = Clip(images, torch.full((len(registered),), torch.nan), source=source)
        return sample_without_depth(clip, cameras, anchors, trajectories)


def _camera_of(name: str, model: StoredModel, image: StoredImage) -> StoredCamera:
    if image.camera_id not in model.cameras:
        raise DataError(name, image.name, f"its camera {image.camera_id} is not in the model")
    return model.cameras[image.camera_id]


def _intrinsics(name: str, camera: StoredCamera) -> Float64[Tensor, "3 3"]:
    """Return the camera matrix; raise `DataError` if the camera is not a pinhole camera without distortion."""
    if camera.model not in PARAMETER_COUNTS:
        wanted = ", ".join(PARAMETER_COUNTS)
        raise DataError(name, "cameras", f"has a camera of the unsupported model {camera.model}; wanted {wanted}")
    focals, distortions = PARAMETER_COUNTS[camera.model]
    parameters = parse_numbers(name, "cameras", camera.parameters, (focals + 2 + distortions,)).tolist()
    distortion = parameters[focals + 2 :]
    if any(abs(value) > MAX_DISTORTION for value in distortion):
        reason = f"its {camera.model} camera has lens distortion {distortion}; undistort the images of the model first"
        raise DataError(name, "cameras", reason)
    return pinhole_matrix(parameters[0], parameters[focals - 1], *parameters[focals : focals + 2])


def _trajectories(
    name: str,
    model: StoredModel,
    images: list[StoredImage],
    cam_from_world: Float64[Tensor, "time 4 4"],
    intrinsics: Float64[Tensor, "time 3 3"],
) -> Trajectories:
    """Create tracks of the points observed in any image: at the observed pixel, or at their projection elsewhere."""
    point_ids = sorted({int(key) for image in images for key in image.point_ids if key >= 0})
    if missing := [key for key in point_ids if key not in model.points]:
        raise DataError(name, "points3D", f"has no point {missing[0]}, which an image observes")
    column_of = {key: column for column, key in enumerate(point_ids)}
    points = torch.tensor([model.points[key] for key in point_ids], dtype=torch.float64).reshape(1, -1, 3)
    points = points.expand(len(images), -1, -1)
    pixels = project(transform_points(cam_from_world, points), intrinsics)
    visibility = torch.zeros(points.shape[:2], dtype=torch.bool)
    for frame, image in enumerate(images):
        is_observed = image.point_ids >= 0
        columns = torch.tensor([column_of[int(key)] for key in image.point_ids[is_observed]], dtype=torch.long)
        pixels[frame, columns] = image.pixels[is_observed]
        visibility[frame, columns] = True
    return Trajectories(points, pixels, valid=torch.ones_like(visibility), visibility=visibility)
