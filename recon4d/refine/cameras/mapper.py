"""Cameras from feature tracks alone, by COLMAP's global mapper (GLOMAP, Pan et al. 2024), without initial poses."""

import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.colmap_models import ColmapConfig, map_database, scene_of_model
from recon4d.refine.pycolmap_loader import FIRST_ID, pycolmap_session

LONGER_SIDE = 1000
"""Longer side of the images that COLMAP is given, in pixels; its tolerances are tuned for such sizes."""
MIN_MATCHES = 15
"""Smallest number of common tracks for which two frames are matched: COLMAP's own minimum of inliers."""
MAX_EXHAUSTIVE = 16
"""Largest number of frames of which all pairs are matched; frames of longer clips are matched 1, 2, 4, 8, ... apart."""
CAMERA_ID = RIG_ID = FIRST_ID
"""Indices in COLMAP's database, which start at 1."""


def map_tracks(
    cameras: Cameras, tracks: FeatureTracks, size: tuple[int, int], seed: int = 0, keep_intrinsics: bool = False
) -> Cameras:
    """Estimate cameras from feature tracks with COLMAP's global mapper; the result is deterministic.

    Args:
        cameras: Cameras whose mean intrinsics are used; their poses are not.
        tracks: Tracks through all frames, in pixels.
        size: Height and width of the maps that pixels and intrinsics refer to.
        seed: Seed of RANSAC and of the mapper.
        keep_intrinsics: Whether all frames keep the mean intrinsics. Otherwise their focal length is the initial value
            of one shared by all frames, and the principal point is the image center.

    Returns:
        Cameras in COLMAP's own world and unit; NaN for frames that are not registered.

    Raises:
        ColmapFailure: If COLMAP finds no model.
    """
    factor = LONGER_SIDE / max(size)
    names = [f"{frame:06d}" for frame in range(len(tracks.visibility))]
    with pycolmap_session(seed) as pycolmap, tempfile.TemporaryDirectory(prefix="recon4d-tracks-") as name:
        folder = Path(name)
        (folder / "images").mkdir()  # the mapper expects the folder but reads no image
        with pycolmap.Database.open(folder / "database.db") as database:
            camera = _write_camera(pycolmap, database, cameras, size, factor, keep_intrinsics)
            _write_tracks(pycolmap, database, camera, tracks, names, factor, seed)
        config = ColmapConfig(mapper="global", seed=seed, num_threads=1)
        model = map_database(folder / "database.db", folder, config, refine_focal_length=not keep_intrinsics)
        return scene_of_model(model, names, size, factor).cameras


def pairs_to_match(num_frames: int) -> list[tuple[int, int]]:
    """List the pairs of frames that are matched.

    Args:
        num_frames: Number of frames.

    Returns:
        All pairs (i, j) with i < j, or those whose distance is a power of two if there are more than `MAX_EXHAUSTIVE`
        frames.
    """
    pairs = combinations(range(num_frames), 2)
    if num_frames <= MAX_EXHAUSTIVE:
        return list(pairs)
    return [(i, j) for i, j in pairs if (j - i).bit_count() == 1]


def _write_camera(
    pycolmap: Any, database: Any, cameras: Cameras, size: tuple[int, int], factor: float, keep_intrinsics: bool
) -> Any:
    """Write one camera for all frames: the mean intrinsics, or their focal length and the image center."""
    height, width = (side * factor for side in size)
    intrinsics = cameras.intrinsics.double().mean(dim=0) * factor
    if keep_intrinsics:
        model, params = "PINHOLE", [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    else:
        model, params = "SIMPLE_PINHOLE", [(intrinsics[0, 0] + intrinsics[1, 1]) / 2, width / 2, height / 2]
    camera = pycolmap.Camera(
        camera_id=CAMERA_ID, model=model, width=round(width), height=round(height), params=list(map(float, params))
    )
    camera.has_prior_focal_length = True
    database.write_camera(camera, use_camera_id=True)
    rig = pycolmap.Rig(rig_id=RIG_ID)
    rig.add_ref_sensor(camera.sensor_id)
    database.write_rig(rig, use_rig_id=True)
    return camera


def _write_tracks(
    pycolmap: Any, database: Any, camera: Any, tracks: FeatureTracks, names: list[str], factor: float, seed: int
) -> None:
    """Write the observations as keypoints, and the verified matches of the pairs of frames."""
    is_observed, pixels = (tracks.visibility > 0).numpy(), tracks.pixels.double().numpy() * factor
    keypoint_indices = np.cumsum(is_observed, axis=1) - 1
    for frame, name in enumerate(names):
        image = pycolmap.Image(name=name, camera_id=CAMERA_ID, image_id=frame + FIRST_ID)
        rig_frame = pycolmap.Frame(frame_id=frame + FIRST_ID, rig_id=RIG_ID)
        rig_frame.add_data_id(image.data_id)
        image.frame_id = frame + FIRST_ID
        database.write_frame(rig_frame, use_frame_id=True)
        database.write_image(image, use_image_id=True)
        database.write_keypoints(frame + FIRST_ID, pixels[frame, is_observed[frame]].astype(np.float32))
    options = pycolmap.TwoViewGeometryOptions(detect_watermark=False)
    options.ransac.random_seed = seed
    for i, j in pairs_to_match(len(names)):
        common = np.flatnonzero(is_observed[i] & is_observed[j])
        if len(common) < MIN_MATCHES:
            continue
        matches = np.stack([keypoint_indices[i, common], keypoint_indices[j, common]], axis=1).astype(np.uint32)
        geometry = pycolmap.estimate_two_view_geometry(
            camera, pixels[i, is_observed[i]], camera, pixels[j, is_observed[j]], matches, options
        )
        database.write_matches(i + FIRST_ID, j + FIRST_ID, matches)
        database.write_two_view_geometry(i + FIRST_ID, j + FIRST_ID, geometry)
