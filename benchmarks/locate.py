"""Accuracy of `recon4d locate` on frames that were held back: ``python -m benchmarks.locate --data FOLDER``.

Each held-back frame is located in a reconstruction of all other frames. Its camera is compared with that of a
reconstruction of all frames (`run`) and with the measured one (`true`), after the cameras of the other frames have been
aligned by a similarity. Errors of the position are relative to the median depth of the scene. `scene` are the errors of
the cameras of the reconstruction itself against the measured ones (mean over frames), `exp.` those that `recon4d
locate` expects. Pictures of the two clips before are tried as well, which cannot be located; those that were located
are named, because some clips show the same place. A clip is as in `benchmarks.refine`.
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
from recon4d.zoo import find_model

NUM_OTHERS = 2
"""Number of clips before a clip whose pictures are tried in its scene."""


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


@dataclass(frozen=True)
class Errors:
    """Errors of a camera."""

    degrees: float
    """Angle in degrees."""
    percent: float
    """Distance in percent of the median depth."""


NO_ERRORS = Errors(math.nan, math.nan)
"""Errors without a reference."""


def main(benchmark: Benchmark) -> None:
    """Print a row for each held-back frame, and which pictures of other clips were located."""
    model = find_model(benchmark.model, allow_untrained=True)
    columns = ("run deg", "run %", "true deg", "true %", "scene deg", "scene %", "exp. deg", "exp. %", "inliers")
    print(f"{'clip':20}{'frame':>6}" + "".join(f"{name:>10}" for name in columns) + "   seconds  intrinsics")
    pictures: dict[str, Tensor] = {}
    located_elsewhere, num_elsewhere = [], 0
    against_run, against_truth = [], []
    for path in (one for given in benchmark.data for one in ([given] if given.is_file() else find_clips((given,)))):
        clip = read_clip(path / "images" if (path / "images").is_dir() else path, benchmark.num_frames)
        pictures[path.name] = clip.images[0]
        truth = true_poses(clip, path).double() if path.is_dir() else None
        whole = refined_scene(model, clip)[0].cameras.world_from_cam.double()
        for held in benchmark.held_back:
            others = [number for number in range(clip.num_frames) if number != held]
            with tempfile.TemporaryDirectory() as folder:
                scene = write_scene(model, clip.frames(others), Path(folder))
                started = time.perf_counter()
                located = locate(folder, query(clip.images[held], benchmark)[None])
                seconds = time.perf_counter() - started
                own = scene.cameras.world_from_cam.double()
                depth = float(scene.depths[scene.depth_confidence > 0].median())
                run, true = (
                    NO_ERRORS
                    if reference is None
                    else errors(located.world_from_camera[0], own, reference, held, depth)
                    for reference in (whole, truth)
                )
                mean = NO_ERRORS if truth is None else scene_errors(own, truth[others], depth)
                print_row(f"{path.name[:19]:20}{held:6}", located, (run, true, mean), seconds)
                against_run.append(run)
                against_truth += [] if truth is None else [true]
                for name, picture in list(pictures.items())[-1 - NUM_OTHERS :]:
                    if name != path.name:
                        num_elsewhere += 1
                        if bool(locate(folder, picture[None]).is_located[0]):
                            located_elsewhere.append(f"{name} in {path.name}")
    for name, found in (("run", against_run), ("true", against_truth)):
        print(summarize(name, found))
    print(f"pictures of other clips located: {len(located_elsewhere)} of {num_elsewhere}")
    for line in sorted(set(located_elsewhere)):
        print(f"  {line}")


def summarize(name: str, found: list[Errors]) -> str:
    """Return the medians, and how many cameras are within half a degree and 2 % of the depth."""
    values = torch.tensor([[one.degrees, one.percent] for one in found]).nan_to_num(nan=math.inf)
    num_good = int(((values[:, 0] < 0.5) & (values[:, 1] < 2)).sum()) if found else 0
    medians = values.median(dim=0).values.tolist() if found else [math.nan] * 2
    return (
        f"against {name}: medians {medians[0]:.3f} degrees and {medians[1]:.3f} %; within .5 degrees and 2 %: "
        f"{num_good} of {len(found)}"
    )


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


def print_row(start: str, located: LocatedCameras, found: tuple[Errors, ...], seconds: float) -> None:
    """Print the errors of a held-back frame."""
    trust = located.trust[0]
    if trust is None:
        print(f"{start}  not located: {located.reasons[0]}", flush=True)
        return
    values = [value for one in found for value in (one.degrees, one.percent)]
    values += [trust.rotation_error, 100 * trust.relative_position_error]
    numbers = "".join(f"{value:10.3f}" for value in values)
    print(f"{start}{numbers}{trust.num_inliers:10}{seconds:10.1f}  {trust.intrinsics_source}", flush=True)


def errors(camera: Tensor, own: Tensor, reference: Tensor, held: int, depth: float) -> Errors:
    """Return the errors of the camera of a held-back frame after alignment of the cameras of the others, `own`."""
    others = [number for number in range(len(reference)) if number != held]
    transform = align(own, reference[others])
    return scene_errors(camera[None], reference[held][None], depth, transform)


def scene_errors(own: Tensor, reference: Tensor, depth: float, transform: Tensor | None = None) -> Errors:
    """Return the mean errors of cameras after alignment."""
    transform = align(own, reference) if transform is None else transform
    moved = transform_cameras(transform, own)
    angles = rotation_angle(moved[:, :3, :3].mT @ reference[:, :3, :3]).rad2deg()
    distances = (moved[:, :3, 3] - reference[:, :3, 3]).norm(dim=-1)
    return Errors(float(angles.mean()), 100 * float(distances.mean() / (transform[:3, 0].norm() * depth)))


def align(own: Tensor, reference: Tensor) -> Tensor:
    """Fit the similarity that maps cameras to reference cameras: rotation from rotations, the rest from centers."""
    rotation = nearest_rotation((reference[:, :3, :3] @ own[:, :3, :3].mT).sum(dim=0))
    centers, target = own[:, :3, 3] @ rotation.T, reference[:, :3, 3]
    moved, wanted = centers - centers.mean(dim=0), target - target.mean(dim=0)
    scale = (moved * wanted).sum() / moved.square().sum().clamp(min=1e-12)
    scale = scale if scale > 0 else torch.ones_like(scale)  # cameras that do not move determine no scale
    return similarity(scale, rotation, target.mean(dim=0) - scale * centers.mean(dim=0))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
