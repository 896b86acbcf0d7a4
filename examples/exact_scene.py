"""Write exact ground truth as a Scene, like a prediction: a ball rolls over tiles past two boxes.

    python examples/exact_scene.py --out out/exact

This writes the same files as `recon4d reconstruct`, and next to the folder ``picture.jpg`` with frames, depth and the
dynamic mask.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

import recon4d
from recon4d import geometry
from recon4d.io import (
    SceneInfo,
    atomic_folder,
    depth_video_frames,
    write_jpeg,
    write_results,
)
from recon4d.records import Cameras, Clip, Scene

HEIGHT, WIDTH = 180, 320
GROUND, RADIUS = 1.0, 0.5
"""The ground is the plane y = 1 (y points down); the ball with this radius rolls on it."""
BOXES = torch.tensor([[[-2.6, -0.4, 4.6], [-1.4, 1.0, 5.6]], [[1.5, 0.1, 3.6], [2.3, 1.0, 4.4]]])
"""Smallest and largest corner (x, y, z) of each box."""


@dataclass(frozen=True)
class Arguments:
    """Trace the scene and write it."""

    out: Path
    """Folder to write."""
    frames: int = 24
    """Number of frames, at 12 frames per second."""
    overwrite: bool = False
    """Replace the folder if it exists."""


def main(arguments: Arguments) -> None:
    """Trace the scene, write it, and print a summary."""
    times = torch.arange(arguments.frames) / 12
    clip, scene = trace(times)
    info = SceneInfo("truth", True, recon4d.__version__, None, scene.size, {"frames": arguments.frames})
    with atomic_folder(arguments.out, arguments.overwrite) as folder:
        write_results(folder, clip, scene, info)
    pictures = [torch.from_numpy(picture) for picture in depth_video_frames(clip, scene)]
    chosen = torch.cat([pictures[0], pictures[len(pictures) // 2], pictures[-1]])
    write_jpeg(arguments.out.with_name("picture.jpg"), chosen[::2, ::2].permute(2, 0, 1), quality=88)
    print(f"{arguments.out}: {arguments.frames} frames of {WIDTH} x {HEIGHT} pixels, exact")


def trace(times: Tensor) -> tuple[Clip, Scene]:
    """Return the clip at `times` in seconds, and its exact ground truth."""
    cameras = cameras_at(times)
    rays = geometry.unproject_map(torch.ones(len(times), HEIGHT, WIDTH), cameras.intrinsics)
    directions = rays @ cameras.world_from_cam[:, None, :3, :3].transpose(-1, -2)
    origins = cameras.centers[:, None, None]

    # Ray directions have z = 1 in the camera frame, so the distance along a ray is the depth.
    balls = torch.stack(
        [1.2 - 1.6 * times, torch.full_like(times, GROUND - RADIUS), torch.full_like(times, 3.2)], dim=-1
    )
    ball = meet_sphere(origins - balls[:, None, None], directions)
    ground = positive((GROUND - origins[..., 1]) / directions[..., 1])
    boxes = torch.stack([meet_box(origins, directions, *box) for box in BOXES])
    depths = torch.cat([ball[None], ground[None], boxes]).amin(dim=0)
    is_sky = depths.isinf()
    is_ball = (depths == ball) & ~is_sky
    points = origins + depths.nan_to_num(posinf=0.0)[..., None] * directions
    on_ball = (points - balls[:, None, None]) / RADIUS
    images = shade(points, on_ball, is_ball, depths == ground, is_sky)

    confidence = (~is_sky).float()
    scene = Scene(
        cameras=cameras,
        depths=torch.where(is_sky, 0.0, depths),
        depth_confidence=confidence,
        points=points,
        point_confidence=confidence,
        dynamic=is_ball.float(),
        metres_per_unit=torch.tensor(1.0),
    )
    return Clip(images, times), scene.in_frame(0)


def cameras_at(times: Tensor) -> Cameras:
    """Return the path of a camera that moves sideways and looks at the scene."""
    zero = torch.zeros_like(times)
    # The rotation about y keeps the scene in view; -0.12 about x tilts the camera down, since y points down.
    turn = geometry.rotation_from_axis_angle(torch.stack([zero, -0.22 * (times - 1), zero], dim=-1))
    tilt = geometry.rotation_from_axis_angle(torch.tensor([-0.12, 0.0, 0.0]))
    centers = torch.stack([1.1 * (times - 1), -0.7 + 0.15 * torch.sin(3 * times), 0.2 * times - 0.8], dim=-1)
    angles = torch.tensor([1.15, 2 * math.atan(math.tan(0.575) * HEIGHT / WIDTH)])
    intrinsics = geometry.intrinsics_from_field_of_view(angles, torch.tensor([WIDTH / 2, HEIGHT / 2]), HEIGHT, WIDTH)
    return Cameras(geometry.rigid(turn @ tilt, centers), intrinsics.expand(len(times), 3, 3))


def positive(distances: Tensor) -> Tensor:
    """Replace distances behind the camera by infinity."""
    return torch.where(distances > 1e-3, distances, torch.inf)


def meet_sphere(offsets: Tensor, directions: Tensor) -> Tensor:
    """Compute the distance to the ball along rays from `offsets` relative to its center."""
    a = directions.square().sum(dim=-1)
    b = (offsets * directions).sum(dim=-1)
    root = b.square() - a * (offsets.square().sum(dim=-1) - RADIUS**2)
    return torch.where(root > 0, positive((-b - root.clamp(min=0).sqrt()) / a), torch.inf)


def meet_box(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Compute the distance to the box between two corners along rays."""
    first, second = (low - origins) / directions, (high - origins) / directions
    enter, leave = torch.minimum(first, second).amax(dim=-1), torch.maximum(first, second).amin(dim=-1)
    return torch.where(enter < leave, positive(enter), torch.inf)


def shade(points: Tensor, on_ball: Tensor, is_ball: Tensor, is_ground: Tensor, is_sky: Tensor) -> Tensor:
    """Return uint8 images of tiles, a striped ball, boxes with bricks, and a plain sky."""
    tiles = ((points[..., 0].floor() + points[..., 2].floor()) % 2)[..., None]
    ground = 0.35 + 0.35 * tiles * torch.tensor([0.9, 1.0, 0.8])
    stripes = ((6 * on_ball[..., 1:2]).floor() % 2) * torch.tensor([0.1, 0.6, 0.7]) + torch.tensor([0.7, 0.2, 0.1])
    ball = stripes * (0.55 - 0.45 * on_ball[..., 1:2])
    bricks = ((5 * points).floor().sum(dim=-1, keepdim=True) % 2) * 0.15 + torch.tensor([0.45, 0.32, 0.25])
    colors = torch.where(is_ground[..., None], ground, bricks)
    colors = torch.where(is_ball[..., None], ball, colors)
    colors = torch.where(is_sky[..., None], torch.tensor([0.62, 0.75, 0.9]), colors)
    return (colors.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
