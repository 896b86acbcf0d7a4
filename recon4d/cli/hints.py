"""Options of the command line that resolve an error reported by the library.

The library is also used from Python, so its messages name arguments and remedies but no options. This table adds the
options of the command at hand.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, get_args

HINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"out of memory",
        (
            "lower --num-frames",
            "lower --processing-size",
            "give fewer --anchors",
            "use windows: --window 16",
            "use --checkpointing",
        ),
    ),
    (
        r"a single pass supports",
        ("use windows: --window 16", "lower --num-frames", "lower --fps", "shorten the clip with --start and --stop"),
    ),
    (
        r"use a processing size of at least (\d+)",
        (r"give --processing-size \1", "or --anchors without a frame"),
    ),
    (r"split_panoramas", ("give --panorama, or --panorama 0 to take it for an ordinary picture",)),
    (r"keep_cuts uses all", ("give --keep-cuts, or --start and --stop",)),
    (r"lens distortion needs the intrinsics", ("give --intrinsics",)),
    (r"\(intrinsics_size\)", ("give --intrinsics-size",)),
    (r"cameras_by", ("give --cameras-by name, time, number, number-from-1 or order",)),
    (r"cameras_offset", ("give --cameras-offset SECONDS",)),
    (r"the pictures have no times", ("give --fps",)),
    (r"cannot be aligned to", ("raise --static-below", "or start again with a larger --overlap")),
    (r"lens='each'", ("give --lens each",)),
    (r"output folder .* is not empty; .* overwrite", ("give another --out", "or --overwrite")),
    (r"choose a new folder, or resume the run", ("give another --out", "or --resume")),
    (r"download (\S+) by hand", (r"give it with --model path/to/\1",)),
    (r"port \d+ cannot be used", ("give another --port",)),
    (r"use heads = 'auto'", ("give --config.heads auto",)),
    (r"or use 'sdpa'|; use 'sdpa'", ("give --attention sdpa",)),
    (r"try it without tracks", ("give --no-tracks", "or --to torch-export")),
    (r"check=False skips", ("give --no-check",)),
    (r"window does not open", ("try --web",)),
)
"""Pattern of a message -> remedies, in which \\1 is the first group. A command shows remedies whose options it has."""


def add_hint(message: str, command: type) -> str:
    """Append the options of a command that resolve an error or a warning.

    Args:
        message: The message of the library.
        command: The class of the command that is running.

    Returns:
        The message, followed by options in parentheses if the table has any for it and the command has them.
    """
    known = set(_options_of(command))
    remedies = [
        found.expand(remedy)
        for pattern, remedies in HINTS
        if (found := re.search(pattern, message))
        for remedy in remedies
        if known.issuperset(re.findall(r"--[a-z-]+", remedy))
    ]
    return f"{message} ({', '.join(remedies)})" if remedies else message


def _options_of(command: Any) -> Iterator[str]:
    """Yield the option of every field of a command and of the configurations in it."""
    for field in dataclasses.fields(command):
        yield f"--{field.name.replace('_', '-')}"
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                yield from _options_of(kind)
