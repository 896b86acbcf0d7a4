"""`recon4d export-model`: a network as a file for other runtimes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from recon4d.cli.arguments import find_model
from recon4d.errors import UserError


@dataclass(frozen=True)
class ExportModelCommand:
    """Write a network as a program of torch.export or as an ONNX file, and compare what it computes with PyTorch.

    The file takes images (batch, frames, 3, height, width) in [0, 1], and for networks with matching times (batch,
    frames) in seconds. It returns depth, points, confidences, cameras, the dynamic probability and the tracks of the
    first frame, as far as the network predicts them.
    """

    model: tyro.conf.Positional[str]
    """Name of a model (`recon4d models`) or a file of its weights."""
    to: Literal["torch-export", "onnx"]
    """Format of the file. ONNX needs the packages of the extra `onnx`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["--out"])]
    """File to write: *.pt2 for torch-export, *.onnx for ONNX. ONNX files above 2 GB have their weights beside them."""
    frames: int = 8
    """Number of frames of a clip, fixed in the file."""
    size: str | None = None
    """Height and width of the images, as HEIGHTxWIDTH: multiples of the patch side (16 for recon4d_mini, 14 for VGGT
    and Depth Anything 3), fixed in the file. Without it, a square of the size at which the network was trained."""
    no_tracks: bool = False
    """Leave out the tracks of the first frame, which are most of the work of some networks."""
    fixed_batch: bool = False
    """Fix the number of clips to 1 instead of leaving it open."""
    no_check: bool = False
    """Do not run the file to compare it with PyTorch (differences above 1e-4, relative to values above 1, are an error
    otherwise)."""

    interrupted: ClassVar[str] = "interrupted, nothing was written"

    def run(self) -> None:
        """Write the file and print its inputs and outputs.

        Raises:
            UserError: If the model, the size or the output file is unsuitable, a package is missing, the network cannot
                be converted, or the file computes something else than PyTorch.
        """
        from recon4d.zoo.runtimes.export_model import ModelExport, export_model

        size = None if self.size is None else _parse_size(self.size)
        model = find_model(self.model)
        if size is None:
            side = round(model.config.processing_size / model.patch_size) * model.patch_size
            size = (side, side)
        export = ModelExport(self.to, self.frames, size, not self.no_tracks, not self.fixed_batch, not self.no_check)
        written = export_model(model, self.output, export)
        batch = "any number of clips" if written.batch_reason is None else f"one clip: {written.batch_reason}"
        print(f"{written.file}: {self.frames} frames of {size[1]} x {size[0]} pixels, {batch}")
        print(f"inputs: {', '.join(written.inputs)}")
        for name, shape in written.outputs.items():
            difference = "" if written.differences is None else f"  differs by {written.differences[name]:.1e}"
            print(f"  {name.ljust(18)} (batch, {', '.join(map(str, shape))}){difference}")


def _parse_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise UserError(f"the size is {text!r}; wanted HEIGHTxWIDTH in pixels, such as 128x160")
    return int(found[1]), int(found[2])
