"""Accuracy of `recon4d locate` on frames that were held back: ``python -m benchmarks.locate --data FOLDER``.

Each held-back frame is located in a reconstruction of all other frames. Its camera is compared with the measured one,
or without measurements with that of a reconstruction of all frames, after the cameras of the reconstruction have been
aligned by a similarity. Errors of the position are relative to the median depth of the scene. The last columns are the
same errors of the cameras of the reconstruction itself (mean over frames), and those that `recon4d locate` expects.
Pictures of the other clips, which cannot be located, are tried as well. A clip is as in `benchmarks.refine`.
"""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from benchmarks.refine import find_clips, true_poses
from recon4d import __version__
from recon4d.geometry import nearest_rotation, rotation_angle, similarity, transform_cameras
from recon4d.inference import ReconstructConfig, locate, reconstruct_and_match
from recon4d.io import SceneInfo, read_clip, write_results
from recon4d.models import SceneModel
from recon4d.records import Clip, LocatedCameras, Scene
from recon4d.refine import refine_clip
from recon4d.zoo import create_model


@dataclass(frozen=True)
class Benchmark:
    """Locate held-back frames."""

    data: tuple[Path, ...] = (Path("examples/freiburg2_desk"),)
    """Clips, folders of clips, or videos."""
    model: str = "recon4d_mini"
    """Name of a model."""
    num_frames: int = 8
    """Number of frames of a clip, evenly spaced."""
    held_back: tuple[int, ...] = (2, 5)
    """Frames that are held back, one at a time."""
    own_intrinsics: bool = True
    """Whether pictures may be recognized as those of the scene's camera; if not, they are resized by 0.9, so that
    their focal length must be estimated."""


def main(benchmark: Benchmark) -> None:
    """Print a row for each held-back frame, and how many pictures of other clips were located."""
    model = create_model(benchmark.model)
    columns = ("degrees", "% depth", "scene deg", "scene %", "exp. deg", "exp. %", "inliers", "seconds")
    print(f"{'clip':26}{'frame':>6}" + "".join(f"{name:>11}" for name in columns) + "  reference")
    pictures: dict[str, Tensor] = {}
    num_wrong, num_tried = 0, 0
    rows: list[tuple[float, float]] = []
    for path in find_clips(benchmark.data):
        clip = read_clip(path / "images" if (path / "images").is_dir() else path, benchmark.num_frames)
        pictures[path.name] = clip.images[0]
        reference = true_poses(clip, path).double() if path.is_dir() else None
        name = "measured" if reference is not None else "all frames"
        if reference is None:
            reference = refined_scene(model, clip)[0].cameras.world_from_cam.double()
        for held in benchmark.held_back:
            others = [number for number in range(clip.num_frames) if number != held]
            with tempfile.TemporaryDirectory() as folder:
                scene = write_scene(model, clip.frames(others), Path(folder))
                started = time.perf_counter()
                located = locate(folder, query(clip.images[held], benchmark)[None])
                seconds = time.perf_counter() - started
                rows.append(print_row(f"{path.name[:25]:26}{held:6}", located, scene, reference, held, seconds, name))
                for other, picture in pictures.items():
                    if other != path.name:
                        num_tried += 1
                        num_wrong += int(locate(folder, picture[None]).is_located.sum())
    found = torch.tensor(rows)
    share = ((found[:, 0] < 0.5) & (found[:, 1] < 2)).double().mean()
    print(
        f"{'median':32}{found[:, 0].nanmedian():11.3f}{found[:, 1].nanmedian():11.3f}  within .5 degrees and 2 %: "
        f"{share:.0%}"
    )
    print(f"pictures of other clips located: {num_wrong} of {num_tried}")


def query(image: Tensor, benchmark: Benchmark) -> Tensor:
    """Return the picture to locate."""
    if benchmark.own_intrinsics:
        return image
    height, width = (round(0.9 * side) for side in image.shape[1:])
    return Clip(image[None], torch.zeros(1)).resized(height, width).images[0]


def refined_scene(model: SceneModel, clip: Clip) -> tuple[Scene, Clip]:
    """Reconstruct and refine a clip; return the scene and the images that it is of."""
    refinement = refine_clip(clip, *reconstruct_and_match(model, clip, ReconstructConfig(anchors=())))
    return refinement.scene, refinement.clip or clip


def write_scene(model: SceneModel, clip: Clip, folder: Path) -> Scene:
    """Reconstruct and refine a clip, and write its folder of results."""
    scene, clip = refined_scene(model, clip)
    info = SceneInfo(model.name, True, __version__, clip.source, clip.size, settings={})
    write_results(folder, clip, scene, info)
    return scene


def print_row(
    start: str, located: LocatedCameras, scene: Scene, reference: Tensor, held: int, seconds: float, name: str
) -> tuple[float, float]:
    """Print the errors of a held-back frame; return those of rotation and position, infinite if it was not located."""
    trust = located.trust[0]
    if trust is None:
        print(f"{start}  not located: {located.reasons[0]}", flush=True)
        return math.inf, math.inf
    others = [number for number in range(len(reference)) if number != held]
    own = scene.cameras.world_from_cam.double()
    reference_from_scene = align(own, reference[others])
    depth = float(scene.depths[scene.depth_confidence > 0].median())
    scale = float(reference_from_scene[:3, 0].norm())
    degrees, distance = errors(transform_cameras(reference_from_scene, located.cameras.world_from_cam), reference[held])
    scene_errors = errors(transform_cameras(reference_from_scene, own), reference[others])
    values = (
        degrees,
        100 * distance / (scale * depth),
        scene_errors[0],
        100 * scene_errors[1] / (scale * depth),
        trust.rotation_error,
        100 * trust.relative_position_error,
    )
    numbers = "".join(f"{value:11.3f}" for value in values)
    print(f"{start}{numbers}{trust.num_inliers:11}{seconds:11.1f}  {name}; {trust.intrinsics_source}", flush=True)
    return values[0], values[1]


def align(own: Tensor, reference: Tensor) -> Tensor:
    """Fit the similarity that maps cameras to reference cameras: rotation from rotations, the rest from centers."""
    rotation = nearest_rotation((reference[:, :3, :3] @ own[:, :3, :3].mT).sum(dim=0))
    centers, target = own[:, :3, 3] @ rotation.T, reference[:, :3, 3]
    moved, wanted = centers - centers.mean(dim=0), target - target.mean(dim=0)
    scale = (moved * wanted).sum() / moved.square().sum().clamp(min=1e-12)
    return similarity(scale, rotation, target.mean(dim=0) - scale * centers.mean(dim=0))


def errors(cameras: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the mean angle in degrees and the mean distance between cameras."""
    angles = rotation_angle(cameras[..., :3, :3].mT @ reference[..., :3, :3]).rad2deg()
    return float(angles.mean()), float((cameras[..., :3, 3] - reference[..., :3, 3]).norm(dim=-1).mean())


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
