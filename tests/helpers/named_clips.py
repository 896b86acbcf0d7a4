"""Black clips whose pictures have names and need not exist, for tests of files that belong to them."""

import torch

from recon4d.records import Clip, ClipSource


def named_clip(
    path: str,
    names: tuple[str, ...],
    numbers: tuple[int, ...] = (),
    times: list[float] | None = None,
    size: tuple[int, int] = (4, 6),
) -> Clip:
    """Create a clip of the named frames of a path, numbered from 0 and without times by default."""
    count = len(names)
    source = ClipSource(path, names, numbers or tuple(range(count)))
    images = torch.zeros(count, 3, *size, dtype=torch.uint8)
    return Clip(images, torch.tensor(times) if times else torch.full((count,), torch.nan), source=source)
