"""Pairs of true and predicted tracks of the same pixel in the same anchor frame."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.pairing import is_registered
from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Cameras, Scene, TensorRecord, Tracks

SEARCH_RADIUS = 0.75
"""Largest distance between true and predicted query, in pixels: slightly more than half the diagonal of a pixel, so
that every query inside a pixel is matched to it."""
MAX_CELL_SIZE = 16
"""Largest cell size of a grid of dense queries, in pixels of the truth; queries on coarser grids count as sparse.
Hand-tuned."""
GRID_TOLERANCE = 0.01
"""Largest deviation of queries from a regular grid, in pixels."""


@dataclass(frozen=True, eq=False)
class TrackPairs(TensorRecord):
    """True tracks of the queries of all anchors, with the predicted track of each query.

    The world frame is the first camera that is registered in both scenes. Entries of `predicted` and
    `predicted_visibility` without a prediction are NaN, so that every comparison with them is False.
    """

    predicted: Float[Tensor, "*batch time query 3"]
    """Predicted points in the world frame, in the unit of the prediction; NaN if missing."""
    true: Float[Tensor, "*batch time query 3"]
    """True points in the world frame, in the unit of the truth."""
    predicted_visibility: Float[Tensor, "*batch time query"]
    """Predicted probability that the point is visible; NaN if missing."""
    true_visibility: Bool[Tensor, "*batch time query"]
    """Whether the true point is visible."""
    is_known: Bool[Tensor, "*batch time query"]
    """Whether the true point is known."""
    is_found: Bool[Tensor, "*batch time query"]
    """Whether there is a predicted point."""
    anchors: Int[Tensor, "*batch query"]
    """Index of the anchor frame of each query."""
    pixels: Float[Tensor, "*batch query 2"]
    """Position (x, y) of the query in the maps of its anchor frame, in pixels."""
    predicted_cameras: Cameras
    """Predicted cameras in the same world frame."""
    true_cameras: Cameras
    """True cameras in the same world frame."""

    def select_queries(self, is_selected: Bool[Tensor, "query"]) -> "TrackPairs":
        """Select queries.

        Args:
            is_selected: Queries to keep.

        Returns:
            The pairs of the selected queries.
        """
        return replace(
            self,
            predicted=self.predicted[:, is_selected],
            true=self.true[:, is_selected],
            predicted_visibility=self.predicted_visibility[:, is_selected],
            true_visibility=self.true_visibility[:, is_selected],
            is_known=self.is_known[:, is_selected],
            is_found=self.is_found[:, is_selected],
            anchors=self.anchors[is_selected],
            pixels=self.pixels[is_selected],
        )

    @property
    def true_at_anchor(self) -> Float[Tensor, "query 3"]:
        """True points at the time of their anchor."""
        return self.true[self.anchors, torch.arange(len(self.anchors), device=self.anchors.device)]

    @property
    def depth_at_anchor(self) -> Float[Tensor, "query"]:
        """Depth of the true points in the camera of their anchor, in the unit of the truth."""
        return transform_points(self.true_cameras.cam_from_world[self.anchors], self.true_at_anchor)[..., 2]

    @property
    def frames_from_anchor(self) -> Int[Tensor, "time query"]:
        """Number of frames from the anchor to each frame; negative before the anchor."""
        return torch.arange(len(self.true), device=self.anchors.device)[:, None] - self.anchors


def track_pairs(prediction: Scene, truth: Scene) -> TrackPairs:
    """Match the predicted tracks to the true queries.

    Each true query is matched to the nearest predicted query of the same anchor frame within 0.75 pixels. Dense
    predictions may have another resolution: the query is then matched to the predicted pixel that contains it. True
    queries whose point is unknown in the anchor frame, or whose anchor frame was removed from the clip, are skipped. If
    no frame is registered in both scenes, each scene stays in its own world frame.

    Args:
        prediction: Predicted scene, after `pair_with_truth`; without tracks, all entries are missing.
        truth: True scene with tracks and with all cameras.

    Returns:
        The pairs of all queries.

    Raises:
        ValueError: If the scenes do not match in size, or if the truth lacks tracks or cameras or has known points that
            are not finite.
    """
    _validate(prediction, truth)
    both_registered = (is_registered(prediction) & is_registered(truth)).nonzero()
    if len(both_registered):
        first = int(both_registered[0])
        prediction, truth = _in_frame(prediction, first), _in_frame(truth, first)
    true = truth.tracks
    assert true is not None
    num_frames, num_queries = true.points.shape[-3:-1]
    anchors = true.anchors.repeat_interleave(num_queries)
    pixels = true.pixels.flatten(0, 1)
    is_known = _query_axis(true.confidence) > 0
    is_known_at_anchor = is_known.gather(0, anchors.clamp(min=0)[None])[0]
    is_valid = (anchors >= 0) & is_known_at_anchor
    anchors, pixels = anchors[is_valid], pixels[is_valid]

    visibility = torch.full((num_frames, len(anchors)), torch.nan).to(pixels)
    points = visibility[..., None].expand(-1, -1, 3)
    is_found = torch.zeros_like(visibility, dtype=torch.bool)
    if prediction.tracks is not None and prediction.tracks.pixels.numel():
        index = _predicted_queries(prediction.tracks, anchors, pixels, truth.size)
        matched = index.clamp(min=0)
        is_found = (_query_axis(prediction.tracks.confidence)[:, matched] > 0) & (index >= 0)
        visibility = _query_axis(prediction.tracks.visibility)[:, matched].where(is_found, torch.nan)
        points = _query_axis(prediction.tracks.points)[:, matched].where(is_found[..., None], torch.nan)
    return TrackPairs(
        predicted=points,
        true=_query_axis(true.points)[:, is_valid],
        predicted_visibility=visibility,
        true_visibility=_query_axis(true.visibility)[:, is_valid] > 0.5,
        is_known=is_known[:, is_valid],
        is_found=is_found,
        anchors=anchors,
        pixels=pixels,
        predicted_cameras=prediction.cameras,
        true_cameras=truth.cameras,
    )


def points_in_cameras(points: Float[Tensor, "time query 3"], cameras: Cameras) -> Float[Tensor, "time query 3"]:
    """Transform points to the camera frames.

    Args:
        points: Points in the world frame.
        cameras: Cameras of each time.

    Returns:
        Points in the camera frame of their time; NaN if the camera is unknown.
    """
    return transform_points(cameras.cam_from_world, points)


def project_into_frames(points: Float[Tensor, "time query 3"], cameras: Cameras) -> Float[Tensor, "time query 2"]:
    """Project points into the frames.

    Args:
        points: Points in the world frame.
        cameras: Cameras of each time.

    Returns:
        Pixel positions (x, y) in the frame of their time; NaN if the camera is unknown or the point is not in front of
        it.
    """
    in_camera = points_in_cameras(points, cameras)
    return project(in_camera, cameras.intrinsics).where(in_camera[..., 2:] > 0, torch.nan)


def _in_frame(scene: Scene, frame: int) -> Scene:
    """Apply `Scene.in_frame` unless the camera already is the world frame."""
    world_from_cam = scene.cameras.world_from_cam[frame]
    return scene if torch.equal(world_from_cam, torch.eye(4).to(world_from_cam)) else scene.in_frame(frame)


def _query_axis(values: Tensor) -> Tensor:
    """Reshape (anchor, time, query, ...) to (time, anchor * query, ...)."""
    return values.movedim(1, 0).flatten(1, 2)


def _predicted_queries(predicted: Tracks, anchors: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the index of the predicted query on the axis anchor * query for each true query; -1 if there is none."""
    index = torch.full_like(anchors, -1)
    num_queries = predicted.pixels.shape[-2]
    has_track = (predicted.confidence > 0).any(dim=1)
    for anchor in anchors.unique().tolist():
        rows = (predicted.anchors == anchor).nonzero()
        if not len(rows):
            continue
        row, here = int(rows[0]), anchors == anchor
        nearest = nearest_queries(pixels[here], predicted.pixels[row], has_track[row], size)
        index[here] = torch.where(nearest >= 0, nearest + row * num_queries, -1)
    return index


