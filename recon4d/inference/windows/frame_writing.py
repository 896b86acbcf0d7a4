"""Writing of the frames of placed windows, and of the index of the whole clip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks, begin_stitching
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import LongScene, load_frame_cameras, load_frames, save_frame
from recon4d.io.long_clips import LongClip
from recon4d.records import RefinementSummary, Scene


@dataclass(frozen=True)
class FrameWriter:
    """Writes the frames of windows into the folder of a long clip."""

    folder: Path
    """The folder of the long clip."""
    work: WorkFolder
    """The files of the run, with the shared intrinsics of the placement."""
    long_clip: LongClip
    """The clip."""
    info: SceneInfo
    """Description of the run."""
    placement: WindowPlacement
    """Placement of all windows."""
    given_cameras: Float[Tensor, "time 4 4"] | None
    """Given camera-to-world transforms (time, 4, 4) relative to the first camera, in float64; NaN where not given, None
    if none is given."""
    track_stride: int
    """Distance in pixels between the queries whose tracks are stitched; 0 stitches none."""
    distortion: Float[Tensor, "5"] | None
    """Lens distortion that was removed from the images of all frames; None if none was."""

    def write(self, window: Window, next_window: Window | None) -> None:
        """Write the file of every frame that a window owns.

        Args:
            window: The window.
            next_window: The window whose tracks continue those of this one; None for the last window.
        """
        scene = self.work.load_window_scene(window.number)
        summary = self.work.load_summary(window)
        stitching = self._load_stitching(window, scene)
        for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
            frame_scene = scene.frames([position])
            if stitching is not None:
                tracks = stitching.tracks_at(scene, position, is_first=frame == 0)
                frame_scene = replace(frame_scene, tracks=tracks)
            frame_scene = self._placed(frame_scene, window, frame)
            if stitching is not None:
                stitching, frame_scene = stitching.update_last_points(frame_scene)
            info = self.info if summary is None else replace(self.info, refinement=_of_frame(summary, position))
            save_frame(self.folder, frame, frame_scene, self.long_clip.times[frame], info)
        if stitching is not None and next_window is not None:
            (position,) = window.positions(next_window.frames[:1])
            next_scene = self.work.load_window_scene(next_window.number)
            self.work.save_stitching(next_window, stitching.continue_in(scene, position, next_scene))

    def index(self, windows: Sequence[Window]) -> LongScene:
        """Collect the index of the clip from the files of its frames.

        Args:
            windows: All windows.

        Returns:
            The index.
        """
        summaries = [self.work.load_summary(window) for window in windows]
        refinements = tuple(
            None if summary is None else _of_clip(summary, window)
            for window, summary in zip(windows, summaries, strict=True)
        )
        first = load_frames(self.folder, [0])
        return LongScene(
            cameras=load_frame_cameras(self.folder, range(self.long_clip.num_frames)),
            times=torch.tensor(self.long_clip.times),
            size=first.size,
            windows=torch.tensor([window.number for window in windows for _ in window.owned]),
            world_from_window=self.placement.world_from_window,
            errors=self.placement.errors,
            metres_per_unit=self.placement.metres_per_unit,
            info=self.info,
            refinements=refinements if any(refinements) else (),
            distortion=first.distortion if len(windows) == 1 else self.distortion,
        )

    def _placed(self, scene: Scene, window: Window, frame: int) -> Scene:
        """Transform the scene of a frame to the world of the clip, computed in float64; given cameras are exact."""
        world_from_window = self.placement.world_from_window[window.number]
        placed = scene.to(dtype=torch.double).transformed(world_from_window).to(dtype=torch.float32)
        unit = torch.tensor(self.placement.metres_per_unit, dtype=torch.float32)
        placed = replace(placed, metres_per_unit=unit)
        if self.distortion is not None:
            placed = replace(placed, distortion=self.distortion.to(placed.depths))
        # Frames without a given camera keep the pose of their window, which follows those that are given.
        if self.given_cameras is None or not self.given_cameras[frame].isfinite().all():
            return placed
        exact = self.given_cameras[frame : frame + 1].to(placed.depths.dtype)
        return placed.with_cameras(replace(placed.cameras, world_from_cam=exact))

    def _load_stitching(self, window: Window, scene: Scene) -> StitchedTracks | None:
        """Return the state of the stitched tracks at the beginning of a window; None if no tracks are stitched."""
        if not self.track_stride:
            return None
        return self.work.load_stitching(window) if window.number else begin_stitching(scene.size, self.track_stride)


def _of_frame(summary: RefinementSummary, position: int) -> RefinementSummary:
    """Return the summary of a window for the file of one of its frames, whose number there is 0."""
    return replace(summary, unknown_frames=(0,) if position in summary.unknown_frames else ())


def _of_clip(summary: RefinementSummary, window: Window) -> RefinementSummary:
    """Return the summary of a window with the frame numbers of the clip."""
    return replace(summary, unknown_frames=tuple(window.frames[position] for position in summary.unknown_frames))
