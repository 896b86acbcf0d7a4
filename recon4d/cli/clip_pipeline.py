"""A clip becomes a folder of results: what `recon4d reconstruct` does with each of its clips."""

import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.cli.formatting import (
    describe_clip,
    describe_known,
    describe_results,
    find_device,
    find_model,
)
from recon4d.cli.long_clips import describe_long_known, reconstruct_long

if TYPE_CHECKING:
    import torch

    from recon4d.cli.reconstruct import ReconstructCommand
    from recon4d.inference import ReconstructConfig
    from recon4d.io import SceneInfo
    from recon4d.io.long_clips import LongClip
    from recon4d.models import Model
    from recon4d.records import (
        Calibration,
        Clip,
        FeatureTracks,
        Scene,
    )
    from recon4d.refine import Refinement

LARGE_MODEL = 100_000_000
"""Parameters from which on a person is told beforehand how much memory a pass needs."""


class ClipPipeline:
    """One clip after another by the same command, with a model that is made when the first needs it."""

    def __init__(self, command: "ReconstructCommand", device: str | None = None) -> None:
        self._command = command
        self._device_name = device or command.device

    @cached_property
    def device(self) -> "torch.device":
        return find_device(self._device_name)

    @cached_property
    def model(self) -> "Model":
        device = self.device  # what cannot be used is refused before a model is made
        return _prepared(find_model(self._command.model), self._command, device)

    def reconstruct(self, path: Path, out: Path, clip_name: str) -> int:
        """Write what becomes of the clip at `path` to the folder `out`, and answer how many frames it has."""
        from recon4d.inference import with_prior_files
        from recon4d.io import atomic_folder, check_output_folder, read_clip, write_results

        command = self._command
        if command.long.is_wanted:
            return self._reconstruct_long(path, out, clip_name)
        check_output_folder(out, command.overwrite)
        if command.refine or command.colmap_intrinsics:
            from recon4d.refine import load_pycolmap

            load_pycolmap()  # missed now, and not when the network has answered
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in the output folder {out}, which is to be replaced; move it away")
        clip = read_clip(path, command.num_frames, command.fps, command.start, command.stop)
        print(describe_clip(path, clip, command.fps))
        clip = with_prior_files(clip, command.known_files)
        if clip.priors is not None:
            print(describe_known(clip.priors))
        if command.colmap_intrinsics:
            clip = _with_colmap_intrinsics(clip)
        if command.refine:
            from recon4d.refine import knows_cameras

            knows_cameras(clip)  # refuses now what could not be refined after the pass
        scene, calibration = self._answer(clip)
        if command.full_resolution:
            scene = scene.resized(*clip.size)
        with atomic_folder(out, command.overwrite) as folder:
            write_results(folder, clip, scene, self._info(clip, clip_name, calibration))
        print(describe_results(out, scene))
        return clip.num_frames

    def _reconstruct_long(self, path: Path, out: Path, clip_name: str) -> int:
        """The same for a clip of any length; the folder stays where it was stopped, and is gone on with."""
        from recon4d.inference import long_clip_with_prior_files
        from recon4d.io.long_clips import open_long_clip

        command = self._command
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in the output folder {out}; choose another")
        long_clip = open_long_clip(path, command.fps, command.start, command.stop)
        long_clip = long_clip_with_prior_files(long_clip, command.known_files)
        if command.known_files.are_given:
            print(describe_long_known(long_clip))
        info = self._info(long_clip, clip_name, self.model.calibration)
        print(reconstruct_long(self.model, long_clip, out, info, self._config, command.long))
        return long_clip.num_frames

    @property
    def _config(self) -> "ReconstructConfig":
        from recon4d.inference import ReconstructConfig

        command = self._command
        return ReconstructConfig(
            command.anchors,
            command.processing_size,
            command.precision,
            key_stride=command.key_stride,
            progress=sys.stderr.isatty(),
        )

    def _answer(self, clip: "Clip") -> "tuple[Scene, Calibration | None]":
        """One pass over the whole clip, refined where that was asked for, and what its confidences mean."""
        from recon4d.inference import reconstruct, reconstruct_and_match

        command, model, config = self._command, self.model, self._config
        if model.num_parameters() > LARGE_MODEL:
            print(_describe_memory(model, clip, config))
        started = time.perf_counter()
        scene, matches = (
            reconstruct_and_match(model, clip, config) if command.refine else (reconstruct(model, clip, config), None)
        )
        seconds = time.perf_counter() - started
        print(f"{model.name} on {self.device}: {scene.size[1]} x {scene.size[0]} pixels in {seconds:.1f} s")
        if matches is None:
            return scene, model.calibration
        refinement = _refined(scene, matches, clip)
        return refinement.scene, refinement.calibration(model.calibration)

    def _info(self, clip: "Clip | LongClip", clip_name: str, calibration: "Calibration | None") -> "SceneInfo":
        from recon4d import __version__
        from recon4d.io import SceneInfo

        return SceneInfo(
            model=self.model.name,
            trained=self.model.trained,
            version=__version__,
            source=clip.source,
            original_size=clip.size,
            settings=self._command.settings(clip_name),
            calibration=calibration,
        )


def _prepared(model: "Model", command: "ReconstructCommand", device: "torch.device") -> "Model":
    """The model on its device, its matrices as narrow as they run, compiled where that is wanted."""
    from recon4d.inference import runs_in_bfloat16
    from recon4d.models import cast_to_bfloat16, compile_blocks

    if runs_in_bfloat16(command.precision, device):
        cast_to_bfloat16(model)
    if command.compile:
        compile_blocks(model)
    return model.to(device)


def _describe_memory(model: "Model", clip: "Clip", config: "ReconstructConfig") -> str:
    from recon4d.inference import processing_size, runs_in_bfloat16
    from recon4d.models import plan_memory

    size = processing_size(clip.size, config.processing_size or model.config.processing_size, model.patch_size)
    narrow = runs_in_bfloat16(config.precision, next(model.parameters()).device)
    plan = plan_memory(model, clip.num_frames, size, len(config.anchors), config.frame_chunk, narrow)
    return f"{model.name} will need about {plan}"


def _with_colmap_intrinsics(clip: "Clip") -> "Clip":
    """The clip with the focal length that COLMAP finds; as it is, and a line that says so, where it finds none."""
    from recon4d.eval import with_colmap_intrinsics
    from recon4d.refine import ColmapFailure

    started = time.perf_counter()
    try:
        clip = with_colmap_intrinsics(clip)
    except ColmapFailure as failure:
        print(f"intrinsics are left to the network: {failure}")
        return clip
    assert clip.priors is not None
    focal, seconds = float(clip.priors.intrinsics[0, 0, 0]), time.perf_counter() - started
    print(f"COLMAP: a focal length of {focal:.0f} pixels in {seconds:.1f} s")
    return clip


def _refined(scene: "Scene", matches: "FeatureTracks", clip: "Clip") -> "Refinement":
    """The scene with refined cameras and depth, and a line that says what came of it."""
    from recon4d.refine import refine_clip

    started = time.perf_counter()
    refinement = refine_clip(clip, scene, matches)
    print(f"{refinement} ({time.perf_counter() - started:.1f} s)")
    return refinement
