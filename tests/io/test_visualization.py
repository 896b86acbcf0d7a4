"""Figures: nearer is brighter, frames are in the order of time, camera paths have units."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from walls import (
    GAP,
    HEIGHT,
    LEFT_COLOR,
    NUM_FRAMES,
    PANEL_WIDTH,
    RIGHT_COLOR,
    WIDTH,
    make_clip,
    make_scene,
    read_picture,
)

from recon4d.io import depth_video_frames, write_camera_path
from recon4d.records import Clip, Scene


def brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(int).sum(axis=-1)


def test_nearer_is_brighter_and_unknown_is_black():
    scene, clip = make_scene(), make_clip()
    scene.depths[:] = torch.linspace(1, 4, WIDTH)
    scene.depths[1] *= 2
    scene.depth_confidence[:, 0] = 0
    pictures = list(depth_video_frames(clip, scene))
    assert [picture.shape for picture in pictures] == [(360, 2 * PANEL_WIDTH + GAP, 3)] * NUM_FRAMES
    assert all(picture.dtype == np.uint8 for picture in pictures)
    frame, gap, depth = np.split(pictures[0], [PANEL_WIDTH, PANEL_WIDTH + GAP], axis=1)
    assert (frame[180, 100], frame[180, 400]) == (pytest.approx(LEFT_COLOR), pytest.approx(RIGHT_COLOR))
    assert (gap == 255).all()
    assert (depth[:28] == 0).all()
    along = brightness(depth[180])[::30]
    assert (np.diff(along) < 0).all()
    # Even the farthest known pixel differs from unknown ones.
    assert brightness(pictures[1][:, -1]).max() > 60
    # One color range for the clip: larger depths in the second frame are darker.
    assert brightness(pictures[1][180, -100]) < brightness(pictures[0][180, -100])


def test_a_flat_wall_is_one_color_and_an_unknown_scene_is_black():
    scene, clip = make_scene(), make_clip()
    scene.depths[0] += 1e-5 * torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    depth = next(depth_video_frames(clip, scene))[:, PANEL_WIDTH + GAP :].astype(int)
    assert np.ptp(depth, axis=(0, 1)).max() <= 4
    assert depth.min() > 0
    nothing = replace(scene, depth_confidence=torch.zeros_like(scene.depths), depths=scene.depths * math.nan)
    assert (next(depth_video_frames(clip, nothing))[:, PANEL_WIDTH + GAP :] == 0).all()


def test_third_panel_shows_dynamic_surfaces():
    scene, clip = make_scene(), make_clip()
    scene.dynamic[:] = 0.0
    scene.dynamic[:, 6:, :8] = 1.0
    scene.dynamic[:, :, 12:] = math.nan
    picture = next(depth_video_frames(clip, scene))
    assert picture.shape == (360, 3 * PANEL_WIDTH + 2 * GAP, 3)
    panel = picture[:, -PANEL_WIDTH:].astype(int)
    dynamic, static, unknown = panel[270, 120], panel[90, 120], panel[180, 450]
    assert dynamic[0] > dynamic[2] + 100
    assert np.ptp(static) == 0
    assert static[0] > 0
    assert (unknown == 0).all()


def test_frames_are_in_the_order_of_time_and_sizes_are_even():
    clip = make_clip(width=WIDTH - 1)
    images = torch.arange(NUM_FRAMES, dtype=torch.uint8)[:, None, None, None].expand_as(clip.images) * 50
    shuffled = Clip(images=images.contiguous(), times=torch.tensor([0.2, 0.0, 0.1]))
    pictures = list(depth_video_frames(shuffled, make_scene()))
    assert [int(picture[0, 0, 0]) for picture in pictures] == [50, 100, 0]
    assert all(length % 2 == 0 for length in pictures[0].shape[:2])
    unordered = replace(shuffled, times=torch.full((NUM_FRAMES,), math.nan))
    assert [int(picture[0, 0, 0]) for picture in depth_video_frames(unordered, make_scene())] == [0, 50, 100]


def test_clip_and_scene_of_different_lengths_are_refused_at_the_call():
    with pytest.raises(ValueError, match="wanted one clip and its scene"):
        depth_video_frames(make_clip(2), make_scene())


@pytest.mark.parametrize("case", ["static", "one frame", "nothing known"])
def test_camera_path_is_drawn_for_all_kinds_of_motion(tmp_path, case):
    scene, times = make_scene(), torch.arange(NUM_FRAMES) / 10
    if case == "static":
        scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=torch.eye(4).repeat(NUM_FRAMES, 1, 1)))
    if case == "one frame":
        scene, times = scene.frames([1]), times[:1]
    if case == "nothing known":
        scene = replace(scene.frames([0]), depth_confidence=torch.zeros(1, HEIGHT, WIDTH))
        times = times[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_camera_path(tmp_path / "cameras.png", scene, times)
    picture = read_picture(tmp_path / "cameras.png")
    assert picture.shape[0] > 500
    is_colored = np.ptp(picture, axis=-1) > 60
    # Both views show cameras.
    assert is_colored[:, : picture.shape[1] // 2].sum() > 100
    assert is_colored[:, picture.shape[1] // 2 : picture.shape[1] * 8 // 10].sum() > 100


def drawn_axes(monkeypatch, tmp_path, scene: Scene, times: torch.Tensor):
    """The axes of the saved figure."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
        write_camera_path(tmp_path / "cameras.png", scene, times)
    return figures[0].axes


