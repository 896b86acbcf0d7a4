"""Records: validation, stacking, slicing by time, conversion, and use with DataLoader and Accelerate."""

from dataclasses import replace

import pytest
import torch
from scenes import make_clip, make_scene
from torch.utils.data import DataLoader

from recon4d import geometry as g
from recon4d.records import (
    Cameras,
    Clip,
    ClipSource,
    Priors,
    Scene,
    Tracks,
)


class TestTensorRecord:
    def test_inconsistent_sizes_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Cameras.intrinsics has shape \(2, 3, 3\), wanted .* with time = 3"):
            Cameras(torch.eye(4).expand(3, 4, 4), torch.eye(3).expand(2, 3, 3))

    def test_sizes_are_shared_with_nested_records(self) -> None:
        scene = make_scene(frames=3)
        with pytest.raises(ValueError, match="time = 2"):
            replace(scene, cameras=scene.cameras.frames([0, 1]))

    def test_fixed_sizes_and_dtypes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"wanted \(\*batch time 4 4\) with 4 = 4"):
            Cameras(torch.zeros(3, 3, 4), torch.eye(3).expand(3, 3, 3))
        with pytest.raises(ValueError, match=r"Clip\.images has dtype int64, wanted UInt8"):
            Clip(torch.zeros(2, 3, 8, 8, dtype=torch.int64), torch.zeros(2))

    def test_stack_then_index_gives_each_record_back(self) -> None:
        scenes = [make_scene(seed=0), make_scene(seed=1)]
        batch = Scene.stack(scenes)
        assert batch.batch_shape == (2,)
        assert batch.tracks is not None
        assert scenes[1].tracks is not None
        assert torch.equal(batch[1].depths, scenes[1].depths)
        assert torch.equal(batch[1].tracks.points, scenes[1].tracks.points)  # pyright: ignore

    def test_stack_rejects_different_shapes_and_missing_fields(self) -> None:
        with pytest.raises(ValueError, match="cannot stack 'world_from_cam' with different shapes"):
            Scene.stack([make_scene(frames=2), make_scene(frames=3)])
        with pytest.raises(ValueError, match="only some of them have 'tracks'"):
            Scene.stack([make_scene(), replace(make_scene(), tracks=None)])
        with pytest.raises(ValueError, match="requires at least one record"):
            Scene.stack([])

    def test_single_record_has_no_batch_axis_to_index(self) -> None:
        with pytest.raises(ValueError, match="select frames with"):
            make_scene()[0]

    @pytest.mark.parametrize("batched", [False, True])
    def test_frames_select_along_time_only(self, batched: bool) -> None:
        scene = make_scene(frames=4, metres_per_unit=2.0)
        scene = Scene.stack([scene, scene]) if batched else scene
        selected = scene.frames([3, 1])
        assert torch.equal(selected.depths[..., 0, :, :], scene.depths[..., 3, :, :])
        assert torch.equal(selected.cameras.intrinsics[..., 1, :, :], scene.cameras.intrinsics[..., 1, :, :])
        assert selected.tracks is not None
        assert scene.tracks is not None
        assert torch.equal(selected.tracks.points[..., 0, :, :], scene.tracks.points[..., 3, :, :])
        assert torch.equal(selected.tracks.pixels, scene.tracks.pixels)
        assert torch.equal(selected.metres_per_unit, scene.metres_per_unit)
        assert torch.equal(scene.frames(slice(1, 3)).depths, scene.frames([1, 2]).depths)
        assert torch.equal(scene.frames([-1]).depths, scene.frames([3]).depths)

    def test_to_changes_floating_point_only(self) -> None:
        clip = make_clip().to(dtype=torch.float64)
        assert clip.times.dtype == torch.float64
        assert clip.images.dtype == torch.uint8

    def test_through_a_data_loader_and_accelerate(self) -> None:
        from accelerate import Accelerator

        clips = [make_clip(seed=seed) for seed in range(4)]
        loader = DataLoader(clips, batch_size=2, collate_fn=Clip.stack)  # pyright: ignore
        batches = [Accelerator(cpu=True).prepare_data_loader(loader)]
        batches = list(batches[0])
        assert [batch.batch_shape for batch in batches] == [(2,), (2,)]
        assert torch.equal(batches[1].images[0], clips[2].images)


