"""Priors of long clips: given cameras, intrinsics and masks hold in every window and in the result."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    stopped_at,
)
from torch import Tensor

from recon4d import geometry as g
from recon4d.errors import UserError
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
    frame_writing,
    pipeline,
    reconstruct_anchored,
    reconstruct_windows,
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
def sample() -> LongSample:
    return make_long_sample()


def with_cameras(sample: LongSample) -> LongClip:
    """Return the clip with its true cameras as priors, in a world of their own."""
    own = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    known = replace(Priors.unknown(sample.clip.num_frames), world_from_cam=own @ sample.scene.cameras.world_from_cam)
    return replace(sample.long_clip, priors=known)


# Images


def test_the_image_of_every_frame_is_written(sample: LongSample, tmp_path: Path) -> None:
    info = replace(
        INFO, source=ClipSource("walk.mp4", tuple(f"walk_{i:06d}" for i in range(FRAMES)), tuple(range(FRAMES)))
    )
    reconstruct_windows(Oracle(sample.scene), sample.long_clip, tmp_path, info, WindowConfig(8, 3))
    results = read_results(tmp_path)
    assert results.names[13] == "walk_000013"
    assert results.frame_files[13] == tmp_path / "frames" / "000013.jpg"
    pictures, images = results.images_at_map_size().float(), sample.clip.images.float()
    off = (pictures[:, None] - images).abs().mean(dim=(2, 3, 4))
    assert off.argmin(dim=1).tolist() == list(range(FRAMES))  # each image is most similar to its own frame


# Cameras


def wrong_cameras(scene: Scene, generator: torch.Generator) -> Scene:
    """Rotate each camera by a degree or two, and transform the window to a random world."""
    axis_angles = 0.02 * torch.randn(scene.num_frames, 3, generator=generator)
    poses = scene.cameras.world_from_cam.clone()
    poses[:, :3, :3] = g.rotation_from_axis_angle(axis_angles) @ poses[:, :3, :3]
    axis_angle, shift = torch.randn(2, 3, generator=generator)
    elsewhere = g.rigid(g.rotation_from_axis_angle(axis_angle), shift)
    return scene.with_cameras(replace(scene.cameras, world_from_cam=poses)).transformed(elsewhere)


@pytest.mark.parametrize("how", ["windows", "one window", "anchored"])
def test_windows_are_placed_by_given_cameras(sample: LongSample, tmp_path: Path, how: str) -> None:
    """The result has the given cameras and unit, whatever the cameras and units of the windows are."""
    oracle = Oracle(sample.scene, wrong_cameras)
    if how == "anchored":
        reconstruct_anchored(oracle, with_cameras(sample), tmp_path, INFO, AnchorConfig(3))
    else:
        size = FRAMES if how == "one window" else 8
        reconstruct_windows(oracle, with_cameras(sample), tmp_path, INFO, WindowConfig(size, 3))
    found = load_frames(tmp_path, range(FRAMES))
    wanted = sample.scene.in_frame(0)
    assert_same_scene(found, wanted)
    assert torch.equal(found.cameras.world_from_cam[0], torch.eye(4))
    torch.testing.assert_close(found.metres_per_unit, wanted.metres_per_unit, rtol=1e-4, atol=0)
    if how == "anchored":
        assert found.tracks is not None
        assert wanted.tracks is not None
        torch.testing.assert_close(found.tracks.points, wanted.tracks.points, rtol=1e-3, atol=1e-3)


def test_windows_with_applied_priors_are_only_transformed(sample: LongSample, tmp_path: Path) -> None:
    oracle = Oracle(sample.scene, wrong_cameras)
    priors = []

    def reconstruct_clip(clip: Clip) -> Scene:
        priors.append(clip.priors)
        return apply_priors(oracle(clip).in_frame(0), clip.priors)

    reconstruct_windows(reconstruct_clip, with_cameras(sample), tmp_path, INFO, WindowConfig(8, 3))
    assert all(known is not None and known.world_from_cam.isfinite().all() for known in priors)
    assert_same_scene(load_frames(tmp_path, range(FRAMES)), sample.scene.in_frame(0))


def test_windows_with_static_cameras_take_their_scale_from_others(sample: LongSample, tmp_path: Path) -> None:
    order = [0] * 11 + list(range(1, 10)) + [9] * 10
    standing = LongSample(sample.clip.frames(order), sample.scene.frames(order))
    standing = replace(standing, clip=replace(standing.clip, times=torch.arange(len(order)) / 10))
    oracle = Oracle(standing.scene)
    reconstruct_windows(oracle, with_cameras(standing), tmp_path, INFO, WindowConfig(6, 2))
    assert oracle.calls[0] == tuple(range(6))  # the camera is static in this window
    assert_same_scene(load_frames(tmp_path, range(len(order))), standing.scene.in_frame(0), tolerance=1e-3)


def test_static_cameras_leave_the_unit_of_the_first_window(sample: LongSample, tmp_path: Path) -> None:
    still = LongSample(sample.clip.frames([4] * 12), sample.scene.frames([4] * 12))
    still = replace(still, clip=replace(still.clip, times=torch.arange(12) / 10))
    oracle = Oracle(still.scene)
    with pytest.warns(UserWarning, match="hardly move in any window"):
        reconstruct_windows(oracle, with_cameras(still), tmp_path, INFO, WindowConfig(6, 2))
    assert_same_scene(load_frames(tmp_path, range(12)), expected(still.scene, oracle.calls[0]))


def test_given_cameras_bound_the_drift_of_scale() -> None:
    """Every alignment is off by 2 % in the same direction; cameras that move by a third of depth bound the error."""

    def farthest(count: int) -> float:
        edges = [(k, k + 1, 0.02) for k in range(count - 1)]
        weights = torch.full((count,), 0.1).double()
        return float(optimize_scales(edges, torch.zeros(count).double(), weights).abs().max())

    assert farthest(200) == pytest.approx(farthest(50), rel=1e-3)
    assert farthest(200) < 0.06 < 0.02 * 199
    # Only one window has a prior; all others follow from the differences.
    log_scales, weights = torch.tensor([9.0, 1.0, 9.0]).double(), torch.tensor([0.0, 0.3, 0.0]).double()
    found = optimize_scales([(0, 1, 0.5), (1, 2, -2.0)], log_scales, weights)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, -1.0]).double())


@pytest.mark.parametrize("unknown", [[5], [*range(7)], [*range(3, 10)], [*range(1, 11)]])
def test_cameras_of_some_frames_place_all_windows(sample: LongSample, tmp_path: Path, unknown: list[int]) -> None:
    """Windows follow the cameras that are given; frames without one keep their place in their window."""
    count = 11
    sample = LongSample(sample.clip.frames(range(count)), sample.scene.frames(range(count)))
    clip = with_cameras(sample)
    assert clip.priors is not None
    poses = clip.priors.world_from_cam.clone()
    poses[unknown] = torch.nan
    some = replace(clip, priors=replace(clip.priors, world_from_cam=poses))
    first = next(frame for frame in range(count) if frame not in unknown)
    wanted = sample.scene.in_frame(first).cameras.centers
    for anchored in (False, True):
        out = tmp_path / str(anchored)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a single camera determines no scale
            if anchored:
                reconstruct_anchored(Oracle(sample.scene), some, out, INFO)
            else:
                reconstruct_windows(Oracle(sample.scene), some, out, INFO, WindowConfig(8, 2))
        found = load_frames(out, range(count))
        centers = found.cameras.centers
        if len(unknown) == count - 1:  # only one is given: the unit is free
            centers = centers * (wanted.norm() / centers.norm())
        torch.testing.assert_close(centers, wanted, atol=0.02 * float(sample.scene.depths.median()), rtol=0)
        assert found.cameras.world_from_cam.isfinite().all()
        exact = sample.scene.in_frame(first).cameras.world_from_cam
        known = [frame for frame in range(count) if frame not in unknown]
        torch.testing.assert_close(found.cameras.world_from_cam[known], exact[known], atol=1e-5, rtol=0)


def test_given_cameras_and_loops_are_errors(sample: LongSample, tmp_path: Path) -> None:
    clip = with_cameras(sample)
    with pytest.raises(UserError, match="only one of the two"):
        reconstruct_windows(Oracle(sample.scene), clip, tmp_path, INFO, WindowConfig(8, 3, loops=LoopConfig()))


# Masks


def test_ignored_pixels_are_not_used_and_have_no_confidence(sample: LongSample, tmp_path: Path) -> None:
    """Two thirds of every image are wrong, consistently and with high confidence, and masked."""
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

    clip = replace(sample.long_clip, ignore=ignore)
    oracle = Oracle(sample.scene, overlaid)
    reconstruct_windows(oracle, clip, tmp_path, INFO, WindowConfig(8, 3))
    found, wanted = load_frames(tmp_path, range(FRAMES)), expected(sample.scene, oracle.calls[0])
    assert_same_cameras(found, wanted, 1e-3 * float(wanted.depths.median()))
    assert not found.depth_confidence[:, mask].any()
    assert not found.point_confidence[:, mask].any()
    assert torch.equal(found.depth_confidence[:, ~mask], wanted.depth_confidence[:, ~mask])
    assert read == list(range(FRAMES))  # each mask is read once and in order


# Depth


def test_every_window_gets_the_depth_of_its_frames(sample: LongSample, tmp_path: Path) -> None:
    read: list[int] = []

    def depths(positions: Sequence[int]) -> Iterator[Tensor]:
        for position in positions:
            read.append(position)
            yield torch.full((HEIGHT, WIDTH), float(position))

    given: list[list[float]] = []

    def reconstruct(clip: Clip) -> Scene:
        assert clip.priors is not None
        assert clip.priors.depths is not None
        given.append(clip.priors.depths[:, 0, 0].tolist())
        return Oracle(sample.scene)(clip)

    clip = replace(sample.long_clip, depths=depths)
    reconstruct_windows(reconstruct, clip, tmp_path, INFO, WindowConfig(8, 3))
    assert given[0] == list(map(float, range(8)))
    assert sorted({frame for window in given for frame in window}) == list(map(float, range(FRAMES)))
    assert read == list(range(FRAMES))  # each map is read once and in order


# Intrinsics


def with_focal_factor(scene: Scene, factor: float) -> Scene:
    """Return the scene as predicted with a focal length that is wrong by `factor`."""
    lens = scene.cameras.intrinsics.clone()
    lens[:, 0, 0] *= factor
    lens[:, 1, 1] *= factor
    return scene.with_cameras(replace(scene.cameras, intrinsics=lens))


def random_focal(scene: Scene, generator: torch.Generator) -> Scene:
    """Give each window a focal length of its own that is wrong by about 5 %."""
    return with_focal_factor(scene, math.exp(0.05 * float(torch.randn((), generator=generator))))


def test_shared_intrinsics_are_more_accurate(sample: LongSample, tmp_path: Path) -> None:
    guesses = (1.08, 0.94, 1.01, 0.97, 1.04, 0.995)
    focals, errors = {}, {}
    true = sample.scene.cameras.intrinsics[0, 0, 0]
    for lens in ("one", "each"):
        guess = iter(guesses)
        oracle = Oracle(sample.scene, lambda scene, _, guess=guess: with_focal_factor(scene, next(guess)))
        index = reconstruct_windows(oracle, sample.long_clip, tmp_path / lens, INFO, WindowConfig(6, 3, lens=lens))
        found = load_frames(tmp_path / lens, range(FRAMES))
        focals[lens] = found.cameras.intrinsics[:, 0, 0]
        errors[lens] = float(index.errors.median())
    off = {lens: (focal / true).log().square().mean().sqrt() for lens, focal in focals.items()}
    assert len(focals["one"].unique()) == 1
    assert off["one"] < 0.25 * off["each"]
    assert errors["one"] < 1e-4 < errors["each"]  # windows with the same intrinsics fit each other


def test_shared_intrinsics_improve_the_path_of_a_noisy_model(sample: LongSample, tmp_path: Path) -> None:
    """Focal lengths vary by 5 % between windows, and depth has 2 % of noise."""
    off = {}
    for lens in ("one", "each"):
        chance = torch.Generator().manual_seed(0)

        def noisy(scene: Scene, _: torch.Generator, chance: torch.Generator = chance) -> Scene:
            wrong = random_focal(scene, chance)
            return replace(wrong, depths=wrong.depths * (1 + 0.02 * torch.randn(wrong.depths.shape, generator=chance)))

        oracle = Oracle(sample.scene, noisy)
        reconstruct_windows(oracle, sample.long_clip, tmp_path / lens, INFO, WindowConfig(6, 3, lens=lens))
        wanted = expected(sample.scene, oracle.calls[0])
        centers = load_frames(tmp_path / lens, range(FRAMES)).cameras.centers
        length = wanted.depths[wanted.depth_confidence > 0].median()
        off[lens] = float((centers - wanted.cameras.centers).norm(dim=-1).mean() / length)
    assert off["one"] < 0.01
    assert off["one"] < 0.3 * off["each"]


@pytest.mark.parametrize(
    ("times", "lens", "one"),
    [(0.1, "auto", True), (math.nan, "auto", False), (0.1, "each", False), (math.nan, "one", True)],
)
def test_videos_share_intrinsics_and_photos_do_not_by_default(
    sample: LongSample, tmp_path: Path, times: float, lens: str, one: bool
) -> None:
    clip = replace(sample.long_clip, times=tuple(times * i for i in range(FRAMES)))
    config = WindowConfig(12, 3, lens=lens)  # pyright: ignore[reportArgumentType]
    reconstruct_windows(Oracle(sample.scene, random_focal), clip, tmp_path, replace(INFO, source=clip.source), config)
    focals = load_frames(tmp_path, range(FRAMES)).cameras.intrinsics[:, 0, 0]
    assert (len(focals.unique()) == 1) == one
    assert load_scene_info(tmp_path / "frames" / "000000.npz").settings["one_lens"] is one


def test_a_zoom_gives_a_warning_and_given_intrinsics_are_kept(sample: LongSample, tmp_path: Path) -> None:
    def zoom(scene: Scene, generator: torch.Generator) -> Scene:
        return with_focal_factor(scene, 1 + 0.5 * float(torch.rand((), generator=generator)))

    with pytest.warns(UserWarning, match="focal lengths of windows range from"):
        reconstruct_windows(Oracle(sample.scene, zoom), sample.long_clip, tmp_path / "zoom", INFO, WindowConfig(6, 3))
    known = replace(Priors.unknown(FRAMES), intrinsics=torch.linspace(1, 2, FRAMES)[:, None, None] * torch.eye(3))
    known.intrinsics[:, 2, 2] = 1
    clip = replace(sample.long_clip, priors=known)
    oracle = Oracle(sample.scene)

    def reconstruct_clip(one: Clip) -> Scene:
        return apply_priors(oracle(one), one.priors)

    reconstruct_windows(reconstruct_clip, clip, tmp_path / "known", INFO, WindowConfig(FRAMES, 3))
    assert torch.equal(load_frames(tmp_path / "known", range(FRAMES)).cameras.intrinsics, known.intrinsics)


# Interrupted runs


def test_a_resumed_run_gives_identical_files(sample: LongSample, tmp_path: Path) -> None:
    def reconstruct(folder: Path) -> None:
        reconstruct_windows(Oracle(sample.scene, random_focal), with_cameras(sample), folder, INFO, WindowConfig(8, 3))

    reconstruct(tmp_path / "whole")
    for where, step, wait in ((pipeline, "save_image", 9), (pipeline, "_align", 2), (frame_writing, "save_frame", 7)):
        with stopped_at(where, step, wait):
            reconstruct(tmp_path / step)
        reconstruct(tmp_path / step)
        assert files_of(tmp_path / step) == files_of(tmp_path / "whole")


# Files


def test_a_long_clip_gets_the_same_priors_as_a_short_one(tmp_path: Path) -> None:
    """Undistorted images, masks, intrinsics and cameras are equal, whether read frame by frame or at once."""
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
    (tmp_path / "depth").mkdir()
    for number in (0, 2, 3):
        steps = torch.randint(0, 5000, (24, 36), generator=generator).numpy().astype(np.uint16)
        write_raster(tmp_path / "depth" / f"p{number}.png", steps)
    files = PriorFiles("60,60,36,24", tmp_path / "path.txt", tmp_path / "depth", tmp_path / "masks", "-0.2,0.03,0,0")
    short = with_prior_files(read_clip(tmp_path / "clip", None, fps=2), files)
    long = long_clip_with_prior_files(open_long_clip(tmp_path / "clip", fps=2), files)
    assert torch.equal(torch.stack(list(long.images([0, 2, 3]))), short.images[[0, 2, 3]])
    assert short.priors is not None
    assert long.priors is not None
    assert long.ignore is not None
    assert short.priors.ignore is not None
    assert torch.equal(torch.stack(list(long.ignore([1, 3]))), short.priors.ignore[[1, 3]])
    assert [bool(mask[14, 36]) for mask in long.ignore(range(4))] == [False, False, True, True]  # the masks grow
    for name in ("intrinsics", "world_from_cam"):
        assert torch.equal(getattr(long.priors, name), getattr(short.priors, name))
    assert long.depths is not None
    assert short.priors.depths is not None
    assert torch.equal(
        torch.stack(list(long.depths([0, 1, 3]))).nan_to_num(), short.priors.depths[[0, 1, 3]].nan_to_num()
    )
    assert short.priors.depths[3].isfinite().any()
    assert short.priors.depths[1].isnan().all()
    bare = open_long_clip(tmp_path / "clip", fps=2)
    assert long_clip_with_prior_files(bare, PriorFiles()) is bare
    np.savez(tmp_path / "depth.npz", depths=np.ones((4, 48, 72)))
    with pytest.raises(UserError, match="wanted a folder of maps, which are read frame by frame"):
        long_clip_with_prior_files(bare, PriorFiles(depth=tmp_path / "depth.npz"))
    with pytest.raises(UserError, match="needs the intrinsics of every frame, and 0 of 4"):
        long_clip_with_prior_files(bare, PriorFiles(distortion="0.1,0,0,0"))
