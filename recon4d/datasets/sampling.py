"""Sampling of clips: frames of a sequence, the anchor frame and a fixed number of tracks."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.errors import UserError
from recon4d.records import Tracks


@dataclass(frozen=True)
class ClipSampling:
    """Distribution of the frames of a clip.

    Probabilities are per clip. A clip is not both reversed and shuffled.

    Raises:
        UserError: If a value is out of range.
    """

    num_frames: int = 8
    """Number of frames of each clip."""
    strides: tuple[int, int] = (1, 4)
    """Smallest and largest step between consecutive frames, inclusive."""
    irregular_probability: float = 0.25
    """Probability that every step of a clip is drawn independently. Otherwise all steps of the clip are equal."""
    reversed_probability: float = 0.2
    """Probability that a clip runs backward in time; its times descend."""
    shuffled_probability: float = 0.1
    """Probability that the frames of a clip are shuffled and its times are removed, as for unordered photos."""
    random_anchor_probability: float = 0.0
    """Probability that tracks start at a random frame instead of the first."""

    def __post_init__(self) -> None:
        low, high = self.strides
        if self.num_frames < 1 or not 1 <= low <= high:
            raise UserError(
                f"num_frames = {self.num_frames}, strides = {self.strides}; wanted num_frames >= 1 and 1 <= low <= high"
            )
        probabilities = (self.irregular_probability, self.reversed_probability, self.shuffled_probability)
        if not all(0 <= p <= 1 for p in probabilities) or self.reversed_probability + self.shuffled_probability > 1:
            raise UserError(
                f"probabilities of irregular, reversed and shuffled clips = {probabilities}; wanted values from 0 to 1 "
                "of which the last two sum to at most 1"
            )
        if not 0 <= self.random_anchor_probability <= 1:
            raise UserError(f"random_anchor_probability = {self.random_anchor_probability}; wanted a value from 0 to 1")

    @property
    def min_length(self) -> int:
        """Number of frames that a sequence needs for one clip."""
        return 1 + (self.num_frames - 1) * self.strides[0]


@dataclass(frozen=True)
class SampledFrames:
    """Frames of one clip."""

    indices: tuple[int, ...]
    """Distinct frame numbers in the sequence, in the order of the clip."""
    is_shuffled: bool
    """Whether the times of the clip must be removed."""


def random_stream(seed: int, purpose: str) -> np.random.Generator:
    """Create an independent random generator for each purpose.

    The number of draws for one purpose does not affect any other.

    Args:
        seed: Any integer.
        purpose: Name of the stream.

    Returns:
        A generator that depends only on `seed` and `purpose`.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def sample_frames(sampling: ClipSampling, length: int, rng: np.random.Generator) -> SampledFrames:
    """Sample the frames of a clip at a uniformly random position in the sequence.

    Steps that do not fit into the sequence are shortened, but never below the smallest stride.

    Args:
        sampling: Distribution of frames.
        length: Number of frames of the sequence.
        rng: Source of randomness.

    Returns:
        `sampling.num_frames` distinct frames.

    Raises:
        ValueError: If the sequence is shorter than `sampling.min_length`.
    """
    if length < sampling.min_length:
        raise ValueError(
            f"a sequence of {length} frames is too short for {sampling.num_frames} frames at steps of at least "
            f"{sampling.strides[0]}; wanted {sampling.min_length} or more"
        )
    # The same draws in the same order: whether a clip is irregular, reversed or shuffled does not depend on the length.
    is_irregular, kind = rng.random() < sampling.irregular_probability, rng.random()
    steps = _irregular_steps(sampling, length, rng) if is_irregular else _regular_steps(sampling, length, rng)
    first = int(rng.integers(length - sum(steps)))
    indices = np.cumsum([first, *steps])
    is_shuffled = kind < sampling.shuffled_probability
    if is_shuffled:
        indices = rng.permutation(indices)
    elif kind < sampling.shuffled_probability + sampling.reversed_probability:
        indices = indices[::-1]
    return SampledFrames(tuple(indices.tolist()), is_shuffled)


