"""COLMAP's sparse models, text or binary, as photos with cameras and a few thousand still points."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.datasets.readers.common import read_images
from recon4d.datasets.readers.folders import cameras_from_first, folder_of
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.geometry import (
    invert,
    project,
    rigid,
    rotation_from_quaternion,
    transform_points,
)
from recon4d.io.cameras.colmap_reader import (
    FOCALS_AND_DISTORTIONS,
    Lens,
    StoredModel,
    _Image,
    model_folder,
    read_model,
)
from recon4d.io.checked_values import numbers, pinhole_matrix
from recon4d.records import Clip, ClipSource

LARGEST_DISTORTION = 1e-6


class ColmapModels(SequenceDataset):
    """Sparse models: `root` is the folder of one, or a folder of such.

    A model is cameras, images and points3D, .bin or .txt, in the folder itself, in sparse/0 or in sparse; its pictures
    are in images/ or beside. Frames are the registered pictures by name, without times; pixels are COLMAP's, whose
    first center is (0.5, 0.5) too; the unit is unknown. There is no depth. The 3D points are tracks that stand still,
    visible where the model has observed them. Lens distortion is refused with a `DataError`: undistort first.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder")
        folders = {root.resolve().name: root}
        if model_folder(root) is None:
            folders = {path.name: path for path in root.iterdir() if path.is_dir() and model_folder(path)}
        if not folders:
            raise ValueError(f"{root} has no COLMAP model (cameras.bin or cameras.txt), nor have its folders")
        self.folders = folders

    def names(self) -> list[str]:
        return sorted(self.folders)

    def num_frames(self, name: str) -> int:
        return len(read_model(name, folder_of(self.folders, name)).images)

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        folder = folder_of(self.folders, name)
        model = read_model(name, folder)
        shots = [model.images[frame] for frame in frames]
        lenses = [_lens(name, model, shot) for shot in shots]
        pictures = folder / "images" if (folder / "images").is_dir() else folder
        images = read_images(name, [pictures / shot.name for shot in shots])
        for shot, lens in zip(shots, lenses, strict=True):
            if (lens.height, lens.width) != images.shape[-2:]:
                found, said = tuple(images.shape[-2:]), (lens.height, lens.width)
                raise DataError(name, shot.name, f"its height and width are {found}, those of its camera {said}")
        poses = torch.stack([shot.pose for shot in shots])
        cam_from_world = rigid(rotation_from_quaternion(poses[:, :4]), poses[:, 4:])
        intrinsics = torch.stack([_intrinsics(name, lens) for lens in lenses])
        cameras, first_from_world = cameras_from_first(name, "cameras", invert(cam_from_world), intrinsics)
        trajectories = _trajectories(name, model, shots, cam_from_world, intrinsics)
        points = transform_points(first_from_world, trajectories.points)
        trajectories = Trajectories(
            points=points.float(),
            pixels=trajectories.pixels.float(),
            exists=trajectories.exists,
            visibility=trajectories.visibility,
        )
        source = ClipSource(str(folder), tuple(shot.name for shot in shots), tuple(frames))
        clip = Clip(images, torch.full((len(shots),), torch.nan), source=source)
        nothing = torch.zeros(len(shots), *clip.size)
        return Sample(clip, ground_truth_scene(cameras, nothing, nothing > 0, trajectories, anchors))


def _lens(name: str, model: StoredModel, image: _Image) -> Lens:
    if image.lens not in model.lenses:
        raise DataError(name, image.name, f"its camera {image.lens} is not in the model")
    return model.lenses[image.lens]


def _intrinsics(name: str, lens: Lens) -> Float64[Tensor, "3 3"]:
    """The pinhole of a camera, or a `DataError` where it is something else."""
    if lens.model not in FOCALS_AND_DISTORTIONS:
        wanted = ", ".join(FOCALS_AND_DISTORTIONS)
        raise DataError(name, "cameras", f"has a camera of the model {lens.model}; wanted {wanted}")
    focals, distortions = FOCALS_AND_DISTORTIONS[lens.model]
    parameters = numbers(name, "cameras", lens.parameters, (focals + 2 + distortions,)).tolist()
    distortion = parameters[focals + 2 :]
    if any(abs(value) > LARGEST_DISTORTION for value in distortion):
        reason = f"its {lens.model} camera has lens distortion {distortion}; undistort the model's pictures first"
        raise DataError(name, "cameras", reason)
    return pinhole_matrix(parameters[0], parameters[focals - 1], *parameters[focals : focals + 2])


def _trajectories(
    name: str,
    model: StoredModel,
    shots: list[_Image],
    cam_from_world: Float64[Tensor, "time 4 4"],
    intrinsics: Float64[Tensor, "time 3 3"],
) -> Trajectories:
    """The points that any of the pictures has observed: at the observed pixel there, at their projection elsewhere."""
    seen = sorted({int(key) for shot in shots for key in shot.point_ids if key >= 0})
    if missing := [key for key in seen if key not in model.points]:
        raise DataError(name, "points3D", f"has no point {missing[0]}, which a picture has observed")
    column = {key: place for place, key in enumerate(seen)}
    points = torch.tensor([model.points[key] for key in seen], dtype=torch.float64).reshape(1, -1, 3)
    points = points.expand(len(shots), -1, -1)
    pixels = project(transform_points(cam_from_world, points), intrinsics)
    visible = torch.zeros(points.shape[:2], dtype=torch.bool)
    for frame, shot in enumerate(shots):
        observed = shot.point_ids >= 0
        columns = torch.tensor([column[int(key)] for key in shot.point_ids[observed]], dtype=torch.long)
        pixels[frame, columns] = shot.pixels[observed]
        visible[frame, columns] = True
    return Trajectories(points, pixels, exists=torch.ones_like(visible), visibility=visible)
