"""Tests of COLMAP as a baseline: it must be run well for comparisons to be fair."""

import builtins
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from recon4d.datasets import Sample, Tum
from recon4d.eval import reconstruct_with_colmap, with_colmap_intrinsics
from recon4d.eval.baselines.colmap import with_estimated_intrinsics
from recon4d.eval.metrics.cameras import camera_scores
from recon4d.eval.pairing import is_registered
from recon4d.geometry import fit_similarity, project, rotation_angle, transform_points
from recon4d.records import Cameras, Clip, Priors, Scene
from recon4d.refine import ColmapConfig, ColmapFailure, NoPycolmapError, map_database, scene_of_model

DESK = Path(__file__).parents[3] / "examples" / "freiburg2_desk"
MAPPERS = ("incremental", "global")
ONE_THREAD = ColmapConfig(num_threads=1)
"""Makes the result deterministic."""


def score(prediction: Scene, truth: Scene, metric: str) -> float:
    return next(found.value for found in camera_scores(prediction, truth) if found.metric == metric)


def mean_rotation_error(prediction: Scene, truth: Scene) -> float:
    """Return the mean error of rotations relative to the first frame, in degrees."""
    turned = prediction.cameras.in_frame(0).world_from_cam[:, :3, :3]
    expected = truth.cameras.in_frame(0).world_from_cam[:, :3, :3]
    return float(rotation_angle(turned.transpose(1, 2) @ expected).rad2deg().mean())


@pytest.fixture(scope="module")
def desk() -> Sample:
    """Return six of the pictures at half their size."""
    sample = Tum(DESK).read("freiburg2_desk", range(6))
    return Sample(sample.clip.resized(240, 320), sample.scene.resized(240, 320))


@pytest.fixture(scope="module")
def desk_scene(desk: Sample) -> Scene:
    return reconstruct_with_colmap(desk.clip, ONE_THREAD)


@pytest.mark.end_to_end
def test_all_frames_of_a_real_desk_are_registered(desk: Sample, desk_scene: Scene) -> None:
    scene = desk_scene
    assert is_registered(scene).all()
    assert score(scene, desk.scene, "auc_30") > 0.7
    assert mean_rotation_error(scene, desk.scene) < 1.0
    # Lens distortion is not modeled; a pinhole camera achieves an error of 6 %.
    assert scene.cameras.intrinsics[0, 0, 0].item() == pytest.approx(520.9 / 2, rel=0.08)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_an_exact_synthetic_database_is_recovered(tmp_path: Path, mapper: str) -> None:
    pycolmap.set_random_seed(3)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=8, num_points3D=200, camera_width=640, camera_height=480
    )
    options.camera_model_id = pycolmap.CameraModelId.SIMPLE_PINHOLE
    options.camera_params = [600.0, 320.0, 240.0]
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        truth = pycolmap.synthesize_dataset(options, database)
    (tmp_path / "images").mkdir()
    found = map_database(tmp_path / "database.db", tmp_path, ColmapConfig(mapper=mapper, num_threads=1))  # type: ignore[arg-type]

    names = sorted(image.name for image in truth.images.values())
    predicted, true = (scene_of_model(model, names, (480, 640)) for model in (found, truth))
    assert is_registered(predicted).all()
    assert score(predicted, true, "auc_5") == 1.0
    assert mean_rotation_error(predicted, true) < 0.02
    centers = [scene.cameras.centers.double() for scene in (predicted, true)]
    off = transform_points(fit_similarity(*centers), centers[0]) - centers[1]
    assert off.norm(dim=-1).max() < 1e-3 * centers[1].norm(dim=-1).max()
    torch.testing.assert_close(predicted.cameras.intrinsics, true.cameras.intrinsics, rtol=1e-3, atol=1e-3)


def test_points_of_a_converted_model_project_to_their_observations(tmp_path: Path) -> None:
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=4, num_points3D=60)
    options.camera_model_id = pycolmap.CameraModelId.PINHOLE
    options.camera_params = [700.0, 720.0, 500.0, 390.0]
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        model = pycolmap.synthesize_dataset(options, database)
    names = [*sorted(image.name for image in model.images.values()), "not registered"]
    height, width = 384, 512  # half of the size that COLMAP was given
    scene = scene_of_model(model, names, (height, width), factor=2)

    assert is_registered(scene).tolist() == [True, True, True, True, False]
    torch.testing.assert_close(scene.cameras.world_from_cam[0], torch.eye(4))
    expected = torch.tensor([[350.0, 0, 250], [0, 360, 195], [0, 0, 1]])
    torch.testing.assert_close(scene.cameras.intrinsics[:4], expected.expand(4, 3, 3))
    torch.testing.assert_close(scene.depth_confidence, scene.point_confidence)
    for frame in range(4):
        row, column = scene.depth_confidence[frame].nonzero().T
        assert 20 < len(row) <= 60
        in_camera = transform_points(scene.cameras.cam_from_world[frame], scene.points[frame, row, column])
        torch.testing.assert_close(in_camera[:, 2], scene.depths[frame, row, column], rtol=1e-4, atol=1e-4)
        pixels = project(in_camera, scene.cameras.intrinsics[frame])
        assert (pixels.floor() == torch.stack([column, row], dim=-1)).float().mean() > 0.95
    assert (scene.depth_confidence[4] == 0).all()


