"""Gaussian splats of a scene over time: surface elements of its pixels, static ones once, dynamic ones on curves.

Each pixel becomes a Gaussian in the tangent plane of its surface whose projection into its own frame is round and about
a pixel large (surface elements of Zwicker et al. 2001).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d.geometry import (
    invert,
    is_in_image,
    pixel_indices,
    project,
    quaternion_from_rotation,
    rotation_from_quaternion,
    stratified_indices,
    transform_points,
    unproject_map,
)
from recon4d.records import Scene
from recon4d.records.gaussians import DynamicGaussians, Gaussians
from recon4d.records.trajectories import Trajectories

SIZE = 0.5
"""Standard deviation of the projection of a Gaussian, in pixels of its own frame. Of 0.35 to 0.65, PSNR of two scenes
of `python -m benchmarks.dynamic_splats --split tuning` hardly depends on it."""
THICKNESS = 0.1
"""Standard deviation along the normal, relative to that of a Gaussian that faces the camera. Hand-tuned."""
MAX_SLOPE = 3.0
"""Largest tangent of the angle between the normal and the viewing ray; steeper surfaces count as if they had this one.
Hand-tuned: estimated normals of grazing surfaces are unreliable."""
MAX_OPACITY = 0.95
"""Opacity of Gaussians of at least the median confidence of their frame. Of 0.8 to 0.99, PSNR of the same scenes
hardly depends on it."""
MIN_RELATIVE_OPACITY = 0.5
"""Smallest opacity, relative to `MAX_OPACITY`; between both it is proportional to the confidence. Hand-tuned."""
SAME_SURFACE = 0.02
"""Largest difference of depth at which an earlier frame shows the same surface, relative to the depth. Hand-tuned."""
FINER = 1.5
"""A frame shows a surface again if its pixels are finer than those of the earlier frames by this factor. Hand-tuned."""
MAX_COMPARED = 32
"""Largest number of earlier frames that are compared. Hand-tuned: long clips would take quadratic time."""
MAX_NEIGHBORS = 2000
"""Largest number of curves among which the nearest one is searched. Hand-tuned."""
NEIGHBOR_DISTANCE = 0.2
"""Largest distance of an untracked pixel from the curve that it moves with, relative to its depth. Hand-tuned."""
COVERED_DEPTH = 0.05
"""Largest difference of depth at which a curve covers a dynamic pixel, relative to the depth. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class SplatFrame:
    """One frame, with the pixels that become Gaussians."""

    scene: Scene
    """Scene of this frame alone."""
    image: UInt8[Tensor, "3 height width"]
    """RGB image at the size of the maps."""
    mask: Bool[Tensor, "height width"]
    """Pixels that may become Gaussians: those of known depth that are confident enough."""


def dynamic_gaussians(
    frames: Iterable[SplatFrame],
    times: Float[Tensor, " time"],
    trajectories: Trajectories | None = None,
    max_static: int | None = None,
    max_single: int | None = None,
) -> DynamicGaussians:
    """Make Gaussians of the pixels of a clip.

    A static pixel becomes a Gaussian unless an earlier frame shows the same surface at least as finely. A curve becomes
    a Gaussian of the pixel it starts from, unless another curve covers that pixel already. Dynamic pixels that no curve
    covers become Gaussians that are shown near their own frame only, and move with the nearest curve.

    Args:
        frames: The frames in the order of `times`; read once, one at a time.
        times: Times of the frames in seconds, not decreasing.
        trajectories: Curves with the same times; None for none.
        max_static: Largest number of static Gaussians. More are thinned evenly, and those kept are larger. None keeps
            all.
        max_single: Largest number of Gaussians of each frame that are shown at that frame only; as for `max_static`.

    Returns:
        The Gaussians, static ones first.
    """
    curves = trajectories if trajectories is not None and trajectories.num_curves else None
    static, parts, started = _StaticGaussians(max_static), [], torch.zeros(0).long()
    for number, frame in enumerate(frames):
        made, rest = frame_gaussians(frame), frame.scene.is_dynamic[0] & frame.mask
        static.add(frame, made)
        if curves is not None:
            starts, factor = _new_curves(curves, started, number, frame)
            row, column = pixel_indices(curves.pixels[starts], frame.scene.size)
            chosen = made.select(row * frame.scene.size[1] + column)
            here = curves.positions(curves.times[number : number + 1])[starts, 0]
            chosen = replace(chosen, centers=here, scales=chosen.scales * factor)
            parts.append(_on_curves(chosen, curves, starts, number))
            started = torch.cat([started, starts])
            rest = rest & ~_covered_pixels(curves, torch.arange(curves.num_curves), number, frame.scene)
        single = _thinned(made.select(rest.flatten()), max_single)
        if curves is None:
            parts.append(_without_curves(single, number))
        else:
            near = _nearest_curves(single.centers, curves, number, frame.scene)
            on_curves = _on_curves(single.select(near >= 0), curves, near[near >= 0], number)
            on_curves = replace(on_curves, shown_frames=torch.full_like(on_curves.shown_frames, number))
            parts += [on_curves, _without_curves(single.select(near < 0), number)]
    parts.insert(0, _without_curves(static.gaussians, -1))
    return DynamicGaussians(
        gaussians=Gaussians.concatenate([part.gaussians for part in parts]),
        curves=torch.cat([part.curves for part in parts]),
        offsets=torch.cat([part.offsets for part in parts]),
        shown_frames=torch.cat([part.shown_frames for part in parts]),
        times=times,
        trajectories=curves,
    )


