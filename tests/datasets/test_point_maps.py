"""Tests of ground-truth point maps: rasterized tracks, and maps over the pixels of anchor frames."""

from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene

from recon4d.datasets.point_maps import anchor_maps, rasterize_tracks
from recon4d.geometry import unproject
from recon4d.records import Scene, Tracks

SIZE = (HEIGHT, WIDTH)


def tracks_at(pixels: list[tuple[float, float]], depths: list[float], scene: Scene) -> Tracks:
    """Create static tracks of points at `pixels` and z `depths` of the first frame, whose camera is the identity."""
    where = torch.tensor(pixels)
    points = unproject(where, torch.tensor(depths), scene.cameras.intrinsics[0])
    over_time = points.expand(1, scene.num_frames, -1, -1).clone()
    ones = torch.ones(over_time.shape[:-1])
    return Tracks(over_time, ones, ones.clone(), torch.tensor([0]), where[None])


class TestRasterizeTracks:
    def test_a_point_belongs_to_the_pixel_of_its_floor(self) -> None:
        scene = make_scene()
        tracks = tracks_at([(3.02, 5.98), (0.01, 0.01), (15.97, 11.96)], [2.0, 3.0, 4.0], scene)
        maps, known = rasterize_tracks(tracks, scene, SIZE)
        assert known[0].nonzero().tolist() == [[0, 0], [5, 3], [11, 15]]
        assert torch.equal(maps[0, 5, 3], tracks.points[0, 0, 0])
        assert torch.equal(maps[0, 11, 15], tracks.points[0, 0, 2])
        assert not maps[0][~known[0]].any()

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_the_closest_point_of_a_pixel_is_used(self, order: tuple[int, int]) -> None:
        scene = make_scene()
        depths = [[5.0, 2.0][i] for i in order]
        tracks = tracks_at([(4.3, 4.3), (4.7, 4.7)], depths, scene)
        maps, known = rasterize_tracks(tracks, scene, SIZE)
        assert known[0].sum() == 1
        assert maps[0, 4, 4, 2] == 2.0

    def test_occluded_unknown_and_outside_points_are_not_rasterized(self) -> None:
        scene = make_scene()
        tracks = tracks_at([(1.5, 1.5), (2.5, 1.5), (3.5, 1.5), (-0.2, 1.5), (4.5, 12.1)], [2.0] * 5, scene)
        tracks.visibility[0, 0, 0] = 0
        tracks.confidence[0, 0, 1] = 0
        # Behind the camera, on a ray that `project` does not map far outside the image.
        tracks.points[0, 0, 2] = torch.tensor([77.0, 65.0, -220.0])
        _, known = rasterize_tracks(tracks, scene, SIZE)
        assert not known[0].any()

    def test_each_frame_has_its_own_camera_and_its_own_size(self) -> None:
        scene = make_scene()
        maps, known = rasterize_tracks(scene.tracks, scene, (2 * HEIGHT, 2 * WIDTH))
        expected = (2 * scene.track_pixels[0]).floor().long()
        for time in range(3):
            inside = {(x, y) for x, y in expected[time].tolist() if x in range(2 * WIDTH) and y in range(2 * HEIGHT)}
            assert {(x, y) for y, x in known[time].nonzero().tolist()} == inside
        # Every point lies on the wall z = 4 + x / 4.
        assert torch.allclose(maps[known][:, 2], 4 + maps[known][:, 0] / 4, atol=1e-4)

    def test_dense_tracks_give_the_point_map_at_the_anchor_time(self) -> None:
        scene = make_scene()
        maps, known = rasterize_tracks(scene.tracks, scene, SIZE)
        assert known[0].all()
        assert torch.equal(maps[0], scene.points[0])

    def test_a_batch_equals_its_single_scenes(self) -> None:
        scenes = [make_scene(seed=0, anchors=(0, 2)), make_scene(seed=1, anchors=(0, 2))]
        batch = Scene.stack(scenes)
        maps, known = rasterize_tracks(batch.tracks, batch, SIZE)
        alone = [rasterize_tracks(scene.tracks, scene, SIZE) for scene in scenes if scene.tracks is not None]
        assert torch.equal(known, torch.stack([one[1] for one in alone]))
        assert torch.allclose(maps, torch.stack([one[0] for one in alone]), atol=1e-6)
        batch_maps = anchor_maps(batch.tracks, SIZE)
        assert torch.equal(batch_maps[1].positions, anchor_maps(scenes[1].tracks, SIZE).positions)


