"""`recon4d reconstruct`: a clip becomes a folder of results."""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from recon4d.cli.words import describe_clip, describe_results, find_device, find_model

LARGE_MODEL = 100_000_000
"""Parameters from which on a person is told beforehand how much memory a pass needs."""

if TYPE_CHECKING:
    import torch

    from recon4d.model import Model
    from recon4d.reconstruction import ReconstructConfig
    from recon4d.records import Clip, FeatureTracks, Scene


@dataclass(frozen=True)
class ReconstructCommand:
    """Turn a video or a folder of pictures into cameras, depth, points and tracks."""

    clip: tyro.conf.Positional[Path]
    """A video, a picture, or a folder of pictures."""
    out: Path
    """Folder to write; it must be new or empty unless --overwrite is given."""
    model: str = "recon4d_small"
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    num_frames: int = 16
    """Frames to take, spread evenly; with --fps the most to take."""
    fps: float | None = None
    """Take frames at this rate; for a folder of pictures, the rate at which they were taken."""
    start: float | None = None
    """Seconds to begin at."""
    stop: float | None = None
    """Seconds to end at."""
    anchors: tuple[int, ...] = (0,)
    """Frames (of those taken, from 0) whose every pixel is tracked to every time."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device is faster with it."""
    key_stride: int = 1
    """Above 1, attention across frames sees every so many rows and columns of patches only: faster, and less exact."""
    compile: bool = False
    """Compile the transformer blocks: a minute or more at first, faster for many frames."""
    processing_size: int | None = None
    """Process at about the area of a square of this many pixels a side; the model's own size by default."""
    full_resolution: bool = False
    """Write maps at the clip's own size instead of the processing size."""
    refine: bool = False
    """Refine the cameras by bundle adjustment over what stands still (needs pycolmap); kept only where that helps."""
    colmap_intrinsics: bool = False
    """Let COLMAP find the focal length first, and tell the network (needs pycolmap)."""
    overwrite: bool = False
    """Replace an earlier reconstruction in the output folder."""

    def run(self) -> None:
        from recon4d import __version__
        from recon4d.export import SceneInfo, atomic_folder, check_output_folder, write_results
        from recon4d.media import read_clip
        from recon4d.reconstruction import ReconstructConfig, reconstruct, reconstruct_and_match

        check_output_folder(self.out, self.overwrite)
        if self.refine or self.colmap_intrinsics:
            from recon4d.sfm import load_pycolmap

            load_pycolmap()  # missed now, and not when the network has answered
        if self.clip.resolve().is_relative_to(self.out.resolve()):
            raise ValueError(f"{self.clip} lies in the output folder {self.out}, which is to be replaced; move it away")
        clip = read_clip(self.clip, self.num_frames, self.fps, self.start, self.stop)
        print(describe_clip(self.clip, clip, self.fps))
        if self.colmap_intrinsics:
            clip = _with_colmap_intrinsics(clip)
        device = find_device(self.device)
        model = _prepared(find_model(self.model), self, device)
        config = ReconstructConfig(
            self.anchors,
            self.processing_size,
            self.precision,
            key_stride=self.key_stride,
            progress=sys.stderr.isatty(),
        )
        if model.num_parameters() > LARGE_MODEL:
            print(_describe_memory(model, clip, config))
        started = time.perf_counter()
        scene, tracks = (
            reconstruct_and_match(model, clip, config) if self.refine else (reconstruct(model, clip, config), None)
        )
        seconds = time.perf_counter() - started
        print(f"{model.name} on {device}: {scene.size[1]} x {scene.size[0]} pixels in {seconds:.1f} s")
        if tracks is not None:
            scene = _refined(scene, tracks)

        if self.full_resolution:
            scene = scene.resized(*clip.size)
        info = SceneInfo(
            model=model.name,
            trained=model.trained,
            version=__version__,
            source=clip.source,
            original_size=clip.size,
            settings=_settings(self),
        )
        with atomic_folder(self.out, self.overwrite) as folder:
            write_results(folder, clip, scene, info)
        print(describe_results(self.out, scene))


def _prepared(model: "Model", command: ReconstructCommand, device: "torch.device") -> "Model":
    """The model on its device, its matrices as narrow as they run, compiled where that is wanted."""
    from recon4d.model import compile_blocks, narrow_weights
    from recon4d.reconstruction import runs_in_bfloat16

    if runs_in_bfloat16(command.precision, device):
        narrow_weights(model)
    if command.compile:
        compile_blocks(model)
    return model.to(device)


def _describe_memory(model: "Model", clip: "Clip", config: "ReconstructConfig") -> str:
    from recon4d.model import plan_memory
    from recon4d.reconstruction import processing_size, runs_in_bfloat16

    size = processing_size(clip.size, config.processing_size or model.config.processing_size, model.patch_size)
    narrow = runs_in_bfloat16(config.precision, next(model.parameters()).device)
    plan = plan_memory(model, clip.num_frames, size, len(config.anchors), config.frame_chunk, narrow)
    return f"{model.name} will need about {plan}"


def _with_colmap_intrinsics(clip: "Clip") -> "Clip":
    """The clip with the focal length that COLMAP finds; as it is, and a line that says so, where it finds none."""
    from recon4d.sfm import ColmapFailure, with_colmap_intrinsics

    started = time.perf_counter()
    try:
        clip = with_colmap_intrinsics(clip)
    except ColmapFailure as failure:
        print(f"intrinsics are left to the network: {failure}")
        return clip
    assert clip.known is not None
    focal, seconds = float(clip.known.intrinsics[0, 0, 0]), time.perf_counter() - started
    print(f"COLMAP: a focal length of {focal:.0f} pixels in {seconds:.1f} s")
    return clip


def _refined(scene: "Scene", tracks: "FeatureTracks") -> "Scene":
    from recon4d.sfm import refine

    started = time.perf_counter()
    refinement = refine(scene, tracks)
    print(f"{refinement} ({time.perf_counter() - started:.1f} s)")
    return refinement.scene


def _settings(command: ReconstructCommand) -> dict[str, str | int | float | bool | list | None]:
    """The command as plain JSON values; where it was written to is no part of the result."""
    values = {name: value for name, value in asdict(command).items() if name not in ("out", "overwrite")}
    return {**values, "clip": str(command.clip), "anchors": list(command.anchors)}
