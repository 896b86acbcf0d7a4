"""The archive of a reconstruction: one ``scene.npz`` that plain numpy opens and that comes back bit for bit.

``numpy.load("scene.npz", allow_pickle=False)`` needs no recon4d. For T frames with maps of H x W pixels, and A anchor
frames with Q queries each, the archive holds

==================  ============  =====================================================================================
name                shape         what it is
==================  ============  =====================================================================================
world_from_cam      (T, 4, 4)     rigid, camera to world, OpenCV axes; the last column is the camera's center
intrinsics          (T, 3, 3)     in pixels of the maps here; the first pixel's center is (0.5, 0.5)
depths              (T, H, W)     z in each camera, in the unit of the scene
depth_confidence    (T, H, W)     0: unknown
points              (T, H, W, 3)  the point-map head's own answer, in the world
point_confidence    (T, H, W)     0: unknown
moving              (T, H, W)     probability that the surface moves in the world; NaN: nothing says so
metres_per_unit     ()            length of the scene's unit in meters; NaN: unknown
times               (T,)          seconds; NaN: photos without an order
tracks_points       (A, T, Q, 3)  where each query is in the world at each time
tracks_visible      (A, T, Q)     probability that it is seen then
tracks_confidence   (A, T, Q)     0: unknown
tracks_anchors      (A,)          the frame of each anchor, whole numbers (-1: that frame is not in the archive)
tracks_pixels       (A, Q, 2)     (x, y) of each query in its anchor's map
info                ()            a JSON string: the fields of `SceneInfo`
==================  ============  =====================================================================================

The five ``tracks_`` arrays are there together, or not at all when the scene has no tracks.
"""

import dataclasses
import json
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import (
    Calibration,
    Cameras,
    ClipSource,
    Scene,
    Tracks,
    config_from_json,
    config_to_json,
)

SCENE_FILE_NAME = "scene.npz"
NEWEST_FORMAT = 1

PlainValue = str | int | float | bool | list | None

# Key in the archive -> field of the record. Keys are part of the file format and never change.
_SCENE_KEYS = {
    "depths": "depths",
    "depth_confidence": "depth_confidence",
    "points": "points",
    "point_confidence": "point_confidence",
    "moving": "dynamic",
    "metres_per_unit": "metres_per_unit",
}
_CAMERA_KEYS = {"world_from_cam": "world_from_cam", "intrinsics": "intrinsics"}
_TRACK_KEYS = {
    "tracks_points": "points",
    "tracks_visible": "visibility",
    "tracks_confidence": "confidence",
    "tracks_anchors": "anchors",
    "tracks_pixels": "pixels",
}

# What zipfile and numpy raise on bytes that are not what they seem.
_DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError),
)


@dataclass(frozen=True)
class SceneInfo:
    """How a scene came to be: what a later reader needs to know and the arrays do not say.

    `version` is that of recon4d; `trained` is False where the weights were never trained. `original_size` is (height,
    width) of the frames before any resizing. `settings` are whatever the run was asked for, in plain JSON values.
    `calibration` is that of the model: what the confidences mean; None where nobody measured it.
    """

    model: str
    trained: bool
    version: str
    source: ClipSource | None
    original_size: tuple[int, int]
    settings: dict[str, PlainValue]
    format: int = NEWEST_FORMAT
    calibration: Calibration | None = None

    # What stands in a file may be of any type: it is checked below, in words for people.
    __no_type_check__ = True

    def __post_init__(self) -> None:
        kinds = {"model": str, "trained": bool, "version": str, "settings": dict, "format": int}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"info: {name} is {getattr(self, name)!r}, wanted {kind.__name__}")
        if not isinstance(self.source, ClipSource | None):
            raise ValueError(f"info: source is {self.source!r}, wanted a Source or None")
        if not isinstance(self.calibration, Calibration | None):
            raise ValueError(f"info: calibration is {self.calibration!r}, wanted a Calibration or None")
        if len(self.original_size) != 2 or not all(isinstance(length, int) for length in self.original_size):
            raise ValueError(f"info: original_size is {self.original_size}, wanted (height, width) in pixels")
        for name, value in self.settings.items():
            # Found out now, and not when hours of computing are about to be written.
            if not _survives_json(value):
                raise ValueError(f"info: setting {name!r} is {value!r}, wanted a plain, finite JSON value or a list")

    def to_json(self) -> str:
        """The info as one JSON object."""
        values = dataclasses.asdict(self) | {"calibration": config_to_json(self.calibration)}
        if self.calibration is None:
            # As it was before there were any, so that those who read it then can read it still.
            del values["calibration"]
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "SceneInfo":
        """The info that `to_json` wrote; raises ``ValueError`` on unknown or missing keys and on a newer format."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"info is {text[:60]!r}, wanted a JSON object")
        # Asked first: a newer format may well have other keys.
        if isinstance(values.get("format"), int) and values["format"] > NEWEST_FORMAT:
            raise ValueError(
                f"it has format {values['format']}, this recon4d reads up to {NEWEST_FORMAT}; please upgrade"
            )
        values = {"calibration": None, **values}
        _check_keys("info", values, cls)
        source, original_size, calibration = values["source"], values["original_size"], values["calibration"]
        if source is not None:
            _check_keys("info: source", source, ClipSource)
            source = ClipSource(str(source["path"]), tuple(source["names"]), tuple(source["numbers"]))
        if not isinstance(original_size, list):
            raise ValueError(f"info: original_size is {original_size!r}, wanted [height, width]")
        if calibration is not None:
            calibration = config_from_json(Calibration, calibration)
        parsed = {"source": source, "original_size": tuple(original_size), "calibration": calibration}
        return cls(**{**values, **parsed})


def save_scene(
    path: str | Path,
    scene: Scene,
    times: Float[Tensor, " time"] | None = None,
    info: SceneInfo | None = None,
    compressed: bool = False,
) -> None:
    """Write `scene`, the `times` of its frames (seconds) and `info` to `path`, a file or the folder for a scene.npz.

    Without `times` the frames are photos without an order, and without `info` the scene is by a model called custom.
    Whole or not at all: the arrays go to a temporary file beside it, which then takes its place. `compressed` takes
    longer and keeps every bit. Raises ``ValueError`` for a scene with batch axes or times that do not fit it,
    ``OSError`` when it cannot be written.
    """
    if scene.batch_shape:
        raise ValueError(f"an archive holds one scene, given a batch of {tuple(scene.batch_shape)}; save each of them")
    times = torch.full((scene.num_frames,), torch.nan) if times is None else times
    info = _info_of_nobody(scene) if info is None else info
    if times.shape != (scene.num_frames,):
        raise ValueError(f"times have shape {tuple(times.shape)}, wanted ({scene.num_frames},), one for every frame")
    arrays = {name: _to_numpy(tensor) for name, tensor in _named_tensors(scene).items()}
    arrays["times"] = _to_numpy(times)
    arrays["info"] = np.array(info.to_json())

    file_path = _scene_file(path)
    partial = file_path.with_name(f".{file_path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            write = np.savez_compressed if compressed else np.savez
            write(file, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(file_path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the scene: {error.strerror or error}", str(file_path)) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _info_of_nobody(scene: Scene) -> SceneInfo:
    """For a scene that some code made: nothing is known of how, and its maps count as the frames' own size."""
    from recon4d import __version__

    return SceneInfo("custom", True, __version__, None, scene.size, settings={})


