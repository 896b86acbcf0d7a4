"""COLMAP on a clip (Schönberger and Frahm 2016; GLOMAP, Pan et al. 2024): the classical baseline, run as it should be.

SIFT, matching, and incremental or global mapping with one camera for all frames. What it answers is a Scene like any
other: cameras of frames that could not be placed are NaN, and without dense stereo depth and points are known at the
pixels of its sparse points alone.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import field_of_view, invert, rigid, transform_points
from recon4d.media import write_raster
from recon4d.records import Cameras, Clip, Known, Scene
from recon4d.sfm.dense import dense_depths, has_dense_stereo, with_depths
from recon4d.sfm.package import load_pycolmap

Mapper = Literal["incremental", "global"]
Matching = Literal["auto", "exhaustive", "sequential"]

SMALLEST_MODEL = 3
"""Frames. COLMAP's own default throws away models of fewer than 10, which is every model of a short clip."""


PLAUSIBLE_ANGLES = (20.0, 130.0)
"""Degrees of the larger field of view: from a long lens to an action camera."""


class ColmapFailure(ValueError):  # noqa: N818
    """COLMAP found no model of this clip: an answer, not a defect."""


@dataclass(frozen=True)
class ColmapConfig:
    """How COLMAP is run."""

    mapper: Mapper = "incremental"
    matching: Matching = "auto"
    """auto: all pairs up to `most_exhaustive` frames, or where frames have no order; else neighbours in time."""
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


def reconstruct_with_colmap(clip: Clip, config: ColmapConfig = ColmapConfig()) -> Scene:
    """The scene of the largest model that COLMAP finds in `clip`, in the world of its first placed camera.

    The unit is COLMAP's own. Depth is dense where pycolmap was built with CUDA, else at sparse points only.
    `clip.known.ignore` keeps SIFT away from what it marks (moving things, a watermark). Frames that are not in the
    model have NaN cameras. Raises `ColmapFailure` where there is no model at all, `NoPycolmapError` without pycolmap.
    """
    pycolmap = load_pycolmap()
    pycolmap.set_random_seed(config.seed)
    factor = _enlargement(clip.size, config.least_side)
    names = [f"{frame:06d}.png" for frame in range(clip.num_frames)]
    with tempfile.TemporaryDirectory(prefix="recon4d-colmap-") as name:
        folder = Path(name)
        database = folder / "database.db"
        _write_pictures(clip, folder, names, factor)
        try:
            _extract(pycolmap, database, folder, config)
            _match(pycolmap, database, clip, config)
            model = map_database(database, folder, config)
        except RuntimeError as error:
            raise ColmapFailure(f"COLMAP gave up: {' '.join(str(error).split())}") from error
        scene = scene_of_model(model, names, clip.size, factor)
        if has_dense_stereo() and config.camera_model == "SIMPLE_PINHOLE":
            scene = with_depths(scene, dense_depths(model, names, folder, clip.size))
        return scene


def with_colmap_intrinsics(clip: Clip, config: ColmapConfig = ColmapConfig()) -> Clip:
    """The clip with known intrinsics, those of the one camera that COLMAP finds, for a network to start from.

    What is known of the clip already stays. Raises as `reconstruct_with_colmap` does, and `ColmapFailure` for a field
    of view that no common lens has: where a camera hardly moves, COLMAP's focal length may be anything.
    """
    intrinsics = reconstruct_with_colmap(clip, config).cameras.intrinsics
    found = intrinsics[intrinsics.isfinite().all(dim=(1, 2))].mean(dim=0)
    angle = float(field_of_view(found, *clip.size).amax().rad2deg())
    if not PLAUSIBLE_ANGLES[0] <= angle <= PLAUSIBLE_ANGLES[1]:
        raise ColmapFailure(f"COLMAP finds a field of view of {angle:.0f} degrees, which is hardly true")
    known = Known.nothing(clip.num_frames) if clip.known is None else clip.known
    is_known = known.intrinsics.isfinite().all(dim=(1, 2), keepdim=True)
    return replace(clip, known=replace(known, intrinsics=torch.where(is_known, known.intrinsics, found)))


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

    `factor` is how much larger the pictures were that COLMAP saw. COLMAP's first pixel centre is (0.5, 0.5) as ours.
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
        moving=torch.full_like(depths, torch.nan),
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


def _enlargement(size: tuple[int, int], least_side: int) -> int:
    return max(1, math.ceil(least_side / max(size)))


def _write_pictures(clip: Clip, folder: Path, names: list[str], factor: int) -> None:
    (folder / "images").mkdir()
    size = (clip.size[0] * factor, clip.size[1] * factor)
    for name, image in zip(names, clip.images, strict=True):
        larger = F.interpolate(image[None].float(), size, mode="bicubic", align_corners=False)[0]
        rounded = larger.round().clamp(0, 255).to(torch.uint8)
        write_raster(folder / "images" / name, rounded.movedim(0, -1).cpu().numpy())
    if clip.known is None or clip.known.ignore is None:
        return
    (folder / "masks").mkdir()
    for name, ignore in zip(names, clip.known.ignore, strict=True):
        wanted = F.interpolate((~ignore)[None, None].float(), size, mode="nearest-exact")[0, 0]
        write_raster(folder / "masks" / f"{name}.png", (255 * wanted).to(torch.uint8).cpu().numpy())


def _extract(pycolmap: Any, database: Path, folder: Path, config: ColmapConfig) -> None:
    reader = pycolmap.ImageReaderOptions(camera_model=config.camera_model)
    if (folder / "masks").exists():
        reader.mask_path = folder / "masks"
    extraction = pycolmap.FeatureExtractionOptions(num_threads=config.threads)
    extraction.sift.peak_threshold = config.peak_threshold
    pycolmap.extract_features(
        database,
        folder / "images",
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )


def _match(pycolmap: Any, database: Path, clip: Clip, config: ColmapConfig) -> None:
    matching = config.matching
    if matching == "auto":
        is_ordered = bool(clip.times.isfinite().all()) and bool((clip.times.diff() > 0).all())
        matching = "sequential" if is_ordered and clip.num_frames > config.most_exhaustive else "exhaustive"
    match = pycolmap.match_sequential if matching == "sequential" else pycolmap.match_exhaustive
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    options = pycolmap.FeatureMatchingOptions(num_threads=config.threads)
    match(database, matching_options=options, verification_options=verification, device=pycolmap.Device.cpu)
