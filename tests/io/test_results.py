"""All files of a result are written under their own names."""

import math
import warnings
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
import trimesh
from walls import (
    GAP,
    HEIGHT,
    LEFT_COLOR,
    NUM_FRAMES,
    PANEL_WIDTH,
    WIDTH,
    make_clip,
    make_info,
    make_scene,
    names_in,
    read_picture,
)

from recon4d.errors import UserError
from recon4d.io import (
    load_scene,
    load_times,
    results,
    write_results,
)
from recon4d.records import ClipSource


def test_all_results_are_written(tmp_path):
    clip = replace(make_clip(height=24, width=32), source=ClipSource("photos", ("a.png", "b.JPEG", "c.001"), (0, 1, 2)))
    scene = make_scene()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_results(tmp_path, clip, scene, make_info(source=clip.source))
    assert names_in(tmp_path) == {"scene.npz", "frames", "depth.mp4", "cameras.png", "points.ply"}
    assert names_in(tmp_path / "frames") == {"a.jpg", "b.jpg", "c.001.jpg"}
    frame = read_picture(tmp_path / "frames" / "b.jpg")
    assert frame.shape == (24, 32, 3)
    np.testing.assert_allclose(frame[12, 4], LEFT_COLOR, atol=12)
    assert torch.equal(load_scene(tmp_path).depths, scene.depths)
    assert torch.equal(load_times(tmp_path), clip.times)
    assert len(trimesh.load(tmp_path / "points.ply").vertices) == NUM_FRAMES * HEIGHT * WIDTH  # type: ignore[union-attr]
    with av.open(str(tmp_path / "depth.mp4")) as video:
        assert float(video.streams.video[0].average_rate or 0) == pytest.approx(10)
        pictures = [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]
    assert len(pictures) == NUM_FRAMES
    assert pictures[0].shape == (360, 2 * PANEL_WIDTH + GAP, 3)


def test_without_a_confident_point_everything_else_is_written(tmp_path):
    scene = replace(make_scene(1), depth_confidence=torch.zeros(1, HEIGHT, WIDTH))
    with pytest.warns(UserWarning, match=r"points.ply is left out"):
        write_results(tmp_path, make_clip(1), scene, make_info(source=None))
    assert names_in(tmp_path) == {"scene.npz", "frames", "depth.mp4", "cameras.png"}
    assert names_in(tmp_path / "frames") == {"frame_000000.jpg"}


@pytest.mark.parametrize(
    ("name", "error"),
    [("depth.mp4", UserError("no codec")), ("cameras.png", ValueError("a defect")), ("points.ply", MemoryError())],
)
def test_a_file_for_viewing_that_fails_costs_nothing_else(tmp_path, monkeypatch, name, error):
    writers = {"depth.mp4": "write_video", "cameras.png": "write_camera_path", "points.ply": "write_point_cloud"}

    def fail(path, *_):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(results, writers[name], fail)
    with pytest.warns(UserWarning, match=f"{name} is left out: "):
        write_results(tmp_path, make_clip(), make_scene(), make_info(source=None))
    assert names_in(tmp_path) == {"scene.npz", "frames", "depth.mp4", "cameras.png", "points.ply"} - {name}


@pytest.mark.parametrize("size", [(80, 1280), (4000, 32), (33, 33), (2, 5000)])
def test_pictures_of_any_shape_get_a_depth_video(tmp_path, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_results(tmp_path, make_clip(2, *size), make_scene(2), make_info(source=None))
    with av.open(str(tmp_path / "depth.mp4")) as video:
        shown = [picture.to_ndarray(format="rgb24").shape for picture in video.decode(video=0)]
    assert len(shown) == 2
    assert max(shown[0]) <= 4096
    if size == (80, 1280):
        assert shown[0] == (80 + GAP + 80, 1280, 3)  # panels of a strip are below each other


@pytest.mark.parametrize("names", [("a.png", "a.jpg"), ("a/b/1.png", "a/b_1.png", "a/b/1.jpg"), ("a.png", "A.png")])
def test_frames_of_one_name_are_numbered_with_a_warning(names):
    with pytest.warns(UserWarning, match="all are numbered instead"):
        found = results.frame_file_names(ClipSource("x", names, tuple(range(len(names)))), len(names))
    assert found[:2] == ["frame_000000.jpg", "frame_000001.jpg"]


def test_frames_of_one_name_in_several_folders_are_called_after_their_folders():
    for names, wanted in (
        (("left/1.png", "right/1.png"), ["left_1.jpg", "right_1.jpg"]),
        (("left/1.png", "../2.v3"), ["1.jpg", "2.v3.jpg"]),
    ):
        assert results.frame_file_names(ClipSource("x", names, (0, 1)), 2) == wanted


def test_names_that_do_not_fit_the_clip_are_refused():
    with pytest.raises(ValueError, match="names 2 frames, but the clip has 3"):
        results.frame_file_names(ClipSource("x", ("a", "b"), (0, 1)), 3)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 0.1, 0.2], 10.0),
        ([0.2, 0.0, 0.1], 10.0),
        ([0.0, 0.2, 0.4, 9.0], 5.0),
        ([0.0, 60.0], 2.0),
        ([0.0, 0.001], 30.0),
        ([1.0, 1.0], 30.0),
        ([0.0], 4.0),
        ([math.nan, math.nan], 4.0),
    ],
)
def test_frame_rate_of_the_video_follows_the_clip(times, expected):
    assert results._frames_per_second(torch.tensor(times)) == pytest.approx(expected, rel=1e-5)