class TestCameras:
    def test_in_frame_makes_that_camera_the_identity(self) -> None:
        cameras = make_scene(frames=3).cameras.in_frame(2)
        torch.testing.assert_close(cameras.world_from_cam[2], torch.eye(4))

    def test_relative_poses_do_not_depend_on_the_world_frame(self) -> None:
        cameras = make_scene(frames=3).cameras
        moved = cameras.in_frame(1)
        torch.testing.assert_close(
            moved.cam_from_world[0] @ moved.world_from_cam[2], cameras.cam_from_world[0] @ cameras.world_from_cam[2]
        )

    def test_resizing_cropping_and_padding_can_be_undone(self) -> None:
        cameras = make_scene().cameras
        round_trip = cameras.resized((12, 16), (30, 20)).resized((30, 20), (12, 16)).cropped(3, 4).padded(3, 4)
        torch.testing.assert_close(round_trip.intrinsics, cameras.intrinsics)


def test_points_inside_the_image_and_in_front_of_the_camera_are_told_apart() -> None:
    intrinsics = torch.tensor([[2.0, 0.0, 2.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    cameras = Cameras(torch.eye(4)[None], intrinsics[None])
    # On the plane z = 2, x - 2 and y - 1 in pixels are world coordinates.
    points = torch.tensor([[-2.0, -1, 2], [-2.1, 0, 2], [1.9, 0.9, 2], [2.0, 0, 2], [0, 1.0, 2], [0, 0, -2.0]])
    projected = cameras.project_points(points[None], (2, 4))
    assert projected.inside[0].tolist() == [True, False, True, False, False, False]
    torch.testing.assert_close(projected.pixels[0, :5], points[:5, :2] + torch.tensor([2.0, 1.0]))
    assert torch.equal(projected.depths[0], points[:, 2])


class TestClip:
    def test_names_and_numbers_follow_the_frames(self) -> None:
        source = ClipSource("walk.mp4", ("a", "b", "c"), (0, 5, 10))
        clip = replace(make_clip(frames=3), source=source)
        assert clip.frames([2, 0]).source == ClipSource("walk.mp4", ("c", "a"), (10, 0))
        assert Clip.stack([clip, clip]).source == source
        other = replace(clip, source=replace(source, path="run.mp4"))
        assert Clip.stack([clip, other]).source is None

    def test_resize_keeps_colors_and_adapts_priors(self) -> None:
        images = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
        images[..., 8:] = 200
        priors = replace(
            Priors.unknown(1),
            intrinsics=torch.tensor([[[10.0, 0.0, 8.0], [0.0, 10.0, 4.0], [0.0, 0.0, 1.0]]]),
            depths=torch.full((1, 8, 16), torch.nan).index_fill(2, torch.tensor([0]), 3.0),
            ignore=torch.zeros(1, 8, 16, dtype=torch.bool).index_fill(2, torch.tensor([15]), True),
        )
        clip = Clip(images, torch.zeros(1), priors).resized(4, 4)
        assert clip.images.dtype == torch.uint8
        assert clip.images[0, 0, 2].tolist()[0] == 0
        assert clip.images[0, 0, 2].tolist()[3] == 200
        assert clip.priors is not None
        assert clip.priors.intrinsics[0].diagonal().tolist() == pytest.approx([2.5, 5.0, 1.0])
        assert clip.priors.depths is not None
        torch.testing.assert_close(clip.priors.depths[0, :, 0], torch.full((4,), 3.0))
        assert clip.priors.depths[0, :, 1:].isnan().all()
        assert clip.priors.ignore is not None
        assert clip.priors.ignore[0].any(dim=0).tolist() == [False, False, False, True]

    def test_same_size_is_the_same_clip(self) -> None:
        clip = make_clip()
        assert clip.resized(*clip.size) is clip


class TestTracks:
    def test_anchors_are_renumbered_with_the_frames(self) -> None:
        scene = make_scene(frames=4, anchors=(0, 2))
        assert scene.tracks is not None
        assert scene.tracks.frames([2, 3, 0]).anchors.tolist() == [2, 0]
        assert scene.tracks.frames([1, 2]).anchors.tolist() == [-1, 1]
        assert Tracks.stack([scene.tracks, scene.tracks]).frames([2, 0]).anchors.tolist() == [[1, 0], [1, 0]]


class TestScene:
    def test_only_more_than_an_even_chance_of_motion_is_dynamic(self) -> None:
        scene = make_scene()
        dynamic = torch.full_like(scene.dynamic, 0.5)
        dynamic[0, 0, :3] = torch.tensor([torch.nan, 0.51, 0.49])
        assert replace(scene, dynamic=dynamic).is_dynamic.nonzero().tolist() == [[0, 0, 1]]

    def test_points_from_depth_project_back_to_their_pixels(self) -> None:
        scene = make_scene(frames=3)
        in_camera = g.transform_points(scene.cameras.cam_from_world, scene.points_from_depth)
        pixels = g.project(in_camera, scene.cameras.intrinsics)
        grid = g.pixel_grid(*scene.size).expand_as(pixels)
        torch.testing.assert_close(pixels, grid, atol=1e-4, rtol=0)
        torch.testing.assert_close(in_camera[..., 2], scene.depths)

    @pytest.mark.parametrize("batched", [False, True])
    def test_tracks_of_static_points_project_to_their_pixels_in_every_frame(self, batched: bool) -> None:
        scene = make_scene(frames=3)
        expected = g.project(
            g.transform_points(scene.cameras.cam_from_world[2], scene.points[0].reshape(-1, 3)),
            scene.cameras.intrinsics[2],
        )
        pixels = (Scene.stack([scene, scene])[1] if batched else scene).track_pixels
        torch.testing.assert_close(pixels[0, 2], expected)

    def test_another_world_frame_does_not_change_projections(self) -> None:
        scene = make_scene(frames=3, metres_per_unit=2.0)
        new_from_world = g.similarity(
            torch.tensor(3.0),
            g.rotation_from_axis_angle(torch.tensor([0.3, -0.2, 0.5])),
            torch.tensor([1.0, 2.0, 3.0]),
        )
        moved = scene.transformed(new_from_world)
        torch.testing.assert_close(moved.depths, 3 * scene.depths)
        torch.testing.assert_close(moved.points_from_depth, moved.points, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(moved.track_pixels, scene.track_pixels, atol=1e-3, rtol=1e-4)
        # Lengths in meters do not change.
        torch.testing.assert_close(moved.depths * moved.metres_per_unit, scene.depths * scene.metres_per_unit)

    def test_in_frame_is_exactly_the_identity(self) -> None:
        scene = make_scene(frames=3).in_frame(1)
        assert torch.equal(scene.cameras.world_from_cam[1], torch.eye(4))
        torch.testing.assert_close(scene.points_from_depth, scene.points, atol=1e-5, rtol=1e-4)

    def test_resized_maps_and_intrinsics_are_consistent(self) -> None:
        scene = make_scene(frames=2)
        larger = scene.resized(24, 40)
        assert larger.size == (24, 40)
        # Depth is linear in pixels, so interpolated points stay on the surface.
        torch.testing.assert_close(
            larger.points_from_depth[..., 2:-2, 2:-2, :], larger.points[..., 2:-2, 2:-2, :], atol=2e-2, rtol=2e-2
        )
        assert larger.tracks is not None
        assert scene.tracks is not None
        torch.testing.assert_close(larger.tracks.pixels[0, 0], torch.tensor([0.5 * 40 / 16, 0.5 * 24 / 12]))
        torch.testing.assert_close(larger.tracks.points, scene.tracks.points)

    def test_resized_ground_truth_keeps_confidence_zero_or_one(self) -> None:
        scene = make_scene()
        confidence = torch.ones_like(scene.depth_confidence)
        confidence[..., :5] = 0
        depths = torch.where(confidence > 0, scene.depths, torch.inf)
        dynamic = torch.full_like(scene.dynamic, torch.nan)
        truth = replace(scene, depths=depths, depth_confidence=confidence, dynamic=dynamic).resized(31, 9)
        assert set(truth.depth_confidence.unique().tolist()) == {0.0, 1.0}
        assert truth.depths.isfinite().all()
        assert truth.dynamic.isnan().all()

    def test_a_scene_without_tracks_has_no_track_pixels(self) -> None:
        with pytest.raises(ValueError, match="no tracks"):
            _ = replace(make_scene(), tracks=None).track_pixels
