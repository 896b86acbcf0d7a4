"""`recon4d reconstruct`: a clip becomes a folder of results, and many clips a folder each."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon4d.cli.long_clips import LongConfig, describe_long_known, reconstruct_long
from recon4d.cli.words import describe_clip, describe_known, describe_results, find_device, find_model

LARGE_MODEL = 100_000_000
"""Parameters from which on a person is told beforehand how much memory a pass needs."""
EXIT_INTERRUPTED = 130
LONGEST_WAIT_DAYS = 30
"""A process that has finished its share waits so long for the others."""

if TYPE_CHECKING:
    import torch

    from recon4d.export import SceneInfo
    from recon4d.media.long_clips import LongClip
    from recon4d.model import Model
    from recon4d.reconstruction import KnownFiles, Outcome, ReconstructConfig
    from recon4d.records import Clip, FeatureTracks, Scene


@dataclass(frozen=True)
class ReconstructCommand:
    """Turn a video or a folder of pictures into cameras, depth, points and tracks."""

    clips: tyro.conf.Positional[tuple[Path, ...]]
    """A video, a picture, or a folder of pictures; or several of these."""
    out: Path
    """Folder to write; it must be new or empty unless --overwrite is given. Of several clips, each gets a folder in it,
    and what is finished there with the same settings is left as it is."""
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
    intrinsics: str | None = None
    """Known: fx,fy,cx,cy in the clip's own pixels (first centre at .5), or a file with those of all or each frame."""
    cameras: Path | None = None
    """Known: a TUM trajectory, a COLMAP folder, a transforms.json or a scene.npz."""
    depth: Path | None = None
    """Known: an npz file with depths (time, height, width), or depths, pixels and frames of single points."""
    mask: Path | None = None
    """A picture, or a folder of pictures, white where the clip is to be ignored: sky, people, a car's bonnet."""
    distortion: str | None = None
    """Known: k1,k2,p1,p2 or k1,k2,p1,p2,k3 of the lens, to be taken out; results are of the undistorted pictures."""
    refine: bool = False
    """Refine the cameras by bundle adjustment over what stands still (needs pycolmap); kept only where that helps."""
    colmap_intrinsics: bool = False
    """Let COLMAP find the focal length first, and tell the network (needs pycolmap)."""
    overwrite: bool = False
    """Replace an earlier reconstruction in the output folder."""
    long: Annotated[LongConfig, tyro.conf.arg(name="")] = LongConfig()  # noqa: RUF009 - frozen

    def run(self) -> None:
        if not self.clips:
            raise ValueError("give at least one clip: a video, a picture or a folder of pictures")
        if self.refine and self.cameras is not None:
            raise ValueError("--refine moves cameras, and --cameras says what they are: give one of the two")
        if self.long.is_wanted:
            self._refuse_what_needs_one_pass()
        if len(self.clips) == 1:
            _Work(self).reconstruct(self.clips[0], self.out, str(self.clips[0]))
            return
        if self.cameras or self.depth or (self.mask and self.mask.is_dir()):
            raise ValueError("--cameras, --depth and a folder as --mask belong to one clip; several clips were given")
        _reconstruct_many(self)

    def _refuse_what_needs_one_pass(self) -> None:
        one_pass = {
            "--refine": self.refine,
            "--colmap-intrinsics": self.colmap_intrinsics,
            "--full-resolution": self.full_resolution,
            "--overwrite": self.overwrite,
            "--depth": self.depth is not None,
        }
        if given := [what for what, is_given in one_pass.items() if is_given]:
            raise ValueError(f"{', '.join(given)}: not for --window and --anchored, which take a clip in parts")
        if self.long.loops and self.cameras is not None:
            raise ValueError("--loops moves windows, and --cameras says where they are: give one of the two")

    @property
    def known_files(self) -> "KnownFiles":
        from recon4d.reconstruction import KnownFiles

        return KnownFiles(self.intrinsics, self.cameras, self.depth, self.mask, self.distortion)


