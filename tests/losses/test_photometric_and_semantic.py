"""Self-supervised losses: warps between frames, photometric and semantic consistency."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exact_walls import exact_scene, moved_camera, painted, photometric_of, scaled_depth, semantic_of, zeros
from scenes import HEIGHT, WIDTH, make_scene

from recon4d.losses.semantic import has_texture, semantic_term
from recon4d.losses.term import Term, mean
from recon4d.losses.warping import (
    warp_static,
)
from recon4d.records import Scene

SIZE = (HEIGHT, WIDTH)


# Semantic consistency.


def test_the_length_of_features_has_no_effect() -> None:
    scene = exact_scene()
    features = painted(scene, channels=5)
    brighter = features * (1 + torch.rand(3, 1, *SIZE, generator=torch.Generator().manual_seed(0)).double())
    torch.testing.assert_close(semantic_of(scene, brighter).total, semantic_of(scene, features).total)


def test_semantic_distance_by_hand() -> None:
    scene = exact_scene()
    warp, all_valid = warp_static(scene, 0, 0), torch.ones(*SIZE, dtype=torch.bool)
    a = zeros(2, 3, 4)
    a[0] = 2.0
    b = zeros(2, 3, 4)
    b[0], b[1] = 3.0, 3.0
    term = semantic_term(a, b, warp, all_valid, 1.0)
    assert term.count == 12
    torch.testing.assert_close(mean(term).item(), 1 - math.sqrt(0.5))
    assert mean(semantic_term(a, -a, warp, all_valid, 1.0)) == pytest.approx(2)


def test_each_patch_is_represented_by_its_central_pixel() -> None:
    scene = exact_scene()
    features = painted(scene, channels=4)[:, :, ::4, ::4]  # patches of 4 pixels
    warp = warp_static(scene, 0, 0)
    mask = torch.zeros(*SIZE, dtype=torch.bool)
    mask[6, 10] = True  # row 1, column 2
    assert semantic_term(features[0], features[0], warp, mask, 1.0).count == 1
    assert semantic_term(features[0], features[0], warp, ~mask, 1.0).count == 11
    assert mean(semantic_term(features[0], features[0], warp, ~mask, 1.0)) < 1e-9
    # The target's feature is sampled where the warp points; compare with a plain bilinear interpolation.
    moved = replace(warp, pixels=warp.pixels + torch.tensor([4.0, -4.0]))  # one patch right and up
    found = semantic_term(features[0], features[1], moved, mask, 1.0).total

    def at(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
        unit = torch.nn.functional.normalize(image, dim=0)
        x0, y0 = int(x), int(y)
        fx, fy = x - x0, y - y0
        mixed = (1 - fy) * ((1 - fx) * unit[:, y0, x0] + fx * unit[:, y0, x0 + 1])
        mixed = mixed + fy * ((1 - fx) * unit[:, y0 + 1, x0] + fx * unit[:, y0 + 1, x0 + 1])
        return mixed / mixed.norm()

    # Pixel (10.5, 6.5) is cell 2.125, 1.125 counted from centers; one patch on it is 3.125, beyond the last center.
    source = at(features[0], 2.125, 1.125)
    target = at(torch.cat([features[1], features[1][..., -1:]], dim=-1), 3.125, 0.125)
    torch.testing.assert_close(found, 1 - source @ target)


def test_patches_similar_to_their_neighbors_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 6, 7, generator=generator, dtype=torch.float64)
    features[:, :, 3:] = 5 * features[:, :1, 3:4]  # a sky to the right
    texture = has_texture(features)
    assert texture[:, :3].all()
    assert texture[:, 3].all()  # its left neighbor differs
    assert not texture[:, 4:].any()
    assert has_texture(features, 1.0 + 1e-9).all()
    # The mean is over the existing neighbors; a corner has two.
    corner = torch.ones(1, 2, 2, dtype=torch.float64)
    corner[0, 0, 1] = -1
    assert has_texture(corner, 0.0).tolist() == [[True, True], [False, True]]
    assert has_texture(corner, -0.5).tolist() == [[False, True], [False, False]]
    strip = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    for column in (strip[None, :, None], strip[None, None]):
        assert has_texture(column, 0.5).flatten().tolist() == [False, True, True]
    assert not has_texture(torch.full((1, 3, 3), 0.5)).any()


def test_patches_without_texture_have_no_loss() -> None:
    scene = exact_scene()
    warp, mask = warp_static(scene, 0, 2), torch.ones(*SIZE, dtype=torch.bool)
    flat = torch.ones(4, 6, 8, dtype=torch.float64)
    assert semantic_term(flat, flat, warp, mask).count == 0


def test_features_have_no_gradient() -> None:
    scene = exact_scene()
    features = painted(scene, channels=4).requires_grad_()
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = mean(semantic_of(scaled_depth(scene, 1.3 * factor), features))
    slope, none = torch.autograd.grad(loss, (factor, features), allow_unused=True)
    assert slope != 0
    assert none is None


def test_half_precision_features_are_accepted() -> None:
    scene = make_scene()
    warp = warp_static(scene, 0, 0)
    features = painted(exact_scene(), channels=4)[0].to(torch.bfloat16)
    value = mean(semantic_term(features, features, warp, torch.ones(*SIZE, dtype=torch.bool), 1.0))
    assert value < 1e-5
    assert value.dtype == torch.float32


# Both, on the textured wall.

Measure = Callable[[Scene, torch.Tensor], Term]

BOTH = pytest.mark.parametrize("measure", [photometric_of, semantic_of])


@BOTH
def test_the_true_wall_is_consistent_and_a_disturbed_one_is_not(measure: Measure) -> None:
    scene = exact_scene()
    images = painted(scene, channels=6)
    truth = mean(measure(scene, images))
    assert measure(scene, images).count > 50
    assert truth < 0.004
    turn = torch.tensor([0.0, 0.06, 0.0], dtype=torch.float64)
    disturbed = [
        moved_camera(scene, 2, zeros(3), turn),
        moved_camera(scene, 2, torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64), zeros(3)),
        moved_camera(scene, 0, torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64), zeros(3)),
    ]
    for wrong in disturbed:
        assert mean(measure(wrong, images)) > 3 * truth
    wide = wide_scene()
    images = painted(wide, channels=6)
    farther = scaled_depth(wide, torch.tensor(1.4))
    assert mean(measure(farther, images)) > 3 * mean(measure(wide, images))


@BOTH
def test_a_static_camera_has_no_loss(measure: Measure) -> None:
    scene = exact_scene()
    cameras = replace(scene.cameras, world_from_cam=scene.cameras.world_from_cam[:1].expand(3, -1, -1))
    static = replace(scene, cameras=cameras, depths=scene.depths[:1].expand(3, -1, -1))
    images = painted(static, channels=6)
    assert measure(static, images).count == HEIGHT * WIDTH
    assert mean(measure(static, images)).abs() < 1e-6


def wide_scene() -> Scene:
    """Return the wall from cameras with a larger baseline, so that depth changes the warp."""
    scene = exact_scene()
    direction = torch.tensor([0.6, 0.2, 0.0], dtype=torch.float64)
    cameras = scene.cameras.world_from_cam.clone()
    cameras[..., :3, :3] = torch.eye(3, dtype=torch.float64)
    cameras[..., :3, 3] = torch.arange(3)[:, None] * direction
    rays = replace(scene, cameras=replace(scene.cameras, world_from_cam=cameras), depths=torch.ones_like(scene.depths))
    normal = torch.tensor([-0.25, 0.0, 1.0], dtype=torch.float64)
    directions = rays.points_from_depth - cameras[:, None, None, :3, 3]
    depths = (4 - cameras[:, :3, 3] @ normal)[:, None, None] / (directions @ normal)
    return replace(rays, depths=depths)


@BOTH
def test_descent_brings_a_disturbed_depth_scale_back(measure: Measure) -> None:
    scene = wide_scene()
    images = painted(scene, channels=6)
    log_scale = torch.tensor(0.15, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_scale], lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        mean(measure(scaled_depth(scene, log_scale.exp()), images)).backward()
        optimizer.step()
    assert log_scale.abs() < 0.03


@BOTH
def test_descent_brings_a_disturbed_camera_back(measure: Measure) -> None:
    scene = exact_scene()
    images = painted(scene, channels=6)
    turn = torch.tensor([0.03, -0.04, 0.03], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([turn], lr=0.004)
    for _ in range(50):
        optimizer.zero_grad()
        mean(measure(moved_camera(scene, 2, zeros(3), turn), images)).backward()
        optimizer.step()
    assert turn.abs().max() < 0.012


@BOTH
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_unknown_pixels_have_no_effect(measure: Measure, wrong: float) -> None:
    scene = exact_scene()
    images = painted(scene, channels=6)
    confidence = torch.ones_like(scene.depths)
    confidence[0, 5, 6] = confidence[2, 6, 9] = 0
    depths = torch.where(confidence > 0, scene.depths, wrong).requires_grad_()
    holed = replace(scene, depth_confidence=confidence)
    clean, dirty = measure(holed, images), measure(replace(holed, depths=depths), images)
    torch.testing.assert_close(dirty.total, clean.total)
    assert dirty.count == clean.count
    assert clean.count < measure(scene, images).count
    (slope,) = torch.autograd.grad(dirty.total, depths)
    assert slope.isfinite().all()
    assert (slope[confidence == 0] == 0).all()
    assert (slope[0] != 0).any()
    assert (slope[2] == 0).all()  # the target's depth is used by the occlusion test only

    nowhere = replace(holed, depth_confidence=torch.zeros_like(confidence), depths=torch.full_like(depths, wrong))
    bad = nowhere.depths.requires_grad_()
    value = mean(measure(nowhere, images))
    assert value == 0
    assert (torch.autograd.grad(value, bad)[0] == 0).all()


def test_added_losses_have_added_gradients() -> None:
    scene = exact_scene()
    images = painted(scene, channels=6)
    factor = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)

    def losses() -> tuple[torch.Tensor, ...]:
        wrong = scaled_depth(scene, factor)
        return mean(photometric_of(wrong, images)), mean(semantic_of(wrong, images))

    first, second = losses()
    (first + second).backward()
    assert factor.grad is not None
    together = factor.grad.clone()
    factor.grad = None
    for index in range(2):
        losses()[index].backward()
    torch.testing.assert_close(factor.grad, together)
