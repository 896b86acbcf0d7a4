"""Tracks of the pixels of the clip's first frame, stitched together from the tracks of successive windows.

Each window is reconstructed with tracks of all pixels of its first frame, which the previous window contains as well. A
query that is visible in that frame, according to the previous window, has a pixel position there and continues with the
next window's tracks of the surrounding pixels. A query that is not visible there ends: later windows cannot tell where
it reappears, and a later point at the same place would be a different one.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import is_in_image, pixel_grid, project, transform_points
from recon4d.records import Scene, Tracks

MIN_VISIBILITY = 0.5
"""Visibility probability above which a query continues. Hand-tuned."""
MAX_DYNAMIC_DIFFERENCE = 0.5
"""Difference of dynamic probability from which two pixels belong to different surfaces. Hand-tuned."""
DEPTH_TOLERANCE = 0.05
"""Largest difference in depth between a track and a pixel, or two adjacent pixels, of the same surface, as a fraction
of depth. Hand-tuned."""


@dataclass(frozen=True)
class StitchedTracks:
    """State of all queries in one window: each query is a weighted mean of tracks of the window."""

    pixels: Float[Tensor, "query 2"]
    """Pixel coordinates (x, y) of each query in the clip's first frame, (query, 2)."""
    corners: Int[Tensor, "query corner"]
    """Pixels of the window's first frame (row-major index) whose tracks each query averages, (query, corner)."""
    weights: Float[Tensor, "query corner"]
    """Weight of each track, (query, corner); all are 0 for a query that has ended."""
    points: Float[Tensor, "query 3"]
    """Last known position of each query in the world of the clip, (query, 3); the origin if there is none."""

    def tracks_at(self, scene: Scene, position: int, is_first: bool) -> Tracks:
        """Evaluate the queries at one frame of the window.

        Args:
            scene: Reconstruction of the window, with its tracks.
            position: Index of the frame in the window.
            is_first: Whether this is the clip's first frame, which contains the queries.

        Returns:
            Tracks of one time step in the window's world; confidence 0 for queries that are unknown then.
        """
        assert scene.tracks is not None
        window_tracks = (scene.tracks.points, scene.tracks.visibility, scene.tracks.confidence)
        points, visibility, confidence = (values[0, position][self.corners] for values in window_tracks)
        weights = self.weights * ((confidence > 0) & points.isfinite().all(dim=-1))
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return Tracks(
            points=_weighted_sum(points, weights)[None, None],
            visibility=_weighted_sum(visibility[..., None], weights)[None, None, :, 0],
            confidence=_weighted_sum(confidence[..., None], weights)[None, None, :, 0],
            anchors=scene.tracks.anchors if is_first else torch.full_like(scene.tracks.anchors, -1),
            pixels=self.pixels[None],
        )

    def update_last_points(self, frame: Scene) -> tuple["StitchedTracks", Scene]:
        """Remember where each query is in a frame, and fill in the last known position of unknown queries.

        Args:
            frame: Scene of one frame in the world of the clip; its tracks are those of `tracks_at`.

        Returns:
            The updated state, and the frame with the last known positions of unknown queries.
        """
        tracks = frame.tracks
        assert tracks is not None
        points = torch.where(tracks.confidence[0, 0, :, None] > 0, tracks.points[0, 0], self.points)
        return replace(self, points=points), replace(frame, tracks=replace(tracks, points=points[None, None]))

    def continue_in(self, scene: Scene, position: int, next_scene: Scene) -> "StitchedTracks":
        """Continue the queries in the next window.

        Depths are compared only within the same reconstruction, since each has a world and a unit of its own. Of the
        four pixels around a query, those on its surface are used, as judged by depth and dynamic probability. If there
        is none, the query ends.

        Args:
            scene: Reconstruction of this window.
            position: Index in this window of the next window's first frame.
            next_scene: Reconstruction of the next window.

        Returns:
            The state of all queries in the next window.
        """
        assert next_scene.tracks is not None
        current = self.tracks_at(scene, position, is_first=False)
        in_camera = transform_points(scene.cameras.cam_from_world[position], current.points[0, 0])
        pixels, z = project(in_camera, scene.cameras.intrinsics[position]), in_camera[:, 2]
        is_visible = (current.visibility[0, 0] > MIN_VISIBILITY) & is_in_image(pixels, scene.size)

        corners, shares = _bilinear_corners(pixels, scene.size)
        valid = (scene.depth_confidence[position] > 0) & (next_scene.depth_confidence[0] > 0)
        valid = valid.flatten() & (next_scene.tracks.confidence[0, 0] > 0)
        query_dynamic = _weighted_sum(scene.dynamic[0].flatten()[self.corners][..., None], self.weights)
        corner_dynamic = scene.dynamic[position].flatten()[corners]
        on_surface = _is_same_depth(scene.depths[position].flatten()[corners], z[:, None]) & valid[corners]
        # A dynamic surface may touch a static one at the same depth. NaN (no prediction) compares as false.
        on_surface &= ~((corner_dynamic - query_dynamic).abs() >= MAX_DYNAMIC_DIFFERENCE)
        shares = shares * (on_surface & is_visible[:, None])

        nearest = corners.gather(1, shares.argmax(dim=1, keepdim=True))
        depths = next_scene.depths[0].flatten()
        shares = shares * _is_same_depth(depths[corners], depths[nearest])
        # On a plane, 1 / z and point / z are bilinear in the image; the points themselves are not.
        weights = torch.where(shares > 0, shares / depths[corners], 0.0)
        total = weights.sum(dim=1, keepdim=True)
        return replace(self, corners=corners, weights=torch.where(total > 0, weights / total, 0.0))


