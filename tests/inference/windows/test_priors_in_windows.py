"""Long clips of which something is known: cameras, lenses and masks hold in every window and in the whole."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from long_worlds import (
    FRAMES,
    HEIGHT,
    INFO,
    WIDTH,
    Oracle,
    World,
    assert_same_cameras,
    assert_same_scene,
    expected,
    files_of,
    make_world,
    stopped_at,
)
from torch import Tensor

from recon4d import geometry as g
from recon4d.inference import (
    PriorFiles,
    apply_priors,
    long_clip_with_prior_files,
    with_prior_files,
)
from recon4d.inference.windows import (
    AnchorConfig,
    LoopConfig,
    WindowConfig,
    reconstruct_anchored,
    reconstruct_windows,
)
from recon4d.inference.windows import (
    pipeline as running,
)
from recon4d.inference.windows.pose_graph import optimize_scales
from recon4d.io import load_scene_info, read_clip, read_results, write_jpeg, write_raster
from recon4d.io.long_archive import load_frames
from recon4d.io.long_clips import LongClip, open_long_clip
from recon4d.records import (
    Clip,
    ClipSource,
    Priors,
    Scene,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def with_cameras(world: World) -> LongClip:
    """The clip with its true cameras, told in a world of their own."""
    own = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    known = replace(Priors.nothing(world.clip.num_frames), world_from_cam=own @ world.scene.cameras.world_from_cam)
    return replace(world.long_clip, priors=known)


# Pictures


def test_the_picture_of_every_frame_stands_beside_it(world: World, tmp_path: Path) -> None:
    info = replace(
        INFO, source=ClipSource("walk.mp4", tuple(f"walk_{i:06d}" for i in range(FRAMES)), tuple(range(FRAMES)))
    )
    reconstruct_windows(Oracle(world.scene), world.long_clip, tmp_path, info, WindowConfig(8, 3))
    results = read_results(tmp_path)
    assert results.names[13] == "walk_000013"
    assert results.frame_files[13] == tmp_path / "frames" / "000013.jpg"
    pictures, images = results.images_of_maps().float(), world.clip.images.float()
    off = (pictures[:, None] - images).abs().mean(dim=(2, 3, 4))
    assert off.argmin(dim=1).tolist() == list(range(FRAMES))  # each is nearer to its own frame than to any other


# Cameras


def wrong_cameras(scene: Scene, generator: torch.Generator) -> Scene:
    """Each camera turned by a degree or two, and set somewhere near its place; the window in a world of its own."""
    turns = 0.02 * torch.randn(scene.num_frames, 3, generator=generator)
    poses = scene.cameras.world_from_cam.clone()
    poses[:, :3, :3] = g.rotation_from_axis_angle(turns) @ poses[:, :3, :3]
    axis_angle, shift = torch.randn(2, 3, generator=generator)
    elsewhere = g.rigid(g.rotation_from_axis_angle(axis_angle), shift)
    return scene.with_cameras(replace(scene.cameras, world_from_cam=poses)).transformed(elsewhere)


@pytest.mark.parametrize("how", ["windows", "one window", "anchored"])
def test_windows_stand_where_their_cameras_are_given(world: World, tmp_path: Path, how: str) -> None:
    """In the given unit, from the first camera on; whatever the answers say of cameras, and of their own units."""
    oracle = Oracle(world.scene, wrong_cameras)
    if how == "anchored":
        reconstruct_anchored(oracle, with_cameras(world), tmp_path, INFO, AnchorConfig(3))
    else:
        size = FRAMES if how == "one window" else 8
        reconstruct_windows(oracle, with_cameras(world), tmp_path, INFO, WindowConfig(size, 3))
    found = load_frames(tmp_path, range(FRAMES))
    wanted = world.scene.in_frame(0)
    assert_same_scene(found, wanted)
    assert torch.equal(found.cameras.world_from_cam[0], torch.eye(4))
    torch.testing.assert_close(found.metres_per_unit, wanted.metres_per_unit, rtol=1e-4, atol=0)
    if how == "anchored":
        assert found.tracks is not None
        assert wanted.tracks is not None
        torch.testing.assert_close(found.tracks.points, wanted.tracks.points, rtol=1e-3, atol=1e-3)


def test_an_answer_that_honors_its_cameras_is_only_put_in_its_place(world: World, tmp_path: Path) -> None:
    oracle = Oracle(world.scene, wrong_cameras)
    told = []

    def reconstruct_clip(clip: Clip) -> Scene:
        told.append(clip.priors)
        return apply_priors(oracle(clip).in_frame(0), clip.priors)

    reconstruct_windows(reconstruct_clip, with_cameras(world), tmp_path, INFO, WindowConfig(8, 3))
    assert all(known is not None and known.world_from_cam.isfinite().all() for known in told)
    assert_same_scene(load_frames(tmp_path, range(FRAMES)), world.scene.in_frame(0))


def test_windows_whose_cameras_stand_still_take_the_scale_of_others(world: World, tmp_path: Path) -> None:
    order = [0] * 11 + list(range(1, 10)) + [9] * 10
    standing = World(world.clip.frames(order), world.scene.frames(order))
    standing = replace(standing, clip=replace(standing.clip, times=torch.arange(len(order)) / 10))
    oracle = Oracle(standing.scene)
    reconstruct_windows(oracle, with_cameras(standing), tmp_path, INFO, WindowConfig(6, 2))
    assert oracle.asked[0] == tuple(range(6))  # of which none moves
    assert_same_scene(load_frames(tmp_path, range(len(order))), standing.scene.in_frame(0), tolerance=1e-3)


def test_cameras_that_never_move_leave_the_unit_of_the_first_window(world: World, tmp_path: Path) -> None:
    still = World(world.clip.frames([4] * 12), world.scene.frames([4] * 12))
    still = replace(still, clip=replace(still.clip, times=torch.arange(12) / 10))
    oracle = Oracle(still.scene)
    with pytest.warns(UserWarning, match="hardly move in any window"):
        reconstruct_windows(oracle, with_cameras(still), tmp_path, INFO, WindowConfig(6, 2))
    assert_same_scene(load_frames(tmp_path, range(12)), expected(still.scene, oracle.asked[0]))


def test_drift_of_scale_does_not_grow_where_cameras_are_given() -> None:
    """Every joint is 2 % off to the same side; cameras that move by a third of the depth hold all windows together."""

    def farthest(count: int) -> float:
        edges = [(k, k + 1, 0.02) for k in range(count - 1)]
        weights = torch.full((count,), 0.1).double()
        return float(optimize_scales(edges, torch.zeros(count).double(), weights).abs().max())

    assert farthest(200) == pytest.approx(farthest(50), rel=1e-3)
    assert farthest(200) < 0.06 < 0.02 * 199
    # Only the differences are told but for one window: every other one follows from it.
    told, weights = torch.tensor([9.0, 1.0, 9.0]).double(), torch.tensor([0.0, 0.3, 0.0]).double()
    found = optimize_scales([(0, 1, 0.5), (1, 2, -2.0)], told, weights)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, -1.0]).double())


def test_cameras_of_some_frames_and_loops_are_refused(world: World, tmp_path: Path) -> None:
    clip = with_cameras(world)
    assert clip.priors is not None
    poses = clip.priors.world_from_cam.clone()
    poses[5] = torch.nan
    some = replace(clip, priors=replace(clip.priors, world_from_cam=poses))
    for anchored in (False, True):
        with pytest.raises(ValueError, match=f"known for {FRAMES - 1} of {FRAMES} frames"):
            (reconstruct_anchored if anchored else reconstruct_windows)(Oracle(world.scene), some, tmp_path, INFO)
    with pytest.raises(ValueError, match="ask for one of the two"):
        reconstruct_windows(Oracle(world.scene), clip, tmp_path, INFO, WindowConfig(8, 3, loops=LoopConfig()))


# Masks


def test_what_is_to_be_ignored_joins_nothing_and_is_unknown(world: World, tmp_path: Path) -> None:
    """Two thirds of every picture are wrong, the same for all of it and very sure of itself; a mask says so."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, WIDTH // 3 :] = True

    def overlaid(scene: Scene, generator: torch.Generator) -> Scene:
        depths = torch.where(mask, 2 + torch.rand((), generator=generator), scene.depths)
        return replace(scene, depths=depths, depth_confidence=torch.where(mask, 100.0, scene.depth_confidence))

    read: list[int] = []

    def ignore(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            read.append(position)
            yield mask

    clip = replace(world.long_clip, ignore=ignore)
    oracle = Oracle(world.scene, overlaid)
    reconstruct_windows(oracle, clip, tmp_path, INFO, WindowConfig(8, 3))
    found, wanted = load_frames(tmp_path, range(FRAMES)), expected(world.scene, oracle.asked[0])
    assert_same_cameras(found, wanted, 1e-3 * float(wanted.depths.median()))
    assert not found.depth_confidence[:, mask].any()
    assert not found.point_confidence[:, mask].any()
    assert torch.equal(found.depth_confidence[:, ~mask], wanted.depth_confidence[:, ~mask])
    assert read == list(range(FRAMES))  # each once, in the order in which frames are read


# Lenses


def through_lens(scene: Scene, factor: float) -> Scene:
    """The scene as a model sees it that takes the focal length for `factor` times what it is."""
    lens = scene.cameras.intrinsics.clone()
    lens[:, 0, 0] *= factor
    lens[:, 1, 1] *= factor
    return scene.with_cameras(replace(scene.cameras, intrinsics=lens))


def own_lens(scene: Scene, generator: torch.Generator) -> Scene:
    """Each window guesses a focal length of its own, some percent off."""
    return through_lens(scene, math.exp(0.05 * float(torch.randn((), generator=generator))))


def test_one_lens_for_all_windows_is_nearer_to_the_truth(world: World, tmp_path: Path) -> None:
    guesses = (1.08, 0.94, 1.01, 0.97, 1.04, 0.995)
    focals, errors = {}, {}
    true = world.scene.cameras.intrinsics[0, 0, 0]
    for lens in ("one", "each"):
        guess = iter(guesses)
        oracle = Oracle(world.scene, lambda scene, _, guess=guess: through_lens(scene, next(guess)))
        index = reconstruct_windows(oracle, world.long_clip, tmp_path / lens, INFO, WindowConfig(6, 3, lens=lens))
        found = load_frames(tmp_path / lens, range(FRAMES))
        focals[lens] = found.cameras.intrinsics[:, 0, 0]
        errors[lens] = float(index.errors.median())
    off = {lens: (focal / true).log().square().mean().sqrt() for lens, focal in focals.items()}
    assert len(focals["one"].unique()) == 1
    assert off["one"] < 0.25 * off["each"]
    assert errors["one"] < 1e-4 < errors["each"]  # windows that see through one lens fit each other


def test_one_lens_keeps_the_path_of_a_noisy_model_true(world: World, tmp_path: Path) -> None:
    """Focal lengths 5 % off from window to window, and 2 % of noise in depth."""
    off = {}
    for lens in ("one", "each"):
        chance = torch.Generator().manual_seed(0)

        def noisy(scene: Scene, _: torch.Generator, chance: torch.Generator = chance) -> Scene:
            seen = own_lens(scene, chance)
            return replace(seen, depths=seen.depths * (1 + 0.02 * torch.randn(seen.depths.shape, generator=chance)))

        oracle = Oracle(world.scene, noisy)
        reconstruct_windows(oracle, world.long_clip, tmp_path / lens, INFO, WindowConfig(6, 3, lens=lens))
        wanted = expected(world.scene, oracle.asked[0])
        centers = load_frames(tmp_path / lens, range(FRAMES)).cameras.centers
        length = wanted.depths[wanted.depth_confidence > 0].median()
        off[lens] = float((centers - wanted.cameras.centers).norm(dim=-1).mean() / length)
    assert off["one"] < 0.01
    assert off["one"] < 0.3 * off["each"]


@pytest.mark.parametrize(
    ("times", "lens", "one"),
    [(0.1, "auto", True), (math.nan, "auto", False), (0.1, "each", False), (math.nan, "one", True)],
)
def test_a_video_has_one_lens_and_loose_photos_each_their_own(
    world: World, tmp_path: Path, times: float, lens: str, one: bool
) -> None:
    clip = replace(world.long_clip, times=tuple(times * i for i in range(FRAMES)))
    config = WindowConfig(12, 3, lens=lens)  # pyright: ignore[reportArgumentType]
    reconstruct_windows(Oracle(world.scene, own_lens), clip, tmp_path, replace(INFO, source=clip.source), config)
    focals = load_frames(tmp_path, range(FRAMES)).cameras.intrinsics[:, 0, 0]
    assert (len(focals.unique()) == 1) == one
    assert load_scene_info(tmp_path / "frames" / "000000.npz").settings["one_lens"] is one


def test_a_zoom_is_warned_of_and_a_known_lens_is_left_alone(world: World, tmp_path: Path) -> None:
    def zoom(scene: Scene, generator: torch.Generator) -> Scene:
        return through_lens(scene, 1 + 0.5 * float(torch.rand((), generator=generator)))

    with pytest.warns(UserWarning, match="focal lengths of windows lie between"):
        reconstruct_windows(Oracle(world.scene, zoom), world.long_clip, tmp_path / "zoom", INFO, WindowConfig(6, 3))
    known = replace(Priors.nothing(FRAMES), intrinsics=torch.linspace(1, 2, FRAMES)[:, None, None] * torch.eye(3))
    known.intrinsics[:, 2, 2] = 1
    clip = replace(world.long_clip, priors=known)
    honored = Oracle(world.scene)

    def reconstruct_clip(one: Clip) -> Scene:
        return apply_priors(honored(one), one.priors)

    reconstruct_windows(reconstruct_clip, clip, tmp_path / "known", INFO, WindowConfig(FRAMES, 3))
    assert torch.equal(load_frames(tmp_path / "known", range(FRAMES)).cameras.intrinsics, known.intrinsics)


# Runs that stop


@pytest.mark.parametrize(("step", "wait"), [("save_picture", 9), ("_joint", 2), ("save_frame", 7)])
def test_a_run_that_stopped_ends_bit_for_bit_the_same(world: World, tmp_path: Path, step: str, wait: int) -> None:
    def go(folder: Path) -> None:
        reconstruct_windows(Oracle(world.scene, own_lens), with_cameras(world), folder, INFO, WindowConfig(8, 3))

    go(tmp_path / "whole")
    with stopped_at(running, step, wait):
        go(tmp_path / "stopped")
    go(tmp_path / "stopped")
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


# Files


def test_a_long_clip_knows_what_a_short_one_does(tmp_path: Path) -> None:
    """Pictures, masks and lenses of a folder, undistorted: the same frame by frame as in one piece."""
    generator = torch.Generator().manual_seed(0)
    for name in ("clip", "masks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        image = torch.randint(0, 256, (3, 6, 9), generator=generator, dtype=torch.uint8).repeat_interleave(8, 1)
        write_jpeg(tmp_path / "clip" / f"p{number}.jpg", image.repeat_interleave(8, 2))
        mask = np.zeros((48, 72), dtype=np.uint8)
        mask[: 8 + 4 * number] = 255
        write_raster(tmp_path / "masks" / f"p{number}.png", mask)
    poses = "\n".join(f"{i / 2} {i} 0 0 0 0 0 1" for i in range(4))
    (tmp_path / "path.txt").write_text(poses)
    files = PriorFiles("60,60,36,24", tmp_path / "path.txt", None, tmp_path / "masks", "-0.2,0.03,0,0")
    short = with_prior_files(read_clip(tmp_path / "clip", None, fps=2), files)
    long = long_clip_with_prior_files(open_long_clip(tmp_path / "clip", fps=2), files)
    assert torch.equal(torch.stack(list(long.images([0, 2, 3]))), short.images[[0, 2, 3]])
    assert short.priors is not None
    assert long.priors is not None
    assert long.ignore is not None
    assert short.priors.ignore is not None
    assert torch.equal(torch.stack(list(long.ignore([1, 3]))), short.priors.ignore[[1, 3]])
    assert [bool(mask[14, 36]) for mask in long.ignore(range(4))] == [False, False, True, True]  # as the masks grow
    for name in ("intrinsics", "world_from_cam"):
        assert torch.equal(getattr(long.priors, name), getattr(short.priors, name))
    bare = open_long_clip(tmp_path / "clip", fps=2)
    assert long_clip_with_prior_files(bare, PriorFiles()) is bare
    with pytest.raises(ValueError, match="known depth belongs to a clip that is taken in one pass"):
        long_clip_with_prior_files(bare, PriorFiles(depth=tmp_path / "depth.npz"))
    with pytest.raises(ValueError, match="give its --intrinsics too"):
        long_clip_with_prior_files(bare, PriorFiles(distortion="0.1,0,0,0"))
