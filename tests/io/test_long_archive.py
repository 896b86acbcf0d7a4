"""Folders of long clips: frames are read one by one, and damaged files are refused."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from long_folders import write_long_clip
from walls import make_curves, make_info, make_scene

from recon4d.errors import UserError
from recon4d.io import iter_frames, load_scene, save_scene
from recon4d.io.long_archive import frame_file, load_frame_cameras, load_frames, load_index, save_frame
from recon4d.records import Scene


def test_frames_are_iterated_one_by_one(tmp_path: Path) -> None:
    scene = write_long_clip(tmp_path)
    for given, numbers in ((None, [0, 1, 2]), ([2, 0], [2, 0]), (range(1, 3), [1, 2])):
        frames = list(iter_frames(tmp_path, given))
        assert [frame.num_frames for frame in frames] == [1] * len(numbers)
        for frame, number in zip(frames, numbers, strict=True):
            assert torch.equal(frame.points, scene.points[number : number + 1])
            assert torch.equal(frame.cameras.world_from_cam[0], scene.cameras.world_from_cam[number])
    index = load_index(tmp_path)
    assert (index.num_frames, index.size) == (3, scene.size)
    assert torch.equal(index.cameras.intrinsics, scene.cameras.intrinsics)


def test_iteration_holds_one_frame_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_long_clip(tmp_path)
    loaded: list[weakref.ref[Scene]] = []

    def load_and_count(path: Path) -> Scene:
        gc.collect()
        assert sum(reference() is not None for reference in loaded) <= 1  # that of the loop variable
        scene = load_scene(path)
        loaded.append(weakref.ref(scene))
        return scene

    monkeypatch.setattr("recon4d.io.long_archive.load_scene", load_and_count)
    frames = iter_frames(tmp_path)
    assert not loaded
    depths = [float(frame.depths.mean()) for frame in frames]
    assert len(depths) == len(loaded) == 3


@pytest.mark.parametrize("with_tracks", [False, True])
def test_frames_are_concatenated(tmp_path: Path, with_tracks: bool) -> None:
    scene = write_long_clip(tmp_path, with_tracks)
    loaded = load_frames(tmp_path, [1, 0])
    assert torch.equal(loaded.depths, scene.depths[[1, 0]])
    assert torch.equal(loaded.dynamic.nan_to_num(nan=-1), scene.dynamic[[1, 0]].nan_to_num(nan=-1))
    if with_tracks:
        assert loaded.tracks.anchors.tolist() == [1]
        assert torch.equal(loaded.tracks.points, scene.tracks.points[:, [1, 0]])
    else:
        assert loaded.tracks is None
    with pytest.raises(ValueError, match="no frame numbers"):
        load_frames(tmp_path, [])


def test_curves_of_the_whole_clip_are_not_repeated_in_every_frame(tmp_path: Path) -> None:
    """Files of single frames have no curves; those of other programs that do are read without them."""
    write_long_clip(tmp_path)
    scene = replace(make_scene(), trajectories=make_curves()).frames([1])
    save_frame(tmp_path, 1, scene, 0.1, make_info(original_size=scene.size))
    assert load_scene(frame_file(tmp_path, 1)).trajectories is None
    for number in (0, 1):
        save_scene(frame_file(tmp_path, number), scene)
    assert load_frames(tmp_path, [0, 1]).trajectories is None


def test_missing_and_damaged_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.npz does not exist; wanted the folder of a long clip"):
        iter_frames(tmp_path)
    scene = write_long_clip(tmp_path)
    frames = iter_frames(tmp_path, [0, 3])
    next(frames)
    with pytest.raises(UserError, match=r"000003\.npz does not exist"):
        next(frames)
    cameras = load_frame_cameras(tmp_path, [2, 1])
    assert torch.equal(cameras.world_from_cam, scene.cameras.world_from_cam[[2, 1]])
    content = frame_file(tmp_path, 1).read_bytes()
    frame_file(tmp_path, 1).write_bytes(content[: len(content) // 2])
    for read in (load_frame_cameras, load_frames):
        with pytest.raises(UserError, match=r"cannot read .*000001\.npz: it is not an npz archive"):
            read(tmp_path, [1])


def test_damaged_indices_are_user_errors(tmp_path: Path) -> None:
    write_long_clip(tmp_path)
    path = tmp_path / "index.npz"
    with np.load(path) as stored:
        valid = dict(stored)
    for name, array, reason in (
        ("size", np.zeros(3, int), r"size has shape \(3,\), wanted \(2,\)"),
        ("windows", np.zeros(2, int), r"windows has shape \(2,\), wanted \(3,\)"),
        ("times", np.zeros(3, int), r"times has type int64, wanted float16 or float32 or float64"),
        ("info", np.array("[1]"), r".*wanted a JSON object"),
        ("errors", None, r"it has no errors, so recon4d did not write it"),
    ):
        arrays = {key: value for key, value in {**valid, name: array}.items() if value is not None}
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=rf"cannot read .*index\.npz: {reason}"):
            load_index(tmp_path)
