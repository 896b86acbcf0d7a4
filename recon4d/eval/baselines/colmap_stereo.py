"""COLMAP's dense depth: PatchMatch stereo (Schönberger et al. 2016), where pycolmap was built with CUDA."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Scene
from recon4d.refine.pycolmap_loader import load_pycolmap


def has_dense_stereo() -> bool:
    """Whether this pycolmap can run dense stereo here; the one on PyPI cannot."""
    return bool(load_pycolmap().has_cuda) and torch.cuda.is_available()


def dense_depths(
    model: Any, names: list[str], folder: Path, size: tuple[int, int]
) -> Float[Tensor, "time height width"]:
    """The depth of every frame at `size` (height, width), in the model's unit; 0 where stereo is not sure.

    `folder` holds the pictures that COLMAP saw in images/. Frames that are not in the model are 0 everywhere. The
    model's cameras must be pinholes: the maps are those of the pictures as they are.
    """
    pycolmap = load_pycolmap()
    sparse, workspace = folder / "largest", folder / "dense"
    sparse.mkdir()
    model.write(sparse)
    pycolmap.undistort_images(workspace, sparse, folder / "images")
    pycolmap.patch_match_stereo(workspace)
    depths = torch.zeros(len(names), *size)
    for frame, name in enumerate(names):
        path = workspace / "stereo" / "depth_maps" / f"{name}.geometric.bin"
        if path.is_file():
            stored = pycolmap.DepthMap()
            stored.read(path)
            values = torch.from_numpy(stored.to_array()).float()
            depths[frame] = F.interpolate(values[None, None], size, mode="nearest-exact")[0, 0]
    return depths.clamp(min=0)


def with_depths(scene: Scene, depths: Float[Tensor, "time height width"]) -> Scene:
    """The scene with dense depth, and the points that follow from it, in the place of its sparse points."""
    is_placed = scene.cameras.world_from_cam.isfinite().all(dim=(1, 2))[:, None, None]
    known = (depths > 0) & is_placed
    confidence = known.to(scene.depths.dtype)
    dense = replace(
        scene,
        depths=torch.where(known, depths, 0.0).to(scene.depths.dtype),
        depth_confidence=confidence,
        point_confidence=confidence,
    )
    return replace(dense, points=dense.points_from_depth).without_unknown_points()
