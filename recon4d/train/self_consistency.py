"""Consistency of a prediction with the images of its clip, and its deviation from an initial prediction.

The compared pixels are selected once, by the initial prediction: static pixels that both frames of a pair see. Later
predictions are compared at the same pixels, so they cannot lower the error by hiding pixels (a depth that is too large
hides everything behind the surfaces of the other frame). Dynamic pixels are left out: where they project depends on
depth, camera and motion together, so their errors do not tell which of these is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.losses import (
    Term,
    Warp,
    is_unoccluded,
    masked_term,
    mean,
    merge_terms,
    photometric_term,
    semantic_term,
    warp_static,
)
from recon4d.losses.warping import sample_bilinear
from recon4d.records import DYNAMIC_THRESHOLD, Scene
from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights

FramePair = tuple[int, int]
"""Source and target frame: pixels of the source are projected into the target."""


@dataclass(frozen=True)
class ClipObservations:
    """Images and features of one clip, and the initial prediction, with which later predictions are compared."""

    images: Float[Tensor, "time 3 height width"]
    """RGB from 0 to 1, at the size of the scene's maps."""
    features: Float[Tensor, "time channels rows columns"]
    """Features of the frozen backbone; the grid covers the whole image."""
    initial_scene: Scene
    """The prediction before adaptation."""

    def comparable_pixels(self, source: int, target: int) -> Bool[Tensor, "height width"]:
        """Select static pixels of the source that are visible in the target, by the initial prediction.

        Args:
            source: Source frame.
            target: Target frame.

        Returns:
            A mask of the source frame.
        """
        scene = self.initial_scene
        warp = warp_static(scene, source, target)
        unoccluded = is_unoccluded(warp, scene.depths[target], scene.depth_confidence[target] > 0)
        return unoccluded & (scene.dynamic[source] < DYNAMIC_THRESHOLD)


@dataclass(frozen=True)
class Consistency:
    """Disagreement between frames, averaged over the compared pixels of some pairs."""

    photometric: Float[Tensor, ""]
    """Photometric error from 0 to 1."""
    semantic: Float[Tensor, ""]
    """1 - cosine of backbone features."""
    geometric: Float[Tensor, ""]
    """Relative difference of depths, from 0 to 1."""

    def weighted_sum(self, weights: AdaptWeights) -> Float[Tensor, ""]:
        """Sum the three terms.

        Args:
            weights: Weights of the terms.

        Returns:
            The weighted sum.
        """
        appearance = weights.photometric * self.photometric + weights.semantic * self.semantic
        return appearance + weights.geometric * self.geometric


@dataclass(frozen=True)
class Deviation:
    """Squared, dimensionless differences between a prediction and the initial one."""

    depth: Float[Tensor, ""]
    """Mean squared difference of log depth."""
    cameras: Float[Tensor, ""]
    """Squared differences of rotations, centers and log focal lengths; see `deviation`."""
    rest: Float[Tensor, ""]
    """Squared differences of point maps, tracks, visibility, dynamic mask and confidences."""

    def weighted_sum(self, weights: AdaptWeights) -> Float[Tensor, ""]:
        """Sum the three terms.

        Args:
            weights: Weights of the terms.

        Returns:
            The weighted sum.
        """
        return weights.keep_depth * self.depth + weights.keep_cameras * self.cameras + weights.keep_rest * self.rest


def split_pairs(
    observations: ClipObservations, config: AdaptConfig
) -> tuple[tuple[FramePair, ...], tuple[FramePair, ...]]:
    """Split the overlapping pairs of frames into training pairs and held-out pairs.

    Args:
        observations: The clip and its initial prediction.
        config: Largest distance and smallest overlap of a pair, fraction of held-out pairs and random seed.

    Returns:
        Training pairs and held-out pairs. Each pair of frames is in one of them, in both orders.

    Raises:
        UserError: If fewer than two pairs of frames overlap.
    """
    num_frames = observations.initial_scene.num_frames
    near = [(a, b) for a in range(num_frames) for b in range(a + 1, min(a + config.reach + 1, num_frames))]
    overlapping = [pair for pair in near if _overlap(observations, *pair) >= config.least_overlap]
    if len(overlapping) < 2:
        raise UserError(
            f"{len(overlapping)} of {len(near)} pairs of frames overlap by {config.least_overlap:.0%} or more, by the "
            "model's initial prediction; an adaptation needs 2 or more: choose frames that are nearer to each other"
        )
    order = torch.randperm(len(overlapping), generator=torch.Generator().manual_seed(config.seed)).tolist()
    num_held_out = min(max(1, round(config.held_out * len(overlapping))), len(overlapping) - 1)
    held_out, training = order[:num_held_out], order[num_held_out:]
    return (
        _both_orders([overlapping[i] for i in sorted(training)]),
        _both_orders([overlapping[i] for i in sorted(held_out)]),
    )


