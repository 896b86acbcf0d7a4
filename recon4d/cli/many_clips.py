"""Many clips by one `recon4d reconstruct`: a folder each, over all the processes there are, and a table at the end."""

import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING

from recon4d.cli.clip_pipeline import ClipPipeline

if TYPE_CHECKING:
    from recon4d.cli.reconstruct import ReconstructCommand
    from recon4d.inference import Outcome

EXIT_INTERRUPTED = 130
LONGEST_WAIT_DAYS = 30
"""A process that has finished its share waits so long for the others."""


def reconstruct_many(command: "ReconstructCommand") -> None:
    """Each clip to its folder, over all the processes there are; a table of all at the end.

    Raises ``ValueError`` where a clip failed, when all others are done.
    """
    from recon4d.eval import processes
    from recon4d.inference import (
        finished_frames,
        output_folders,
        reconstruct_each,
        table_of,
    )

    folders = output_folders(command.clips, command.out)
    settings = {clip: command.settings(str(clip.resolve())) for clip in folders}
    state = processes()
    gather = _gatherer(state.num_processes)
    work = ClipPipeline(command, str(state.device) if command.device == "auto" else command.device)
    if any(finished_frames(folder, settings[clip]) is None for clip, folder in folders.items()):
        _ = work.model  # a model that there is not fails the command, and not one clip after another
    try:
        mine = reconstruct_each(
            folders,
            settings.__getitem__,
            lambda clip, folder: work.reconstruct(clip, folder, str(clip.resolve())),
            state.process_index,
            state.num_processes,
        )
    except KeyboardInterrupt:
        print("recon4d: interrupted; finished clips stay, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    outcomes = gather(mine)
    if not state.is_main_process:
        return
    print(table_of(outcomes))
    failed = sum(outcome.result == "failed" for outcome in outcomes)
    if failed:
        raise ValueError(f"{failed} of {len(outcomes)} clips failed; the reasons are in the table")


def _gatherer(num_processes: int) -> Callable[[list["Outcome"]], list["Outcome"]]:
    """What brings the outcomes of all processes together, in the order of the clips; made before they part.

    Through a group of its own: processes may finish hours apart, and the usual one gives up after minutes.
    """
    if num_processes == 1:
        return lambda outcomes: outcomes
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=timedelta(days=LONGEST_WAIT_DAYS))
    assert isinstance(group, dist.ProcessGroup)  # which every process belongs to

    def gather(outcomes: "list[Outcome]") -> "list[Outcome]":
        shares: list[list[Outcome]] = [[] for _ in range(num_processes)]
        dist.all_gather_object(shares, outcomes, group)
        rounds = zip_longest(*shares)
        return [outcome for one_round in rounds for outcome in one_round if outcome is not None]

    return gather
