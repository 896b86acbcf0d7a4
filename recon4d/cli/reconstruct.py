"""`recon4d reconstruct`: cameras, depth, points and tracks of one or several clips."""

from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

from recon4d.cli.hints import add_hint
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.cli.reconstruct_pipeline import prepare_model, reconstruct_clip
from recon4d.errors import UserError, one_line
from recon4d.runs.formatting import describe_input


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
            UserError: If options exclude each other, if a clip or a prior is unsuitable, or if one of several clips
                failed, once all others are done.
        """
        self.check()
        if len(self.inputs) > 1:
            _reconstruct_many(self)
            return
        (clip,) = self.inputs
        settings = self.settings(describe_input(clip))
        reconstruct_clip(clip, self.out, self, settings, lambda: prepare_model(self, self.device))


def _reconstruct_many(options: ReconstructOptions) -> None:
    """Reconstruct every clip into its own folder, over all processes, and print a table of all clips.

    Clips that are finished with the same settings are skipped. A clip that fails does not stop the others.
    """
    from recon4d.inference import finished_frames, format_outcomes, output_folders, reconstruct_each, start_processes

    folders = output_folders(options.clips, options.out)
    settings = {clip: options.settings(str(clip.resolve())) for clip in folders}
    processes = start_processes()
    device_name = str(processes.device) if options.device == "auto" else options.device
    load_model = cache(lambda: prepare_model(options, device_name))
    if any(finished_frames(folder, settings[clip]) is None for clip, folder in folders.items()):
        load_model()  # an unusable model is an error of the command, not of every clip

    def reconstruct_one(clip: Path, folder: Path) -> int:
        try:
            return reconstruct_clip(clip, folder, options, settings[clip], load_model)
        except UserError as error:
            raise UserError(add_hint(one_line(error), type(options))) from error

    own_outcomes = reconstruct_each(folders, settings.__getitem__, reconstruct_one, processes.rank, processes.count)
    gathered = processes.gather(own_outcomes)
    if not processes.is_main:
        return
    # Process r of n has clips r, r + n, ...: restore the order in which clips were given.
    outcomes = [outcome for one_round in zip_longest(*gathered) for outcome in one_round if outcome is not None]
    print(format_outcomes(outcomes))
    if failed := sum(outcome.result == "failed" for outcome in outcomes):
        raise UserError(f"{failed} of {len(outcomes)} clips failed; the table gives the reasons")
