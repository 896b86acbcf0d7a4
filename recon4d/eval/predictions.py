"""What a method answered for one clip, and the folder that keeps such answers so that they are computed once."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from recon4d import __version__
from recon4d.eval.pairing import is_placed
from recon4d.io import SceneInfo, atomic_file, load_scene, save_scene
from recon4d.records import Scene

Status = Literal["ok", "partial", "failed", "timed out"]

_NOTE_NAME = "prediction.json"


@dataclass(frozen=True)
class Prediction:
    """A method's answer for a clip.

    `partial`: some frames could not be placed. `failed` and `timed out` have no scene, and a `reason`. `seconds` are
    those of the method alone on this clip, NaN where nobody measured them.
    """

    scene: Scene | None
    status: Status
    seconds: float
    reason: str = ""

    @classmethod
    def of_scene(cls, scene: Scene, seconds: float) -> "Prediction":
        """A scene as an answer: ok, or partial where frames are not placed."""
        missing = int((~is_placed(scene)).sum())
        reason = f"{missing} of {scene.num_frames} frames are not placed" if missing else ""
        return cls(scene, "partial" if missing else "ok", seconds, reason)


@dataclass(frozen=True)
class _Note:
    """What stands in prediction.json."""

    key: str
    status: Status
    seconds: float | None
    reason: str


class PredictionStore:
    """Predictions on disk: ``ROOT/METHOD/CLIP/scene.npz`` with a prediction.json beside it.

    The note is written last, so that whatever has one is whole. The `key` of a method says what its answer depends on;
    an answer under another key does not count.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, method: str, clip: str, key: str) -> Prediction | None:
        """The stored answer; None where there is none, or one of other settings, or a damaged one."""
        folder = self._folder(method, clip)
        try:
            note = _Note(**json.loads((folder / _NOTE_NAME).read_text()))
            if note.key != key:
                return None
            scene = None if note.status in ("failed", "timed out") else load_scene(folder)
        except (OSError, ValueError, TypeError):
            return None
        return Prediction(scene, note.status, float("nan") if note.seconds is None else note.seconds, note.reason)

    def write(self, method: str, clip: str, key: str, prediction: Prediction, times: Float[Tensor, " time"]) -> None:
        """Keep an answer, in the place of an earlier one. Raises ``OSError`` where it cannot be written."""
        folder = self._folder(method, clip)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _NOTE_NAME).unlink(missing_ok=True)
        if prediction.scene is not None:
            info = SceneInfo(method, True, __version__, None, prediction.scene.size, {"clip": clip})
            save_scene(folder / "scene.npz", prediction.scene, times, info, compressed=True)
        seconds = prediction.seconds if prediction.seconds == prediction.seconds else None
        note = _Note(key, prediction.status, seconds, prediction.reason)
        with atomic_file(folder / _NOTE_NAME) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(note), indent=1))

    def _folder(self, method: str, clip: str) -> Path:
        return self.root / method / clip