class _Work:
    """One clip after another by the same command, with a model that is made when the first needs it."""

    def __init__(self, command: ReconstructCommand, device: str | None = None) -> None:
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
        from recon4d.export import atomic_folder, check_output_folder, write_results
        from recon4d.media import read_clip
        from recon4d.reconstruction import with_known_files

        command = self._command
        if command.long.is_wanted:
            return self._reconstruct_long(path, out, clip_name)
        check_output_folder(out, command.overwrite)
        if command.refine or command.colmap_intrinsics:
            from recon4d.sfm import load_pycolmap

            load_pycolmap()  # missed now, and not when the network has answered
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in the output folder {out}, which is to be replaced; move it away")
        clip = read_clip(path, command.num_frames, command.fps, command.start, command.stop)
        print(describe_clip(path, clip, command.fps))
        clip = with_known_files(clip, command.known_files)
        if clip.known is not None:
            print(describe_known(clip.known))
        if command.colmap_intrinsics:
            clip = _with_colmap_intrinsics(clip)
        scene = self._answer(clip)
        if command.full_resolution:
            scene = scene.resized(*clip.size)
        with atomic_folder(out, command.overwrite) as folder:
            write_results(folder, clip, scene, self._info(clip, clip_name))
        print(describe_results(out, scene))
        return clip.num_frames

    def _reconstruct_long(self, path: Path, out: Path, clip_name: str) -> int:
        """The same for a clip of any length; the folder stays where it was stopped, and is gone on with."""
        from recon4d.media.long_clips import open_long_clip
        from recon4d.reconstruction import long_clip_with_known_files

        command = self._command
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in the output folder {out}; choose another")
        long_clip = open_long_clip(path, command.fps, command.start, command.stop)
        long_clip = long_clip_with_known_files(long_clip, command.known_files)
        if command.known_files.are_given:
            print(describe_long_known(long_clip))
        info = self._info(long_clip, clip_name)
        print(reconstruct_long(self.model, long_clip, out, info, self._config, command.long))
        return long_clip.num_frames

    @property
    def _config(self) -> "ReconstructConfig":
        from recon4d.reconstruction import ReconstructConfig

        command = self._command
        return ReconstructConfig(
            command.anchors,
            command.processing_size,
            command.precision,
            key_stride=command.key_stride,
            progress=sys.stderr.isatty(),
        )

    def _answer(self, clip: "Clip") -> "Scene":
        """One pass over the whole clip, refined where that was asked for."""
        from recon4d.reconstruction import reconstruct, reconstruct_and_match

        command, model, config = self._command, self.model, self._config
        if model.num_parameters() > LARGE_MODEL:
            print(_describe_memory(model, clip, config))
        started = time.perf_counter()
        scene, tracks = (
            reconstruct_and_match(model, clip, config) if command.refine else (reconstruct(model, clip, config), None)
        )
        seconds = time.perf_counter() - started
        print(f"{model.name} on {self.device}: {scene.size[1]} x {scene.size[0]} pixels in {seconds:.1f} s")
        return scene if tracks is None else _refined(scene, tracks, clip)

    def _info(self, clip: "Clip | LongClip", clip_name: str) -> "SceneInfo":
        from recon4d import __version__
        from recon4d.export import SceneInfo

        return SceneInfo(
            model=self.model.name,
            trained=self.model.trained,
            version=__version__,
            source=clip.source,
            original_size=clip.size,
            settings=_settings(self._command, clip_name),
            calibration=self.model.calibration,
        )


def _reconstruct_many(command: ReconstructCommand) -> None:
    """Each clip to its folder, over all the processes there are; a table of all at the end.

    Raises ``ValueError`` where a clip failed, when all others are done.
    """
    from recon4d.eval import processes
    from recon4d.reconstruction import finished_frames, output_folders, reconstruct_each, table_of

    folders = output_folders(command.clips, command.out)
    settings = {clip: _settings(command, str(clip.resolve())) for clip in folders}
    state = processes()
    gather = _gatherer(state.num_processes)
    work = _Work(command, str(state.device) if command.device == "auto" else command.device)
    if any(finished_frames(folder, settings[clip]) is None for clip, folder in folders.items()):
        _ = work.model  # a model that there is not fails the command, and not one clip after another
    try:
        mine = reconstruct_each(
            folders,
            settings.__getitem__,
            lambda clip, folder: work.reconstruct(clip, folder, str(clip.resolve())),
            state.process_index,
            state.num_processes,
        )
    except KeyboardInterrupt:
        print("recon4d: interrupted; finished clips stay, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    outcomes = gather(mine)
    if not state.is_main_process:
        return
    print(table_of(outcomes))
    failed = sum(outcome.result == "failed" for outcome in outcomes)
    if failed:
        raise ValueError(f"{failed} of {len(outcomes)} clips failed; the reasons are in the table")


def _gatherer(num_processes: int) -> Callable[[list["Outcome"]], list["Outcome"]]:
    """What brings the outcomes of all processes together, in the order of the clips; made before they part.

    Through a group of its own: processes may finish hours apart, and the usual one gives up after minutes.
    """
    if num_processes == 1:
        return lambda outcomes: outcomes
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=timedelta(days=LONGEST_WAIT_DAYS))
    assert isinstance(group, dist.ProcessGroup)  # which every process belongs to

    def gather(outcomes: "list[Outcome]") -> "list[Outcome]":
        shares: list[list[Outcome]] = [[] for _ in range(num_processes)]
        dist.all_gather_object(shares, outcomes, group)
        rounds = zip_longest(*shares)
        return [outcome for one_round in rounds for outcome in one_round if outcome is not None]

    return gather


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


def _refined(scene: "Scene", tracks: "FeatureTracks", clip: "Clip") -> "Scene":
    """The scene with refined cameras, whose focal lengths stay where the lens is known."""
    from recon4d.sfm import RefineConfig, refine

    knows_lens = clip.known is not None and bool(clip.known.intrinsics.isfinite().all())
    started = time.perf_counter()
    # No gain is so many standard errors.
    refinement = refine(scene, tracks, RefineConfig(significance=math.inf) if knows_lens else RefineConfig())
    print(f"{refinement} ({time.perf_counter() - started:.1f} s)")
    return refinement.scene


def _settings(command: ReconstructCommand, clip_name: str) -> dict[str, str | int | float | bool | list | None]:
    """The command as plain JSON values for one of its clips; where it was written to is no part of the result."""
    left_out = ("clips", "out", "overwrite", "long")
    values = {name: value for name, value in asdict(command).items() if name not in left_out}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    # How windows are joined is no part of what a window says: a run may go on with another choice.
    long = {"window": command.long.window, "overlap": command.long.overlap, "anchored": command.long.anchored}
    return {**plain, **long, "clip": clip_name, "anchors": list(command.anchors)}
