"""Several single pictures on the command line are one clip; videos, animations and folders are clips of their own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import numbered

from recon4d.cli import main
from recon4d.cli.reconstruct_options import ReconstructOptions


def save(folder: Path, *names: str) -> list[Path]:
    for number, name in enumerate(names):
        Image.fromarray(numbered(number, 64, 96)).save(folder / name)
    return [folder / name for name in names]


def inputs(*paths: Path, separate: bool = False) -> list:
    return ReconstructOptions(clips=paths, out=Path("out"), separate=separate).inputs


def test_pictures_are_one_clip_in_natural_order_if_a_shell_listed_them(tmp_path):
    one, two, ten = save(tmp_path, "1.jpg", "2.png", "10.webp")
    assert inputs(one, ten, two) == [(one, two, ten)]
    assert inputs(two, one, ten) == [(two, one, ten)]
    assert inputs(one) == [one]
    assert inputs(one, two, separate=True) == [one, two]


def test_animations_videos_and_folders_are_clips_of_their_own(tmp_path):
    one, two = save(tmp_path, "1.jpg", "2.jpg")
    pictures = [Image.fromarray(numbered(number)) for number in range(3)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "b.webp", save_all=True, append_images=pictures[1:])
    assert inputs(tmp_path / "a.webp", tmp_path / "b.webp") == [tmp_path / "a.webp", tmp_path / "b.webp"]
    with pytest.warns(UserWarning, match="2 single pictures are clips of one frame each, because videos or folders"):
        assert inputs(one, two, tmp_path / "clip.mp4") == [one, two, tmp_path / "clip.mp4"]
    assert inputs(one, tmp_path / "clip.mp4") == [one, tmp_path / "clip.mp4"]


def test_pictures_of_a_shell_become_one_result(tmp_path, capsys):
    paths = map(str, save(tmp_path, "1.jpg", "2.jpg", "3.jpg"))
    arguments = ["reconstruct", *paths, "--model", "recon4d_tiny", "--no-refine", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert np.load(tmp_path / "out" / "scene.npz")["depths"].shape[0] == 3
    assert {path.name for path in (tmp_path / "out" / "frames").iterdir()} == {"1.jpg", "2.jpg", "3.jpg"}
    assert "1.jpg and 2 more: 3 frames" in capsys.readouterr().out
