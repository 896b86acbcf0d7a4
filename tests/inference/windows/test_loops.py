"""Loops are found by local features, verified by geometry, and bend nothing if they are wrong."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from long_scenes import FRAMES, INFO, LongSample, Oracle, make_long_sample, run

from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.inference.windows import LoopConfig, WindowConfig, reconstruct_windows
from recon4d.inference.windows.layout import overlapping_windows
from recon4d.inference.windows.loop_closure import depth_agreement, find_loop_pairs
from recon4d.inference.windows.loop_consistency import Loop, consistent_loops
from recon4d.inference.windows.place_recognition import choose_keyframes, describe_places
from recon4d.inference.windows.pose_graph import Edge
from recon4d.io.long_archive import load_frames
from recon4d.records import Clip, Scene

SIZE = (96, 128)
DRIFT = 0.01
"""Growth of log depth from frame to frame."""


def textured(scene: Scene) -> torch.Tensor:
    """Paint surfaces with random waves of the world, so that a place looks alike from everywhere."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 64, 3, generator=generator)
    waves = directions / directions.norm(dim=-1, keepdim=True) * 25 * torch.rand(3, 64, 1, generator=generator)
    offsets = 2 * math.pi * torch.rand(3, 64, generator=generator)
    phases = torch.einsum("thwd,cnd->tchwn", scene.points_from_depth, waves) + offsets[:, None, None]
    return (127.5 + 9 * phases.sin().sum(dim=-1)).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def returning() -> LongSample:
    """A clip played forward and then backward, so that every place appears twice."""
    sample = make_long_sample(SIZE)
    scene = replace(sample.scene, tracks=None)
    order = [*range(FRAMES), *range(FRAMES - 1, -1, -1)]
    images = textured(scene)[order]
    return LongSample(Clip(images, torch.arange(len(order)) / 10.0), scene.frames(order))


class DriftingOracle(Oracle):
    """Makes each of several consecutive frames 1 % deeper than the last."""

    def __call__(self, clip: Clip) -> Scene:
        scene = super().__call__(clip)
        factors = torch.exp(DRIFT * torch.arange(scene.num_frames))
        return replace(scene, depths=scene.depths * factors[:, None, None])


def final_drift(sample: LongSample, folder: Path) -> float:
    """Return the difference in log scale between the depths of the last and the first frames."""
    truth, found = sample.scene, load_frames(folder, range(sample.clip.num_frames))
    valid = truth.depth_confidence > 0
    ratios = [float((found.depths[i][valid[i]] / truth.depths[i][valid[i]]).median().log()) for i in (1, -2)]
    return abs(ratios[1] - ratios[0])


@pytest.mark.end_to_end
def test_loop_closure_removes_the_drift(returning: LongSample, tmp_path: Path) -> None:
    run(DriftingOracle(returning.scene), returning, tmp_path / "open", 8, 3)
    config = WindowConfig(8, 3, loops=LoopConfig(max_pairs=4))
    reconstruct_windows(DriftingOracle(returning.scene), returning.long_clip, tmp_path / "closed", INFO, config)
    before, after = (final_drift(returning, tmp_path / folder) for folder in ("open", "closed"))
    assert before > 0.25
    assert after < 0.3 * before


def test_loop_pairs_are_frames_that_look_alike(returning: LongSample) -> None:
    windows = overlapping_windows(returning.clip.num_frames, 8, 3)
    keyframes = [frame for window in windows for frame in choose_keyframes(window)]
    assert keyframes == sorted(set(keyframes))
    places = describe_places(returning.long_clip, keyframes)
    pairs = find_loop_pairs(windows, places, LoopConfig())
    best = pairs[0]
    assert abs(best.early_frame - (2 * FRAMES - 1 - best.late_frame)) <= 2
    for one in pairs:
        assert one.late.number - one.early.number >= 3
    for one, other in combinations(pairs, 2):
        apart = abs(one.early.number - other.early.number), abs(one.late.number - other.late.number)
        assert max(apart) > 1
        assert one.score >= other.score
    assert len(find_loop_pairs(windows, places, LoopConfig(max_pairs=1))) == 1


