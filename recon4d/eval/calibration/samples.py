"""Samples of confidence and measured error, pixel by pixel, from predictions with ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d import losses
from recon4d.geometry import stratified_indices
from recon4d.records import Scene, Tracks

MAX_PIXELS = 2**15
"""Largest number of samples of one clip and field. Hand-tuned: further pixels of the same clip add little."""
FIELDS = ("depth", "points", "tracks")
"""Fields with a confidence, in the order of tables."""


@dataclass(frozen=True, eq=False)
class ConfidenceSamples:
    """Confidences and relative errors of the same pixels, on the CPU."""

    confidence: Float[Tensor, "n"]
    """Predicted confidence: finite and above 0."""
    errors: Float[Tensor, "n"]
    """Distance to the truth divided by the true depth: finite."""

    def __len__(self) -> int:
        return len(self.errors)


@dataclass(frozen=True, eq=False)
class SceneSamples:
    """Samples of each field; empty if prediction and truth have no pixels in common."""

    depth: ConfidenceSamples
    """Samples of the depth maps."""
    points: ConfidenceSamples
    """Samples of the point maps."""
    tracks: ConfidenceSamples
    """Samples of the tracks."""


def scene_samples(prediction: Scene, truth: Scene) -> SceneSamples:
    """Measure the relative errors of one predicted scene.

    The prediction is scaled once, by the median true depth divided by the median predicted depth over the pixels known
    in both. The errors of depth and point maps are the distance to the truth divided by the true depth; those of
    tracks, at other times than the anchor's, are divided by the true depth in the anchor frame. Pixels with a
    confidence of 0 or unknown truth are skipped. At most `MAX_PIXELS` pixels of each field are sampled, uniformly.

    Args:
        prediction: Predicted scene in the world of the truth, with maps of the same size. Its tracks are skipped
            unless they are dense and have the anchors of the truth.
        truth: True scene.

    Returns:
        Samples of each field.

    Raises:
        ValueError: If a scene is a batch or the maps have different sizes.
    """
    if prediction.batch_shape or truth.batch_shape or prediction.depths.shape != truth.depths.shape:
        raise ValueError(
            f"wanted one prediction and its truth of the same size, given depths of shape "
            f"{tuple(prediction.depths.shape)} and {tuple(truth.depths.shape)}"
        )
    true_depths = truth.depths
    is_true = (truth.depth_confidence > 0) & (true_depths > 0)
    is_common = is_true & (prediction.depth_confidence > 0) & prediction.depths.isfinite()
    if not is_common.any() or not prediction.depths[is_common].median() > 0:
        return SceneSamples(*(_samples(*[true_depths.new_zeros(0)] * 3) for _ in FIELDS))
    scale = true_depths[is_common].median() / prediction.depths[is_common].median()

    both = is_true & (truth.point_confidence > 0)
    return SceneSamples(
        depth=_samples(
            prediction.depth_confidence[is_true],
            (scale * prediction.depths - true_depths).abs()[is_true],
            true_depths[is_true],
        ),
        points=_samples(
            prediction.point_confidence[both],
            (scale * prediction.points - truth.points).norm(dim=-1)[both],
            true_depths[both],
        ),
        tracks=_track_samples(prediction, truth, scale),
    )


def concatenate_samples(parts: Sequence[SceneSamples]) -> SceneSamples:
    """Concatenate the samples of several scenes.

    Args:
        parts: Samples of each scene, of at least one.

    Returns:
        All samples of each field.
    """

    def concatenate(field: str) -> ConfidenceSamples:
        samples: list[ConfidenceSamples] = [getattr(part, field) for part in parts]
        return ConfidenceSamples(
            torch.cat([sample.confidence for sample in samples]), torch.cat([sample.errors for sample in samples])
        )

    return SceneSamples(**{field.name: concatenate(field.name) for field in fields(SceneSamples)})


def _track_samples(prediction: Scene, truth: Scene, scale: Tensor) -> ConfidenceSamples:
    predicted, true = prediction.tracks, truth.tracks
    if predicted is None or true is None or not _is_comparable(predicted, true, truth.size):
        return _samples(*[truth.depths.new_zeros(0)] * 3)
    sampled = losses.sample_tracks(predicted, true.pixels, truth.size)
    depths = losses.depths_at_anchors(truth)[..., None, :].expand_as(true.confidence)
    is_known = losses.is_known_off_anchor(true) & (depths > 0)
    errors = (scale * sampled.points - true.points).norm(dim=-1)
    return _samples(sampled.confidence[is_known], errors[is_known], depths[is_known])


def _is_comparable(predicted: Tracks, true: Tracks, size: tuple[int, int]) -> bool:
    """Whether predicted tracks can be sampled at any pixel of the true anchor frames."""
    return predicted.pixels.shape[-2] == size[0] * size[1] and torch.equal(predicted.anchors, true.anchors)


def _samples(confidence: Tensor, distances: Tensor, depths: Tensor) -> ConfidenceSamples:
    """Return samples of the errors `distances` / `depths`, without unknown pixels and values that are not finite."""
    errors = distances / depths
    is_known = (confidence > 0) & confidence.isfinite() & errors.isfinite()
    confidence, errors = confidence[is_known], errors[is_known]
    chosen = stratified_indices(len(errors), MAX_PIXELS, errors.device)
    return ConfidenceSamples(confidence[chosen].float().cpu(), errors[chosen].float().cpu())
