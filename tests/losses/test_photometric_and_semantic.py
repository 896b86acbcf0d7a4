"""Self-supervised losses: warps between frames, photometric and semantic consistency."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene

from recon4d.geometry import pixel_grid, rigid, rotation_from_axis_angle
from recon4d.losses.photometric import (
    best_neighbor_photometric_term,
    photometric_errors,
    photometric_term,
    structural_similarity,
    warped_photometric_errors,
)
from recon4d.losses.semantic import has_texture, semantic_term
from recon4d.losses.term import Term, mean
from recon4d.losses.warping import (
    Warp,
    is_unoccluded,
    sample_bilinear,
    warp_points,
    warp_static,
    warp_tracked,
)
from recon4d.records import Scene

SIZE = (HEIGHT, WIDTH)


def exact_scene(frames: int = 3, anchors: tuple[int, ...] = (0,)) -> Scene:
    """Return the scene of a slanted wall in float64, with full depth confidence."""
    scene = make_scene(frames, anchors).to(dtype=torch.float64)
    return replace(scene, depth_confidence=torch.ones_like(scene.depths))


def painted(scene: Scene, channels: int = 3, detail: float = 1.5) -> torch.Tensor:
    """Render images (time, channels, height, width) of a texture of smooth waves on the surface, from 0.1 to 0.9."""
    generator = torch.Generator().manual_seed(3)
    waves = detail * torch.randn(3, channels, generator=generator, dtype=torch.float64)
    phases = 6 * torch.rand(channels, generator=generator, dtype=torch.float64)
    return (0.5 + 0.4 * torch.sin(scene.points_from_depth @ waves + phases)).movedim(-1, -3)


def scaled_depth(scene: Scene, factor: torch.Tensor) -> Scene:
    return replace(scene, depths=scene.depths * factor)


def moved_camera(scene: Scene, frame: int, shift: torch.Tensor, turn: torch.Tensor) -> Scene:
    """Return the scene with one camera displaced and rotated."""
    step = rigid(rotation_from_axis_angle(turn), shift)
    cameras = scene.cameras.world_from_cam
    here = (torch.arange(scene.num_frames) == frame)[:, None, None]
    return replace(scene, cameras=replace(scene.cameras, world_from_cam=torch.where(here, cameras @ step, cameras)))


def unoccluded(scene: Scene, warp: Warp, target: int) -> torch.Tensor:
    return is_unoccluded(warp, scene.depths[target], scene.depth_confidence[target] > 0)


def photometric_of(scene: Scene, images: torch.Tensor, source: int = 0, target: int = 2) -> Term:
    warp = warp_static(scene, source, target)
    return photometric_term(images[source], images[target], warp, unoccluded(scene, warp, target))


def semantic_of(scene: Scene, features: torch.Tensor, source: int = 0, target: int = 2) -> Term:
    warp = warp_static(scene, source, target)
    return semantic_term(features[source], features[target], warp, unoccluded(scene, warp, target), 1.0)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


# Warps and occlusion.


def test_static_and_tracked_warps_of_a_static_wall_agree() -> None:
    scene = exact_scene(anchors=(1, 0))
    static, tracked = warp_static(scene, 0, 2), warp_tracked(scene, 1, 2)
    torch.testing.assert_close(static.pixels, tracked.pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(static.depths, tracked.depths, atol=1e-5, rtol=0)
    # `Scene.track_pixels` is an independent implementation.
    torch.testing.assert_close(tracked.pixels.flatten(0, 1), scene.track_pixels[1, 2])
    assert 0 < static.in_view.sum() < static.in_view.numel()


def test_warping_forth_and_back_is_the_identity() -> None:
    scene = exact_scene()
    there = warp_static(scene, 0, 2)
    depths = sample_bilinear(scene.depths[2][None], there.pixels, SIZE)[0]
    assert (depths / there.depths - 1)[there.in_view].abs().max() < 1e-3
    back = warp_static(scene, 2, 0)
    returned = sample_bilinear(back.pixels.movedim(-1, 0), there.pixels, SIZE).movedim(0, -1)
    error = (returned - pixel_grid(*SIZE, dtype=torch.float64))[there.in_view].abs()
    assert error.max() < 0.02


def test_a_frame_warped_onto_itself_is_unchanged_and_unoccluded() -> None:
    for scene in (exact_scene(), make_scene()):
        warp = warp_static(scene, 1, 1)
        grid = pixel_grid(*SIZE, dtype=scene.depths.dtype)
        torch.testing.assert_close(warp.pixels, grid, atol=1e-4, rtol=0)
        torch.testing.assert_close(warp.depths, scene.depths[1], atol=1e-4, rtol=0)
        assert warp.in_view.all()
        assert unoccluded(scene, warp, 1).all()


def test_warps_take_batches() -> None:
    scenes = Scene.stack([exact_scene(), scaled_depth(exact_scene(), torch.tensor(1.3))])
    batch = warp_static(scenes, 0, 2)
    single = warp_static(scenes[1], 0, 2)
    torch.testing.assert_close(batch.pixels[1], single.pixels)
    assert torch.equal(batch[1].in_view, single.in_view)
    tracked = warp_tracked(scenes, 0, 1)
    assert tracked.pixels.shape == (2, *SIZE, 2)
    both = is_unoccluded(batch, scenes.depths[:, 2], scenes.depth_confidence[:, 2] > 0)
    assert torch.equal(both[1], unoccluded(scenes[1], single, 2))


def test_pixels_outside_behind_the_camera_or_unknown_are_not_in_view() -> None:
    scene = exact_scene()
    height, width = SIZE
    flat = zeros(*SIZE, 3)
    flat[..., 2] = 4
    flat[0, 0, 2] = -4  # behind, and by its pixel inside
    flat[0, 1] = torch.tensor([100.0, 0, 4])
    flat[0, 2] = torch.tensor([-100.0, 0, 4])
    flat[0, 3] = torch.tensor([0, 100.0, 4])
    flat[0, 4] = torch.tensor([0, -100.0, 4])
    flat[0, 5, 2] = 0
    known = torch.ones(*SIZE, dtype=torch.bool)
    known[0, 6] = False
    flat[0, 6] = torch.nan
    warp = warp_points(flat, known, scene, 0)
    expected = torch.ones(height, width, dtype=torch.bool)
    expected[0, :7] = False
    assert torch.equal(warp.in_view, expected)
    assert warp.pixels.isfinite().all()
    torch.testing.assert_close(warp.pixels[1, 1], torch.tensor([7.0, 6.5], dtype=torch.float64))


@pytest.mark.parametrize(("x", "inside"), [(0.3, False), (0.5, True), (15.5, True), (15.7, False)])
def test_the_view_ends_at_the_outermost_pixel_centers(x: float, inside: bool) -> None:
    scene = exact_scene()
    point = zeros(*SIZE, 3) + torch.tensor([(x - 7) / 20 * 4, 0, 4])
    assert (warp_points(point, torch.ones(*SIZE, dtype=torch.bool), scene, 0).in_view == inside).all()
    y = x * 0 + (0.3 if not inside else 0.5) + (0 if x < 7 else 11 + (0.4 if not inside else 0))
    point = zeros(*SIZE, 3) + torch.tensor([0, (y - 6.5) / 22 * 4, 4])
    assert (warp_points(point, torch.ones(*SIZE, dtype=torch.bool), scene, 0).in_view == inside).all()


def test_each_frame_uses_its_own_intrinsics() -> None:
    scene = exact_scene()
    plain = warp_static(scene, 0, 2)
    # The target image at twice the focal length, cropped to its corner.
    zoom = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    intrinsics = torch.stack([*scene.cameras.intrinsics[:2], zoom @ scene.cameras.intrinsics[2]])
    zoomed = warp_static(replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics)), 0, 2)
    torch.testing.assert_close(zoomed.pixels, 2 * plain.pixels)
    torch.testing.assert_close(zoomed.depths, plain.depths)


def test_unknown_depth_gives_finite_gradients_of_cameras() -> None:
    scene = exact_scene()
    confidence = torch.ones_like(scene.depths)
    confidence[0, 5, 6] = 0
    intrinsics = scene.cameras.intrinsics.clone().requires_grad_()
    world_from_cam = scene.cameras.world_from_cam.clone().requires_grad_()
    cameras = replace(scene.cameras, intrinsics=intrinsics, world_from_cam=world_from_cam)
    holed = torch.where(confidence > 0, scene.depths, torch.nan)
    warp = warp_static(replace(scene, cameras=cameras, depths=holed, depth_confidence=confidence), 0, 2)
    total = torch.where(warp.in_view[..., None], warp.pixels, 0.0).sum()
    for slope in torch.autograd.grad(total, (intrinsics, world_from_cam)):
        assert slope.isfinite().all()


def test_dynamic_pixels_follow_their_tracks() -> None:
    scene = exact_scene()
    assert scene.tracks is not None
    points = scene.tracks.points.clone()
    points[0, 2] += torch.tensor([0.5, 0.0, 0.0])
    scene = replace(scene, tracks=replace(scene.tracks, points=points))
    static, tracked = warp_static(scene, 0, 2), warp_tracked(scene, 0, 2)
    assert ((tracked.pixels - static.pixels)[..., 0] > 1).all()


def test_tracks_without_confidence_are_unknown() -> None:
    scene = exact_scene()
    assert scene.tracks is not None
    confidence = scene.tracks.confidence.clone()
    confidence[0, 2, 88] = 0
    points = scene.tracks.points.clone()
    points[0, 2, 88] = torch.nan
    warp = warp_tracked(replace(scene, tracks=replace(scene.tracks, confidence=confidence, points=points)), 0, 2)
    whole = warp_tracked(scene, 0, 2)
    assert whole.in_view.flatten()[88]
    assert (warp.in_view ^ whole.in_view).sum() == 1
    assert warp.pixels.isfinite().all()


def test_tracked_warps_need_dense_tracks() -> None:
    scene = exact_scene()
    with pytest.raises(ValueError, match="need one track per pixel of the anchor, given none"):
        warp_tracked(replace(scene, tracks=None), 0, 1)
    assert scene.tracks is not None
    few = replace(
        scene.tracks,
        points=scene.tracks.points[..., :5, :],
        visibility=scene.tracks.visibility[..., :5],
        confidence=scene.tracks.confidence[..., :5],
        pixels=scene.tracks.pixels[..., :5, :],
    )
    with pytest.raises(ValueError, match="given 5"):
        warp_tracked(replace(scene, tracks=few), 0, 1)


def test_pixels_behind_a_closer_surface_are_occluded() -> None:
    scene = exact_scene()
    warp = warp_static(scene, 0, 1)
    with_box = scene.depths[1].clone()
    with_box[4:9, 5:12] = 1.0  # something in front, in the target frame only
    known = torch.ones(*SIZE, dtype=torch.bool)
    free = is_unoccluded(warp, scene.depths[1], known)
    covered = is_unoccluded(warp, with_box, known)
    x, y = warp.pixels.unbind(-1)
    inside = (x > 5.5) & (x < 11.5) & (y > 4.5) & (y < 8.5)
    outside = (x < 4.5) | (x > 12.5) | (y < 3.5) | (y > 9.5)
    assert torch.equal(free, warp.in_view)
    assert inside.sum() > 10
    assert not covered[inside].any()
    assert torch.equal(covered[outside], free[outside])


def test_occlusion_has_a_tolerance() -> None:
    scene = exact_scene()
    warp, known = warp_static(scene, 0, 0), torch.ones(*SIZE, dtype=torch.bool)

    def share_unoccluded(factor: float, tolerance: float) -> float:
        return is_unoccluded(warp, scene.depths[0] * factor, known, tolerance).double().mean().item()

    assert share_unoccluded(1 / 1.04, 0.05) == 1
    assert share_unoccluded(1 / 1.06, 0.05) == 0
    assert share_unoccluded(1 / 1.06, 0.1) == 1
    assert is_unoccluded(warp, scene.depths[0] / 1.04, known).all()
    assert not is_unoccluded(warp, scene.depths[0] / 1.06, known).any()
    assert share_unoccluded(5.0, 0.05) == 1  # in front of the surface: maybe wrong, but not occluded


def test_pixels_without_target_depth_are_rejected() -> None:
    scene = exact_scene()
    warp = warp_static(scene, 0, 0)
    known = torch.ones(*SIZE, dtype=torch.bool)
    known[5, 6] = False
    for wrong in (torch.nan, torch.inf, 0.0):
        depths = torch.where(known, scene.depths[0], wrong)
        assert torch.equal(is_unoccluded(warp, depths, known), known)


def test_sampling_is_exact_on_ramps_at_any_size() -> None:
    """Cell centers are at half cells, and a coarse map covers the same image."""
    pixels = torch.tensor([[[3.25, 4.5], [8.0, 7.75], [10.9, 2.0]]], dtype=torch.float64)
    for rows, columns in ((12, 16), (6, 4), (3, 8)):
        centers = pixel_grid(rows, columns, dtype=torch.float64) * torch.tensor([16 / columns, 12 / rows])
        sampled = sample_bilinear(centers.movedim(-1, 0), pixels, SIZE).movedim(0, -1)
        torch.testing.assert_close(sampled, pixels)
    outside = torch.tensor([[[-50.0, 0.0]]], dtype=torch.float64)
    assert (
        sample_bilinear(pixel_grid(12, 16, dtype=torch.float64).movedim(-1, 0), outside, SIZE).flatten().tolist()
        == [0.5] * 2
    )


def test_warps_are_differentiable_in_depth_cameras_and_tracks() -> None:
    scene = exact_scene(frames=2)
    small = (slice(3, 6), slice(4, 8))

    def pixels(depth: torch.Tensor, shift: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        depths = scene.depths.clone()
        depths[0, 3:6, 4:8] = depth
        warp = warp_static(moved_camera(replace(scene, depths=depths), 1, shift, turn), 0, 1)
        return torch.cat([warp.pixels[small].flatten(), warp.depths[small].flatten()])

    start = scene.depths[0, 3:6, 4:8].clone().requires_grad_()
    shift, turn = zeros(3).requires_grad_(), torch.full((3,), 0.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pixels, (start, shift, turn))

    def sampled(at: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return sample_bilinear(maps, at, SIZE)

    at = (pixel_grid(3, 3, dtype=torch.float64) * 3 + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(sampled, (at, painted(scene)[0].requires_grad_()))

    assert scene.tracks is not None
    points = scene.tracks.points.clone().requires_grad_()
    warp = warp_tracked(replace(scene, tracks=replace(scene.tracks, points=points)), 0, 1)
    (slope,) = torch.autograd.grad(warp.pixels.sum(), points)
    assert (slope[0, 1].abs().sum(dim=-1) > 0).all()
    assert (slope[0, 0] == 0).all()


# Photometric consistency.


def test_equal_images_have_neither_loss_nor_gradient() -> None:
    image = painted(exact_scene())[0].requires_grad_()
    errors = photometric_errors(image, image.detach(), torch.ones(*SIZE, dtype=torch.bool))
    assert errors.abs().max() < 1e-12
    assert torch.autograd.grad(errors.sum(), image)[0].abs().max() < 1e-9


def test_photometric_errors_of_constant_images_by_hand() -> None:
    dark, bright = torch.full((3, 5, 6), 0.2, dtype=torch.float64), torch.full((3, 5, 6), 0.6, dtype=torch.float64)
    errors = photometric_errors(dark, bright, torch.ones(5, 6, dtype=torch.bool))
    luminance = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    expected = 0.85 * (1 - luminance) / 2 + 0.15 * (math.sqrt(0.4**2 + 1e-6) - 1e-3)
    torch.testing.assert_close(errors, torch.full((5, 6), expected, dtype=torch.float64))


def test_similarity_of_a_window_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 3, dtype=torch.bool)
    valid[0, 2] = valid[2, 1] = False

    def expected(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean_x, mean_y = x.mean(), y.mean()
        covariance = ((x - mean_x) * (y - mean_y)).mean()
        contrast = (2 * covariance + 9e-4) / (x.var(correction=0) + y.var(correction=0) + 9e-4)
        return contrast * (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)

    found = structural_similarity(a, b, valid)[0]
    torch.testing.assert_close(found[1, 1], expected(a[0][valid], b[0][valid]))
    corner = valid.clone()
    corner[2] = corner[:, 2] = False
    torch.testing.assert_close(found[0, 0], expected(a[0][corner], b[0][corner]))
    assert (structural_similarity(a, b, torch.zeros_like(valid)) == 1).all()


def test_brightness_changes_cost_less_than_noise() -> None:
    image = painted(exact_scene())[0]
    valid = torch.ones(*SIZE, dtype=torch.bool)
    brighter = photometric_errors(image, image + 0.05, valid).mean()
    shuffled = photometric_errors(image, image + 0.05 * torch.sign(torch.randn_like(image)), valid).mean()
    assert 0 < brighter < 0.5 * shuffled


def test_photometric_gradients_equal_finite_differences() -> None:
    image, other = painted(exact_scene())[0, :, :4, :5], painted(exact_scene())[2, :, :4, :5]
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[1, 2] = False

    def loss(changed: torch.Tensor) -> torch.Tensor:
        return photometric_errors(image, changed, valid).sum()

    assert torch.autograd.gradcheck(loss, (other.clone().requires_grad_(),))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_invalid_colors_may_be_anything(wrong: float) -> None:
    image, other = painted(exact_scene())[0], painted(exact_scene())[2]
    valid = torch.ones(*SIZE, dtype=torch.bool)
    valid[3, 4] = False
    clean = photometric_errors(image, other, valid)
    corrupted = torch.where(valid, other, wrong).requires_grad_()
    errors = photometric_errors(torch.where(valid, image, wrong), corrupted, valid)
    torch.testing.assert_close(errors, clean)
    assert errors[3, 4] == 0
    assert photometric_errors(image, image + wrong, torch.zeros_like(valid)).abs().max() == 0
    only = torch.zeros_like(valid)
    only[3, 5] = True
    assert photometric_errors(image, 1 - image, only).count_nonzero() == 1
    (slope,) = torch.autograd.grad(errors.sum(), corrupted)
    assert slope.isfinite().all()
    assert (slope[:, 3, 4] == 0).all()


def test_the_best_neighbor_is_the_smallest_error_of_valid_targets() -> None:
    scene = exact_scene()
    images = painted(scene)
    images[1] = 1 - images[1]  # a frame that looks like nothing else
    warps = tuple(warp_static(scene, 0, target) for target in (1, 2))
    masks = tuple(unoccluded(scene, warp, target) for warp, target in zip(warps, (1, 2), strict=True))
    errors = [
        warped_photometric_errors(images[0], images[target], warp, mask)
        for target, warp, mask in zip((1, 2), warps, masks, strict=True)
    ]
    term = best_neighbor_photometric_term(images[0], (images[1], images[2]), warps, masks)
    total = zeros()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            here = [error[row, column] for error, mask in zip(errors, masks, strict=True) if mask[row, column]]
            total = total + (min(here) if here else 0)
    torch.testing.assert_close(term.total, total)
    assert term.count == (masks[0] | masks[1]).sum()
    assert (masks[0] ^ masks[1]).any()


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