def nearest_queries(
    pixels: Float[Tensor, "query 2"],
    predicted_pixels: Float[Tensor, "predicted 2"],
    has_track: Bool[Tensor, "predicted"],
    size: tuple[int, int],
) -> Int[Tensor, "query"]:
    """Find the nearest predicted query of each true query in one anchor frame.

    If both lists of queries are equal, each query is matched to itself. If the predicted queries form a regular grid
    over the frame, a true query is matched to the cell that contains it, whether or not it has a track, and distances
    are in cells. Otherwise it is matched to the nearest predicted query that has a track.

    Args:
        pixels: Positions (x, y) of the true queries, in pixels.
        predicted_pixels: Positions (x, y) of the predicted queries, in the same pixels.
        has_track: Predicted queries that have a predicted point in some frame.
        size: Height and width of the frame in pixels.

    Returns:
        Indices into the predicted queries; -1 if none is within 0.75 pixels (cells of a grid).
    """
    if pixels.shape == predicted_pixels.shape and torch.allclose(pixels, predicted_pixels, rtol=0, atol=1e-3):
        return torch.arange(len(pixels), device=pixels.device)
    grid = _grid_shape(predicted_pixels, size)
    if grid is None:
        return _nearest_sparse(pixels, predicted_pixels, has_track)
    rows, columns = grid
    in_cells = pixels / pixels.new_tensor([size[1] / columns, size[0] / rows])
    limits = torch.tensor([columns, rows], device=pixels.device) - 1
    cell = torch.minimum(in_cells.floor().long().clamp(min=0), limits)
    index = cell[:, 1] * columns + cell[:, 0]
    return index.where((in_cells - cell - 0.5).norm(dim=-1) <= SEARCH_RADIUS, -1)


