"""Layout of the viewer: the 3D world, with frame, depth, confidence and dynamic mask beside it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import transform_points
from recon4d.records import Scene
from recon4d.viewer.rerun_loader import load_rerun
from recon4d.viewer.selection import BANDS, has_camera, known_depth

WORLD, CAMERA = "world", "world/camera"
FRAME, DEPTH = f"{CAMERA}/frame", f"{CAMERA}/depth"
UNKNOWN, CONFIDENCE = f"{CAMERA}/unknown", f"{CAMERA}/confidence"
DYNAMIC, OUTLINE = f"{CAMERA}/moving", f"{CAMERA}/outline"
MAP, POINTS, TRACKS = f"{WORLD}/map", f"{WORLD}/points", f"{WORLD}/tracks"
MOTIONS = f"{WORLD}/motions"
CAMERA_PATH, CAMERAS = f"{WORLD}/camera_path", f"{WORLD}/cameras"
"""Entity paths of the recording; each can be hidden and shown in the viewer."""

BACKGROUND = (24, 26, 30)
"""RGB of the background, dark in every theme, because the static map is dimmed. Hand-tuned."""

FRAMES_PER_SECOND = 8.0
"""Playback rate of frames without times. Hand-tuned."""


def blueprint(scene: Scene, has_images: bool, has_times: bool, movers_only: bool) -> Any:
    """Create the layout for a scene.

    The view starts behind the cameras with y pointing down on the screen. The least confident band is hidden, except
    that of movers, whose depth refinement cannot verify. Playback is paused.

    Args:
        scene: The recorded scene.
        has_images: Whether frames are recorded.
        has_times: Whether the frames have times in seconds.
        movers_only: Whether the points of each time are those of movers only.

    Returns:
        A `rerun.blueprint.Blueprint`.
    """
    rerun = load_rerun()
    views = rerun.blueprint
    position, target = _initial_view(scene)
    hidden = views.EntityBehavior(visible=False)
    world = views.Spatial3DView(
        name="world",
        origin=WORLD,
        # The 3D view would show a depth image as additional points.
        contents=[f"+ {WORLD}/**", f"- {DEPTH}", f"- {UNKNOWN}", f"- {CONFIDENCE}", f"- {DYNAMIC}"],
        background=BACKGROUND,
        overrides={f"{part}/{BANDS[0]}": hidden for part in ([MAP] if movers_only else [MAP, POINTS])},
        line_grid=False,
        eye_controls=views.EyeControls3D(
            kind=views.Eye3DKind.Orbital,
            position=position.tolist(),
            look_target=target.tolist(),
            eye_up=(0.0, -1.0, 0.0),
        ),
    )
    beside = [
        views.Spatial2DView(name="depth", origin=CAMERA, contents=[DEPTH, UNKNOWN]),
        views.Spatial2DView(name="confidence", origin=CAMERA, contents=[CONFIDENCE]),
    ]
    if has_images:
        beside.insert(0, views.Spatial2DView(name="frame", origin=CAMERA, contents=[FRAME, OUTLINE]))
    if has_dynamic_mask(scene):
        beside.append(views.Spatial2DView(name="moving", origin=CAMERA, contents=[FRAME, DYNAMIC]))
    return views.Blueprint(
        views.Horizontal(world, views.Vertical(*beside), column_shares=[3, 1]),
        views.BlueprintPanel(state="expanded"),
        views.SelectionPanel(state="collapsed"),
        views.TimePanel(
            state="collapsed",
            timeline="time" if has_times else "frame",
            fps=FRAMES_PER_SECOND,
            play_state="paused",
            loop_mode="all",
        ),
        auto_views=False,
    )


def has_dynamic_mask(scene: Scene) -> bool:
    """Whether the dynamic probability of any pixel is known.

    Args:
        scene: Any scene.

    Returns:
        True if at least one value is finite.
    """
    return bool(torch.isfinite(scene.dynamic).any())


def scene_length(scene: Scene) -> float:
    """Return the typical depth of a scene.

    Args:
        scene: Any scene.

    Returns:
        Median of the known depths in the unit of the scene; 1 if none is known.
    """
    depths = scene.depths[known_depth(scene)]
    return float(depths.median()) if len(depths) else 1.0


def _initial_view(scene: Scene) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Return the initial eye position and target: behind and above the middle camera, looking in its direction."""
    world_from_cam = scene.cameras.world_from_cam[has_camera(scene)]
    if not len(world_from_cam):
        return torch.tensor([0.0, -1.0, -2.0]), torch.zeros(3)
    length = scene_length(scene)
    in_camera = torch.tensor([[0.3, -0.4, -0.6], [0.0, 0.15, 0.8]]) * length
    position, target = transform_points(world_from_cam[len(world_from_cam) // 2].float(), in_camera)
    return position, target
