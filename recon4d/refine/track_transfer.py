"""Tracks taken along, when the cameras and the depth of a scene become better than the network knew them."""

from dataclasses import replace

import torch

from recon4d.geometry import rows_and_columns
from recon4d.records import Scene, Tracks


def transfer_tracks(before: Scene, after: Scene) -> Tracks | None:
    """The tracks of `before` in `after`, whose cameras or depth are others: the same pixels, followed the same way.

    Each begins where its pixel lies in `after`, and goes as it went in the pixels of its anchor's camera, as much
    farther as its own pixel is deeper. How wrong the cameras of other times were has no part in it: a network tells
    motion in the world, and not by them. What stands still by `after.moving` stays where it begins.
    """
    tracks = before.tracks
    if tracks is None:
        return None
    row, column = rows_and_columns(tracks.pixels, before.size)
    anchor = tracks.anchors[:, None]
    depths_before, depths_after = (scene.depths[anchor, row, column] for scene in (before, after))
    longer = torch.where(depths_before > 0, depths_after / depths_before, 1.0)[:, None, :, None]
    old, new = (scene.cameras.frames(tracks.anchors) for scene in (before, after))
    into_camera = old.intrinsics @ old.cam_from_world[:, :3, :3]  # to pixels times depth: the same in both
    back = new.world_from_cam[:, :3, :3] @ torch.linalg.inv(new.intrinsics)

    start = tracks.points[torch.arange(len(tracks.anchors)), tracks.anchors][:, None]
    way = longer * torch.einsum("aij,atqj->atqi", back @ into_camera, tracks.points - start)
    stands = (after.dynamic[anchor, row, column] <= 0.5)[:, None, :, None]
    begins = after.points_from_depth[anchor, row, column][:, None]
    return replace(tracks, points=begins + torch.where(stands, 0.0, way))
