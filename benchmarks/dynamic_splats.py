"""Rendered Gaussian splats against the frames of a clip: splats on curves, without motion, and static ones only.

python -m benchmarks.dynamic_splats --split 32 --clips 16
python -m benchmarks.dynamic_splats --split 32 --clips 4 --geometry predicted
python -m benchmarks.dynamic_splats --pictures examples/freiburg2_desk --geometry predicted

Splats of every second frame are rendered from the cameras of the frames that were left out (`between`), and from those
of the frames they were made of (`frames`). PSNR (decibels, of colors in [0, 1]) counts pixels of known depth: all of
them, those that move, and those that do not. As the exposure of clips varies, an affine function of each channel is
fitted to each picture before.

- `curves`: dynamic Gaussians move along their curves and rotate with their rigid pieces.
- `nearest`: the dynamic Gaussians of the nearest frame, without motion.
- `static`: static Gaussians only.
"""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes, render_scenes
from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1
from recon4d.geometry import evenly_spaced_indices
from recon4d.geometry.gaussian_splatting import rasterize_gaussians
from recon4d.io.point_cloud import confident_pixels
from recon4d.motion import fit_trajectories, scene_gaussians
from recon4d.records import Cameras, Clip, Scene
from recon4d.records.gaussians import DynamicGaussians, Gaussians

METHODS = ("curves", "nearest", "static")
MIN_DYNAMIC_SHARE = 0.02
"""Clips of which a smaller share of pixels moves are left out, unless pictures are given."""
ANCHORS = (0, 8, 16, 24)
"""Frames whose pixels are tracked."""
MAX_VIEWS = 5
"""Largest number of frames of each kind that are rendered, evenly spaced."""


@dataclass(frozen=True)
class Benchmark:
    """Options of the benchmark."""

    split: Literal["8", "32", "tuning"] = "32"
    """Split of worlds-v1, or scenes of the training seed, by which the constants of splats were chosen."""
    clips: int = 16
    """Number of clips, from the first one on."""
    geometry: Literal["true", "predicted"] = "true"
    """True geometry and tracks of synthetic scenes, or the refined prediction of a model."""
    pictures: Path | None = None
    """Video or folder of pictures instead of synthetic scenes; needs predicted geometry."""
    model: str = "recon4d_mini"
    """Model of predictions."""
    drop: float = 0.0
    """Percentage of pixels, the least confident ones, that do not become splats."""


