"""Cameras from feature tracks alone, by COLMAP's global mapper (GLOMAP, Pan et al. 2024): they need no start."""

import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from recon4d.records import Cameras, FeatureTracks
from recon4d.refine.cameras.colmap_models import ColmapConfig, map_database, scene_of_model
from recon4d.refine.pycolmap_loader import load_pycolmap

LONGER_SIDE = 1000
"""Pixels of the pictures that COLMAP is told of: its tolerances are made for such."""
LEAST_MATCHES = 15
"""Two frames with fewer tracks in common tell COLMAP nothing."""
MOST_EXHAUSTIVE = 16
"""Frames of which all pairs are matched; of longer clips those 1, 2, 4, 8 ... frames apart."""
CAMERA_ID = RIG_ID = FIRST_ID = 1


def map_tracks(
    cameras: Cameras, tracks: FeatureTracks, size: tuple[int, int], seed: int = 0, keeps_lens: bool = False
) -> Cameras:
    """The cameras that COLMAP's global mapper finds for `tracks` in maps of `size` (height, width).

    Of `cameras` only the mean focal length is used, as a first guess of the one that all frames then share; where it
    `keeps_lens`, the mean intrinsics are those of all frames. The world and its unit are COLMAP's own; frames that
    could not be placed are NaN. Deterministic. Raises `ColmapFailure` where there is no model at all.
    """
    pycolmap = load_pycolmap()
    pycolmap.set_random_seed(seed)
    factor = LONGER_SIDE / max(size)
    names = [f"{frame:06d}" for frame in range(len(tracks.visibility))]
    with tempfile.TemporaryDirectory(prefix="recon4d-tracks-") as name:
        folder = Path(name)
        (folder / "images").mkdir()  # nothing is read from it
        with pycolmap.Database.open(folder / "database.db") as database:
            lens = _write_camera(pycolmap, database, cameras, size, factor, keeps_lens)
            _write_tracks(pycolmap, database, lens, tracks, names, factor, seed)
        config = ColmapConfig(mapper="global", seed=seed, threads=1, refine_focal_length=not keeps_lens)
        model = map_database(folder / "database.db", folder, config)
        return scene_of_model(model, names, size, factor).cameras


def pairs_to_match(num_frames: int) -> list[tuple[int, int]]:
    """Pairs of frames that COLMAP is told matches of: all of few frames, and of many a number that grows slowly."""
    pairs = combinations(range(num_frames), 2)
    if num_frames <= MOST_EXHAUSTIVE:
        return list(pairs)
    return [(i, j) for i, j in pairs if (j - i).bit_count() == 1]


def _write_camera(
    pycolmap: Any, database: Any, cameras: Cameras, size: tuple[int, int], factor: float, keeps_lens: bool
) -> Any:
    """One camera for all frames: the mean intrinsics, or their focal length with a principal point in the middle."""
    height, width = (side * factor for side in size)
    intrinsics = cameras.intrinsics.double().mean(dim=0) * factor
    if keeps_lens:
        model, params = "PINHOLE", [intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]
    else:
        model, params = "SIMPLE_PINHOLE", [(intrinsics[0, 0] + intrinsics[1, 1]) / 2, width / 2, height / 2]
    lens = pycolmap.Camera(
        camera_id=CAMERA_ID, model=model, width=round(width), height=round(height), params=list(map(float, params))
    )
    lens.has_prior_focal_length = True
    database.write_camera(lens, use_camera_id=True)
    rig = pycolmap.Rig(rig_id=RIG_ID)
    rig.add_ref_sensor(lens.sensor_id)
    database.write_rig(rig, use_rig_id=True)
    return lens


def _write_tracks(
    pycolmap: Any, database: Any, lens: Any, tracks: FeatureTracks, names: list[str], factor: float, seed: int
) -> None:
    """Every track as a keypoint of each frame that sees it, and the verified matches of every two frames."""
    seen, pixels = (tracks.visibility > 0).numpy(), tracks.pixels.double().numpy() * factor
    places = np.cumsum(seen, axis=1) - 1
    for frame, name in enumerate(names):
        image = pycolmap.Image(name=name, camera_id=CAMERA_ID, image_id=frame + FIRST_ID)
        of_rig = pycolmap.Frame(frame_id=frame + FIRST_ID, rig_id=RIG_ID)
        of_rig.add_data_id(image.data_id)
        image.frame_id = frame + FIRST_ID
        database.write_frame(of_rig, use_frame_id=True)
        database.write_image(image, use_image_id=True)
        database.write_keypoints(frame + FIRST_ID, pixels[frame, seen[frame]].astype(np.float32))
    options = pycolmap.TwoViewGeometryOptions(detect_watermark=False)
    options.ransac.random_seed = seed
    for i, j in pairs_to_match(len(names)):
        common = np.flatnonzero(seen[i] & seen[j])
        if len(common) < LEAST_MATCHES:
            continue
        matches = np.stack([places[i, common], places[j, common]], axis=1).astype(np.uint32)
        geometry = pycolmap.estimate_two_view_geometry(
            lens, pixels[i, seen[i]], lens, pixels[j, seen[j]], matches, options
        )
        database.write_matches(i + FIRST_ID, j + FIRST_ID, matches)
        database.write_two_view_geometry(i + FIRST_ID, j + FIRST_ID, geometry)
