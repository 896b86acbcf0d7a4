"""`recon4d adapt`: a model learns from one clip without truth, and is kept only where that helped."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from recon4d.cli.formatting import (
    describe_clip,
    describe_results,
    find_device,
    find_model,
)
from recon4d.train.adaptation_config import AdaptConfig

if TYPE_CHECKING:
    from recon4d.records import Clip
    from recon4d.train.adaptation import Adaptation, HeldOutError

REPORTS = 10
"""How often a run says how far it is."""


@dataclass(frozen=True)
class AdaptCommand:
    """Adapt a model to one clip by the consistency of its frames, and reconstruct the clip with it."""

    clip: tyro.conf.Positional[Path]
    """A video, or a folder of pictures: three frames or more."""
    out: Path
    """Folder to write; it must be new or empty unless --overwrite is given."""
    model: str = "recon4d_mini"
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    num_frames: int = 16
    """Frames to take, spread evenly; with --fps the most to take."""
    fps: float | None = None
    """Take frames at this rate; for a folder of pictures, the rate at which they were taken."""
    start: float | None = None
    """Seconds to begin at."""
    stop: float | None = None
    """Seconds to end at."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    overwrite: bool = False
    """Replace an earlier adaptation in the output folder."""
    config: Annotated[AdaptConfig, tyro.conf.arg(name="")] = AdaptConfig()  # noqa: RUF009 - frozen

    def run(self) -> None:
        from recon4d.io import atomic_folder, check_output_folder, read_clip
        from recon4d.io.output_folder import check_adaptation
        from recon4d.train.adaptation import adapt

        check_output_folder(self.out, self.overwrite, check_adaptation)
        for given in (self.clip, Path(self.model)):
            if given.exists() and given.resolve().is_relative_to(self.out.resolve()):
                raise ValueError(f"{given} lies in the output folder {self.out}, which is to be replaced; move it away")
        clip = read_clip(self.clip, self.num_frames, self.fps, self.start, self.stop)
        print(describe_clip(self.clip, clip, self.fps))
        device = find_device(self.device)
        model = find_model(self.model).to(device)

        started = time.perf_counter()
        adaptation = adapt(model, clip, self.config, self._report_step)
        print(f"{model.name} on {device}: {len(adaptation.curve)} steps in {time.perf_counter() - started:.1f} s")
        print(_describe_judgment(adaptation))

        with atomic_folder(self.out, self.overwrite, check_adaptation) as folder:
            self._write(folder, clip, adaptation)
        print(describe_results(self.out, adaptation.scene))

    def _write(self, folder: Path, clip: "Clip", adaptation: "Adaptation") -> None:
        import json

        from recon4d import __version__
        from recon4d.io import SceneInfo, write_results
        from recon4d.zoo import save_model

        settings = self._settings()
        info = SceneInfo(adaptation.model.name, adaptation.model.trained, __version__, clip.source, clip.size, settings)
        write_results(folder, clip, adaptation.scene, info)
        save_model(adaptation.model, folder / "model.safetensors")
        (folder / "adaptation.json").write_text(json.dumps(_to_json(adaptation, settings), indent=1))

    def _report_step(self, step: int, objective: float) -> None:
        if step % max(1, self.config.steps // REPORTS) == 0:
            print(f"step {step} of {self.config.steps}: {objective:.4f}", file=sys.stderr)

    def _settings(self) -> dict[str, Any]:
        """The command as plain JSON values; where it was written to is no part of the result."""
        values = {name: value for name, value in vars(self).items() if name not in ("out", "overwrite", "config")}
        adaptation = {name: value for name, value in vars(self.config).items() if name != "weights"}
        weights = {f"weights_{name}": value for name, value in vars(self.config.weights).items()}
        return {**values, **adaptation, **weights, "clip": str(self.clip), "layers": list(self.config.layers)}


def _describe_judgment(adaptation: "Adaptation") -> str:
    after = "-" if adaptation.after is None else _describe_error(adaptation.after)
    which = "the adapted model is kept" if adaptation.kept else "the original model is kept"
    return (
        f"{len(adaptation.held_out_pairs)} held-out pairs as they are: {_describe_error(adaptation.unmoved)}\n"
        f"{len(adaptation.held_out_pairs)} held-out pairs before: {_describe_error(adaptation.before)}\n"
        f"{len(adaptation.held_out_pairs)} held-out pairs after:  {after}\n"
        f"{which}: {adaptation.reason}"
    )


def _describe_error(error: "HeldOutError") -> str:
    return f"photometric {error.photometric:.4f}, semantic {error.semantic:.4f}, together {error.total:.4f}"


def _to_json(adaptation: "Adaptation", settings: dict[str, Any]) -> dict[str, Any]:
    """What adaptation.json holds; a number that is none is null."""
    import math

    return {
        "kept": adaptation.kept,
        "reason": adaptation.reason,
        "unmoved": vars(adaptation.unmoved),
        "before": vars(adaptation.before),
        "after": None if adaptation.after is None else vars(adaptation.after),
        "curve": [value if math.isfinite(value) else None for value in adaptation.curve],
        "training_pairs": [list(pair) for pair in adaptation.training_pairs],
        "held_out_pairs": [list(pair) for pair in adaptation.held_out_pairs],
        "settings": settings,
    }
