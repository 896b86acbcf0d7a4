"""USD: points as time samples and an animated camera, written with Pixar's own library."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.exporters.frame_groups import (
    TimedCamera,
    curve_points,
    end_of,
    frame_groups,
    group_cameras,
    group_points,
)
from recon4d.io.exporters.gltf_animation import linear_colors
from recon4d.io.exporters.selected_frames import SelectedFrames

FILE_NAME = "scene.usdc"
APERTURE = 36.0
"""Width of the film of the camera in millimeters: that of 35 mm film."""


def write_usd(folder: Path, frames: SelectedFrames) -> str:
    """Write ``scene.usdc`` with ``/World/Points`` and ``/World/Camera``, y up, in the unit of the scene.

    Time codes are the times of the clip, from 0, times the frame rate of the stage. All groups share the largest
    number of points of a file. With `PointSelection.interpolated_frames`, these points are static, and
    ``/World/Moving`` has those of curves at all times.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If usd-core is not installed, there are no points, or a picture is missing or damaged.
    """
    pxr = _load_usd()
    groups = frame_groups(frames.source)
    cameras = group_cameras(frames.source, groups)
    rate = (frames.selection.interpolated_frames + 1) * len(groups) / end_of(groups)
    stage = pxr.Usd.Stage.CreateNew(str(folder / FILE_NAME))
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    if frames.source.metres_per_unit > 0:
        pxr.UsdGeom.SetStageMetersPerUnit(stage, frames.source.metres_per_unit)
    stage.SetTimeCodesPerSecond(rate)
    stage.SetFramesPerSecond(rate)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(rate * groups[-1].seconds)
    stage.SetDefaultPrim(pxr.UsdGeom.Xform.Define(stage, "/World").GetPrim())

    interpolated_frames = frames.selection.interpolated_frames
    found = group_points(frames, groups, static_only=interpolated_frames > 0)
    clouds = ((group.seconds, *cloud) for group, cloud in zip(groups, found, strict=True))
    count = _add_cloud(pxr, stage, "/World/Points", clouds, rate, cameras)
    moving = curve_points(frames) if interpolated_frames else []
    if moving:
        clouds = ((one.seconds, one.points, one.colors) for one in moving)
        count += _add_cloud(pxr, stage, "/World/Moving", clouds, rate, cameras)
    if cameras:
        _add_camera(pxr, stage, cameras, frames.source.size, rate)
    stage.GetRootLayer().Save()
    num_times = len(moving) or len(groups)
    return f"{count} points at {num_times} times, {rate:.4g} frames a second, with {len(cameras)} cameras"


def _add_cloud(
    pxr: Any,
    stage: Any,
    path: str,
    clouds: Iterable[tuple[float, Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]],
    rate: float,
    cameras: list[TimedCamera],
) -> int:
    """Add points and colors as time samples, given as (seconds, points, colors), and return their number."""
    cloud = pxr.UsdGeom.Points.Define(stage, path)
    color = cloud.CreateDisplayColorPrimvar(pxr.UsdGeom.Tokens.vertex)
    count, before = 0, 0
    for seconds, points, colors in clouds:
        # Equal numbers of points would be interpolated between two times, although they are not the same points.
        kept = len(points) - (0 < len(points) == before)
        linear = torch.from_numpy(linear_colors(colors[:kept])[:, :3] / 65535).float()
        time = rate * seconds
        cloud.GetPointsAttr().Set(_vectors(pxr, points[:kept]), time)
        color.Set(_vectors(pxr, linear), time)
        if kept:
            bounds = torch.stack([points[:kept].amin(dim=0), points[:kept].amax(dim=0)])
            cloud.GetExtentAttr().Set(_vectors(pxr, bounds), time)
        if count == 0 and kept and cameras:
            cloud.CreateWidthsAttr([_point_width(points, cameras[0])])
            cloud.SetWidthsInterpolation(pxr.UsdGeom.Tokens.constant)
        before, count = kept, count + kept
    return count


def _add_camera(pxr: Any, stage: Any, cameras: list[TimedCamera], size: tuple[int, int], rate: float) -> None:
    """Add the camera with its path, focal lengths and principal points."""
    height, width = size
    camera = pxr.UsdGeom.Camera.Define(stage, "/World/Camera")
    camera.CreateHorizontalApertureAttr(APERTURE)
    pose = camera.AddTransformOp()
    for one in cameras:
        time, millimeters = rate * one.seconds, APERTURE / width
        # Rows are vectors in USD, so matrices are transposed.
        pose.Set(pxr.Gf.Matrix4d(*one.world_from_cam.T.flatten().tolist()), time)
        focal_x, focal_y = float(one.intrinsics[0, 0]), float(one.intrinsics[1, 1])
        camera.GetFocalLengthAttr().Set(focal_x * millimeters, time)
        # A height of the film that makes up for pixels that are not square.
        camera.GetVerticalApertureAttr().Set(height * millimeters * focal_x / focal_y, time)
        right, down = float(one.intrinsics[0, 2]) - width / 2, float(one.intrinsics[1, 2]) - height / 2
        # The film moves opposite to the principal point; its y axis points up.
        camera.GetHorizontalApertureOffsetAttr().Set(-right * millimeters, time)
        camera.GetVerticalApertureOffsetAttr().Set(down * millimeters * focal_x / focal_y, time)


def _point_width(points: Float[Tensor, "n 3"], camera: TimedCamera) -> float:
    """Return the width of a pixel at the median distance of the points."""
    distance = (points.double() - camera.world_from_cam[:3, 3]).norm(dim=-1).median()
    return float(distance / camera.intrinsics[0, 0])


def _vectors(pxr: Any, values: Float[Tensor, "n 3"]) -> Any:
    return pxr.Vt.Vec3fArray.FromNumpy(values.contiguous().numpy())


def _load_usd() -> Any:
    try:
        import pxr  # pyright: ignore[reportMissingImports]
        import pxr.Gf  # pyright: ignore[reportMissingImports]
        import pxr.Usd  # pyright: ignore[reportMissingImports]
        import pxr.UsdGeom  # pyright: ignore[reportMissingImports]
        import pxr.Vt  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"USD needs usd-core: pip install -e '.[usd]' ({error})") from error
    return pxr
