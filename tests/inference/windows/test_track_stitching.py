"""Pixels of a long clip's first frame, followed from window to window: right while they are seen, ended when not."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from long_worlds import (
    FRAMES,
    INFO,
    Oracle,
    TrackingOracle,
    World,
    expected,
    files_of,
    make_world,
    run,
    stopped_at,
)
from torch import Tensor

from recon4d import geometry as g
from recon4d.eval.metrics.tracks import track_scores
from recon4d.inference.windows import (
    LoopConfig,
    WindowConfig,
    reconstruct_windows,
)
from recon4d.inference.windows import (
    pipeline as running,
)
from recon4d.inference.windows.track_stitching import SAME_SURFACE, StitchedTracks, begin_stitching
from recon4d.inference.windows.work_folder import WorkFolder
from recon4d.io import load_scene, load_scene_info
from recon4d.io.long_archive import load_frames
from recon4d.records import (
    Cameras,
    Priors,
    Scene,
    Tracks,
)

SIZE = (56, 72)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SIZE, range(FRAMES))


@pytest.fixture(scope="module")
def small_world() -> World:
    return make_world(anchors=range(FRAMES))


@pytest.fixture(scope="module")
def whole(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run(TrackingOracle(small_world.scene), small_world, folder, tracks=1)
    return folder


def tracks_of(scene: Scene, anchor: int = 0) -> Tracks:
    """The tracks of one anchor frame of a scene."""
    assert scene.tracks is not None
    chosen = scene.tracks.anchors == anchor
    return scene.tracks.map(lambda values: values[chosen])


def seen(tracks: Tracks) -> Tensor:
    """(time, query): where the only anchor's queries are known and seen."""
    return (tracks.visibility[0] > 0.5) & (tracks.confidence[0] > 0)


