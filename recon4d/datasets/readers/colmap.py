"""Reader of COLMAP's sparse models, in text or binary format."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.assembly import sample_without_depth
from recon4d.datasets.readers.cameras import cameras_from_first
from recon4d.datasets.readers.images import read_images
from recon4d.datasets.readers.sequence_paths import list_folder
from recon4d.datasets.sample import Sample, Trajectories
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.geometry import (
    invert,
    project,
    transform_points,
)
from recon4d.io.cameras.colmap_reader import (
    StoredCamera,
    StoredImage,
    StoredModel,
    find_model_folder,
    read_model,
)
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.orientation import (
    is_mirrored,
    stored_orientations,
    swaps_sides,
    turn_camera,
    turn_intrinsics,
    turn_matrix,
    turn_pixels,
)
from recon4d.io.cameras.stored_intrinsics import intrinsics_from_colmap
from recon4d.io.confined_paths import confined_path
from recon4d.io.undistortion import undistort_image, undistort_pixels
from recon4d.records import Clip, ClipSource


class ColmapModels(SequenceDataset):
    """Sparse COLMAP models: photos with cameras and static points, without depth.

    A model consists of cameras, images and points3D as .bin or .txt files, in the folder itself, in sparse/0, sparse or
    colmap/sparse/0. Its photos are in images/ or in the folder itself. Frames are the registered images sorted by name,
    without times. COLMAP's pixel coordinates are those of this package: the center of the first pixel is (0.5, 0.5).
    The unit of length is unknown. The 3D points become static tracks that are visible in the images that observe them.

    Lens distortion is removed from images and keypoints; what the lens did not see is black. Images are
    turned upright as their EXIF orientation says, with cameras and keypoints; mirror images raise `DataError`.

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
        self.paths = folders

    def num_frames(self, name: str) -> int:
        """See `SequenceDataset.num_frames`."""
        return len(read_model(name, self.path(name)).images)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """See `SequenceDataset.read`."""
        self.check_frames(name, frames, anchors)
        folder = self.path(name)
        model = read_model(name, folder, frames)
        registered = [model.images[frame] for frame in frames]
        stored_cameras = [_camera_of(name, model, image) for image in registered]
        image_folder = folder / "images" if (folder / "images").is_dir() else folder
        images = read_images(name, [confined_path(image_folder, image.name, "images", name) for image in registered])
        orientations = _upright_orientations(name, image_folder, registered, stored_cameras, images)
        registered = [_turned(image, *one) for image, one in zip(registered, orientations, strict=True)]
        cam_from_world = torch.stack([image.cam_from_world for image in registered])
        intrinsics, lenses = _intrinsics(name, stored_cameras, [orientation for _, orientation in orientations])
        cameras, first_from_world = cameras_from_first(name, "cameras", invert(cam_from_world), intrinsics)
        if any(not lens.is_pinhole for lens in lenses):
            images = torch.stack([undistort_image(*one) for one in zip(images, intrinsics, lenses, strict=True)])
        trajectories = _trajectories(model, registered, cam_from_world, intrinsics, lenses)
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


def _upright_orientations(
    name: str, folder: Path, registered: list[StoredImage], cameras: list[StoredCamera], images: Tensor
) -> list[tuple[tuple[int, int], int]]:
    """The stored size of each picture, and the EXIF orientation by which it and its camera are turned upright.

    Cameras are those of the stored pictures, as COLMAP sees them, unless their size is that of the upright one only.
    """
    names, size = tuple(image.name for image in registered), (images.shape[-2], images.shape[-1])
    clip = Clip(images, torch.full((len(names),), torch.nan), source=ClipSource(str(folder), names, (0,) * len(names)))
    orientations = []
    for image_name, camera, found in zip(names, cameras, stored_orientations(clip), strict=True):
        stored, wanted, orientation = size[::-1] if swaps_sides(found) else size, (camera.height, camera.width), found
        if wanted == size != stored:
            stored, orientation = size, 1  # the camera is that of the upright picture
        if wanted != stored:
            raise DataError(name, image_name, f"has size {stored} (height, width), but its camera says {wanted}")
        if is_mirrored(orientation):
            reason = f"has the EXIF orientation {orientation}, a mirror image; save the images upright first"
            raise DataError(name, image_name, reason)
        orientations.append((stored, orientation))
    return orientations


def _turned(image: StoredImage, stored_size: tuple[int, int], orientation: int) -> StoredImage:
    """Turn the camera and the keypoints of an image upright with its picture."""
    if orientation == 1:
        return image
    world_from_cam = turn_camera(invert(image.cam_from_world), orientation)
    pixels = turn_pixels(image.pixels, stored_size, orientation)
    return replace(image, cam_from_world=invert(world_from_cam), pixels=pixels)


def _intrinsics(
    name: str, cameras: list[StoredCamera], orientations: list[int]
) -> tuple[Float64[Tensor, "time 3 3"], list[Lens]]:
    """Return the upright camera matrices and lenses; raise `DataError` if a camera is not supported."""
    matrices, lenses = [], []
    for camera, orientation in zip(cameras, orientations, strict=True):
        try:
            stored = intrinsics_from_colmap("cameras", camera.model, camera.width, camera.height, camera.parameters)
        except UserError as error:
            raise DataError(name, "cameras", str(error).removeprefix("cameras: ")) from error
        size = (camera.height, camera.width)
        matrices.append(turn_intrinsics(stored.matrix(size), size, orientation))
        lenses.append(stored.lens.turned(turn_matrix(orientation)))
    return torch.stack(matrices), lenses


def _trajectories(
    model: StoredModel,
    images: list[StoredImage],
    cam_from_world: Float64[Tensor, "time 4 4"],
    intrinsics: Float64[Tensor, "time 3 3"],
    lenses: list[Lens],
) -> Trajectories:
    """Create tracks of the points observed in any image: at the observed pixel, or at their projection elsewhere."""
    point_ids = sorted({int(key) for image in images for key in image.point_ids if key >= 0})
    column_of = {key: column for column, key in enumerate(point_ids)}
    points = torch.tensor([model.points[key] for key in point_ids], dtype=torch.float64).reshape(1, -1, 3)
    points = points.expand(len(images), -1, -1)
    pixels = project(transform_points(cam_from_world, points), intrinsics)
    visibility = torch.zeros(points.shape[:2], dtype=torch.bool)
    for frame, image in enumerate(images):
        is_observed = image.point_ids >= 0
        observed, lens = image.pixels[is_observed], lenses[frame]
        if not lens.is_pinhole:
            observed = undistort_pixels(observed, intrinsics[frame], lens)
        columns = torch.tensor([column_of[int(key)] for key in image.point_ids[is_observed]], dtype=torch.long)
        found = observed.isfinite().all(dim=1)
        pixels[frame, columns[found]] = observed[found]
        visibility[frame, columns[found]] = True
    return Trajectories(points, pixels, valid=torch.ones_like(visibility), visibility=visibility)