@dataclass(frozen=True)
class Squares:
    """Sum of squared errors of colors, and number of values."""

    total: float = 0.0
    count: int = 0

    def plus(self, errors: Tensor) -> "Squares":
        """Add squared errors."""
        return Squares(self.total + float(errors.sum()), self.count + errors.numel())

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in decibels; NaN if nothing was counted."""
        if not self.count:
            return float("nan")
        return float(-10 * torch.log10(torch.tensor(max(self.total / self.count, 1e-10))))


def main(benchmark: Benchmark) -> None:
    """Print the PSNR of each clip and the means over clips."""
    columns = [f"{method}/{part}" for method in METHODS for part in ("all", "moving", "still")]
    print(f"{'clip':14}" + "".join(f"{name:>16}" for name in columns) + f"{'splats':>10}{'render s':>10}")
    rows: dict[str, list[list[float]]] = {"between": [], "frames": []}
    for name, clip, scene, truth in clips_of(benchmark):
        for views, row in measure(clip, scene, truth, benchmark.drop).items():
            rows[views].append(row)
            print(line(f"{name} {views}", row), flush=True)
    for views, values in rows.items():
        print(line(f"mean {views}", torch.tensor(values).nanmean(dim=0).tolist()))


def line(name: str, row: list[float]) -> str:
    """Format a row of the table."""
    return f"{name:14}" + "".join(f"{value:16.2f}" for value in row[:-2]) + f"{row[-2]:10.0f}{row[-1]:10.2f}"


def clips_of(benchmark: Benchmark):
    """Yield the name, clip, scene to splat and scene that tells which pixels move."""
    if benchmark.pictures is not None:
        from recon4d import read_clip

        clip = read_clip(benchmark.pictures)
        if not torch.isfinite(clip.times).all():
            clip = replace(clip, times=torch.arange(clip.num_frames) / 5)
        scene = predicted_scene(benchmark.model, clip)
        yield "pictures", clip.resized(*scene.size), scene, scene
        return
    for position in range(benchmark.clips):
        if benchmark.split == "tuning":
            config = SyntheticConfig(32, 192, 256, static_scene_share=0, static_camera_share=0.2, attempts=1)
            sample = SyntheticScenes(config, ANCHORS).sample(position)
        else:
            split = WORLDS_V1[benchmark.split]
            anchors = [anchor for anchor in ANCHORS if anchor < split.config.num_frames]
            sample = render_scenes(split.scene(position), split.config, anchors)[0]
        if sample.scene.is_dynamic.float().mean() < MIN_DYNAMIC_SHARE or not torch.isfinite(sample.clip.times).all():
            continue
        scene = sample.scene
        if benchmark.geometry == "predicted":
            scene = predicted_scene(benchmark.model, sample.clip).resized(*sample.scene.size)
        yield str(position), sample.clip, scene, sample.scene


def predicted_scene(model: str, clip: Clip) -> Scene:
    """Return the refined prediction of a clip."""
    from recon4d.inference import ReconstructConfig, reconstruct_and_match
    from recon4d.refine import refine_clip
    from recon4d.zoo import find_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = ReconstructConfig(anchors=tuple(anchor for anchor in ANCHORS if anchor < clip.num_frames))
        return refine_clip(clip, *reconstruct_and_match(find_model(model), clip, config)).scene


def measure(clip: Clip, scene: Scene, truth: Scene, drop: float) -> dict[str, list[float]]:
    """Return PSNR of each method and part, the number of splats and the seconds of one picture, for both views."""
    even, odd = list(range(0, clip.num_frames, 2)), list(range(1, clip.num_frames - 1, 2))
    times, fitted = clip.times, fit_trajectories(scene.frames(even), clip.times[even])
    mask = confident_pixels(scene, drop)[even]
    on_curves = scene_gaussians(fitted, clip.images[even], times[even], mask)
    without = scene_gaussians(replace(fitted, trajectories=None), clip.images[even], times[even], mask)
    measured = {}
    for views, frames in (("between", odd), ("frames", even)):
        numbers = [frames[place] for place in evenly_spaced_indices(len(frames), MAX_VIEWS).tolist()]
        row: list[float] = []
        started, drawn = time.perf_counter(), 0
        for method in METHODS:
            squares = {part: Squares() for part in ("all", "moving", "still")}
            for number in numbers:
                splats = gaussians_of(method, on_curves, without, float(times[number]))
                picture = render(splats, scene.cameras.frames([number]), scene.size)
                known = truth.depth_confidence[number] > 0
                picture = matched_colors(picture, clip.images[number].movedim(0, -1) / 255, known)
                errors = (picture - clip.images[number].movedim(0, -1) / 255).square()
                squares = {
                    part: squares[part].plus(errors[chosen])
                    for part, chosen in parts_of(known, truth.is_dynamic[number]).items()
                }
                drawn += 1
            row += [one.psnr for one in squares.values()]
        seconds = (time.perf_counter() - started) / drawn
        measured[views] = [*row, float(len(on_curves.gaussians.centers)), seconds]
    return measured


def matched_colors(
    picture: Float[Tensor, "h w 3"], wanted: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]
) -> Float[Tensor, "h w 3"]:
    """Match the exposure of a picture by an affine function of each channel, fitted to the pixels of a mask."""
    matched = picture.clone()
    for channel in range(3):
        given = torch.stack([picture[mask][:, channel], torch.ones(int(mask.sum()))], dim=1)
        gain, offset = torch.linalg.lstsq(given, wanted[mask][:, channel, None]).solution[:, 0]
        matched[..., channel] = gain * picture[..., channel] + offset
    return matched.clamp(0, 1)


def parts_of(known: Bool[Tensor, "h w"], is_dynamic: Bool[Tensor, "h w"]) -> dict[str, Bool[Tensor, "h w"]]:
    """Return the pixels of each part."""
    return {"all": known, "moving": known & is_dynamic, "still": known & ~is_dynamic}


def gaussians_of(method: str, on_curves: DynamicGaussians, without: DynamicGaussians, moment: float) -> Gaussians:
    """Return the Gaussians that a method shows at a time."""
    if method == "curves":
        return on_curves.at(moment)
    return without.at(moment) if method == "nearest" else without.gaussians.select(without.is_static)


def render(splats: Gaussians, camera: Cameras, size: tuple[int, int]) -> Float[Tensor, "height width 3"]:
    """Draw Gaussians before a gray background."""
    image, opacity = rasterize_gaussians(
        splats.centers,
        splats.covariances,
        splats.opacities,
        splats.colors,
        camera.cam_from_world[0],
        camera.intrinsics[0],
        size,
    )
    return image + 0.5 * (1 - opacity[..., None])


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