def borders_of(oracle: Oracle) -> list[tuple[int, int]]:
    """Of every window but the first: its first frame, where it takes over, and the first frame that it owns."""
    starts = [numbers[0] for numbers in oracle.asked]
    overlaps = [len(set(one) & set(other)) for one, other in pairwise(oracle.asked)]
    return [(start, start + (overlap + 1) // 2) for start, overlap in zip(starts[1:], overlaps, strict=True)]


# Exact windows


@pytest.mark.parametrize(("window", "overlap"), [(8, 3), (6, 2), (5, 1)])
def test_what_is_seen_is_followed_to_half_a_pixel_a_border(
    world: World, tmp_path: Path, window: int, overlap: int
) -> None:
    """Half a pixel is depth / (2 focal) wide at the frame where a window hands on; errors of borders may add up."""
    oracle = TrackingOracle(world.scene)
    run(oracle, world, tmp_path, window, overlap, tracks=1)
    wanted = expected(world.scene, oracle.asked[0])
    found, true = tracks_of(load_frames(tmp_path, range(FRAMES))), tracks_of(wanted)
    assert torch.equal(found.pixels, true.pixels)
    depths = g.transform_points(wanted.cameras.cam_from_world, true.points[0])[..., 2]
    error = (found.points - true.points)[0].norm(dim=-1)

    borders = borders_of(oracle)
    assert not error[: borders[0][1]].div(depths[: borders[0][1]]).gt(1e-4).any()  # nothing was handed on yet
    half_pixels, longest, always_seen = torch.zeros_like(depths), torch.zeros_like(depths), seen(true)
    for start, owned in borders:
        half_pixels[owned:] += depths[start] / (2 * wanted.cameras.intrinsics[0, 0, 0])
        longest[owned:] += SAME_SURFACE * depths[start]
        always_seen[owned:] &= seen(true)[start]
    both = seen(found) & seen(true)
    both[: borders[0][1]] = False
    moves = (true.points[0] - true.points[0, 0]).norm(dim=-1) > 0.1 * depths[0]
    assert int((both & moves).sum()) > 500
    for chosen in (both & moves, both & ~moves):
        share = error[chosen] / half_pixels[chosen]
        assert share.median() < 0.1  # tracks of one surface are interpolated, and nearly exact
        assert (share < 1).float().mean() > 0.95
    # Where surfaces meet: a pixel to each side, and as deep as two depths may differ.
    assert (error < 2 * math.sqrt(2) * half_pixels + longest)[both].all()
    # Few are given up while they are seen, and hardly any is said to be seen that is not.
    assert (seen(found) & always_seen).sum() > 0.95 * always_seen.sum()
    assert (seen(found) & ~seen(true)).sum() < 0.01 * seen(found).sum()


def test_what_is_hidden_where_a_window_begins_has_ended(world: World, tmp_path: Path) -> None:
    oracle = TrackingOracle(world.scene)
    run(oracle, world, tmp_path, tracks=1)
    wanted, scene = expected(world.scene, oracle.asked[0]), load_frames(tmp_path, range(FRAMES))
    found, true, pixels = tracks_of(scene), tracks_of(wanted), wanted.track_pixels[0]
    height, width = SIZE
    out = (pixels < 0).any(dim=-1) | (pixels[..., 0] > width) | (pixels[..., 1] > height)
    borders = borders_of(oracle)
    for start, owned in borders:
        hidden = ~seen(found)[start]  # as the window before says, of which this frame is
        assert not found.confidence[0, owned:, hidden].any()
        assert not found.visibility[0, owned:, hidden].any()
    # Where the first window hands on, what it says is the truth.
    start, owned = borders[0]
    hidden = ~seen(true)[start]
    assert torch.equal(seen(found)[start], ~hidden)
    assert found.confidence[0, :owned].all()  # it still says where the hidden ones are in the frames that are its own
    assert (hidden & out[start]).sum() > 100  # some have left the picture
    assert (hidden & ~out[start]).sum() > 100  # and some are behind something
    assert (hidden & seen(true)[owned:].any(dim=0)).sum() > 100  # of which the truth knows that they come back
    known = found.confidence[0] > 0
    ends = known[:-1] & ~known[1:]
    assert not (~known[:-1] & known[1:]).any()  # for good
    assert set(ends.any(dim=1).nonzero()[:, 0].tolist()) == {owned - 1 for _, owned in borders}
    # They are left where they were last known.
    assert torch.equal(found.points[0, 1:][~known[1:]], found.points[0, :-1][~known[1:]])


def test_one_window_is_what_it_answers(small_world: World, tmp_path: Path) -> None:
    oracle = TrackingOracle(small_world.scene)
    run(oracle, small_world, tmp_path, 32, 3, tracks=1)
    found, wanted = load_frames(tmp_path, range(FRAMES)), tracks_of(expected(small_world.scene, oracle.asked[0]))
    assert found.tracks is not None
    assert found.tracks.anchors.tolist() == [0]
    torch.testing.assert_close(found.tracks.points, wanted.points, rtol=1e-4, atol=1e-4)
    for name in ("visible", "confidence", "pixels"):
        assert torch.equal(getattr(found.tracks, name), getattr(wanted, name))
    # Of frames without the first the tracks are there all the same.
    later = load_frames(tmp_path, [7, 5]).tracks
    assert later is not None
    assert later.anchors.tolist() == [-1]
    assert torch.equal(later.points, found.tracks.points[:, [7, 5]])


def test_a_stride_follows_some_of_the_same(small_world: World, whole: Path, tmp_path: Path) -> None:
    run(TrackingOracle(small_world.scene), small_world, tmp_path, tracks=4)
    every, fourth = (tracks_of(load_frames(folder, range(FRAMES))) for folder in (whole, tmp_path))
    height, width = small_world.scene.size
    kept = torch.arange(height * width).reshape(height, width)[2::4, 2::4].flatten()
    assert torch.equal(fourth.pixels[0, 0], torch.tensor([2.5, 2.5]))
    for name in ("points", "visible", "confidence", "pixels"):
        axis = 1 if name == "pixels" else 2
        assert torch.equal(getattr(fourth, name), getattr(every, name).index_select(axis, kept))


def test_given_cameras_and_closed_loops_take_the_tracks_along(small_world: World, whole: Path, tmp_path: Path) -> None:
    own = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    known = replace(Priors.nothing(FRAMES), world_from_cam=own @ small_world.scene.cameras.world_from_cam)
    clip = replace(small_world.long_clip, priors=known)
    oracle = TrackingOracle(small_world.scene)
    reconstruct_windows(oracle, clip, tmp_path / "given", INFO, WindowConfig(8, 3, tracks=1))
    config = WindowConfig(8, 3, tracks=1, loops=LoopConfig(min_likeness=0.5, max_candidates=1))
    reconstruct_windows(oracle, small_world.long_clip, tmp_path / "loops", INFO, config)
    folders = (whole, tmp_path / "given", tmp_path / "loops")
    free, given, loops = (tracks_of(load_frames(folder, range(FRAMES))) for folder in folders)
    unit = expected(small_world.scene, range(8)).depths.median() / small_world.scene.depths.median()
    torch.testing.assert_close(given.points * unit, free.points, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loops.points, free.points, rtol=1e-3, atol=1e-3)
    assert torch.equal(given.confidence, free.confidence)


def test_the_tracks_are_scored(world: World, tmp_path: Path) -> None:
    run(TrackingOracle(world.scene), world, tmp_path, tracks=1)
    truth = replace(world.scene, tracks=tracks_of(world.scene))
    prediction = load_frames(tmp_path, range(FRAMES))
    scores = {score.metric: score for score in track_scores(prediction, truth)}
    assert scores["epe"].value < 0.02
    assert scores["epe"].count < scores["epe"].total  # what has ended was not found
    assert scores["apd3d"].value == pytest.approx(scores["epe"].count / scores["epe"].total, abs=0.02)
    assert 0.5 < scores["visibility_accuracy"].value < 1


# A border, by hand


def view(depths: Tensor, moving: Tensor | None = None) -> Scene:
    """Two frames of one camera with a focal length of 10, both of them alike, and tracks that stand still."""
    height, width = depths.shape
    lens = torch.tensor([[10.0, 0, width / 2], [0, 10, height / 2], [0, 0, 1]])
    cameras = Cameras(torch.eye(4).expand(2, 4, 4), lens.expand(2, 3, 3))
    depths = depths.expand(2, height, width)
    points = g.unproject_map(depths, cameras.intrinsics)
    ones = torch.ones_like(depths)
    moving = torch.zeros_like(depths) if moving is None else moving.expand(2, height, width)
    tracks = Tracks(
        points=points.flatten(1, 2)[None],
        visibility=torch.ones(1, 2, height * width),
        confidence=torch.ones(1, 2, height * width),
        anchors=torch.tensor([0]),
        pixels=g.pixel_grid(height, width).reshape(1, -1, 2),
    )
    return Scene(cameras, depths, ones, points, ones, moving, torch.tensor(torch.nan), tracks)


def moved_to(scene: Scene, pixel: tuple[float, float], depth: float, visible: float = 1.0) -> Scene:
    """The scene whose first query is at that pixel and that depth in the second frame."""
    assert scene.tracks is not None
    points, seen_then = scene.tracks.points.clone(), scene.tracks.visibility.clone()
    points[0, 1, 0] = g.unproject(torch.tensor([pixel]), torch.tensor([depth]), scene.cameras.intrinsics[1])[0]
    seen_then[0, 1, 0] = visible
    return replace(scene, tracks=replace(scene.tracks, points=points, visibility=seen_then))


def one_query(size: tuple[int, int]) -> StitchedTracks:
    """The first pixel alone."""
    return replace(begin_stitching(size, 1), **{k: v[:1] for k, v in vars(begin_stitching(size, 1)).items()})


def place_of(chains: StitchedTracks, scene: Scene) -> Tensor | None:
    """Where the first query is in the first frame; None where it has ended."""
    now = chains.at(scene, 0, is_first=False)
    return now.points[0, 0, 0] if now.confidence[0, 0, 0] > 0 else None


STEP = torch.where(torch.arange(8) < 4, 1.0, 2.0).expand(6, 8)
"""Near on the left, far on the right."""
FLAT = torch.full((6, 8), 2.0)


def test_on_a_plane_the_tracks_around_are_interpolated_exactly() -> None:
    """A plane is linear in 1 / z over the picture; it is as steep as two neighbors may be."""
    grid = g.pixel_grid(6, 8)
    inverse = 0.5 + 0.012 * grid[..., 0] - 0.008 * grid[..., 1]
    pixel = (3.8, 2.1)
    depth = 1 / (0.5 + 0.012 * pixel[0] - 0.008 * pixel[1])
    scene = moved_to(view(1 / inverse), pixel, depth)
    # The next window has a world and a unit of its own.
    following = view(1 / inverse).transformed(g.similarity(torch.tensor(3.0), torch.eye(3), torch.ones(3)))
    place = place_of(one_query((6, 8)).hand_on(scene, 1, following), following)
    assert place is not None
    assert scene.tracks is not None
    torch.testing.assert_close(place, 3 * scene.tracks.points[0, 1, 0] + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "column"), [(1.0, 3), (2.0, 4), (1.04, 3)])
def test_tracks_are_not_mixed_across_a_depth_edge(depth: float, column: int) -> None:
    """Left of the middle of two pixels and on the right one's surface, or the other way round."""
    for x in (3.8, 4.2):
        scene = moved_to(view(STEP), (x, 2.5), depth)
        place = place_of(one_query((6, 8)).hand_on(scene, 1, view(STEP)), view(STEP))
        assert place is not None
        torch.testing.assert_close(place, view(STEP).points[0, 2, column])


def test_an_edge_that_only_the_next_window_sees_is_kept_too() -> None:
    scene = moved_to(view(FLAT), (3.8, 2.5), 2.0)
    place = place_of(one_query((6, 8)).hand_on(scene, 1, view(STEP)), view(STEP))
    assert place is not None
    torch.testing.assert_close(place, view(STEP).points[0, 2, 3])


def without(scene: Scene, name: str, pixels: slice | list[int]) -> Scene:
    """The scene with nothing known of some columns, in depth or in tracks."""
    if name == "depth":
        confidence = scene.depth_confidence.clone()
        confidence[:, :, pixels] = 0
        return replace(scene, depth_confidence=confidence)
    assert scene.tracks is not None
    confidence = scene.tracks.confidence.clone()
    confidence.unflatten(-1, (6, 8))[..., 1:, pixels] = 0
    confidence.unflatten(-1, (6, 8))[..., :1, 1:] = 0
    points = torch.where(confidence[..., None] > 0, scene.tracks.points, torch.nan)
    return replace(scene, tracks=replace(scene.tracks, points=points, confidence=confidence))


@pytest.mark.parametrize(
    ("scene", "following"),
    [
        (moved_to(view(FLAT), (4.3, 2.5), 2.0, visible=0.4), view(FLAT)),  # hidden
        (moved_to(view(FLAT), (4.3, 2.5), 1.8), view(FLAT)),  # in front of what is seen there
        (moved_to(view(FLAT), (4.3, 2.5), 2.2), view(FLAT)),  # behind it
        (moved_to(view(FLAT), (8.1, 2.5), 2.0), view(FLAT)),  # out of the picture, to every side
        (moved_to(view(FLAT), (-0.1, 2.5), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 6.1), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, -0.1), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 1e12), 2.0), view(FLAT)),
        (moved_to(view(FLAT), (4.3, 2.5), -2.0), view(FLAT)),  # behind the camera
        (without(moved_to(view(FLAT), (4.3, 2.5), 2.0), "depth", slice(None)), view(FLAT)),  # masked
        (moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), "depth", slice(None))),
        (moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), "tracks", slice(None))),
        (moved_to(view(FLAT, torch.eye(6, 8)), (4.3, 2.5), 2.0), view(FLAT)),  # it moves, and what is seen does not
    ],
)
def test_what_the_next_window_does_not_see_ends(scene: Scene, following: Scene) -> None:
    chains = one_query((6, 8)).hand_on(scene, 1, following)
    assert place_of(chains, following) is None
    # For good: the next one is not asked whether it sees something there.
    assert place_of(chains.hand_on(view(FLAT), 1, view(FLAT)), view(FLAT)) is None


