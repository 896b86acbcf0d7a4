"""What the pictures of a clip say about a prediction of it: pairs of frames, their consistency, and what is to stay.

Which pixels count is decided once, by the first prediction: what stands still and both frames see. A later prediction
is asked about the same pixels, so it cannot do better by seeing less (a depth too large hides everything behind the
other frame's surfaces). Movers are left out: where a moving pixel lands follows from depth, camera and motion
together, and an error there would not say which of them is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses import (
    Term,
    Warp,
    masked_term,
    mean,
    photometric_term,
    seen_in_target,
    semantic_term,
    together,
    warp_still,
)
from recon4d.losses.warping import sample
from recon4d.records import Scene
from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights

FramePair = tuple[int, int]
"""Source and target: pixels of the source are looked for in the target."""

MOVING = 0.5
"""Pixels that move with at least this probability are left out."""


@dataclass(frozen=True)
class Evidence:
    """What a prediction of one clip is held against."""

    images: Float[Tensor, "time 3 height width"]
    """RGB from 0 to 1, at the size of the scene's maps."""
    features: Float[Tensor, "time channels rows columns"]
    """Of the frozen backbone; they cover the whole picture."""
    first: Scene
    """The prediction before anything was adapted."""

    def counted(self, source: int, target: int) -> Bool[Tensor, "height width"]:
        """Pixels of the source that stand still and that the target sees, by the first prediction."""
        warp = warp_still(self.first, source, target)
        seen = seen_in_target(warp, self.first.depths[target], self.first.depth_confidence[target] > 0)
        return seen & (self.first.dynamic[source] < MOVING)


@dataclass(frozen=True)
class Consistency:
    """How far frames disagree, over all counted pixels of some pairs."""

    photometric: Float[Tensor, ""]
    semantic: Float[Tensor, ""]
    geometric: Float[Tensor, ""]

    def weighed(self, weights: AdaptWeights) -> Float[Tensor, ""]:
        """The sum of all three, each with its weight."""
        pictures = weights.photometric * self.photometric + weights.semantic * self.semantic
        return pictures + weights.geometric * self.geometric


@dataclass(frozen=True)
class Change:
    """How far a prediction is from the first one, squared and without a unit."""

    depth: Float[Tensor, ""]
    cameras: Float[Tensor, ""]
    rest: Float[Tensor, ""]

    def weighed(self, weights: AdaptWeights) -> Float[Tensor, ""]:
        """The sum of all three, each with its weight."""
        return weights.keep_depth * self.depth + weights.keep_cameras * self.cameras + weights.keep_rest * self.rest


def split_pairs(evidence: Evidence, config: AdaptConfig) -> tuple[tuple[FramePair, ...], tuple[FramePair, ...]]:
    """Ordered pairs that train, and those that are held out; two frames are on one side in both orders.

    Raises ``ValueError`` where too few frames see the same for both.
    """
    num_frames = evidence.first.num_frames
    near = [(a, b) for a in range(num_frames) for b in range(a + 1, min(a + config.reach + 1, num_frames))]
    good = [pair for pair in near if _overlap(evidence, *pair) >= config.least_overlap]
    if len(good) < 2:
        raise ValueError(
            f"{len(good)} of {len(near)} pairs of frames see {config.least_overlap:.0%} of each other, by the model's "
            "first prediction; an adaptation needs 2 or more: choose frames that are nearer to each other"
        )
    order = torch.randperm(len(good), generator=torch.Generator().manual_seed(config.seed)).tolist()
    num_held_out = min(max(1, round(config.held_out * len(good))), len(good) - 1)
    held_out, training = order[:num_held_out], order[num_held_out:]
    return _both_orders([good[i] for i in sorted(training)]), _both_orders([good[i] for i in sorted(held_out)])


