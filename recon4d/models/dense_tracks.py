"""Dense 3D tracks of every pixel of the anchor frames, from the motion head."""

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
from recon4d.models.tokens import Tokens, frame_slices
from recon4d.records import Scene, Tracks


def dense_tracks(
    motion_head: MotionHead,
    tokens: Tokens,
    scene: Scene,
    matches: Matches,
    flow: Float[Tensor, "batch pair cells 4"],
) -> tuple[Tracks, Float[Tensor, "batch anchor time query"]]:
    """Track every pixel of the anchor frames to every time.

    Args:
        motion_head: The motion head.
        tokens: Tokens of the aggregator.
        scene: The predicted scenes; tracks start at their world points.
        matches: Matches of the anchor frames to all frames (`Matching.match_anchors`).
        flow: Features of these matches (`Matching.flow_features`).

    Returns:
        Dense tracks, and the logits of their visibility.
    """
    points = scene.points
    batch, time, height, width, _ = points.shape
    query_frames = matches.query_frames.unflatten(1, (-1, time))
    anchors, num_anchors = query_frames[:, :, 0], query_frames.shape[1]
    frames = MotionFrames(
        tokens=motion_head.fuse_features([features.flatten(0, 1) for features in tokens.state.features]),
        points=points.flatten(0, 1),
        skip=tokens.quarter,
        grid=tokens.grid,
        rotary=tokens.state.rotary,
        num_special=tokens.state.num_special,
        depths=scene.depths.flatten(0, 1),
        dynamic=scene.dynamic.flatten(0, 1),
        world_from_cam=scene.cameras.world_from_cam.flatten(0, 1),
    )
    first_of_clip = time * torch.arange(batch, device=points.device)[:, None]
    pairs = MotionPairs(
        anchor=(matches.query_frames + first_of_clip).flatten(),
        target=(matches.target_frames + first_of_clip).flatten(),
        flow=flow.flatten(0, 1),
        positions=matches.positions.flatten(0, 1),
    )
    # Without a chunk size, the pairs of all anchors are as many chunks as there are anchors.
    chunk = tokens.frame_chunk or (None if num_anchors == 1 else batch * time)
    slices = frame_slices(pairs.anchor, chunk)
    raw = torch.cat([motion_head(frames, pairs.select(part)) for part in slices])
    motion, visibility_logits = decode_displacement(raw)

    over_anchors = (batch, num_anchors, time)
    displacement = motion.values.flatten(1, 2).unflatten(0, over_anchors)
    logits = visibility_logits.flatten(1).unflatten(0, over_anchors)
    at_anchor = (query_frames == matches.target_frames.view_as(query_frames))[..., None]
    start = points.flatten(2, 3)[torch.arange(batch, device=points.device)[:, None], anchors]
    pixels = pixel_grid(height, width, points.device, points.dtype).flatten(0, 1)
    tracks = Tracks(
        # At the time of the anchor frame, displacement is 0 and visibility 1 by definition.
        points=start[:, :, None] + torch.where(at_anchor[..., None], 0.0, displacement),
        visibility=torch.where(at_anchor, 1.0, torch.sigmoid(logits)),
        confidence=motion.confidence.flatten(1).unflatten(0, over_anchors),
        anchors=anchors,
        pixels=pixels.expand(batch, num_anchors, -1, -1),
    )
    return tracks, logits
