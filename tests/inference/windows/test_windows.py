"""Reconstruction in windows: exact windows, each in its own world and unit, are combined to the ground truth."""

import math
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from long_scenes import (
    FRAMES,
    HEIGHT,
    INFO,
    WIDTH,
    LongSample,
    Oracle,
    assert_same_cameras,
    assert_same_scene,
    expected,
    files_of,
    make_long_sample,
    run,
    stopped_at,
)
from torch import Tensor

from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.inference.windows import (
    AnchorConfig,
    WindowConfig,
    frame_writing,
    pipeline,
    reconstruct_anchored,
    reconstruct_windows,
)
from recon4d.inference.windows.layout import anchored_windows, overlapping_windows
from recon4d.io import load_scene
from recon4d.io.long_archive import LongScene, load_frames, load_index
from recon4d.io.long_clips import LongClip, open_long_clip
from recon4d.records import Clip, ClipSource, Scene


@pytest.fixture(scope="module")
def sample() -> LongSample:
    return make_long_sample()


@pytest.fixture(scope="module")
def short_sample(sample: LongSample) -> LongSample:
    """Return the first nine frames."""
    return LongSample(sample.clip.frames(range(9)), sample.scene.frames(range(9)))


@pytest.fixture(scope="module")
def whole(sample: LongSample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(Oracle(sample.scene, wrong_static_points), sample, folder)
    return folder


# Layout of the windows


@pytest.mark.parametrize(
    ("num_frames", "window", "overlap"),
    [(20, 8, 3), (20, 8, 1), (21, 8, 7), (8, 8, 2), (3, 8, 2), (1, 2, 1), (9, 8, 2)],
)
def test_windows_cover_every_frame_once_and_share_the_overlap(num_frames: int, window: int, overlap: int) -> None:
    windows = overlapping_windows(num_frames, window, overlap)
    assert [frame for one in windows for frame in one.owned] == list(range(num_frames))
    assert all(set(one.owned) <= set(one.frames) and one.owned for one in windows)
    assert all(len(one.frames) == window for one in windows[:-1])
    for before, after in pairwise(windows):
        assert after.frames[:overlap] == before.frames[-overlap:] == after.shared
        assert after.frames[-1] > before.frames[-1]


def test_the_middle_of_an_overlap_divides_it() -> None:
    first, second = overlapping_windows(12, 8, 4)
    assert (first.owned[-1], second.owned[0]) == (5, 6)
    assert overlapping_windows(12, 8, 1)[0].owned == tuple(range(8))


@pytest.mark.parametrize(("window", "overlap"), [(8, 8), (8, 9), (8, 0), (1, 1)])
def test_an_overlap_as_long_as_the_window_is_an_error(window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"windows of {window} frames cannot share {overlap}"):
        WindowConfig(window, overlap)


def test_anchored_windows_begin_with_the_anchor() -> None:
    windows = anchored_windows(6, 2)
    assert [one.frames for one in windows] == [(0, 1, 2), (0, 3, 4), (0, 5)]
    assert [one.owned for one in windows] == [(0, 1, 2), (3, 4), (5,)]
    assert [one.frames for one in anchored_windows(1, 2)] == [(0,)]


# Combination of exact windows


@pytest.mark.parametrize(("window", "overlap"), [(8, 3), (9, 1), (6, 5), (32, 4)])
def test_exact_windows_give_the_ground_truth(sample: LongSample, tmp_path: Path, window: int, overlap: int) -> None:
    oracle = Oracle(sample.scene)
    index = run(oracle, sample, tmp_path / "out", window, overlap)
    wanted = expected(sample.scene, oracle.calls[0])
    found = load_frames(tmp_path / "out", range(FRAMES))
    assert_same_scene(found, wanted)
    assert load_frames(tmp_path / "out", [0]).tracks is None  # tracks of a single window are dropped
    assert torch.equal(index.cameras.world_from_cam, found.cameras.world_from_cam)
    assert torch.equal(index.times, sample.clip.times)
    assert index.size == (HEIGHT, WIDTH)
    assert index.errors.max() < 1e-4
    assert not (tmp_path / "out" / "windows").exists()
    # The length of the unit in meters is scaled with the window.
    torch.testing.assert_close(found.metres_per_unit, wanted.metres_per_unit)
    assert index.metres_per_unit == pytest.approx(float(wanted.metres_per_unit), rel=1e-4)


def test_a_frame_is_an_archive_with_its_source_and_settings(sample: LongSample, tmp_path: Path) -> None:
    from recon4d.io import load_scene_info, load_times

    info = replace(INFO, source=sample.long_clip.source)
    reconstruct_windows(Oracle(sample.scene), sample.long_clip, tmp_path, info, WindowConfig(8, 2))
    file = tmp_path / "frames" / "000013.npz"
    assert load_scene(file).num_frames == 1
    assert load_times(file).tolist() == [sample.clip.times[13]]
    one = load_scene_info(file)
    assert one.source == ClipSource("world", ("13",), (13,))
    assert one.settings == {"windows": "overlapping", "window": 8, "overlap": 2, "one_lens": True}


def wrong_static_points(scene: Scene, generator: torch.Generator) -> Scene:
    """Multiply the depth of 30 % of the pixels by random factors."""
    wrong = torch.rand(scene.depths.shape, generator=generator) < 0.3
    factor = torch.exp(1.5 * torch.rand(scene.depths.shape, generator=generator))
    return replace(scene, depths=torch.where(wrong, scene.depths * factor, scene.depths))


def wrong_dynamic_points(scene: Scene, generator: torch.Generator) -> Scene:
    """Multiply the depth of all dynamic pixels by one factor of 2 to 10, the most consistent kind of outliers."""
    factor = 2 + 8 * torch.rand((), generator=generator)
    return replace(scene, depths=torch.where(scene.dynamic > 0.5, factor * scene.depths, scene.depths))


def noise(scene: Scene, generator: torch.Generator) -> Scene:
    """Add 2 % of noise to depth."""
    return replace(scene, depths=scene.depths * (1 + 0.02 * torch.randn(scene.depths.shape, generator=generator)))


def low_confidence_majority(scene: Scene, generator: torch.Generator) -> Scene:
    """Multiply the depth of 60 % of the pixels by one factor, and give them a lower confidence."""
    is_uncertain = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.6
    factor = 2 + torch.rand((), generator=generator)
    confidence = torch.where(is_uncertain, 1.0, 3.0) + torch.rand(scene.depths.shape, generator=generator)
    return replace(
        scene,
        depths=torch.where(is_uncertain, factor * scene.depths, scene.depths),
        depth_confidence=confidence * scene.depth_confidence,
    )


@pytest.mark.parametrize(
    ("corrupt", "tolerance"),
    [(wrong_static_points, 1e-3), (wrong_dynamic_points, 1e-3), (low_confidence_majority, 1e-3), (noise, 0.02)],
)
def test_outliers_do_not_affect_the_alignment(
    sample: LongSample, tmp_path: Path, corrupt: Callable, tolerance: float
) -> None:
    oracle = Oracle(sample.scene, corrupt)
    run(oracle, sample, tmp_path)
    wanted = expected(sample.scene, oracle.calls[0])
    length = float(wanted.depths[wanted.depth_confidence > 0].median())
    assert_same_cameras(load_frames(tmp_path, range(FRAMES)), wanted, tolerance * length)


def test_windows_may_be_in_any_world(sample: LongSample, tmp_path: Path) -> None:
    def somewhere(scene: Scene, generator: torch.Generator) -> Scene:
        axis_angle, shift = torch.randn(2, 3, generator=generator)
        return scene.transformed(g.rigid(g.rotation_from_axis_angle(axis_angle), shift))

    oracle = Oracle(sample.scene, somewhere)
    run(oracle, sample, tmp_path)
    assert_same_scene(load_frames(tmp_path, range(FRAMES)), expected(sample.scene, oracle.calls[0]))


def test_windows_without_motion_prediction_are_aligned(sample: LongSample, tmp_path: Path) -> None:
    """Without a motion head, `dynamic` is NaN, and all points count as static."""
    oracle = Oracle(sample.scene, lambda scene, _: replace(scene, dynamic=torch.full_like(scene.dynamic, torch.nan)))
    assert run(oracle, sample, tmp_path).errors.max() < 1e-4


# Interrupted runs


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_run_with_a_failing_window_can_be_resumed(
    sample: LongSample, whole: Path, tmp_path: Path, failing: int
) -> None:
    first = Oracle(sample.scene, wrong_static_points, fails_at=failing)
    with pytest.raises(RuntimeError, match="simulated failure") as failure:
        run(first, sample, tmp_path / "stopped")
    assert any(f"in window {failing} (frames" in note for note in failure.value.__notes__)
    second = Oracle(sample.scene, wrong_static_points)
    run(second, sample, tmp_path / "stopped")
    assert first.calls + second.calls == [window.frames for window in overlapping_windows(FRAMES, 8, 3)]
    assert files_of(tmp_path / "stopped") == files_of(whole)


@pytest.mark.parametrize("step", ["save_frame", "save_index", "_compute_placement"])
def test_a_run_interrupted_while_writing_can_be_resumed(
    sample: LongSample, whole: Path, tmp_path: Path, step: str
) -> None:
    wait = 11 if step == "save_frame" else 0
    with stopped_at(frame_writing if step == "save_frame" else pipeline, step, wait):
        run(Oracle(sample.scene, wrong_static_points), sample, tmp_path / "stopped")
    with pytest.raises(UserError, match="its run has not ended"):
        load_index(tmp_path / "stopped")
    if step == "save_frame":  # the first window is removed once its frames are written
        assert sorted(path.name for path in (tmp_path / "stopped" / "windows").glob("??????.npz"))[0] == "000001.npz"
    (tmp_path / "stopped" / "frames" / ".000003.npz.partial-0a1b2c3d").write_bytes(b"half a fra")
    again = Oracle(sample.scene, wrong_static_points)
    run(again, sample, tmp_path / "stopped")
    assert not again.calls
    assert files_of(tmp_path / "stopped") == files_of(whole)


def test_a_finished_run_is_not_repeated(sample: LongSample, tmp_path: Path) -> None:
    first = run(Oracle(sample.scene), sample, tmp_path)
    again = Oracle(sample.scene)
    assert torch.equal(run(again, sample, tmp_path).cameras.world_from_cam, first.cameras.world_from_cam)
    assert not again.calls


def test_the_folder_of_another_run_is_an_error(sample: LongSample, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(Oracle(sample.scene, fails_at=1), sample, tmp_path / "half", 8, 3)
    for folder in ("half", "whole"):
        if folder == "whole":
            run(Oracle(sample.scene), sample, tmp_path / folder, 8, 3)
        before = files_of(tmp_path / folder)
        with pytest.raises(UserError, match=r"another run that differs in overlap \(3 there, 2 now\)"):
            run(Oracle(sample.scene), sample, tmp_path / folder, 8, 2)
        assert files_of(tmp_path / folder) == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="contains no interrupted run"):
        run(Oracle(sample.scene), sample, tmp_path / "foreign")


def test_windows_without_shared_static_points_are_an_error(sample: LongSample, tmp_path: Path) -> None:
    def all_dynamic(scene: Scene, _: torch.Generator) -> Scene:
        return replace(scene, dynamic=torch.full_like(scene.dynamic, 0.7))

    oracle = Oracle(sample.scene, all_dynamic)
    with pytest.raises(UserError, match=r"window 1 \(frames 5 to 12\) cannot be aligned to window 0 \(frames 0 to 7\)"):
        run(oracle, sample, tmp_path)
    assert oracle.calls == [tuple(range(8)), tuple(range(5, 13))]
    # As the message advises. No window is reconstructed again.
    run(oracle, sample, tmp_path, static_below=0.9)
    assert len(oracle.calls) == len(set(oracle.calls)) == 4
    assert_same_cameras(load_frames(tmp_path, range(FRAMES)), expected(sample.scene, oracle.calls[0]), 1e-3)


def test_a_poor_alignment_gives_a_warning(sample: LongSample, tmp_path: Path) -> None:
    def random_depths(scene: Scene, generator: torch.Generator) -> Scene:
        return replace(scene, depths=1 + 9 * torch.rand(scene.depths.shape, generator=generator))

    with pytest.warns(UserWarning, match="window 1 .* fits window 0 .* poorly"):
        index = run(Oracle(sample.scene, random_depths), sample, tmp_path)
    assert index.errors[1:].min() > 0.1


@pytest.mark.parametrize("wrong", [lambda scene, _: scene.frames([0, 1]), lambda scene, _: Scene.stack([scene])])
def test_a_scene_of_another_length_is_an_error(sample: LongSample, tmp_path: Path, wrong: Callable) -> None:
    with pytest.raises(ValueError, match="expected one scene of 8 frames"):
        run(Oracle(sample.scene, wrong), sample, tmp_path)


# Memory


def most_held(sample: LongSample, num_frames: int, folder: Path) -> tuple[int, int]:
    """Return the largest numbers of images and clips that are alive at once during a reconstruction."""
    images_alive, clips_alive = weakref.WeakSet(), weakref.WeakSet()
    most_images, most_clips = [0], [0]
    truth = Oracle(sample.scene.frames([i % FRAMES for i in range(num_frames)]))

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            image = sample.clip.images[position % FRAMES].clone()
            images_alive.add(image)
            most_images[0] = max(most_images[0], len(images_alive))
            yield image

    def reconstruct_clip(clip: Clip) -> Scene:
        clips_alive.add(clip)
        most_clips[0] = max(most_clips[0], len(clips_alive))
        return truth(clip)

    numbers = tuple(range(num_frames))
    source = ClipSource("long", tuple(map(str, numbers)), numbers)
    long_clip = LongClip(tuple(map(float, numbers)), (HEIGHT, WIDTH), source, images)
    reconstruct_windows(reconstruct_clip, long_clip, folder, INFO, WindowConfig(6, 2))
    return most_images[0], most_clips[0]


def test_memory_does_not_grow_with_the_clip(sample: LongSample, tmp_path: Path) -> None:
    short, long = most_held(sample, 10, tmp_path / "short"), most_held(sample, 18, tmp_path / "long")
    assert short == long
    assert long[0] <= 6 + 2  # a window, and the image that is being read
    assert long[1] <= 2


# Anchored windows


@pytest.mark.parametrize("frames_per_call", [1, 4])
def test_exact_pairs_give_the_ground_truth(short_sample: LongSample, tmp_path: Path, frames_per_call: int) -> None:
    oracle = Oracle(short_sample.scene)
    reconstruct_anchored(oracle, short_sample.long_clip, tmp_path, INFO, AnchorConfig(frames_per_call))
    assert all(numbers[0] == 0 and len(numbers) <= frames_per_call + 1 for numbers in oracle.calls)
    found, wanted = load_frames(tmp_path, range(9)), expected(short_sample.scene, oracle.calls[0])
    assert_same_scene(found, wanted)
    assert found.tracks is not None
    assert wanted.tracks is not None
    assert found.tracks.anchors.tolist() == [0]
    torch.testing.assert_close(found.tracks.points, wanted.tracks.points, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.tracks.visibility, wanted.tracks.visibility)
    # Frames without the anchor have tracks as well.
    later = load_frames(tmp_path, [7, 5]).tracks
    assert later is not None
    assert later.anchors.tolist() == [-1]
    assert torch.equal(later.points, found.tracks.points[:, [7, 5]])


@pytest.mark.parametrize("corrupt", [wrong_static_points, noise])
def test_outliers_do_not_affect_the_scale_of_a_pair(
    short_sample: LongSample, tmp_path: Path, corrupt: Callable
) -> None:
    oracle = Oracle(short_sample.scene, corrupt)
    reconstruct_anchored(oracle, short_sample.long_clip, tmp_path, INFO)
    wanted = expected(short_sample.scene, oracle.calls[0])
    length = float(wanted.depths[wanted.depth_confidence > 0].median())
    assert_same_cameras(load_frames(tmp_path, range(9)), wanted, 0.01 * length)


def test_an_anchor_without_depth_cannot_be_aligned(sample: LongSample, tmp_path: Path) -> None:
    oracle = Oracle(sample.scene, lambda scene, _: replace(scene, depth_confidence=0 * scene.depth_confidence))
    with pytest.raises(UserError, match=r"window 1 .* cannot be aligned to window 0 .* 0 confident pixels"):
        reconstruct_anchored(oracle, sample.long_clip, tmp_path, INFO)


# Reading frame by frame


def test_frames_of_a_video_are_read_on_request(numbered_video: Path) -> None:
    from videos import numbers_seen

    clip = open_long_clip(numbered_video)
    assert (clip.num_frames, clip.size) == (30, (48, 64))
    assert numbers_seen(torch.stack(list(clip.images([0, 7, 29])))) == [0, 7, 29]
    slower = open_long_clip(numbered_video, fps=5, start=1.0, stop=2.0)
    assert slower.source.numbers == (10, 12, 14, 16, 18, 20)
    assert numbers_seen(torch.stack(list(slower.images([1, 2])))) == [12, 14]
    assert slower.times == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


def test_images_of_a_folder_are_read_on_request(tmp_path: Path) -> None:
    from recon4d.io import write_jpeg

    for number in range(4):
        write_jpeg(tmp_path / f"p{number}.jpg", torch.full((3, 32, 32), 50 * number, dtype=torch.uint8))
    clip = open_long_clip(tmp_path)
    assert clip.source.names == ("p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg")
    assert all(math.isnan(time) for time in clip.times)
    assert [round(float(image.float().mean())) for image in clip.images([1, 2])] == [50, 100]
    images = clip.images([2, 3])
    next(images)
    write_jpeg(tmp_path / "p3.jpg", torch.zeros(3, 40, 32, dtype=torch.uint8))  # an error only when it is read
    with pytest.raises(ValueError, match=r"p3.jpg has changed since the clip was opened"):
        next(images)
    assert open_long_clip(tmp_path, fps=2, start=0.5, stop=1).times == (0.5, 1.0)
    with pytest.raises(ValueError, match="need times"):
        open_long_clip(tmp_path, start=1)
    with pytest.raises(ValueError, match="wanted a number above 0"):
        open_long_clip(tmp_path, fps=0)


def test_the_python_block_of_the_page_on_long_clips_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    (block,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "long_clips.md").read_text(), re.DOTALL)
    # Faster with the tiny model, smaller images and half of the frames.
    shortened = {
        '"recon4d_mini"': '"recon4d_tiny", pretrained=False',
        "anchors=()": "anchors=(), processing_size=32",
        "fps=10": "fps=5",
        "window=16, overlap=4": "window=8, overlap=2",
        "out/dog": str(tmp_path / "dog"),
    }
    for shown, shorter in shortened.items():
        assert shown in block
        block = block.replace(shown, shorter)
    monkeypatch.chdir(root)
    names: dict[str, object] = {}
    exec(block, names)
    index, scene = names["index"], names["scene"]
    assert isinstance(index, LongScene)
    assert isinstance(scene, Scene)
    assert index.num_frames == 15
    assert torch.equal(scene.cameras.world_from_cam, index.cameras.world_from_cam[10:14])