@pytest.mark.parametrize("name", ["depth", "tracks"])
def test_what_is_unknown_is_not_mixed_in(name: str) -> None:
    scene, following = moved_to(view(FLAT), (4.3, 2.5), 2.0), without(view(FLAT), name, [4])
    place = place_of(one_query((6, 8)).hand_on(scene, 1, following), following)
    assert place is not None
    torch.testing.assert_close(place, view(FLAT).points[0, 2, 3])


def test_what_is_unknown_at_one_time_is_left_out_of_it() -> None:
    """Between two tracks: one of them, then both, are not known in the second frame, and may be anything there."""
    following = view(FLAT)
    chains = one_query((6, 8)).hand_on(moved_to(view(FLAT), (4.3, 2.5), 2.0), 1, following)
    assert following.tracks is not None
    for lost in ([4], [3, 4]):
        confidence, points = following.tracks.confidence.clone(), following.tracks.points.clone()
        confidence[0, 1].unflatten(-1, (6, 8))[:, lost] = 0
        points[0, 1].unflatten(0, (6, 8))[:, lost] = torch.nan
        for garbled in (confidence, torch.ones_like(confidence)):  # a confident NaN is no place either
            tracks = replace(following.tracks, confidence=garbled, points=points)
            now = chains.at(replace(following, tracks=tracks), 1, is_first=False)
            assert (now.confidence[0, 0, 0] > 0) == (len(lost) == 1)
            if len(lost) == 1:
                torch.testing.assert_close(now.points[0, 0, 0], following.points[0, 2, 3])


