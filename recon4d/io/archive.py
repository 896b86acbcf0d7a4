"""The archive of a reconstruction: one ``scene.npz`` that plain numpy opens and that is read back bit for bit.

``numpy.load("scene.npz", allow_pickle=False)`` needs no recon4d. For T frames with maps of H x W pixels, A anchor
frames with Q queries each, and C curves with K control points that form P rigid pieces, the archive holds

=============================  ============  =========================================================================
name                           shape         meaning
=============================  ============  =========================================================================
world_from_cam                 (T, 4, 4)     rigid, camera to world, OpenCV axes; the last column is the camera center
intrinsics                     (T, 3, 3)     in pixels of these maps; the center of the first pixel is (0.5, 0.5)
depths                         (T, H, W)     z in the frame's camera, in the unit of the scene
depth_confidence               (T, H, W)     0: unknown
points                         (T, H, W, 3)  output of the point-map head in the world; may differ from the depths
point_confidence               (T, H, W)     0: unknown
moving                         (T, H, W)     probability that the surface moves in the world; NaN: unknown
metres_per_unit                ()            length of the scene's unit in meters; NaN: unknown
times                          (T,)          seconds; NaN: photos without an order
tracks_points                  (A, T, Q, 3)  position of each query in the world at each time
tracks_visible                 (A, T, Q)     probability that the query is visible at that time
tracks_confidence              (A, T, Q)     0: unknown
tracks_anchors                 (A,)          frame number of each anchor, an integer (-1: not in the archive)
tracks_pixels                  (A, Q, 2)     (x, y) of each query in the map of its anchor
trajectories_control_points    (C, K, 3)     control points of the cubic B-spline of each tracked point that moves
trajectories_interval          (2,)          first and last second of the curves; their knots divide it evenly
trajectories_times             (T,)          seconds of the frames
trajectories_visibility        (C, T)        probability that the point is visible in each frame
trajectories_confidence        (C,)          0: unknown
trajectories_anchors           (C,)          frame number of the pixel that selects the point, an integer (-1: none)
trajectories_pixels            (C, 2)        (x, y) of that pixel
trajectories_support           (C, 2)        first and last second at which the point was observed
trajectories_pieces            (C,)          rigid piece of the curve, an integer (-1: none)
trajectories_world_from_piece  (P, T, 4, 4)  motion of each piece from the first to every time, in the world
motions_control_points         (S, C, L, 3)  control points of S samples of the motion of each curve
motions_interval               (2,)          first and last second of the samples
distortion                     (5,)          lens distortion k1, k2, p1, p2, k3 (OpenCV) that was removed
info                           ()            a JSON string: the fields of `SceneInfo`
=============================  ============  =========================================================================

The arrays that begin with ``tracks_`` are either all present or, if the scene has no tracks, all absent; so are those
that begin with ``trajectories_`` (trajectories) and with ``motions_`` (their samples). ``distortion`` is absent if no
distortion was removed. Arrays are float32 in most files; maps may be float16 (`half_precision`), while cameras, tracks,
curves and times never are. `load_scene` returns all of them in the highest precision of the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry.bsplines import DEGREE
from recon4d.io.checked_cameras import camera_problem
from recon4d.io.half_precision import half_precision_maps
from recon4d.io.npz_arrays import ArrayHeader, check_arrays, load_arrays, load_headers, save_arrays
from recon4d.io.scene_info import SceneInfo
from recon4d.records import Cameras, MotionSamples, Scene, Tracks, Trajectories
from recon4d.records.scene import CAMERA_KEYS, DISTORTION_KEY, MOTION_KEYS, SCENE_KEYS, TRACK_KEYS, TRAJECTORY_KEYS
from recon4d.records.tensors import as_array

SCENE_FILE_NAME = "scene.npz"
FRAMES_FOLDER_NAME = "frames"
"""Name of the folder beside the archive that holds the pictures of the frames."""

WORK_FOLDER_NAME = "windows"
"""Name of the folder in which a run over a long clip keeps finished steps until it ends."""
RUN_FILE_NAME = "run.json"
"""Name of the file in the work folder that describes the run."""

REQUIRED = ("info", "times", *CAMERA_KEYS, *SCENE_KEYS)
"""Names of the arrays that every archive holds."""
OPTIONAL = (TRACK_KEYS, TRAJECTORY_KEYS, MOTION_KEYS)
"""Groups of arrays that are all present or all absent; samples need trajectories."""
SHAPES: dict[str, tuple[str | int, ...]] = {
    "world_from_cam": ("T", 4, 4),
    "intrinsics": ("T", 3, 3),
    "depths": ("T", "H", "W"),
    "depth_confidence": ("T", "H", "W"),
    "points": ("T", "H", "W", 3),
    "point_confidence": ("T", "H", "W"),
    "moving": ("T", "H", "W"),
    "metres_per_unit": (),
    "times": ("T",),
    "tracks_points": ("A", "T", "Q", 3),
    "tracks_visible": ("A", "T", "Q"),
    "tracks_confidence": ("A", "T", "Q"),
    "tracks_anchors": ("A",),
    "tracks_pixels": ("A", "Q", 2),
    "trajectories_control_points": ("C", "K", 3),
    "trajectories_interval": (2,),
    "trajectories_times": ("T",),
    "trajectories_visibility": ("C", "T"),
    "trajectories_confidence": ("C",),
    "trajectories_anchors": ("C",),
    "trajectories_pixels": ("C", 2),
    "trajectories_support": ("C", 2),
    "trajectories_pieces": ("C",),
    "trajectories_world_from_piece": ("P", "T", 4, 4),
    "motions_control_points": ("S", "C", "L", 3),
    "motions_interval": (2,),
    DISTORTION_KEY: (5,),
}
"""Shape of each array but ``info``. Equal letters are equal lengths."""


def save_scene(
    path: str | Path,
    scene: Scene,
    times: Float[Tensor, " time"] | None = None,
    info: SceneInfo | None = None,
    compressed: bool = False,
    half_maps: bool = False,
) -> None:
    """Write a scene to an archive, which appears complete or not at all.

    Args:
        path: A file, or an existing folder for a ``scene.npz``.
        scene: The scene, without batch axes. bfloat16 is stored as float32.
        times: Times of the frames in seconds, of shape (time,). None means photos without an order.
        info: How the scene was made. None means a model called ``custom``.
        compressed: Whether to compress the arrays, which is slower and loses nothing.
        half_maps: Whether to store maps as float16 where that is safe, see `half_precision`. Cameras, tracks and times
            keep their precision.

    Raises:
        ValueError: If the scene is a batch or the times do not fit it.
        UserError: If the file cannot be written.
    """
    if scene.batch_shape:
        raise ValueError(f"an archive holds one scene, given a batch of {tuple(scene.batch_shape)}; save each of them")
    times = torch.full((scene.num_frames,), torch.nan) if times is None else times
    info = _default_info(scene) if info is None else info
    if times.shape != (scene.num_frames,):
        raise ValueError(f"times have shape {tuple(times.shape)}, wanted ({scene.num_frames},), one for every frame")
    arrays = scene.numpy()
    if half_maps:
        rounded = half_precision_maps(scene)
        arrays |= {key: as_array(rounded[field]) for key, field in SCENE_KEYS.items() if field in rounded}
    arrays["times"] = as_array(times)
    arrays["info"] = np.array(info.to_json())
    save_arrays(_scene_file(path), arrays, compressed)


def load_scene(path: str | Path) -> Scene:
    """Read the scene of an archive, bit for bit as it was saved. Values of different precisions get the highest one.

    Args:
        path: The file, or the folder that holds a ``scene.npz``.

    Returns:
        The scene on the CPU.

    Raises:
        UserError: If the file is missing, damaged, of a newer format or not a scene, if it cannot be read, or if a
            camera is invalid. Unknown cameras (NaN) are valid.
    """
    arrays = _load(path, [*REQUIRED, *TRACK_KEYS, *TRAJECTORY_KEYS, *MOTION_KEYS, DISTORTION_KEY], REQUIRED)
    tracks = Tracks(**_tensors(arrays, TRACK_KEYS)) if TRACK_KEYS.keys() <= arrays.keys() else None
    distortion = torch.from_numpy(arrays[DISTORTION_KEY]) if DISTORTION_KEY in arrays else None
    scene = Scene(
        cameras=_cameras(path, arrays),
        tracks=tracks,
        trajectories=_trajectories(path, arrays),
        distortion=distortion,
        **_tensors(arrays, SCENE_KEYS),
    )
    # Files of other programs may mix precisions, which operations on scenes do not.
    dtypes = {tensor.dtype for tensor in scene.named_tensors().values() if tensor.is_floating_point()}
    return scene if len(dtypes) == 1 else scene.to(dtype=max(dtypes, key=lambda dtype: dtype.itemsize))


def load_scene_info(path: str | Path) -> SceneInfo:
    """Read how the scene of an archive was made, without reading the other arrays.

    Args:
        path: As for `load_scene`.

    Returns:
        The info.

    Raises:
        UserError: As for `load_scene`.
    """
    return SceneInfo.from_json(str(_load(path, ["info"], ["info"])["info"]))


def load_times(path: str | Path) -> Float[Tensor, " time"]:
    """Read the times of the frames in an archive.

    Args:
        path: As for `load_scene`.

    Returns:
        Times in seconds, of shape (time,); NaN for photos without an order.

    Raises:
        UserError: As for `load_scene`.
    """
    return torch.from_numpy(_load(path, ["info", "times"], ["info", "times"])["times"])


def load_cameras(path: str | Path) -> Cameras:
    """Read the cameras of an archive, without reading its maps.

    Args:
        path: As for `load_scene`.

    Returns:
        The cameras on the CPU.

    Raises:
        UserError: As for `load_scene`.
    """
    names = ["info", *CAMERA_KEYS]
    return _cameras(path, _load(path, names, names))


def scene_size(path: str | Path) -> tuple[int, int]:
    """Read the size of the maps of an archive, without reading the maps.

    Args:
        path: As for `load_scene`.

    Returns:
        Height and width in pixels.

    Raises:
        UserError: As for `load_scene`.
    """
    file = _scene_file(path)
    headers = load_headers(file)
    try:
        check_scene_arrays(headers)
    except UserError as error:
        raise UserError(f"cannot read {file} as a scene: {error}") from error
    _, height, width = headers["depths"].shape
    return height, width


def _scene_file(path: str | Path) -> Path:
    return Path(path) / SCENE_FILE_NAME if Path(path).is_dir() else Path(path)


def _default_info(scene: Scene) -> SceneInfo:
    """The info of a scene that other code made; the size of its maps counts as that of the frames."""
    from recon4d import __version__

    return SceneInfo("custom", True, __version__, None, scene.size, settings={})


def _load(path: str | Path, names: Sequence[str], required: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `names` of an archive; all `required` are present, with suitable types, shapes and info."""
    file = _scene_file(path)
    if not file.exists():
        check_run_has_ended(file.parent)
        raise UserError(f"{file} does not exist; wanted a {SCENE_FILE_NAME} or the folder that holds one")
    arrays = load_arrays(file, names)
    try:
        check_scene_arrays(arrays, required)
        SceneInfo.from_json(str(arrays["info"]))
    except UserError as error:
        raise UserError(f"cannot read {file} as a scene: {error}") from error
    return arrays


