"""Exported COLMAP models are read back by pycolmap and by hand."""

import re
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
import torch
from exported_walls import save, written
from scenes import HEIGHT, WIDTH, make_scene

from recon4d.datasets.readers.colmap import ColmapModels
from recon4d.errors import UserError
from recon4d.io import (
    NoConfidentPointsError,
    PointSelection,
    export_results,
    read_results,
)
from recon4d.records import Scene

EVERYTHING = PointSelection(drop=0.0)


class TestColmap:
    @pytest.mark.parametrize("name", ["colmap", "colmap-text"])
    def test_colmap_reads_the_same_cameras_and_points(self, tmp_path, results, name):
        folder = written(tmp_path, results, name)
        model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
        assert model.is_valid()
        by_name = {image.name: image for image in model.images.values()}
        assert set(by_name) == {path.name for path in (folder / "images").iterdir()}
        intrinsics = results.original_cameras().intrinsics
        for frame, name_of_frame in enumerate(("first_picture.jpg", "second.jpg", "third.jpg")):
            image = by_name[name_of_frame]
            wanted = results.scene.cameras.cam_from_world[frame, :3].numpy()
            np.testing.assert_allclose(image.cam_from_world().matrix(), wanted, atol=1e-6)
            np.testing.assert_allclose(image.camera.calibration_matrix(), intrinsics[frame].numpy(), atol=1e-5)
            assert (image.camera.height, image.camera.width) == (2 * HEIGHT, 2 * WIDTH)
        model.update_point_3d_errors()
        assert model.compute_mean_reprojection_error() < 1e-3
        # The wall is z = 4 + x / 4, without its dynamic quarter.
        points = np.stack([point.xyz for point in model.points3D.values()])
        np.testing.assert_allclose(points[:, 2], 4 + points[:, 0] / 4, atol=1e-5)
        assert len(points) == 3 * HEIGHT * (WIDTH * 3 // 4)

    def test_a_point_is_observed_at_its_own_pixel_and_has_its_color(self, tmp_path, results):
        model = pycolmap.Reconstruction(str(written(tmp_path, results, "colmap") / "sparse" / "0"))
        image = next(image for image in model.images.values() if image.name == "first_picture.jpg")
        own = image.points2D[0]
        # The first static pixel is column 4 of row 0; the picture is twice as large.
        np.testing.assert_allclose(own.xy, [2 * (WIDTH // 4 + 0.5), 1.0], atol=1e-9)
        point = model.points3D[own.point3D_id]
        np.testing.assert_allclose(point.xyz, results.scene.points[0, 0, WIDTH // 4].numpy(), atol=1e-5)
        assert np.abs(point.color.astype(int) - [40, 100, 200]).max() <= 3

    def test_points_are_observed_only_where_depths_agree(self, tmp_path, results):
        def others(scene: Scene, out: str) -> int:
            folder = written(tmp_path / out, results.with_scene(scene), "colmap")
            model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
            return sum(point.track.length() - 1 for point in model.points3D.values())

        assert others(results.scene, "agree") > results.scene.depths.numel() // 2
        apart = results.scene.depths * torch.tensor([1.0, 1.1, 1.3])[:, None, None]
        assert others(replace(results.scene, depths=apart), "apart") == 0

    def test_dynamic_and_unknown_pixels_observe_no_points(self, tmp_path, results):
        def observed(change: str) -> set[tuple[int, int]]:
            """Return map pixels of the second picture at which points are observed."""
            scene = results.scene
            maps = scene.dynamic if change == "dynamic" else scene.depth_confidence
            maps = maps.clone()
            maps[1] = 1.0 if change == "dynamic" else 0.0
            changed = replace(scene, **{change: maps})
            folder = written(tmp_path / change, results.with_scene(changed), "colmap")
            model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
            image = next(image for image in model.images.values() if image.name == "second.jpg")
            return {(int(point.xy[0] // 2), int(point.xy[1] // 2)) for point in image.points2D}

        assert observed("dynamic") == set()
        assert observed("depth_confidence") == set()

    def test_static_tracks_become_points(self, tmp_path):
        """They are observed at the tracked pixels; tracks that are dynamic, hidden or inaccurate are left out."""
        scene = make_scene()
        scene.dynamic[:, :, : WIDTH // 4] = 1.0
        tracks = scene.tracks
        query = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        hidden, inaccurate, unknown = query[3, 8], query[4, 8], query[5, 8]
        tracks.visibility[0, 1:, hidden] = 0.1
        tracks.confidence[0, 2, unknown] = 0.0
        points = tracks.points.clone()
        points[0, 2, inaccurate] += 0.5
        scene = replace(scene, tracks=replace(tracks, points=points), depth_confidence=scene.depth_confidence.clone())
        results = read_results(save(tmp_path / "results", scene))
        folder = written(tmp_path, results, "colmap")
        model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
        from_pixels = 3 * HEIGHT * (WIDTH * 3 // 4)
        tracked = {number - from_pixels - 1: point for number, point in model.points3D.items() if number > from_pixels}
        pixels = results.scene.track_pixels[0]
        inside = ((pixels >= 0) & (pixels < torch.tensor([WIDTH, HEIGHT]))).all(dim=-1)
        observed = (inside & (results.scene.tracks.visibility[0] > 0.5)).clone()
        observed[2, [inaccurate, unknown]] = False
        static = (torch.arange(HEIGHT * WIDTH) % WIDTH) >= WIDTH // 4
        expected = ((observed.sum(dim=0) >= 2) & static).nonzero()[:, 0]
        assert hidden not in expected
        assert {int(inaccurate), int(unknown)} <= set(expected.tolist())
        assert sorted(tracked) == list(range(len(expected)))
        names = {image.name: number for number, image in model.images.items()}
        for row, one in enumerate(expected.tolist()):
            point = tracked[row]
            np.testing.assert_allclose(point.xyz, scene.points.reshape(3, -1, 3)[0, one].numpy(), atol=1e-5)
            assert np.abs(point.color.astype(int) - [40, 100, 200]).max() <= 3
            frames = observed[:, one].nonzero()[:, 0].tolist()
            by_image = {element.image_id: element.point2D_idx for element in point.track.elements}
            assert set(by_image) == {names[("first_picture.jpg", "second.jpg", "third.jpg")[frame]] for frame in frames}
            for frame in frames:
                number = names[("first_picture.jpg", "second.jpg", "third.jpg")[frame]]
                at = model.images[number].points2D[by_image[number]].xy
                np.testing.assert_allclose(at, 2 * pixels[frame, one].numpy(), atol=1e-3)
        # At most half of the points come from tracks.
        (exported,) = export_results(tmp_path / "few", results, ["colmap"], PointSelection(drop=0, max_points=40))
        assert "40 points (20 of them from tracks)" in exported.summary
        (exported,) = export_results(tmp_path / "one", results, ["colmap"], PointSelection(drop=0, max_points=1))
        assert "1 points (0 of them from tracks)" in exported.summary

    def test_our_own_reader_agrees(self, tmp_path, results):
        sample = ColmapModels(written(tmp_path, results, "colmap-text")).read("colmap-text", [0, 1, 2])
        relative = results.scene.in_frame(0).cameras.world_from_cam
        torch.testing.assert_close(sample.scene.cameras.world_from_cam, relative, atol=1e-5, rtol=0)
        assert sample.scene.tracks.visibility.sum() > 0

    def test_the_summary_has_the_residual_of_the_file(self, tmp_path, results):
        (exported,) = export_results(tmp_path / "out", results, ["colmap"], EVERYTHING)
        residual = float(exported.summary.split("residual ")[1].split()[0])
        model = pycolmap.Reconstruction(str(tmp_path / "out" / "colmap" / "sparse" / "0"))
        errors = [point.error for point in model.points3D.values()]
        assert 0 < residual < 1e-4
        assert 0 < np.mean(errors) < 1e-4

    def test_skew_and_unknown_cameras_are_refused(self, tmp_path, results):
        intrinsics = results.scene.cameras.intrinsics.clone()
        intrinsics[1, 0, 1] = 0.5
        skewed = replace(results.scene, cameras=replace(results.scene.cameras, intrinsics=intrinsics))
        with pytest.raises(UserError, match=r"frame 1 \(.*\) has a skew of 1;"):
            written(tmp_path, results.with_scene(skewed), "colmap")
        intrinsics[1] = torch.nan
        with pytest.raises(UserError, match=r"frame 1 \(.*frames.*\) is unknown"):
            written(tmp_path, results.with_scene(skewed), "nerfstudio")

    def test_every_error_names_the_results(self, tmp_path, results):
        unknown = replace(results.scene, depth_confidence=torch.zeros_like(results.scene.depth_confidence))
        folder = str(results.frame_files[0].parent.parent)
        with pytest.raises(NoConfidentPointsError, match=f"^{re.escape(folder)}: no pixel has"):
            written(tmp_path, results.with_scene(unknown), "ply")
