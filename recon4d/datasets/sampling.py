"""Which frames of a sequence form a clip, which frames see the same things, and which tracks come along."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.geometry import project, transform_points
from recon4d.records import Scene, Tracks

DEPTH_TOLERANCE = 0.1
"""A point is seen by another camera where its depth there agrees with the map's up to this share of it."""


@dataclass(frozen=True)
class ClipChoice:
    """How the frames of clips are chosen. Shares are of all clips; unordered and reversed ones exclude each other."""

    num_frames: int = 8
    strides: tuple[int, int] = (1, 4)
    """Smallest and largest step from one frame to the next, both included."""
    gaps_share: float = 0.25
    """Clips whose every step is drawn for itself; the others step evenly."""
    reversed_share: float = 0.2
    """Clips from late to early, their times descending."""
    unordered_share: float = 0.1
    """Clips shuffled like loose photos, their times forgotten."""
    other_anchor_share: float = 0.0
    """Clips whose tracks start at a random frame instead of the first."""

    def __post_init__(self) -> None:
        low, high = self.strides
        if self.num_frames < 1 or not 1 <= low <= high:
            raise ValueError(
                f"num_frames = {self.num_frames}, strides = {self.strides}; wanted at least 1 and 1 <= low <= high"
            )
        shares = (self.gaps_share, self.reversed_share, self.unordered_share)
        if not all(0 <= share <= 1 for share in shares) or self.reversed_share + self.unordered_share > 1:
            raise ValueError(
                f"shares of clips with gaps, reversed, unordered = {shares}; wanted 0 to 1, "
                "the last two at most 1 together"
            )
        if not 0 <= self.other_anchor_share <= 1:
            raise ValueError(f"other_anchor_share = {self.other_anchor_share}; wanted 0 to 1")

    @property
    def shortest(self) -> int:
        """The frames that a sequence needs for one clip."""
        return 1 + (self.num_frames - 1) * self.strides[0]


@dataclass(frozen=True)
class ChosenFrames:
    """Frame numbers in the clip's order, none twice; `unordered` where the clip's times are to be forgotten."""

    numbers: tuple[int, ...]
    unordered: bool


