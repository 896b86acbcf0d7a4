"""How the viewer is laid out: the world large, frames, depth and moving mask beside it, upright and from behind."""

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
UNKNOWN, MOVING = f"{CAMERA}/unknown", f"{CAMERA}/moving"
MAP, POINTS, TRACKS = f"{WORLD}/map", f"{WORLD}/points", f"{WORLD}/tracks"
CAMERA_PATH, CAMERAS = f"{WORLD}/camera_path", f"{WORLD}/cameras"
"""Names of what is logged; each can be hidden and shown in the viewer's list."""

BACKGROUND = (24, 26, 30)
"""Dark in light and dark themes alike: the map is dimmed, not whitened."""

FRAMES_PER_SECOND = 8.0
"""How fast frames without times are played."""


def blueprint(scene: Scene, has_images: bool, has_times: bool) -> Any:
    """The `rerun.blueprint.Blueprint` for a scene.

    The world is seen from behind the cameras with y down on the screen. The least confident band is hidden at first,
    and time stands still until it is played.
    """
    rerun = load_rerun()
    views = rerun.blueprint
    position, target = _eye(scene)
    hidden = views.EntityBehavior(visible=False)
    world = views.Spatial3DView(
        name="world",
        origin=WORLD,
        # A depth image in the view would be shown as points of its own, over and above those that were chosen.
        contents=[f"+ {WORLD}/**", f"- {DEPTH}", f"- {UNKNOWN}", f"- {MOVING}"],
        background=BACKGROUND,
        overrides={f"{part}/{BANDS[0]}": hidden for part in (MAP, POINTS)},
        line_grid=False,
        eye_controls=views.EyeControls3D(
            kind=views.Eye3DKind.Orbital,
            position=position.tolist(),
            look_target=target.tolist(),
            eye_up=(0.0, -1.0, 0.0),
        ),
    )
    beside = [views.Spatial2DView(name="depth", origin=CAMERA, contents=[DEPTH, UNKNOWN])]
    if has_images:
        beside.insert(0, views.Spatial2DView(name="frame", origin=CAMERA, contents=[FRAME]))
    if says_what_moves(scene):
        beside.append(views.Spatial2DView(name="moving", origin=CAMERA, contents=[FRAME, MOVING]))
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


def says_what_moves(scene: Scene) -> bool:
    """Whether the scene tells of any pixel whether it moves."""
    return bool(torch.isfinite(scene.dynamic).any())


def scene_length(scene: Scene) -> float:
    """The depth at which the scene mostly lies, in its own unit: the median of what is known; 1 where nothing is."""
    depths = scene.depths[known_depth(scene)]
    return float(depths.median()) if len(depths) else 1.0


def _eye(scene: Scene) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Where to look from and at: from behind and above the middle camera, at what lies in front of it."""
    world_from_cam = scene.cameras.world_from_cam[has_camera(scene)]
    if not len(world_from_cam):
        return torch.tensor([0.0, -1.0, -2.0]), torch.zeros(3)
    length = scene_length(scene)
    seen_from_camera = torch.tensor([[0.3, -0.4, -0.6], [0.0, 0.15, 0.8]]) * length
    position, target = transform_points(world_from_cam[len(world_from_cam) // 2].float(), seen_from_camera)
    return position, target
