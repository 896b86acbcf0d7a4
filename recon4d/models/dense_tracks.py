"""Tracks of every pixel of the anchors, from the motion head."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import pixel_grid
from recon4d.heads import (
    MotionFrames,
    MotionHead,
    MotionPairs,
    decode_displacement,
)
from recon4d.layers import Matches
from recon4d.models.tokens import Tokens
from recon4d.records import Tracks


def dense_tracks(
    motion_head: MotionHead,
    tokens: Tokens,
    points: Float[Tensor, "batch time height width 3"],
    matches: Matches,
    flow: Float[Tensor, "batch pair cells 4"],
) -> tuple[Tracks, Float[Tensor, "batch anchor time query"]]:
    """Tracks of every pixel of the anchors, and the logits of their visibility.

    `matches` are those of the anchors (`Matching.match_anchors`) and `flow` their features.
    """
    batch, time, height, width, _ = points.shape
    query_frames = matches.query_frames.unflatten(1, (-1, time))
    anchors, num_anchors = query_frames[:, :, 0], query_frames.shape[1]
    frames = MotionFrames(
        tokens=motion_head.fuse_features([tap.flatten(0, 1) for tap in tokens.state.features]),
        points=points.flatten(0, 1),
        skip=tokens.quarter,
        grid=tokens.grid,
        rotary=tokens.state.rotary,
        num_special=tokens.state.num_special,
    )
    first_of_clip = time * torch.arange(batch, device=points.device)[:, None]
    pairs = MotionPairs(
        anchor=(matches.query_frames + first_of_clip).flatten(),
        target=(matches.target_frames + first_of_clip).flatten(),
        flow=flow.flatten(0, 1),
        positions=matches.positions.flatten(0, 1),
    )
    raw = torch.cat([motion_head(frames, part) for part in pairs.split(tokens.chunk)])
    motion, visible_logits = decode_displacement(raw)

    over_anchors = (batch, num_anchors, time)
    displacement = motion.values.flatten(1, 2).unflatten(0, over_anchors)
    logits = visible_logits.flatten(1).unflatten(0, over_anchors)
    at_anchor = (query_frames == matches.target_frames.view_as(query_frames))[..., None]
    start = points.flatten(2, 3)[torch.arange(batch, device=points.device)[:, None], anchors]
    pixels = pixel_grid(height, width, points.device, points.dtype).flatten(0, 1)
    tracks = Tracks(
        # Zero displacement and certain visibility at the anchor's own time are facts, not predictions.
        points=start[:, :, None] + torch.where(at_anchor[..., None], 0.0, displacement),
        visibility=torch.where(at_anchor, 1.0, torch.sigmoid(logits)),
        confidence=motion.confidence.flatten(1).unflatten(0, over_anchors),
        anchors=anchors,
        pixels=pixels.expand(batch, num_anchors, -1, -1),
    )
    return tracks, logits
