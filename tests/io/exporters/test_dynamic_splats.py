"""Files of Gaussians over time: read back by other programs and by this one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from exported_walls import EVERYTHING, NAMES, save, wall, written
from scenes import HEIGHT, WIDTH, make_scene
from scipy.spatial.transform import Rotation

from recon4d.errors import UserError
from recon4d.geometry import rotation_from_axis_angle, rotation_from_quaternion
from recon4d.io import PointSelection, SavedResults, export_results, read_results
from recon4d.io.gaussian_files import read_dynamic_gaussians, write_dynamic_gaussians, write_gaussians
from recon4d.io.ply_elements import read_ply_elements, write_ply_elements
from recon4d.records.gaussians import DynamicGaussians, Gaussians
from recon4d.records.trajectories import Trajectories

VIEWER_PROPERTIES = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def some_gaussians(count: int = 50) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        centers=torch.randn(count, 3, generator=generator),
        scales=torch.rand(count, 3, generator=generator) + 0.01,
        quaternions=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        opacities=torch.rand(count, generator=generator).clamp(0.01, 0.99),
        colors=torch.rand(count, 3, generator=generator),
    )


def some_motion() -> DynamicGaussians:
    """Return Gaussians of every kind, of which two pieces with two curves each move."""
    generator = torch.Generator().manual_seed(1)
    rotations = rotation_from_axis_angle(torch.randn(6, 3, generator=generator))
    poses = torch.eye(4).repeat(6, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotations, torch.randn(6, 3, generator=generator)
    poses = poses.unflatten(0, (2, 3))
    poses[:, 0] = torch.eye(4)
    curves = Trajectories(
        control_points=torch.randn(4, 5, 3, generator=generator),
        interval=torch.tensor([0.0, 2.0]),
        times=torch.tensor([0.0, 0.7, 2.0]),
        visibility=torch.rand(4, 3, generator=generator),
        confidence=torch.rand(4, generator=generator) + 1,
        anchors=torch.tensor([0, 0, 2, 1]),
        pixels=torch.rand(4, 2, generator=generator),
        support=torch.tensor([[0.0, 2.0]]).repeat(4, 1),
        pieces=torch.tensor([0, 1, -1, 0]),
        world_from_piece=poses,
    )
    which = torch.arange(50)
    return DynamicGaussians(
        gaussians=some_gaussians(),
        curves=torch.where(which < 20, -1, which % 4),
        offsets=torch.where(which[:, None] < 20, 0.0, torch.randn(50, 3, generator=generator)),
        shown_frames=torch.where(which % 5 == 0, which % 3, -1),
        times=curves.times,
        trajectories=curves,
    )


class TestFiles:
    def test_one_time_has_what_viewers_read(self, tmp_path: Path) -> None:
        gaussians = some_gaussians()
        write_gaussians(tmp_path / "one.ply", gaussians)
        rows = trimesh.load(tmp_path / "one.ply").metadata["_ply_raw"]["vertex"]["data"]
        assert list(rows.dtype.names) == VIEWER_PROPERTIES
        np.testing.assert_array_equal(np.stack([rows[axis] for axis in "xyz"], axis=1), gaussians.centers.numpy())
        for axis in range(3):
            np.testing.assert_allclose(np.exp(rows[f"scale_{axis}"]), gaussians.scales[:, axis], rtol=1e-5)
            color = 0.5 + 0.28209479177387814 * rows[f"f_dc_{axis}"]
            np.testing.assert_allclose(color, gaussians.colors[:, axis], atol=1e-6)
        np.testing.assert_allclose(1 / (1 + np.exp(-rows["opacity"])), gaussians.opacities, atol=1e-6)
        quaternions = np.stack([rows[f"rot_{number}"] for number in (1, 2, 3, 0)], axis=1)  # scipy has w last
        wanted = rotation_from_quaternion(gaussians.quaternions)
        np.testing.assert_allclose(Rotation.from_quat(quaternions).as_matrix(), wanted, atol=1e-5)

    def test_motion_is_read_back(self, tmp_path: Path) -> None:
        splats = some_motion()
        write_dynamic_gaussians(tmp_path / "motion.ply", splats)
        found = read_dynamic_gaussians(tmp_path / "motion.ply")
        assert found.trajectories is not None
        assert splats.trajectories is not None
        for name in ("curves", "shown_frames", "offsets", "times"):
            assert torch.equal(getattr(found, name), getattr(splats, name))
        for name in Trajectories.__dataclass_fields__:
            one, other = getattr(found.trajectories, name), getattr(splats.trajectories, name)
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        for time in (0.0, 0.7, 1.1, 2.0):
            one, other = found.at(time), splats.at(time)
            assert len(other.centers) > 20
            torch.testing.assert_close(one.centers, other.centers, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.covariances, other.covariances, atol=1e-5, rtol=1e-4)

    def test_other_programs_read_all_elements(self, tmp_path: Path) -> None:
        splats = some_motion()
        write_dynamic_gaussians(tmp_path / "motion.ply", splats)
        cloud = trimesh.load(tmp_path / "motion.ply")
        raw = cloud.metadata["_ply_raw"]
        assert list(raw) == ["vertex", "frame", "interval", "curve", "pose"]
        assert splats.trajectories is not None
        np.testing.assert_array_equal(raw["frame"]["data"]["time"], splats.times.double())
        np.testing.assert_array_equal(raw["curve"]["data"]["y_4"], splats.trajectories.control_points[:, 4, 1])
        np.testing.assert_array_equal(raw["vertex"]["data"]["curve"], splats.curves)

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "motion.ply"
        write_dynamic_gaussians(file, some_motion())
        data = file.read_bytes()
        for damaged in (data[:-40], b"nothing", data.replace(b"property int curve", b"property list uchar int curve")):
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"motion\.ply is"):
                read_dynamic_gaussians(file)
        write_ply_elements(file, {"vertex": np.zeros(3, [("x", "<f4")])})
        assert len(read_ply_elements(file)["vertex"]) == 3
        with pytest.raises(UserError, match="is not a file of Gaussians over time"):
            read_dynamic_gaussians(file)


class TestExport:
    def test_frames_are_those_of_the_file_with_motion_in_the_order_of_time(
        self, tmp_path: Path, results: SavedResults
    ) -> None:
        folder = written(tmp_path, results, "dynamic-splats")
        files = sorted((folder / "frames").iterdir())
        assert [file.name for file in files] == ["frame_000000.ply", "frame_000001.ply", "frame_000002.ply"]
        splats = read_dynamic_gaussians(folder / "motion.ply")
        assert splats.times.tolist() == pytest.approx([0.0, 0.1, 0.2])
        for file, time in zip(files, splats.times.tolist(), strict=True):
            rows = read_ply_elements(file)["vertex"]
            centers = np.stack([rows[axis] for axis in "xyz"], axis=1)
            np.testing.assert_allclose(centers, splats.at(time).centers, atol=1e-6)
            np.testing.assert_allclose(centers[:, 2], 4 + centers[:, 0] / 4, atol=1e-5)
        # Red tells the picture: 100 is the second one, whose time is the first.
        red = 0.5 + 0.28209479177387814 * read_ply_elements(files[0])["vertex"]["f_dc_0"]
        dynamic = ~splats.is_static.numpy()
        assert dynamic.sum() == 3 * HEIGHT * WIDTH // 4
        np.testing.assert_allclose(255 * red[-HEIGHT * WIDTH // 4 :], 100, atol=4)

    def test_tracks_become_curves(self, tmp_path: Path) -> None:
        """Also if frames are not stored in the order of time."""
        scene = make_scene()
        scene.dynamic[:, :, : WIDTH // 4] = 1.0
        assert scene.tracks is not None
        points = scene.tracks.points.clone()
        points[0, :, :, 1] += torch.tensor([0.2, 0.0, 0.1])[:, None]
        scene = replace(scene, tracks=replace(scene.tracks, points=points))
        results = read_results(save(tmp_path / "results", scene))
        folder = written(tmp_path, results, "dynamic-splats")
        splats = read_dynamic_gaussians(folder / "motion.ply")
        assert splats.trajectories is not None
        assert splats.trajectories.num_curves == HEIGHT * WIDTH // 4
        assert splats.trajectories.anchors.tolist() == [2] * splats.trajectories.num_curves
        torch.testing.assert_close(
            splats.trajectories.velocities(splats.times)[..., 1], torch.ones(HEIGHT * WIDTH // 4, 3), atol=1e-2, rtol=0
        )

    def test_times_that_are_unknown_or_equal(self, tmp_path: Path) -> None:
        """Photos follow each other; pictures of a rig that were taken together are one file."""
        for name, times, count in (("photos", [torch.nan] * 3, 3), ("rig", [0.0, 0.0, 0.1], 2)):
            results = read_results(save(tmp_path / name, wall(), torch.tensor(times)))
            export_results(tmp_path / f"{name}_out", results, ["dynamic-splats"], EVERYTHING)
            files = sorted((tmp_path / f"{name}_out" / "dynamic-splats" / "frames").iterdir())
            assert len(files) == count
            splats = read_dynamic_gaussians(tmp_path / f"{name}_out" / "dynamic-splats" / "motion.ply")
            per_frame = HEIGHT * WIDTH // 4
            shown = len(read_ply_elements(files[0])["vertex"]) - int(splats.is_static.sum())
            assert shown == per_frame * (4 - count)
        assert len(NAMES) == 3

    def test_files_have_at_most_the_largest_number_of_points(self, tmp_path: Path, results: SavedResults) -> None:
        folder = written(tmp_path, results, "dynamic-splats", PointSelection(drop=0.0, max_points=60))
        for file in (folder / "frames").iterdir():
            assert 30 < len(read_ply_elements(file)["vertex"]) <= 60

    def test_a_clip_without_known_pixels_is_refused(self, tmp_path: Path) -> None:
        scene = wall()
        scene = replace(scene, depth_confidence=torch.zeros_like(scene.depths))
        results = read_results(save(tmp_path / "results", scene))
        with pytest.raises(UserError, match="no pixel has a known depth"):
            written(tmp_path, results, "dynamic-splats")