def test_where_nothing_is_said_of_motion_tracks_go_on() -> None:
    silent = view(FLAT, torch.full((6, 8), torch.nan))
    assert place_of(one_query((6, 8)).hand_on(moved_to(silent, (4.3, 2.5), 2.0), 1, silent), silent) is not None


@pytest.mark.parametrize(("pixel", "kept"), [((0.1, 0.2), (0, 0)), ((7.9, 5.8), (5, 7))])
def test_at_the_rim_the_last_pixel_goes_on(pixel: tuple[float, float], kept: tuple[int, int]) -> None:
    place = place_of(one_query((6, 8)).hand_on(moved_to(view(FLAT), pixel, 2.0), 1, view(FLAT)), view(FLAT))
    assert place is not None
    torch.testing.assert_close(place, view(FLAT).points[0][kept])


# Runs


@pytest.mark.parametrize(
    ("where", "step", "wait"),
    [(running, "save_frame", 3), (running, "save_frame", 12), (WorkFolder, "save_chains", 1)]
    + [(WorkFolder, "remove_answer", wait) for wait in (0, 2)],
)
def test_a_run_that_stopped_ends_bit_for_bit_the_same(
    small_world: World,
    whole: Path,
    tmp_path: Path,
    where: object,
    step: str,
    wait: int,
) -> None:
    with stopped_at(where, step, wait):
        run(TrackingOracle(small_world.scene), small_world, tmp_path / "stopped", tracks=1)
    # Word is left for one window, or two: a row for each query, and no tracks.
    left = list((tmp_path / "stopped" / "windows").glob("*.chains.npz"))
    assert len(left) <= 2
    queries = tracks_of(load_frames(whole, [0])).pixels.shape[1]
    assert all(file.stat().st_size < 80 * queries + 2000 for file in left)
    again = TrackingOracle(small_world.scene)
    run(again, small_world, tmp_path / "stopped", tracks=1)
    assert not again.asked
    assert files_of(tmp_path / "stopped") == files_of(whole)