def scene_gaussians(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    times: Float[Tensor, " time"],
    mask: Bool[Tensor, "time height width"] | None = None,
    max_static: int | None = None,
) -> DynamicGaussians:
    """Make Gaussians of a scene in memory, see `dynamic_gaussians`.

    Args:
        scene: A single scene; its trajectories are used if it has them.
        images: RGB images at the size of the maps.
        times: Times of the frames in seconds, not decreasing.
        mask: Pixels to use; None for all of known depth.
        max_static: Largest number of static Gaussians; None for any number.

    Returns:
        The Gaussians.
    """
    mask = (scene.depth_confidence > 0) & (scene.depths > 0) if mask is None else mask
    maps = replace(scene, tracks=None, trajectories=None)
    frames = (SplatFrame(maps.frames([t]), images[t], mask[t]) for t in range(scene.num_frames))
    return dynamic_gaussians(frames, times, scene.trajectories, max_static)


def frame_gaussians(frame: SplatFrame) -> Gaussians:
    """Make a Gaussian of every pixel of a frame, row by row; those outside of the mask are meaningless.

    Args:
        frame: The frame.

    Returns:
        One Gaussian for each pixel.
    """
    scene = frame.scene
    intrinsics, world_from_cam = scene.cameras.intrinsics[0], scene.cameras.world_from_cam[0]
    depths = torch.where(frame.mask, scene.depths[0], torch.nan)
    rays = unproject_map(torch.ones_like(depths), intrinsics)
    safe = torch.where(frame.mask, depths, 1.0)
    footprint = safe / intrinsics.diagonal()[:2].mean()
    tangents = []
    for axis in range(2):
        inverse_focal = torch.zeros(3).to(rays)
        inverse_focal[axis] = 1 / intrinsics[axis, axis]
        # The inverse depth of a plane is linear in pixels, so that its differences are exact on planes.
        slope = -safe.square() * _smaller_difference(1 / depths, axis=1 - axis)
        slope = slope.clamp(-MAX_SLOPE * footprint, MAX_SLOPE * footprint)
        tangents.append(safe[..., None] * inverse_focal + slope[..., None] * rays)
    normal = F.normalize(torch.linalg.cross(*tangents), dim=-1)
    axes = torch.stack([*(SIZE * tangent for tangent in tangents), THICKNESS * SIZE * footprint[..., None] * normal])
    axes = axes.flatten(1, 2).permute(1, 2, 0)
    variances, rotations = torch.linalg.eigh(axes @ axes.transpose(-1, -2))
    rotations = rotations * torch.linalg.det(rotations)[:, None, None].sign()
    confidence = scene.depth_confidence[0]
    median = confidence[frame.mask].median() if frame.mask.any() else confidence.new_tensor(1.0)
    return Gaussians(
        centers=transform_points(world_from_cam, rays * safe[..., None]).flatten(0, 1),
        scales=variances.clamp(min=0).sqrt().clamp(min=1e-3 * SIZE * float(footprint.min())),
        quaternions=quaternion_from_rotation(world_from_cam[:3, :3] @ rotations),
        opacities=MAX_OPACITY * (confidence / median).clamp(MIN_RELATIVE_OPACITY, 1).flatten(),
        colors=(frame.image.movedim(0, -1).to(depths) / 255).flatten(0, 1),
    )


