"""Displayed tracks: the current position of each point and a tail of earlier positions."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.records import Scene
from recon4d.viewer.selection import is_track_known, select_queries

HIDDEN_BRIGHTNESS = 0.35
"""Brightness of occluded points relative to visible ones. Hand-tuned."""

FADING = (1.0, 0.6, 0.3)
"""Brightness of the parts of a tail, newest first; the parts have about equal numbers of frames. Hand-tuned."""


@dataclass(frozen=True)
class Trails:
    """Tracks of one anchor, each with its own color."""

    anchor: int
    """Index of the anchor in the scene."""
    positions: Float[Tensor, "time query 3"]
    """World positions."""
    is_known: Bool[Tensor, "time query"]
    """Whether the position is known."""
    visibility: Bool[Tensor, "time query"]
    """Whether the point is visible in the frame."""
    colors: UInt8[Tensor, "query 3"]
    """RGB of each track."""

    def heads(self, frame: int) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
        """Return the current points.

        Args:
            frame: Index of the frame.

        Returns:
            Positions and colors of the points with known positions; occluded points are dark.
        """
        known = self.is_known[frame]
        brightness = torch.where(self.visibility[frame], 1.0, HIDDEN_BRIGHTNESS)[:, None]
        return self.positions[frame, known], (self.colors * brightness).to(torch.uint8)[known]

    def tails(self, frame: int, length: int) -> list[tuple[Float[Tensor, "n steps 3"], UInt8[Tensor, "n 3"]]]:
        """Return the tails of the points, in parts that fade with age.

        Args:
            frame: Index of the frame.
            length: Number of earlier frames in a tail.

        Returns:
            Lines through the last positions, and their colors: one pair for each part, newest first. Tails with an
            unknown position are omitted.
        """
        start = max(0, frame - length)
        # A tail with a gap would draw a straight line across it.
        complete = self.is_known[start : frame + 1].all(dim=0)
        num_parts = min(len(FADING), frame - start)
        ends = (
            [start + round((frame - start) * part / num_parts) for part in range(num_parts, -1, -1)]
            if num_parts
            else []
        )
        return [
            (
                self.positions[first : last + 1, complete].transpose(0, 1),
                (self.colors[complete] * brightness).to(torch.uint8),
            )
            for last, first, brightness in zip(ends, ends[1:], FADING, strict=False)
        ]


def select_trails(scene: Scene, max_tracks: int, movers_only: bool) -> Iterator[Trails]:
    """Select the displayed tracks of a scene; see `select_queries`.

    Args:
        scene: The scene.
        max_tracks: Largest number of tracks, in equal parts from all anchors.
        movers_only: Whether only tracks that start on dynamic pixels are selected.

    Yields:
        The tracks of each anchor.
    """
    tracks = scene.tracks
    if tracks is None:
        return
    known = is_track_known(tracks)
    num_anchors = len(tracks.anchors)
    for anchor in range(num_anchors):
        chosen = select_queries(scene, tracks, anchor, max_tracks // num_anchors, movers_only)
        if len(chosen):
            yield Trails(
                anchor,
                tracks.points[anchor][:, chosen].float(),
                known[anchor][:, chosen],
                tracks.visibility[anchor][:, chosen] >= 0.5,
                rainbow(len(chosen)),
            )


def rainbow(count: int) -> UInt8[Tensor, "count 3"]:
    """Return distinct colors from red over green to blue.

    Args:
        count: Number of colors.

    Returns:
        RGB values; neighboring colors are similar.
    """
    hue = 0.75 * torch.arange(count)[:, None] / max(count, 1)
    waves = torch.cos(2 * torch.pi * (hue - torch.tensor([0.0, 1 / 3, 2 / 3])))
    return (255 * (0.55 + 0.45 * waves)).to(torch.uint8)
