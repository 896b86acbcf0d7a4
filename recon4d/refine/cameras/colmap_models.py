"""COLMAP's mappers, and their models as scenes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, rigid, transform_points
from recon4d.records import Cameras, Scene
from recon4d.refine.pycolmap_loader import load_pycolmap

Mapper = Literal["incremental", "global"]
Matching = Literal["auto", "exhaustive", "sequential"]
PLAUSIBLE_ANGLES = (20.0, 130.0)
"""Degrees of the larger field of view: from a long lens to an action camera."""
SMALLEST_MODEL = 3
"""Frames. COLMAP's own default throws away models of fewer than 10, which is every model of a short clip."""


class ColmapFailure(ValueError):  # noqa: N818
    """COLMAP found no model of this clip: an answer, not a defect."""


@dataclass(frozen=True)
class ColmapConfig:
    """How COLMAP is run."""

    mapper: Mapper = "incremental"
    matching: Matching = "auto"
    """auto: all pairs up to `most_exhaustive` frames, or where frames have no order; else neighbors in time."""
    most_exhaustive: int = 100
    camera_model: Literal["SIMPLE_PINHOLE", "SIMPLE_RADIAL"] = "SIMPLE_PINHOLE"
    """SIMPLE_RADIAL also estimates one coefficient of lens distortion."""
    least_side: int = 480
    """Pictures whose longer side is shorter are enlarged by a whole factor before SIFT, which finds little in them."""
    peak_threshold: float = 0.003
    """SIFT's least contrast; COLMAP's own .0067 is for sharp photographs and finds little in smooth pictures."""
    refine_focal_length: bool = True
    """False where the lens that COLMAP begins with is known."""
    seed: int = 0
    threads: int = -1
    """-1: all cores. Only with 1 is the answer the same every time: the order in which threads finish plays a part."""


def map_database(database: Path, folder: Path, config: ColmapConfig = ColmapConfig()) -> Any:
    """The largest model (a pycolmap `Reconstruction`) of the matches in a database; models are written under `folder`.

    Raises `ColmapFailure` where there is no model at all.
    """
    pycolmap = load_pycolmap()
    output = folder / "models"
    output.mkdir()
    if config.mapper == "global":
        options = pycolmap.GlobalPipelineOptions(random_seed=config.seed, num_threads=config.threads)
        options.mapper.bundle_adjustment.refine_focal_length = config.refine_focal_length
        models = pycolmap.global_mapping(database, folder / "images", output, options=options)
    else:
        options = pycolmap.IncrementalPipelineOptions(
            min_model_size=SMALLEST_MODEL, random_seed=config.seed, num_threads=config.threads
        )
        options.ba_refine_focal_length = config.refine_focal_length
        models = pycolmap.incremental_mapping(database, folder / "images", output, options=options)
    if not models:
        raise ColmapFailure("COLMAP found no model of these pictures")
    return max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))


def scene_of_model(model: Any, names: list[str], size: tuple[int, int], factor: float = 1) -> Scene:
    """A pycolmap `Reconstruction` as a Scene with one frame for each of `names`, maps of `size` (height, width).

    `factor` is how much larger the pictures were that COLMAP saw. COLMAP's first pixel center is (0.5, 0.5) as ours.
    """
    time, (height, width) = len(names), size
    cam_from_world = torch.full((time, 4, 4), torch.nan, dtype=torch.float64)
    intrinsics = torch.full((time, 3, 3), torch.nan, dtype=torch.float64)
    depths = torch.zeros(time, height, width, dtype=torch.float64)
    points = torch.zeros(time, height, width, 3, dtype=torch.float64)
    frame_of = {name: frame for frame, name in enumerate(names)}
    for image in model.images.values():
        if not image.has_pose or image.name not in frame_of:
            continue
        frame = frame_of[image.name]
        matrix = torch.from_numpy(np.array(image.cam_from_world().matrix()))
        cam_from_world[frame] = rigid(matrix[:, :3], matrix[:, 3])
        intrinsics[frame] = torch.from_numpy(np.array(image.camera.calibration_matrix()))
        intrinsics[frame, :2] /= factor
        _put_points(image, model, cam_from_world[frame], factor, depths[frame], points[frame])
    confidence = (depths > 0).double()
    scene = Scene(
        cameras=Cameras(invert(cam_from_world), intrinsics),
        depths=depths,
        depth_confidence=confidence,
        points=points,
        point_confidence=confidence,
        dynamic=torch.full_like(depths, torch.nan),
        metres_per_unit=torch.tensor(torch.nan, dtype=torch.float64),
    )
    first = int(scene.cameras.world_from_cam.isfinite().all(dim=(1, 2)).nonzero()[0])
    return scene.in_frame(first).without_unknown_points().to(dtype=torch.float32)


def _put_points(
    image: Any,
    model: Any,
    cam_from_world: Float[Tensor, "4 4"],
    factor: float,
    depths: Float[Tensor, "height width"],
    points: Float[Tensor, "height width 3"],
) -> None:
    """Write the sparse points that `image` has observed into its maps; of two in one pixel the nearer one stays."""
    seen = [point for point in image.points2D if point.has_point3D()]
    if not seen:
        return
    world = torch.from_numpy(np.stack([model.points3D[point.point3D_id].xyz for point in seen]))
    pixels = torch.from_numpy(np.stack([point.xy for point in seen])) / factor
    depth = transform_points(cam_from_world, world)[:, 2]
    height, width = depths.shape
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    for place in torch.argsort(depth, descending=True).tolist():
        if inside[place]:
            depths[row[place], column[place]] = depth[place]
            points[row[place], column[place]] = world[place]
