"""Pictures: natural order, orientation, every kind of pixel."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from videos import numbered, numbers_seen, textured

from recon4d.errors import UserError
from recon4d.inference import PriorFiles, with_prior_files
from recon4d.io import (
    list_photos,
    read_clip,
    read_photo,
    write_jpeg,
)
from recon4d.io.long_clips import open_long_clip


def save_numbered(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        Image.fromarray(numbered(number)).save(folder / name)


def test_pictures_of_a_folder_are_in_natural_order(tmp_path):
    names = ["img1.png", "IMG2.JPG", "img10.png", "img11.webp", "shot_2.bmp"]
    save_numbered(tmp_path, names)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".img3.png").write_text("hidden")
    (tmp_path / "img4.png").mkdir()
    assert [path.name for path in list_photos(tmp_path)] == names
    clip = read_clip(tmp_path)
    assert numbers_seen(clip.images) == [0, 1, 2, 3, 4]
    assert clip.times.isnan().all()
    assert (clip.source.path, clip.source.names, clip.source.numbers) == (str(tmp_path), tuple(names), (0, 1, 2, 3, 4))


def test_some_of_many_pictures_are_selected(tmp_path):
    save_numbered(tmp_path, [f"{i}.png" for i in range(25)])
    assert read_clip(tmp_path, num_frames=3).source.numbers == (0, 12, 24)
    assert read_clip(tmp_path).num_frames == 16
    assert read_clip(tmp_path, num_frames=None).num_frames == 25


def test_auto_takes_up_to_48_pictures(tmp_path):
    save_numbered(tmp_path, [f"{i}.png" for i in range(25)])
    assert read_clip(tmp_path, num_frames="auto").num_frames == 25
    for i in range(25, 95):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "3.png").read_bytes())
    assert read_clip(tmp_path, num_frames="auto").source.numbers == tuple(range(0, 95, 2))


def test_pictures_taken_at_a_rate_have_times(tmp_path):
    save_numbered(tmp_path, [f"{i}.png" for i in range(20)])
    clip = read_clip(tmp_path, num_frames=3, fps=10, start=0.5, stop=1.5)
    assert numbers_seen(clip.images) == [5, 10, 15]
    assert clip.source.numbers == (5, 10, 15)
    assert clip.times.tolist() == pytest.approx([0.5, 1.0, 1.5])
    with pytest.raises(ValueError, match="start and stop need times"):
        read_clip(tmp_path, start=0.5)
    with pytest.raises(ValueError, match=r"start = 2 s is beyond the last frame, which is at 1.900 s"):
        read_clip(tmp_path, fps=10, start=2.0)


def test_a_list_of_pictures_keeps_its_order_and_one_picture_is_a_clip(tmp_path):
    save_numbered(tmp_path, ["a.png", "b.png", "c.png"])
    clip = read_clip([tmp_path / "c.png", str(tmp_path / "a.png")])
    assert numbers_seen(clip.images) == [2, 0]
    assert (clip.source.names, clip.source.numbers) == (("c.png", "a.png"), (0, 1))
    single = read_clip(tmp_path / "b.png")
    assert numbers_seen(single.images) == [1]
    assert single.source.path == str(tmp_path / "b.png")
    with pytest.raises(UserError, match="the list of pictures is empty"):
        read_clip([])


def test_folders_without_pictures_and_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))} holds no pictures; wanted JPEG, PNG"):
        read_clip(tmp_path)
    save_numbered(tmp_path, ["a.png", "b.png"])
    clip = open_long_clip(tmp_path)
    Image.fromarray(numbered(0, 30, 40)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b.png has changed since the clip was opened"):
        list(clip.images([0, 1]))
    with pytest.raises(UserError, match=r"a.png is a file"):
        list_photos(tmp_path / "a.png")


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    level = np.full((20, 30), 100, np.uint8)
    transparent = np.stack([level, level + 50, level + 100, np.zeros_like(level)], axis=-1)
    Image.fromarray(transparent, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(level, "L").save(tmp_path / "gray.png")
    Image.fromarray(level.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(level.astype(np.int32) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(level, "L").convert("CMYK").save(tmp_path / "print.jpg")
    palette = Image.fromarray(level, "L").convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes([0] * 100 + [128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("gray.png", "deep.png", "deep.tif", "print.jpg", "palette.png"):
            image = read_photo(tmp_path / name)
            assert image.shape == (3, 20, 30), name
            assert (image.int() - 100).abs().max() <= 2, name
        assert read_photo(tmp_path / "rgba.png")[:, 0, 0].tolist() == [100, 150, 200]
    Image.fromarray(level.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float.tif cannot be read as a picture: its pixels are floats"):
        read_photo(tmp_path / "float.tif")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.webp"])
def test_truncated_pictures_are_refused_by_name(tmp_path, name):
    Image.fromarray(textured(1)[0]).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{name} cannot be read as a picture: ") as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_jpeg_round_trip(tmp_path):
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    image[0], image[1, 20:], image[2, :, 25:] = 200, 120, 60
    write_jpeg(tmp_path / "a.jpg", image)
    assert (read_photo(tmp_path / "a.jpg").int() - image.int()).abs().float().mean() < 3
    write_jpeg(tmp_path / "small.jpg", image, quality=10)
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size
    with pytest.raises(ValueError, match="quality = 0; wanted 1 to 100"):
        write_jpeg(tmp_path / "a.jpg", image, quality=0)
    with pytest.raises(UserError, match=r"cannot write .*gone.*a\.jpg: No such file"):
        write_jpeg(tmp_path / "gone" / "a.jpg", image)


def test_pictures_of_different_sizes_share_a_frame_whose_padding_is_ignored(tmp_path):
    landscape, portrait = numbered(1, 48, 64), numbered(2, 64, 48)
    Image.fromarray(landscape).save(tmp_path / "a.png")
    Image.fromarray(portrait).save(tmp_path / "b.png")
    Image.fromarray(numbered(3, 24, 32)).save(tmp_path / "c.png")  # the same camera at half resolution
    said = r"holds pictures of 3 sizes \(64x48, 48x64, 32x24\): they are scaled and padded to 64x64"
    with pytest.warns(UserWarning, match=said):
        clip = read_clip(tmp_path)
    assert clip.size == (64, 64)
    assert clip.source.sizes
    ignore = clip.priors.ignore
    assert torch.equal(ignore[0], ignore[2])
    assert torch.equal(ignore[0], ignore[1].T)
    assert ignore[0, :8].all()
    assert ignore[0, 56:].all()
    assert not ignore[0, 8:56].any()
    assert numbers_seen(clip.images[:1, :, 8:56]) == [1]
    assert numbers_seen(clip.images[1:2, :, :, 8:56]) == [2]
    assert numbers_seen(clip.images[2:, :, 8:56]) == [3]
    assert (clip.images[0, :, :8] == 0).all()
    with pytest.raises(UserError, match="the pictures have different sizes; wanted one set of intrinsics for each"):
        with_prior_files(clip, PriorFiles(intrinsics="50,50,32,32"))


def test_pictures_of_one_shape_in_two_resolutions_are_not_padded(tmp_path):
    for name, height, width in (("a", 48, 64), ("b", 48, 64), ("c", 96, 128)):
        Image.fromarray(numbered(2, height, width)).save(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match="scaled and padded to 64x48"):
        clip = read_clip(tmp_path)
    assert not clip.priors.ignore.any()
    assert numbers_seen(clip.images) == [2, 2, 2]
