"""A scene as a rerun recording: time lines, frames, depth, cameras, points, moving mask and tracks, each by name."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import stratified_indices, transform_points, unproject
from recon4d.records import Clip, Scene
from recon4d.viewer.layout import (
    CAMERA,
    CAMERA_PATH,
    CAMERAS,
    DEPTH,
    FRAME,
    MAP,
    MOVING,
    POINTS,
    TRACKS,
    UNKNOWN,
    WORLD,
    blueprint,
    says_what_moves,
    scene_length,
)
from recon4d.viewer.point_clouds import Cloud, choose_clouds
from recon4d.viewer.rerun_loader import load_rerun
from recon4d.viewer.selection import has_camera, is_dynamic, known_depth
from recon4d.viewer.trails import Trails, choose_trails, rainbow

APPLICATION = "recon4d"

MAX_FRUSTA = 24
"""The most cameras drawn at once, spread evenly over the clip; the camera of the current time is always there."""

FRUSTUM_LENGTH, FRAME_LENGTH = 0.04, 0.12
"""Length of all cameras' frusta, and of the current one with its frame, as a share of the scene's depth."""

MAP_SHADE = 0.5
"""Brightness of the static map, so that the points of the current time stand out."""

MAP_SIZE, POINT_SIZE, TRACK_SIZE, LINE_SIZE = 1.5, 2.0, 3.0, 1.2
"""Radii on the screen, whatever the distance. Of two points at one place, in the map and now, the larger is seen."""

PATH_COLOR, MOVING_COLOR, UNKNOWN_COLOR = (255, 210, 80), (255, 96, 32, 170), (50, 50, 55)


@dataclass(frozen=True)
class ViewConfig:
    """How much of a scene is shown, so that 64 frames stay light."""

    max_points: int = 1_000_000
    """The most points of all times together, and the most of the static map."""
    max_tracks: int = 400
    """The most tracks of all anchors together."""
    tail: int = 12
    """Frames that the tail of a track goes back."""
    max_side: int = 384
    """Longest side in pixels of frames and maps; larger ones are made smaller, and points are taken from these."""

    def __post_init__(self) -> None:
        for name, least in (("max_points", 1), ("max_tracks", 0), ("tail", 0), ("max_side", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least {least}")


@dataclass(frozen=True)
class View:
    """A recording that waits to be saved or shown (`rerun.RecordingStream`), and its `rerun.blueprint.Blueprint`."""

    recording: Any
    blueprint: Any


def record_scene(
    scene: Scene,
    times: Float[Tensor, " time"],
    images: UInt8[Tensor, "frames 3 rows columns"] | None = None,
    config: ViewConfig | None = None,
    name: str = "scene",
) -> View:
    """Everything that is shown of one `scene` whose frames were taken at `times` (seconds; NaN: no order).

    `images` are the frames at any size; without them points are gray. Positions are in the scene's own unit and world
    (OpenCV axes). Frames are put in the order of time. Raises ``ValueError`` for a batch, for times or images that do
    not fit the scene, and where rerun is not installed.
    """
    rerun = load_rerun()
    config = config or ViewConfig()
    _check_fit(scene, times, images)
    scene, times = scene.to("cpu"), times.cpu()
    has_times = bool(torch.isfinite(times).all())
    if has_times:
        order = times.argsort(stable=True)
        scene, times, images = scene.frames(order.tolist()), times[order], None if images is None else images[order]
    scene, images = _lightened(scene, images, config.max_side)

    recording = rerun.RecordingStream(APPLICATION)
    recording.send_recording_name(name)
    # When something was logged says nothing about the scene.
    recording.set_log_time_enabled(False)
    recording.set_log_tick_enabled(False)
    clouds = choose_clouds(scene, images, config.max_points)
    trails = list(choose_trails(scene, config.max_tracks))
    depth_range, length = _depth_range(scene), scene_length(scene)
    is_moving_told = says_what_moves(scene)
    untracked = replace(scene, tracks=None)

    recording.log(WORLD, rerun.ViewCoordinates.RDF, static=True)
    _log_class(recording, MOVING, "moving", MOVING_COLOR)
    _log_class(recording, UNKNOWN, "unknown", UNKNOWN_COLOR)
    for cloud in clouds.still:
        _log_map(recording, cloud)
    _log_cameras(recording, scene, FRUSTUM_LENGTH * length)
    if has_times:
        _log_camera_path(recording, scene)
    for frame in range(scene.num_frames):
        recording.set_time("frame", sequence=frame)
        if has_times:
            recording.set_time("time", duration=float(times[frame]))
        now = untracked.frames([frame])
        _log_camera(recording, now, FRAME_LENGTH * length)
        if images is not None:
            _log_frame(recording, images[frame])
        if depth_range is not None:
            _log_depth(recording, now, depth_range)
        if is_moving_told:
            _log_moving(recording, now)
        for cloud in clouds.at_time:
            _log_points(recording, cloud, frame)
        for one in trails:
            _log_trails(recording, one, frame, config.tail)
    return View(recording, blueprint(scene, images is not None, has_times))


def _check_fit(scene: Scene, times: Tensor, images: Tensor | None) -> None:
    if scene.batch_shape:
        raise ValueError(f"one scene is viewed, given a batch of {tuple(scene.batch_shape)}")
    if times.shape != (scene.num_frames,):
        raise ValueError(f"times have shape {tuple(times.shape)}, wanted ({scene.num_frames},), one for every frame")
    if images is not None and len(images) != scene.num_frames:
        raise ValueError(f"given {len(images)} images, wanted {scene.num_frames}, one for every frame")


def _lightened(scene: Scene, images: Tensor | None, max_side: int) -> tuple[Scene, Tensor | None]:
    """Scene and images at one size, its longest side at most `max_side`."""
    factor = min(1.0, max_side / max(scene.size))
    size = (max(1, round(factor * scene.size[0])), max(1, round(factor * scene.size[1])))
    if size != scene.size:
        scene = scene.resized(*size)
    if images is not None and tuple(images.shape[-2:]) != size:
        images = Clip(images, torch.zeros(len(images))).resized(*size).images
    return scene, images


def _log_class(recording: Any, name: str, label: str, color: tuple[int, ...]) -> None:
    """What 1 means in the masks called `name`; 0 is not seen."""
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
    """Frusta of cameras over the whole clip, each one line, in colors that run with time."""
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
    # Around the picture, then through the center (0) to the other corners: one edge is drawn twice.
    line = transform_points(cameras.world_from_cam, outline[:, [1, 2, 3, 4, 1, 0, 2, 3, 0, 4]])
    colors, radius = rainbow(len(shown)).numpy(), rerun.Radius.ui_points(LINE_SIZE)
    recording.log(CAMERAS, rerun.LineStrips3D(line.numpy(), colors=colors, radii=radius), static=True)


def _log_camera_path(recording: Any, scene: Scene) -> None:
    rerun = load_rerun()
    centers = scene.cameras.centers[has_camera(scene)].numpy()
    radius = rerun.Radius.ui_points(LINE_SIZE)
    path = rerun.LineStrips3D([centers] if len(centers) > 1 else [], colors=[PATH_COLOR], radii=radius)
    recording.log(CAMERA_PATH, path, static=True)


def _log_camera(recording: Any, now: Scene, length: float) -> None:
    """The camera of a scene of one frame, whose picture is drawn at the depth `length`."""
    rerun = load_rerun()
    if not has_camera(now)[0]:
        # Otherwise the camera of the time before would seem to be that of this one.
        recording.log(CAMERA, rerun.Clear(recursive=False))
        return
    world_from_cam = now.cameras.world_from_cam[0].numpy()
    height, width = now.size
    pinhole = rerun.Pinhole(
        image_from_camera=now.cameras.intrinsics[0].numpy(),
        resolution=(width, height),
        camera_xyz=rerun.ViewCoordinates.RDF,
        image_plane_distance=length,
    )
    pose = rerun.Transform3D(translation=world_from_cam[:3, 3], mat3x3=world_from_cam[:3, :3])
    recording.log(CAMERA, pose, pinhole)


def _log_frame(recording: Any, image: UInt8[Tensor, "3 height width"]) -> None:
    picture = load_rerun().Image(image.movedim(0, -1).contiguous().cpu().numpy())
    recording.log(FRAME, picture.compress(jpeg_quality=88))


def _log_depth(recording: Any, now: Scene, depth_range: tuple[float, float]) -> None:
    """The depth map of a scene of one frame in its unit; unknown pixels are NaN there and marked in a mask over it."""
    rerun = load_rerun()
    known = known_depth(now)[0]
    depths = torch.where(known, now.depths[0], torch.nan).float()
    meters = float(now.metres_per_unit)
    # How many of the map's units a meter has; without one, a unit is shown as a meter.
    meter = 1 / meters if meters > 0 else 1.0
    recording.log(DEPTH, rerun.DepthImage(depths.numpy(), meter=meter, depth_range=depth_range))
    # rerun gives NaN the color of the farthest.
    recording.log(UNKNOWN, rerun.SegmentationImage((~known).to(torch.uint8).numpy(), opacity=1.0))


def _log_moving(recording: Any, now: Scene) -> None:
    mask = is_dynamic(now)[0].to(torch.uint8).numpy()
    recording.log(MOVING, load_rerun().SegmentationImage(mask))


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
    """The depths that get the first and the last color, the same for the whole clip; None where none is known."""
    depths = scene.depths[known_depth(scene)]
    if not len(depths):
        return None
    # A million are enough for a color, and torch.quantile refuses more than 16 million.
    sample = depths[stratified_indices(len(depths), 1_000_000)].float()
    # The ground near the horizon would take most of the colors.
    low, high = torch.quantile(sample, torch.tensor([0.02, 0.9])).tolist()
    # A wall seen from the front should not show the rounding of its depth in full color.
    margin = max(0.0, 0.01 * high - (high - low)) / 2
    return low - margin, high + margin
