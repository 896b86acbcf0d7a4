"""How sure a prediction was and how wrong it turned out, pixel by pixel, where both it and the truth are known."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d import losses
from recon4d.geometry import stratified_indices
from recon4d.records import Scene, Tracks

MAX_PIXELS = 2**15
"""Of one clip and field; more pixels of the same clip say little more."""
FIELDS = ("depth", "points", "tracks")
"""What has a confidence of its own, in the order of tables."""


@dataclass(frozen=True, eq=False)
class ConfidenceSamples:
    """Confidences and relative errors of the same pixels, on the CPU; a confidence is above 0 and both are finite."""

    confidence: Float[Tensor, "n"]
    errors: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.errors)


@dataclass(frozen=True, eq=False)
class SceneSamples:
    """The evidence of each field; empty where there is nothing to compare."""

    depth: ConfidenceSamples
    points: ConfidenceSamples
    tracks: ConfidenceSamples


def scene_samples(prediction: Scene, truth: Scene) -> SceneSamples:
    """The evidence of one predicted scene, whose maps have the size of the truth's and whose world is its world.

    One scale is given to the whole prediction: the median true over the median predicted depth, over the pixels known
    to both. Then errors are |P - G| over the true depth, for depth and for point maps; for tracks at other times than
    the anchor's, over the true depth in the anchor frame. Pixels of confidence 0 and of unknown truth do not count. At
    most `MAX_PIXELS` of each field, evenly taken. Predicted tracks must be dense, of the truth's own anchors, or they
    do not count. Raises ``ValueError`` for batches and for maps of different sizes.
    """
    if prediction.batch_shape or truth.batch_shape or prediction.depths.shape != truth.depths.shape:
        raise ValueError(
            f"wanted one prediction and its truth of the same size, given depths of shape "
            f"{tuple(prediction.depths.shape)} and {tuple(truth.depths.shape)}"
        )
    true_depths = truth.depths
    is_true = (truth.depth_confidence > 0) & (true_depths > 0)
    is_believed = is_true & (prediction.depth_confidence > 0) & prediction.depths.isfinite()
    if not is_believed.any() or not prediction.depths[is_believed].median() > 0:
        return SceneSamples(*(_evidence(*[true_depths.new_zeros(0)] * 3) for _ in FIELDS))
    scale = true_depths[is_believed].median() / prediction.depths[is_believed].median()

    both = is_true & (truth.point_confidence > 0)
    return SceneSamples(
        depth=_evidence(
            prediction.depth_confidence[is_true],
            (scale * prediction.depths - true_depths).abs()[is_true],
            true_depths[is_true],
        ),
        points=_evidence(
            prediction.point_confidence[both],
            (scale * prediction.points - truth.points).norm(dim=-1)[both],
            true_depths[both],
        ),
        tracks=_track_evidence(prediction, truth, scale),
    )


def together(parts: Sequence[SceneSamples]) -> SceneSamples:
    """The evidence of several scenes as one."""

    def joined(field: str) -> ConfidenceSamples:
        of_parts: list[ConfidenceSamples] = [getattr(part, field) for part in parts]
        return ConfidenceSamples(
            torch.cat([one.confidence for one in of_parts]), torch.cat([one.errors for one in of_parts])
        )

    return SceneSamples(**{field.name: joined(field.name) for field in fields(SceneSamples)})


def _track_evidence(prediction: Scene, truth: Scene, scale: Tensor) -> ConfidenceSamples:
    predicted, true = prediction.tracks, truth.tracks
    if predicted is None or true is None or not _fit(predicted, true, truth.size):
        return _evidence(*[truth.depths.new_zeros(0)] * 3)
    read = losses.tracks_at(predicted, true.pixels, truth.size)
    depths = losses.depths_at_anchors(truth)[..., None, :].expand_as(true.confidence)
    known = losses.is_known_off_anchor(true) & (depths > 0)
    errors = (scale * read.points - true.points).norm(dim=-1)
    return _evidence(read.confidence[known], errors[known], depths[known])


def _fit(predicted: Tracks, true: Tracks, size: tuple[int, int]) -> bool:
    """Whether predicted tracks can be read anywhere in the anchors of the true ones."""
    return predicted.pixels.shape[-2] == size[0] * size[1] and torch.equal(predicted.anchors, true.anchors)


def _evidence(confidence: Tensor, lengths: Tensor, depths: Tensor) -> ConfidenceSamples:
    """Evidence of errors that are `lengths` over `depths`; what is unknown or no number is left out."""
    errors = lengths / depths
    known = (confidence > 0) & confidence.isfinite() & errors.isfinite()
    confidence, errors = confidence[known], errors[known]
    few = stratified_indices(len(errors), MAX_PIXELS, errors.device)
    return ConfidenceSamples(confidence[few].float().cpu(), errors[few].float().cpu())