@dataclass(frozen=True, eq=False)
class _DepthMap:
    """Depth of one frame and its camera, without the other maps of a scene."""

    depths: Float[Tensor, "height width"]
    cam_from_world: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]

    @classmethod
    def of(cls, scene: Scene, mask: Bool[Tensor, "height width"] | None = None) -> "_DepthMap":
        """Take the depth of a scene of one frame; 0 outside of the mask."""
        depths = scene.depths[0] if mask is None else torch.where(mask, scene.depths[0], 0.0)
        return cls(depths, invert(scene.cameras.world_from_cam[0]), scene.cameras.intrinsics[0])


class _StaticGaussians:
    """Static Gaussians of a clip, without those that repeat a surface, in bounded memory."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._stride = 1
        self._earlier: list[_DepthMap] = []
        self._parts: list[Gaussians] = []

    def add(self, frame: SplatFrame, made: Gaussians) -> None:
        """Add the new surfaces of a frame."""
        is_static = frame.mask & ~frame.scene.is_dynamic[0]
        pixels = is_static.flatten().nonzero()[:, 0]
        here = _DepthMap.of(frame.scene, is_static)
        pixels = pixels[~self._repeats(made.centers[pixels], here)]
        pixels = pixels[stratified_indices(len(pixels), -(-len(pixels) // self._stride))]
        self._parts.append(made.select(pixels))
        self._earlier.append(here)
        if len(self._earlier) > MAX_COMPARED:
            del self._earlier[1::2]
        count = sum(len(part.centers) for part in self._parts)
        if self._limit is not None and count > 2 * self._limit:
            self._parts = [Gaussians.concatenate(self._parts).select(stratified_indices(count, count // 2))]
            self._stride *= 2

    @property
    def gaussians(self) -> Gaussians:
        """All static Gaussians, thinned to the limit and enlarged accordingly."""
        thinned = _thinned(Gaussians.concatenate(self._parts), self._limit)
        return replace(thinned, scales=thinned.scales * self._stride**0.5)

    def _repeats(self, points: Float[Tensor, "n 3"], here: _DepthMap) -> Bool[Tensor, " n"]:
        """Check which points of a frame an earlier frame shows, about as finely as this one."""
        repeats = torch.zeros(len(points), dtype=torch.bool)
        own_depth, _, _ = _depth_at(points, here)
        for earlier in self._earlier:
            depth, depth_there, _ = _depth_at(points, earlier)
            is_same = (depth_there > 0) & ((depth - depth_there).abs() < SAME_SURFACE * depth)
            magnification = here.intrinsics[0, 0] / earlier.intrinsics[0, 0]
            repeats |= is_same & (depth * magnification < FINER * own_depth)
        return repeats


def _thinned(gaussians: Gaussians, limit: int | None) -> Gaussians:
    """Keep an even sample of Gaussians, enlarged so that they cover the same area."""
    count = len(gaussians.centers)
    if limit is None or count <= limit:
        return gaussians
    kept = gaussians.select(stratified_indices(count, limit))
    return replace(kept, scales=kept.scales * (count / limit) ** 0.5)


def _depth_at(points: Float[Tensor, "n 3"], frame: _DepthMap) -> tuple[Tensor, Tensor, Int[Tensor, " n"]]:
    """Return the depth of points in a frame, that of its map there (0 outside) and the flat index of the pixel."""
    in_camera = transform_points(frame.cam_from_world, points)
    pixels, size = project(in_camera, frame.intrinsics), (frame.depths.shape[0], frame.depths.shape[1])
    row, column = pixel_indices(pixels, size)
    is_inside = is_in_image(pixels, size) & (in_camera[:, 2] > 0)
    return in_camera[:, 2], torch.where(is_inside, frame.depths[row, column], 0.0), row * size[1] + column


def _new_curves(
    curves: Trajectories, taken: Int[Tensor, " n"], number: int, frame: SplatFrame
) -> tuple[Int[Tensor, " m"], float]:
    """Return the curves that start from a frame where no curve of `taken` is, and the factor on their sizes.

    The factor makes up for curves that are a sample of the dynamic pixels.
    """
    covered = _covered_pixels(curves, taken[taken >= 0], number, frame.scene)
    free = frame.mask & frame.scene.is_dynamic[0] & ~covered
    row, column = pixel_indices(curves.pixels, frame.scene.size)
    starts = ((curves.anchors == number) & free[row, column] & (curves.confidence > 0)).nonzero()[:, 0]
    return starts, max(1.0, float(free.sum()) / max(len(starts), 1)) ** 0.5


def _covered_pixels(
    curves: Trajectories, numbers: Int[Tensor, " n"], frame: int, scene: Scene
) -> Bool[Tensor, "height width"]:
    """Find the pixels of a frame at which a curve is, or at a neighbor of which."""
    shown = numbers[(curves.visibility[numbers, frame] > 0.5) & (curves.confidence[numbers] > 0)]
    depth, depth_there, pixel = _depth_at(
        curves.positions(curves.times[frame : frame + 1])[shown, 0], _DepthMap.of(scene)
    )
    is_same = (depth_there > 0) & ((depth - depth_there).abs() < COVERED_DEPTH * depth)
    covered = scene.depths.new_zeros(scene.size)
    covered.view(-1)[pixel[is_same]] = 1
    return F.max_pool2d(covered[None, None], kernel_size=3, stride=1, padding=1)[0, 0] > 0


def _without_curves(gaussians: Gaussians, shown_frame: int) -> DynamicGaussians:
    count = len(gaussians.centers)
    none = torch.full((count,), -1)
    shown = torch.full((count,), shown_frame)
    return DynamicGaussians(gaussians, none, torch.zeros_like(gaussians.centers), shown, torch.zeros(0))


def _on_curves(made: Gaussians, curves: Trajectories, numbers: Int[Tensor, " n"], frame: int) -> DynamicGaussians:
    """Attach Gaussians of a frame to curves, and move them to where they are at the first time."""
    there, start = curves.positions(curves.times[[frame, 0]])[numbers].unbind(dim=1)
    to_start = curves.rotations_at(float(curves.times[frame]))[curves.pieces[numbers]].transpose(-1, -2)
    offsets = (to_start @ (made.centers - there)[..., None])[..., 0]
    quaternions = quaternion_from_rotation(to_start @ rotation_from_quaternion(made.quaternions))
    moved = replace(made, centers=start + offsets, quaternions=quaternions)
    return DynamicGaussians(moved, numbers, offsets, torch.full_like(numbers, -1), torch.zeros(0))


def _nearest_curves(points: Float[Tensor, "n 3"], curves: Trajectories, frame: int, scene: Scene) -> Int[Tensor, " n"]:
    """Return the curve nearest to each point of a frame; -1 if none that was observed around that time is near."""
    time = curves.times[frame]
    is_observed = (curves.support[:, 0] <= time) & (time <= curves.support[:, 1]) & (curves.confidence > 0)
    compared = is_observed.nonzero()[:, 0]
    compared = compared[stratified_indices(len(compared), MAX_NEIGHBORS)]
    if not len(compared) or not len(points):
        return torch.full((len(points),), -1)
    positions = curves.positions(time[None])[compared, 0]
    found = [torch.cdist(part, positions).min(dim=1) for part in points.split(4096)]
    distances, nearest = torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
    depth, _, _ = _depth_at(points, _DepthMap.of(scene))
    return torch.where(distances < NEIGHBOR_DISTANCE * depth, compared[nearest], -1)


def _smaller_difference(values: Float[Tensor, "height width"], axis: int) -> Float[Tensor, "height width"]:
    """Return the difference to the neighbor before or after, whichever is smaller; 0 if both are unknown."""
    steps = values.diff(dim=axis)
    pad = torch.full_like(values.narrow(axis, 0, 1), torch.nan)
    before, after = torch.cat([pad, steps], dim=axis), torch.cat([steps, pad], dim=axis)
    is_before = torch.isnan(after) | (before.abs() < after.abs())
    return torch.where(is_before, before, after).nan_to_num()