def random_numbers(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for every (seed, purpose), so that one purpose may draw more without moving the others."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def choose_frames(choice: ClipChoice, length: int, random: np.random.Generator) -> ChosenFrames:
    """The frames of a clip from a sequence of `length` frames, anywhere in it with equal chance.

    Where the drawn steps do not fit, they are shortened, never below the smallest. Raises ``ValueError`` for a sequence
    that is too short for that: no frame is ever taken twice.
    """
    if length < choice.shortest:
        raise ValueError(
            f"a sequence of {length} frames is too short for {choice.num_frames} frames at steps of at least "
            f"{choice.strides[0]}; wanted {choice.shortest} or more"
        )
    # Always the same draws in the same order: which kind a clip is does not depend on the length of its sequence.
    has_gaps, kind = random.random() < choice.gaps_share, random.random()
    steps = _uneven_steps(choice, length, random) if has_gaps else _even_steps(choice, length, random)
    first = int(random.integers(length - sum(steps)))
    numbers = np.cumsum([first, *steps])
    unordered = kind < choice.unordered_share
    if unordered:
        numbers = random.permutation(numbers)
    elif kind < choice.unordered_share + choice.reversed_share:
        numbers = numbers[::-1]
    return ChosenFrames(tuple(numbers.tolist()), unordered)


def choose_anchor(choice: ClipChoice, random: np.random.Generator) -> int:
    """The place in a clip of the frame whose points are tracked: the first, or any of all with equal chance."""
    is_random, place = random.random() < choice.other_anchor_share, int(random.integers(choice.num_frames))
    return place if is_random else 0


def without_times(sample: Sample) -> Sample:
    """The sample as loose photos: its times are NaN."""
    return replace(sample, clip=replace(sample.clip, times=torch.full_like(sample.clip.times, torch.nan)))


def overlap(scene: Scene, i: int, j: int) -> float:
    """The share of frame i's known points that frame j sees: in front of it, in its picture, and at its depth there.

    Depth is tested to 10 %; a point over a pixel of unknown depth counts as unseen. 0 where frame i knows no point.
    """
    points = scene.points[i][scene.point_confidence[i] > 0]
    if len(points) == 0:
        return 0.0
    in_camera = transform_points(scene.cameras.cam_from_world[j], points)
    pixels = project(in_camera, scene.cameras.intrinsics[j])
    height, width = scene.size
    # Infinite and enormous pixels have no whole number: compare before rounding.
    inside = (pixels >= 0).all(dim=-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    columns, rows = pixels[inside].long().unbind(-1)
    found, wanted = in_camera[inside, 2], scene.depths[j, rows, columns]
    # What is behind the camera has negative z, which agrees with no depth.
    agrees = (found - wanted).abs() <= DEPTH_TOLERANCE * wanted
    seen = agrees & (scene.depth_confidence[j, rows, columns] > 0)
    return int(seen.sum()) / len(points)


def overlaps(scene: Scene) -> Float[Tensor, "time time"]:
    """`overlap` of every frame (rows) in every other (columns); quadratic in frames, so give it small maps."""
    frames = range(scene.num_frames)
    return torch.tensor([[overlap(scene, i, j) for j in frames] for i in frames])


def choose_overlapping(
    shares: Float[Tensor, "time time"], count: int, lowest: float, random: np.random.Generator
) -> tuple[int, ...]:
    """`count` frames, each of which overlaps an earlier chosen one by at least `lowest` in both directions.

    `shares` are those of `overlaps`. The first frame is random; so is each next one, among those that qualify. Raises
    ``ValueError`` where no frames hang together like this.
    """
    if count < 1:
        raise ValueError(f"count = {count}; wanted at least 1")
    joined = (torch.minimum(shares, shares.T) >= lowest).numpy()
    largest = 0
    for start in random.permutation(len(joined)).tolist():
        chosen = [start]
        while len(chosen) < count:
            reachable = np.setdiff1d(np.flatnonzero(joined[chosen].any(axis=0)), chosen)
            if not len(reachable):
                break
            chosen.append(int(random.choice(reachable)))
        if len(chosen) == count:
            return tuple(chosen)
        largest = max(largest, len(chosen))
    raise ValueError(
        f"no {count} of {len(joined)} frames hang together by overlaps of {lowest:g} or more; at most {largest} do"
    )


def choose_tracks(sample: Sample, count: int, random: np.random.Generator) -> Sample:
    """The sample with `count` queries in every anchor, so that samples stack into batches.

    Random queries that are known at their anchor come first, then random others; where there are not enough, queries
    of confidence 0 follow. Raises ``ValueError`` for a sample without tracks and for a batch of samples.
    """
    tracks = sample.scene.tracks
    if tracks is None:
        raise ValueError("this sample has no tracks to choose from; give it unknown_tracks first")
    if sample.batch_shape:
        raise ValueError(f"tracks are chosen for one sample at a time, not for a batch of {tuple(sample.batch_shape)}")
    at_anchor = tracks.confidence[torch.arange(len(tracks.anchors)), tracks.anchors]
    # An anchor that was sliced away (-1) knows none of its queries.
    is_known = ((at_anchor > 0) & (tracks.anchors >= 0)[:, None]).numpy()
    order = np.lexsort((random.random(is_known.shape), ~is_known), axis=-1)
    chosen = torch.from_numpy(order[:, :count])
    padding = count - chosen.shape[-1]
    scores, coordinates = chosen[:, None, :], chosen[:, None, :, None]
    kept = Tracks(
        points=_padded(tracks.points.take_along_dim(coordinates, dim=-2), padding, axis=-2),
        visibility=_padded(tracks.visibility.take_along_dim(scores, dim=-1), padding, axis=-1),
        confidence=_padded(tracks.confidence.take_along_dim(scores, dim=-1), padding, axis=-1),
        anchors=tracks.anchors,
        pixels=_padded(tracks.pixels.take_along_dim(chosen[..., None], dim=-2), padding, axis=-2),
    )
    return replace(sample, scene=replace(sample.scene, tracks=kept))


def unknown_tracks(num_frames: int, anchors: tuple[int, ...], count: int) -> Tracks:
    """Tracks that say nothing (confidence 0), for samples of data sets without tracks."""
    over_time = torch.zeros(len(anchors), num_frames, count)
    return Tracks(
        points=over_time[..., None].expand(-1, -1, -1, 3).clone(),
        visibility=over_time,
        confidence=over_time.clone(),
        anchors=torch.tensor(anchors),
        pixels=torch.zeros(len(anchors), count, 2),
    )


def _even_steps(choice: ClipChoice, length: int, random: np.random.Generator) -> list[int]:
    between = choice.num_frames - 1
    low, high = choice.strides
    return [int(random.integers(low, min(high, (length - 1) // max(between, 1)) + 1))] * between if between else []


def _uneven_steps(choice: ClipChoice, length: int, random: np.random.Generator) -> list[int]:
    low, high = choice.strides
    steps: list[int] = []
    room = length - choice.shortest
    for _ in range(choice.num_frames - 1):
        extra = int(random.integers(min(high - low, room) + 1))
        room -= extra
        steps.append(low + extra)
    # Where room is short the first steps take it: shuffled, every place is equally likely to have it.
    return random.permutation(np.array(steps, dtype=int)).tolist()


def _padded(tensor: Tensor, count: int, axis: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
