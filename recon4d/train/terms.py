"""The loss terms of every training: depth, point maps, cameras, motion and matches against the ground truth."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from recon4d import losses
from recon4d.losses import Term
from recon4d.models import Model, Outputs
from recon4d.records import Scene, Tracks

DYNAMIC_MATCH_WEIGHT = 5.0
"""Weight of matches of moving cells beside a frozen network, which knows the motion of static ones. Hand-tuned."""
NamedTerms = list[tuple[str, Term]]
"""Terms with their names in `LossWeights`."""


def reconstruction_terms(outputs: Outputs, truth: Scene) -> NamedTerms:
    """Compute the default terms of the reconstruction branch: depth, point maps, cameras and the dynamic mask.

    Args:
        outputs: Outputs of the model; tracks are not used.
        truth: The ground truth from `losses.normalized`.

    Returns:
        The terms.
    """
    scene = outputs.scene
    valid_depth = (truth.depth_confidence > 0) & (truth.depths > 0)
    valid_points = (truth.point_confidence > 0) & valid_depth
    return [
        ("depth", losses.log_depth_term(scene.depths, scene.depth_confidence, truth.depths, valid_depth)),
        ("depth_gradient", losses.depth_gradient_term(scene.depths, truth.depths, valid_depth)),
        (
            "points",
            losses.point_term(scene.points, scene.point_confidence, truth.points, truth.depths, valid_points),
        ),
        ("rotation", losses.rotation_term(scene.cameras, truth.cameras)),
        ("translation", losses.relative_translation_term(scene.cameras, truth.cameras)),
        ("centre", losses.center_term(scene.cameras, truth.cameras)),
        ("field_of_view", losses.field_of_view_term(scene.cameras, truth.cameras, truth.size)),
        ("principal_point", losses.principal_point_term(scene.cameras, truth.cameras, truth.size)),
        ("moving", _dynamic_term(outputs, truth)),
    ]


def tracking_terms(model: Model, outputs: Outputs, truth: Scene) -> NamedTerms:
    """Compute the default terms of the tracking branch: motion, visibility and matches.

    Their gradient does not reach the cameras and maps of the scene.

    Args:
        model: The model, for its matching layer and patch size.
        outputs: Outputs of the model.
        truth: The ground truth from `losses.normalized`.

    Returns:
        The terms. Terms without valid ground truth, or that the model does not predict, have count 0.
    """
    return [*_motion_terms(outputs, truth), *_match_terms(model, outputs, truth)]


def _dynamic_term(outputs: Outputs, truth: Scene) -> Term:
    return (
        zero_term(outputs)
        if outputs.dynamic_logits is None
        else losses.dynamic_term(outputs.dynamic_logits, truth.dynamic)
    )


def _motion_terms(outputs: Outputs, truth: Scene) -> NamedTerms:
    # A motion head predicts tracks at all pixels, so they can be sampled at the true queries. Models with a point
    # tracker have no visibility logits and no motion terms.
    sampled = None if outputs.visibility_logits is None else tracks_at_queries(outputs, truth)
    if sampled is None or outputs.visibility_logits is None:
        zero = zero_term(outputs)
        return [("motion", zero), ("track_confidence", zero), ("visibility", zero)]
    tracks, scene = sampled
    true = scene.tracks
    assert true is not None
    logits = losses.sample_at_pixels(outputs.visibility_logits[..., None], true.pixels, truth.size)[..., 0]
    depths = losses.depths_at_anchors(scene)
    return [
        ("motion", losses.motion_term(tracks, true, depths)),
        ("track_confidence", losses.track_confidence_term(tracks, true, depths)),
        ("visibility", losses.visibility_term(logits, true.visibility, losses.is_known_off_anchor(true))),
    ]


def _match_terms(model: Model, outputs: Outputs, truth: Scene) -> NamedTerms:
    matching, (height, width) = model.matching, truth.size
    if matching is None or outputs.cell_features is None:
        return [(name, zero_term(outputs)) for name in ("match", "no_match", "match_position")]
    grid = (height // model.patch_size, width // model.patch_size)
    weight = 1.0 if model.side is None else DYNAMIC_MATCH_WEIGHT
    parts = []
    for matches in (outputs.matches, outputs.anchor_matches):
        if matches is not None:
            true = losses.true_matches(truth, matches.query_frames, matches.target_frames, matching.cell_size)
            parts.append(losses.matching_terms(matches, outputs.cell_features, matching, true, grid, weight))
    return [
        ("match", losses.merge_terms(*(part.cross_entropy for part in parts))),
        ("no_match", losses.merge_terms(*(part.dustbin for part in parts))),
        ("match_position", losses.merge_terms(*(part.position for part in parts))),
    ]


def tracks_at_queries(outputs: Outputs, truth: Scene) -> tuple[Tracks, Scene] | None:
    """Sample the predicted dense tracks at the queries of the ground truth.

    Args:
        outputs: Outputs of the model.
        truth: The ground truth.

    Returns:
        The predicted tracks at the true queries, and the ground truth with tracks of the same anchors. None if either
        has no tracks.
    """
    predicted = outputs.scene.tracks
    if predicted is None or truth.tracks is None:
        return None
    true = select_anchors(truth.tracks, predicted.anchors)
    return losses.sample_tracks(predicted, true.pixels, truth.size), replace(truth, tracks=true)


def zero_term(outputs: Outputs) -> Term:
    """Make a term with total 0 and count 0, whose gradient is zero.

    Args:
        outputs: Outputs of the model, for device and graph.

    Returns:
        The term.
    """
    return losses.masked_term(outputs.scene.depths, outputs.scene.depths.new_zeros(outputs.scene.depths.shape))


def select_anchors(tracks: Tracks, anchors: Int[Tensor, "batch selected"]) -> Tracks:
    """Select the tracks of some anchor frames.

    Args:
        tracks: A batch of tracks.
        anchors: Frame numbers of the wanted anchors, in any order.

    Returns:
        The tracks of `anchors`; those of frames that are not among the anchors of `tracks` have confidence 0.
    """
    is_anchor = tracks.anchors[:, None, :] == anchors[:, :, None]
    position = is_anchor.int().argmax(dim=-1)
    clip = torch.arange(len(anchors), device=anchors.device)[:, None]
    exists = is_anchor.any(dim=-1)[..., None, None]
    return Tracks(
        points=tracks.points[clip, position],
        visibility=tracks.visibility[clip, position],
        confidence=tracks.confidence[clip, position] * exists,
        anchors=anchors,
        pixels=tracks.pixels[clip, position],
    )
