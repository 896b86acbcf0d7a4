"""Complete results are distinguished from partial ones by their contents."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from long_folders import write_long_clip
from walls import HEIGHT, WIDTH, make_clip, make_info, make_scene

from recon4d.io import is_complete_result, write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    write_results(folder, make_clip(), make_scene(), make_info(source=None))
    return folder


@pytest.fixture
def result(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "result")


def test_result_without_files_for_viewing_is_complete(result: Path) -> None:
    assert is_complete_result(result)
    assert is_complete_result(str(result))
    for name in ("points.ply", "depth.mp4", "cameras.png"):
        (result / name).write_bytes(b"")
        assert not is_complete_result(result)
        (result / name).unlink()
        assert is_complete_result(result)


@pytest.mark.parametrize("name", ["scene.npz", "frames", "frames/frame_000001.jpg"])
def test_result_without_one_of_its_files_is_not_complete(result: Path, name: str) -> None:
    path = result / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(b"")
        assert not is_complete_result(result)
        path.unlink()
    assert not is_complete_result(result)
    assert not is_complete_result(result / "none")


def test_result_with_a_damaged_archive_is_not_complete(result: Path) -> None:
    file = result / "scene.npz"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert not is_complete_result(result)
    damaged = bytearray(content)
    start = damaged.index(b"NUMPY", damaged.index(b"depths.npy"))
    damaged[start : start + 5] = b"other"
    file.write_bytes(damaged)
    assert not is_complete_result(result)
    file.write_bytes(content)
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **{**arrays, "depths": np.zeros((2, HEIGHT, WIDTH), np.float32)})
    assert not is_complete_result(result)


def test_long_clip_needs_its_index_and_all_its_frames(tmp_path: Path) -> None:
    write_long_clip(tmp_path / "long")
    assert is_complete_result(tmp_path / "long")
    for name in ("index.npz", "frames/000001.npz", "frames/000002.jpg"):
        folder = tmp_path / name.replace("/", "_")
        shutil.copytree(tmp_path / "long", folder)
        (folder / name).unlink()
        assert not is_complete_result(folder)
