"""Optical flow that no static scene explains: its distance from the epipolar lines of refined cameras.

Flow is computed by dense inverse search (DIS, Kroeger et al. 2016, OpenCV), starting from the flow of the static scene,
so that the background matches over any camera motion. For cameras that only rotate, the epipolar line is a point.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Scene

OFFSETS = (-2, -1, 1, 2)
"""Numbers of frames from a frame to those that it is compared with. Hand-tuned."""
MAX_ROUND_TRIP, MAX_RELATIVE_ROUND_TRIP = 1.0, 0.05
"""Largest distance of a pixel from itself after flow there and back, in pixels, and in addition relative to the flow.
Hand-tuned."""
MIN_CORRELATION = 0.5
"""Smallest normalized correlation of the windows about a pixel and its match. Hand-tuned."""
WINDOW = 7
"""Side of these windows, in pixels. Hand-tuned."""
MIN_VARIANCE = 1e-4
"""Added to the variance of a window, in squared gray values of [0, 1]: noise of smooth areas is not texture."""
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

    images: list[np.ndarray]
    normalized: Float[Tensor, "time height width"]
    """Images with the mean 0 and the variance 1 in the window about each pixel."""
    scene: Scene
    points: Float[Tensor, "time height width 3"]
    grid: Float[Tensor, "height width 2"]
    cache: dict[tuple[int, int], Float[Tensor, "height width 2"]]

    @staticmethod
    def create(images: Float[Tensor, "time height width"], scene: Scene) -> "_Flows":
        arrays = list((255 * images).round().clamp(0, 255).byte().cpu().numpy())
        scene = scene.to("cpu")
        return _Flows(arrays, _normalize(images.cpu()), scene, scene.points_from_depth, pixel_grid(*scene.size), {})

    def compare(
        self, frame: int, neighbor: int
    ) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"], Bool[Tensor, "height width"]]:
        """Compute the residuals of the flow to one neighbor, where it is reliable, and what the neighbor shows."""
        there, back = self._flow(frame, neighbor), self._flow(neighbor, frame)
        target = self.grid + there
        height, width = self.scene.size
        coordinates = 2 * target / target.new_tensor([width, height]) - 1
        returned = F.grid_sample(
            back.permute(2, 0, 1)[None], coordinates[None], padding_mode="border", align_corners=False
        )[0].permute(1, 2, 0)
        limit = MAX_ROUND_TRIP + MAX_RELATIVE_ROUND_TRIP * there.norm(dim=-1)
        is_reliable = (coordinates.abs() <= 1).all(dim=-1) & ((there + returned).norm(dim=-1) < limit)
        is_reliable &= self._correlation(frame, neighbor, coordinates) >= MIN_CORRELATION
        static = self.grid + self._static_flow(frame, neighbor)
        is_in_view = ((static >= 0) & (static <= static.new_tensor([width, height]))).all(dim=-1)
        return _distance_from_segment(target, *self._projected_rays(frame, neighbor)), is_reliable, is_in_view

    def _correlation(
        self, frame: int, neighbor: int, coordinates: Float[Tensor, "height width 2"]
    ) -> Float[Tensor, "height width"]:
        """Correlate the window about each pixel with that about its match."""
        matched = F.grid_sample(
            self.normalized[neighbor][None, None], coordinates[None], padding_mode="border", align_corners=False
        )[0, 0]
        # For values with mean 0 and variance 1, the mean squared difference is 2 - 2 * correlation.
        return 1 - 0.5 * _window_mean((matched - self.normalized[frame]).square()[None])[0]

    def _flow(self, frame: int, neighbor: int) -> Float[Tensor, "height width 2"]:
        if (frame, neighbor) not in self.cache:
            import cv2

            search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            start = np.ascontiguousarray(self._static_flow(frame, neighbor).numpy())
            flow = search.calc(self.images[frame], self.images[neighbor], start)
            self.cache[frame, neighbor] = torch.from_numpy(flow)
        return self.cache[frame, neighbor]

    def _static_flow(self, frame: int, neighbor: int) -> Float[Tensor, "height width 2"]:
        """The flow if nothing moved, at the depth of the scene; 0 where a point would be behind the camera."""
        cameras = self.scene.cameras
        in_camera = transform_points(cameras.cam_from_world[neighbor], self.points[frame])
        flow = project(in_camera, cameras.intrinsics[neighbor]) - self.grid
        farthest = float(max(self.scene.size))
        return torch.where(in_camera[..., 2:] > 0, flow, 0.0).nan_to_num(0.0).clamp(-farthest, farthest).float()

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


def _normalize(images: Float[Tensor, "time height width"]) -> Float[Tensor, "time height width"]:
    mean = _window_mean(images)
    variance = (_window_mean(images.square()) - mean.square()).clamp(min=0)
    return (images - mean) / (variance + MIN_VARIANCE).sqrt()


def _window_mean(images: Float[Tensor, "time height width"]) -> Float[Tensor, "time height width"]:
    return F.avg_pool2d(images, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def _distance_from_segment(
    points: Float[Tensor, "*shape 2"], start: Float[Tensor, "*shape 2"], end: Float[Tensor, "*shape 2"]
) -> Float[Tensor, "*shape"]:
    """Compute the distance of points from line segments."""
    along = end - start
    squared = along.square().sum(dim=-1, keepdim=True).clamp(min=_MIN_DEPTH)
    place = (((points - start) * along).sum(dim=-1, keepdim=True) / squared).clamp(0, 1)
    return (points - start - place * along).norm(dim=-1)
