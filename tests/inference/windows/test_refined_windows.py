"""Refined windows are joined by their cameras, share a calibrated lens, and tell what was refined."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from long_scenes import (
    FRAMES,
    INFO,
    LongSample,
    Oracle,
    assert_same_cameras,
    expected,
    files_of,
    make_long_sample,
    stopped_at,
)

from recon4d import geometry as g
from recon4d.inference.windows import WindowConfig, pipeline, reconstruct_windows, refine_windows
from recon4d.inference.windows.layout import overlapping_windows, with_best_borders
from recon4d.inference.windows.refined_alignment import fit_cameras, refined_pixels
from recon4d.io import load_scene_info
from recon4d.io.exporters.frame_source import open_frames
from recon4d.io.long_archive import load_frames
from recon4d.records import Clip, Scene
from recon4d.refine import Refinement

CONFIG = WindowConfig(8, 3)


@pytest.fixture(scope="module")
def sample() -> LongSample:
    sample = make_long_sample()
    return LongSample(sample.clip, replace(sample.scene, tracks=None))


def bent_depth(scene: Scene, generator: torch.Generator) -> Scene:
    """Add a smooth error of some percent to the depth of each frame, as networks make."""
    ramp = torch.linspace(-1, 1, scene.size[1]) * torch.randn(scene.num_frames, 1, 1, generator=generator)
    return replace(scene, depths=scene.depths * (0.05 * ramp).exp())


@dataclass
class Refiner:
    """Refines windows to the exact cameras, except those that `change` spoils."""

    oracle: Oracle
    change: Callable[[Refinement, tuple[int, ...]], Refinement] | None = None
    given: list[torch.Tensor] = field(default_factory=list)
    """Intrinsics in the priors of each call; NaN if there are none."""

    def __call__(self, clip: Clip) -> Refinement:
        assert clip.source is not None
        self.given.append(torch.full((3, 3), torch.nan) if clip.priors is None else clip.priors.intrinsics[0])
        refinement = Refinement(self.oracle(clip), True, 1.0, 0.1, 100, clip, parallax=3.0)
        return refinement if self.change is None else self.change(refinement, clip.source.numbers)


def test_errors_of_depth_do_not_turn_refined_windows(sample: LongSample, tmp_path: Path) -> None:
    """The same windows joined by points are turned by half a degree."""
    exact = refine_windows(Refiner(Oracle(sample.scene, bent_depth)), sample.long_clip, tmp_path / "a", INFO, CONFIG)
    found = load_frames(tmp_path / "a", range(FRAMES))
    wanted = expected(sample.scene, range(8))
    angles = g.rotation_angle(found.cameras.cam_from_world[:, :3, :3] @ wanted.cameras.world_from_cam[:, :3, :3])
    assert angles.rad2deg().max() < 0.05
    assert len(exact.refinements) == 4
    reconstruct_windows(Oracle(sample.scene, bent_depth), sample.long_clip, tmp_path / "b", INFO, CONFIG)
    other = load_frames(tmp_path / "b", range(FRAMES))
    turned = g.rotation_angle(other.cameras.cam_from_world[:, :3, :3] @ wanted.cameras.world_from_cam[:, :3, :3])
    assert turned.rad2deg().max() > 0.4


def test_exact_windows_give_the_exact_clip(sample: LongSample, tmp_path: Path) -> None:
    refine_windows(Refiner(Oracle(sample.scene)), sample.long_clip, tmp_path, INFO, CONFIG)
    wanted = expected(sample.scene, range(8))
    assert_same_cameras(load_frames(tmp_path, range(FRAMES)), wanted, 1e-4 * float(wanted.depths.median()))


@pytest.mark.parametrize("moves", [True, False])
def test_the_scale_comes_from_what_determines_it(sample: LongSample, moves: bool) -> None:
    """Depth is 10 % off with large spread: cameras that move far determine the scale, others cannot."""
    partner = sample.scene.frames([0, 7, 13, 19])
    if not moves:
        still = partner.cameras.world_from_cam[:1].expand(4, 4, 4).clone()
        partner = partner.with_cameras(replace(partner.cameras, world_from_cam=still))
    noise = torch.randn(partner.depths.shape, generator=torch.Generator().manual_seed(0))
    wrong = replace(partner, depths=partner.depths * (0.1 + 0.3 * noise).exp())
    scale = float(
        g.similarity_scale(fit_cameras(wrong, partner, refined_pixels(wrong, partner, 0.5)).partner_from_world)
    )
    assert math.log(scale) == pytest.approx(0 if moves else -0.1, abs=0.02)


def test_shared_frames_come_from_the_window_that_determines_them() -> None:
    windows = overlapping_windows(20, 8, 4)
    assert with_best_borders(windows, [set()] * 4) == windows
    moved = with_best_borders(windows, [set(range(4, 8)), set(), {8, 9}, {12, 13, 14}])
    assert [window.owned[0] for window in moved] == [0, 4, 10, 15]
    assert [frame for window in moved for frame in window.owned] == list(range(20))


def test_what_was_not_solved_is_told_and_taken_from_the_neighbor(sample: LongSample, tmp_path: Path) -> None:
    def spoil(refinement: Refinement, numbers: tuple[int, ...]) -> Refinement:
        if numbers[0] == 5:
            return replace(refinement, is_accepted=False, reason="too dark")
        if numbers[0] == 10:
            unknown = torch.zeros(len(numbers), dtype=torch.bool)
            unknown[7] = True
            return replace(refinement, unknown_frames=(7,), scene=refinement.scene.without_frames(unknown))
        return refinement

    index = refine_windows(Refiner(Oracle(sample.scene), spoil), sample.long_clip, tmp_path, INFO, CONFIG)
    accepted = [summary is not None and summary.is_accepted for summary in index.refinements]
    assert accepted == [True, False, True, True]
    assert index.refinements[2] is not None
    assert index.refinements[2].unknown_frames == (17,)
    assert index.windows.tolist() == [0] * 8 + [1] * 2 + [2] * 7 + [3] * 3
    assert (load_frames(tmp_path, [17]).depth_confidence > 0).any()
    summary = load_scene_info(tmp_path / "frames" / "000008.npz").refinement
    assert summary is not None
    assert summary.reason == "too dark"


def test_windows_that_share_only_unknown_frames_are_joined_all_the_same(sample: LongSample, tmp_path: Path) -> None:
    def spoil(refinement: Refinement, numbers: tuple[int, ...]) -> Refinement:
        if numbers[0] != 5:
            return refinement
        unknown = torch.arange(len(numbers)) < 3
        scene = refinement.scene.without_frames(unknown)
        return replace(refinement, unknown_frames=(0, 1, 2), scene=scene)

    index = refine_windows(Refiner(Oracle(sample.scene), spoil), sample.long_clip, tmp_path, INFO, CONFIG)
    assert index.windows.tolist() == [0] * 8 + [1] * 4 + [2] * 5 + [3] * 3
    wanted = expected(sample.scene, range(8))
    assert_same_cameras(load_frames(tmp_path, range(FRAMES)), wanted, 1e-4 * float(wanted.depths.median()))


class Lensed(Refiner):
    """Finds another focal length and parallax in each window, unless the intrinsics are given; and a distortion."""

    def __call__(self, clip: Clip) -> Refinement:
        refinement = super().__call__(clip)
        if self.given[-1].isfinite().all():
            return refinement
        assert clip.source is not None
        first = clip.source.numbers[0]
        factors = torch.tensor([[1 + first / 1000.0, 1, 1], [1, 1 + first / 1000.0, 1], [1, 1, 1]])
        cameras = replace(refinement.scene.cameras, intrinsics=refinement.scene.cameras.intrinsics * factors)
        distortion = torch.tensor([-0.2, 0.0, 0.0, 0.0, 0.0])
        scene = replace(refinement.scene.with_cameras(cameras), distortion=distortion)
        return replace(refinement, scene=scene, parallax=10.0 if first == 5 else 0.5)


def test_all_windows_get_the_lens_of_the_window_with_most_parallax(sample: LongSample, tmp_path: Path) -> None:
    # Two of three windows are tried: the first and the last. The last one has more parallax.
    clip = replace(
        sample.long_clip.frames(range(13)), source=replace(sample.long_clip.source, numbers=tuple(range(13)))
    )
    refiner = Lensed(Oracle(sample.scene))
    index = refine_windows(refiner, clip, tmp_path, INFO, CONFIG)
    assert [bool(given.isfinite().all()) for given in refiner.given] == [False, False, True, True]
    truth = sample.scene.cameras.intrinsics[0]
    for given in refiner.given[2:]:
        assert float(given[0, 0] / truth[0, 0]) == pytest.approx(1.005)
    assert index.distortion is not None
    assert float(index.distortion[0]) == pytest.approx(-0.2)
    assert load_frames(tmp_path, [3]).distortion is not None
    exported = open_frames(tmp_path).distortion  # what `recon4d export` and `recon4d locate` use
    assert exported is not None
    torch.testing.assert_close(exported, index.distortion.to(exported))


def test_the_windows_are_refined_on_undistorted_pictures(sample: LongSample, tmp_path: Path) -> None:
    seen: list[Clip] = []

    class Watching(Lensed):
        def __call__(self, clip: Clip) -> Refinement:
            seen.append(clip)
            return super().__call__(clip)

    refine_windows(Watching(Oracle(sample.scene)), sample.long_clip, tmp_path, INFO, CONFIG)
    first, again = (clip for clip in seen if clip.source is not None and clip.source.numbers[0] == 0)
    assert not torch.equal(first.images, again.images)
    assert again.priors is not None
    assert again.priors.ignore is not None


def test_the_distortion_of_a_single_window_is_that_of_the_clip(sample: LongSample, tmp_path: Path) -> None:
    index = refine_windows(Lensed(Oracle(sample.scene)), sample.long_clip.frames(range(8)), tmp_path, INFO, CONFIG)
    assert index.distortion is not None


def test_a_resumed_run_gives_identical_files(sample: LongSample, tmp_path: Path) -> None:
    def refine(folder: Path) -> None:
        refine_windows(Lensed(Oracle(sample.scene, bent_depth)), sample.long_clip, folder, INFO, CONFIG)

    refine(tmp_path / "whole")
    for step, wait in (("save_image", 9), ("_align", 2), ("save_index", 0)):
        with stopped_at(pipeline, step, wait):
            refine(tmp_path / step)
        refine(tmp_path / step)
        assert files_of(tmp_path / step) == files_of(tmp_path / "whole")
