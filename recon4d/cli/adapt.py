"""`recon4d adapt`: adapt a model to one clip by self-consistency, and keep it only if held-out pairs improve."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from recon4d.cli.arguments import check_outside, find_device, find_model
from recon4d.errors import os_errors_as_user_errors
from recon4d.runs.formatting import describe_clip, describe_results
from recon4d.train.adaptation_config import AdaptConfig

if TYPE_CHECKING:
    from recon4d.records import Clip
    from recon4d.train.adaptation import Adaptation, HeldOutError

NUM_REPORTS = 10
"""How many times a run prints its progress. Hand-tuned."""


@dataclass(frozen=True)
class AdaptCommand:
    """Adapt a model to one clip by the consistency of its frames, and reconstruct the clip with it."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of pictures: at least three frames."""
    out: Path
    """Output folder; it must be new or empty unless --overwrite is given."""
    model: str = "recon4d_mini"
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    num_frames: int = 16
    """Number of frames, evenly spaced; with --fps the largest number of frames."""
    fps: float | None = None
    """Frame rate to sample a video at; for a folder of pictures, the rate at which they were taken."""
    start: float | None = None
    """First second to use."""
    stop: float | None = None
    """Last second to use."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    overwrite: bool = False
    """Replace an earlier adaptation in the output folder."""
    config: Annotated[AdaptConfig, tyro.conf.arg(name="")] = AdaptConfig()  # noqa: RUF009 - frozen

    interrupted: ClassVar[str] = "interrupted, nothing was written"

    def run(self) -> None:
        """Adapt the model, reconstruct the clip, and write both.

        Raises:
            UserError: If the clip, the model or the output folder is unsuitable.
        """
        from recon4d.io import atomic_folder, check_output_folder, read_clip
        from recon4d.io.output_folder import check_adaptation
        from recon4d.models import require_trainable
        from recon4d.train.adaptation import adapt

        check_output_folder(self.out, self.overwrite, check_adaptation)
        for path in (self.clip, Path(self.model)):
            if path.exists():
                check_outside(path, self.out)
        clip = read_clip(self.clip, self.num_frames, self.fps, self.start, self.stop)
        print(describe_clip(str(self.clip), clip, self.fps))
        device = find_device(self.device)
        model = require_trainable(find_model(self.model)).to(device)

        started = time.perf_counter()
        adaptation = adapt(model, clip, self.config, self._report_step)
        print(f"{model.name} on {device}: {len(adaptation.curve)} steps in {time.perf_counter() - started:.1f} s")
        print(_describe_decision(adaptation))

        with atomic_folder(self.out, self.overwrite, check_adaptation) as folder:
            self._write(folder, clip, adaptation)
        print(describe_results(self.out, adaptation.scene))

    def _write(self, folder: Path, clip: "Clip", adaptation: "Adaptation") -> None:
        from recon4d import __version__
        from recon4d.io import SceneInfo, write_results
        from recon4d.zoo import save_model

        settings = self._settings()
        info = SceneInfo(adaptation.model.name, adaptation.model.trained, __version__, clip.source, clip.size, settings)
        write_results(folder, clip, adaptation.scene, info)
        save_model(adaptation.model, folder / "model.safetensors")
        with os_errors_as_user_errors():
            (folder / "adaptation.json").write_text(json.dumps(_to_json(adaptation, settings), indent=1))

    def _report_step(self, step: int, objective: float) -> None:
        if step % max(1, self.config.steps // NUM_REPORTS) == 0:
            print(f"step {step} of {self.config.steps}: {objective:.4f}", file=sys.stderr)

    def _settings(self) -> dict[str, Any]:
        """The options that determine the result, as JSON values: not the output folder."""
        values = {name: value for name, value in vars(self).items() if name not in ("out", "overwrite", "config")}
        adaptation = {name: value for name, value in vars(self.config).items() if name != "weights"}
        weights = {f"weights_{name}": value for name, value in vars(self.config.weights).items()}
        return {**values, **adaptation, **weights, "clip": str(self.clip), "layers": list(self.config.layers)}


def _describe_decision(adaptation: "Adaptation") -> str:
    """Describe in four lines the held-out errors and which model is kept."""
    pairs = f"{len(adaptation.held_out_pairs)} held-out pairs"
    after = "-" if adaptation.after is None else _describe_error(adaptation.after)
    decision = "the adapted model is kept" if adaptation.is_kept else "the original model is kept"
    return (
        f"{pairs} without warping: {_describe_error(adaptation.baseline)}\n"
        f"{pairs} before: {_describe_error(adaptation.before)}\n"
        f"{pairs} after:  {after}\n"
        f"{decision}: {adaptation.reason}"
    )


def _describe_error(error: "HeldOutError") -> str:
    return f"photometric {error.photometric:.4f}, semantic {error.semantic:.4f}, total {error.total:.4f}"


def _to_json(adaptation: "Adaptation", settings: dict[str, Any]) -> dict[str, Any]:
    """Return the content of adaptation.json; objectives that are not finite become null."""
    return {
        "kept": adaptation.is_kept,
        "reason": adaptation.reason,
        "unmoved": _error_to_json(adaptation.baseline),
        "before": _error_to_json(adaptation.before),
        "after": None if adaptation.after is None else _error_to_json(adaptation.after),
        "curve": [value if math.isfinite(value) else None for value in adaptation.curve],
        "training_pairs": [list(pair) for pair in adaptation.training_pairs],
        "held_out_pairs": [list(pair) for pair in adaptation.held_out_pairs],
        "settings": settings,
    }


def _error_to_json(error: "HeldOutError") -> dict[str, float]:
    return {"photometric": error.photometric, "semantic": error.semantic, "total": error.total}
