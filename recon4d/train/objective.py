"""The training objective: loss terms of a batch and their weighted sum."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d import losses
from recon4d.datasets import Sample
from recon4d.models import Model
from recon4d.records import TensorRecord, full_precision
from recon4d.train.config import LossWeights
from recon4d.train.consistency_terms import CONSISTENCY_TERMS, consistency_terms
from recon4d.train.published_terms import PUBLISHED_TERMS
from recon4d.train.terms import default_terms

OPTIONAL_TERMS = (*PUBLISHED_TERMS, *CONSISTENCY_TERMS)
"""Terms that are computed only if their weight is not 0."""
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
        """Predict the scenes of a batch and compute the loss terms.

        Args:
            batch: Clips with ground truth.

        Returns:
            The sum and the count of each of `term_names`. A mean over all processes divides the sums of both.
        """
        clip = batch.sample.clip
        # Only a motion head is trained on tracks; a point tracker would compute tracks for nothing.
        anchors = batch.anchors if self.model.motion_head is not None else batch.anchors[:, :0]
        outputs = self.model.outputs(clip.images, clip.times, anchors, clip.priors)
        if self.model.reference_view != "first":
            # The world of the ground truth is the first camera, that of the prediction about the reference camera.
            with torch.autocast(clip.images.device.type, enabled=False):
                outputs = replace(outputs, scene=outputs.scene.in_frame(0))
        truth = losses.normalized(batch.sample.scene)
        names = term_names(self.weights)
        with torch.autocast(clip.images.device.type, enabled=False):
            terms = dict(default_terms(self.model, outputs, truth))
            assert set(terms) == set(DEFAULT_TERMS)
            # Under autocast, outputs may be in half precision. The default terms convert them themselves.
            scene = outputs.scene.map(lambda maps: full_precision(maps) if maps.is_floating_point() else maps)
            precise = replace(outputs, scene=scene)
            terms |= {name: term(precise, truth, batch.seed) for name, term in PUBLISHED_TERMS.items() if name in names}
            terms |= consistency_terms(self.model, clip.images, scene, names)
        ordered = [terms[name] for name in names]
        return torch.stack([term.total for term in ordered]), torch.stack([term.count for term in ordered])


def objective(
    totals: Float[Tensor, "term"], counts: Float[Tensor, "term"], weights: LossWeights
) -> tuple[Float[Tensor, ""], Float[Tensor, "term"]]:
    """Compute the weighted sum of the means of all terms.

    Args:
        totals: Sum of each term, in the order of `term_names`.
        counts: Count of each term; the mean of a term with count 0 is 0.
        weights: Weights of the terms.

    Returns:
        The objective, and the detached mean of each term.
    """
    means = totals / torch.where(counts > 0, counts, torch.ones_like(counts))
    factors = totals.new_tensor([getattr(weights, name) for name in term_names(weights)])
    return (factors * means).sum(), means.detach()
