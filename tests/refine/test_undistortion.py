"""Tests of the removal of lens distortion from scenes and their tracks."""

from dataclasses import replace

import torch
from scenes import make_scene

from recon4d.geometry import pixel_grid
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.undistortion import undistort_scene

LENS = RadialDistortion(0.6)


def test_maps_and_dense_tracks_have_the_values_of_the_distorted_pixels() -> None:
    scene = make_scene(anchors=(0,))
    assert scene.tracks is not None
    height, width = scene.size
    matrix = scene.cameras.intrinsics[0].double()
    focal_lengths, center = matrix.diagonal()[:2], matrix[:2, 2]
    numbers = torch.arange(height * width, dtype=torch.float32)
    depths = (1 + numbers).reshape(height, width).expand(scene.num_frames, -1, -1)
    points = scene.tracks.points.clone()
    points[..., 0] = numbers
    tracks = replace(scene.tracks, points=points)
    straight = undistort_scene(replace(scene, depths=depths, tracks=tracks), scene.cameras.intrinsics, LENS)

    normalized = (pixel_grid(height, width, dtype=torch.float64) - center) / focal_lengths
    source = LENS.factors(normalized) * normalized * focal_lengths + center
    inside = ((source >= 0) & (source < torch.tensor([width, height]))).all(dim=-1)
    expected = source.floor().long()
    expected_numbers = (expected[..., 1] * width + expected[..., 0]).float()
    assert 0 < inside.float().mean() < 1
    assert torch.equal(straight.depths[0][inside], 1 + expected_numbers[inside])
    assert not straight.depth_confidence[0][~inside].any()
    assert straight.tracks is not None
    assert torch.equal(straight.tracks.points[0, 0, inside.flatten(), 0], expected_numbers[inside])
    assert not straight.tracks.confidence[0, :, ~inside.flatten()].any()
    assert straight.distortion is not None
    torch.testing.assert_close(straight.distortion, torch.tensor([0.6, 0, 0, 0, 0]))


def test_sparse_queries_move_to_their_undistorted_pixels() -> None:
    scene = make_scene(anchors=(0,))
    assert scene.tracks is not None
    center = scene.cameras.intrinsics[0, :2, 2]
    pixels = torch.stack([center, center + torch.tensor([3.0, 0.0])])[None]
    few = replace(
        scene.tracks,
        points=scene.tracks.points[:, :, :2],
        visibility=scene.tracks.visibility[:, :, :2],
        confidence=scene.tracks.confidence[:, :, :2],
        pixels=pixels,
    )
    moved = undistort_scene(replace(scene, tracks=few), scene.cameras.intrinsics, LENS).tracks
    assert moved is not None
    torch.testing.assert_close(moved.pixels[0, 0], center)
    # A positive coefficient moves pixels outward, so that the undistorted pixel is nearer to the center.
    assert 0 < moved.pixels[0, 1, 0] - center[0] < 3
