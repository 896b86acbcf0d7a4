"""Each true track beside the track that was predicted for the same pixel of the same anchor frame."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.pairing import is_registered
from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Cameras, Scene, TensorRecord, Tracks

SEARCH_RADIUS = 0.75
"""In pixels; a little more than half a pixel's diagonal, so that a pixel holds whatever falls into it."""
MAX_PITCH = 16
"""Predictions on a grid at most this many pixels wide are dense ones of a smaller size; coarser grids are sparse."""
GRID_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class TrackPairs(TensorRecord):
    """All true queries of all anchors, and what was predicted for them, in one world.

    The world is that of the first camera that both scenes know. What was not found is NaN in `predicted` and in
    `predicted_visible`, so that no comparison with it is ever true.
    """

    predicted: Float[Tensor, "*batch time query 3"]
    true: Float[Tensor, "*batch time query 3"]
    predicted_visibility: Float[Tensor, "*batch time query"]
    """The probability that the point is seen."""
    true_visibility: Bool[Tensor, "*batch time query"]
    believed: Bool[Tensor, "*batch time query"]
    """Where the truth knows the point."""
    found: Bool[Tensor, "*batch time query"]
    """Where the prediction has an answer."""
    anchors: Int[Tensor, "*batch query"]
    """The number of each query's anchor frame."""
    pixels: Float[Tensor, "*batch query 2"]
    """(x, y) in the anchor frame's maps."""
    predicted_cameras: Cameras
    true_cameras: Cameras

    def of_queries(self, chosen: Bool[Tensor, "query"]) -> "TrackPairs":
        """The pairs of some of the queries."""
        return replace(
            self,
            predicted=self.predicted[:, chosen],
            true=self.true[:, chosen],
            predicted_visibility=self.predicted_visibility[:, chosen],
            true_visibility=self.true_visibility[:, chosen],
            believed=self.believed[:, chosen],
            found=self.found[:, chosen],
            anchors=self.anchors[chosen],
            pixels=self.pixels[chosen],
        )

    @property
    def true_at_anchor(self) -> Float[Tensor, "query 3"]:
        """Where the true points are at their anchors' own time."""
        return self.true[self.anchors, torch.arange(len(self.anchors), device=self.anchors.device)]

    @property
    def depth_at_anchor(self) -> Float[Tensor, "query"]:
        """z of the true points in the cameras of their anchors."""
        return transform_points(self.true_cameras.cam_from_world[self.anchors], self.true_at_anchor)[..., 2]

    @property
    def frames_from_anchor(self) -> Int[Tensor, "time query"]:
        """How many frames after its anchor each entry is; below 0 before it."""
        return torch.arange(len(self.true), device=self.anchors.device)[:, None] - self.anchors


def track_pairs(prediction: Scene, truth: Scene) -> TrackPairs:
    """The pairs of two scenes that are `paired`; nothing is found where the prediction has no tracks.

    True queries that the truth does not know at their anchor's time, and those whose anchor was sliced away, are left
    out. A query's prediction is the nearest one within 0.75 pixel in the same anchor frame: in dense predictions,
    whatever their size was, the pixel (then the prediction's own) that contains it. Where no frame is placed in both
    scenes, each stays in its own world. Raises ``ValueError`` for truth without tracks, cameras or numbers.
    """
    _check(prediction, truth)
    both_placed = (is_registered(prediction) & is_registered(truth)).nonzero()
    if len(both_placed):
        first = int(both_placed[0])
        prediction, truth = _in_frame(prediction, first), _in_frame(truth, first)
    true = truth.tracks
    assert true is not None
    num_frames, num_queries = true.points.shape[-3:-1]
    anchors = true.anchors.repeat_interleave(num_queries)
    pixels = true.pixels.flatten(0, 1)
    believed = _query_axis(true.confidence) > 0
    at_anchor = believed.gather(0, anchors.clamp(min=0)[None])[0]
    is_known = (anchors >= 0) & at_anchor
    anchors, pixels = anchors[is_known], pixels[is_known]

    visible = torch.full((num_frames, len(anchors)), torch.nan).to(pixels)
    points = visible[..., None].expand(-1, -1, 3)
    found = torch.zeros_like(visible, dtype=torch.bool)
    if prediction.tracks is not None and prediction.tracks.pixels.numel():
        index = _predicted_queries(prediction.tracks, anchors, pixels, truth.size)
        chosen = index.clamp(min=0)
        found = (_query_axis(prediction.tracks.confidence)[:, chosen] > 0) & (index >= 0)
        visible = _query_axis(prediction.tracks.visibility)[:, chosen].where(found, torch.nan)
        points = _query_axis(prediction.tracks.points)[:, chosen].where(found[..., None], torch.nan)
    return TrackPairs(
        predicted=points,
        true=_query_axis(true.points)[:, is_known],
        predicted_visibility=visible,
        true_visibility=_query_axis(true.visibility)[:, is_known] > 0.5,
        believed=believed[:, is_known],
        found=found,
        anchors=anchors,
        pixels=pixels,
        predicted_cameras=prediction.cameras,
        true_cameras=truth.cameras,
    )


def in_cameras(points: Float[Tensor, "time query 3"], cameras: Cameras) -> Float[Tensor, "time query 3"]:
    """World points in the camera of each time; NaN where the camera is not known."""
    return transform_points(cameras.cam_from_world, points)


