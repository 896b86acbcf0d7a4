"""Pixels of the clip's first frame followed from window to window: at every border the next window goes on with them.

A window answers tracks of all pixels of its own first frame, which the window before has too. A query that the earlier
window sees in that frame stands at a pixel there, and goes on with the later window's tracks of the pixels around. One
that it does not see there ends: no window after it could tell where the query came out again, and a later point in its
place would be another one.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Scene, Tracks

SEEN = 0.5
"""A point that is seen with a greater probability than this is."""
SAME_MOTION = 0.5
"""Two pixels whose probabilities to move differ by this much or more are not of one surface."""
SAME_SURFACE = 0.05
"""A track and a pixel, or two pixels side by side, whose depths differ by less than this share are of one surface."""


@dataclass(frozen=True)
class StitchedTracks:
    """How every query goes on in one window, a row for each: its share in the window's own tracks.

    `pixels` are (x, y) in the clip's first frame. A query is the mean, by `weights`, of the tracks of `corners`, pixels
    of the window's first frame counted row by row; all weights are 0 where it has ended. `points` is where it was last
    known, in the world of the clip (the origin: never).
    """

    pixels: Float[Tensor, "query 2"]
    corners: Int[Tensor, "query corner"]
    weights: Float[Tensor, "query corner"]
    points: Float[Tensor, "query 3"]

    def at(self, scene: Scene, position: int, is_first: bool) -> Tracks:
        """The queries at one frame of the window's answer, in its world; confidence 0 where they are not known.

        `is_first` says that this is the clip's first frame, in which the queries are.
        """
        assert scene.tracks is not None
        answered = (scene.tracks.points, scene.tracks.visibility, scene.tracks.confidence)
        points, visible, confidence = (values[0, position][self.corners] for values in answered)
        weights = self.weights * ((confidence > 0) & points.isfinite().all(dim=-1))
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return Tracks(
            points=_mean(points, weights)[None, None],
            visibility=_mean(visible[..., None], weights)[None, None, :, 0],
            confidence=_mean(confidence[..., None], weights)[None, None, :, 0],
            anchors=scene.tracks.anchors if is_first else torch.full_like(scene.tracks.anchors, -1),
            pixels=self.pixels[None],
        )

    def remember(self, placed: Scene) -> tuple["StitchedTracks", Scene]:
        """The chains after one more frame in the world of the clip, and that frame with the unknown where it last was.

        `placed` has the queries at one time as its tracks.
        """
        tracks = placed.tracks
        assert tracks is not None
        points = torch.where(tracks.confidence[0, 0, :, None] > 0, tracks.points[0, 0], self.points)
        return replace(self, points=points), replace(placed, tracks=replace(tracks, points=points[None, None]))

    def hand_on(self, scene: Scene, position: int, following: Scene) -> "StitchedTracks":
        """The chains for the next window, of which the first frame stands at `position` in this one.

        `scene` and `following` are the two windows' answers, each in a world and a unit of its own: a depth is only
        ever compared with another of the same answer. Of the four pixels around a query those count that are of its
        surface, by depth and by whether it moves; where it is none, the query ends.
        """
        assert following.tracks is not None
        now = self.at(scene, position, is_first=False)
        in_camera = transform_points(scene.cameras.cam_from_world[position], now.points[0, 0])
        seen_at, z = project(in_camera, scene.cameras.intrinsics[position]), in_camera[:, 2]
        is_seen = (now.visibility[0, 0] > SEEN) & _is_inside(seen_at, scene.size)

        corners, shares = _pixels_around(seen_at, scene.size)
        known = (scene.depth_confidence[position] > 0) & (following.depth_confidence[0] > 0)
        known = known.flatten() & (following.tracks.confidence[0, 0] > 0)
        moved = _mean(scene.dynamic[0].flatten()[self.corners][..., None], self.weights)
        moves = scene.dynamic[position].flatten()[corners]
        is_its_own = _is_same_depth(scene.depths[position].flatten()[corners], z[:, None]) & known[corners]
        # What moves may touch what does not, at one depth. NaN compares as false: where nothing is said, all is alike.
        is_its_own &= ~((moves - moved).abs() >= SAME_MOTION)
        shares = shares * (is_its_own & is_seen[:, None])

        nearest = corners.gather(1, shares.argmax(dim=1, keepdim=True))
        depths = following.depths[0].flatten()
        shares = shares * _is_same_depth(depths[corners], depths[nearest])
        # On a plane 1 / z and points / z are bilinear in the picture, and the points themselves are not.
        weights = torch.where(shares > 0, shares / depths[corners], 0.0)
        total = weights.sum(dim=1, keepdim=True)
        return replace(self, corners=corners, weights=torch.where(total > 0, weights / total, 0.0))


def begin_stitching(size: tuple[int, int], stride: int) -> StitchedTracks:
    """Every `stride`-th pixel of the first frame along both axes, from the middle of the first square of that side."""
    height, width = size
    chosen = torch.arange(height * width).reshape(size)[stride // 2 :: stride, stride // 2 :: stride].flatten()
    pixels = pixel_grid(height, width).reshape(-1, 2)[chosen]
    return StitchedTracks(pixels, chosen[:, None], torch.ones(len(chosen), 1), torch.zeros(len(chosen), 3))


def check_tracks(scene: Scene, stride: int) -> None:
    """Refuse an answer whose tracks cannot be followed: wanted are those of all pixels of its first frame."""
    height, width = scene.size
    if stride // 2 >= min(height, width):
        raise ValueError(f"tracks of every {stride}th pixel were asked for, of maps of {height} x {width}; give less")
    tracks = scene.tracks
    if tracks is None or tracks.anchors.tolist() != [0]:
        found = "no tracks" if tracks is None else f"tracks of its frames {tracks.anchors.tolist()}"
    elif tracks.pixels.shape[-2] != height * width:
        found = f"{tracks.pixels.shape[-2]} tracks"
    else:
        return
    raise ValueError(
        f"the answer has {found}; to follow pixels through all windows, each window has to be answered with tracks of "
        "all pixels of its first frame and of no other, as `reconstruct` does with anchors=(0,)"
    )


def _mean(values: Float[Tensor, "query corner channels"], weights: Float[Tensor, "query corner"]) -> Tensor:
    """The weighted sum over corners; what has no weight may be anything, NaN too."""
    weights = weights[..., None]
    return torch.where(weights > 0, values * weights, 0.0).sum(dim=1)


def _is_inside(pixels: Float[Tensor, "query 2"], size: tuple[int, int]) -> Bool[Tensor, " query"]:
    return (pixels >= 0).all(dim=1) & (pixels[:, 0] < size[1]) & (pixels[:, 1] < size[0])


def _pixels_around(
    places: Float[Tensor, "query 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, "query 4"], Float[Tensor, "query 4"]]:
    """The four pixels around each place, counted row by row, and their bilinear shares; inside the picture's rim."""
    height, width = size
    limits = torch.tensor([width, height]) - 1
    centered = torch.minimum((places - 0.5).clamp(min=0), limits)
    low = centered.floor().long()
    high, past = torch.minimum(low + 1, limits), centered - low
    (left, top), (right, bottom), (x, y) = low.unbind(1), high.unbind(1), past.unbind(1)
    corners = [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    shares = [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y]
    return torch.stack(corners, dim=1), torch.stack(shares, dim=1)


def _is_same_depth(one: Tensor, other: Tensor) -> Tensor:
    """Whether depths, of any two shapes that go together, differ by less than `SAME_SURFACE`; none does from z <= 0."""
    return (one - other).abs() < SAME_SURFACE * other
