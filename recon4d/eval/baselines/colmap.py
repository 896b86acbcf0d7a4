"""COLMAP on a clip (Schönberger and Frahm 2016; GLOMAP, Pan et al. 2024): the classical baseline.

SIFT features, matching, and incremental or global mapping with one camera for all frames. The settings are chosen for
short clips of low resolution, on which COLMAP's defaults find little.
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
from recon4d.records import Cameras, Clip, Priors, Scene
from recon4d.refine.cameras.colmap_models import (
    PLAUSIBLE_FIELD_OF_VIEW,
    ColmapConfig,
    ColmapFailure,
    map_database,
    scene_of_model,
)
from recon4d.refine.pycolmap_loader import pycolmap_session

MIN_SIDE = 480
"""Longer side in pixels below which images are enlarged by an integer factor: SIFT finds few features in small images.
Hand-tuned."""
PEAK_THRESHOLD = 0.003
"""Contrast threshold of SIFT. COLMAP's default of 0.0067 finds few features in smooth images. Hand-tuned."""
MAX_EXHAUSTIVE = 100
"""Largest number of frames of an ordered clip of which all pairs are matched. Bounds the run time."""


def reconstruct_with_colmap(clip: Clip, config: ColmapConfig | None = None) -> Scene:
    """Reconstruct a clip with COLMAP.

    Args:
        clip: A single clip. SIFT features are not extracted in the mask `ignore` of its priors (dynamic objects, a
            watermark).
        config: Settings; None for the defaults.

    Returns:
        The scene of the largest model, in the frame of its first registered camera and in COLMAP's own unit. Cameras
        of frames that are not registered are NaN. Depth is dense if pycolmap was built with CUDA; otherwise it is
        known at the pixels of sparse points only.

    Raises:
        ColmapFailure: If COLMAP finds no model.
        NoPycolmapError: If pycolmap is not installed.
    """
    config = config or ColmapConfig()
    factor = _enlargement(clip.size)
    names = [f"{frame:06d}.png" for frame in range(clip.num_frames)]
    with pycolmap_session(config.seed) as pycolmap, tempfile.TemporaryDirectory(prefix="recon4d-colmap-") as name:
        folder = Path(name)
        database = folder / "database.db"
        _write_images(clip, folder, names, factor)
        try:
            _extract_features(pycolmap, database, folder, config)
            _match_features(pycolmap, database, clip, config)
            model = map_database(database, folder, config)
        except RuntimeError as error:
            raise ColmapFailure(f"COLMAP failed: {' '.join(str(error).split())}") from error
        scene = scene_of_model(model, names, clip.size, factor)
        if has_dense_stereo() and config.camera_model == "SIMPLE_PINHOLE":
            scene = with_depths(scene, dense_depths(model, names, folder, clip.size))
        return scene


def with_colmap_intrinsics(clip: Clip, config: ColmapConfig | None = None) -> Clip:
    """Add the intrinsics that COLMAP estimates to the priors of a clip.

    Args:
        clip: A single clip. Intrinsics in its priors are kept.
        config: Settings; None for the defaults.

    Returns:
        The clip with intrinsics of all frames in its priors.

    Raises:
        ColmapFailure: If COLMAP finds no model, or an implausible field of view: a camera that hardly moves does not
            determine the focal length.
        NoPycolmapError: If pycolmap is not installed.
    """
    return with_estimated_intrinsics(clip, reconstruct_with_colmap(clip, config).cameras)


def with_estimated_intrinsics(clip: Clip, cameras: Cameras) -> Clip:
    """Add the mean intrinsics of estimated cameras to the priors of a clip.

    Args:
        clip: A single clip. Intrinsics in its priors are kept.
        cameras: Cameras of its frames; NaN if not registered.

    Returns:
        The clip with intrinsics of all frames in its priors.

    Raises:
        ColmapFailure: If the field of view is implausible.
    """
    intrinsics = cameras.intrinsics
    estimated = intrinsics[intrinsics.isfinite().all(dim=(1, 2))].mean(dim=0)
    angle = float(field_of_view(estimated, *clip.size).amax().rad2deg())
    if not PLAUSIBLE_FIELD_OF_VIEW[0] <= angle <= PLAUSIBLE_FIELD_OF_VIEW[1]:
        raise ColmapFailure(f"COLMAP estimates a field of view of {angle:.0f} degrees, which is implausible")
    priors = Priors.unknown(clip.num_frames) if clip.priors is None else clip.priors
    is_given = priors.intrinsics.isfinite().all(dim=(1, 2), keepdim=True)
    return replace(clip, priors=replace(priors, intrinsics=torch.where(is_given, priors.intrinsics, estimated)))


def _enlargement(size: tuple[int, int]) -> int:
    return max(1, math.ceil(MIN_SIDE / max(size)))


def _write_images(clip: Clip, folder: Path, names: list[str], factor: int) -> None:
    """Write enlarged frames, and masks of the pixels that are not ignored."""
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
        allowed = F.interpolate((~ignore)[None, None].float(), size, mode="nearest-exact")[0, 0]
        write_raster(folder / "masks" / f"{name}.png", (255 * allowed).to(torch.uint8).cpu().numpy())


def _extract_features(pycolmap: Any, database: Path, folder: Path, config: ColmapConfig) -> None:
    reader = pycolmap.ImageReaderOptions(camera_model=config.camera_model)
    if (folder / "masks").exists():
        reader.mask_path = folder / "masks"
    extraction = pycolmap.FeatureExtractionOptions(num_threads=config.num_threads)
    extraction.sift.peak_threshold = PEAK_THRESHOLD
    pycolmap.extract_features(
        database,
        folder / "images",
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )


def _match_features(pycolmap: Any, database: Path, clip: Clip, config: ColmapConfig) -> None:
    matching = config.matching
    if matching == "auto":
        is_ordered = bool(clip.times.isfinite().all()) and bool((clip.times.diff() > 0).all())
        matching = "sequential" if is_ordered and clip.num_frames > MAX_EXHAUSTIVE else "exhaustive"
    match = pycolmap.match_sequential if matching == "sequential" else pycolmap.match_exhaustive
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    options = pycolmap.FeatureMatchingOptions(num_threads=config.num_threads)
    match(database, matching_options=options, verification_options=verification, device=pycolmap.Device.cpu)