class TestAnchorMaps:
    def test_dense_tracks_fill_every_pixel_with_the_anchors_own_point_map(self) -> None:
        scene = make_scene(anchors=(0, 2))
        maps = anchor_maps(scene.tracks, SIZE)
        assert maps.is_known.all()
        assert torch.equal(maps.positions[0, 0], scene.points[0])
        assert torch.equal(maps.positions[1, 2], scene.points[2])
        assert torch.equal(maps.positions, scene.tracks.points.unflatten(-2, SIZE))

    def test_displacement_is_relative_to_the_position_at_the_anchors_time(self) -> None:
        scene = make_scene(anchors=(0, 2))
        speed = torch.tensor([0.1, 0.2, -0.3])
        moved = scene.tracks.points + torch.arange(3.0)[:, None, None] * speed
        maps = anchor_maps(replace(scene.tracks, points=moved), SIZE)
        for row, anchor in enumerate((0, 2)):
            for time in range(3):
                expected = ((time - anchor) * speed).expand(*SIZE, 3)
                assert torch.allclose(maps.displacements[row, time], expected, atol=1e-6)
        assert not maps.displacements[1, 2].any()

    def test_sparse_tracks_give_sparse_maps(self) -> None:
        scene = make_scene()
        tracks = tracks_at([(3.1, 5.9), (9.9, 2.0)], [2.0, 3.0], scene)
        maps = anchor_maps(tracks, SIZE)
        assert maps.is_known[0, 1].nonzero().tolist() == [[2, 9], [5, 3]]
        assert torch.equal(maps.positions[0, 1, 5, 3], tracks.points[0, 1, 0])

    def test_the_query_closest_to_the_center_of_the_pixel_is_used(self) -> None:
        tracks = tracks_at([(3.1, 5.1), (3.4, 5.6), (3.9, 5.9)], [2.0, 3.0, 4.0], make_scene())
        assert anchor_maps(tracks, SIZE).positions[0, 0, 5, 3, 2] == 3.0

    def test_a_point_is_known_only_if_known_at_the_anchor_and_at_the_time(self) -> None:
        tracks = tracks_at([(3.5, 5.5), (6.5, 5.5)], [2.0, 3.0], make_scene())
        tracks.confidence[0, 0, 0] = 0  # unknown at the anchor
        tracks.confidence[0, 2, 1] = 0  # unknown later
        tracks.points[0, 2, 1] = torch.nan
        maps = anchor_maps(tracks, SIZE)
        assert not maps.is_known[..., 5, 3].any()
        assert maps.is_known[0, :, 5, 6].tolist() == [True, True, False]
        assert torch.isfinite(maps.positions).all()
        assert torch.isfinite(maps.displacements).all()

    def test_points_of_a_sliced_anchor_are_unknown(self) -> None:
        scene = make_scene(anchors=(0, 2)).frames([1, 2])
        maps = anchor_maps(scene.tracks, SIZE)
        assert not maps.is_known[0].any()
        assert maps.is_known[1].all()

    def test_no_queries_give_empty_maps(self) -> None:
        scene = make_scene()
        tracks = tracks_at([(1.5, 1.5)], [2.0], scene)
        none = Tracks(
            tracks.points[:, :, :0],
            tracks.visibility[..., :0],
            tracks.confidence[..., :0],
            tracks.anchors,
            tracks.pixels[:, :0],
        )
        assert not anchor_maps(none, SIZE).is_known.any()
        assert not rasterize_tracks(none, scene, SIZE)[1].any()
