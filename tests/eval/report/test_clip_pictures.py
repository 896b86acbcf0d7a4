"""Pictures of clips show frames, depth, errors and reasons of failures."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import walls
from matplotlib import colormaps
from PIL import Image
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.errors import UserError
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.clip_pictures import MAX_BYTES, WIDTH, write_clip_picture

ROW, HEAD, GAP = 163, 26, 6
"""Height of a panel of a 12 x 16 clip with a width of 217, height of the titles, and gap, in pixels."""


def flat(num_frames: int = 3) -> Sample:
    return Sample(walls.make_clip(num_frames), walls.make_scene(num_frames))


def picture(path: Path, sample: Sample, prediction: Prediction) -> np.ndarray:
    write_clip_picture(path, sample, prediction)
    return np.asarray(Image.open(path)).astype(int)


def at(image: np.ndarray, column: int, row: int, x: float, y: float) -> np.ndarray:
    """Return the color at a fraction of a panel's width and height."""
    left, top = GAP + column * 223, HEAD + row * (ROW + GAP)
    return image[top + int(y * ROW), left + int(x * 217)]


def color(color_map: str, value: float) -> np.ndarray:
    return np.array(colormaps[color_map](value, bytes=True)[:3]).astype(int)


def predicted(scene) -> Prediction:
    return Prediction.from_scene(scene, 1.0)


def test_errors_are_colored_after_one_scale(tmp_path: Path):
    sample = flat()
    depths = 5 * sample.scene.depths
    depths[:, :, 10:13] *= 1.15
    depths[:, :, 13:] *= 9
    confidence = torch.ones_like(depths)
    confidence[:, :3] = 0
    image = picture(
        tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths, depth_confidence=confidence))
    )
    assert image.shape == (HEAD + 3 * (ROW + GAP) + 250, WIDTH, 3)
    for row in range(3):
        for x, error in ((0.3, 0.0), (11.5 / 16, 0.5), (0.95, 1.0)):
            assert at(image, 3, row, x, 0.7) == pytest.approx(color("viridis", error), abs=12)
        assert at(image, 3, row, 0.5, 0.1) == pytest.approx(168, abs=6)
        assert at(image, 2, row, 0.5, 0.1) == pytest.approx(0, abs=6)
        assert at(image, 0, row, 0.2, 0.5) == pytest.approx(walls.LEFT_COLOR, abs=12)
        assert at(image, 0, row, 0.8, 0.5) == pytest.approx(walls.RIGHT_COLOR, abs=12)
        # Where the prediction is correct up to scale, it has the colors of the truth.
        assert at(image, 2, row, 0.3, 0.7) == pytest.approx(at(image, 1, row, 0.3, 0.7), abs=6)
        assert at(image, 2, row, 0.95, 0.7).sum() < at(image, 1, row, 0.95, 0.7).sum() - 60


def test_the_frames_are_the_first_the_middle_and_the_last(tmp_path: Path):
    sample = flat(8)
    for frame in (0, 4, 7):
        sample.clip.images[frame] = 10 + 30 * frame
    sample.clip.images[[1, 2, 3, 5, 6]] = 255
    image = picture(tmp_path / "a.jpg", sample, predicted(sample.scene))
    assert [int(at(image, 0, row, 0.5, 0.5)[0]) for row in range(3)] == pytest.approx([10, 130, 220], abs=4)
    assert picture(tmp_path / "b.jpg", flat(1), predicted(flat(1).scene)).shape[0] == HEAD + (ROW + GAP) + 250
    assert picture(tmp_path / "c.jpg", flat(2), predicted(flat(2).scene)).shape[0] == HEAD + 2 * (ROW + GAP) + 250


def test_sparse_depth_is_drawn_as_dots(tmp_path: Path):
    sample = flat()
    confidence = torch.zeros_like(sample.scene.depths)
    confidence[:, 3, 4] = confidence[:, 9, 12] = 1
    scene = replace(sample.scene, depth_confidence=confidence, depths=torch.where(confidence > 0, 3.0, torch.nan))
    image = picture(tmp_path / "a.jpg", sample, predicted(scene))
    panel = image[HEAD : HEAD + ROW, GAP + 2 * 223 : GAP + 2 * 223 + 217]
    lit = np.argwhere(panel.max(axis=-1) > 60)
    assert 10 <= len(lit) <= 60
    for y, x in ((3.5 * ROW / 12, 4.5 * 217 / 16), (9.5 * ROW / 12, 12.5 * 217 / 16)):
        near = lit[np.abs(lit - (y, x)).max(axis=1) <= 5]
        assert near.mean(axis=0) == pytest.approx((y, x), abs=1.5)
    # Both are correct after scaling, and the rest is unknown.
    assert at(image, 3, 0, 4.5 / 16, 3.5 / 12) == pytest.approx(color("viridis", 0.0), abs=45)
    assert at(image, 3, 0, 0.8, 0.2) == pytest.approx(168, abs=6)


def test_the_nearer_of_two_overlapping_dots_is_on_top(tmp_path: Path):
    sample = Sample(walls.make_clip(1, 1200, 1600), walls.make_scene(1).resized(1200, 1600))
    sample.scene.depths[:] = torch.linspace(2, 9, 1600)
    confidence = torch.zeros_like(sample.scene.depths)
    confidence[:, 600, 800:804] = 1
    confidence[:, 100, 100] = 1
    depths = sample.scene.depths.clone()
    depths[:, 600, 801] = 2.0
    scene = replace(sample.scene, depths=depths, depth_confidence=confidence)
    image = picture(tmp_path / "a.jpg", sample, predicted(scene))
    assert at(image, 2, 0, 0.502, 0.502).sum() > at(image, 1, 0, 0.502, 0.502).sum() + 60


