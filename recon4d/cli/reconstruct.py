"""`recon4d reconstruct`: what can be asked for, and what cannot be asked for together."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recon4d.cli.clip_pipeline import ClipPipeline
from recon4d.cli.long_clips import LongConfig
from recon4d.cli.many_clips import reconstruct_many

if TYPE_CHECKING:
    from recon4d.inference import PriorFiles


@dataclass(frozen=True)
class ReconstructCommand:
    """Turn a video or a folder of pictures into cameras, depth, points and tracks."""

    clips: tyro.conf.Positional[tuple[Path, ...]]
    """A video, a picture, or a folder of pictures; or several of these."""
    out: Path
    """Folder to write; it must be new or empty unless --overwrite is given. Of several clips, each gets a folder in it,
    and what is finished there with the same settings is left as it is."""
    model: str = "recon4d_mini"
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
    """Known: fx,fy,cx,cy in the clip's own pixels (first center at .5), or a file with those of all or each frame."""
    cameras: Path | None = None
    """Known: a TUM trajectory, a COLMAP folder, a transforms.json or a scene.npz."""
    depth: Path | None = None
    """Known: an npz file with depths (time, height, width), or depths, pixels and frames of single points."""
    mask: Path | None = None
    """A picture, or a folder of pictures, white where the clip is to be ignored: sky, people, a car's bonnet."""
    distortion: str | None = None
    """Known: k1,k2,p1,p2 or k1,k2,p1,p2,k3 of the lens, to be taken out; results are of the undistorted pictures."""
    refine: bool = False
    """Make cameras and depth exact by corners of what stands still, and by the pictures then (needs pycolmap); kept
    only where that helps. Cameras that are known stay, and depth is refined by them."""
    colmap_intrinsics: bool = False
    """Let COLMAP find the focal length first, and tell the network (needs pycolmap)."""
    overwrite: bool = False
    """Replace an earlier reconstruction in the output folder."""
    long: Annotated[LongConfig, tyro.conf.arg(name="")] = LongConfig()  # noqa: RUF009 - frozen

    def run(self) -> None:
        if not self.clips:
            raise ValueError("give at least one clip: a video, a picture or a folder of pictures")
        if self.long.is_wanted:
            self._refuse_what_needs_one_pass()
        if len(self.clips) == 1:
            ClipPipeline(self).reconstruct(self.clips[0], self.out, str(self.clips[0]))
            return
        if self.cameras or self.depth or (self.mask and self.mask.is_dir()):
            raise ValueError("--cameras, --depth and a folder as --mask belong to one clip; several clips were given")
        reconstruct_many(self)

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
    def known_files(self) -> "PriorFiles":
        from recon4d.inference import PriorFiles

        return PriorFiles(self.intrinsics, self.cameras, self.depth, self.mask, self.distortion)

    def settings(self, clip_name: str) -> dict[str, str | int | float | bool | list | None]:
        """The command as plain JSON values for one of its clips; where it was written to is no part of the result."""
        left_out = ("clips", "out", "overwrite", "long")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        # How windows are joined is no part of what a window says: a run may go on with another choice.
        long = {"window": self.long.window, "overlap": self.long.overlap, "anchored": self.long.anchored}
        return {**plain, **long, "clip": clip_name, "anchors": list(self.anchors)}
