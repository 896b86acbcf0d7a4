"""Smaller copies of exported frames (``images_2/``, ``images_4/``, ``images_8/``), which radiance field trainers use.

gsplat, nerfstudio and the code of 3D Gaussian Splatting expect them beside ``images/``, under the same file names, and
scale the cameras themselves.
"""

from pathlib import Path

import torch

from recon4d.errors import os_errors_as_user_errors
from recon4d.io.photos import read_photo, write_jpeg
from recon4d.records import Clip

FACTORS = (2, 4, 8)
"""Factors by which the copies are smaller."""
MIN_SIDE = 64
"""Smallest side of a copy in pixels. Hand-tuned: smaller pictures train nothing."""


def write_reduced_images(folder: Path) -> list[str]:
    """Write the smaller copies of the frames of an export.

    Args:
        folder: The folder that holds ``images/``.

    Returns:
        Names of the folders written. Factors for which a picture would be too small are left out.

    Raises:
        UserError: If a picture cannot be read or written.
    """
    written = []
    for path in sorted((folder / "images").iterdir()):
        image = read_photo(path)
        height, width = image.shape[-2:]
        for factor in FACTORS:
            if min(height, width) // factor < MIN_SIDE:
                break
            smaller = Clip(image[None], torch.zeros(1)).resized(height // factor, width // factor).images[0]
            target = folder / f"images_{factor}"
            if target.name not in written:
                with os_errors_as_user_errors(f"cannot write {target}"):
                    target.mkdir()
                written.append(target.name)
            write_jpeg(target / path.name, smaller)
    return written
