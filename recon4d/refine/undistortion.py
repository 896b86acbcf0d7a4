"""Removal of the lens distortion that refinement has found from a clip, a scene and tracks."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.io.undistortion import undistort_image, undistort_map, undistort_mask
from recon4d.records import Clip, FeatureTracks, Priors, Scene, Tracks
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.tracks.located_tracks import LocatedTracks


def undistort_clip(clip: Clip, intrinsics: Float[Tensor, "time 3 3"], distortion: RadialDistortion) -> Clip:
    """Remove lens distortion from the images of a clip.

    Args:
        clip: The clip. Its priors may hold a mask; they must not hold depth.
        intrinsics: Intrinsics in pixels of the clip.
        distortion: Distortion of the lens.

    Returns:
        The clip that a pinhole camera with the same intrinsics would have recorded. Pixels that the original images do
        not show are black and ignored.
    """
    lens = distortion.coefficients()
    priors = clip.priors or Priors.unknown(clip.num_frames)
    masks = [None] * clip.num_frames if priors.ignore is None else priors.ignore
    images = [undistort_image(image, matrix, lens) for image, matrix in zip(clip.images, intrinsics, strict=True)]
    ignore = [undistort_mask(mask, clip.size, matrix, lens) for mask, matrix in zip(masks, intrinsics, strict=True)]
    return replace(clip, images=torch.stack(images), priors=replace(priors, ignore=torch.stack(ignore)))


def undistort_scene(scene: Scene, intrinsics: Float[Tensor, "time 3 3"], distortion: RadialDistortion) -> Scene:
    """Remove lens distortion from the maps of a scene.

    Args:
        scene: The scene of the distorted images.
        intrinsics: Intrinsics in pixels of its maps.
        distortion: Distortion of the lens.

    Returns:
        The scene whose pixels have the values of the nearest distorted pixels, with confidence 0 where the original
        images show nothing. Its cameras are unchanged.
    """

    def undistort(maps: Tensor) -> Tensor:
        channels = maps.movedim(-1, 1) if maps.ndim == 4 else maps[:, None]
        straight = torch.stack(
            [undistort_map(frame, matrix, lens) for frame, matrix in zip(channels, intrinsics, strict=True)]
        )
        return straight.movedim(1, -1) if maps.ndim == 4 else straight[:, 0]

    lens = distortion.coefficients()
    return replace(
        scene,
        depths=undistort(scene.depths),
        depth_confidence=undistort(scene.depth_confidence),
        points=undistort(scene.points),
        point_confidence=undistort(scene.point_confidence),
        dynamic=undistort(scene.dynamic),
        tracks=None if scene.tracks is None else _undistort_queries(scene.tracks, scene.size, intrinsics, distortion),
        distortion=lens.to(scene.depths),
    )


def undistort_tracks(
    tracks: LocatedTracks, intrinsics: Float[Tensor, "time 3 3"], distortion: RadialDistortion
) -> LocatedTracks:
    """Remove lens distortion from tracks.

    Args:
        tracks: Tracks in pixels of the distorted images.
        intrinsics: Intrinsics of all frames, which are equal.
        distortion: Distortion of the lens.

    Returns:
        The tracks in pixels of the undistorted images.
    """
    pixels = distortion.undistort(tracks.tracks.pixels, intrinsics[0]).to(tracks.tracks.pixels)
    return replace(tracks, tracks=FeatureTracks(pixels, tracks.tracks.visibility))


def _undistort_queries(
    tracks: Tracks, size: tuple[int, int], intrinsics: Float[Tensor, "time 3 3"], distortion: RadialDistortion
) -> Tracks:
    """Move the queries to their undistorted pixels; those of dense tracks stay dense, in row-major order."""
    height, width = size
    if tracks.pixels.shape[-2] != height * width:
        moved = distortion.undistort(tracks.pixels, intrinsics[0]).to(tracks.pixels)
        inside = ((moved >= 0) & (moved < moved.new_tensor([width, height]))).all(dim=-1)
        confidence = torch.where(inside[:, None], tracks.confidence, 0.0)
        return replace(tracks, pixels=torch.where(inside[..., None], moved, tracks.pixels), confidence=confidence)
    queries = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width)
    lens = distortion.coefficients()
    source = undistort_map(queries, intrinsics[0], lens).flatten().long()
    is_known = undistort_map(torch.ones_like(queries), intrinsics[0], lens).flatten() > 0
    return replace(
        tracks,
        points=tracks.points[:, :, source],
        visibility=tracks.visibility[:, :, source] * is_known,
        confidence=tracks.confidence[:, :, source] * is_known,
    )
