"""Stitched tracks: accurate while the point is visible at the borders of windows, ended otherwise."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from long_scenes import (
    FRAMES,
    INFO,
    LongSample,
    Oracle,
    TrackingOracle,
    expected,
    files_of,
    make_long_sample,
    run,
    stopped_at,
)
from torch import Tensor

from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.eval.metrics.tracks import track_scores
from recon4d.inference.windows import (
    LoopConfig,
    WindowConfig,
    frame_writing,
    reconstruct_windows,
)
from recon4d.inference.windows.track_stitching import DEPTH_TOLERANCE
from recon4d.inference.windows.work_folder import WorkFolder
from recon4d.io import load_scene, load_scene_info
from recon4d.io.long_archive import load_frames
from recon4d.records import (
    Priors,
    Scene,
    Tracks,
)

SIZE = (56, 72)


@pytest.fixture(scope="module")
def sample() -> LongSample:
    return make_long_sample(SIZE, range(FRAMES))


@pytest.fixture(scope="module")
def small_sample() -> LongSample:
    return make_long_sample(anchors=range(FRAMES))


@pytest.fixture(scope="module")
def followed(sample: LongSample, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrackingOracle]:
    """Return the folder and the oracle of a run over windows of 8 frames that share 3."""
    folder, oracle = tmp_path_factory.mktemp("followed"), TrackingOracle(sample.scene)
    run(oracle, sample, folder, tracks=1)
    return folder, oracle


@pytest.fixture(scope="module")
def whole(small_sample: LongSample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(TrackingOracle(small_sample.scene), small_sample, folder, tracks=1)
    return folder


def tracks_of(scene: Scene, anchor: int = 0) -> Tracks:
    """Select the tracks of one anchor frame."""
    assert scene.tracks is not None
    chosen = scene.tracks.anchors == anchor
    return scene.tracks.map(lambda values: values[chosen])


def visible(tracks: Tracks) -> Tensor:
    """Return a mask (time, query): which queries of the only anchor are known and visible."""
    return (tracks.visibility[0] > 0.5) & (tracks.confidence[0] > 0)


def borders_of(oracle: Oracle) -> list[tuple[int, int]]:
    """Return the first frame and the first owned frame of every window except the first."""
    starts = [numbers[0] for numbers in oracle.calls]
    overlaps = [len(set(one) & set(other)) for one, other in pairwise(oracle.calls)]
    return [(start, start + (overlap + 1) // 2) for start, overlap in zip(starts[1:], overlaps, strict=True)]


# Exact windows


@pytest.mark.parametrize("many_borders", [False, True])
def test_visible_points_are_tracked_to_half_a_pixel_per_border(
    sample: LongSample, followed: tuple[Path, TrackingOracle], tmp_path: Path, many_borders: bool
) -> None:
    """At a border, half a pixel is depth / (2 focal) wide; errors of several borders may add up."""
    folder, oracle = (tmp_path, TrackingOracle(sample.scene)) if many_borders else followed
    if many_borders:
        run(oracle, sample, folder, 5, 1, tracks=1)
    wanted = expected(sample.scene, oracle.calls[0])
    found, true = tracks_of(load_frames(folder, range(FRAMES))), tracks_of(wanted)
    assert torch.equal(found.pixels, true.pixels)
    depths = g.transform_points(wanted.cameras.cam_from_world, true.points[0])[..., 2]
    error = (found.points - true.points)[0].norm(dim=-1)

    borders = borders_of(oracle)
    assert (
        not error[: borders[0][1]].div(depths[: borders[0][1]]).gt(1e-4).any()
    )  # before the first border, tracks are exact
    half_pixels, longest, always_visible = torch.zeros_like(depths), torch.zeros_like(depths), visible(true)
    for start, owned in borders:
        half_pixels[owned:] += depths[start] / (2 * wanted.cameras.intrinsics[0, 0, 0])
        longest[owned:] += DEPTH_TOLERANCE * depths[start]
        always_visible[owned:] &= visible(true)[start]
    both = visible(found) & visible(true)
    both[: borders[0][1]] = False
    is_dynamic = (true.points[0] - true.points[0, 0]).norm(dim=-1) > 0.1 * depths[0]
    assert int((both & is_dynamic).sum()) > 500
    for chosen in (both & is_dynamic, both & ~is_dynamic):
        share = error[chosen] / half_pixels[chosen]
        assert share.median() < 0.1  # tracks within a surface are interpolated and nearly exact
        assert (share < 1).float().mean() > 0.95
    # At depth edges: one pixel in each direction plus the depth tolerance.
    assert (error < 2 * math.sqrt(2) * half_pixels + longest)[both].all()
    # Few tracks end while visible, and hardly any is predicted visible when it is not.
    assert (visible(found) & always_visible).sum() > 0.95 * always_visible.sum()
    assert (visible(found) & ~visible(true)).sum() < 0.01 * visible(found).sum()


def test_points_hidden_at_a_border_end(sample: LongSample, followed: tuple[Path, TrackingOracle]) -> None:
    folder, oracle = followed
    wanted, scene = expected(sample.scene, oracle.calls[0]), load_frames(folder, range(FRAMES))
    found, true, pixels = tracks_of(scene), tracks_of(wanted), wanted.track_pixels[0]
    height, width = SIZE
    out = (pixels < 0).any(dim=-1) | (pixels[..., 0] > width) | (pixels[..., 1] > height)
    borders = borders_of(oracle)
    for start, owned in borders:
        hidden = ~visible(found)[start]  # according to the previous window, which owns this frame
        assert not found.confidence[0, owned:, hidden].any()
        assert not found.visibility[0, owned:, hidden].any()
    # At the first border the prediction is exact.
    start, owned = borders[0]
    hidden = ~visible(true)[start]
    assert torch.equal(visible(found)[start], ~hidden)
    assert found.confidence[0, :owned].all()  # hidden points are known in the frames that the first window owns
    assert (hidden & out[start]).sum() > 100  # some have left the image
    assert (hidden & ~out[start]).sum() > 100  # some are occluded
    assert (hidden & visible(true)[owned:].any(dim=0)).sum() > 100  # some reappear later
    known = found.confidence[0] > 0
    ends = known[:-1] & ~known[1:]
    assert not (~known[:-1] & known[1:]).any()  # ended tracks do not come back
    assert set(ends.any(dim=1).nonzero()[:, 0].tolist()) == {owned - 1 for _, owned in borders}
    # They keep their last known position.
    assert torch.equal(found.points[0, 1:][~known[1:]], found.points[0, :-1][~known[1:]])


def test_tracks_of_a_single_window_are_unchanged(small_sample: LongSample, tmp_path: Path) -> None:
    oracle = TrackingOracle(small_sample.scene)
    run(oracle, small_sample, tmp_path, 32, 3, tracks=1)
    found, wanted = load_frames(tmp_path, range(FRAMES)), tracks_of(expected(small_sample.scene, oracle.calls[0]))
    assert found.tracks is not None
    assert found.tracks.anchors.tolist() == [0]
    torch.testing.assert_close(found.tracks.points, wanted.points, rtol=1e-4, atol=1e-4)
    for name in ("visibility", "confidence", "pixels"):
        assert torch.equal(getattr(found.tracks, name), getattr(wanted, name))
    # Frames without the first one have tracks as well.
    later = load_frames(tmp_path, [7, 5]).tracks
    assert later is not None
    assert later.anchors.tolist() == [-1]
    assert torch.equal(later.points, found.tracks.points[:, [7, 5]])


def test_a_stride_selects_some_of_the_tracks(small_sample: LongSample, whole: Path, tmp_path: Path) -> None:
    run(TrackingOracle(small_sample.scene), small_sample, tmp_path, tracks=4)
    every, fourth = (tracks_of(load_frames(folder, range(FRAMES))) for folder in (whole, tmp_path))
    height, width = small_sample.scene.size
    kept = torch.arange(height * width).reshape(height, width)[2::4, 2::4].flatten()
    assert torch.equal(fourth.pixels[0, 0], torch.tensor([2.5, 2.5]))
    for name in ("points", "visibility", "confidence", "pixels"):
        axis = 1 if name == "pixels" else 2
        assert torch.equal(getattr(fourth, name), getattr(every, name).index_select(axis, kept))


def test_given_cameras_and_loop_closure_transform_the_tracks(
    small_sample: LongSample, whole: Path, tmp_path: Path
) -> None:
    own = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    known = replace(Priors.unknown(FRAMES), world_from_cam=own @ small_sample.scene.cameras.world_from_cam)
    clip = replace(small_sample.long_clip, priors=known)
    oracle = TrackingOracle(small_sample.scene)
    reconstruct_windows(oracle, clip, tmp_path / "given", INFO, WindowConfig(8, 3, tracks=1))
    config = WindowConfig(8, 3, tracks=1, loops=LoopConfig(max_pairs=1))
    reconstruct_windows(oracle, small_sample.long_clip, tmp_path / "loops", INFO, config)
    folders = (whole, tmp_path / "given", tmp_path / "loops")
    free, given, loops = (tracks_of(load_frames(folder, range(FRAMES))) for folder in folders)
    unit = expected(small_sample.scene, range(8)).depths.median() / small_sample.scene.depths.median()
    torch.testing.assert_close(given.points * unit, free.points, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loops.points, free.points, rtol=1e-3, atol=1e-3)
    assert torch.equal(given.confidence, free.confidence)


def test_track_metrics_count_ended_tracks(sample: LongSample, followed: tuple[Path, TrackingOracle]) -> None:
    truth = replace(sample.scene, tracks=tracks_of(sample.scene))
    prediction = load_frames(followed[0], range(FRAMES))
    scores = {score.metric: score for score in track_scores(prediction, truth)}
    assert scores["epe"].value < 0.02
    assert scores["epe"].count < scores["epe"].total  # ended tracks are not found
    assert scores["apd3d"].value == pytest.approx(scores["epe"].count / scores["epe"].total, abs=0.02)
    assert 0.5 < scores["visibility_accuracy"].value < 1


# Interrupted runs


@pytest.mark.parametrize(
    ("where", "step", "wait"),
    [(frame_writing, "save_frame", 12), (WorkFolder, "save_stitching", 1), (WorkFolder, "remove_window_scene", 2)],
)
def test_a_resumed_run_gives_identical_files(
    small_sample: LongSample,
    whole: Path,
    tmp_path: Path,
    where: object,
    step: str,
    wait: int,
) -> None:
    with stopped_at(where, step, wait):
        run(TrackingOracle(small_sample.scene), small_sample, tmp_path / "stopped", tracks=1)
    # The state is stored for one or two windows, without tracks.
    left = list((tmp_path / "stopped" / "windows").glob("*.chains.npz"))
    assert len(left) <= 2
    queries = tracks_of(load_frames(whole, [0])).pixels.shape[1]
    assert all(file.stat().st_size < 80 * queries + 2000 for file in left)
    again = TrackingOracle(small_sample.scene)
    run(again, small_sample, tmp_path / "stopped", tracks=1)
    assert not again.calls
    assert files_of(tmp_path / "stopped") == files_of(whole)


def test_the_state_of_a_window_is_kept_as_long_as_its_scene(
    small_sample: LongSample, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is interrupted while it removes a window, between its two files."""
    original = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "000001.npz":
            raise KeyboardInterrupt
        original(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run(TrackingOracle(small_sample.scene), small_sample, tmp_path, tracks=1)
    run(TrackingOracle(small_sample.scene), small_sample, tmp_path, tracks=1)
    assert files_of(tmp_path) == files_of(whole)


def test_tracks_are_dropped_by_default(small_sample: LongSample, tmp_path: Path) -> None:
    def no_tracks(scene: Scene, _: torch.Generator) -> Scene:
        return replace(scene, tracks=None)

    run(TrackingOracle(small_sample.scene), small_sample, tmp_path / "answered")
    run(Oracle(small_sample.scene, no_tracks), small_sample, tmp_path / "not")
    assert files_of(tmp_path / "answered") == files_of(tmp_path / "not")
    file = tmp_path / "not" / "frames" / "000007.npz"
    assert load_scene(file).tracks is None
    assert "tracks" not in load_scene_info(file).settings
    with pytest.raises(UserError, match=r"differs in tracks \(None there, 2 now\)"):
        run(TrackingOracle(small_sample.scene), small_sample, tmp_path / "not", tracks=2)


def later_frame(scene: Scene, _: torch.Generator) -> Scene:
    assert scene.tracks is not None
    return replace(scene, tracks=replace(scene.tracks, anchors=scene.tracks.anchors - 1))


def fewer(scene: Scene, _: torch.Generator) -> Scene:
    assert scene.tracks is not None
    tracks = scene.tracks
    some = {name: getattr(tracks, name)[..., ::2] for name in ("visibility", "confidence")}
    points, pixels = tracks.points[..., ::2, :], tracks.pixels[..., ::2, :]
    return replace(scene, tracks=replace(tracks, points=points, pixels=pixels, **some))


@pytest.mark.parametrize(
    ("oracle", "corrupt", "message"),
    [
        (Oracle, lambda scene, _: replace(scene, tracks=None), "the reconstruction has no tracks"),
        (Oracle, None, r"the reconstruction has tracks of its frames \[0, 1, 2"),
        (TrackingOracle, later_frame, r"the reconstruction has tracks of its frames \[-1\]"),
        (TrackingOracle, fewer, "the reconstruction has 504 tracks"),
    ],
)
def test_scenes_with_other_tracks_are_errors(
    small_sample: LongSample, tmp_path: Path, oracle: type[Oracle], corrupt: Callable | None, message: str
) -> None:
    calls = oracle(small_sample.scene, corrupt)
    with pytest.raises(ValueError, match=rf"window 0 \(frames 0 to 7\): {message}.*tracks of all pixels"):
        run(calls, small_sample, tmp_path, tracks=1)
    assert len(calls.calls) == 1


def test_invalid_strides_are_errors(small_sample: LongSample, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"window 0 .*tracks is 56, which leaves no query in maps of 28 x 36"):
        run(TrackingOracle(small_sample.scene), small_sample, tmp_path, tracks=56)
    with pytest.raises(UserError, match="tracks is -1; it must be 1"):
        WindowConfig(tracks=-1)
