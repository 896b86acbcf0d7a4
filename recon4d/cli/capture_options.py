"""Options of `recon4d reconstruct` that tell how pictures were taken: panoramas, rigs and the length of the unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.io.panoramas import PanoramaConfig

DEFAULT_VIEWS = 8
"""Number of views of --panorama without a number (`recon4d.io.panoramas.DEFAULT_VIEWS`)."""


@dataclass(frozen=True)
class CaptureOptions:
    """How the pictures were taken."""

    panorama: int | None = None
    """Split 360 degree panoramas (equirectangular) into so many perspective views around, 8 without a number, whose
    relative poses and intrinsics are exact. 0 takes tagged panoramas for ordinary pictures. --num-frames counts
    panoramas."""
    panorama_fov: float = 90.0
    """Field of view of each view of --panorama in degrees."""
    panorama_poles: bool = False
    """Add a view straight up and one straight down to those of --panorama."""

    rig: bool = False
    """The sub-folders of the clip are cameras that are fixed to each other: pictures of equal names, times or numbers
    were taken at once, and each camera has one set of intrinsics. --num-frames counts the pictures of all cameras."""

    gps: bool = False
    """Set the length of the unit in meters by the GPS positions in the EXIF metadata of pictures."""
    baseline: tuple[str, str, float] | None = None
    """Set the length of the unit in meters by a known distance: two pictures (their names or frame numbers) or two
    cameras of the --rig (their folders), and the distance between them in meters."""

    @property
    def panorama_config(self) -> "PanoramaConfig | None":
        """The views that panoramas are split into; None if they are not.

        Raises:
            UserError: If an option is out of range.
        """
        if not self.panorama:
            return None
        from recon4d.io.panoramas import PanoramaConfig

        return PanoramaConfig(self.panorama, self.panorama_fov, self.panorama_poles)

    def check(self) -> None:
        """Check that the options do not exclude each other.

        Raises:
            UserError: If they do, or if a value is out of range.
        """
        if self.panorama is not None and self.panorama < 0:
            raise UserError(f"--panorama is {self.panorama}; wanted a number of views, or 0")
        if not self.panorama and (self.panorama_fov != 90 or self.panorama_poles):
            raise UserError("--panorama-fov and --panorama-poles need --panorama")
        if self.gps and self.baseline is not None:
            raise UserError("--gps and --baseline both give the unit; give only one of the two")
        if self.baseline is not None and not (math.isfinite(self.baseline[2]) and self.baseline[2] > 0):
            raise UserError(f"--baseline is {self.baseline[2]:g} m long; wanted a finite number above 0")
        if self.panorama and self.rig:
            raise UserError("--panorama and --rig exclude each other; split the panoramas of a rig first")
        _ = self.panorama_config  # raises


ORDINARY_CAPTURE = CaptureOptions()
"""Pictures of one moving camera."""


def spell_out_panorama(arguments: Sequence[str]) -> list[str]:
    """Complete the option --panorama without a number.

    Args:
        arguments: The words after `recon4d`.

    Returns:
        The words with ``--panorama 8`` in place of ``--panorama`` if no number follows.
    """
    words = list(arguments)
    complete: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        complete.append(word)
        if word == "--panorama" and not following.lstrip("-").isdecimal():
            complete.append(str(DEFAULT_VIEWS))
    return complete