def consistency(scene: Scene, observations: ClipObservations, pairs: Sequence[FramePair]) -> Consistency:
    """Measure how much the frames of some pairs disagree under a prediction.

    Args:
        scene: The prediction; the result is differentiable with respect to its depths and cameras.
        observations: The clip and its initial prediction, which selects the compared pixels.
        pairs: Pairs of frames.

    Returns:
        The mean errors over all pairs.
    """
    terms: tuple[list[Term], ...] = ([], [], [])
    for source, target in pairs:
        valid = observations.comparable_pixels(source, target)
        # A pixel that projects outside the image is compared with the image border. The position of a pixel behind the
        # camera is arbitrary.
        warp = warp_static(scene, source, target)
        images, features = observations.images, observations.features
        terms[0].append(photometric_term(images[source], images[target], warp, valid))
        terms[1].append(semantic_term(features[source], features[target], warp, valid))
        terms[2].append(_geometric_term(warp, scene.depths[target], valid))
    return Consistency(*(mean(merge_terms(*of_kind)) for of_kind in terms))


def without_camera_motion(scene: Scene) -> Scene:
    """Replace all cameras by the first one, so that pixels project to their own positions in all other frames.

    Args:
        scene: A scene.

    Returns:
        The scene with identical cameras.
    """
    cameras = scene.cameras.frames([0] * scene.num_frames)
    return replace(scene, cameras=cameras)


def deviation(scene: Scene, initial: Scene) -> Deviation:
    """Measure how far a prediction is from the initial one.

    Lengths are in units of the mean initial depth.

    Args:
        scene: The prediction, in the world frame of its first camera.
        initial: The initial prediction, in the world frame of its first camera.

    Returns:
        The squared differences.
    """
    valid = initial.depth_confidence > 0
    unit = initial.depths[valid].mean()
    depth = mean(masked_term((scene.depths / initial.depths).log().square(), valid))

    rotations = scene.cameras.world_from_cam[..., :3, :3] - initial.cameras.world_from_cam[..., :3, :3]
    centers = (scene.cameras.centers - initial.cameras.centers) / unit
    focal = scene.cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2]
    initial_focal = initial.cameras.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2]
    # For small angles, the squared Frobenius distance of two rotations is twice their squared angle.
    angles = rotations.square().sum(dim=(-2, -1)) / 2
    cameras = angles.mean() + centers.square().sum(dim=-1).mean() + (focal / initial_focal).log().square().mean()

    points = ((scene.points - initial.points) / unit).square().sum(dim=-1)
    rest = mean(masked_term(points, initial.point_confidence > 0))
    rest = rest + (scene.dynamic - initial.dynamic).square().mean()
    rest = rest + _confidence_deviation(scene.depth_confidence, initial.depth_confidence)
    rest = rest + _confidence_deviation(scene.point_confidence, initial.point_confidence)
    if scene.tracks is not None and initial.tracks is not None:
        rest = rest + ((scene.tracks.points - initial.tracks.points) / unit).square().sum(dim=-1).mean()
        rest = rest + (scene.tracks.visibility - initial.tracks.visibility).square().mean()
        rest = rest + _confidence_deviation(scene.tracks.confidence, initial.tracks.confidence)
    return Deviation(depth, cameras, rest)


def _geometric_term(
    warp: Warp, target_depths: Float[Tensor, "height width"], valid: Bool[Tensor, "height width"]
) -> Term:
    """Compare projected depth a with the target's depth map b by |a - b| / (a + b) (Bian et al. 2019)."""
    size = (target_depths.shape[-2], target_depths.shape[-1])
    surface = sample_bilinear(target_depths[None], warp.pixels, size)[0]
    is_inside = valid & warp.in_view
    depths = torch.where(is_inside, warp.depths, surface.detach())
    # Pixels that project outside the image have the largest error, 1, so that moving them there does not help.
    errors = torch.where(is_inside, (depths - surface).abs() / (depths + surface), torch.ones_like(surface))
    return masked_term(errors, valid)


def _confidence_deviation(confidence: Float[Tensor, "*shape"], initial: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean squared change of log confidence, where the initial confidence is above 0."""
    valid = initial > 0
    one = torch.ones_like(initial)
    ratio = torch.where(valid, confidence, one) / torch.where(valid, initial, one)
    return mean(masked_term(ratio.log().square(), valid))


def _overlap(observations: ClipObservations, one: int, other: int) -> float:
    """Return the smaller of the fractions of comparable pixels of two frames."""
    fractions = [
        observations.comparable_pixels(source, target).float().mean() for source, target in ((one, other), (other, one))
    ]
    return float(torch.stack(fractions).min())


def _both_orders(pairs: Sequence[FramePair]) -> tuple[FramePair, ...]:
    return tuple(ordered for one, other in pairs for ordered in ((one, other), (other, one)))
