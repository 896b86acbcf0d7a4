"""Terms without truth: that a pixel looks and means the same in another frame, by the prediction's own geometry.

Still pixels go to the frames beside theirs by predicted depth and cameras. Moving ones, by the predicted mask, are
followed where the network was asked for motion: from the asked frame to every other, by its tracks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d import losses
from recon4d.losses import Term, Warp
from recon4d.models import Model
from recon4d.records import Scene, full_precision

CONSISTENCY_TERMS = ("photometric", "semantic")
MOVES = 0.5
"""Pixels that move with at least this probability go by their tracks."""

Pictures = Float[Tensor, "batch time 3 height width"]
Features = Float[Tensor, "batch time channels rows columns"]


@dataclass(frozen=True)
class _View:
    """The pixels of one frame of each clip as another frame shows them."""

    source: Int[Tensor, "batch"]
    """The source frame of each clip."""
    target: int
    warp: Warp
    seen: Bool[Tensor, "batch height width"]


def consistency_terms(
    model: Model, images: Pictures | UInt8[Tensor, "batch time 3 height width"], scene: Scene, wanted: tuple[str, ...]
) -> dict[str, Term]:
    """Those of `CONSISTENCY_TERMS` that are wanted; `scene` is the prediction for `images`, of the same size."""
    if not set(wanted) & set(CONSISTENCY_TERMS):
        return {}
    images = images / 255 if images.dtype == torch.uint8 else images
    images = full_precision(images)
    still = [_neighbor_views(scene, source) for source in range(scene.num_frames)]
    moving = _tracked_views(scene)
    terms = {}
    if "photometric" in wanted:
        parts = [_best_neighbor(images, views) for views in still if views]
        terms["photometric"] = _together(scene, parts + [_best_neighbor(images, (view,)) for view in moving])
    if "semantic" in wanted:
        features = _frozen_features(model, images)
        views = [view for views in still for view in views] + moving
        terms["semantic"] = _together(scene, [_same_meaning(features, view) for view in views])
    return terms


def _neighbor_views(scene: Scene, source: int) -> tuple[_View, ...]:
    """What stands still in a frame, in the frames before and after it in the clip."""
    views = []
    for target in (source - 1, source + 1):
        if 0 <= target < scene.num_frames:
            warp = losses.warp_still(scene, source, target)
            seen = _seen(scene, warp, target) & (scene.dynamic[:, source] < MOVES)
            views.append(_View(_frame(scene, source), target, warp, seen))
    return tuple(views)


def _tracked_views(scene: Scene) -> list[_View]:
    """What moves in the first of the asked frames, in all others."""
    if scene.tracks is None:
        return []
    anchors = scene.tracks.anchors[:, 0]
    moves = _of_frame(scene.dynamic, anchors) >= MOVES
    views = []
    for target in range(scene.num_frames):
        warp = losses.warp_tracked(scene, 0, target)
        is_other = (anchors != target)[:, None, None]
        views.append(_View(anchors, target, warp, _seen(scene, warp, target) & moves & is_other))
    return views


def _seen(scene: Scene, warp: Warp, target: int) -> Bool[Tensor, "batch height width"]:
    return losses.seen_in_target(warp, scene.depths[:, target].detach(), scene.depth_confidence[:, target] > 0)


def _best_neighbor(images: Pictures, views: tuple[_View, ...]) -> Term:
    """Each pixel by the frame that shows it best, which forgives what hides it in the others."""
    source = _of_frame(images, views[0].source)
    targets = tuple(images[:, view.target] for view in views)
    warps, seen = tuple(view.warp for view in views), tuple(view.seen for view in views)
    return losses.best_neighbor_photometric_term(source, targets, warps, seen)


def _same_meaning(features: Features, view: _View) -> Term:
    return losses.semantic_term(_of_frame(features, view.source), features[:, view.target], view.warp, view.seen)


@torch.no_grad()
def _frozen_features(model: Model, images: Pictures) -> Features:
    """The backbone's tokens as maps of patches. They say as much of meaning as it has learned: DINO's is meant."""
    batch, time, _, height, width = images.shape
    dtype = next(model.parameters()).dtype
    tokens = full_precision(model.backbone(images.flatten(0, 1).to(dtype)).tokens)
    maps = tokens.mT.unflatten(-1, (height // model.patch_size, width // model.patch_size))
    return maps.unflatten(0, (batch, time))


def _frame(scene: Scene, number: int) -> Int[Tensor, "batch"]:
    return torch.full((len(scene.depths),), number, device=scene.depths.device)


def _of_frame(maps: Tensor, frames: Int[Tensor, "batch"]) -> Tensor:
    """The maps (batch, time, ...) of one frame of each clip."""
    return maps[torch.arange(len(maps), device=maps.device), frames]


def _together(scene: Scene, parts: list[Term]) -> Term:
    """One term over all views; of nothing where a clip has one frame."""
    return losses.together(*parts) if parts else losses.masked_term(scene.depths, torch.zeros_like(scene.depths))
