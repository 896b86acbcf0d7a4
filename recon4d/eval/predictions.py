"""Predictions of a method for a clip, and a folder that keeps them so that each is computed once."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from recon4d import __version__
from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.eval.pairing import is_registered
from recon4d.eval.source_digest import source_digest
from recon4d.io import SceneInfo, atomic_file, load_scene, save_scene
from recon4d.records import Scene

Status = Literal["ok", "partial", "failed", "timed out"]
"""Outcome of a method on a clip. `partial`: some frames are not registered. `failed` and `timed out`: no scene."""

_RECORD_NAME = "prediction.json"


@dataclass(frozen=True)
class Prediction:
    """Outcome of a method on a clip."""

    scene: Scene | None
    """Predicted scene; None if the status is `failed` or `timed out`."""
    status: Status
    """Outcome in one word."""
    seconds: float
    """Time of the method alone on this clip; NaN if it was not measured."""
    reason: str = ""
    """Reason for a status other than `ok`, in one line."""

    @classmethod
    def from_scene(cls, scene: Scene, seconds: float) -> "Prediction":
        """Create the prediction of a scene: `ok`, or `partial` if some frames are not registered.

        Args:
            scene: Predicted scene.
            seconds: Time of the method on this clip; NaN if it was not measured.

        Returns:
            The prediction.
        """
        missing = int((~is_registered(scene)).sum())
        reason = f"{missing} of {scene.num_frames} frames are not registered" if missing else ""
        return cls(scene, "partial" if missing else "ok", seconds, reason)


@dataclass(frozen=True)
class _Record:
    """Content of prediction.json."""

    key: str
    status: Status
    seconds: float | None
    reason: str


class PredictionStore:
    """Predictions on disk: ``ROOT/METHOD/CLIP/scene.npz`` with a prediction.json beside it.

    The JSON file is written last, so that a prediction with a JSON file is complete. It contains the key of the
    method, the version of recon4d and a digest of its source code; a prediction with other values is ignored.

    Args:
        root: Folder of all predictions; created on the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, method: str, clip: str, key: str) -> Prediction | None:
        """Read a stored prediction.

        Args:
            method: Name of the method.
            clip: Name of the clip.
            key: Key of the method, see `Method.key`.

        Returns:
            The prediction; None if there is none, if it is damaged, or if it was made with another key or other code.

        Raises:
            UserError: If the folder cannot be read.
        """
        folder = self._folder(method, clip)
        record = _read_record(folder / _RECORD_NAME)
        if record is None or record.key != _full_key(key):
            return None
        scene = None
        if record.status in ("ok", "partial"):
            try:
                scene = load_scene(folder)
            except UserError:  # missing or damaged
                return None
        return Prediction(scene, record.status, math.nan if record.seconds is None else record.seconds, record.reason)

    def write(self, method: str, clip: str, key: str, prediction: Prediction, times: Float[Tensor, " time"]) -> None:
        """Store a prediction in place of an earlier one.

        Args:
            method: Name of the method.
            clip: Name of the clip.
            key: Key of the method, see `Method.key`.
            prediction: Prediction to store.
            times: Times of the clip's frames in seconds, of shape (time,).

        Raises:
            UserError: If the files cannot be written.
        """
        folder = self._folder(method, clip)
        with os_errors_as_user_errors():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _RECORD_NAME).unlink(missing_ok=True)
            if prediction.scene is not None:
                info = SceneInfo(method, True, __version__, None, prediction.scene.size, {"clip": clip})
                save_scene(folder / "scene.npz", prediction.scene, times, info, compressed=True)
            seconds = None if math.isnan(prediction.seconds) else prediction.seconds
            record = _Record(_full_key(key), prediction.status, seconds, prediction.reason)
            with atomic_file(folder / _RECORD_NAME) as partial:
                partial.write_text(json.dumps(dataclasses.asdict(record), indent=1))

    def _folder(self, method: str, clip: str) -> Path:
        return self.root / method / clip


def _full_key(key: str) -> str:
    """Return everything that a prediction depends on besides the clip: the method's key and the code."""
    return f"{key}; recon4d {__version__}, source {source_digest()}"


def _read_record(path: Path) -> _Record | None:
    """Read prediction.json; None if it is missing or damaged."""
    with os_errors_as_user_errors():
        if not path.is_file():
            return None
        content = path.read_bytes()
    try:
        values = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    names = {field.name for field in dataclasses.fields(_Record)}
    if not isinstance(values, dict) or values.keys() != names:
        return None
    is_valid = (
        isinstance(values["key"], str)
        and values["status"] in get_args(Status)
        and isinstance(values["seconds"], float | int | None)
        and isinstance(values["reason"], str)
    )
    return _Record(**values) if is_valid else None
