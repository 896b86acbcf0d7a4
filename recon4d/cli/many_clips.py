"""Many clips in one `recon4d reconstruct`: one folder each, distributed over all processes, and a table at the end."""

from functools import cache
from itertools import zip_longest
from pathlib import Path

from recon4d.cli.hints import add_hint
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.cli.reconstruct_pipeline import prepare_model, reconstruct_clip
from recon4d.errors import UserError, one_line


def reconstruct_many(options: ReconstructOptions) -> None:
    """Reconstruct every clip into its own folder and print a table of all clips.

    Clips that are finished with the same settings are skipped. A clip that fails does not stop the others.

    Args:
        options: The options of the command.

    Raises:
        UserError: If a clip failed, once all others are done; or if the model cannot be used.
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
