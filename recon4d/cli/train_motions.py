"""`recon4d train-motions`: train the generative head of motion for the tokens of a model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from recon4d.cli.arguments import find_device, find_model
from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.models import SceneModel
    from recon4d.train.motion_flow.loop import FlowStep
    from recon4d.train.motion_flow.track_clips import TrackClips

REPORT_EVERY = 500
"""Number of steps between two printed losses, each the mean over these steps."""


@dataclass(frozen=True)
class TrainMotionsCommand:
    """Train the generative head of motion on synthetic scenes, with the model that gives tokens frozen.

    The head of the package took about an hour on two cores of a CPU: 20 minutes to render clips, 35 to train.
    """

    out: Path
    """File to write (.safetensors), for --motion-weights of `recon4d reconstruct` and `evaluate`."""
    model: str = "recon4d_mini"
    """Model whose tokens the head learns to use: a name that `recon4d models` lists, or a checkpoint file."""
    clips: int = 1400
    """Number of rendered scenes; those with enough motion are used. 0 trains on tracks alone, for any model."""
    steps: int = 4000
    """Number of steps."""
    batch: int = 32
    """Number of clips of a step."""
    learning_rate: float = 3e-3
    """Largest learning rate."""
    seed: int = 0
    """Seed of weights and batches."""
    device: str = "auto"
    """Device of the model that gives tokens; the head itself trains on the CPU."""
    overwrite: bool = False
    """Replace an existing file."""

    interrupted: ClassVar[str] = "interrupted, no weights were written"

    def run(self) -> None:
        """Render clips, train the head and write it.

        Raises:
            UserError: If an option is out of range, the model has no tokens or the file cannot be written.
        """
        from recon4d.train.motion_flow.loop import FlowTrainConfig, train_flow
        from recon4d.zoo import MotionFlow, save_motion_flow

        if min(self.steps, self.batch) < 1 or self.clips < 0 or not self.learning_rate > 0:
            raise UserError("--steps, --batch and --learning-rate must be above 0, and --clips at least 0")
        if self.out.suffix != ".safetensors":
            raise UserError(f"--out is {self.out}; wanted a file that ends in .safetensors")
        if self.out.exists() and not self.overwrite:
            raise UserError(f"{self.out} exists; give --overwrite to replace it")
        rendered, name = None, ""
        if self.clips:
            model = find_model(self.model).to(find_device(self.device))
            rendered, name = self._render(model), model.name
        config = FlowTrainConfig(self.steps, self.batch, self.learning_rate, seed=self.seed)
        if rendered is not None and rendered.tokens is not None:
            config = config.with_token_width(rendered.tokens.shape[-1])
        network = train_flow(config, rendered, self._report, REPORT_EVERY)
        save_motion_flow(MotionFlow(network, name), self.out)
        print(f"{self.out}: {sum(value.numel() for value in network.parameters()) / 1e6:.1f} million parameters")

    def _render(self, model: "SceneModel") -> "TrackClips":
        """Render the clips and run the model on them."""
        from tqdm import tqdm

        from recon4d.models import Model
        from recon4d.train.motion_flow.rendered_clips import render_track_clips

        if not isinstance(model, Model):
            raise UserError(f"{model.name} has no tokens of tracked pixels; give --clips 0 to train without tokens")
        with tqdm(total=self.clips, desc="rendering", unit="clip", disable=not sys.stderr.isatty()) as bar:
            return render_track_clips(model, self.clips, bar.update)

    def _report(self, step: "FlowStep") -> None:
        print(f"step {step.step:6d}: loss {step.loss:.4f}, {step.seconds:.0f} s", flush=True)