def in_pictures(points: Float[Tensor, "time query 3"], cameras: Cameras) -> Float[Tensor, "time query 2"]:
    """World points in the picture of each time, in pixels; NaN at and behind the camera, where nothing is seen."""
    seen = in_cameras(points, cameras)
    return project(seen, cameras.intrinsics).where(seen[..., 2:] > 0, torch.nan)


def _in_frame(scene: Scene, frame: int) -> Scene:
    """`Scene.in_frame`, at no cost where it changes nothing."""
    world_from_cam = scene.cameras.world_from_cam[frame]
    return scene if torch.equal(world_from_cam, torch.eye(4).to(world_from_cam)) else scene.in_frame(frame)


def _query_axis(values: Tensor) -> Tensor:
    """(anchor, time, query, ...) as (time, anchor and query, ...)."""
    return values.movedim(1, 0).flatten(1, 2)


def _predicted_queries(predicted: Tracks, anchors: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """For each true query, the predicted one on the axis of anchors and queries; -1 where there is none."""
    index = torch.full_like(anchors, -1)
    num_queries = predicted.pixels.shape[-2]
    is_somewhere = (predicted.confidence > 0).any(dim=1)
    for anchor in anchors.unique().tolist():
        rows = (predicted.anchors == anchor).nonzero()
        if not len(rows):
            continue
        row, here = int(rows[0]), anchors == anchor
        nearest = nearest_queries(pixels[here], predicted.pixels[row], is_somewhere[row], size)
        index[here] = torch.where(nearest >= 0, nearest + row * num_queries, -1)
    return index


def nearest_queries(
    pixels: Float[Tensor, "query 2"],
    predicted_pixels: Float[Tensor, "predicted 2"],
    is_answered: Bool[Tensor, "predicted"],
    size: tuple[int, int],
) -> Int[Tensor, "query"]:
    """The predicted query nearest to each true one in a picture of `size`, -1 where none is within 0.75 pixel.

    On a grid of the whole picture pixels are the grid's own, and the nearest is the one that contains the true query,
    answered or not. Else only answered queries are candidates; when the queries are the true ones in their order, each
    is its own.
    """
    if pixels.shape == predicted_pixels.shape and torch.allclose(pixels, predicted_pixels, rtol=0, atol=1e-3):
        return torch.arange(len(pixels), device=pixels.device)
    grid = _grid_shape(predicted_pixels, size)
    if grid is None:
        return _nearest_sparse(pixels, predicted_pixels, is_answered)
    rows, columns = grid
    in_own_pixels = pixels / pixels.new_tensor([size[1] / columns, size[0] / rows])
    limits = torch.tensor([columns, rows], device=pixels.device) - 1
    cell = torch.minimum(in_own_pixels.floor().long().clamp(min=0), limits)
    index = cell[:, 1] * columns + cell[:, 0]
    return index.where((in_own_pixels - cell - 0.5).norm(dim=-1) <= SEARCH_RADIUS, -1)


def _grid_shape(pixels: Tensor, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns where `pixels` are the centers of equal cells that fill a picture of `size`, row by row."""
    if not len(pixels) or not pixels.isfinite().all():
        return None
    columns = int((pixels[:, 1] == pixels[0, 1]).sum())
    rows, rest = divmod(len(pixels), columns)
    pitch = (size[1] / columns, size[0] / rows)
    if rest or max(pitch) > MAX_PITCH:
        return None
    grid = pixel_grid(rows, columns, pixels.device, pixels.dtype) * pixels.new_tensor(pitch)
    is_grid = torch.allclose(grid.reshape(-1, 2), pixels, rtol=0, atol=GRID_TOLERANCE)
    return (rows, columns) if is_grid else None


def _nearest_sparse(pixels: Tensor, predicted_pixels: Tensor, is_answered: Tensor) -> Tensor:
    from scipy.spatial import KDTree

    candidates = (is_answered & predicted_pixels.isfinite().all(dim=-1)).nonzero()[:, 0]
    if not len(candidates):
        return torch.full((len(pixels),), -1, device=pixels.device)
    tree = KDTree(predicted_pixels[candidates].double().cpu().numpy())
    distances, nearest = tree.query(pixels.double().cpu().numpy())
    index = candidates[torch.from_numpy(nearest).to(candidates)]
    return index.where(torch.from_numpy(distances).to(pixels.device) <= SEARCH_RADIUS, -1)


def _check(prediction: Scene, truth: Scene) -> None:
    if prediction.num_frames != truth.num_frames or prediction.size != truth.size:
        raise ValueError(
            f"the prediction has {prediction.num_frames} frames of {prediction.size}, the truth {truth.num_frames} of "
            f"{truth.size}; pair them first"
        )
    if truth.tracks is None:
        raise ValueError("the truth has no tracks to compare with")
    lost = int((~is_registered(truth)).sum())
    if lost:
        raise ValueError(f"the truth has tracks, but no camera in {lost} of {truth.num_frames} frames")
    wrong = ~truth.tracks.points.isfinite().all(dim=-1) & ~(truth.tracks.confidence <= 0)
    if wrong.any():
        raise ValueError(f"the true tracks are not finite at {int(wrong.sum())} places that the truth believes in")
