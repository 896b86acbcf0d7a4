"""The training objective: loss terms of a batch and their weighted sum."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d import losses
from recon4d.datasets import Sample
from recon4d.losses import Term
from recon4d.models import Model, Outputs
from recon4d.models.tokens import Tokens
from recon4d.records import Scene, TensorRecord, full_precision
from recon4d.train.config import LossWeights
from recon4d.train.consistency_terms import CONSISTENCY_TERMS, consistency_terms
from recon4d.train.published_terms import PUBLISHED_TERMS
from recon4d.train.terms import reconstruction_terms, tracking_terms

OPTIONAL_TERMS = (*PUBLISHED_TERMS, *CONSISTENCY_TERMS)
"""Terms that are computed only if their weight is not 0."""
TRACKING_TERMS = (
    *("motion", "track_confidence", "visibility", "match", "no_match", "match_position"),
    *("tracked_points", *CONSISTENCY_TERMS),
)
"""Terms of the tracking branch: the anchor's pixels at other times, and matches. All others are of the reconstruction
branch: each frame at its own time."""
SCENE_GRADIENT_TERMS = ("tracked_points", *CONSISTENCY_TERMS)
"""Terms of the tracking branch that have a gradient with respect to the cameras and maps of the scene."""
DEFAULT_TERMS = tuple(field.name for field in fields(LossWeights) if field.name not in OPTIONAL_TERMS)
"""Terms that are always computed and logged."""


def term_names(weights: LossWeights) -> tuple[str, ...]:
    """List the terms that are computed.

    Args:
        weights: Weights of the terms.

    Returns:
        Names of the terms, in the order of the results of `TrainModule`.
    """
    return (*DEFAULT_TERMS, *(name for name in OPTIONAL_TERMS if getattr(weights, name) != 0))


@dataclass(frozen=True, eq=False)
class Batch(TensorRecord):
    """Clips with ground truth, and the frames whose motion is predicted."""

    sample: Sample
    """Clips with ground truth, stacked."""
    anchors: Int[Tensor, "*batch anchor"]
    """Frames whose pixels are tracked by the network, a subset of the anchors of the ground truth."""
    seed: int = 0
    """Random seed of the objective (for the regions of the term `local_points`)."""


class TrainModule(nn.Module):
    """A model and its objective as one module, which data-parallel wrappers expect.

    Args:
        model: The model.
        weights: Weights of the loss terms; None for the defaults.
    """

    def __init__(self, model: Model, weights: LossWeights | None = None) -> None:
        super().__init__()
        self.model = model
        self.weights = LossWeights() if weights is None else weights

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "term"], Float[Tensor, "term"]]:
        """Predict the scenes of a batch of clips and compute the loss terms.

        Args:
            batch: Clips with ground truth.

        Returns:
            The sum and the count of each of `term_names`. A mean over all processes divides the sums of both.
        """
        truth = losses.normalized(batch.sample.scene)
        tokens = self.tokens(batch)
        outputs = self.model.scene_outputs(tokens, batch.sample.clip.size, batch.sample.clip.priors)
        outputs = self.model.with_tracks(tokens, outputs, self.anchors(batch))
        terms = self.reconstruction_terms(outputs, truth, batch) | self.tracking_terms(outputs, truth, batch)
        assert set(terms) == set(term_names(self.weights))
        return stack_terms(terms, term_names(self.weights))

    def tokens(self, batch: Batch) -> Tokens:
        """Run the part of the model that both branches share.

        Args:
            batch: Clips with ground truth.

        Returns:
            The input of all heads.
        """
        clip = batch.sample.clip
        return self.model.tokens(clip.images, clip.times, clip.priors)

    def anchors(self, batch: Batch) -> Int[Tensor, "batch anchor"]:
        """Return the frames whose pixels are tracked.

        Args:
            batch: Clips with ground truth.

        Returns:
            The anchors of the batch. Only a motion head is trained on tracks; a point tracker would compute tracks for
            nothing, so models with one get no anchors.
        """
        return batch.anchors if self.model.motion_head is not None else batch.anchors[:, :0]

    def reconstruction_terms(self, outputs: Outputs, truth: Scene, batch: Batch) -> dict[str, Term]:
        """Compute the terms of the reconstruction branch: each frame at its own time, cameras and dynamic mask.

        Args:
            outputs: Outputs of the model; tracks are not used.
            truth: The ground truth from `losses.normalized`.
            batch: Clips with ground truth.

        Returns:
            The terms of `term_names` that are not among `TRACKING_TERMS`.
        """
        with torch.autocast(outputs.scene.depths.device.type, enabled=False):
            outputs = self._in_first_camera(outputs)
            terms = dict(reconstruction_terms(outputs, truth))
            return terms | self._published_terms(outputs, truth, batch, is_tracking=False)

    def tracking_terms(self, outputs: Outputs, truth: Scene, batch: Batch) -> dict[str, Term]:
        """Compute the terms of the tracking branch: the anchor's pixels at all times, and matches.

        Args:
            outputs: Outputs of the model with tracks.
            truth: The ground truth from `losses.normalized`.
            batch: Clips with ground truth.

        Returns:
            The terms of `term_names` that are among `TRACKING_TERMS`.
        """
        with torch.autocast(outputs.scene.depths.device.type, enabled=False):
            outputs = self._in_first_camera(outputs)
            if self.model.side is not None:
                truth = losses.in_predicted_unit(truth, outputs.scene.depths)
            terms = dict(tracking_terms(self.model, outputs, truth))
            terms |= self._published_terms(outputs, truth, batch, is_tracking=True)
            scene = _full_precision_scene(outputs.scene)
            return terms | consistency_terms(self.model, batch.sample.clip.images, scene, term_names(self.weights))

    def _in_first_camera(self, outputs: Outputs) -> Outputs:
        """Move the predicted scene to the world of the ground truth, the first camera."""
        if self.model.reference_view == "first":
            return outputs
        return replace(outputs, scene=outputs.scene.in_frame(0))

    def _published_terms(self, outputs: Outputs, truth: Scene, batch: Batch, is_tracking: bool) -> dict[str, Term]:
        # Under autocast, outputs may be in half precision. The default terms convert them themselves.
        precise = replace(outputs, scene=_full_precision_scene(outputs.scene))
        return {
            name: term(precise, truth, batch.seed)
            for name, term in PUBLISHED_TERMS.items()
            if name in term_names(self.weights) and (name in TRACKING_TERMS) == is_tracking
        }


def stack_terms(terms: dict[str, Term], names: Sequence[str]) -> tuple[Float[Tensor, "term"], Float[Tensor, "term"]]:
    """Stack terms in the order of some names.

    Args:
        terms: Terms by name.
        names: Names of the terms to stack.

    Returns:
        The sum and the count of each term.
    """
    return torch.stack([terms[name].total for name in names]), torch.stack([terms[name].count for name in names])


def _full_precision_scene(scene: Scene) -> Scene:
    return scene.map(lambda maps: full_precision(maps) if maps.is_floating_point() else maps)


def objective(
    totals: Float[Tensor, "term"],
    counts: Float[Tensor, "term"],
    weights: LossWeights,
    names: Sequence[str] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "term"]]:
    """Compute the weighted sum of the means of all terms.

    Args:
        totals: Sum of each term, in the order of `names`.
        counts: Count of each term; the mean of a term with count 0 is 0.
        weights: Weights of the terms.
        names: Names of the terms; None for all of `term_names`.

    Returns:
        The objective, and the detached mean of each term.
    """
    means = totals / torch.where(counts > 0, counts, torch.ones_like(counts))
    factors = totals.new_tensor([getattr(weights, name) for name in names or term_names(weights)])
    return (factors * means).sum(), means.detach()
