"""The terms that every training has: of depth, point maps, cameras, motion and matches, against the truth."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from recon4d import losses
from recon4d.losses import Term
from recon4d.models import Model, Outputs
from recon4d.records import Scene, Tracks

NamedTerms = list[tuple[str, Term]]


def default_terms(model: Model, outputs: Outputs, truth: Scene) -> NamedTerms:
    """Every term of `objective.TERMS`; `truth` is `losses.normalized`."""
    return [*_scene_terms(outputs, truth), *_motion_terms(outputs, truth), *_match_terms(model, outputs, truth)]


def _scene_terms(outputs: Outputs, truth: Scene) -> NamedTerms:
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
        ("centre", losses.center_term(scene.cameras, truth.cameras)),
        ("field_of_view", losses.field_of_view_term(scene.cameras, truth.cameras, truth.size)),
        ("principal_point", losses.principal_point_term(scene.cameras, truth.cameras, truth.size)),
        ("moving", _moving_term(outputs, truth)),
    ]


def _moving_term(outputs: Outputs, truth: Scene) -> Term:
    return (
        no_term(outputs)
        if outputs.dynamic_logits is None
        else losses.dynamic_term(outputs.dynamic_logits, truth.dynamic)
    )


def _motion_terms(outputs: Outputs, truth: Scene) -> NamedTerms:
    # A point tracker answers a few pixels; only a motion head answers all, wherever the truth has its own.
    asked = None if outputs.visibility_logits is None else read_tracks(outputs, truth)
    if asked is None or outputs.visibility_logits is None:
        nothing = no_term(outputs)
        return [("motion", nothing), ("track_confidence", nothing), ("visibility", nothing)]
    read, scene = asked
    true = scene.tracks
    assert true is not None
    logits = losses.at_queries(outputs.visibility_logits[..., None], true.pixels, truth.size)[..., 0]
    depths = losses.depths_at_anchors(scene)
    return [
        ("motion", losses.motion_term(read, true, depths)),
        ("track_confidence", losses.track_confidence_term(read, true, depths)),
        ("visibility", losses.visibility_term(logits, true.visibility, losses.is_known_off_anchor(true))),
    ]


def _match_terms(model: Model, outputs: Outputs, truth: Scene) -> NamedTerms:
    matching, (height, width) = model.matching, truth.size
    if matching is None or outputs.cell_features is None:
        return [(name, no_term(outputs)) for name in ("match", "no_match", "match_position")]
    grid = (height // model.patch_size, width // model.patch_size)
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


def read_tracks(outputs: Outputs, truth: Scene) -> tuple[Tracks, Scene] | None:
    """The predicted tracks at the true queries, and the truth with the tracks of those anchors; None without tracks."""
    predicted = outputs.scene.tracks
    if predicted is None or truth.tracks is None:
        return None
    true = tracks_of_anchors(truth.tracks, predicted.anchors)
    return losses.tracks_at(predicted, true.pixels, truth.size), replace(truth, tracks=true)


def no_term(outputs: Outputs) -> Term:
    """The term of nothing: 0 over 0, with a gradient of zero."""
    return losses.masked_term(outputs.scene.depths, outputs.scene.depths.new_zeros(outputs.scene.depths.shape))


def tracks_of_anchors(tracks: Tracks, anchors: Int[Tensor, "batch asked"]) -> Tracks:
    """The tracks of some of their anchors, by frame number; unknown where `tracks` do not begin in that frame."""
    is_anchor = tracks.anchors[:, None, :] == anchors[:, :, None]
    place = is_anchor.int().argmax(dim=-1)
    clip = torch.arange(len(anchors), device=anchors.device)[:, None]
    found = is_anchor.any(dim=-1)[..., None, None]
    return Tracks(
        points=tracks.points[clip, place],
        visibility=tracks.visibility[clip, place],
        confidence=tracks.confidence[clip, place] * found,
        anchors=anchors,
        pixels=tracks.pixels[clip, place],
    )