def sample_anchor(sampling: ClipSampling, rng: np.random.Generator) -> int:
    """Sample the anchor frame, whose points are tracked.

    Args:
        sampling: Distribution of frames.
        rng: Source of randomness.

    Returns:
        Position of the anchor in the clip: 0, or any position with equal probability.
    """
    is_random, position = rng.random() < sampling.random_anchor_probability, int(rng.integers(sampling.num_frames))
    return position if is_random else 0


def without_times(sample: Sample) -> Sample:
    """Remove the times of a clip, as for unordered photos.

    Args:
        sample: Any sample.

    Returns:
        The sample with NaN times.
    """
    return replace(sample, clip=replace(sample.clip, times=torch.full_like(sample.clip.times, torch.nan)))


def sample_tracks(sample: Sample, count: int, rng: np.random.Generator) -> Sample:
    """Reduce or pad the tracks to a fixed number of queries, so that samples can be stacked into batches.

    Random queries that are known at their anchor are taken first, then random other queries. Missing queries are padded
    with confidence 0.

    Args:
        sample: A single sample with tracks.
        count: Number of queries of each anchor.
        rng: Source of randomness.

    Returns:
        The sample with `count` queries of every anchor.

    Raises:
        ValueError: If the sample has no tracks or is a batch.
    """
    tracks = sample.scene.tracks
    if tracks is None:
        raise ValueError("the sample has no tracks; add placeholder_tracks first")
    if sample.batch_shape:
        raise ValueError(f"wanted a single sample, got a batch of shape {tuple(sample.batch_shape)}")
    at_anchor = tracks.confidence[torch.arange(len(tracks.anchors)), tracks.anchors]
    # Queries of an anchor that was sliced away (-1) are unknown.
    is_known = ((at_anchor > 0) & (tracks.anchors >= 0)[:, None]).numpy()
    order = np.lexsort((rng.random(is_known.shape), ~is_known), axis=-1)
    queries = torch.from_numpy(order[:, :count])
    padding = count - queries.shape[-1]
    over_time, over_coordinates = queries[:, None, :], queries[:, None, :, None]
    sampled = Tracks(
        points=_zero_padded(tracks.points.take_along_dim(over_coordinates, dim=-2), padding, axis=-2),
        visibility=_zero_padded(tracks.visibility.take_along_dim(over_time, dim=-1), padding, axis=-1),
        confidence=_zero_padded(tracks.confidence.take_along_dim(over_time, dim=-1), padding, axis=-1),
        anchors=tracks.anchors,
        pixels=_zero_padded(tracks.pixels.take_along_dim(queries[..., None], dim=-2), padding, axis=-2),
    )
    return replace(sample, scene=replace(sample.scene, tracks=sampled))


def placeholder_tracks(num_frames: int, anchors: tuple[int, ...], count: int) -> Tracks:
    """Create tracks of confidence 0, for samples of data sets without tracks.

    Args:
        num_frames: Number of frames of the clip.
        anchors: Anchor frames.
        count: Number of queries of each anchor.

    Returns:
        Tracks that are unknown everywhere.
    """
    over_time = torch.zeros(len(anchors), num_frames, count)
    return Tracks(
        points=over_time[..., None].expand(-1, -1, -1, 3).clone(),
        visibility=over_time,
        confidence=over_time.clone(),
        anchors=torch.tensor(anchors),
        pixels=torch.zeros(len(anchors), count, 2),
    )


def _regular_steps(sampling: ClipSampling, length: int, rng: np.random.Generator) -> list[int]:
    num_steps = sampling.num_frames - 1
    low, high = sampling.strides
    if not num_steps:
        return []
    return [int(rng.integers(low, min(high, (length - 1) // num_steps) + 1))] * num_steps


def _irregular_steps(sampling: ClipSampling, length: int, rng: np.random.Generator) -> list[int]:
    low, high = sampling.strides
    steps: list[int] = []
    slack = length - sampling.min_length
    for _ in range(sampling.num_frames - 1):
        extra = int(rng.integers(min(high - low, slack) + 1))
        slack -= extra
        steps.append(low + extra)
    # In short sequences the first steps use up the slack. Shuffling distributes the long steps evenly.
    return rng.permutation(np.array(steps, dtype=int)).tolist()


def _zero_padded(tensor: Tensor, count: int, axis: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