def load_scene(path: str | Path) -> Scene:
    """The scene that `save_scene` wrote to `path` (the file, or the folder that holds scene.npz), bit for bit, on CPU.

    Raises ``ValueError`` for a file that is damaged, foreign or newer, ``FileNotFoundError`` where there is none, and
    other ``OSError`` where it cannot be read.
    """
    with _opened(path) as arrays:
        _read_info(arrays)
        scene_fields = _read_tensors(arrays, _SCENE_KEYS)
        cameras = Cameras(**_read_tensors(arrays, _CAMERA_KEYS))
        tracks = None
        if any(key in arrays for key in _TRACK_KEYS):
            tracks = Tracks(**_read_tensors(arrays, _TRACK_KEYS))
        scene = Scene(cameras=cameras, tracks=tracks, **scene_fields)
        if scene.batch_shape:
            raise ValueError(f"it holds depths of shape {tuple(scene.depths.shape)}, wanted (T, H, W)")
        return scene


def load_scene_info(path: str | Path) -> SceneInfo:
    """What the archive at `path` says about its own making; the arrays are not read. Errors as for `load_scene`."""
    with _opened(path) as arrays:
        return _read_info(arrays)


def load_times(path: str | Path) -> Float[Tensor, " time"]:
    """The times in seconds of the frames in the archive at `path`. Errors as for `load_scene`."""
    with _opened(path) as arrays:
        _read_info(arrays)
        return _read_tensors(arrays, {"times": "times"})["times"]


def _scene_file(path: str | Path) -> Path:
    return Path(path) / SCENE_FILE_NAME if Path(path).is_dir() else Path(path)


def _named_tensors(scene: Scene) -> dict[str, Tensor]:
    """Every tensor of the scene under its name in the archive."""
    named = {key: getattr(scene.cameras, field) for key, field in _CAMERA_KEYS.items()}
    named |= {key: getattr(scene, field) for key, field in _SCENE_KEYS.items()}
    if scene.tracks is not None:
        named |= {key: getattr(scene.tracks, field) for key, field in _TRACK_KEYS.items()}
    return named


def _to_numpy(tensor: Tensor) -> np.ndarray:
    # numpy has no bfloat16; float32 holds each of its values.
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.detach().to("cpu", dtype).numpy()


@contextmanager
def _opened(path: str | Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an archive by name, each read when asked for; whatever is wrong with it becomes one line."""
    file_path = _scene_file(path)
    if not file_path.exists():
        raise FileNotFoundError(f"{file_path} does not exist; wanted a {SCENE_FILE_NAME} or the folder that holds one")
    try:
        with file_path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not an npz archive, or only a part of one")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot read {file_path} as a scene: {reason}") from error
    except OSError as error:
        raise OSError(error.errno, f"cannot read the scene: {error.strerror or error}", str(file_path)) from error


def _read_info(arrays: Mapping[str, np.ndarray]) -> SceneInfo:
    if "info" not in arrays:
        _check_names(arrays, ("info", "times", *_CAMERA_KEYS, *_SCENE_KEYS))
    return SceneInfo.from_json(str(arrays["info"]))


def _read_tensors(arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> dict[str, Any]:
    _check_names(arrays, tuple(keys))
    return {field: torch.from_numpy(arrays[key]) for key, field in keys.items()}


def _check_names(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}, so recon4d did not write it")


def _check_keys(what: str, values: Any, record_type: type) -> None:
    wanted = [field.name for field in dataclasses.fields(record_type)]
    given = list(values) if isinstance(values, dict) else []
    if set(given) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        raise ValueError(f"{what} lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}")


def _survives_json(value: Any) -> bool:
    try:
        return not isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False
