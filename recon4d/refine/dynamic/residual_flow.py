"""Optical flow that no static scene explains: its distance from the epipolar lines of refined cameras.

Flow starts from that of the static scene, so that the background matches over any camera motion. For cameras that only
rotate, the epipolar line is a point.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Cameras, Scene
from recon4d.refine.dynamic.optical_flow import MIN_CORRELATION, Pictures, returns_to_start

OFFSETS = (-2, -1, 1, 2)
"""Numbers of frames from a frame to those that it is compared with. Hand-tuned."""
NEAREST_FRACTION = 0.3
"""Smallest depth that a static surface may have, relative to the expected depth or to the median depth of the frame if
that is smaller: flow farther along the epipolar line is motion. Hand-tuned."""
_MIN_DEPTH = 1e-6


@dataclass(frozen=True)
class ResidualFlow:
    """Flow of one frame to its neighbors, relative to what a static scene allows."""

    residuals: Float[Tensor, "neighbor height width"]
    """Distance of each pixel's match from the epipolar line segment of possible depths, in pixels."""
    is_reliable: Bool[Tensor, "neighbor height width"]
    """Whether the match lies inside the neighbor and looks alike, and flow back from there leads to the same pixel."""
    is_in_view: Bool[Tensor, "neighbor height width"]
    """Whether the neighbor would show the pixel if it did not move; otherwise its flow tells nothing."""


def residual_flow(images: Float[Tensor, "time height width"], scene: Scene) -> list[ResidualFlow]:
    """Compare optical flow between nearby frames with the cameras of a scene.

    Args:
        images: Gray images in [0, 1].
        scene: A single scene of the size of the images, with exact cameras and approximate depth.

    Returns:
        The residual flow of each frame to its neighbors `OFFSETS` before and after it.
    """
    flows = _Flows.create(images, scene)
    result = []
    for frame in range(scene.num_frames):
        neighbors = [frame + offset for offset in OFFSETS if 0 <= frame + offset < scene.num_frames]
        parts = [flows.compare(frame, neighbor) for neighbor in neighbors]
        residuals, is_reliable, is_in_view = (torch.stack(part) for part in zip(*parts, strict=True))
        result.append(ResidualFlow(residuals, is_reliable, is_in_view))
    return result


@dataclass(frozen=True)
class _Flows:
    """Flows between pairs of frames, each computed once."""

    pictures: Pictures
    scene: Scene
    points: Float[Tensor, "time height width 3"]
    grid: Float[Tensor, "height width 2"]
    cache: dict[tuple[int, int], Float[Tensor, "height width 2"]]

    @staticmethod
    def create(images: Float[Tensor, "time height width"], scene: Scene) -> "_Flows":
        scene = scene.to("cpu")
        return _Flows(Pictures.create(images), scene, scene.points_from_depth, pixel_grid(*scene.size), {})

    def compare(
        self, frame: int, neighbor: int
    ) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"], Bool[Tensor, "height width"]]:
        """Compute the residuals of the flow to one neighbor, where it is reliable, and what the neighbor shows."""
        there, back = self._flow(frame, neighbor), self._flow(neighbor, frame)
        target = self.grid + there
        is_reliable = returns_to_start(target, there, back)
        is_reliable &= self.pictures.correlation(frame, neighbor, target) >= MIN_CORRELATION
        static = self.grid + self._static_flow(frame, neighbor)
        is_in_view = ((static >= 0) & (static <= static.new_tensor(self.scene.size[::-1]))).all(dim=-1)
        return _distance_from_segment(target, *self._projected_rays(frame, neighbor)), is_reliable, is_in_view

    def _flow(self, frame: int, neighbor: int) -> Float[Tensor, "height width 2"]:
        if (frame, neighbor) not in self.cache:
            self.cache[frame, neighbor] = self.pictures.flow(frame, neighbor, self._static_flow(frame, neighbor))
        return self.cache[frame, neighbor]

    def _static_flow(self, frame: int, neighbor: int) -> Float[Tensor, "height width 2"]:
        return static_flow(self.scene.cameras.frames([neighbor]), self.points[frame])

    def _projected_rays(
        self, frame: int, neighbor: int
    ) -> tuple[Float[Tensor, "height width 2"], Float[Tensor, "height width 2"]]:
        """Project the rays of all pixels into a neighbor: their ends at infinity and at the smallest depth."""
        cameras, depths = self.scene.cameras, self.scene.depths[frame]
        between = cameras.cam_from_world[neighbor] @ cameras.world_from_cam[frame]
        homography = cameras.intrinsics[neighbor] @ between[:3, :3] @ torch.linalg.inv(cameras.intrinsics[frame])
        epipole = cameras.intrinsics[neighbor] @ between[:3, 3]
        rays = torch.cat([self.grid, torch.ones_like(self.grid[..., :1])], dim=-1) @ homography.T
        median = depths[depths > 0].median()
        near = NEAREST_FRACTION * torch.where(depths > 0, depths, median).clamp(max=median)[..., None]
        ends = rays, rays * near + epipole
        far, close = (end[..., :2] / end[..., 2:].clamp(min=_MIN_DEPTH) for end in ends)
        return far, close


def static_flow(camera: Cameras, points: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 2"]:
    """Compute the flow of a frame if nothing moved.

    Args:
        camera: The camera of another frame (one frame), with intrinsics for maps of the same size.
        points: World points of the pixels of the frame.

    Returns:
        The flow (x, y) to the other frame, in pixels; 0 where a point would be behind its camera.
    """
    in_camera = transform_points(camera.cam_from_world[0], points)
    flow = project(in_camera, camera.intrinsics[0]) - pixel_grid(points.shape[0], points.shape[1])
    farthest = float(max(points.shape[:2]))
    return torch.where(in_camera[..., 2:] > 0, flow, 0.0).nan_to_num(0.0).clamp(-farthest, farthest).float()


def _distance_from_segment(
    points: Float[Tensor, "*shape 2"], start: Float[Tensor, "*shape 2"], end: Float[Tensor, "*shape 2"]
) -> Float[Tensor, "*shape"]:
    """Compute the distance of points from line segments."""
    along = end - start
    squared = along.square().sum(dim=-1, keepdim=True).clamp(min=_MIN_DEPTH)
    place = (((points - start) * along).sum(dim=-1, keepdim=True) / squared).clamp(0, 1)
    return (points - start - place * along).norm(dim=-1)
