"""Positions and colors of exported points, and the pixels that are left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from walls import DEPTH, HEIGHT, LEFT_COLOR, NUM_FRAMES, RIGHT_COLOR, WIDTH, make_clip, make_scene, names_in

from recon4d.io import NoConfidentPointsError, confident_points, write_point_cloud
from recon4d.records import Scene


def test_positions_and_colors_of_points(tmp_path):
    # The pictures are larger than the maps, and colors must come from the corresponding pixels.
    write_point_cloud(tmp_path / "points.ply", make_scene(), make_clip(height=3 * HEIGHT, width=3 * WIDTH))
    assert b"format binary_little_endian" in (tmp_path / "points.ply").read_bytes()[:100]
    cloud = trimesh.load(tmp_path / "points.ply")
    assert isinstance(cloud, trimesh.PointCloud)
    assert cloud.vertices.shape == (NUM_FRAMES * HEIGHT * WIDTH, 3)
    # Pixel (x, y) shows the wall at ((x - 8) / 10, (y - 6) / 10) * 2 relative to its camera.
    expected_x = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / 10 * DEPTH
    expected_y = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / 10 * DEPTH
    vertices = np.asarray(cloud.vertices).reshape(NUM_FRAMES, HEIGHT, WIDTH, 3)
    for frame in range(NUM_FRAMES):
        np.testing.assert_allclose(vertices[frame, ..., 0], np.tile(expected_x + frame, (HEIGHT, 1)), atol=1e-6)
        np.testing.assert_allclose(vertices[frame, ..., 1], np.tile(expected_y[:, None], (1, WIDTH)), atol=1e-6)
    np.testing.assert_allclose(vertices[..., 2], DEPTH)
    colors = np.asarray(cloud.colors).reshape(NUM_FRAMES, HEIGHT, WIDTH, 4)[..., :3]
    # Resizing may mix the two colors in the middle.
    assert (colors[:, :, : WIDTH // 2 - 1] == LEFT_COLOR).all()
    assert (colors[:, :, WIDTH // 2 + 1 :] == RIGHT_COLOR).all()


def test_unknown_and_unconfident_pixels_are_left_out():
    scene, images = make_scene(1), make_clip(1).images
    pixels = HEIGHT * WIDTH
    scene.depth_confidence[0] = torch.arange(pixels).reshape(HEIGHT, WIDTH) + 1.0
    points, _ = confident_points(scene, images)
    assert len(points) == math.floor(0.8 * pixels)
    # The least confident pixels are the first rows, so the lower part of the image remains.
    assert torch.equal(points, scene.points_from_depth.flatten(0, 2)[pixels - len(points) :])

    scene = make_scene(1)
    scene.depth_confidence[0, 0] = 0
    scene.depths[0, 1] = math.nan
    scene.depths[0, 2] = math.inf
    scene.depths[0, 3] = -DEPTH
    points, _ = confident_points(scene, images)
    assert torch.equal(points, scene.points_from_depth[0, 4:].flatten(0, 1))

    scene = make_scene(2)
    scene.cameras.world_from_cam[1, 0, 3] = math.nan
    points, _ = confident_points(scene, make_clip(2).images)
    assert torch.equal(points, scene.points_from_depth[0].flatten(0, 1))


def test_depth_edges_are_left_out_on_both_sides_and_slopes_stay():
    scene, images = make_scene(1), make_clip(1).images
    scene.depths[0, :, 10:] = 3.0
    scene.depths[0, 5:, :4] = 1.8
    points, _ = confident_points(scene, images)
    is_kept = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    is_kept[:, 9:11] = False
    is_kept[4:6, :4] = False
    is_kept[5:, 3:5] = False
    assert torch.equal(points, scene.points_from_depth[0][is_kept])

    slope = make_scene(1)
    slope.depths[0] = DEPTH * 1.049 ** torch.arange(WIDTH)
    assert len(confident_points(slope, images)[0]) == HEIGHT * WIDTH
    slope.depths[0] = DEPTH * 1.051 ** torch.arange(WIDTH)
    assert len(confident_points(slope, images)[0]) == 0


def test_thinning_is_even_and_always_the_same(tmp_path):
    scene, clip = make_scene(), make_clip()
    # No two frames show the same point.
    scene.cameras.world_from_cam[:, 0, 3] *= 0.37
    points, colors = confident_points(scene, clip.images, max_points=144)
    assert points.shape == (144, 3)
    again, _ = confident_points(scene, clip.images, max_points=144)
    assert torch.equal(points, again)
    # A quarter of 576: 48 points of each frame, and no column is preferred although 4 divides the width.
    everywhere = scene.points_from_depth
    pixels = [(everywhere == point).all(dim=-1).nonzero()[0].tolist() for point in points]
    frames, _, columns = (torch.tensor(axis) for axis in zip(*pixels, strict=True))
    assert len({tuple(pixel) for pixel in pixels}) == 144
    assert torch.bincount(frames).tolist() == [48, 48, 48]
    assert torch.bincount(columns, minlength=WIDTH).min() >= 5
    is_left = columns < WIDTH // 2
    assert (colors[is_left] == torch.tensor(LEFT_COLOR)).all()
    for limit in (575, 576, 577):
        assert len(confident_points(scene, clip.images, max_points=limit)[0]) == min(limit, 576)
    write_point_cloud(tmp_path / "few.ply", scene, clip, max_points=10)
    assert len(trimesh.load(tmp_path / "few.ply").vertices) == 10  # type: ignore[union-attr]


def test_a_cloud_without_points_and_wrong_input_are_refused(tmp_path):
    scene, clip = make_scene(), make_clip()
    nothing = replace(scene, depth_confidence=torch.zeros_like(scene.depths))
    with pytest.raises(NoConfidentPointsError, match="no points"):
        write_point_cloud(tmp_path / "points.ply", nothing, clip)
    assert not names_in(tmp_path)
    with pytest.raises(ValueError, match=r"images have shape \(3, 3, 24, 16\), wanted \(3, 3, 12, 16\)"):
        confident_points(scene, make_clip(height=24).images)
    with pytest.raises(ValueError, match="max_points is 0"):
        confident_points(scene, clip.images, max_points=0)
    with pytest.raises(ValueError, match="given a batch"):
        confident_points(Scene.stack([scene]), clip.images)
