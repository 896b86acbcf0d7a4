"""What is minimized: every term of a batch, its weight, and the one number that they make together."""

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
"""Those that are computed only where they weigh something."""
TERMS = tuple(field.name for field in fields(LossWeights) if field.name not in OPTIONAL_TERMS)
"""Those that every training computes and reports, whatever they weigh."""


def terms_of(weights: LossWeights) -> tuple[str, ...]:
    """The terms of an objective, in the order of what `Trainee` answers."""
    return (*TERMS, *(name for name in OPTIONAL_TERMS if getattr(weights, name) != 0))


@dataclass(frozen=True, eq=False)
class Batch(TensorRecord):
    """Clips with truth, and the frames whose motion the network is asked for: some of the anchors of the truth."""

    sample: Sample
    asked: Int[Tensor, "*batch asked"]
    seed: int = 0
    """Decides what is random in the objective (where `local_points` looks)."""


class TrainModule(nn.Module):
    """A model and its objective as one module, which is what data-parallel training wraps."""

    def __init__(self, model: Model, weights: LossWeights | None = None) -> None:
        super().__init__()
        self.model = model
        self.weights = LossWeights() if weights is None else weights

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "term"], Float[Tensor, "term"]]:
        """Totals and counts of `terms_of` the weights over this batch; a mean over ranks divides their sums."""
        clip = batch.sample.clip
        # Only a motion head learns from tracks; a point tracker would follow its points for nothing.
        asked = batch.asked if self.model.motion_head is not None else batch.asked[:, :0]
        outputs = self.model.outputs(clip.images, clip.times, asked, clip.priors)
        truth = losses.normalized(batch.sample.scene)
        wanted = terms_of(self.weights)
        with torch.autocast(clip.images.device.type, enabled=False):
            named = dict(default_terms(self.model, outputs, truth))
            assert set(named) == set(TERMS)
            # Autocast leaves half types behind, which the terms above widen for themselves.
            scene = outputs.scene.map(lambda maps: full_precision(maps) if maps.is_floating_point() else maps)
            wide = replace(outputs, scene=scene)
            named |= {name: term(wide, truth, batch.seed) for name, term in PUBLISHED_TERMS.items() if name in wanted}
            named |= consistency_terms(self.model, clip.images, scene, wanted)
        ordered = [named[name] for name in wanted]
        return torch.stack([term.total for term in ordered]), torch.stack([term.count for term in ordered])


def objective(
    totals: Float[Tensor, "term"], counts: Float[Tensor, "term"], weights: LossWeights
) -> tuple[Float[Tensor, ""], Float[Tensor, "term"]]:
    """The weighted sum of the terms' means, and the means themselves; a term that nothing is known of is 0."""
    means = totals / torch.where(counts > 0, counts, torch.ones_like(counts))
    weighing = totals.new_tensor([getattr(weights, name) for name in terms_of(weights)])
    return (weighing * means).sum(), means.detach()
