"""Files that are whole or not there: written beside their place, and moved into it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to; it takes the place of `path` when the block ends.

    Where the block raises it is deleted, and what was at `path` stays.
    """
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
