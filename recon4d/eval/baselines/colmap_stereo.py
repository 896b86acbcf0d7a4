"""Dense depth from COLMAP's PatchMatch stereo (Schönberger et al. 2016), which needs a pycolmap built with CUDA."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Scene
from recon4d.refine.pycolmap_loader import load_pycolmap, pycolmap_session


def has_dense_stereo() -> bool:
    """Check whether dense stereo is available.

    Returns:
        Whether pycolmap was built with CUDA (the package on PyPI is not) and there is a CUDA device.

    Raises:
        NoPycolmapError: If pycolmap is not installed.
    """
    return bool(load_pycolmap().has_cuda) and torch.cuda.is_available()


def dense_depths(
    model: Any, names: list[str], folder: Path, size: tuple[int, int]
) -> Float[Tensor, "time height width"]:
    """Compute the depth of every frame by PatchMatch stereo.

    Args:
        model: A pycolmap `Reconstruction` with pinhole cameras, since maps are not distorted back.
        names: Image name of every frame, in order.
        folder: Folder with the images of the model in `images`; results are written to `largest` and `dense`.
        size: Height and width of the depth maps, in pixels.

    Returns:
        Depth in the unit of the model; 0 where stereo is not certain, and in frames that are not registered.
    """
    sparse, workspace = folder / "largest", folder / "dense"
    sparse.mkdir()
    model.write(sparse)
    depths = torch.zeros(len(names), *size)
    with pycolmap_session() as pycolmap:
        pycolmap.undistort_images(workspace, sparse, folder / "images")
        pycolmap.patch_match_stereo(workspace)
        for frame, name in enumerate(names):
            path = workspace / "stereo" / "depth_maps" / f"{name}.geometric.bin"
            if path.is_file():
                stored = pycolmap.DepthMap()
                stored.read(path)
                values = torch.from_numpy(stored.to_array()).float()
                depths[frame] = F.interpolate(values[None, None], size, mode="nearest-exact")[0, 0]
    return depths.clamp(min=0)


def with_depths(scene: Scene, depths: Float[Tensor, "time height width"]) -> Scene:
    """Replace the sparse depth and points of a scene by dense ones.

    Args:
        scene: A scene whose unregistered cameras are NaN.
        depths: Depth in the unit of the scene; 0 where unknown.

    Returns:
        The scene with dense depth and the points that follow from it, with confidence 1 where depth is known.
    """
    is_registered = scene.cameras.world_from_cam.isfinite().all(dim=(1, 2))[:, None, None]
    is_known = (depths > 0) & is_registered
    confidence = is_known.to(scene.depths.dtype)
    dense = replace(
        scene,
        depths=torch.where(is_known, depths, 0.0).to(scene.depths.dtype),
        depth_confidence=confidence,
        point_confidence=confidence,
    )
    return replace(dense, points=dense.points_from_depth).zero_unknown_points()
