"""Converts a scene to a rerun recording: frames, depth, cameras, points, dynamic mask and tracks over time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import stratified_indices, transform_points, unproject
from recon4d.records import Clip, Scene, Trajectories
from recon4d.viewer.layout import (
    CAMERA,
    CAMERA_PATH,
    CAMERAS,
    MAP,
    MOTIONS,
    POINTS,
    TRACKS,
    WORLD,
    blueprint,
    has_dynamic_mask,
    scene_length,
)
from recon4d.viewer.motions import points_between, select_alternatives
from recon4d.viewer.pictures import (
    confidence_colors,
    depth_colors,
    log_classes,
    log_confidence,
    log_depth,
    log_dynamic_mask,
    log_frame,
)
from recon4d.viewer.point_clouds import Cloud, PointBudget, select_clouds
from recon4d.viewer.rerun_loader import load_rerun
from recon4d.viewer.selection import has_camera
from recon4d.viewer.trails import Trails, rainbow, select_trails

APPLICATION = "recon4d"
"""Application id of the recordings."""

MAX_FRUSTA = 24
"""Largest number of camera frusta drawn at once, evenly distributed over the clip. Hand-tuned."""

FRUSTUM_LENGTH, FRAME_LENGTH = 0.04, 0.12
"""Length of the frusta of all cameras, and of the current one, as a share of the median depth. Hand-tuned."""

MAP_SHADE = 0.5
"""Brightness of the static map relative to the points of the current time, if these contain static points too.
Hand-tuned."""

MAP_SIZE, POINT_SIZE, TRACK_SIZE, LINE_SIZE, ALTERNATIVE_SIZE = 1.5, 2.0, 2.5, 1.2, 0.8
"""Radii on the screen in points. Current points are larger than map points and cover them. Hand-tuned."""

PATH_COLOR = (255, 210, 80)
"""RGB of the camera path. Hand-tuned."""


@dataclass(frozen=True)
class ViewConfig:
    """Limits on the size of a recording; the defaults suit clips of 64 frames."""

    max_points: int = 1_000_000
    """Largest number of points of the static map and of all times together: 16 MB. The times take half at most."""
    max_frame_points: int = 60_000
    """Largest number of points of one time."""
    max_tracks: int = 200
    """Largest number of tracks of all anchors together."""
    tail: int = 12
    """Length of the tail of a track in frames; 0 for no tails."""
    max_side: int = 512
    """Longest side of pictures beside the world in pixels; larger ones are reduced. Points come from the whole maps."""
    movers_only: bool = True
    """Whether the points of each time and the tracks are those of movers only, if the dynamic mask is known."""
    interpolated_frames: int = 0
    """Number of frames between two frames in which what moves is shown, on the trajectories of the scene."""

    def __post_init__(self) -> None:
        smallest = (
            ("max_points", 2),
            ("max_frame_points", 1),
            ("max_tracks", 0),
            ("tail", 0),
            ("max_side", 16),
            ("interpolated_frames", 0),
        )
        for name, least in smallest:
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
    is_dynamic_known = has_dynamic_mask(scene)
    movers_only = config.movers_only and is_dynamic_known
    if config.interpolated_frames and (scene.trajectories is None or not has_times):
        raise UserError("interpolated frames need trajectories, which recon4d.motion.fit_trajectories fits to tracks")
    budget = PointBudget(config.max_points, config.max_frame_points)
    at_map_size = None if images is None else _resized_images(images, scene.size)
    clouds = select_clouds(scene, at_map_size, budget, scene.is_dynamic if movers_only else None)
    trails = list(select_trails(scene, config.max_tracks, movers_only))

    recording = rerun.RecordingStream(APPLICATION)
    recording.send_recording_name(name)
    # The time of logging is irrelevant for a scene.
    recording.set_log_time_enabled(False)
    recording.set_log_tick_enabled(False)
    recording.log(WORLD, rerun.ViewCoordinates.RDF, static=True)
    for cloud in clouds.static:
        _log_map(recording, cloud, 1.0 if movers_only else MAP_SHADE)
    length = scene_length(scene)
    _log_cameras(recording, scene, FRUSTUM_LENGTH * length)
    if has_times:
        _log_camera_path(recording, scene)
    for frame in range(scene.num_frames):
        _set_time(recording, frame, times)
        if not config.interpolated_frames:
            for cloud in clouds.at_time:
                _log_points(recording, cloud, frame)
        for anchor_trails in trails:
            _log_trails(recording, anchor_trails, frame, config.tail)
    if config.interpolated_frames:
        _log_curve_points(recording, scene, at_map_size, config)
    if scene.trajectories is not None:
        _log_alternatives(recording, scene.trajectories)
    _log_pictures(recording, _reduced(scene, config.max_side), at_map_size, times, FRAME_LENGTH * length)
    return View(recording, blueprint(scene, images is not None, has_times, movers_only))


def _set_time(recording: Any, frame: int, times: Float[Tensor, " time"]) -> None:
    recording.set_time("frame", sequence=frame)
    if torch.isfinite(times).all():
        recording.set_time("time", duration=float(times[frame]))


def _log_pictures(
    recording: Any,
    scene: Scene,
    images: UInt8[Tensor, "time 3 rows columns"] | None,
    times: Float[Tensor, " time"],
    plane_distance: float,
) -> None:
    """Log the camera of each time and the pictures in its image plane, all at the size of the scene's maps."""
    log_classes(recording)
    depth_range, is_dynamic_known = depth_colors(scene), has_dynamic_mask(scene)
    confidence_range = None if depth_range is None else confidence_colors(scene)
    for frame in range(scene.num_frames):
        _set_time(recording, frame, times)
        current = scene.frames([frame])
        _log_camera(recording, current, plane_distance)
        if images is not None:
            log_frame(recording, _resized_images(images[frame : frame + 1], scene.size)[0])
        if depth_range is not None and confidence_range is not None:
            log_depth(recording, current, depth_range)
            log_confidence(recording, current, confidence_range)
        if is_dynamic_known:
            log_dynamic_mask(recording, current)


