"""Feature tracks with a predicted depth, so that they have starting points for triangulation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.geometry import is_in_image, pixel_indices, transform_points, unproject
from recon4d.records import Cameras, FeatureTracks, Scene

MIN_OBSERVATIONS = 2
"""Smallest number of frames in which a track must be observed; two are the fewest that constrain cameras."""


@dataclass(frozen=True)
class LocatedTracks:
    """Feature tracks, each with the depth that a scene predicts in one reference frame."""

    tracks: FeatureTracks
    frames: Int[Tensor, " track"]
    """Index of the reference frame: the first one that observes the track and has a depth there."""
    depths: Float[Tensor, " track"]
    """Predicted depth in the reference frame, in the unit of the scene."""

    def __len__(self) -> int:
        return len(self.frames)

    def points(self, cameras: Cameras) -> Float[Tensor, "track 3"]:
        """Unproject the tracks from their reference frames.

        Args:
            cameras: Cameras of all frames; they need not be those of the scene that predicted the depths.

        Returns:
            Points in world coordinates.
        """
        pixels = self.tracks.pixels[self.frames, torch.arange(len(self.frames))]
        in_camera = unproject(pixels[:, None], self.depths[:, None], cameras.intrinsics[self.frames])
        return transform_points(cameras.world_from_cam[self.frames], in_camera)[:, 0]

    def reference_depths(self, points: Float[Tensor, "track 3"], cameras: Cameras) -> Float[Tensor, " track"]:
        """Compute the depth of one point per track in the track's reference frame.

        Args:
            points: Points in world coordinates.
            cameras: Cameras of all frames.

        Returns:
            Depths in the unit of `points`; negative behind the camera.
        """
        cam_from_world = cameras.cam_from_world[self.frames].to(points)
        return transform_points(cam_from_world, points[:, None])[:, 0, 2]

    def take(self, indices: Int[Tensor, " n"]) -> "LocatedTracks":
        """Select tracks.

        Args:
            indices: Indices of the tracks to keep, in the order of the result.

        Returns:
            The selected tracks.
        """
        return LocatedTracks(take_tracks(self.tracks, indices), self.frames[indices], self.depths[indices])


def locate_tracks(scene: Scene, tracks: FeatureTracks) -> LocatedTracks:
    """Look up the predicted depth of each track.

    Tracks without a predicted depth in any frame are dropped, and so are those observed in fewer than
    `MIN_OBSERVATIONS` frames.

    Args:
        scene: The predicted scene.
        tracks: Tracks through its frames, in pixels of its maps.

    Returns:
        The remaining tracks, in the order of `tracks`.
    """
    row, column = pixel_indices(tracks.pixels, scene.size)
    frame = torch.arange(scene.num_frames)[:, None]
    depths = scene.depths[frame, row, column]
    has_depth = (tracks.visibility > 0) & is_in_image(tracks.pixels, scene.size)
    has_depth &= (scene.depth_confidence[frame, row, column] > 0) & (depths > 0)
    # The depth of a single frame rather than a mean: its errors are smooth, so that one set of cameras can agree with
    # all of it.
    first = has_depth.int().argmax(dim=0)
    located = LocatedTracks(tracks, first, depths.gather(0, first[None])[0])
    is_kept = has_depth.any(dim=0) & ((tracks.visibility > 0).sum(dim=0) >= MIN_OBSERVATIONS)
    return located.take(is_kept.nonzero()[:, 0])


def take_tracks(tracks: FeatureTracks, indices: Int[Tensor, " n"]) -> FeatureTracks:
    """Select feature tracks.

    Args:
        tracks: Tracks of a single clip.
        indices: Indices of the tracks to keep, in the order of the result.

    Returns:
        The selected tracks.
    """
    return FeatureTracks(tracks.pixels[:, indices], tracks.visibility[:, indices])
