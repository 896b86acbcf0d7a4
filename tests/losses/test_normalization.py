"""Normalization: the unit and the frame of a scene do not matter."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene
from torch.testing import assert_close

from recon4d import geometry as g
from recon4d.losses import (
    normalized,
    scene_scale,
)
from recon4d.records import Scene


def with_points(scene: Scene, points: torch.Tensor, confidence: torch.Tensor | None = None) -> Scene:
    confidence = scene.point_confidence if confidence is None else confidence
    return replace(scene, points=points, point_confidence=confidence)


class TestNormalization:
    def test_the_unit_is_the_mean_distance_from_the_first_camera(self) -> None:
        scene = make_scene()
        distances = (scene.points - scene.cameras.centers[0]).norm(dim=-1)
        assert_close(scene_scale(scene), distances.mean())

    def test_the_scale_uses_known_points_only(self) -> None:
        scene = make_scene()
        points, confidence = scene.points.clone(), torch.zeros_like(scene.depths)
        points[...] = math.nan
        points[0, 0, 0], confidence[0, 0, 0] = torch.tensor([3.0, 0.0, 4.0]), 1
        points[1, 0, 0], confidence[1, 0, 0] = torch.tensor([0.0, 0.0, 1.0]), 1
        points[1, 0, 1], confidence[1, 0, 1] = torch.tensor([math.inf, 0.0, 1.0]), 1
        assert scene_scale(with_points(scene, points, confidence)) == 3

    def test_far_points_are_capped_at_ten_medians(self) -> None:
        scene = make_scene(frames=1)
        points = torch.tensor([0.0, 0.0, 2.0]).repeat(1, HEIGHT, WIDTH, 1)
        points[0, 0, 0, 2] = 1e6
        pixels = HEIGHT * WIDTH
        assert scene_scale(with_points(scene, points)).item() == pytest.approx(((pixels - 1) * 2 + 20) / pixels)

    def test_the_median_is_over_known_points(self) -> None:
        scene = make_scene(frames=1)
        points = torch.tensor([0.0, 0.0, 1e-3]).repeat(1, HEIGHT, WIDTH, 1)
        confidence = torch.zeros(1, HEIGHT, WIDTH)
        for column, z in enumerate((1.0, 2.0, 3.0, 100.0)):
            points[0, 0, column, 2], confidence[0, 0, column] = z, 1
        # Lower median 2, so the last counts as 20.
        assert scene_scale(with_points(scene, points, confidence)).item() == pytest.approx(26 / 4)

    def test_the_scale_does_not_depend_on_the_world_frame(self) -> None:
        scene = make_scene()
        elsewhere = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, 0.2, 0.9])), torch.tensor([5.0, -3.0, 2.0]))
        assert_close(scene_scale(scene.transformed(elsewhere)), scene_scale(scene))

    def test_without_points_the_scale_comes_from_cameras(self) -> None:
        scene = make_scene(frames=3)
        scene = with_points(scene, scene.points * math.nan, torch.zeros_like(scene.depths))
        distances = scene.cameras.centers.norm(dim=-1)
        assert_close(scene_scale(scene), distances[1:].mean())
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[2] = math.nan
        scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
        assert_close(scene_scale(scene), distances[1])

    @pytest.mark.parametrize("frames", [1, 3])
    def test_without_any_length_the_scale_is_one(self, frames: int) -> None:
        scene = make_scene(frames=frames)
        cameras = replace(scene.cameras, world_from_cam=torch.eye(4).repeat(frames, 1, 1))
        scene = replace(with_points(scene, scene.points, torch.zeros_like(scene.depths)), cameras=cameras)
        assert scene_scale(scene) == 1
        assert scene_scale(with_points(scene, 0 * scene.points, torch.ones_like(scene.depths))) == 1

    def test_normalized_truth_has_unit_scale_in_the_first_camera(self) -> None:
        to_unit = g.similarity(
            torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.1, 1.0, 0.2])), torch.ones(3)
        )
        scene = make_scene(metres_per_unit=2.0)
        unit = normalized(scene.transformed(to_unit))
        scale = scene_scale(scene)
        assert_close(scene_scale(unit), torch.tensor(1.0))
        assert torch.equal(unit.cameras.world_from_cam[0], torch.eye(4))
        assert_close(unit.depths * scale, scene.depths)
        assert_close(unit.points * scale, scene.points, atol=1e-5, rtol=1e-5)
        assert_close(unit.cameras.centers * scale, scene.cameras.centers, atol=1e-5, rtol=1e-5)
        assert_close(unit.metres_per_unit, 2 * scale)
        assert unit.tracks is not None
        assert scene.tracks is not None
        assert_close(unit.tracks.points * scale, scene.tracks.points, atol=1e-5, rtol=1e-5)
        assert_close(unit.points_from_depth, unit.points, atol=1e-5, rtol=1e-5)

    def test_batches_are_normalized_one_by_one(self) -> None:
        near, far = (
            make_scene(),
            make_scene(seed=1).transformed(g.similarity(torch.tensor(7.0), torch.eye(3), torch.ones(3))),
        )
        both = normalized(Scene.stack([near, far]))
        for given, alone in zip((both[0], both[1]), (near, far), strict=True):
            assert_close(given.points, normalized(alone).points)

    def test_an_unknown_first_camera_keeps_the_world_frame(self) -> None:
        scene = make_scene()
        world_from_cam = scene.cameras.world_from_cam.clone()
        world_from_cam[0] = math.nan
        unit = normalized(replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam)))
        assert_close(unit.points * scene_scale(scene), scene.points)
        assert unit.cameras.world_from_cam[0].isnan().any()
        assert unit.cameras.world_from_cam[1:].isfinite().all()

    def test_unknown_points_go_to_the_origin(self) -> None:
        scene = make_scene()
        confidence = scene.point_confidence.clone()
        confidence[0, 0, 0] = 0
        points = scene.points.clone()
        points[0, 0, 0] = math.nan
        assert normalized(with_points(scene, points, confidence)).points[0, 0, 0].tolist() == [0, 0, 0]
