"""Selection of pixels from a reconstruction frame by frame, in memory that does not grow with the number of frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from recon4d.geometry import stratified_indices
from recon4d.io.exporters.frame_source import FrameSource
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.point_cloud import NoConfidentPointsError, confident_pixels, known_pixels, unproject_pixels
from recon4d.records import Scene


class PixelSample:
    """Values of the selected pixels of a clip: all of them, or a deterministic sample of bounded size.

    Args:
        num_frames: Number of frames of the clip.
        max_samples: Largest number of values to keep. If the clip has more pixels, only the same evenly distributed
            pixels of each frame are kept, so that all selected pixels of the clip count equally. A frame with selected
            pixels contributes at least one value. None keeps all values.
    """

    def __init__(self, num_frames: int, max_samples: int | None) -> None:
        self.count = 0
        """Number of selected pixels, including those that are not in the sample."""
        self.maximum = -torch.inf
        """Largest value of the selected pixels, including those that are not in the sample."""
        self._limit = None if max_samples is None else max(1, max_samples // num_frames)
        self._values: list[Tensor] = []

    def add(self, values: Float[Tensor, "1 height width"], mask: Bool[Tensor, "1 height width"]) -> None:
        """Add the pixels of one frame.

        Args:
            values: Value of each pixel, of shape (1, height, width).
            mask: Selected pixels, of shape (1, height, width).
        """
        selected = values[mask]
        if not len(selected):
            return
        self.count += len(selected)
        self.maximum = max(self.maximum, float(selected.max()))
        if self._limit is not None and values.numel() > self._limit:
            sampled = stratified_indices(values.numel(), self._limit)
            kept = values.flatten()[sampled][mask.flatten()[sampled]]
            selected = kept if len(kept) else selected[:1].clone()
        self._values.append(selected)

    @property
    def values(self) -> Float[Tensor, " n"]:
        """Values in the sample, of shape (n,), frame by frame."""
        return torch.cat(self._values) if self._values else torch.zeros(0)

    @property
    def median(self) -> float:
        """Median of the sample (the lower one of an even number). At least one pixel must be selected."""
        return float(self.values.median())


@dataclass(frozen=True, eq=False)
class StaticPixels:
    """The static, confident pixels of a clip, counted."""

    counts: tuple[int, ...]
    """Number of static pixels of each frame."""
    depths: PixelSample
    """Depths of the static pixels, in scene units."""


@dataclass(frozen=True, eq=False)
class StaticPoints:
    """Points unprojected from static pixels, with the pixels that they come from."""

    points: Float[Tensor, "n 3"]
    """World points of shape (n, 3), in scene units."""
    colors: UInt8[Tensor, "n 3"]
    """RGB colors of shape (n, 3)."""
    frames: Int64[Tensor, " n"]
    """Frame of each point, of shape (n,), ascending."""
    pixels: Int64[Tensor, " n"]
    """Pixel of each point in its frame's map, of shape (n,), counted row by row."""


