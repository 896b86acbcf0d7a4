"""Transfer of 3D tracks to a scene with refined cameras or depth."""

from dataclasses import replace

import torch

from recon4d.geometry import pixel_indices
from recon4d.records import DYNAMIC_THRESHOLD, Scene, Tracks


def transfer_tracks(before: Scene, after: Scene) -> Tracks | None:
    """Transfer the tracks of a scene to the same scene with other cameras or depth.

    Each track starts at the point of its query pixel in `after`. Its displacement is that of `before`, expressed in
    pixels and relative depth of the anchor camera, so that it grows with the depth of the query pixel. The cameras of
    other frames have no influence: a network predicts motion in world coordinates, so their errors must not become
    motion.

    Args:
        before: The scene whose tracks are transferred.
        after: The scene with refined cameras or depth, of the same size and frames.

    Returns:
        The tracks in the world of `after`; None if `before` has no tracks.
    """
    tracks = before.tracks
    if tracks is None:
        return None
    row, column = pixel_indices(tracks.pixels, before.size)
    anchor = tracks.anchors[:, None]
    depths_before, depths_after = (scene.depths[anchor, row, column] for scene in (before, after))
    depth_ratio = torch.where(depths_before > 0, depths_after / depths_before, 1.0)[:, None, :, None]
    old, new = (scene.cameras.frames(tracks.anchors) for scene in (before, after))
    # From a displacement in the world to pixels times depth, which does not depend on the camera.
    to_pixels = old.intrinsics @ old.cam_from_world[:, :3, :3]
    from_pixels = new.world_from_cam[:, :3, :3] @ torch.linalg.inv(new.intrinsics)

    start = tracks.points[torch.arange(len(tracks.anchors)), tracks.anchors][:, None]
    displacement = depth_ratio * torch.einsum("aij,atqj->atqi", from_pixels @ to_pixels, tracks.points - start)
    new_start = after.points_from_depth[anchor, row, column][:, None]
    return replace(tracks, points=new_start + displacement)


def hold_static_tracks(scene: Scene) -> Scene:
    """Keep the tracks of static pixels at their starting point.

    Args:
        scene: A single scene, with or without tracks.

    Returns:
        The scene with tracks that only move if `dynamic` is above one half, or unknown, at their query pixel.
    """
    tracks = scene.tracks
    if tracks is None:
        return scene
    row, column = pixel_indices(tracks.pixels, scene.size)
    is_static = (scene.dynamic[tracks.anchors[:, None], row, column] <= DYNAMIC_THRESHOLD)[:, None, :, None]
    start = tracks.points[torch.arange(len(tracks.anchors)), tracks.anchors][:, None]
    return replace(scene, tracks=replace(tracks, points=torch.where(is_static, start, tracks.points)))
