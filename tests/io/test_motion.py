"""Frames are chosen by motion, and a video is divided at its cuts and nowhere else."""

import warnings
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from videos import encode, numbered

from recon4d.errors import UserError
from recon4d.io import read_clip
from recon4d.io.corner_survival import Thumbnail, difference, survival
from recon4d.io.motion import MAX_AUTO_FRAMES, MIN_AUTO_FRAMES, Cuts, MotionScan, select_by_motion
from recon4d.io.videos import use_video

HEIGHT, WIDTH = 90, 160
ROOT = Path(__file__).parents[2]


def scenery(seed: int, width: int = 2400) -> np.ndarray:
    """Create a wide picture with colored shapes of many sizes, and colors of its own for each seed."""
    generator = np.random.default_rng(seed)
    tint = generator.integers(0, 120, 3)
    picture = np.tile(tint.astype(np.uint8), (HEIGHT + 20, width, 1))
    for _ in range(width):
        x, y = int(generator.integers(0, width)), int(generator.integers(0, HEIGHT + 20))
        size = 3 * np.exp(generator.uniform(0, 3, 2))
        color = (tint + generator.integers(0, 135, 3)).tolist()
        cv2.rectangle(picture, (x, y), (x + int(size[0]), y + int(size[1])), color, -1)
    return picture


def views(picture: np.ndarray, lefts) -> list[np.ndarray]:
    return [np.ascontiguousarray(picture[5 : 5 + HEIGHT, round(left) : round(left) + WIDTH]) for left in lefts]


def steady(seed: int, count: int, speed: float = 1.0) -> list[np.ndarray]:
    return views(scenery(seed), [speed * i for i in range(count)])


def find_cuts(path: Path, max_packets: float = 1e9) -> Cuts:
    return use_video(path, None, lambda video: MotionScan(video, range(len(video.times)), max_packets).find_cuts())


