"""Three frames, and the files of priors that tests give for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scenes import make_clip, make_scene

from recon4d import geometry as g
from recon4d.inference import PriorFiles, with_prior_files
from recon4d.records import Clip, ClipSource, Priors

INTRINSICS = torch.tensor([[50.0, 0, 31], [0, 52, 19], [0, 0, 1]])
"""Intrinsics of the examples, in pixels."""
MASK = np.pad(np.full((10, 10), 255, dtype=np.uint8), ((30, 0), (10, 40)))
POSES = make_scene(7).cameras.world_from_cam.double()

FAR = torch.tensor([4.0e5, 5.0e6, 100.0], dtype=torch.float64)
"""Offset in meters, as in national coordinate systems; float32 would round it to half a meter."""


def three_frames() -> Clip:
    """Return three frames, every third of a video."""
    return replace(make_clip(3, 40, 60), source=ClipSource("v.mp4", ("v_000000", "v_000003", "v_000006"), (0, 3, 6)))


def priors_from(clip: Clip, **files: object) -> Priors:
    """Read priors from files."""
    known = with_prior_files(clip, PriorFiles(**files)).priors  # pyright: ignore[reportArgumentType]
    assert known is not None
    return known


def tum_file(path: Path, times: list[float], poses: torch.Tensor) -> Path:
    """Write a TUM trajectory."""
    quaternions = g.quaternion_from_rotation(poses[:, :3, :3])[:, [1, 2, 3, 0]]
    rows = torch.cat([poses[:, :3, 3] + FAR, quaternions], dim=1)
    lines = [
        f"{time} " + " ".join(repr(value) for value in row.tolist()) for time, row in zip(times, rows, strict=True)
    ]
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")
    return path
