"""What is minimised: every term of a batch, its weight, and the one number that they make together."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d import losses
from recon4d.datasets import Sample
from recon4d.losses import Term
from recon4d.model import Model, Outputs
from recon4d.records import Scene, Tracks
from recon4d.tensors import TensorRecord
from recon4d.train.config import LossWeights

TERMS = tuple(field.name for field in fields(LossWeights))
"""The terms in the order of what `Trainee` answers."""


@dataclass(frozen=True, eq=False)
class Batch(TensorRecord):
    """Clips with truth, and the frames whose motion the network is asked for: some of the anchors of the truth."""

    sample: Sample
    asked: Int[Tensor, "*batch asked"]


class Trainee(nn.Module):
    """A model and its objective as one module, which is what data-parallel training wraps."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "term"], Float[Tensor, "term"]]:
        """Totals and counts of `TERMS` over this batch; a mean over ranks divides their sums."""
        clip = batch.sample.clip
        outputs = self.model.outputs(clip.images, clip.times, batch.asked, clip.known)
        truth = losses.normalised(batch.sample.scene)
        with torch.autocast(clip.images.device.type, enabled=False):
            terms = [*_scene_terms(outputs, truth), *_motion_terms(outputs, truth), *_other_terms(outputs, truth)]
            terms += self._match_terms(outputs, truth)
        named = dict(terms)
        assert set(named) == set(TERMS)
        ordered = [named[name] for name in TERMS]
        return torch.stack([term.total for term in ordered]), torch.stack([term.count for term in ordered])

    def _match_terms(self, outputs: Outputs, truth: Scene) -> list[tuple[str, Term]]:
        matching, (height, width) = self.model.matching, truth.size
        grid = (height // self.model.patch_size, width // self.model.patch_size)
        parts = []
        for matches in (outputs.matches, outputs.anchor_matches):
            if matches is not None:
                true = losses.true_matches(truth, matches.query_frames, matches.target_frames, matching.cell_size)
                parts.append(losses.matching_terms(matches, outputs.cell_features, matching, true, grid))
        return [
            ("match", losses.together(*(part.cross_entropy for part in parts))),
            ("no_match", losses.together(*(part.no_match for part in parts))),
            ("match_position", losses.together(*(part.position for part in parts))),
        ]


def objective(
    totals: Float[Tensor, "term"], counts: Float[Tensor, "term"], weights: LossWeights
) -> tuple[Float[Tensor, ""], Float[Tensor, "term"]]:
    """The weighted sum of the terms' means, and the means themselves; a term that nothing is known of is 0."""
    means = totals / torch.where(counts > 0, counts, torch.ones_like(counts))
    weighing = totals.new_tensor([getattr(weights, name) for name in TERMS])
    return (weighing * means).sum(), means.detach()


def _scene_terms(outputs: Outputs, truth: Scene) -> list[tuple[str, Term]]:
    scene = outputs.scene
    known_depth = (truth.depth_confidence > 0) & (truth.depths > 0)
    known_points = (truth.point_confidence > 0) & known_depth
    return [
        ("depth", losses.log_depth_term(scene.depths, scene.depth_confidence, truth.depths, known_depth)),
        ("depth_gradient", losses.depth_gradient_term(scene.depths, truth.depths, known_depth)),
        (
            "points",
            losses.point_term(scene.points, scene.point_confidence, truth.points, truth.depths, known_points),
        ),
        ("rotation", losses.rotation_term(scene.cameras, truth.cameras)),
        ("translation", losses.relative_translation_term(scene.cameras, truth.cameras)),
        ("centre", losses.centre_term(scene.cameras, truth.cameras)),
        ("field_of_view", losses.field_of_view_term(scene.cameras, truth.cameras, truth.size)),
        ("principal_point", losses.principal_point_term(scene.cameras, truth.cameras, truth.size)),
    ]


def _other_terms(outputs: Outputs, truth: Scene) -> list[tuple[str, Term]]:
    return [("moving", losses.moving_term(outputs.moving_logits, truth.moving))]


def _motion_terms(outputs: Outputs, truth: Scene) -> list[tuple[str, Term]]:
    predicted = outputs.scene.tracks
    if predicted is None or truth.tracks is None or outputs.visible_logits is None:
        nothing = losses.masked_term(outputs.scene.depths, torch.zeros_like(outputs.scene.depths))
        return [("motion", nothing), ("visibility", nothing)]
    asked = replace(truth, tracks=tracks_of_anchors(truth.tracks, predicted.anchors))
    true = asked.tracks
    assert true is not None
    read = losses.tracks_at(predicted, true.pixels, truth.size)
    logits = losses.at_queries(outputs.visible_logits[..., None], true.pixels, truth.size)[..., 0]
    return [
        ("motion", losses.motion_term(read, true, losses.depths_at_anchors(asked))),
        ("visibility", losses.visibility_term(logits, true.visible, losses.told_elsewhere(true))),
    ]


def tracks_of_anchors(tracks: Tracks, anchors: Int[Tensor, "batch asked"]) -> Tracks:
    """The tracks of some of their anchors, by frame number; unknown where `tracks` do not begin in that frame."""
    is_anchor = tracks.anchors[:, None, :] == anchors[:, :, None]
    place = is_anchor.int().argmax(dim=-1)
    clip = torch.arange(len(anchors), device=anchors.device)[:, None]
    found = is_anchor.any(dim=-1)[..., None, None]
    return Tracks(
        points=tracks.points[clip, place],
        visible=tracks.visible[clip, place],
        confidence=tracks.confidence[clip, place] * found,
        anchors=anchors,
        pixels=tracks.pixels[clip, place],
    )
