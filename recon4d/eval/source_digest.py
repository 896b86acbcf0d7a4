"""Digest of the package's source code, which tells predictions of different code apart."""

import functools
import hashlib
from pathlib import Path

import recon4d

UNRELATED = ("cli", "viewer", "train", "eval/report")
"""Folders of the package whose code cannot change a prediction."""


@functools.cache
def source_digest() -> str:
    """Compute a digest of the code that can change a prediction, once per process.

    Returns:
        Hexadecimal SHA-256 over the names and contents of the package's Python files, except those in `UNRELATED`.
    """
    return digest_folder(Path(recon4d.__path__[0]))


def digest_folder(package: Path) -> str:
    """Compute the digest of the Python files of a folder.

    Args:
        package: Folder of a package. Its subfolders named in `UNRELATED` are skipped.

    Returns:
        Hexadecimal SHA-256 over relative paths and contents, in the order of the paths.
    """
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(tuple(f"{folder}/" for folder in UNRELATED)):
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