def test_dense_depth_replaces_sparse_points(desk: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stereo of this test writes depth 2 on the left, nothing on the right, and no map for one frame."""

    def stereo(workspace: Path) -> None:
        assert (workspace / "sparse").is_dir()
        for picture in sorted((workspace / "images").iterdir())[1:]:
            depth = np.zeros((240, 320), dtype=np.float32)
            depth[:, :160] = 2.0
            folder = workspace / "stereo" / "depth_maps"
            folder.mkdir(parents=True, exist_ok=True)
            pycolmap.DepthMap.from_array(depth, 0.0, 10.0).write(folder / f"{picture.name}.geometric.bin")

    monkeypatch.setattr("recon4d.eval.baselines.colmap.has_dense_stereo", lambda: True)
    monkeypatch.setattr(pycolmap, "patch_match_stereo", stereo)
    scene = reconstruct_with_colmap(desk.clip.frames(range(0, 6, 2)), ONE_THREAD)
    placed = is_registered(scene)
    assert placed.sum() >= 2
    assert (scene.depths[0] == 0).all()
    for frame in range(1, 3):
        if placed[frame]:
            assert (scene.depths[frame, :, :160] == 2.0).all()
            assert (scene.depth_confidence[frame, :, 160:] == 0).all()
            torch.testing.assert_close(
                scene.points[frame, :, :160], scene.points_from_depth[frame, :, :160], atol=1e-4, rtol=1e-4
            )


def test_the_nearer_of_two_points_in_one_pixel_is_kept() -> None:
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(camera_id=1, model="PINHOLE", width=8, height=8, params=[8.0, 8.0, 4.0, 4.0])
    model.add_camera_with_trivial_rig(camera)
    keypoints = np.array([[4.5, 4.5], [4.6, 4.6], [1.5, 2.5]])
    image = pycolmap.Image(name="a", image_id=1, camera_id=1, keypoints=keypoints)
    model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.eye(4)[:3]))
    for place, depth in enumerate((3.0, 2.0, 5.0)):
        ray = np.array([(keypoints[place, 0] - 4) / 8, (keypoints[place, 1] - 4) / 8, 1.0])
        model.add_point3D(depth * ray, pycolmap.Track([pycolmap.TrackElement(1, place)]))
    scene = scene_of_model(model, ["a"], (8, 8))
    assert scene.depths[0, 4, 4] == 2.0
    assert scene.depths[0, 2, 1] == 5.0
    assert scene.depth_confidence.sum() == 2


@pytest.mark.end_to_end
def test_masked_pixels_have_no_points(desk: Sample) -> None:
    """The left half is masked and must have no sparse points."""
    middle = desk.clip.size[1] // 2
    ignore = torch.zeros(6, *desk.clip.size, dtype=torch.bool)
    ignore[:, :, :middle] = True
    masked = replace(desk.clip, priors=replace(Priors.unknown(6), ignore=ignore))
    scene = reconstruct_with_colmap(masked, ONE_THREAD)
    assert scene.depth_confidence[:, :, : middle - 2].sum() == 0
    assert scene.depth_confidence[:, :, middle:].sum() > 50


def test_one_thread_gives_deterministic_results(desk: Sample) -> None:
    clip = desk.clip.frames([0, 2, 4])
    first, second = reconstruct_with_colmap(clip, ONE_THREAD), reconstruct_with_colmap(clip, ONE_THREAD)
    assert torch.equal(first.cameras.world_from_cam, second.cameras.world_from_cam)
    assert torch.equal(first.depths, second.depths)


def test_intrinsics_of_colmap_become_priors(desk: Sample, desk_scene: Scene) -> None:
    given = Priors.unknown(6).intrinsics
    given[2] = torch.eye(3)
    clip = replace(desk.clip, priors=replace(Priors.unknown(6), intrinsics=given))
    with_intrinsics = with_estimated_intrinsics(clip, desk_scene.cameras)
    assert torch.equal(with_intrinsics.priors.intrinsics[2], torch.eye(3))
    focal = with_intrinsics.priors.intrinsics[[0, 1, 3, 4, 5], 0, 0]
    torch.testing.assert_close(focal, torch.full((5,), 520.9 / 2), rtol=0.08, atol=0)
    assert with_intrinsics.priors.world_from_cam.isnan().all()


def test_an_implausible_focal_length_is_rejected(desk: Sample) -> None:
    long_focal_length = replace(desk.scene.cameras, intrinsics=10 * desk.scene.cameras.intrinsics)
    with pytest.raises(ColmapFailure, match="7 degrees, which is implausible"):
        with_estimated_intrinsics(desk.clip, long_focal_length)


def test_a_clip_without_texture_has_no_model() -> None:
    gray = Clip(torch.full((4, 3, 64, 96), 128, dtype=torch.uint8), torch.arange(4.0))
    for reconstruct in (reconstruct_with_colmap, with_colmap_intrinsics):
        with pytest.raises(ColmapFailure, match="no model"):
            reconstruct(gray, ONE_THREAD)


@pytest.mark.slow
def test_sequential_matching_registers_frames(desk: Sample) -> None:
    scene = reconstruct_with_colmap(desk.clip, ColmapConfig(matching="sequential", num_threads=1))
    assert is_registered(scene).sum() >= 4


def test_without_pycolmap_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pycolmap")
    real_import = builtins.__import__

    def refuse(name: str, *arguments, **options):
        if name.split(".", maxsplit=1)[0] == "pycolmap":
            raise ModuleNotFoundError("No module named 'pycolmap'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(NoPycolmapError, match="reinstall recon4d or pycolmap"):
        reconstruct_with_colmap(Clip(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2.0)))


def test_cameras_of_unregistered_frames_are_nan(desk: Sample) -> None:
    """A gray frame is not registered, and the other frames are."""
    images = desk.clip.images.clone()
    images[3] = 128
    scene = reconstruct_with_colmap(Clip(images, desk.clip.times), ONE_THREAD)
    placed = is_registered(scene)
    assert not placed[3]
    assert placed.sum() >= 5
    assert isinstance(scene.cameras, Cameras)
    assert scene.cameras.world_from_cam[3].isnan().any()
    assert (scene.depth_confidence[3] == 0).all()
