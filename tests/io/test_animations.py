"""Animations: every frame and its time, in every format, as a clip and as a long clip."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from videos import numbered, numbers_seen

from recon4d.errors import UserError
from recon4d.io import read_clip, read_photo
from recon4d.io.animations import open_animation
from recon4d.io.long_clips import open_long_clip

COUNT = 5


def save_animation(path: Path, count: int = COUNT, **options) -> Path:
    pictures = [Image.fromarray(numbered(number)) for number in range(count)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    return path


def expect_frames(path: Path, times: list[float]) -> None:
    clip = read_clip(path)
    assert numbers_seen(clip.images) == list(range(COUNT))
    np.testing.assert_allclose(clip.times, times, atol=1e-6)
    assert clip.source.names == tuple(f"{path.stem}_{number:06d}" for number in range(COUNT))
    long = open_long_clip(path)
    np.testing.assert_allclose(long.times, times, atol=1e-6)
    assert [int(numbers_seen(image[None])[0]) for image in long.images([1, 3])] == [1, 3]


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng", ".avif", ".gif"])
def test_all_frames_of_an_animation_are_read_with_their_times(tmp_path, suffix):
    path = save_animation(tmp_path / f"anim{suffix}", duration=[40, 200, 100, 100, 100])
    expect_frames(path, [0.0, 0.04, 0.24, 0.34, 0.44])


@pytest.mark.parametrize("suffix", [".tif", ".heic"])
def test_frames_of_files_without_times_have_none(tmp_path, suffix):
    from recon4d.io.photos import register_heif

    register_heif()
    path = save_animation(tmp_path / f"pages{suffix}")
    expect_frames(path, [math.nan] * COUNT)
    assert read_clip(path, fps=4, start=0.5).times.tolist() == [0.5, 0.75, 1.0]
    with pytest.raises(UserError, match="start and stop need times"):
        read_clip(path, start=0.5)


def test_options_of_videos_hold_for_animations_with_times(tmp_path):
    path = save_animation(tmp_path / "anim.webp", duration=100)
    assert numbers_seen(read_clip(path, num_frames=2).images) == [0, 4]
    assert numbers_seen(read_clip(path, num_frames="auto").images) == [0, 1, 2, 3, 4]
    assert numbers_seen(read_clip(path, fps=5).images) == [0, 2, 4]
    assert numbers_seen(read_clip(path, fps=5, num_frames=2).images) == [0, 2]
    assert numbers_seen(read_clip(path, start=0.1, stop=0.2).images) == [1, 2]
    assert open_long_clip(path, fps=5).times == pytest.approx((0.0, 0.2, 0.4))
    with pytest.raises(UserError, match=r"anim.webp: start = 7 s is beyond the last frame, which is at 0.400 s"):
        read_clip(path, start=7.0)


def test_a_frame_without_a_duration_lasts_as_long_as_in_a_browser(tmp_path):
    expect_frames(save_animation(tmp_path / "anim.png", duration=[0, 50, 0, 50, 50]), [0.0, 0.1, 0.15, 0.25, 0.3])


def test_a_default_image_of_a_png_is_no_frame(tmp_path):
    pictures = [Image.fromarray(numbered(number)) for number in (30, 1, 2)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], default_image=True, duration=50)
    clip = read_clip(tmp_path / "a.png")
    assert numbers_seen(clip.images) == [1, 2]
    assert clip.times.tolist() == pytest.approx([0.0, 0.05])


def test_smaller_versions_and_masks_in_a_tiff_are_no_frames(tmp_path):
    picture = Image.fromarray(numbered(3))
    thumbnail, second = picture.resize((16, 12)), Image.fromarray(numbered(4))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    picture.save(tmp_path / "pyramid.tif", save_all=True, append_images=[thumbnail])
    assert open_animation(tmp_path / "pyramid.tif") is None
    picture.save(tmp_path / "two.tif", save_all=True, append_images=[thumbnail, second])
    assert numbers_seen(read_clip(tmp_path / "two.tif").images) == [3, 4]


def test_a_gain_map_in_a_jpeg_is_no_frame(tmp_path):
    save_animation(tmp_path / "phone.jpg", 2, format="MPO")
    clip = read_clip(tmp_path / "phone.jpg")
    assert numbers_seen(clip.images) == [0]
    assert clip.source.names == ("phone.jpg",)


def test_a_folder_whose_only_picture_is_an_animation_means_its_frames(tmp_path):
    save_animation(tmp_path / "anim.webp", duration=100)
    assert read_clip(tmp_path).num_frames == COUNT
    assert open_long_clip(tmp_path).num_frames == COUNT


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_animations_among_pictures_are_told(tmp_path, suffix):
    save_animation(tmp_path / f"a{suffix}", duration=100)
    Image.fromarray(numbered(7)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match=rf"only the first frame of each animation is used \(a{suffix}\)"):
        assert numbers_seen(read_clip(tmp_path).images) == [0, 7]


def test_damaged_animations_are_refused_by_name(tmp_path):
    path = save_animation(tmp_path / "anim.webp", duration=100)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"anim.webp cannot be read as a picture: "):
        read_clip(path)


def test_phone_pictures_are_read(tmp_path):
    from recon4d.io.photos import register_heif

    register_heif()
    stored = np.zeros((48, 96, 3), np.uint8)
    stored[:24, :24] = 250
    for suffix, form in ((".heic", "HEIF"), (".HEIC", "HEIF"), (".hif", "HEIF"), (".avif", "AVIF")):
        Image.fromarray(stored).save(tmp_path / f"IMG{suffix}", quality=95, format=form)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_photo(tmp_path / f"IMG{suffix}")
        assert (image.int() - torch.from_numpy(stored).permute(2, 0, 1).int()).abs().float().mean() < 2


def test_the_orientation_of_an_avif_is_applied(tmp_path):
    stored = np.zeros((48, 96, 3), np.uint8)
    stored[:24, :24] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # display after a clockwise quarter turn: the top left corner moves to the top right
    Image.fromarray(stored).save(tmp_path / "a.avif", exif=exif, quality=95)
    image = read_photo(tmp_path / "a.avif")
    assert image.shape == (3, 96, 48)
    assert image[:, :20, 28:].min() > 200
    assert image[:, :, :20].max() < 50


def test_a_header_of_an_enormous_animation_is_refused(tmp_path):
    path = save_animation(tmp_path / "anim.webp", duration=100)
    data = bytearray(path.read_bytes())
    start = data.index(b"VP8X") + 12  # width - 1 and height - 1 of the canvas in 24 bits each
    data[start : start + 6] = (2_000_000).to_bytes(3, "little") + (63).to_bytes(3, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"anim.webp has frames of 2000001 x 64 pixels, so it is damaged"):
        read_clip(path)
