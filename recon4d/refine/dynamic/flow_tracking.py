"""Following the dynamic pixels of a frame through the others: optical flow from frame to frame.

Flow finds small motions only. Where the mask of what moves contains matching local features in both frames, their
displacement is another start, with which fast motions are found too.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_grid
from recon4d.records import Clip, Scene
from recon4d.refine.dynamic.optical_flow import MIN_CORRELATION, Pictures, returns_to_start, sample_map
from recon4d.refine.dynamic.residual_flow import static_flow
from recon4d.refine.grayscale import grayscale_images, working_size
from recon4d.refine.localization.features import Features, detect_features, match_features

SIDE = 256
"""Side in pixels of the square with the largest area at which pixels are followed. Hand-tuned."""
NUM_NEIGHBORS = 5
"""Number of nearest matches that a match of features is compared with."""
MIN_AGREEING = 3
"""Smallest number of them with a similar displacement."""
SIMILAR_FRACTION, SIMILAR_PIXELS = 0.25, 4.0
"""Largest difference of similar displacements, relative to the displacement and in addition in pixels. Hand-tuned."""


@dataclass(frozen=True)
class FlowTracks:
    """Where the dynamic pixels of an anchor frame are seen in all frames."""

    positions: Float[Tensor, "time height width 2"]
    """Pixel coordinates (x, y) at the working size."""
    is_followed: Bool[Tensor, "time height width"]
    """Whether the position is known; in the anchor frame, where the mask of what moves is set."""


class FlowTracker:
    """Follows the dynamic pixels of any frame of a clip.

    Args:
        clip: A single clip.
        scene: Its scene with refined cameras and the mask of what moves.
    """

    def __init__(self, clip: Clip, scene: Scene) -> None:
        self.size = working_size(scene.size, SIDE)
        """Height and width of the maps of `FlowTracks`."""
        self.scene = scene.resized(*self.size).to("cpu")
        """The scene at this size."""
        self.is_dynamic = self.scene.is_dynamic
        """Pixels that move, at this size."""
        self._pictures = Pictures.create(grayscale_images(clip, self.size))
        self._points = self.scene.points_from_depth
        self._grid = pixel_grid(*self.size)
        self._clip = clip
        self._features: dict[int, Features] = {}
        self._steps: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def follow(self, anchor: int) -> FlowTracks:
        """Follow the dynamic pixels of a frame, forward and backward in time.

        Args:
            anchor: Index of the frame.

        Returns:
            Their positions. A pixel that is lost in one frame is not found again in later ones.
        """
        num_frames = self.scene.num_frames
        positions = self._grid.expand(num_frames, *self._grid.shape).clone()
        is_followed = torch.zeros(num_frames, *self.size, dtype=torch.bool)
        is_followed[anchor] = self.is_dynamic[anchor]
        for direction, end in ((1, num_frames), (-1, -1)):
            for frame in range(anchor + direction, end, direction):
                previous = frame - direction
                if not is_followed[previous].any():
                    break
                flow, is_reliable = self._step(previous, frame)
                at = positions[previous]
                positions[frame] = at + sample_map(flow, at)
                is_followed[frame] = is_followed[previous] & (
                    sample_map(is_reliable[..., None].float(), at)[..., 0] > 0.5
                )
        return FlowTracks(positions, is_followed)

    def _step(self, frame: int, neighbor: int) -> tuple[Float[Tensor, "height width 2"], Bool[Tensor, "height width"]]:
        """Compute the flow between consecutive frames by the better of two starts, and where it is reliable."""
        if (frame, neighbor) not in self._steps:
            static = self._checked_flow(frame, neighbor, self._static(frame, neighbor), self._static(neighbor, frame))
            flow, correlation = static
            starts = self._feature_starts(frame, neighbor)
            if starts is not None:
                moving, moving_correlation = self._checked_flow(frame, neighbor, *starts)
                is_better = moving_correlation > correlation
                flow = torch.where(is_better[..., None], moving, flow)
                correlation = torch.maximum(correlation, moving_correlation)
            self._steps[frame, neighbor] = flow, correlation >= MIN_CORRELATION
        return self._steps[frame, neighbor]

    def _checked_flow(
        self, frame: int, neighbor: int, start: Tensor, start_back: Tensor
    ) -> tuple[Float[Tensor, "height width 2"], Float[Tensor, "height width"]]:
        """Compute flow and the correlation of its matches: -1 where it does not lead back or leaves what moves."""
        there = self._pictures.flow(frame, neighbor, start, is_fine=True)
        back = self._pictures.flow(neighbor, frame, start_back, is_fine=True)
        targets = self._grid + there
        correlation = self._pictures.correlation(frame, neighbor, targets)
        dynamic = self.is_dynamic[neighbor][..., None].float()
        is_dynamic = sample_map(dynamic, targets)[..., 0] > 0.5
        return there, torch.where(returns_to_start(targets, there, back) & is_dynamic, correlation, -1.0)

    def _static(self, frame: int, neighbor: int) -> Float[Tensor, "height width 2"]:
        return static_flow(self.scene.cameras.frames([neighbor]), self._points[frame])

    def _feature_starts(self, frame: int, neighbor: int) -> tuple[Tensor, Tensor] | None:
        """Return the flow of matching features on what moves, there and back; None if too few match."""
        one, other = self._dynamic_features(frame), self._dynamic_features(neighbor)
        matches = match_features(one, other)
        sources, targets = one.pixels[matches[:, 0]], other.pixels[matches[:, 1]]
        kept = is_agreeing(sources, targets - sources)
        if not kept.any():
            return None
        sources, targets = sources[kept], targets[kept]
        return (
            self._interpolated(frame, neighbor, sources, targets - sources),
            self._interpolated(neighbor, frame, targets, sources - targets),
        )

    def _interpolated(
        self, frame: int, neighbor: int, sources: Float[Tensor, "match 2"], moves: Float[Tensor, "match 2"]
    ) -> Float[Tensor, "height width 2"]:
        """Give every dynamic pixel the displacement of the nearest match, and the others the static flow."""
        nearest = torch.cdist(self._grid.flatten(0, 1), sources).argmin(dim=1)
        return torch.where(
            self.is_dynamic[frame][..., None], moves[nearest].view(*self.size, 2), self._static(frame, neighbor)
        )

    def _dynamic_features(self, frame: int) -> Features:
        """Detect the features of a frame on what moves, in pixels of the working size."""
        if frame not in self._features:
            found = detect_features(self._clip.images[frame].cpu())
            factor = torch.tensor(self.size[::-1]) / torch.tensor(self._clip.size[::-1])
            found = Features(found.pixels * factor, found.descriptors)
            column, row = found.pixels.long().unbind(dim=-1)
            height, width = self.size
            is_dynamic = self.is_dynamic[frame][row.clamp(0, height - 1), column.clamp(0, width - 1)]
            self._features[frame] = found.take(is_dynamic)
        return self._features[frame]


def is_agreeing(sources: Float[Tensor, "match 2"], moves: Float[Tensor, "match 2"]) -> Bool[Tensor, " match"]:
    """Select the matches whose displacement several of the nearest matches share.

    Args:
        sources: Pixel coordinates (x, y) of the features of one frame.
        moves: Displacement of each to its match, in pixels.

    Returns:
        Whether at least `MIN_AGREEING` of the `NUM_NEIGHBORS` nearest matches move alike.
    """
    nearest = torch.cdist(sources, sources).argsort(dim=1)[:, 1 : NUM_NEIGHBORS + 1]
    difference = (moves[nearest] - moves[:, None]).norm(dim=-1)
    limit = SIMILAR_PIXELS + SIMILAR_FRACTION * moves.norm(dim=-1)
    return (difference < limit[:, None]).sum(dim=1) >= MIN_AGREEING
