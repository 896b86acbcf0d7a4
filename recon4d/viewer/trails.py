"""The tracks that are shown: where each point is at a time, and the tail of where it came from."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.records import Scene
from recon4d.viewer.selection import chosen_queries, is_track_known

UNSEEN = 0.35
"""Brightness of points that are hidden from the camera; 1 is that of visible ones."""


@dataclass(frozen=True)
class Trails:
    """Tracks from one anchor, each in its own color; `anchor` counts the anchors of the scene."""

    anchor: int
    positions: Float[Tensor, "time query 3"]
    is_known: Bool[Tensor, "time query"]
    is_visible: Bool[Tensor, "time query"]
    colors: UInt8[Tensor, "query 3"]

    def heads(self, frame: int) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
        """Where the points are at `frame`, and their colors, dark where they are hidden."""
        known = self.is_known[frame]
        brightness = torch.where(self.is_visible[frame], 1.0, UNSEEN)[:, None]
        return self.positions[frame, known], (self.colors * brightness).to(torch.uint8)[known]

    def tails(self, frame: int, length: int) -> tuple[Float[Tensor, "n steps 3"], UInt8[Tensor, "n 3"]]:
        """The lines from up to `length` frames before `frame` to it, and their colors; none at the first frame."""
        window = slice(max(0, frame - length), frame + 1)
        # A tail with a gap would be a straight line through whatever lies between.
        whole = self.is_known[window].all(dim=0)
        if frame == 0 or length == 0:
            whole = torch.zeros_like(whole)
        return self.positions[window, whole].transpose(0, 1), self.colors[whole]


def choose_trails(scene: Scene, max_tracks: int) -> Iterator[Trails]:
    """The tracks to show, at most `max_tracks` in equal parts from each anchor; see `chosen_queries`."""
    tracks = scene.tracks
    if tracks is None:
        return
    known = is_track_known(tracks)
    num_anchors = len(tracks.anchors)
    for anchor in range(num_anchors):
        chosen = chosen_queries(scene, tracks, anchor, max_tracks // num_anchors)
        if len(chosen):
            yield Trails(
                anchor,
                tracks.points[anchor][:, chosen].float(),
                known[anchor][:, chosen],
                tracks.visibility[anchor][:, chosen] >= 0.5,
                rainbow(len(chosen)),
            )


def rainbow(count: int) -> UInt8[Tensor, "count 3"]:
    """As many colors, neighbors alike, from red by green to blue."""
    hue = 0.75 * torch.arange(count)[:, None] / max(count, 1)
    waves = torch.cos(2 * torch.pi * (hue - torch.tensor([0.0, 1 / 3, 2 / 3])))
    return (255 * (0.55 + 0.45 * waves)).to(torch.uint8)
