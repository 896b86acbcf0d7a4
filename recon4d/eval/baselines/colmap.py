"""COLMAP on a clip (Schönberger and Frahm 2016; GLOMAP, Pan et al. 2024): the classical baseline, run as it should be.

SIFT, matching, and incremental or global mapping with one camera for all frames. What it answers is a Scene like any
other: cameras of frames that could not be placed are NaN, and without dense stereo depth and points are known at the
pixels of its sparse points alone.
"""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from recon4d.eval.baselines.colmap_stereo import dense_depths, has_dense_stereo, with_depths
from recon4d.geometry import field_of_view
from recon4d.io import write_raster
from recon4d.records import Clip, Priors, Scene
from recon4d.refine.cameras.colmap_models import (
    PLAUSIBLE_ANGLES,
    ColmapConfig,
    ColmapFailure,
    map_database,
    scene_of_model,
)
from recon4d.refine.pycolmap_loader import load_pycolmap


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
    known = Priors.nothing(clip.num_frames) if clip.priors is None else clip.priors
    is_known = known.intrinsics.isfinite().all(dim=(1, 2), keepdim=True)
    return replace(clip, priors=replace(known, intrinsics=torch.where(is_known, known.intrinsics, found)))


def _enlargement(size: tuple[int, int], least_side: int) -> int:
    return max(1, math.ceil(least_side / max(size)))


def _write_pictures(clip: Clip, folder: Path, names: list[str], factor: int) -> None:
    (folder / "images").mkdir()
    size = (clip.size[0] * factor, clip.size[1] * factor)
    for name, image in zip(names, clip.images, strict=True):
        larger = F.interpolate(image[None].float(), size, mode="bicubic", align_corners=False)[0]
        rounded = larger.round().clamp(0, 255).to(torch.uint8)
        write_raster(folder / "images" / name, rounded.movedim(0, -1).cpu().numpy())
    if clip.priors is None or clip.priors.ignore is None:
        return
    (folder / "masks").mkdir()
    for name, ignore in zip(names, clip.priors.ignore, strict=True):
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
