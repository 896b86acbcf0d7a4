"""Frames as pictures of their own size: pictures of different sizes without the padding of their common frame."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from recon4d.geometry import resized_intrinsics
from recon4d.io.exporters.frame_source import FrameSource
from recon4d.io.fitting import Placement


@dataclass(frozen=True, eq=False)
class OwnPicture:
    """One frame as a picture of its own size."""

    size: tuple[int, int]
    """Height and width of the picture in pixels."""
    intrinsics: Float64[Tensor, "3 3"]
    """Intrinsics in pixels of the picture, of shape (3, 3)."""
    map_intrinsics: Float64[Tensor, "3 3"]
    """Intrinsics in pixels of the picture's own maps, of shape (3, 3)."""
    rows: Int64[Tensor, " rows"]
    """Row of the maps that each row of the picture's own maps shows."""
    columns: Int64[Tensor, " columns"]
    """Column of the maps that each column of the picture's own maps shows."""
    original_from_maps: Float64[Tensor, "3 3"]
    """Map from homogeneous pixels of the maps to those of the picture."""

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the part of the maps that the picture covers."""
        return len(self.rows), len(self.columns)

    def crop(self, values: Tensor) -> Tensor:
        """Cut the picture's part out of a map.

        Args:
            values: Map of shape (height, width) with any further axes.

        Returns:
            The part of the map.
        """
        return values[self.rows][:, self.columns]

    def to_original(self, pixels: Float64[Tensor, "n 2"]) -> Float64[Tensor, "n 2"]:
        """Convert pixels of the maps to pixels of the picture.

        Args:
            pixels: Pixels (x, y) of the maps, of shape (n, 2).

        Returns:
            Pixels of the picture.
        """
        return pixels @ self.original_from_maps[:2, :2].T + self.original_from_maps[:2, 2]


def own_picture(source: FrameSource, number: int) -> OwnPicture:
    """Describe one frame as a picture of its own size.

    Args:
        source: The frames.
        number: The frame number.

    Returns:
        The picture. If all pictures have one size, it is the whole frame.
    """
    frame_size, (map_height, map_width) = source.original_size, source.size
    info = source.outline.info
    sizes = () if info.source is None else info.source.sizes
    own = sizes[number] if sizes else frame_size
    placement = Placement(own, frame_size)
    intrinsics = source.original_cameras.intrinsics[number].double()
    scale = torch.diag(torch.tensor([frame_size[1] / map_width, frame_size[0] / map_height, 1], dtype=torch.float64))
    if not sizes:
        of_maps = source.cameras.intrinsics[number].double()
        return OwnPicture(own, intrinsics, of_maps, torch.arange(map_height), torch.arange(map_width), scale)
    (top, left), (height, width) = placement.corner, placement.scaled
    rows = _indices(top, height, frame_size[0], map_height)
    columns = _indices(left, width, frame_size[1], map_width)
    original_from_maps = placement.to_own(torch.eye(3, dtype=torch.float64)) @ scale
    own_intrinsics = placement.to_own(intrinsics)
    of_maps = resized_intrinsics(own_intrinsics, own, (len(rows), len(columns)))
    return OwnPicture(own, own_intrinsics, of_maps, rows, columns, original_from_maps)


def _indices(start: int, length: int, frame_side: int, map_side: int) -> Int64[Tensor, " n"]:
    """Indices of a map of `map_side` under the centers of a picture's own map, along one axis."""
    count = max(1, round(length * map_side / frame_side))
    centers = start + (torch.arange(count, dtype=torch.float64) + 0.5) * length / count
    return (centers * map_side / frame_side).long().clamp(0, map_side - 1)
