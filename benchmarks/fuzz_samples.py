"""Valid inputs for mutation: the kinds, the synthetic clip from which files are made, and checks of what is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.io import PointSelection, SceneInfo, export_results, read_results, write_results
from recon4d.records import Clip, ClipSource, Scene

COUNT, HEIGHT, WIDTH = 3, 48, 64
"""Frames and size of all files. Small, so that thousands of mutants can be read."""
MAX_VALUE = 1e6
"""Positions and depths above this are nonsense: no seed has more than 100."""


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    name: str
    """Name, for the table."""
    make: Callable[[Path], None]
    """Writes valid files to an empty folder."""
    read: Callable[[Path], None]
    """Reads the folder; raises AssertionError if what was read is nonsense."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files that are mutated."""


@cache
def sample() -> Sample:
    """Create the synthetic clip from which most files are made.

    Returns:
        A clip with exact ground truth.
    """
    made = SyntheticScenes(SyntheticConfig(num_frames=COUNT, height=HEIGHT, width=WIDTH)).sample(3)
    return replace(made, clip=replace(made.clip, times=torch.arange(COUNT) / 10))


def sample_clip() -> Clip:
    """Name the frames of the synthetic clip.

    Returns:
        The clip with a source.
    """
    source = ClipSource("clip", tuple(f"{number:06d}.jpg" for number in range(COUNT)), tuple(range(COUNT)))
    return replace(sample().clip, source=source)


def check_clip(clip: Clip) -> None:
    """Check that a clip has images and finite, ascending times.

    Args:
        clip: A clip that was read.
    """
    assert clip.images.dtype == torch.uint8
    assert clip.num_frames >= 1
    assert min(clip.size) >= 1
    times = clip.times
    if not times.isnan().all():
        check_finite("a time", times)
        assert (times.diff() > 0).all(), "times do not ascend"


def check_finite(name: str, values: torch.Tensor, limit: float = MAX_VALUE) -> None:
    """Check that values are finite and small.

    Args:
        name: Their name, for the message.
        values: The values.
        limit: Largest absolute value.
    """
    assert values.isfinite().all(), f"{name} is not finite"
    assert values.abs().max() <= limit, f"{name} is as large as {values.abs().max():.3g}"


def check_cameras(world_from_cam: torch.Tensor, intrinsics: torch.Tensor | None) -> None:
    """Check that known cameras are rigid and known intrinsics have a positive focal length.

    Args:
        world_from_cam: Poses of shape (time, 4, 4); NaN if unknown.
        intrinsics: Intrinsics of shape (time, 3, 3); NaN if unknown. None if there are none.
    """
    known = world_from_cam[~world_from_cam.isnan().all(dim=(-2, -1))]
    if len(known):
        check_finite("a pose", known, 1e12)
        rotations = known[:, :3, :3].double()
        error = (rotations @ rotations.mT - torch.eye(3)).abs().max()
        assert error < 0.02, f"a rotation is off by {error:.3g}"
        assert (torch.linalg.det(rotations) > 0).all(), "a rotation is a reflection"
        assert (known[:, 3] == known.new_tensor([0, 0, 0, 1])).all(), "a last row is wrong"
    if intrinsics is not None:
        known = intrinsics[~intrinsics.isnan().all(dim=(-2, -1))]
        if len(known):
            check_finite("intrinsics", known, 1e9)
            assert (known[:, 0, 0] > 0).all(), "a focal length is not positive"
            assert (known[:, 1, 1] > 0).all(), "a focal length is not positive"


def check_scene(scene: Scene) -> None:
    """Check the cameras of a scene and the shapes of its maps.

    Args:
        scene: A scene that was read.
    """
    check_cameras(scene.cameras.world_from_cam, scene.cameras.intrinsics)
    assert scene.depths.shape == scene.depth_confidence.shape == scene.point_confidence.shape


def sample_pictures() -> list[Image.Image]:
    """Convert the frames of the synthetic clip.

    Returns:
        Pictures of Pillow.
    """
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in sample().clip.images]


def sample_info(clip: Clip) -> SceneInfo:
    """Describe how the synthetic scene was made.

    Args:
        clip: The clip, with its source.

    Returns:
        The info of an archive.
    """
    return SceneInfo("model", True, "0", clip.source, clip.size, {"fps": 2.0})


def export(folder: Path, kind: str) -> Path:
    """Export the synthetic clip.

    Args:
        folder: An existing folder.
        kind: Name of an export format.

    Returns:
        The folder of the format.
    """
    named, work = sample_clip(), folder / "work"
    work.mkdir()
    write_results(work, named, sample().scene, sample_info(named))
    export_results(folder / "exported", read_results(work), [kind], PointSelection(max_points=20))
    for path in sorted(work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    work.rmdir()
    return folder / "exported" / kind


def sample_depths() -> np.ndarray:
    """Compute the depth maps of the synthetic clip.

    Returns:
        Depths of shape (time, height, width), at most 50.
    """
    return sample().scene.depths.clamp(max=50).numpy()