def _grid_shape(pixels: Tensor, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns if the pixels are the centers of equal cells that fill the frame in row-major order."""
    if not len(pixels) or not pixels.isfinite().all():
        return None
    columns = int((pixels[:, 1] == pixels[0, 1]).sum())
    rows, rest = divmod(len(pixels), columns)
    cell_size = (size[1] / columns, size[0] / rows)
    if rest or max(cell_size) > MAX_CELL_SIZE:
        return None
    grid = pixel_grid(rows, columns, pixels.device, pixels.dtype) * pixels.new_tensor(cell_size)
    is_grid = torch.allclose(grid.reshape(-1, 2), pixels, rtol=0, atol=GRID_TOLERANCE)
    return (rows, columns) if is_grid else None


def _nearest_sparse(pixels: Tensor, predicted_pixels: Tensor, has_track: Tensor) -> Tensor:
    """Return the nearest predicted query that has a track; -1 if none is within the search radius."""
    from scipy.spatial import KDTree

    valid = (has_track & predicted_pixels.isfinite().all(dim=-1)).nonzero()[:, 0]
    if not len(valid):
        return torch.full((len(pixels),), -1, device=pixels.device)
    tree = KDTree(predicted_pixels[valid].double().cpu().numpy())
    distances, nearest = tree.query(pixels.double().cpu().numpy())
    index = valid[torch.from_numpy(nearest).to(valid)]
    return index.where(torch.from_numpy(distances).to(pixels.device) <= SEARCH_RADIUS, -1)


def _validate(prediction: Scene, truth: Scene) -> None:
    if prediction.num_frames != truth.num_frames or prediction.size != truth.size:
        raise ValueError(
            f"the prediction has {prediction.num_frames} frames of {prediction.size}, the truth {truth.num_frames} of "
            f"{truth.size}; apply pair_with_truth first"
        )
    if truth.tracks is None:
        raise ValueError("the truth has no tracks to compare with")
    missing = int((~is_registered(truth)).sum())
    if missing:
        raise ValueError(f"the truth has tracks, but no camera in {missing} of {truth.num_frames} frames")
    is_wrong = ~truth.tracks.points.isfinite().all(dim=-1) & ~(truth.tracks.confidence <= 0)
    if is_wrong.any():
        raise ValueError(f"the true tracks are not finite at {int(is_wrong.sum())} places with a confidence above 0")
