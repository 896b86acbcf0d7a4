"""`recon4d calibrate`: calibrate confidence and the dynamic mask on synthetic scenes and store both in a checkpoint."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import tyro

from recon4d.cli.arguments import find_device, find_model
from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.datasets.synthetic import SyntheticConfig
    from recon4d.eval.calibration import DynamicMaskIous, SceneSamples
    from recon4d.models import SceneModel
    from recon4d.records import Calibration

PICTURE_NAME = "reliability.png"


@dataclass(frozen=True)
class CalibrateCommand:
    """Calibrate the confidence and the dynamic mask of a model on synthetic scenes.

    The command measures which error each confidence stands for and which threshold of the dynamic mask is best, and
    writes both into a checkpoint.
    """

    model: tyro.conf.Positional[str]
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    out: Path
    """Checkpoint to write (.safetensors), with its calibration; reliability.png is written next to it."""
    clips: int = 64
    """Number of scenes that the calibration is fitted to."""
    held_out: int = 32
    """Number of other scenes that it is checked on."""
    num_frames: int = 8
    """Frames of each scene, at most 256."""
    size: tuple[int, int] | None = None
    """Height and width of the scenes in pixels, rounded to multiples of the model's patch; by default aspect ratio 4:3
    at the model's own processing size."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 if the device is faster with it, else float32."""
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    """Type of the weights in the checkpoint."""
    overwrite: bool = False
    """Replace existing files."""

    interrupted: ClassVar[str] = "interrupted, no checkpoint was written"

    def run(self) -> None:
        """Calibrate the model and write it.

        Raises:
            UserError: If an option is out of range, the model cannot be calibrated or a file cannot be written.
        """
        from recon4d.eval.calibration import (
            FITTING_SEED,
            HELD_OUT_SEED,
            best_threshold,
            fit_calibration,
            logit_shift,
            write_reliability_picture,
        )
        from recon4d.models import Model
        from recon4d.zoo import save_model

        picture = self.out.with_name(PICTURE_NAME)
        self._check(picture)
        device = find_device(self.device)
        model = find_model(self.model).to(device)
        config = self._scene_config(model)
        scenes = f"scenes of {config.num_frames} frames, {config.width} x {config.height} pixels"
        print(f"{model.name} on {device}: fitting to {self.clips} {scenes}, checking on {self.held_out} others")
        fitting, fitting_masks = self._samples(model, config, FITTING_SEED, self.clips, "fitting")
        calibration = fit_calibration(fitting, f"{self.clips} synthetic {scenes}")
        if calibration.depth is None:
            raise UserError(f"{model.name} predicts no depth that can be compared with the ground truth")
        held_out, held_out_masks = self._samples(model, config, HELD_OUT_SEED, self.held_out, "checking")
        for line in _table(calibration, fitting, held_out):
            print(line)
        write_reliability_picture(picture, calibration, held_out)
        model.calibration = calibration
        if (threshold := best_threshold(fitting_masks)) is not None and isinstance(model, Model):
            model.shift_dynamic_logits(logit_shift(threshold))
            print(_describe_mask(threshold, held_out_masks))
        save_model(model.cpu(), self.out, self.storage)
        print(f"{self.out}: {model.name} with its calibration; {picture}: measured over expected error")

    def _check(self, picture: Path) -> None:
        """Check options and output files before anything is computed."""
        if self.clips < 1 or self.held_out < 1:
            raise UserError(f"--clips is {self.clips} and --held-out is {self.held_out}; each must be at least 1")
        if self.size is not None and min(self.size) < 1:
            raise UserError(f"--size is {self.size[0]} {self.size[1]}; height and width must be at least 1")
        if self.out.suffix != ".safetensors":
            raise UserError(f"--out is {self.out}; the name must end in .safetensors")
        if not self.out.parent.is_dir():
            raise UserError(f"cannot write {self.out}: the folder {self.out.parent} does not exist")
        existing = [str(file) for file in (self.out, picture) if file.exists()]
        if existing and not self.overwrite:
            raise UserError(f"{', '.join(existing)} would be replaced: give --overwrite, or another folder in --out")

    def _scene_config(self, model: "SceneModel") -> "SyntheticConfig":
        from recon4d.datasets.synthetic import SyntheticConfig
        from recon4d.eval.calibration import model_input_size

        height, width = model_input_size(model, self.size)
        return SyntheticConfig(num_frames=self.num_frames, height=height, width=width)

    def _samples(
        self, model: "SceneModel", config: "SyntheticConfig", seed: int, clips: int, description: str
    ) -> "tuple[SceneSamples, list[DynamicMaskIous]]":
        """Run the model on synthetic scenes; return confidences with errors, and IoUs of the dynamic mask."""
        from tqdm import tqdm

        from recon4d.eval.calibration import concatenate_samples, synthetic_samples

        samples = synthetic_samples(model, config, seed, clips, self.precision)
        results = list(tqdm(samples, description, clips, unit="clip", disable=not sys.stderr.isatty()))
        masks = [ious for _, ious in results if ious is not None]
        return concatenate_samples([scene for scene, _ in results]), masks


def _table(calibration: "Calibration", fitting: "SceneSamples", held_out: "SceneSamples") -> Iterator[str]:
    """Yield the lines of a table: how well three mappings from confidence to error predict errors of other scenes."""
    from recon4d.eval.calibration import (
        FIELDS,
        calibration_error,
        compute_reliability,
        fit_power_law,
        loss_implied_curve,
    )
    from recon4d.inference.scene_statistics import OUTLIER_THRESHOLD

    share = f"pixels with an error above {OUTLIER_THRESHOLD:.0%}"
    yield f"mean |ln(expected / measured error)| on held-out scenes, and {share}:"
    yield "field    pixels  alpha / c  power law  calibrated  expected  measured"
    for field in FIELDS:
        curve, samples = getattr(calibration, field), getattr(held_out, field)
        if curve is None or not len(samples):
            yield f"{field:6}  nothing to compare"
            continue
        power_law = fit_power_law(getattr(fitting, field))
        curves = (loss_implied_curve(), power_law, curve)
        errors = [calibration_error(compute_reliability(one, samples)) for one in curves]
        expected = 1 - curve.fraction_within(samples.confidence, OUTLIER_THRESHOLD)
        measured = float((samples.errors > OUTLIER_THRESHOLD).double().mean())
        yield (
            f"{field:6} {len(samples):8d}  {errors[0]:9.3f}  {errors[1]:9.3f}  {errors[2]:10.3f}  "
            f"{expected:8.1%}  {measured:8.1%}"
        )


def _describe_mask(threshold: float, held_out: "list[DynamicMaskIous]") -> str:
    """Describe the new threshold of the dynamic mask and the intersection over union before and after."""
    from recon4d.eval.calibration import mean_iou_at

    line = f"dynamic mask: probabilities are shifted so that {threshold:.2f} becomes 0.50"
    if not held_out:
        return line
    before, after = mean_iou_at(held_out, 0.5), mean_iou_at(held_out, threshold)
    return f"{line}; IoU on held-out scenes {before:.3f} before, {after:.3f} after"