def test_word_for_a_window_stays_as_long_as_its_answer(
    small_world: World, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped while it takes away a window, between one file and the next."""
    original = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "000001.npz":
            raise KeyboardInterrupt
        original(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run(TrackingOracle(small_world.scene), small_world, tmp_path, tracks=1)
    run(TrackingOracle(small_world.scene), small_world, tmp_path, tracks=1)
    assert files_of(tmp_path) == files_of(whole)


def test_nothing_is_followed_unless_it_is_asked_for(small_world: World, tmp_path: Path) -> None:
    def silent(scene: Scene, _: torch.Generator) -> Scene:
        return replace(scene, tracks=None)

    run(TrackingOracle(small_world.scene), small_world, tmp_path / "answered")
    run(Oracle(small_world.scene, silent), small_world, tmp_path / "not")
    assert files_of(tmp_path / "answered") == files_of(tmp_path / "not")
    file = tmp_path / "not" / "frames" / "000007.npz"
    assert load_scene(file).tracks is None
    assert "tracks" not in load_scene_info(file).settings
    with pytest.raises(FileExistsError, match=r"different in tracks \(None there, 2 now\)"):
        run(TrackingOracle(small_world.scene), small_world, tmp_path / "not", tracks=2)


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
    ("oracle", "spoil", "said"),
    [
        (Oracle, lambda scene, _: replace(scene, tracks=None), "the answer has no tracks"),
        (Oracle, None, r"the answer has tracks of its frames \[0, 1, 2"),
        (TrackingOracle, later_frame, r"the answer has tracks of its frames \[-1\]"),
        (TrackingOracle, fewer, "the answer has 504 tracks"),
    ],
)
def test_answers_that_cannot_be_followed_are_refused(
    small_world: World, tmp_path: Path, oracle: type[Oracle], spoil: Callable | None, said: str
) -> None:
    asked = oracle(small_world.scene, spoil)
    with pytest.raises(ValueError, match=rf"window 0 \(frames 0 to 7\): {said}.*all pixels of its first frame"):
        run(asked, small_world, tmp_path, tracks=1)
    assert len(asked.asked) == 1


def test_strides_that_leave_nothing_are_refused(small_world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every 56th pixel were asked for, of maps of 28 x 36"):
        run(TrackingOracle(small_world.scene), small_world, tmp_path, tracks=56)
    with pytest.raises(ValueError, match="tracks is -1; wanted 1"):
        WindowConfig(tracks=-1)
