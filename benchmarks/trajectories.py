"""Errors between the frames: curves fitted to every second frame against straight lines and the nearest frame.

python -m benchmarks.trajectories --split 32 --clips 64

Tracks of moving pixels are fitted to the even frames of each clip and compared with the true positions at the odd
frames, where the point is visible there and in both neighbors. `--tracks predicted` takes the tracks of the refined
prediction of a model instead of the true ones; errors are then after alignment by one similarity. Cameras are
interpolated in the same way.
"""

import time
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.eval.alignment.similarity import align_sim3
from recon4d.geometry.pose_interpolation import interpolate_poses
from recon4d.motion import fit_trajectories
from recon4d.records import Clip, Scene


@dataclass(frozen=True)
class Benchmark:
    """Options of the benchmark."""

    split: Literal["8", "32"] = "32"
    """Split of worlds-v1."""
    clips: int = 64
    """Number of clips, from the first one on."""
    tracks: Literal["true", "predicted"] = "true"
    """Tracks that curves are fitted to."""
    model: str = "recon4d_mini"
    """Model of predicted tracks."""
    max_curves: int = 4000
    """Largest number of curves of a clip."""


@dataclass(frozen=True)
class Errors:
    """Mean errors of one clip at the frames that were left out, in meters."""

    spline: float
    linear: float
    nearest: float
    camera: float
    camera_linear: float
    in_pieces: float
    """Share of the curves that belong to a rigid piece."""
    seconds: float


def main(benchmark: Benchmark) -> None:
    """Print the errors of each clip with moving pixels, and their means."""
    torch.set_num_threads(2)
    split = WORLDS_V1[benchmark.split]
    found = []
    print(f"{'clip':8}" + "".join(f"{name:>14}" for name in Errors.__dataclass_fields__))
    for position in range(min(benchmark.clips, len(split.indices))):
        sample = split.sample(position)
        scene = sample.scene
        if benchmark.tracks == "predicted":
            scene = predicted_scene(benchmark.model, sample.clip, sample.scene)
        errors = held_out_errors(scene, sample.scene, sample.clip.times, benchmark.max_curves)
        if errors is not None:
            found.append(errors)
            print(f"{position:<8}" + "".join(f"{value:14.5f}" for value in vars(errors).values()), flush=True)
    means = {name: sum(getattr(one, name) for one in found) / len(found) for name in Errors.__dataclass_fields__}
    print(f"{'mean':8}" + "".join(f"{value:14.5f}" for value in means.values()))
    print(f"error of curves over that of straight lines: {means['spline'] / means['linear']:.2f} ({len(found)} clips)")


def predicted_scene(model: str, clip: Clip, truth: Scene) -> Scene:
    """Return the refined prediction of a clip, aligned to the truth by one similarity."""
    from recon4d.inference import ReconstructConfig, reconstruct_and_match
    from recon4d.refine import refine_clip
    from recon4d.zoo import find_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = refine_clip(clip, *reconstruct_and_match(find_model(model), clip, ReconstructConfig())).scene
    scene = scene.resized(*truth.size)
    is_known = (truth.depth_confidence > 0) & (scene.depth_confidence > 0)
    alignment = align_sim3(scene.points_from_depth[is_known].double(), truth.points[is_known].double())
    return scene.transformed(alignment.truth_from_prediction.to(scene.depths))


def held_out_errors(scene: Scene, truth: Scene, times: Tensor, max_curves: int) -> Errors | None:
    """Fit the even frames of a scene and measure the odd ones; None if too little moves."""
    count = truth.num_frames
    even, odd = list(range(0, count, 2)), list(range(1, count - 1, 2))
    # The anchor must be among the frames that are kept: all anchors are even frames, or left out.
    started = time.perf_counter()
    fitted = fit_trajectories(scene.frames(even), times[even], max_curves)
    seconds = time.perf_counter() - started
    curves = fitted.trajectories
    assert curves is not None
    assert truth.tracks is not None
    if curves.num_curves < 50:
        return None
    true, visible = _at_queries(truth, curves.anchors * 2, curves.pixels)
    given, _ = _at_queries(scene, curves.anchors * 2, curves.pixels)
    before, after = [frame - 1 for frame in odd], [frame + 1 for frame in odd]
    share = ((times[odd] - times[before]) / (times[after] - times[before]))[:, None, None]
    guesses = {
        "spline": curves.positions(times[odd]).movedim(0, 1),
        "linear": (1 - share) * given[before] + share * given[after],
        "nearest": given[before],
    }
    moved = (true - true[:1]).norm(dim=-1).amax(dim=0) > 0.02
    counted = visible[odd] & visible[before] & visible[after] & moved
    if not counted.any():
        return None
    errors = {name: float((guess - true[odd]).norm(dim=-1)[counted].mean()) for name, guess in guesses.items()}
    cameras, true_cameras = scene.cameras.world_from_cam, truth.cameras.world_from_cam
    smooth = interpolate_poses(cameras[even], times[even], times[odd])[:, :3, 3]
    straight = (1 - share[:, 0]) * cameras[before, :3, 3] + share[:, 0] * cameras[after, :3, 3]
    centers = true_cameras[odd, :3, 3]
    return Errors(
        **errors,
        camera=float((smooth - centers).norm(dim=-1).mean()),
        camera_linear=float((straight - centers).norm(dim=-1).mean()),
        in_pieces=float((curves.pieces >= 0).float().mean()),
        seconds=seconds,
    )


def _at_queries(scene: Scene, anchors: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions (time, curve, 3) and visibility (time, curve) of the tracks of some pixels of anchor frames."""
    tracks = scene.tracks
    assert tracks is not None
    of_anchor = (tracks.anchors == anchors[:, None]).int().argmax(dim=1)
    # Tracks of the truth may be those of a lattice of pixels: take the nearest query.
    queries = torch.cdist(pixels[None], tracks.pixels[of_anchor[:1]]).argmin(dim=-1)[0]
    points = tracks.points[of_anchor, :, queries].movedim(1, 0)
    known = (tracks.visibility[of_anchor, :, queries] > 0.5) & (tracks.confidence[of_anchor, :, queries] > 0)
    return points, known.T


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
