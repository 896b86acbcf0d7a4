"""`recon4d calibrate`: what confidence means and where masks are cut, measured on worlds, written into a checkpoint."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from recon4d.cli.formatting import find_device, find_model

if TYPE_CHECKING:
    from recon4d.datasets.synthetic import SyntheticConfig
    from recon4d.eval.calibration import DynamicMaskCounts, SceneSamples
    from recon4d.models import Model
    from recon4d.records import Calibration

PICTURE_NAME = "reliability.png"


@dataclass(frozen=True)
class CalibrateCommand:
    """Measure on synthetic worlds what a model's confidence means and where its moving mask is best cut, and write
    both into a checkpoint."""

    model: tyro.conf.Positional[str]
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    out: Path
    """The checkpoint to write (.safetensors), with its calibration; reliability.png goes beside it."""
    clips: int = 64
    """Worlds that the calibration is fitted to."""
    held_out: int = 32
    """Other worlds that it is then checked on."""
    num_frames: int = 8
    """Frames of each world, up to 32."""
    size: tuple[int, int] | None = None
    """Height and width of the worlds in pixels, brought to multiples of the model's patch; 3 by 4 at the model's own
    processing size by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device is faster with it."""
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    """How weights lie in the file that is written."""
    overwrite: bool = False
    """Replace files that are there."""

    def run(self) -> None:
        from recon4d.eval.calibration import (
            FITTING_SEED,
            HELD_OUT_SEED,
            best_threshold,
            fit_calibration,
            shift_to_half,
            write_reliability_picture,
        )
        from recon4d.zoo import save_model

        picture = self.out.with_name(PICTURE_NAME)
        self._check(picture)
        device = find_device(self.device)
        model = find_model(self.model).to(device)
        worlds = self._worlds(model)
        what = f"worlds of {worlds.num_frames} frames, {worlds.width} x {worlds.height} pixels"
        print(f"{model.name} on {device}: {self.clips} {what} to fit, {self.held_out} others to check")
        fitted_to, masks = self._evidence(model, worlds, FITTING_SEED, self.clips, "fitting")
        calibration = fit_calibration(fitted_to, f"{self.clips} synthetic {what}")
        if calibration.depth is None:
            raise ValueError(f"{model.name} answers no depth that could be compared with the truth")
        checked_on, other_masks = self._evidence(model, worlds, HELD_OUT_SEED, self.held_out, "checking")
        for line in _table(calibration, fitted_to, checked_on):
            print(line)
        write_reliability_picture(picture, calibration, checked_on)
        model.calibration = calibration
        if (cut := best_threshold(masks)) is not None:
            model.shift_dynamic_logits(shift_to_half(cut))
            print(_moving_line(cut, other_masks))
        save_model(model.cpu(), self.out, self.storage)
        print(f"{self.out}: {model.name} with its calibration; {picture}: expected against measured error")

    def _check(self, picture: Path) -> None:
        """Refuse now what could not be written, or would mean nothing, after all that computing."""
        if self.clips < 1 or self.held_out < 1:
            raise ValueError(f"clips = {self.clips}, held_out = {self.held_out}; wanted at least 1 of each")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"--out is {self.out}; wanted the name of a .safetensors file")
        if not self.out.parent.is_dir():
            raise ValueError(f"{self.out.parent}, where {self.out.name} is to be written, is no folder")
        if (there := [str(file) for file in (self.out, picture) if file.exists()]) and not self.overwrite:
            raise ValueError(f"{', '.join(there)} would be replaced: give --overwrite, or another folder in --out")

    def _worlds(self, model: "Model") -> "SyntheticConfig":
        from recon4d.datasets.synthetic import SyntheticConfig
        from recon4d.eval.calibration import size_for

        height, width = size_for(model, self.size)
        return SyntheticConfig(num_frames=self.num_frames, height=height, width=width)

    def _evidence(
        self, model: "Model", worlds: "SyntheticConfig", seed: int, clips: int, purpose: str
    ) -> "tuple[SceneSamples, list[DynamicMaskCounts]]":
        from tqdm import tqdm

        from recon4d.eval.calibration import synthetic_samples, together

        parts = synthetic_samples(model, worlds, seed, clips, self.precision)
        both = list(tqdm(parts, purpose, clips, unit="clip", disable=not sys.stderr.isatty()))
        return together([scene for scene, _ in both]), [moving for _, moving in both if moving is not None]


def _table(calibration: "Calibration", fitted_to: "SceneSamples", checked_on: "SceneSamples") -> Iterator[str]:
    """How well each reading of confidence foretells the error of the worlds that were held out."""
    from recon4d.eval.calibration import (
        FIELDS,
        calibration_error,
        fit_power_law,
        loss_curve,
        reliability,
    )
    from recon4d.inference.scene_statistics import FAR_OFF

    yield f"mean |ln(expected / measured error)| on the worlds held out, and pixels wrong by more than {FAR_OFF:.0%}:"
    yield "field    pixels  alpha / c  power law  calibrated  expected  measured"
    for field in FIELDS:
        curve, evidence = getattr(calibration, field), getattr(checked_on, field)
        if curve is None or not len(evidence):
            yield f"{field:6}  no answer to compare"
            continue
        power_law = fit_power_law(getattr(fitted_to, field))
        errors = [calibration_error(reliability(one, evidence)) for one in (loss_curve(), power_law, curve)]
        expected = 1 - curve.share_within(evidence.confidence, FAR_OFF)
        measured = float((evidence.errors > FAR_OFF).double().mean())
        yield (
            f"{field:6} {len(evidence):8d}  {errors[0]:9.3f}  {errors[1]:9.3f}  {errors[2]:10.3f}  "
            f"{expected:8.1%}  {measured:8.1%}"
        )


def _moving_line(cut: float, checked_on: "list[DynamicMaskCounts]") -> str:
    from recon4d.eval.calibration import overlap_at

    line = f"moving: what was at least {cut:.2f} probable is above one half from now on"
    if not checked_on:
        return line
    before, after = overlap_at(checked_on, 0.5), overlap_at(checked_on, cut)
    return f"{line}; overlap with the truth on the worlds held out {before:.3f} to {after:.3f}"
