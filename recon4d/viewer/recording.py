"""Converts a scene to a rerun recording: frames, depth, cameras, points, dynamic mask and tracks over time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import stratified_indices, transform_points, unproject
from recon4d.records import Clip, Scene
from recon4d.viewer.layout import (
    CAMERA,
    CAMERA_PATH,
    CAMERAS,
    DEPTH,
    DYNAMIC,
    FRAME,
    MAP,
    POINTS,
    TRACKS,
    UNKNOWN,
    WORLD,
    blueprint,
    has_dynamic_mask,
    scene_length,
)
from recon4d.viewer.point_clouds import Cloud, select_clouds
from recon4d.viewer.rerun_loader import load_rerun
from recon4d.viewer.selection import has_camera, is_dynamic, known_depth
from recon4d.viewer.trails import Trails, rainbow, select_trails

APPLICATION = "recon4d"
"""Application id of the recordings."""

MAX_FRUSTA = 24
"""Largest number of camera frusta drawn at once, evenly distributed over the clip. Hand-tuned."""

FRUSTUM_LENGTH, FRAME_LENGTH = 0.04, 0.12
"""Length of the frusta of all cameras, and of the current one, as a share of the median depth. Hand-tuned."""

MAP_SHADE = 0.5
"""Brightness of the static map relative to the points of the current time. Hand-tuned."""

MAP_SIZE, POINT_SIZE, TRACK_SIZE, LINE_SIZE = 1.5, 2.0, 3.0, 1.2
"""Radii on the screen in points. Current points are larger than map points and cover them. Hand-tuned."""

PATH_COLOR, DYNAMIC_COLOR, UNKNOWN_COLOR = (255, 210, 80), (255, 96, 32, 170), (50, 50, 55)
"""RGB or RGBA of the camera path, the dynamic mask and unknown depth. Hand-tuned."""


@dataclass(frozen=True)
class ViewConfig:
    """Limits on the size of a recording; the defaults suit clips of 64 frames."""

    max_points: int = 1_000_000
    """Largest number of points of all times together, and of the static map."""
    max_tracks: int = 400
    """Largest number of tracks of all anchors together."""
    tail: int = 12
    """Length of the tail of a track in frames; 0 for no tails."""
    max_side: int = 384
    """Longest side of frames and maps in pixels; larger ones are reduced, and points come from the reduced maps."""

    def __post_init__(self) -> None:
        for name, least in (("max_points", 1), ("max_tracks", 0), ("tail", 0), ("max_side", 16)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; wanted at least {least}")


@dataclass(frozen=True)
class View:
    """A recording that can be saved or shown once."""

    recording: Any
    """The `rerun.RecordingStream`."""
    blueprint: Any
    """The `rerun.blueprint.Blueprint` with the layout."""


def record_scene(
    scene: Scene,
    times: Float[Tensor, " time"],
    images: UInt8[Tensor, "frames 3 rows columns"] | None = None,
    config: ViewConfig | None = None,
    name: str = "scene",
) -> View:
    """Record a scene for the viewer.

    Positions are in the unit and world of the scene (OpenCV axes). Frames are sorted by time.

    Args:
        scene: The scene, without batch axes.
        times: Time of each frame in seconds; NaN for photos without an order.
        images: The frames at any size; None for gray points.
        config: Limits on the size of the recording; None for the defaults.
        name: Name of the recording in the viewer.

    Returns:
        The recording and its layout.

    Raises:
        NoRerunError: If rerun is not installed.
        ValueError: If the scene is a batch, or times or images do not fit it.
    """
    rerun = load_rerun()
    config = config or ViewConfig()
    _check_fit(scene, times, images)
    scene, times = scene.to("cpu"), times.cpu()
    has_times = bool(torch.isfinite(times).all())
    if has_times:
        order = times.argsort(stable=True)
        scene, times, images = scene.frames(order.tolist()), times[order], None if images is None else images[order]
    scene, images = _resize_to_limit(scene, images, config.max_side)

    recording = rerun.RecordingStream(APPLICATION)
    recording.send_recording_name(name)
    # The time of logging is irrelevant for a scene.
    recording.set_log_time_enabled(False)
    recording.set_log_tick_enabled(False)
    clouds = select_clouds(scene, images, config.max_points)
    trails = list(select_trails(scene, config.max_tracks))
    depth_range, length = _depth_range(scene), scene_length(scene)
    is_dynamic_known = has_dynamic_mask(scene)
    untracked = replace(scene, tracks=None)

    recording.log(WORLD, rerun.ViewCoordinates.RDF, static=True)
    _log_class(recording, DYNAMIC, "moving", DYNAMIC_COLOR)
    _log_class(recording, UNKNOWN, "unknown", UNKNOWN_COLOR)
    for cloud in clouds.static:
        _log_map(recording, cloud)
    _log_cameras(recording, scene, FRUSTUM_LENGTH * length)
    if has_times:
        _log_camera_path(recording, scene)
    for frame in range(scene.num_frames):
        recording.set_time("frame", sequence=frame)
        if has_times:
            recording.set_time("time", duration=float(times[frame]))
        current = untracked.frames([frame])
        _log_camera(recording, current, FRAME_LENGTH * length)
        if images is not None:
            _log_frame(recording, images[frame])
        if depth_range is not None:
            _log_depth(recording, current, depth_range)
        if is_dynamic_known:
            _log_dynamic_mask(recording, current)
        for cloud in clouds.at_time:
            _log_points(recording, cloud, frame)
        for anchor_trails in trails:
            _log_trails(recording, anchor_trails, frame, config.tail)
    return View(recording, blueprint(scene, images is not None, has_times))


def _check_fit(scene: Scene, times: Tensor, images: Tensor | None) -> None:
    if scene.batch_shape:
        raise ValueError(f"wanted a single scene, given a batch of shape {tuple(scene.batch_shape)}")
    if times.shape != (scene.num_frames,):
        raise ValueError(f"times have shape {tuple(times.shape)}, wanted ({scene.num_frames},), one for every frame")
    if images is not None and len(images) != scene.num_frames:
        raise ValueError(f"given {len(images)} images, wanted {scene.num_frames}, one for every frame")


def _resize_to_limit(scene: Scene, images: Tensor | None, max_side: int) -> tuple[Scene, Tensor | None]:
    """Resize scene and images to a common size whose longest side is at most `max_side` pixels."""
    factor = min(1.0, max_side / max(scene.size))
    size = (max(1, round(factor * scene.size[0])), max(1, round(factor * scene.size[1])))
    if size != scene.size:
        scene = scene.resized(*size)
    if images is not None and tuple(images.shape[-2:]) != size:
        images = Clip(images, torch.zeros(len(images))).resized(*size).images
    return scene, images


def _log_class(recording: Any, name: str, label: str, color: tuple[int, ...]) -> None:
    """Log label and color of the value 1 in the masks of an entity; the value 0 is transparent."""
    classes = [(0, f"not {label}", (0, 0, 0, 0)), (1, label, color)]
    recording.log(name, load_rerun().AnnotationContext(classes), static=True)


def _log_map(recording: Any, cloud: Cloud) -> None:
    rerun = load_rerun()
    frames = range(cloud.scene.num_frames)
    points = torch.cat([cloud.points(frame) for frame in frames])
    colors = (MAP_SHADE * torch.cat([cloud.colors(frame) for frame in frames])).to(torch.uint8)
    radius = rerun.Radius.ui_points(MAP_SIZE)
    shown = rerun.Points3D(points.numpy(), colors=colors.numpy(), radii=radius)
    recording.log(f"{MAP}/{cloud.band}", shown, static=True)


def _log_cameras(recording: Any, scene: Scene, length: float) -> None:
    """Log camera frusta of the whole clip, each as one line, colored by time."""
    rerun = load_rerun()
    with_camera = has_camera(scene).nonzero()[:, 0]
    if not len(with_camera):
        return
    shown = with_camera[stratified_indices(len(with_camera), MAX_FRUSTA)].tolist()
    cameras = scene.cameras.frames(shown)
    height, width = scene.size
    corners = cameras.intrinsics.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
    lengths = corners.new_full((len(shown), 4), length)
    in_camera = unproject(corners.expand(len(shown), 4, 2), lengths, cameras.intrinsics)
    outline = torch.cat([torch.zeros_like(in_camera[:, :1]), in_camera], dim=1)
    # The outline of the image, then through the camera center (0) to the other corners; one edge is drawn twice.
    line = transform_points(cameras.world_from_cam, outline[:, [1, 2, 3, 4, 1, 0, 2, 3, 0, 4]])
    colors, radius = rainbow(len(shown)).numpy(), rerun.Radius.ui_points(LINE_SIZE)
    recording.log(CAMERAS, rerun.LineStrips3D(line.numpy(), colors=colors, radii=radius), static=True)


def _log_camera_path(recording: Any, scene: Scene) -> None:
    rerun = load_rerun()
    centers = scene.cameras.centers[has_camera(scene)].numpy()
    radius = rerun.Radius.ui_points(LINE_SIZE)
    path = rerun.LineStrips3D([centers] if len(centers) > 1 else [], colors=[PATH_COLOR], radii=radius)
    recording.log(CAMERA_PATH, path, static=True)


def _log_camera(recording: Any, current: Scene, length: float) -> None:
    """Log the camera of a single-frame scene; its image plane is drawn at the depth `length`."""
    rerun = load_rerun()
    if not has_camera(current)[0]:
        # Without this, the viewer would keep showing the previous camera.
        recording.log(CAMERA, rerun.Clear(recursive=False))
        return
    world_from_cam = current.cameras.world_from_cam[0].numpy()
    height, width = current.size
    pinhole = rerun.Pinhole(
        image_from_camera=current.cameras.intrinsics[0].numpy(),
        resolution=(width, height),
        camera_xyz=rerun.ViewCoordinates.RDF,
        image_plane_distance=length,
    )
    pose = rerun.Transform3D(translation=world_from_cam[:3, 3], mat3x3=world_from_cam[:3, :3])
    recording.log(CAMERA, pose, pinhole)


def _log_frame(recording: Any, image: UInt8[Tensor, "3 height width"]) -> None:
    picture = load_rerun().Image(image.movedim(0, -1).contiguous().cpu().numpy())
    recording.log(FRAME, picture.compress(jpeg_quality=88))


def _log_depth(recording: Any, current: Scene, depth_range: tuple[float, float]) -> None:
    """Log the depth map of a single-frame scene; unknown pixels are NaN and covered by a mask."""
    rerun = load_rerun()
    known = known_depth(current)[0]
    depths = torch.where(known, current.depths[0], torch.nan).float()
    meters = float(current.metres_per_unit)
    # Units per meter; if the scale is unknown, a unit is shown as a meter.
    meter = 1 / meters if meters > 0 else 1.0
    recording.log(DEPTH, rerun.DepthImage(depths.numpy(), meter=meter, depth_range=depth_range))
    # rerun draws NaN in the color of the largest depth.
    recording.log(UNKNOWN, rerun.SegmentationImage((~known).to(torch.uint8).numpy(), opacity=1.0))


def _log_dynamic_mask(recording: Any, current: Scene) -> None:
    mask = is_dynamic(current)[0].to(torch.uint8).numpy()
    recording.log(DYNAMIC, load_rerun().SegmentationImage(mask))


def _log_points(recording: Any, cloud: Cloud, frame: int) -> None:
    rerun = load_rerun()
    points, colors = cloud.points(frame).numpy(), cloud.colors(frame).numpy()
    radius = rerun.Radius.ui_points(POINT_SIZE)
    recording.log(f"{POINTS}/{cloud.band}", rerun.Points3D(points, colors=colors, radii=radius))


def _log_trails(recording: Any, trails: Trails, frame: int, length: int) -> None:
    rerun = load_rerun()
    name = f"{TRACKS}/anchor_{trails.anchor}"
    positions, colors = (values.numpy() for values in trails.heads(frame))
    radius = rerun.Radius.ui_points(TRACK_SIZE)
    recording.log(f"{name}/points", rerun.Points3D(positions, colors=colors, radii=radius))
    strips, colors = (values.numpy() for values in trails.tails(frame, length))
    radius = rerun.Radius.ui_points(LINE_SIZE)
    recording.log(f"{name}/tails", rerun.LineStrips3D(strips, colors=colors, radii=radius))


def _depth_range(scene: Scene) -> tuple[float, float] | None:
    """Return the depths of the first and last color, the same for the whole clip; None if no depth is known."""
    depths = scene.depths[known_depth(scene)]
    if not len(depths):
        return None
    # A sample of a million suffices; torch.quantile accepts at most 16 million.
    sample = depths[stratified_indices(len(depths), 1_000_000)].float()
    # The upper quantile excludes distant ground, which would take most of the color range.
    low, high = torch.quantile(sample, torch.tensor([0.02, 0.9])).tolist()
    # The margin keeps rounding errors of a fronto-parallel wall from filling the color range.
    margin = max(0.0, 0.01 * high - (high - low)) / 2
    return low - margin, high + margin
