"""USD: points as time samples and an animated camera, written with Pixar's own library."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.exporters.gltf_animation import linear_colors
from recon4d.io.exporters.moments import MomentCamera, end_of, moment_cameras, moment_points, moments_of
from recon4d.io.exporters.selected_frames import SelectedFrames

FILE_NAME = "scene.usdc"
APERTURE = 36.0
"""Width of the film of the camera in millimeters: that of 35 mm film."""


def write_usd(folder: Path, frames: SelectedFrames) -> str:
    """Write ``scene.usdc`` with ``/World/Points`` and ``/World/Camera``, y up, in the unit of the scene.

    Time codes are the times of the clip, from 0, times the frame rate of the stage. All moments share the largest
    number of points of a file.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If usd-core is not installed, there are no points, or a picture is missing or damaged.
    """
    pxr = _load_usd()
    moments = moments_of(frames.source)
    cameras = moment_cameras(frames.source, moments)
    rate = len(moments) / end_of(moments)
    stage = pxr.Usd.Stage.CreateNew(str(folder / FILE_NAME))
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    if frames.source.metres_per_unit > 0:
        pxr.UsdGeom.SetStageMetersPerUnit(stage, frames.source.metres_per_unit)
    stage.SetTimeCodesPerSecond(rate)
    stage.SetFramesPerSecond(rate)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(rate * moments[-1].seconds)
    stage.SetDefaultPrim(pxr.UsdGeom.Xform.Define(stage, "/World").GetPrim())

    cloud = pxr.UsdGeom.Points.Define(stage, "/World/Points")
    color = cloud.CreateDisplayColorPrimvar(pxr.UsdGeom.Tokens.vertex)
    count, before = 0, 0
    for moment, (points, colors) in zip(moments, moment_points(frames, moments), strict=True):
        # Equal numbers of points would be interpolated between two times, although they are not the same points.
        kept = len(points) - (0 < len(points) == before)
        linear = torch.from_numpy(linear_colors(colors[:kept])[:, :3] / 65535).float()
        time = rate * moment.seconds
        cloud.GetPointsAttr().Set(_vectors(pxr, points[:kept]), time)
        color.Set(_vectors(pxr, linear), time)
        if kept:
            bounds = torch.stack([points[:kept].amin(dim=0), points[:kept].amax(dim=0)])
            cloud.GetExtentAttr().Set(_vectors(pxr, bounds), time)
        if count == 0 and kept and cameras:
            cloud.CreateWidthsAttr([_point_width(points, cameras[0])])
            cloud.SetWidthsInterpolation(pxr.UsdGeom.Tokens.constant)
        before, count = kept, count + kept
    if cameras:
        _add_camera(pxr, stage, cameras, frames.source.size, rate)
    stage.GetRootLayer().Save()
    return f"{count} points at {len(moments)} times, {rate:.4g} frames a second, with {len(cameras)} cameras"


def _add_camera(pxr: Any, stage: Any, cameras: list[MomentCamera], size: tuple[int, int], rate: float) -> None:
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


def _point_width(points: Float[Tensor, "n 3"], camera: MomentCamera) -> float:
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
