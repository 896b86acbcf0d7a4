"""COLMAP's mappers, and the conversion of COLMAP models to scenes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, transform_points
from recon4d.records import Cameras, Scene
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.pycolmap_loader import matrix_of, pycolmap_session

Mapper = Literal["incremental", "global"]
Matching = Literal["auto", "exhaustive", "sequential"]
PLAUSIBLE_FIELD_OF_VIEW = (20.0, 130.0)
"""Range of the larger field of view in degrees, from a telephoto lens to an action camera."""
MIN_MODEL_SIZE = 3
"""Smallest number of frames of a model. COLMAP's own default of 10 would reject every model of a short clip."""


class ColmapFailure(NoSolution):
    """COLMAP found no plausible model of a clip: a result of its algorithms rather than a defect."""


@dataclass(frozen=True)
class ColmapConfig:
    """Settings of COLMAP."""

    mapper: Mapper = "incremental"
    """Structure from motion: incremental, or global (GLOMAP)."""
    matching: Matching = "auto"
    """Pairs of frames that are matched: all, or neighbors in time. "auto" matches neighbors in long videos only."""
    camera_model: Literal["SIMPLE_PINHOLE", "SIMPLE_RADIAL"] = "SIMPLE_PINHOLE"
    """Camera shared by all frames; SIMPLE_RADIAL also estimates one coefficient of radial distortion."""
    seed: int = 0
    """Seed of RANSAC and of the mapper."""
    num_threads: int = -1
    """Number of threads; -1 uses all cores. Results are deterministic with 1 only: the order in which threads finish
    has an influence."""


def map_database(
    database: Path, folder: Path, config: ColmapConfig = ColmapConfig(), refine_focal_length: bool = True
) -> Any:
    """Run a mapper on the matches in a COLMAP database.

    Args:
        database: The database file.
        folder: Existing folder to which models are written, in the new subfolder `models`. The images are expected in
            its subfolder `images`.
        config: `mapper`, `seed` and `num_threads` are used.
        refine_focal_length: Whether the focal length in the database is only an initial value.

    Returns:
        The pycolmap `Reconstruction` with the most registered frames.

    Raises:
        ColmapFailure: If COLMAP finds no model.
    """
    output = folder / "models"
    output.mkdir()
    with pycolmap_session() as pycolmap:
        if config.mapper == "global":
            options = pycolmap.GlobalPipelineOptions(random_seed=config.seed, num_threads=config.num_threads)
            options.mapper.bundle_adjustment.refine_focal_length = refine_focal_length
            models = pycolmap.global_mapping(database, folder / "images", output, options=options)
        else:
            options = pycolmap.IncrementalPipelineOptions(
                min_model_size=MIN_MODEL_SIZE, random_seed=config.seed, num_threads=config.num_threads
            )
            options.ba_refine_focal_length = refine_focal_length
            models = pycolmap.incremental_mapping(database, folder / "images", output, options=options)
    if not models:
        raise ColmapFailure("COLMAP found no model of these images")
    return max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))


def scene_of_model(model: Any, names: list[str], size: tuple[int, int], factor: float = 1) -> Scene:
    """Convert a COLMAP model to a scene.

    The world is the frame of the first registered camera; the unit is COLMAP's own. COLMAP's center of the first pixel
    is (0.5, 0.5), as in this package.

    Args:
        model: A pycolmap `Reconstruction`.
        names: Image name of every frame of the scene, in order.
        size: Height and width of the scene's maps.
        factor: Size of the images that COLMAP was given, relative to `size`.

    Returns:
        A float32 scene. Cameras of frames that are not registered are NaN; depth and points have confidence 1 at the
        pixels of sparse points and 0 elsewhere.
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
        cam_from_world[frame] = matrix_of(image.cam_from_world())
        intrinsics[frame] = torch.from_numpy(np.array(image.camera.calibration_matrix()))
        intrinsics[frame, :2] /= factor
        _write_sparse_points(image, model, cam_from_world[frame], factor, depths[frame], points[frame])
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
    return scene.in_frame(first).zero_unknown_points().to(dtype=torch.float32)


def _write_sparse_points(
    image: Any,
    model: Any,
    cam_from_world: Float[Tensor, "4 4"],
    factor: float,
    depths: Float[Tensor, "height width"],
    points: Float[Tensor, "height width 3"],
) -> None:
    """Write the sparse points that `image` observes into its maps; the nearest one if several share a pixel."""
    observed = [point for point in image.points2D if point.has_point3D()]
    if not observed:
        return
    world = torch.from_numpy(np.stack([model.points3D[point.point3D_id].xyz for point in observed]))
    pixels = torch.from_numpy(np.stack([point.xy for point in observed])) / factor
    depth = transform_points(cam_from_world, world)[:, 2]
    height, width = depths.shape
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    for place in torch.argsort(depth, descending=True).tolist():
        if inside[place]:
            depths[row[place], column[place]] = depth[place]
            points[row[place], column[place]] = world[place]
