"""Warps between frames and their occlusion."""

from dataclasses import replace

import pytest
import torch
from exact_walls import exact_scene, moved_camera, painted, scaled_depth, unoccluded, zeros
from scenes import HEIGHT, WIDTH, make_scene

from recon4d.geometry import pixel_grid
from recon4d.losses.warping import (
    is_unoccluded,
    sample_bilinear,
    warp_points,
    warp_static,
    warp_tracked,
)
from recon4d.records import Scene

SIZE = (HEIGHT, WIDTH)


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
