"""The most memory that is held while something runs: the GPU's own count, or the process's on a CPU under Linux."""

from pathlib import Path

import torch


class PeakMemory:
    """``with PeakMemory(device) as memory: ...`` and then `memory.peak`, in bytes, with all that was there before."""

    peak = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is held now
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device)
        else:
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
            self.peak = 1024 * int(kilobytes)
