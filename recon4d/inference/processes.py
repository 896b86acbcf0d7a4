"""The processes that share the work of one command, started by `accelerate launch` or torchrun.

Clips are distributed over the processes, and some clips take hours while others take seconds. Processes therefore wait
for each other in a group of their own with a long timeout; the default group gives up after minutes.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=30)
"""How long a process that has finished its share waits for the others. Hand-tuned: longer than any real run."""


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Create it with `start_processes` before the processes take different paths: creating the group is collective.
    """

    rank: int
    """Number of this process, from 0."""
    count: int
    """Number of processes."""
    device: "torch.device"
    """Device assigned to this process."""
    _group: "ProcessGroup | None" = None
    """Group with the long timeout; None for a single process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the common results and messages."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Collect one value from every process; every process must call it.

        Args:
            value: Any picklable value of this process.

        Returns:
            The values of all processes in the order of their ranks.
        """
        if self._group is None:
            return [value]
        import torch.distributed as dist

        values: list = [None] * self.count
        dist.all_gather_object(values, value, self._group)
        return values

    def wait(self) -> None:
        """Wait until every process has called this method."""
        self.gather(None)


def start_processes() -> Processes:
    """Join the processes of the launcher, if there is one.

    Returns:
        This process with its rank and device. Without a launcher it is the only one.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    group = None
    if state.num_processes > 1:
        import torch.distributed as dist

        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        assert isinstance(group, dist.ProcessGroup)  # every process belongs to it
    assert state.device is not None
    return Processes(state.process_index, state.num_processes, state.device, group)
