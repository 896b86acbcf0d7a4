"""Self-supervised loss terms: photometric and semantic consistency of frames under the predicted geometry.

Static pixels are warped into the neighboring frames by predicted depth and cameras. Dynamic pixels, by the predicted
mask, are warped by the predicted tracks from the first anchor frame into all other frames.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d import losses
from recon4d.losses import Term, Warp
from recon4d.models import Model
from recon4d.records import DYNAMIC_THRESHOLD, Scene, full_precision

CONSISTENCY_TERMS = ("photometric", "semantic")
"""Names of the terms in `LossWeights`."""

Images = Float[Tensor, "batch time 3 height width"]
Features = Float[Tensor, "batch time channels rows columns"]


@dataclass(frozen=True)
class _View:
    """The pixels of one frame of each clip, warped into another frame."""

    source: Int[Tensor, "batch"]
    """Source frame of each clip."""
    target: int
    """Target frame, the same in all clips."""
    warp: Warp
    """Positions and depths of the source pixels in the target frame."""
    valid: Bool[Tensor, "batch height width"]
    """Source pixels that are visible in the target frame."""


def consistency_terms(
    model: Model, images: Images | UInt8[Tensor, "batch time 3 height width"], scene: Scene, names: tuple[str, ...]
) -> dict[str, Term]:
    """Compute consistency terms.

    Args:
        model: The model, for its backbone features.
        images: RGB images, 0 to 255 as integers or 0 to 1 as floats.
        scene: Prediction for `images`, with maps of the same size.
        names: Names of the wanted terms; names of other terms are ignored.

    Returns:
        The wanted terms of `CONSISTENCY_TERMS` by name.
    """
    if not set(names) & set(CONSISTENCY_TERMS):
        return {}
    images = images / 255 if images.dtype == torch.uint8 else images
    images = full_precision(images)
    static = [_neighbor_views(scene, source) for source in range(scene.num_frames)]
    dynamic = _tracked_views(scene)
    terms = {}
    if "photometric" in names:
        parts = [_best_neighbor(images, views) for views in static if views]
        terms["photometric"] = _sum_terms(scene, parts + [_best_neighbor(images, (view,)) for view in dynamic])
    if "semantic" in names:
        features = _frozen_features(model, images)
        views = [view for views in static for view in views] + dynamic
        terms["semantic"] = _sum_terms(scene, [_semantic_term(features, view) for view in views])
    return terms


def _neighbor_views(scene: Scene, source: int) -> tuple[_View, ...]:
    """Warp the static pixels of a frame into the previous and the next frame of the clip."""
    views = []
    for target in (source - 1, source + 1):
        if 0 <= target < scene.num_frames:
            warp = losses.warp_static(scene, source, target)
            valid = _visibility_mask(scene, warp, target) & (scene.dynamic[:, source] < DYNAMIC_THRESHOLD)
            views.append(_View(_frame_index(scene, source), target, warp, valid))
    return tuple(views)


def _tracked_views(scene: Scene) -> list[_View]:
    """Warp the dynamic pixels of the first anchor frame into all other frames."""
    if scene.tracks is None:
        return []
    anchors = scene.tracks.anchors[:, 0]
    is_dynamic = _select_frames(scene.dynamic, anchors) >= DYNAMIC_THRESHOLD
    views = []
    for target in range(scene.num_frames):
        warp = losses.warp_tracked(scene, 0, target)
        is_other = (anchors != target)[:, None, None]
        views.append(_View(anchors, target, warp, _visibility_mask(scene, warp, target) & is_dynamic & is_other))
    return views


def _visibility_mask(scene: Scene, warp: Warp, target: int) -> Bool[Tensor, "batch height width"]:
    return losses.is_unoccluded(warp, scene.depths[:, target].detach(), scene.depth_confidence[:, target] > 0)


def _best_neighbor(images: Images, views: tuple[_View, ...]) -> Term:
    """Compare each pixel with the target frame that matches best, which tolerates occlusion in the others."""
    source = _select_frames(images, views[0].source)
    targets = tuple(images[:, view.target] for view in views)
    warps, valid = tuple(view.warp for view in views), tuple(view.valid for view in views)
    return losses.best_neighbor_photometric_term(source, targets, warps, valid)


def _semantic_term(features: Features, view: _View) -> Term:
    source = _select_frames(features, view.source)
    return losses.semantic_term(source, features[:, view.target], view.warp, view.valid)


@torch.no_grad()
def _frozen_features(model: Model, images: Images) -> Features:
    """Return the backbone's patch tokens as maps; only features of a pretrained backbone (DINO) are semantic."""
    batch, time, _, height, width = images.shape
    dtype = model.dtype
    tokens = full_precision(model.backbone(images.flatten(0, 1).to(dtype)).tokens)
    maps = tokens.mT.unflatten(-1, (height // model.patch_size, width // model.patch_size))
    return maps.unflatten(0, (batch, time))


def _frame_index(scene: Scene, number: int) -> Int[Tensor, "batch"]:
    return torch.full((len(scene.depths),), number, device=scene.depths.device)


def _select_frames(maps: Tensor, frames: Int[Tensor, "batch"]) -> Tensor:
    """Select one frame of each clip from maps of shape (batch, time, ...)."""
    return maps[torch.arange(len(maps), device=maps.device), frames]


def _sum_terms(scene: Scene, parts: list[Term]) -> Term:
    """Combine the terms of all views; the result has count 0 if a clip has a single frame."""
    return losses.merge_terms(*parts) if parts else losses.masked_term(scene.depths, torch.zeros_like(scene.depths))