def test_one_wrong_pixel_does_not_color_its_neighbors(tmp_path: Path):
    sample = Sample(walls.make_clip(1, 600, 800), walls.make_scene(1).resized(600, 800))
    depths = sample.scene.depths.clone()
    depths[:, ::6, ::6] *= 1000
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    assert at(image, 3, 0, 0.5, 0.5) == pytest.approx(color("viridis", 1 / 36), abs=30)


def test_the_scale_is_fitted_to_the_clip_and_not_to_the_drawn_frames(tmp_path: Path):
    sample = flat(9)
    depths = sample.scene.depths.clone()
    depths[[0, 4, 8]] *= 1.15
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    for row in range(3):
        assert at(image, 3, row, 0.5, 0.5) == pytest.approx(color("viridis", 0.5), abs=12)


def test_a_prediction_of_another_size_is_resized_to_the_truth(tmp_path: Path):
    sample = Sample(make_clip(), make_scene())
    same = picture(tmp_path / "same.jpg", sample, predicted(sample.scene))
    larger = picture(tmp_path / "larger.jpg", sample, predicted(sample.scene.resized(24, 32)))
    assert np.abs(same - larger).mean() < 2


@pytest.mark.parametrize("how", ["failed", "frames", "infinite"])
def test_the_reason_is_drawn_beside_the_truth_if_there_is_no_suitable_prediction(tmp_path: Path, how: str):
    sample = flat()
    wrong = sample.scene.depths.clone()
    wrong[1, 2, 3] = math.nan
    prediction = {
        # A dollar sign is not a formula, and a long reason does not overflow.
        "failed": Prediction(None, "failed", 1.0, "no $initial_{ pair \\frac " * 60),
        "frames": predicted(walls.make_scene(4)),
        "infinite": predicted(replace(sample.scene, depths=wrong)),
    }[how]
    image = picture(tmp_path / "a.jpg", sample, prediction)
    whole = picture(tmp_path / "b.jpg", sample, predicted(sample.scene))
    panels, middle = slice(HEAD, HEAD + 3 * (ROW + GAP)), GAP + 2 * 223
    assert np.abs(image[panels, :middle] - whole[panels, :middle]).mean() < 3
    text = image[panels, middle + 20 :]
    assert (text > 240).mean() > 0.8
    is_red = (text[..., 0] > text[..., 1] + 40) & (text[..., 0] > text[..., 2] + 40)
    assert is_red.sum() > 200
    assert (image[panels, -3:] > 240).all()


def test_truth_without_depth_has_no_panels(tmp_path: Path):
    sample = flat()
    truth = replace(sample.scene, depth_confidence=torch.zeros_like(sample.scene.depths))
    blind = replace(sample, scene=truth)
    scene = replace(sample.scene, depths=sample.scene.depths * torch.linspace(1, 2, 16))
    image = picture(tmp_path / "a.jpg", blind, predicted(scene))
    panels = slice(HEAD, HEAD + 3 * (ROW + GAP))
    # The colors cover the range of the prediction, and there is no error column.
    assert at(image, 1, 0, 0.05, 0.5).sum() > at(image, 1, 0, 0.95, 0.5).sum() + 200
    assert (image[panels, GAP + 2 * 223 + 4 :] > 240).all()
    failed = picture(tmp_path / "b.jpg", blind, Prediction(None, "timed out", 1.0, "more than 600 s"))
    assert failed.shape == image.shape


def test_depth_behind_the_camera_is_unknown(tmp_path: Path):
    sample = flat()
    depths = sample.scene.depths.clone()
    depths[:, :, :8] = -1.0
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    assert at(image, 2, 1, 0.2, 0.5) == pytest.approx(0, abs=6)
    assert at(image, 3, 1, 0.2, 0.5) == pytest.approx(168, abs=6)
    assert at(image, 3, 1, 0.8, 0.5) == pytest.approx(color("viridis", 0.0), abs=12)


def test_portraits_fit_and_pictures_are_small(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    tall = Sample(walls.make_clip(3, 160, 90), walls.make_scene(3).resized(160, 90))
    image = picture(tmp_path / "new" / "folder" / "a.jpg", tall, predicted(tall.scene))
    assert image.shape == (HEAD + 3 * (230 + GAP) + 250, WIDTH, 3)
    wide = Sample(make_clip(3, 15, 20), walls.make_scene(3).resized(15, 20))
    wide.scene.depths[:] = 2 + 0.2 * torch.rand(3, 15, 20, generator=generator)
    picture(tmp_path / "b.jpg", wide, predicted(wide.scene))
    assert 0.6 * MAX_BYTES < (tmp_path / "b.jpg").stat().st_size <= MAX_BYTES
    assert (tmp_path / "new" / "folder" / "a.jpg").stat().st_size < MAX_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.jpg", "new"]


def test_a_picture_is_written_atomically(tmp_path: Path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UserError, match=r"a\.jpg"):
        write_clip_picture(tmp_path / "a.jpg", flat(), predicted(flat().scene))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_the_same_clip_gives_the_same_picture(tmp_path: Path):
    for name in ("a.jpg", "b.jpg"):
        write_clip_picture(tmp_path / name, flat(), predicted(flat().scene))
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
