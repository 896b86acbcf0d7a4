"""The path of the camera in the format of the TUM RGB-D benchmark (Sturm et al. 2012)."""

from pathlib import Path

import torch

from recon4d.geometry import quaternion_from_rotation
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.saved_results import SavedResults


def write_tum(folder: Path, results: SavedResults, choice: PointSelection) -> str:
    """``trajectory.txt``: a line ``timestamp tx ty tz qx qy qz qw`` for each frame, in the order of time.

    It is world_from_cam: the camera's center in the world's unit and its rotation as a unit quaternion, OpenCV axes.
    Timestamps are seconds, or the frame's number where there are no times. Cameras that are not known are left out;
    `choice` is about points, of which there are none here. Raises ``ValueError`` where no camera is known.
    """
    world_from_cam = results.scene.cameras.world_from_cam.double()
    is_known = torch.isfinite(world_from_cam).flatten(1).all(dim=1)
    if not is_known.any():
        raise ValueError("no camera of the scene is known: there is no trajectory to write")
    has_times = bool(torch.isfinite(results.times).all())
    times = results.times.double() if has_times else torch.arange(len(results.times), dtype=torch.float64)
    lines = [f"# timestamp ({'seconds' if has_times else 'frame number'}) tx ty tz qx qy qz qw, world_from_cam"]
    for frame in times.argsort(stable=True).tolist():
        if is_known[frame]:
            w, x, y, z = quaternion_from_rotation(world_from_cam[frame, :3, :3]).tolist()
            numbers = [*world_from_cam[frame, :3, 3].tolist(), x, y, z, w]
            lines.append(f"{times[frame]:.6f} " + " ".join(f"{number:.9f}" for number in numbers))
    (folder / "trajectory.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{len(lines) - 1} of {len(times)} cameras, by {'seconds' if has_times else 'frame number'}"
