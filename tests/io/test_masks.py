"""Masks in every form in which programs write them; what ignores nothing or everything is told."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.errors import UserError
from recon4d.io.masks import mask_reader, read_masks
from recon4d.io.photos import register_heif
from recon4d.records import Clip, ClipSource

H, W = 48, 64
OBJECT = np.zeros((H, W), bool)
"""The pixels to ignore: an octagon, so that soft edges matter."""
ROWS, COLUMNS = np.mgrid[:H, :W]
OBJECT[np.hypot(ROWS - 20, COLUMNS - 30) < 14] = True
CLIP = Clip(
    torch.zeros(2, 3, H, W, dtype=torch.uint8), torch.tensor([0.0, 1.0]), source=ClipSource("x", ("a", "b"), (0, 1))
)


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = read_masks(path, CLIP)
    assert torch.equal(masks[0], masks[1])
    return masks[0].numpy()


def soft(level: int = 255) -> np.ndarray:
    """The object with an edge of two pixels of gray."""
    distance = 14 - np.hypot(ROWS - 20, COLUMNS - 30)
    return (level * (distance / 2 + 0.5).clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("white", [1, 2, 100, 127, 128, 200, 255])
def test_two_levels_of_eight_bits(tmp_path, white):
    Image.fromarray(OBJECT.astype(np.uint8) * white).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png"), OBJECT)


@pytest.mark.parametrize("white", [1, 255, 1000, 40000, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_two_levels_of_sixteen_bits(tmp_path, white, suffix):
    Image.fromarray(OBJECT.astype(np.uint16) * np.uint16(white)).save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"m.{suffix}"), OBJECT)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floats(tmp_path, white):
    Image.fromarray(OBJECT.astype(np.float32) * white).save(tmp_path / "m.tif")
    np.testing.assert_array_equal(read(tmp_path / "m.tif"), OBJECT)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("white", [1, 255])
def test_modes_of_pillow(tmp_path, mode, white):
    picture = Image.fromarray(OBJECT.astype(np.uint8) * white)
    picture = picture.point(bool, "1") if mode == "1" else picture.convert(mode)
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png"), OBJECT)


def test_numbers_of_objects_are_all_ignored(tmp_path):
    labels = np.where(OBJECT, 1 + (COLUMNS > 30) + (ROWS > 20), 0).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png"), OBJECT)


def test_colors_of_objects_are_all_ignored(tmp_path):
    labels = np.where(OBJECT, 1 + (COLUMNS > 30), 0).astype(np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([0, 0, 0, 64, 0, 0, 0, 0, 128])  # as in DAVIS, dark
    palette.save(tmp_path / "palette.png")
    palette.convert("RGB").save(tmp_path / "colors.png")
    for name in ("palette.png", "colors.png"):
        np.testing.assert_array_equal(read(tmp_path / name), OBJECT)


@pytest.mark.parametrize("level", [60, 255])
def test_soft_edges_are_cut_in_the_middle(tmp_path, level):
    Image.fromarray(soft(level)).save(tmp_path / "m.png")
    assert (read(tmp_path / "m.png") != OBJECT).mean() < 0.01


@pytest.mark.parametrize(("suffix", "form"), [("jpg", "JPEG"), ("webp", "WEBP"), ("heic", "HEIF"), ("avif", "AVIF")])
@pytest.mark.parametrize("level", [90, 255])
def test_noise_of_lossy_formats_is_black(tmp_path, suffix, form, level):
    register_heif()
    Image.fromarray(soft(level)).convert("RGB").save(tmp_path / f"m.{suffix}", form, quality=60)
    assert (read(tmp_path / f"m.{suffix}") != OBJECT).mean() < 0.02
    Image.open(tmp_path / f"m.{suffix}").save(tmp_path / "again.png")
    assert (read(tmp_path / "again.png") != OBJECT).mean() < 0.02


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (200, 30, 30)])
def test_a_mask_in_the_transparency_of_one_color(tmp_path, color):
    picture = Image.new("RGB", (W, H), color)
    picture.putalpha(Image.fromarray(OBJECT.astype(np.uint8) * 255))
    picture.save(tmp_path / "m.png")
    picture.convert("LA" if color[0] == color[1] else "RGBA").save(tmp_path / "la.png")
    for name in ("m.png", "la.png"):
        np.testing.assert_array_equal(read(tmp_path / name), OBJECT)


def test_white_that_is_transparent_is_not_ignored(tmp_path):
    alpha = np.where(COLUMNS < 40, 255, 0).astype(np.uint8)
    picture = Image.fromarray(OBJECT.astype(np.uint8) * 255).convert("RGB")
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png"), OBJECT & (COLUMNS < 40))


def test_a_photo_with_transparency_is_refused(tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    picture = Image.fromarray(photo)
    picture.putalpha(Image.fromarray(OBJECT.astype(np.uint8) * 255))
    picture.save(tmp_path / "cut_out.png")
    with pytest.raises(UserError, match=r"mask .*cut_out.png: it is a photo with transparency"):
        read_masks(tmp_path / "cut_out.png", CLIP)


@pytest.mark.parametrize(("level", "share"), [(0, "0 %"), (255, "100 %"), (1, "100 %")])
def test_masks_of_nothing_and_of_everything_are_told(tmp_path, level, share):
    Image.new("L", (W, H), level).save(tmp_path / "m.png")
    for use in (read_masks, mask_reader):
        with pytest.warns(UserWarning, match=rf"mask .*m.png: it ignores {share} of the pixels"):
            use(tmp_path / "m.png", CLIP)


def test_masks_of_a_folder_are_judged_together(tmp_path):
    Image.fromarray(OBJECT.astype(np.uint8)).save(tmp_path / "a.png")
    Image.new("L", (W, H), 0).save(tmp_path / "b.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = read_masks(tmp_path, CLIP)
        assert torch.equal(torch.stack(list(mask_reader(tmp_path, CLIP)([0, 1]))), masks)
    assert masks.flatten(1).sum(dim=1).tolist() == [OBJECT.sum(), 0]
    Image.new("L", (W, H), 255).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match=r"1 of 2 masks ignore 100 % of the pixels of their frame"):
        read_masks(tmp_path, CLIP)


def test_files_that_are_no_masks_are_named(tmp_path):
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"mask .*m.png is empty"):
        read_masks(tmp_path / "m.png", CLIP)
    with pytest.raises(UserError, match=r"gone.png does not exist"):
        read_masks(tmp_path / "gone.png", CLIP)