def read_quietly(path: Path, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_clip(path, *arguments, **options)


def test_survival_is_the_overlap_of_two_views():
    near, far = (Thumbnail(view) for view in views(scenery(0), [0, 40]))
    assert survival(near, near) == 1.0
    # A quarter of the view is gone; corners at its border are lost as well.
    assert survival(near, far) == pytest.approx(0.72, abs=0.08)
    darker = Thumbnail((far.pixels * 0.5).astype(np.uint8))
    assert survival(near, darker) == pytest.approx(survival(near, far), abs=0.05)
    assert survival(near, Thumbnail(steady(1, 1)[0])) < 0.1
    assert np.isnan(survival(near, Thumbnail(np.zeros_like(near.pixels))))


def test_a_cut_is_found_between_its_two_frames(tmp_path):
    path = encode(tmp_path / "cut.mp4", steady(0, 31) + steady(1, 44) + steady(2, 20))
    assert find_cuts(path) == Cuts((31, 75), ())
    with pytest.warns(UserWarning, match=r"cut.mp4 has cuts at 3\.10 s, 7\.50 s; the longest part.* 3\.10 s to 7\.40"):
        clip = read_clip(path, 5)
    assert clip.source.numbers == (31, 42, 52, 63, 74)
    with pytest.warns(UserWarning, match="the longest part without a cut"):
        assert read_clip(path, None, fps=1).source.numbers == (31, 41, 51, 61, 71)
    with pytest.warns(UserWarning, match="the longest part without a cut"):
        chosen = read_clip(path, "auto").source.numbers
    assert (chosen[0], chosen[-1]) == (31, 74)
    assert read_quietly(path, 3, keep_cuts=True).source.numbers == (0, 47, 94)
    assert read_quietly(path, 3, stop=3.0).source.numbers == (0, 15, 30)


def test_a_cut_is_found_with_few_samples(tmp_path):
    pictures = steady(0, 130, 0.5) + steady(1, 110, 0.5)
    path = encode(tmp_path / "sparse.mp4", pictures, options={"g": "40", "sc_threshold": "0"})
    assert find_cuts(path, max_packets=30).cuts == (130,)


@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_is_no_cut(tmp_path, length):
    pictures = steady(0, 60)
    for number in range(30, 30 + length):
        pictures[number] = np.clip(pictures[number] * 0.1 + 225, 0, 255).astype(np.uint8)
    path = encode(tmp_path / "flash.mp4", pictures)
    assert find_cuts(path) == Cuts((), ())


def test_a_jump_of_brightness_is_no_cut(tmp_path):
    pictures = [(picture * (0.4 if i >= 30 else 1)).astype(np.uint8) for i, picture in enumerate(steady(0, 60))]
    assert find_cuts(encode(tmp_path / "dark.mp4", pictures)) == Cuts((), ())


def test_a_whip_pan_is_no_cut(tmp_path):
    speeds = [1.0] * 25 + [20, 60, *[110] * 8, 60, 20] + [1.0] * 25
    lefts = np.cumsum(speeds)
    picture = scenery(0)
    blurred = []
    for left, speed in zip(lefts, speeds, strict=True):
        steps = np.linspace(0, speed * 0.7, max(2, int(speed / 4)))
        blurred.append(np.mean([views(picture, [left + step])[0] for step in steps], axis=0).astype(np.uint8))
    path = encode(tmp_path / "whip.mp4", blurred, milliseconds=[33 * i for i in range(len(blurred))])
    assert find_cuts(path) == Cuts((), ())
    # The frames of the pan have little in common with each other; more of them are chosen there.
    numbers = np.array(read_quietly(path, "auto").source.numbers)
    assert ((numbers >= 24) & (numbers <= 37)).sum() >= 8


def test_an_object_that_covers_the_camera_is_no_cut(tmp_path):
    pictures = steady(0, 60)
    cover = steady(3, 1)[0]
    for number in range(25, 35):
        right = int(WIDTH * (number - 24) / 4)
        left = max(0, right - 2 * WIDTH)
        pictures[number][:, max(0, right - int(1.5 * WIDTH)) : right] = cover[
            :, max(0, right - int(1.5 * WIDTH)) : right
        ][:, :WIDTH]
        assert left >= 0
    path = encode(tmp_path / "covered.mp4", pictures, milliseconds=[33 * i for i in range(60)])
    assert find_cuts(path).cuts == ()


@pytest.mark.parametrize("kind", ["dissolve", "black"])
def test_a_fade_is_reported(tmp_path, kind):
    first, second = steady(0, 50, 0.2), steady(1, 50, 0.2)
    weights = np.clip((np.arange(50) - 20) / 8, 0, 1)
    if kind == "dissolve":
        mixed = [(1 - weight) * a + weight * b for weight, a, b in zip(weights, first, second, strict=True)]
    else:
        mixed = [
            max(1 - 2 * weight, 0) * a + max(2 * weight - 1, 0) * b
            for weight, a, b in zip(weights, first, second, strict=True)
        ]
    path = encode(tmp_path / "fade.mp4", [picture.astype(np.uint8) for picture in mixed])
    cuts = find_cuts(path)
    assert cuts.cuts == ()
    assert len(cuts.fades) == 1
    assert 19 <= cuts.fades[0] <= 30
    with pytest.warns(UserWarning, match=r"seems to fade from one scene to another at 2\.\d+ s"):
        read_clip(path, 4)


def test_real_clips_have_no_cuts():
    path = ROOT / "examples" / "dog.mp4"
    assert find_cuts(path) == Cuts((), ())
    source = read_quietly(path, "auto").source
    assert MIN_AUTO_FRAMES <= len(source.numbers) <= 16
    assert source.selection.startswith(f"{len(source.numbers)} of 90 frames, chosen by motion (neighbors share about ")


def test_neighbors_share_the_target_of_their_corners(tmp_path):
    path = encode(tmp_path / "pan.mp4", steady(0, 100, 8.0))
    clip = read_quietly(path, "auto")
    images = [Thumbnail(image.permute(1, 2, 0).numpy()) for image in clip.images]
    shares = [survival(one, other) for one, other in pairwise(images)]
    assert np.median(shares) == pytest.approx(0.68, abs=0.1)
    assert min(shares) > 0.4
    assert clip.source.numbers[0] == 0
    assert clip.source.numbers[-1] == 99


def test_a_still_camera_gives_few_frames_evenly_in_time(tmp_path):
    path = encode(tmp_path / "still.mp4", steady(0, 71, 0.0))
    assert read_quietly(path, "auto").source.numbers == (0, 10, 20, 30, 40, 50, 60, 70)


def test_frames_are_dense_where_motion_is_fast(tmp_path):
    lefts = np.cumsum([0.0] * 40 + [8.0] * 40 + [0.0] * 40)
    numbers = np.array(read_quietly(encode(tmp_path / "burst.mp4", views(scenery(0), lefts)), "auto").source.numbers)
    in_motion = (numbers >= 40) & (numbers <= 80)
    assert in_motion.sum() > 0.7 * len(numbers)


def test_the_number_of_frames_is_limited_and_spread_by_motion(tmp_path):
    picture = scenery(0)
    slow_and_fast = np.cumsum([20.0] * 40 + [60.0] * 40) % 2200
    numbers = np.array(
        read_quietly(encode(tmp_path / "long.mp4", views(picture, slow_and_fast)), "auto").source.numbers
    )
    assert len(numbers) == MAX_AUTO_FRAMES
    assert (numbers >= 40).sum() > (numbers < 40).sum()


def test_selection_from_accumulated_motion():
    times = [float(i) for i in range(101)]
    assert select_by_motion(times, [0.0] * 101) == [0, 14, 29, 43, 57, 71, 86, 100]
    twenty = select_by_motion(times, [0.2 * i for i in range(101)])
    assert len(twenty) == 21
    assert twenty == list(range(0, 101, 5))
    late = select_by_motion(times, [max(0.0, i - 90.0) for i in range(101)])
    assert late[-10:] == list(range(91, 101))


def test_auto_without_texture_and_with_a_rate_and_for_short_videos(tmp_path):
    plain = encode(tmp_path / "plain.mp4", [numbered(0)] * 36)
    source = read_quietly(plain, "auto").source
    assert source.numbers == (0, 5, 10, 15, 20, 25, 30, 35)
    assert "too few corners" in source.selection
    assert read_quietly(plain, "auto", fps=10).num_frames == 36
    long = encode(tmp_path / "long.mp4", [numbered(0)] * 60)
    assert read_quietly(long, "auto", fps=10).source.numbers == tuple(range(48))
    assert read_quietly(plain, "auto", start=0.4, stop=0.7).source.numbers == (4, 5, 6, 7)
    with pytest.raises(UserError, match="num_frames = 0; wanted at least 1, or"):
        read_clip(plain, 0)


def test_a_scan_within_its_budget_looks_at_the_frames_after_key_frames(tmp_path):
    path = encode(tmp_path / "long.mp4", steady(0, 400, 2.0), options={"g": "50", "sc_threshold": "0", "bf": "0"})

    def cost(video) -> tuple[int, int]:
        scan = MotionScan(video, range(400), 60)
        looked = sorted(scan._images)
        return video.index.decoding_cost(looked), len(looked)

    packets, looked = use_video(path, None, cost)
    assert looked >= 50
    assert packets <= 60 + 50  # and the last frame

    numbers = use_video(path, None, lambda video: MotionScan(video, range(400), 60).choose_frames(range(400)).numbers)
    assert (numbers[0], numbers[-1]) == (0, 399)
    assert max(np.diff(numbers)) <= 60


def test_images_that_differ_in_layout_or_color_differ():
    one, other = (Thumbnail(steady(seed, 1)[0]) for seed in (0, 1))
    assert difference(one, one) == pytest.approx(0, abs=1e-3)
    assert difference(one, Thumbnail((one.pixels * 0.7).astype(np.uint8))) < difference(one, other)