def test_the_camera_path_has_the_right_axes_units_and_marks(monkeypatch, tmp_path):
    scene = make_scene()
    scene.cameras.world_from_cam[:, 1, 3] = torch.tensor([0.0, -0.5, -1.0])
    scene.cameras.world_from_cam[:, 2, 3] = torch.tensor([5.0, 6.0, 7.0])
    scene = replace(scene, metres_per_unit=torch.tensor(2.0))
    above, side, _ = drawn_axes(monkeypatch, tmp_path, scene, torch.tensor([0.2, 0.1, 0.0]))
    assert (above.get_xlabel(), above.get_ylabel()) == ("x (meters)", "z (meters)")
    assert (side.get_xlabel(), side.get_ylabel()) == ("z (meters)", "y (meters)")
    marks = {line.get_label(): line for line in above.lines}
    # The earliest frame is the last of the scene.
    assert marks["start"].get_xydata().tolist() == [[4.0, 14.0]]
    assert marks["end"].get_xydata().tolist() == [[0.0, 10.0]]
    assert {line.get_label(): line for line in side.lines}["start"].get_xydata().tolist() == [[14.0, -2.0]]
    assert side.yaxis_inverted()
    assert not above.yaxis_inverted()
    assert np.ptp(above.get_xlim()) == pytest.approx(np.ptp(above.get_ylim()))
    assert np.ptp(above.get_xlim()) == pytest.approx(abs(np.ptp(side.get_ylim())))
    # Cameras look along +z, so every frustum opens upwards in the view from above.
    assert all(line.get_ydata().min() >= 10 for line in above.lines)

    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(1), torch.zeros(1))
    assert above.get_xlabel() == "x (unit of the scene)"


def test_photos_are_not_connected_and_a_trembling_camera_has_no_path(monkeypatch, tmp_path):
    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(), torch.arange(NUM_FRAMES) / 10)
    assert [len(lines.get_segments()) for lines in above.collections if hasattr(lines, "get_segments")] == [2]
    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(), torch.full((NUM_FRAMES,), math.nan))
    assert not any(hasattr(lines, "get_segments") for lines in above.collections)
    assert not {"start", "end"} & {line.get_label() for line in above.lines}

    scene = make_scene()
    scene.cameras.world_from_cam[:, 0, 3] = torch.tensor([0.0, 1e-5, 0.0])
    above, *_ = drawn_axes(monkeypatch, tmp_path, scene, torch.arange(NUM_FRAMES) / 10)
    assert np.ptp(above.get_xlim()) > 500 * 1e-5


def test_camera_path_of_unsuitable_inputs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a time for each of its 3 frames"):
        write_camera_path(tmp_path / "cameras.png", make_scene(), torch.zeros(2))
    with pytest.raises(ValueError, match=r"given a batch of \(1,\)"):
        write_camera_path(tmp_path / "cameras.png", Scene.stack([make_scene()]), torch.zeros(3))
