"""Atomic exchange of two paths."""

import ctypes
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Constants of ``renameat2(2)``, from Linux's ``fcntl.h``."""


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or folders in one step, so that both paths exist at every moment.

    Args:
        first: An existing file or folder.
        second: An existing file or folder in the same file system.

    Returns:
        Whether they were exchanged. False means that nothing changed: the operating system or the file system cannot
        exchange paths, or one of the two cannot be renamed.
    """
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:  # a C library without this function
        return False
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