def check_run_has_ended(folder: Path) -> None:
    """Refuse the folder of a run over a long clip that was stopped before its end.

    Args:
        folder: A folder without results.

    Raises:
        UserError: If a run in windows, or paired with an anchor, has begun in it.
    """
    if not (folder / WORK_FOLDER_NAME / RUN_FILE_NAME).is_file():
        return
    count = len(list((folder / FRAMES_FOLDER_NAME).glob("*.npz")))
    raise UserError(
        f"{folder}: its run has not ended ({count} frames are written so far); the reconstruct command that began it "
        "continues it"
    )


def check_scene_arrays(
    arrays: Mapping[str, np.ndarray] | Mapping[str, ArrayHeader], required: Sequence[str] = REQUIRED
) -> None:
    """Check presence, types and shapes of the arrays of a scene.

    Args:
        arrays: Arrays or their headers by name.
        required: Names that must be present. If any array of tracks, curves or their samples is present, all of them
            must be.

    Raises:
        UserError: If something does not fit.
    """
    complete = [name for keys in OPTIONAL if arrays.keys() & keys.keys() for name in keys]
    if arrays.keys() & MOTION_KEYS.keys():
        complete += TRAJECTORY_KEYS
    check_arrays(
        arrays,
        SHAPES,
        list(dict.fromkeys([*required, *complete])),
        integers=["tracks_anchors", "trajectories_anchors", "trajectories_pieces"],
    )


