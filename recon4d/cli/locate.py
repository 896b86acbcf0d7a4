"""`recon4d locate`: where new pictures were taken in a finished scene."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import tyro

from recon4d.errors import UserError

if TYPE_CHECKING:
    from recon4d.records import LocatedCameras


@dataclass(frozen=True)
class LocateCommand:
    """Estimate where pictures were taken in a reconstructed scene, and how far to trust the result.

    A picture of the same size as those of the scene is assumed to come from the same camera, unless another focal
    length explains it significantly better.
    """

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures, or folders of pictures."""
    scene: Path
    """A folder that `recon4d reconstruct` wrote, of a clip or of a long clip, with its frames/."""
    out: Path | None = None
    """Output folder for located.json, transforms.json and cameras.npz; without it, the result is only printed."""
    intrinsics: str | None = None
    """Known intrinsics of all pictures: fx,fy,cx,cy in pixels (the center of the first pixel is at .5), or a file."""
    overwrite: bool = False
    """Replace an earlier result in the output folder."""

    interrupted: ClassVar[str] = "interrupted, nothing was written"

    def run(self) -> None:
        """Locate the pictures and print a line for each.

        Raises:
            UserError: If the scene or a picture cannot be read, or if a picture cannot be located.
        """
        from recon4d.inference import locate
        from recon4d.io.located_files import check_located_folder, write_located

        if not self.pictures:
            raise UserError("give at least one picture")
        if self.out is not None:
            check_located_folder(self.out, self.overwrite)
        located = locate(self.scene, list(self.pictures), self.intrinsics)
        for line in describe_located(located):
            print(line)
        if self.out is not None and located.is_located.any():
            write_located(self.out, located, self.overwrite)
            print(f"{self.out}: located.json, transforms.json and cameras.npz")
        missing = int((~located.is_located).sum())
        if missing and len(located.names) == 1:
            raise UserError(f"{located.names[0]} cannot be located: {located.reasons[0]}")
        if missing:
            raise UserError(f"{missing} of {len(located.names)} pictures cannot be located")


def describe_located(located: "LocatedCameras") -> list[str]:
    """Describe the cameras of pictures.

    Args:
        located: The cameras.

    Returns:
        A table: a line for each picture with its position, its focal length and how far to trust it.
    """
    width = max(len("picture"), *(len(name) for name in located.names))
    lines = [f"{'picture':{width}}  {'position':>24}  {'focal':>7}  trust"]
    for number, (name, trust, reason) in enumerate(zip(located.names, located.trust, located.reasons, strict=True)):
        if trust is None:
            lines.append(f"{name:{width}}  {'-':>24}  {'-':>7}  not located: {reason}")
            continue
        x, y, z = located.cameras.centers[number].tolist()
        focal = float(located.cameras.intrinsics[number, 0, 0])
        lines.append(f"{name:{width}}  {x:8.3f}{y:8.3f}{z:8.3f}  {focal:7.1f}  {trust}")
    return lines
