"""Options of `recon4d reconstruct`, and which of them exclude each other."""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon4d.cli.arguments import AttentionName
from recon4d.cli.capture_options import ORDINARY_CAPTURE, CaptureOptions, spell_out_panorama
from recon4d.errors import UserError
from recon4d.runs.refinement_step import RefineMode

if TYPE_CHECKING:
    from recon4d.inference import PriorFiles, ReconstructConfig


@dataclass(frozen=True)
class LongClipOptions:
    """Clips of any length, reconstructed in parts with bounded memory."""

    window: int = 0
    """Number of frames in a window; 0 reconstructs the whole clip in a single pass. All frames are used, or those that
    --fps and a number as --num-frames select. Windows are refined as --refine says."""
    overlap: int = 4
    """Number of frames that a window shares with the previous one."""
    static_below: float = 0.5
    """Windows are aligned by pixels whose dynamic probability is below this; a value above 1 uses all pixels."""
    loops: bool = False
    """Detect loops (places that the camera returns to) and distribute the drift."""
    lens: Literal["auto", "one", "each"] = "auto"
    """one: all frames have the same intrinsics, the median over windows. each: every window keeps its own. auto: one
    for frames with times, such as those of a video, else each."""
    anchored: bool = False
    """Reconstruct every frame together with the first one only, instead of in windows."""
    tracks: int = 0
    """Track every n-th pixel of the first frame, along both axes, through all windows; 1 tracks every pixel, 0 none."""

    def __post_init__(self) -> None:
        if self.tracks and self.anchored:
            raise UserError("--anchored already tracks every pixel of the first frame; remove --tracks")
        if self.tracks and not self.window:
            raise UserError("--tracks stitches tracks across windows; give --window too")

    @property
    def is_enabled(self) -> bool:
        """Whether the clip is reconstructed in parts instead of in a single pass."""
        return self.window > 0 or self.anchored


