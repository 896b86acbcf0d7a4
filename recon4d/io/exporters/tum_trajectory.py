"""Camera trajectory in the format of the TUM RGB-D benchmark (Sturm et al. 2012)."""

from pathlib import Path

import torch

from recon4d.errors import UserError
from recon4d.geometry import quaternion_from_rotation
from recon4d.io.exporters.selected_frames import SelectedFrames


def write_tum(folder: Path, frames: SelectedFrames) -> str:
    """Write ``trajectory.txt`` with a line ``timestamp tx ty tz qx qy qz qw`` for each known camera, sorted by time.

    A line is world_from_cam: the camera center in the unit of the world and the rotation as a unit quaternion, in
    OpenCV axes. Timestamps are in seconds, or frame numbers if times are unknown.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export; only their cameras and times are read.

    Returns:
        A summary for the user.

    Raises:
        UserError: If no camera is known.
    """
    world_from_cam = frames.source.cameras.world_from_cam.double()
    is_known = torch.isfinite(world_from_cam).flatten(1).all(dim=1)
    if not is_known.any():
        raise UserError("no camera of the scene is known: there is no trajectory to write")
    times = frames.source.times
    has_times = bool(torch.isfinite(times).all())
    times = times.double() if has_times else torch.arange(len(times), dtype=torch.float64)
    lines = [f"# timestamp ({'seconds' if has_times else 'frame number'}) tx ty tz qx qy qz qw, world_from_cam"]
    for frame in times.argsort(stable=True).tolist():
        if is_known[frame]:
            w, x, y, z = quaternion_from_rotation(world_from_cam[frame, :3, :3]).tolist()
            numbers = [*world_from_cam[frame, :3, 3].tolist(), x, y, z, w]
            lines.append(f"{times[frame]:.6f} " + " ".join(f"{number:.9f}" for number in numbers))
    (folder / "trajectory.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{len(lines) - 1} of {len(times)} cameras, by {'seconds' if has_times else 'frame number'}"
