"""Thinning keeps the budget, the confident, the edges of movers and an even density, and is the same every time."""

from dataclasses import replace

import pytest
import torch
import walls

from recon4d.records import Scene
from recon4d.viewer.thinning import frame_limit, thin_by_voxels, thin_frame

SIZE = (60, 80)


def noise(*shape: int) -> torch.Tensor:
    return 1 + torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("limit", [1, 10, 100, 1000, 3000])
def test_a_frame_keeps_its_budget_and_covers_the_picture_evenly(limit: int) -> None:
    mask, confidence = torch.ones(SIZE, dtype=torch.bool), noise(*SIZE)
    kept = thin_frame(mask, confidence, limit)
    assert 0.5 * limit <= kept.sum() <= limit
    assert torch.equal(kept, thin_frame(mask, confidence, limit))
    if limit == 1000:  # no part of the picture is left out: about 13 of 64 pixels in each square
        per_square = kept.reshape(6, 10, 8, 10).sum(dim=(1, 3))
        assert per_square.min() > 10
        assert per_square.max() < 30
    assert torch.equal(thin_frame(mask, confidence, 4800), mask)
    assert not thin_frame(mask & False, confidence, 5).any()


def test_the_most_confident_pixel_of_each_cell_is_kept() -> None:
    mask = torch.ones(SIZE, dtype=torch.bool)
    confidence = noise(*SIZE)
    kept = thin_frame(mask, confidence, 300)
    assert confidence[kept].mean() > confidence.mean() + 0.4  # the largest of 16 is 16 / 17 on average
    assert kept[divmod(int(confidence.argmax()), SIZE[1])]


def test_the_outline_of_a_mover_is_kept_before_its_inside() -> None:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[10:50, 20:60] = True
    inside = torch.zeros_like(mask)
    inside[11:49, 21:59] = True
    kept = thin_frame(mask, noise(*SIZE), 400)
    assert (kept & ~inside).sum() == 4 * 39  # the whole outline
    assert (kept & inside).sum() > 150
    assert (thin_frame(mask, noise(*SIZE), 100) & ~inside).sum() <= 50
    # At the border of the picture, a mover has no outline.
    assert not thin_frame(torch.ones(SIZE, dtype=torch.bool), noise(*SIZE), 100)[0].all()


def test_frames_share_a_budget_and_small_ones_keep_everything() -> None:
    counts = torch.tensor([10, 500, 1000])
    assert frame_limit(counts, 600, 10_000) == 600
    assert frame_limit(counts, 600, 1010) == 500
    assert frame_limit(counts, 600, 310) == 150
    assert frame_limit(counts, 600, 1) == 1


def test_views_of_the_same_surface_are_merged_and_the_most_confident_is_kept() -> None:
    scene = walls.make_scene(3)
    poses = torch.eye(4).repeat(3, 1, 1)  # all cameras see the same
    confidence = noise(3, walls.HEIGHT, walls.WIDTH)
    scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=poses), depth_confidence=confidence)
    everything = torch.ones_like(confidence, dtype=torch.bool)
    kept = thin_by_voxels(scene, everything, 10_000)
    assert (kept.sum(dim=0) == 1).all()
    assert torch.equal(kept.long().argmax(dim=0), confidence.argmax(dim=0))
    assert not (thin_by_voxels(scene, everything & (torch.arange(3) > 0)[:, None, None], 10_000))[0].any()
    few = thin_by_voxels(scene, everything, 50)
    assert 15 < few.sum() <= 50
    assert torch.equal(few, thin_by_voxels(scene, everything, 50))
    assert not thin_by_voxels(scene, ~everything, 50).any()


def far_and_near() -> Scene:
    """One frame of a wall whose right half is ten times as far away."""
    scene = walls.make_scene(1).resized(48, 64)
    depths = scene.depths.clone()
    depths[:, :, 32:] *= 10
    return replace(scene, depths=depths, depth_confidence=noise(1, 48, 64))


def test_neighbors_in_a_picture_are_not_merged_and_near_surfaces_keep_their_detail() -> None:
    scene = far_and_near()
    everything = torch.ones_like(scene.depths, dtype=torch.bool)
    assert torch.equal(thin_by_voxels(scene, everything, 10_000), everything)
    few = thin_by_voxels(scene, everything, 800)
    assert few.sum() <= 800
    near, far = few[:, :, :32].sum(), few[:, :, 32:].sum()
    assert 0.4 < near / far < 2.5  # voxels of one size would leave 1 far point of 100