def consistency(scene: Scene, evidence: Evidence, pairs: Sequence[FramePair]) -> Consistency:
    """How far the frames of `pairs` disagree if `scene` is right; differentiable in its depths and cameras."""
    terms: tuple[list[Term], ...] = ([], [], [])
    for source, target in pairs:
        counted = evidence.counted(source, target)
        # A pixel that has left the picture counts by the picture's border, and one behind the camera by any place.
        warp = warp_still(scene, source, target)
        terms[0].append(photometric_term(evidence.images[source], evidence.images[target], warp, counted))
        terms[1].append(semantic_term(evidence.features[source], evidence.features[target], warp, counted))
        terms[2].append(_geometric_term(warp, scene.depths[target], counted))
    return Consistency(*(mean(together(*of_kind)) for of_kind in terms))


def unmoved(scene: Scene) -> Scene:
    """The scene as if one camera had taken all frames: every pixel is looked for where it is in its own frame."""
    cameras = scene.cameras.frames([0] * scene.num_frames)
    return replace(scene, cameras=cameras)


def change(scene: Scene, first: Scene) -> Change:
    """How far `scene` is from the `first` prediction, both in the world of their first camera."""
    known = first.depth_confidence > 0
    unit = first.depths[known].mean()
    depth = mean(masked_term((scene.depths / first.depths).log().square(), known))

    turned = scene.cameras.world_from_cam[..., :3, :3] - first.cameras.world_from_cam[..., :3, :3]
    moved = (scene.cameras.centers - first.cameras.centers) / unit
    focal = scene.cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2]
    first_focal = first.cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2]
    # The squared Frobenius distance of two rotations is twice their squared angle, where that is small.
    angles = turned.square().sum(dim=(-2, -1)) / 2
    cameras = angles.mean() + moved.square().sum(dim=-1).mean() + (focal / first_focal).log().square().mean()

    rest = mean(masked_term(((scene.points - first.points) / unit).square().sum(dim=-1), first.point_confidence > 0))
    rest = rest + (scene.dynamic - first.dynamic).square().mean()
    rest = rest + _change_of_confidence(scene.depth_confidence, first.depth_confidence)
    rest = rest + _change_of_confidence(scene.point_confidence, first.point_confidence)
    if scene.tracks is not None and first.tracks is not None:
        rest = rest + ((scene.tracks.points - first.tracks.points) / unit).square().sum(dim=-1).mean()
        rest = rest + (scene.tracks.visibility - first.tracks.visibility).square().mean()
        rest = rest + _change_of_confidence(scene.tracks.confidence, first.tracks.confidence)
    return Change(depth, cameras, rest)


def _geometric_term(
    warp: Warp, target_depths: Float[Tensor, "height width"], counted: Bool[Tensor, "height width"]
) -> Term:
    """|a - b| / (a + b) of the depth that a pixel comes with and that of the map at its place (Bian et al. 2019)."""
    size = (target_depths.shape[-2], target_depths.shape[-1])
    surface = sample(target_depths[None], warp.pixels, size)[0]
    in_front = counted & warp.in_picture
    depths = torch.where(in_front, warp.depths, surface.detach())
    # Those that left the picture are as wrong as can be, 1, so that leaving is no way out.
    errors = torch.where(in_front, (depths - surface).abs() / (depths + surface), torch.ones_like(surface))
    return masked_term(errors, counted)


def _change_of_confidence(confidence: Float[Tensor, "*shape"], first: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    known = first > 0
    one = torch.ones_like(first)
    ratio = torch.where(known, confidence, one) / torch.where(known, first, one)
    return mean(masked_term(ratio.log().square(), known))


def _overlap(evidence: Evidence, one: int, other: int) -> float:
    """The smaller of both shares of counted pixels."""
    shares = [evidence.counted(source, target).float().mean() for source, target in ((one, other), (other, one))]
    return float(torch.stack(shares).min())


def _both_orders(pairs: Sequence[FramePair]) -> tuple[FramePair, ...]:
    return tuple(ordered for one, other in pairs for ordered in ((one, other), (other, one)))