def _cameras(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Cameras:
    cameras = Cameras(**_tensors(arrays, CAMERA_KEYS))
    problem = camera_problem(cameras.world_from_cam, cameras.intrinsics, allow_unknown=True)
    if problem is not None:
        raise UserError(f"cannot read {_scene_file(path)} as a scene: it {problem}")
    return cameras


def _trajectories(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Trajectories | None:
    if not TRAJECTORY_KEYS.keys() <= arrays.keys():
        return None
    problem = _curve_problem(arrays)
    if problem is not None:
        raise UserError(f"cannot read {_scene_file(path)} as a scene: {problem}")
    samples = MotionSamples(**_tensors(arrays, MOTION_KEYS)) if MOTION_KEYS.keys() <= arrays.keys() else None
    return Trajectories(**_tensors(arrays, TRAJECTORY_KEYS), samples=samples)


def _curve_problem(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return what is wrong with trajectories and samples whose types and shapes are right."""
    for keys in (TRAJECTORY_KEYS, MOTION_KEYS):
        prefix = next(iter(keys)).split("_", maxsplit=1)[0]
        if f"{prefix}_interval" not in arrays:
            continue
        if arrays[f"{prefix}_control_points"].shape[-2] <= DEGREE:
            return f"{prefix}_control_points has too few control points; wanted more than {DEGREE} for each curve"
        start, end = arrays[f"{prefix}_interval"].tolist()
        if not (np.isfinite([start, end]).all() and start < end):
            return f"{prefix}_interval is {start:g} to {end:g}; wanted increasing seconds"
    anchors, num_frames = arrays["trajectories_anchors"], len(arrays["times"])
    if len(anchors) and not (anchors.min() >= -1 and anchors.max() < num_frames):
        found = f"{anchors.min()} to {anchors.max()}"
        return f"trajectories_anchors has {found}; wanted frames from 0 to {num_frames - 1}, or -1"
    return None


def _tensors(arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> dict[str, Any]:
    """Tensors by field of the record; `keys` maps names in the archive to fields."""
    return {field: torch.from_numpy(arrays[key]) for key, field in keys.items()}
