"""`recon4d reconstruct`: cameras, depth, points and tracks of one or several clips."""

from dataclasses import dataclass

from recon4d.cli.formatting import describe_input
from recon4d.cli.many_clips import reconstruct_many
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.cli.reconstruct_pipeline import prepare_model, reconstruct_clip


@dataclass(frozen=True)
class ReconstructCommand(ReconstructOptions):
    """Turn videos or folders of pictures into cameras, depth, points and tracks."""

    @property
    def interrupted(self) -> str:
        """The line to print after an interrupt."""
        if len(self.inputs) > 1:
            return f"interrupted; finished clips stay in {self.out}, and the same command continues with the others"
        if self.long.is_enabled:
            return f"interrupted; finished windows stay in {self.out}, and the same command continues from there"
        return "interrupted, nothing was written"

    def run(self) -> None:
        """Reconstruct the clips.

        Raises:
            UserError: If options exclude each other, or if a clip or a prior is unsuitable.
        """
        self.check()
        if len(self.inputs) > 1:
            reconstruct_many(self)
            return
        (clip,) = self.inputs
        settings = self.settings(describe_input(clip))
        reconstruct_clip(clip, self.out, self, settings, lambda: prepare_model(self, self.device))