@dataclass(frozen=True)
class ReconstructOptions:
    """Options of `recon4d reconstruct`."""

    clips: tyro.conf.Positional[tuple[Path, ...]]
    """A video, an animation, a folder of pictures, or several pictures, which are one clip; or several of these."""
    out: Path
    """Output folder; it must be new or empty unless --overwrite is given. Several clips get one folder each inside it,
    and clips that are finished with the same settings are skipped."""
    separate: bool = False
    """Make a clip of its own of each picture, instead of one clip of all of them."""
    model: str = "recon4d_mini"
    """A name that `recon4d models` lists, or a checkpoint file (.safetensors)."""
    num_frames: int | Literal["auto"] = "auto"
    """auto: 8 to 48 frames of a video, chosen by motion, and up to 48 pictures; all with --window or --anchored. A
    number takes so many frames, evenly spaced. With --fps, the largest number of frames. With --cameras, auto takes
    every frame of a video of up to 48."""
    fps: float | None = None
    """Frame rate to sample a video at; for a folder of pictures, the rate at which they were taken."""
    start: float | None = None
    """First second to use."""
    stop: float | None = None
    """Last second to use."""
    keep_cuts: bool = False
    """Use the whole video even if it has cuts; otherwise the longest part without a cut is used."""
    anchors: tuple[int, ...] = (0,)
    """Frames (of those sampled, from 0) whose pixels are all tracked to every time."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 if the device is faster with it, else float32."""
    attention: AttentionName = "auto"
    """Kernel of attention: PyTorch's (sdpa) or that of xformers, which needs CUDA. auto: sdpa."""
    key_stride: int = 1
    """Above 1, attention across frames uses only every n-th row and column of patches as keys: faster, less exact."""
    compile: bool = False
    """Compile the transformer blocks: takes a minute or more at first, faster for many frames."""
    processing_size: int | None = None
    """Process at about the area of a square with sides of this many pixels; the model's own size by default."""
    output_size: int | None = None
    """Longer side of the written maps in pixels. By default 512, or the clip's own if that is smaller. Maps are never
    smaller than those of the network, which known depth (--depth) leaves at their size."""
    full_resolution: bool = False
    """Write maps at the clip's own size."""
    archive_precision: Literal["float32", "float16"] = "float32"
    """Precision of the maps in scene.npz. float16 makes the file smaller; depth has a relative error of up to 0.0005.
    Maps that would lose more stay float32, like cameras and tracks."""
    intrinsics: str | None = None
    """Known intrinsics: fx,fy,cx,cy in pixels of the clip (the center of the first pixel is at .5), or a file with one
    such row for all frames or one for each."""
    intrinsics_size: str | None = None
    """Size WIDTHxHEIGHT of the pictures that --intrinsics refers to, if they are not those of the clip."""
    cameras: Path | None = None
    """Known cameras: a COLMAP folder, transforms.json, trajectory (TUM, EuRoC, KITTI, 4x4, npy) or scene.npz."""
    cameras_by: Literal["auto", "name", "time", "number", "number-from-1", "order"] = "auto"
    """How --cameras belong to frames; auto finds out and prints it, and refuses if it cannot tell."""
    cameras_offset: float = 0.0
    """Seconds to add to the times of --cameras, if their clock is not that of the clip."""
    cameras_of: Literal["auto", "stored", "upright"] = "auto"
    """For pictures that EXIF turns: whether --cameras are those of the stored or of the upright pictures. auto: stored,
    as COLMAP sees them, unless width and height say otherwise."""
    depth: Path | None = None
    """Known depth: a folder of maps (16-bit PNG or TIFF in mm, float TIFF, EXR, PFM, npy, npz), an npy or npz file with
    depths (time, height, width), or an npz file with depths, pixels and frames of single points."""
    depth_unit: float | None = None
    """Factor from the stored values of --depth to meters or the unit of --cameras: 0.0002 for TUM, 0.00390625 for
    KITTI. By default 0.001 for whole numbers and 1 for floats."""
    mask: Path | None = None
    """Pixels to ignore: a picture, or a folder of pictures, white at the sky, people, a car's hood ..."""
    distortion: str | None = None
    """Known lens distortion: k1,k2,p1,p2 or k1,k2,p1,p2,k3. It is removed; results are of the undistorted pictures."""
    refine: RefineMode = "auto"
    """Refine cameras with corner tracks on the static parts of the scene, then depth by stereo. The refined result is
    kept only if it is better. Known cameras stay fixed, and only depth is refined. auto: whenever it is possible. on
    (or only --refine): it is an error if it is not possible. off (or --no-refine): a single pass."""
    reference_view: Literal["auto", "first", "middle", "saddle_balanced", "saddle_sim_range"] = "auto"
    """The frame whose camera is about the world frame inside networks that can choose it (Depth Anything 3). auto: the
    middle frame of a video, and the network's own choice among pictures without times."""
    camera_source: Literal["decoder", "rays"] | None = None
    """Where networks that predict rays (Depth Anything 3) take cameras from: rays are slower and often better."""
    metric: str | None = None
    """Fit the unit in meters to a metric model: da3_metric_large, or a file of its weights. Pixels that it
    sees as sky have no depth."""
    motions: int = 0
    """Sample this number of plausible motions of everything that moves, where it is hidden and shortly before and after
    the clip: alternatives in scene.npz, in the viewer and in exported animations (recon4d.sample_motions)."""
    motion_weights: Path | None = None
    """Weights of the generative head of --motions (recon4d train-motions); by default those of the package."""
    colmap_intrinsics: bool = False
    """Let COLMAP estimate the focal length first and give it to the network."""
    overwrite: bool = False
    """Replace an earlier reconstruction in the output folder."""
    capture: Annotated[CaptureOptions, tyro.conf.arg(name="")] = ORDINARY_CAPTURE
    long: Annotated[LongClipOptions, tyro.conf.arg(name="")] = LongClipOptions()

    def map_side(self, clip_size: tuple[int, int]) -> int | None:
        """Return the longer side of the written maps.

        Args:
            clip_size: Height and width of the clip.

        Returns:
            The side in pixels; None for the size of the network's maps.
        """
        if self.full_resolution:
            return max(clip_size)
        if self.output_size is None and self.depth is not None:
            return None
        from recon4d.refine import MAP_SIDE

        return MAP_SIDE if self.output_size is None else self.output_size

    @property
    def prior_files(self) -> "PriorFiles":
        """The files and values that give priors."""
        from recon4d.inference import PriorFiles
        from recon4d.io.cameras.camera_file import CameraOptions

        return PriorFiles(
            self.intrinsics,
            self.cameras,
            self.depth,
            self.mask,
            self.distortion,
            None if self.intrinsics_size is None else _parse_size(self.intrinsics_size),
            CameraOptions(self.cameras_by, self.cameras_offset, self.cameras_of),
            self.depth_unit,
            bool(self.capture.panorama),
        )

    @property
    def single_pass(self) -> "ReconstructConfig":
        """The configuration of a single pass."""
        from recon4d.inference import ReconstructConfig

        return ReconstructConfig(
            anchors=self.anchors,
            processing_size=self.processing_size,
            precision=self.precision,
            key_stride=self.key_stride,
        )

    @cached_property
    def inputs(self) -> "list[Path | tuple[Path, ...]]":
        """The clips: a path each, or a single group of pictures if nothing else is given."""
        from recon4d.io.clip_files import is_single_picture
        from recon4d.io.photos import natural_order

        paths = list(dict.fromkeys(self.clips))
        if self.separate or len(paths) < 2:
            return [*paths]
        num_pictures = sum(map(is_single_picture, paths))
        if num_pictures < len(paths):
            if num_pictures > 1:
                warnings.warn(
                    f"{num_pictures} single pictures are clips of one frame each, because videos or folders are given "
                    "too; give the pictures alone, or their folder, to make one clip of them",
                    stacklevel=2,
                )
            return [*paths]
        # A shell lists img10 before img2. Any other order is a person's.
        if paths == sorted(paths, key=str):
            paths.sort(key=lambda path: (str(path.parent), natural_order(path)))
        return [tuple(paths)]

    def check(self) -> None:
        """Check that the options do not exclude each other.

        Raises:
            UserError: If no clip is given, or if options exclude each other.
        """
        if not self.clips:
            raise UserError("give at least one clip: a video, a picture or a folder of pictures")
        if self.intrinsics_size is not None:
            _parse_size(self.intrinsics_size)
            if self.intrinsics is None:
                raise UserError("--intrinsics-size is the size of the pictures of --intrinsics; give these too")
        if self.depth_unit is not None and self.depth is None:
            raise UserError("--depth-unit is the unit of --depth; give this too")
        if not math.isfinite(self.cameras_offset):
            raise UserError(f"--cameras-offset is {self.cameras_offset}; wanted seconds")
        if self.cameras is None and (self.cameras_by, self.cameras_offset, self.cameras_of) != ("auto", 0.0, "auto"):
            raise UserError("--cameras-by, --cameras-offset and --cameras-of need --cameras")
        if self.output_size is not None and (self.output_size < 1 or self.full_resolution):
            raise UserError(
                "--output-size is the longer side in pixels, and cannot be combined with --full-resolution"
                if self.full_resolution
                else f"--output-size is {self.output_size}; wanted the longer side in pixels"
            )
        self.capture.check()
        self._check_motions()
        if self.metric is not None and (self.capture.gps or self.capture.baseline is not None):
            raise UserError("--metric, --gps and --baseline all give the unit; give only one of them")
        if self.capture.rig:
            self._check_rig()
        if self.long.is_enabled:
            self._check_long_clip()
        if len(self.inputs) > 1 and (self.cameras or self.depth or (self.mask and self.mask.is_dir())):
            raise UserError("--cameras, --depth and a folder as --mask describe a single clip; several were given")

    def settings(self, clip_name: str) -> dict[str, str | int | float | bool | list | None]:
        """Return the options as JSON values, stored with the scene and compared to find finished clips.

        Args:
            clip_name: The clip that the scene is of, as it is stored.

        Returns:
            All options that determine the content of the result: not the output folder.
        """
        left_out = ("clips", "separate", "out", "overwrite", "long", "capture")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        # Options that earlier versions did not have are stored only if they are used.
        for name in ("output_size", "depth_unit", "intrinsics_size", "cameras_by", "cameras_offset", "cameras_of"):
            if values[name] in (None, "auto", 0.0):
                del values[name]
        if self.archive_precision == "float32":
            del values["archive_precision"]
        if not self.motions:
            del values["motions"], values["motion_weights"]
        ordinary = asdict(ORDINARY_CAPTURE)
        used = {name: value for name, value in asdict(self.capture).items() if value != ordinary[name]}
        values |= {name: list(value) if isinstance(value, tuple) else value for name, value in used.items()}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        # How windows are aligned does not change their predictions, so a run may continue with other values of these.
        long = {"window": self.long.window, "overlap": self.long.overlap, "anchored": self.long.anchored}
        return {**plain, **long, "clip": clip_name, "anchors": list(self.anchors)}

    def _check_rig(self) -> None:
        """Check that no option is given that a rig does not have."""
        if len(self.clips) != 1:
            raise UserError(f"--rig is for one folder with a sub-folder for each camera; {len(self.clips)} were given")
        others = {"--start": self.start is not None, "--stop": self.stop is not None}
        others["--colmap-intrinsics"] = self.colmap_intrinsics
        if given := [option for option, is_given in others.items() if is_given]:
            raise UserError(f"{', '.join(given)}: cannot be combined with --rig")

    def _check_motions(self) -> None:
        """Check that sampled motions have tracks to continue."""
        if self.motions and not self.anchors:
            raise UserError("--motions continues tracks; give --anchors too, such as --anchors 0")
        if self.motion_weights is not None and not self.motions:
            raise UserError("--motion-weights are those of --motions; give the number of samples too")
        if self.motions < 0:
            raise UserError(f"--motions is {self.motions}; wanted the number of samples, or 0 for none")

    def _check_long_clip(self) -> None:
        """Check that no option is given that needs the whole clip in a single pass."""
        only_single_pass = {
            "--colmap-intrinsics": self.colmap_intrinsics,
            "--full-resolution": self.full_resolution,
            "--output-size": self.output_size is not None,
            "--archive-precision": self.archive_precision != "float32",
            "--overwrite": self.overwrite,
            "--metric": self.metric is not None,
            "--motions": self.motions > 0,
            "--panorama": bool(self.capture.panorama),
            "--rig": self.capture.rig,
            "--gps": self.capture.gps,
            "--baseline": self.capture.baseline is not None,
        }
        if given := [option for option, is_given in only_single_pass.items() if is_given]:
            raise UserError(f"{', '.join(given)}: cannot be combined with --window or --anchored")
        if self.long.anchored and self.refine == "on":
            raise UserError("--refine: cannot be combined with --anchored, whose pairs of frames are too few")
        if self.anchors != (0,):
            raise UserError(
                "--anchors: tracks of a clip in parts start at its first frame; remove --anchors, and give --tracks 1 "
                "with --window to track its pixels through all windows"
            )
        if self.long.loops and self.cameras is not None:
            raise UserError("--loops moves windows but --cameras fixes them; give only one of the two")


def _parse_size(text: str) -> tuple[int, int]:
    """Height and width from the text WIDTHxHEIGHT."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*[xX,]\s*(\d{1,6})\s*", text)
    if found is None or not int(found[1]) or not int(found[2]):
        raise UserError(f"--intrinsics-size is {text!r}; wanted WIDTHxHEIGHT in pixels, such as 1920x1080")
    return int(found[2]), int(found[1])


def spell_out_refine(arguments: Sequence[str]) -> list[str]:
    """Complete the short forms of the option --refine of `recon4d reconstruct`.

    Args:
        arguments: The words after `recon4d`.

    Returns:
        The words with ``--refine on`` in place of ``--refine`` without a value, ``--refine off`` in place of
        ``--no-refine``, and ``--panorama 8`` in place of ``--panorama`` without a number; the words as they are for
        other commands.
    """
    words = list(arguments)
    if words[:1] != ["reconstruct"]:
        return words
    complete = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--no-refine":
            complete += ["--refine", "off"]
        elif word == "--refine" and following not in ("auto", "on", "off"):
            complete += ["--refine", "on"]
        else:
            complete.append(word)
    return spell_out_panorama(complete)