def test_pictures_without_features_make_no_pairs(returning: LongSample) -> None:
    windows = overlapping_windows(returning.clip.num_frames, 8, 3)
    gray = replace(returning.clip, images=torch.full_like(returning.clip.images, 90))
    keyframes = [frame for window in windows for frame in choose_keyframes(window)]
    places = describe_places(LongSample(gray, returning.scene).long_clip, keyframes)
    assert not find_loop_pairs(windows, places, LoopConfig())


def test_depth_agreement_distinguishes_places(returning: LongSample) -> None:
    first, last = returning.scene.frames([0]), returning.scene.frames([4])
    right = torch.eye(4).double()
    elsewhere = g.rigid(torch.eye(3), torch.tensor([0.0, 0.0, 1.0])).double()
    behind = g.rigid(torch.diag(torch.tensor([-1.0, 1, -1])), torch.zeros(3)).double()
    assert depth_agreement(first, last, right, 0.5) > 0.95
    assert depth_agreement(first, last, elsewhere, 0.5) < 0.3
    assert depth_agreement(first, last, behind, 0.5) == 0


@pytest.mark.end_to_end
def test_similar_images_of_different_places_close_no_loop(returning: LongSample, tmp_path: Path) -> None:
    """The images repeat but the geometry does not: the second time, the upper half is three times as deep."""
    deeper = torch.ones(2 * FRAMES, *SIZE)
    deeper[FRAMES:, : SIZE[0] // 2] = 3.0
    other = replace(returning.scene, depths=returning.scene.depths * deeper)
    changed = LongSample(returning.clip, other)
    without = run(Oracle(other), changed, tmp_path / "without")
    config = WindowConfig(8, 3, loops=LoopConfig(max_pairs=4, min_agreement=0.9))
    index = reconstruct_windows(Oracle(other), changed.long_clip, tmp_path / "with", INFO, config)
    assert torch.equal(index.world_from_window, without.world_from_window)


@pytest.mark.parametrize("wrong", [{"min_agreement": 1.5}, {"max_pairs": 0}, {"min_windows_apart": 1}])
def test_invalid_loop_configurations_are_errors(wrong: dict) -> None:
    with pytest.raises(UserError, match="must be"):
        LoopConfig(**wrong)


# Consistency


def shifted(distance: float) -> torch.Tensor:
    return g.rigid(torch.eye(3), torch.tensor([distance, 0.0, 0.0])).double()


def path() -> torch.Tensor:
    """Twelve windows that drift away by 0.02 from one to the next, although the camera stands still."""
    return torch.stack([shifted(0.02 * number) for number in range(12)])


def loop(a: int, b: int, distance: float, num_inliers: int) -> Loop:
    return Loop(Edge(a, b, shifted(distance)), num_inliers)


def test_loops_that_contradict_the_others_are_not_used() -> None:
    """A wrong loop with the most inliers has no other that agrees with it."""
    right = [loop(0, 8, 0.0, 50), loop(1, 10, 0.01, 40), loop(2, 11, 0.0, 45)]
    assert set(map(id, consistent_loops([loop(3, 9, 3.0, 120), *right], path(), 1.0))) == set(map(id, right))


@pytest.mark.parametrize(("distance", "is_used"), [(0.0, True), (3.0, False)])
def test_a_single_loop_must_be_explained_by_drift(distance: float, is_used: bool) -> None:
    assert len(consistent_loops([loop(0, 8, distance, 100)], path(), 1.0)) == is_used


@pytest.mark.parametrize("change", ["turn", "scale"])
def test_rotation_and_scale_are_compared_too(change: str) -> None:
    turn = g.rotation_from_axis_angle(torch.tensor([0.0, 0.0, 1.5])) if change == "turn" else torch.eye(3)
    wrong = g.similarity(torch.tensor(4.0 if change == "scale" else 1.0), turn, torch.zeros(3)).double()
    assert not consistent_loops([Loop(Edge(0, 8, wrong), 100)], path(), 1.0)
    assert consistent_loops([], path(), 1.0) == []