class SelectedFrames:
    """Frames of a reconstruction, with the pixels that become points.

    Percentiles, counts and medians are computed at the first use, in one pass over the frames each, and kept.

    Args:
        source: The frames.
        selection: Criteria for pixels and the number of points.
    """

    def __init__(self, source: FrameSource, selection: PointSelection) -> None:
        self.source = source
        self.selection = selection
        self._kept: dict[int, Tensor] = {}

    def numbered(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Scene]]:
        """Iterate over frames.

        Args:
            numbers: Frame numbers, from 0, in the order wanted. None iterates over all frames.

        Returns:
            An iterator over pairs of the frame number and the scene of this frame alone.
        """
        numbers = range(self.source.num_frames) if numbers is None else numbers
        return zip(numbers, self.source.iter_frames(numbers), strict=True)

    def confident_mask(self, frame: Scene) -> Bool[Tensor, "1 height width"]:
        """Select confident pixels, static or dynamic.

        Args:
            frame: Scene of one frame of the source.

        Returns:
            Mask of shape (1, height, width).
        """
        threshold, _ = self._confidence
        return confident_pixels(frame, 0.0, max(threshold, self.selection.min_confidence))

    def static_mask(self, frame: Scene) -> Bool[Tensor, "1 height width"]:
        """Select confident static pixels.

        Args:
            frame: Scene of one frame of the source.

        Returns:
            Mask of shape (1, height, width).
        """
        return self.confident_mask(frame) & ~frame.is_dynamic

    def require_confident(self, count: int) -> None:
        """Check that there are confident pixels.

        Args:
            count: Number of confident pixels of the clip.

        Raises:
            NoConfidentPointsError: If it is 0.
        """
        if not count:
            raise NoConfidentPointsError(
                "no pixel has a known depth with enough confidence, away from depth edges (the largest confidence is "
                f"{self._confidence[1]:.3g}, the minimum was set to {self.selection.min_confidence:g})"
            )

    @cached_property
    def static(self) -> StaticPixels:
        """The static, confident pixels of all frames.

        Raises:
            NoConfidentPointsError: If there are none.
        """
        counts, num_confident = [], 0
        depths = PixelSample(self.source.num_frames, self.source.max_samples)
        for _, frame in self.numbered():
            confident = self.confident_mask(frame)
            static = confident & ~frame.is_dynamic
            depths.add(frame.depths, static)
            num_confident += int(confident.sum())
            counts.append(int(static.sum()))
        self.require_confident(num_confident)
        if not depths.count:
            raise NoConfidentPointsError("every confident pixel is dynamic: there is no static part")
        return StaticPixels(tuple(counts), depths)

    @cached_property
    def depths(self) -> PixelSample:
        """Depths of all pixels in depth maps (see `depth_map`), in scene units.

        Raises:
            NoConfidentPointsError: If there are none.
        """
        depths = PixelSample(self.source.num_frames, self.source.max_samples)
        for _, frame in self.numbered():
            values = self.depth_map(frame)
            depths.add(values, values > 0)
        if not depths.count:
            raise NoConfidentPointsError("no pixel has a known depth with enough confidence: no depth maps")
        return depths

    def depth_map(self, frame: Scene) -> Float[Tensor, "1 height width"]:
        """Set depths to 0 where they are unknown or less confident than ``selection.min_confidence``.

        Args:
            frame: Scene of one frame of the source.

        Returns:
            Depths of shape (1, height, width), in scene units.
        """
        is_known = (frame.depth_confidence > 0) & torch.isfinite(frame.depths) & (frame.depths > 0)
        is_known &= frame.depth_confidence >= self.selection.min_confidence
        return torch.where(is_known, frame.depths, torch.zeros_like(frame.depths))

    def unproject_static(self, number: int, frame: Scene, max_points: int) -> StaticPoints:
        """Unproject the static pixels of one frame that belong to an even sample of all static pixels of the clip.

        Args:
            number: The frame number.
            frame: Scene of this frame alone.
            max_points: Largest number of points of the whole clip.

        Returns:
            The points of this frame.

        Raises:
            NoConfidentPointsError: If the clip has no static pixels.
            UserError: If the picture of the frame is missing or damaged.
        """
        pixels = self.static_mask(frame).flatten().nonzero()[:, 0][self._sampled_positions(number, max_points)]
        mask = torch.zeros(frame.depths.numel(), dtype=torch.bool)
        mask[pixels] = True
        points, colors = unproject_pixels(frame, self.source.read_image(number)[None], mask.reshape(frame.depths.shape))
        return StaticPoints(points, colors, torch.full_like(pixels, number), pixels)

    def static_points(self, max_points: int) -> StaticPoints:
        """Unproject an even sample of the static pixels of the clip.

        Args:
            max_points: Largest number of points; the sample is the one of `subsample_mask`.

        Returns:
            The points, frame by frame and row by row.

        Raises:
            NoConfidentPointsError: If the clip has no static pixels.
            UserError: If a picture is missing or damaged.
        """
        numbers = [n for n in range(self.source.num_frames) if len(self._sampled_positions(n, max_points))]
        return concatenate([self.unproject_static(n, frame, max_points) for n, frame in self.numbered(numbers)])

    @cached_property
    def _confidence(self) -> tuple[float, float]:
        """The confidence below which pixels are dropped, and the largest confidence of the clip."""
        confidences = PixelSample(self.source.num_frames, self.source.max_samples)
        largest = 0.0
        for _, frame in self.numbered():
            confidences.add(frame.depth_confidence, known_pixels(frame))
            largest = max(largest, float(frame.depth_confidence.nan_to_num().max()))
        if not confidences.count:
            return 0.0, largest
        # numpy, because torch.quantile is limited to 16 million values.
        return float(np.percentile(confidences.values.detach().cpu().numpy(), self.selection.drop)), largest

    def _sampled_positions(self, number: int, max_points: int) -> Int64[Tensor, " n"]:
        """Positions of the sampled pixels among the static pixels of a frame."""
        counts = self.static.counts
        if max_points not in self._kept:
            self._kept[max_points] = stratified_indices(sum(counts), max_points)
        start = self._starts[number]
        kept = self._kept[max_points]
        first, last = torch.searchsorted(kept, torch.tensor([start, start + counts[number]])).tolist()
        return kept[first:last] - start

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """Number of static pixels before each frame."""
        return tuple(accumulate(self.static.counts, initial=0))


def concatenate(parts: Sequence[StaticPoints]) -> StaticPoints:
    """Concatenate the points of several frames.

    Args:
        parts: Points of at least one frame, in the order of the frames.

    Returns:
        All points.
    """
    return StaticPoints(
        torch.cat([part.points for part in parts]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.frames for part in parts]),
        torch.cat([part.pixels for part in parts]),
    )