def begin_stitching(size: tuple[int, int], stride: int) -> StitchedTracks:
    """Create queries at every `stride`-th pixel of the first frame, starting at `stride` // 2 along both axes.

    Args:
        size: Height and width of the maps in pixels.
        stride: Distance between queries in pixels.

    Returns:
        The state of the queries in the first window, where each query is a track of its own.
    """
    height, width = size
    chosen = torch.arange(height * width).reshape(size)[stride // 2 :: stride, stride // 2 :: stride].flatten()
    pixels = pixel_grid(height, width).reshape(-1, 2)[chosen]
    return StitchedTracks(pixels, chosen[:, None], torch.ones(len(chosen), 1), torch.zeros(len(chosen), 3))


def check_tracks(scene: Scene, stride: int, name: str) -> None:
    """Check that the tracks of a window can be stitched: it must have tracks of all pixels of its first frame.

    Args:
        scene: Reconstruction of a window.
        stride: Distance between queries in pixels.
        name: Description of the window for messages.

    Raises:
        UserError: If the stride is too large for the maps.
        ValueError: If the scene has other tracks, or none.
    """
    height, width = scene.size
    if stride // 2 >= min(height, width):
        raise UserError(
            f"{name}: tracks is {stride}, which leaves no query in maps of {height} x {width} pixels; use a smaller "
            "stride"
        )
    tracks = scene.tracks
    if tracks is None or tracks.anchors.tolist() != [0]:
        found = "no tracks" if tracks is None else f"tracks of its frames {tracks.anchors.tolist()}"
    elif tracks.pixels.shape[-2] != height * width:
        found = f"{tracks.pixels.shape[-2]} tracks"
    else:
        return
    raise ValueError(
        f"{name}: the reconstruction has {found}; stitching needs tracks of all pixels of the window's first frame "
        "and of no other frame, as `reconstruct` returns with anchors=(0,)"
    )


def _weighted_sum(values: Float[Tensor, "query corner channels"], weights: Float[Tensor, "query corner"]) -> Tensor:
    """Sum over corners; values with weight 0 may be NaN."""
    weights = weights[..., None]
    return torch.where(weights > 0, values * weights, 0.0).sum(dim=1)


def _bilinear_corners(
    pixels: Float[Tensor, "query 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, "query 4"], Float[Tensor, "query 4"]]:
    """Return the four pixels around each position (row-major index, clamped to the image) and bilinear weights."""
    height, width = size
    limits = torch.tensor([width, height]) - 1
    centered = torch.minimum((pixels - 0.5).clamp(min=0), limits)
    low = centered.floor().long()
    high, fraction = torch.minimum(low + 1, limits), centered - low
    (left, top), (right, bottom), (x, y) = low.unbind(1), high.unbind(1), fraction.unbind(1)
    corners = [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    shares = [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y]
    return torch.stack(corners, dim=1), torch.stack(shares, dim=1)


def _is_same_depth(one: Tensor, other: Tensor) -> Tensor:
    """Compare depths of broadcastable shapes within `DEPTH_TOLERANCE`; false if `other` is not positive."""
    return (one - other).abs() < DEPTH_TOLERANCE * other