def _check_fit(scene: Scene, times: Tensor, images: Tensor | None) -> None:
    if scene.batch_shape:
        raise ValueError(f"wanted a single scene, given a batch of shape {tuple(scene.batch_shape)}")
    if times.shape != (scene.num_frames,):
        raise ValueError(f"times have shape {tuple(times.shape)}, wanted ({scene.num_frames},), one for every frame")
    if images is not None and len(images) != scene.num_frames:
        raise ValueError(f"given {len(images)} images, wanted {scene.num_frames}, one for every frame")


def _reduced(scene: Scene, max_side: int) -> Scene:
    """Return the scene without tracks, with maps whose longest side is at most `max_side` pixels."""
    factor = min(1.0, max_side / max(scene.size))
    size = (max(1, round(factor * scene.size[0])), max(1, round(factor * scene.size[1])))
    untracked = replace(scene, tracks=None)
    return untracked if size == scene.size else untracked.resized(*size)


def _resized_images(
    images: UInt8[Tensor, "frames 3 rows columns"], size: tuple[int, int]
) -> UInt8[Tensor, "frames 3 height width"]:
    if tuple(images.shape[-2:]) == size:
        return images
    return Clip(images, torch.zeros(len(images))).resized(*size).images


def _log_map(recording: Any, cloud: Cloud, shade: float) -> None:
    rerun = load_rerun()
    frames = range(cloud.scene.num_frames)
    points = torch.cat([cloud.points(frame) for frame in frames])
    colors = (shade * torch.cat([cloud.colors(frame) for frame in frames])).to(torch.uint8)
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


def _log_points(recording: Any, cloud: Cloud, frame: int) -> None:
    rerun = load_rerun()
    points, colors = cloud.points(frame).numpy(), cloud.colors(frame).numpy()
    radius = rerun.Radius.ui_points(POINT_SIZE)
    recording.log(f"{POINTS}/{cloud.band}", rerun.Points3D(points, colors=colors, radii=radius))


def _log_curve_points(
    recording: Any, scene: Scene, images: UInt8[Tensor, "time 3 rows columns"] | None, config: ViewConfig
) -> None:
    """Log the points of curves at all frames and at times between them, which only the timeline of seconds has."""
    rerun = load_rerun()
    radius = rerun.Radius.ui_points(POINT_SIZE)
    for shown in points_between(scene, images, config.interpolated_frames, config.max_frame_points):
        recording.set_time("time", duration=shown.seconds)
        if shown.frame == int(shown.frame):
            recording.set_time("frame", sequence=int(shown.frame))
        else:
            recording.disable_timeline("frame")
        points = rerun.Points3D(shown.positions.numpy(), colors=shown.colors.numpy(), radii=radius)
        recording.log(f"{POINTS}/curves", points)


def _log_alternatives(recording: Any, curves: Trajectories) -> None:
    """Log each sample of the motion as faint lines, which can be hidden one by one."""
    rerun = load_rerun()
    radius = rerun.Radius.ui_points(ALTERNATIVE_SIZE)
    for sample in select_alternatives(curves):
        lines = rerun.LineStrips3D(sample.lines.numpy(), colors=sample.colors.numpy(), radii=radius)
        recording.log(f"{MOTIONS}/sample_{sample.sample}", lines, static=True)


def _log_trails(recording: Any, trails: Trails, frame: int, length: int) -> None:
    rerun = load_rerun()
    name = f"{TRACKS}/anchor_{trails.anchor}"
    positions, colors = (values.numpy() for values in trails.heads(frame))
    radius = rerun.Radius.ui_points(TRACK_SIZE)
    recording.log(f"{name}/points", rerun.Points3D(positions, colors=colors, radii=radius))
    parts = trails.tails(frame, length)
    strips = [line for lines, _ in parts for line in lines.numpy()]
    colors = torch.cat([colors for _, colors in parts]).numpy() if parts else None
    radius = rerun.Radius.ui_points(LINE_SIZE)
    recording.log(f"{name}/tails", rerun.LineStrips3D(strips, colors=colors, radii=radius))
