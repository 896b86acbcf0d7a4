"""Priors: read from every supported file format, at the right pixels, and enforced in the result."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import assert_scenes_close, randomized
from PIL import Image
from scenes import make_clip, make_scene

from recon4d import geometry as g
from recon4d.cli.main import main
from recon4d.datasets import ColmapModels
from recon4d.errors import UserError
from recon4d.inference import (
    PriorFiles,
    ReconstructConfig,
    apply_priors,
    reconstruct,
    with_prior_files,
)
from recon4d.io import SceneInfo, load_scene, read_camera_file, save_scene, write_jpeg, write_raster
from recon4d.io.cameras.lenses import Lens, brown_lens
from recon4d.io.long_clips import as_long_clip
from recon4d.io.masks import mask_reader
from recon4d.io.undistortion import undistort, undistort_long_clip
from recon4d.models import Model
from recon4d.records import (
    Cameras,
    Clip,
    ClipSource,
    Priors,
    Scene,
)
from recon4d.zoo import model_config

FRAMES = 8
CLOSE = 1e-4


@pytest.fixture
def truth() -> Scene:
    return make_scene(FRAMES, anchors=(0, 3))


def known_of(scene: Scene, lens: bool = False, cameras: bool = False) -> Priors:
    """Return the true intrinsics and cameras as priors; the cameras are in a world of their own."""
    nothing = Priors.unknown(scene.num_frames)
    own_from_world = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    return replace(
        nothing,
        intrinsics=scene.cameras.intrinsics if lens else nothing.intrinsics,
        world_from_cam=own_from_world @ scene.cameras.world_from_cam if cameras else nothing.world_from_cam,
    )


OTHER_LENS = ((1.3, 1.0, 0.9), (1.0, 1.3, 1.2), (1.0, 1.0, 1.0))
SAME_LENS = ((1.0, 1.0, 1.0),) * 3


def mispredicted(truth: Scene, scale: float = 0.2, angle: float = 0.05, lens: tuple = OTHER_LENS) -> Scene:
    """Return a plausible prediction: in its own unit, with rotated cameras and other intrinsics."""
    steps = torch.arange(truth.num_frames)[:, None] * torch.tensor([angle, -angle, 0.5 * angle])
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[:, :3, :3] = world_from_cam[:, :3, :3] @ g.rotation_from_axis_angle(steps)
    wrong = truth.with_cameras(Cameras(world_from_cam, truth.cameras.intrinsics * torch.tensor(lens)))
    return wrong.transformed(g.similarity(torch.tensor(scale), torch.eye(3), torch.zeros(3)))


class TestApplyPriors:
    def test_given_intrinsics_and_cameras_restore_the_ground_truth(self, truth: Scene) -> None:
        """All errors of the prediction are in intrinsics, cameras and unit."""
        result = apply_priors(mispredicted(truth), known_of(truth, lens=True, cameras=True))
        assert_scenes_close(result, truth, tolerance=2e-4)
        assert torch.equal(result.cameras.intrinsics, truth.cameras.intrinsics)
        assert torch.equal(result.cameras.world_from_cam[0], torch.eye(4))

    def test_given_intrinsics_keep_pixels_and_z(self, truth: Scene) -> None:
        predicted = mispredicted(truth, scale=1.0)
        result = apply_priors(predicted, known_of(truth, lens=True))
        assert torch.equal(result.depths, predicted.depths)
        assert torch.equal(result.cameras.world_from_cam, predicted.cameras.world_from_cam)
        torch.testing.assert_close(result.points, result.points_from_depth, atol=CLOSE, rtol=CLOSE)
        torch.testing.assert_close(result.track_pixels, predicted.track_pixels, atol=1e-3, rtol=CLOSE)

    def test_intrinsics_of_some_frames_apply_to_these(self, truth: Scene) -> None:
        predicted, known = mispredicted(truth), known_of(truth, lens=True)
        intrinsics = known.intrinsics.clone()
        intrinsics[2:] = torch.nan
        found = apply_priors(predicted, replace(known, intrinsics=intrinsics)).cameras.intrinsics
        assert torch.equal(found[:2], truth.cameras.intrinsics[:2])
        assert torch.equal(found[2:], predicted.cameras.intrinsics[2:])

    def test_the_scale_tolerates_a_quarter_of_wrong_cameras(self, truth: Scene) -> None:
        predicted = mispredicted(truth, lens=SAME_LENS)
        world_from_cam = predicted.cameras.world_from_cam.clone()
        world_from_cam[[2, 5], :3, 3] += torch.tensor([3.0, -4.0, 1.0])
        result = apply_priors(
            replace(predicted, cameras=replace(predicted.cameras, world_from_cam=world_from_cam)),
            known_of(truth, cameras=True),
        )
        torch.testing.assert_close(result.depths, truth.depths, atol=CLOSE, rtol=CLOSE)
        torch.testing.assert_close(result.cameras.world_from_cam, truth.cameras.world_from_cam, atol=CLOSE, rtol=CLOSE)

    def test_long_distances_determine_the_scale(self, truth: Scene) -> None:
        """Six cameras are close together, where the noise of the prediction exceeds their distances."""
        centers = torch.tensor([0.0, 1, 2, 3, 4, 5, 400, 800])[:, None] * torch.tensor([1e-2, 0.0, 0.0])
        world_from_cam = g.rigid(torch.eye(3).expand(FRAMES, 3, 3), centers)
        generator = torch.Generator().manual_seed(0)
        noisy = world_from_cam.clone()
        noisy[1:, :3, 3] += 0.1 * torch.randn(FRAMES - 1, 3, generator=generator)
        predicted = truth.with_cameras(Cameras(noisy, truth.cameras.intrinsics))
        result = apply_priors(predicted, replace(Priors.unknown(FRAMES), world_from_cam=world_from_cam))
        torch.testing.assert_close(result.depths, predicted.depths, atol=0, rtol=0.03)

    def test_an_unknown_camera_keeps_its_pose_relative_to_the_nearest_given_one(self, truth: Scene) -> None:
        predicted, known = mispredicted(truth), known_of(truth, cameras=True)
        world_from_cam = known.world_from_cam.clone()
        world_from_cam[[3, 4]] = torch.nan
        result = apply_priors(predicted, replace(known, world_from_cam=world_from_cam))
        for unknown, beside in ((3, 2), (4, 5)):
            assert_same_step(result, predicted, unknown, beside)
        torch.testing.assert_close(result.points, result.points_from_depth, atol=1e-3, rtol=CLOSE)

    def test_sparse_depth_with_outliers_determines_the_unit(self, truth: Scene) -> None:
        generator = torch.Generator().manual_seed(0)
        depths = torch.where(torch.rand(truth.depths.shape, generator=generator) < 0.05, truth.depths, torch.nan)
        wild = torch.rand(truth.depths.shape, generator=generator) < 0.3
        known = replace(Priors.unknown(FRAMES), depths=torch.where(wild, 20 * depths, depths))
        predicted = mispredicted(truth, angle=0, lens=SAME_LENS)
        assert_scenes_close(apply_priors(predicted, known), truth, tolerance=1e-3)
        # Depth determines the unit even if cameras are given in another one.
        larger = truth.transformed(g.similarity(torch.tensor(7.0), torch.eye(3), torch.zeros(3)))
        both = replace(known, world_from_cam=larger.cameras.world_from_cam)
        result = apply_priors(predicted, both)
        torch.testing.assert_close(result.depths, truth.depths, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(result.cameras.centers, larger.cameras.centers, atol=CLOSE, rtol=CLOSE)

    def test_pixels_without_confidence_do_not_determine_the_unit(self, truth: Scene) -> None:
        predicted = replace(truth, depth_confidence=torch.zeros_like(truth.depths))
        assert apply_priors(predicted, replace(Priors.unknown(FRAMES), depths=9 * truth.depths)) is predicted

    def test_meters_follow_the_unit(self) -> None:
        truth = make_scene(FRAMES, metres_per_unit=2.0)
        predicted = mispredicted(truth)
        assert float(apply_priors(predicted, known_of(truth, True, True)).metres_per_unit) == pytest.approx(2.0)

    def test_static_given_cameras_do_not_determine_the_unit(self, truth: Scene) -> None:
        world_from_cam = torch.eye(4).repeat(FRAMES, 1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = apply_priors(truth, replace(Priors.unknown(FRAMES), world_from_cam=world_from_cam))
        assert torch.equal(result.depths, truth.depths)
        assert torch.equal(result.cameras.world_from_cam, world_from_cam)

    def test_static_predicted_cameras_give_a_warning(self, truth: Scene) -> None:
        static = replace(truth.cameras, world_from_cam=torch.eye(4).repeat(FRAMES, 1, 1))
        with pytest.warns(UserWarning, match="hardly move"):
            result = apply_priors(replace(truth, cameras=static), known_of(truth, cameras=True))
        torch.testing.assert_close(result.cameras.centers, truth.cameras.centers, atol=CLOSE, rtol=CLOSE)
        assert torch.equal(result.depths, truth.depths)

    def test_without_priors_the_scene_is_unchanged(self, truth: Scene) -> None:
        ignore = torch.zeros(truth.depths.shape, dtype=torch.bool)
        for known in (None, Priors.unknown(FRAMES), replace(Priors.unknown(FRAMES), ignore=ignore)):
            assert apply_priors(truth, known) is truth


def assert_same_step(result: Scene, predicted: Scene, one: int, other: int) -> None:
    """Check that the relative pose of two cameras is the same in both scenes, up to the scale."""
    steps = [
        g.invert(scene.cameras.world_from_cam[other]) @ scene.cameras.world_from_cam[one]
        for scene in (result, predicted)
    ]
    scale = result.depths.median() / predicted.depths.median()
    torch.testing.assert_close(steps[0][:3, :3], steps[1][:3, :3], atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(steps[0][:3, 3], scale * steps[1][:3, 3], atol=CLOSE, rtol=CLOSE)


class TestReconstruction:
    """Priors in a full reconstruction, with and without a prior encoder."""

    CLIP = make_clip(frames=4, height=60, width=100)
    SINGLE = ReconstructConfig(precision="float32", processing_size=64)

    @pytest.fixture(params=["prior encoder", "no prior encoder"])
    def model(self, request: pytest.FixtureRequest) -> Model:
        config = replace(model_config("recon4d_tiny"), prior_inputs=request.param == "prior encoder")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return randomized(Model(config)).float()

    @pytest.fixture
    def known(self) -> Priors:
        truth = make_scene(4)
        intrinsics = torch.tensor([[90.0, 0, 47], [0, 95, 33], [0, 0, 1]]).expand(4, 3, 3)
        return Priors(intrinsics, known_of(truth, cameras=True).world_from_cam)

    def test_intrinsics_and_cameras_are_the_given_ones(self, model: Model, known: Priors) -> None:
        scene = reconstruct(model, replace(self.CLIP, priors=known), self.SINGLE)
        assert scene.size == (48, 80)
        assert torch.equal(scene.cameras.intrinsics, g.resized_intrinsics(known.intrinsics, (60, 100), (48, 80)))
        torch.testing.assert_close(scene.resized(60, 100).cameras.intrinsics, known.intrinsics)
        expected = make_scene(4).cameras.world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam, expected, atol=CLOSE, rtol=CLOSE)
        assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))

    def test_the_network_gets_the_priors(self, model: Model, known: Priors) -> None:
        """Confidences depend on priors only through the network, since `apply_priors` does not change them."""
        with_priors = reconstruct(model, replace(self.CLIP, priors=known), self.SINGLE)
        without = reconstruct(model, self.CLIP, self.SINGLE)
        assert torch.equal(with_priors.depth_confidence, without.depth_confidence) == (model.known is None)

    def test_given_depth_determines_the_unit(self, model: Model) -> None:
        depths = torch.full((4, 60, 100), torch.nan)
        depths[:, ::7, ::9] = 300.0
        scene = reconstruct(model, replace(self.CLIP, priors=replace(Priors.unknown(4), depths=depths)), self.SINGLE)
        at_known = scene.depths[
            Priors.resized(replace(Priors.unknown(4), depths=depths), (60, 100), scene.size).depths > 0
        ]
        assert float((300 / at_known).median()) == pytest.approx(1, abs=CLOSE)

    def test_without_priors_the_result_is_identical(self, model: Model) -> None:
        bare = reconstruct(model, self.CLIP, self.SINGLE)
        assert_scenes_close(reconstruct(model, with_prior_files(self.CLIP, PriorFiles()), self.SINGLE), bare, 0)


@pytest.fixture
def clip() -> Clip:
    """Return three frames, every third of a video."""
    return replace(make_clip(3, 40, 60), source=ClipSource("v.mp4", ("v_000000", "v_000003", "v_000006"), (0, 3, 6)))


def priors_from(clip: Clip, **files: object) -> Priors:
    """Read priors from files."""
    known = with_prior_files(clip, PriorFiles(**files)).priors  # pyright: ignore[reportArgumentType]
    assert known is not None
    return known


class TestIntrinsics:
    ONE = torch.tensor([[50.0, 0, 31], [0, 52, 19], [0, 0, 1]])

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "50,52,31,19"),
            ("row.txt", "# fx fy cx cy\n50 52, 31 19\n"),
            ("matrix.txt", "50 0 31\n0 52 19\n0 0 1\n"),
            ("nine.txt", "50 0 31 0 52 19 0 0 1\n"),
            ("row.json", "[50, 52, 31, 19]"),
            ("object.json", '{"fx": 50, "fy": 52, "cx": 31, "cy": 19, "unit": "pixels"}'),
            ("matrix.json", "[[50, 0, 31], [0, 52, 19], [0, 0, 1]]"),
        ],
    )
    def test_intrinsics_for_all_frames(self, clip: Clip, tmp_path: Path, name: str, text: str) -> None:
        if name:
            (tmp_path / name).write_text(text)
        known = priors_from(clip, intrinsics=str(tmp_path / name) if name else text)
        assert torch.equal(known.intrinsics, self.ONE.expand(3, 3, 3))

    @pytest.mark.parametrize(
        "text", ["50 52 31 19\n60 52 31 19\n70 52 31 19\n", "[[50,52,31,19],[60,52,31,19],[70,52,31,19]]"]
    )
    def test_intrinsics_for_each_frame(self, clip: Clip, tmp_path: Path, text: str) -> None:
        (tmp_path / "zoom").write_text(text)
        assert priors_from(clip, intrinsics=str(tmp_path / "zoom")).intrinsics[:, 0, 0].tolist() == [50, 60, 70]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("50,52,31", "wanted fx fy cx cy or a 3x3 matrix"),
            ("-50,52,31,19", "focal lengths above 0"),
            ("50,52,nan,19", "finite"),
            ("none.json", "no such file, nor is this fx,fy,cx,cy"),
        ],
    )
    def test_invalid_values(self, clip: Clip, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            priors_from(clip, intrinsics=text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1 2 3 4\n5 6 7 8\n", "2 cameras, and the clip has 3 frames"),
            ("1 2 3 4\n5 6 7\n", "wanted fx fy cx cy"),
            ("", "wanted fx fy cx cy"),
            ('{"fx": 3}', "wanted fx fy cx cy"),
            ("50 0 31\n0 52 19\n0 0 2\n", "as a pinhole has"),
        ],
    )
    def test_invalid_files(self, clip: Clip, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "lens").write_text(text)
        with pytest.raises(UserError, match=message):
            priors_from(clip, intrinsics=str(tmp_path / "lens"))


POSES = make_scene(7).cameras.world_from_cam.double()
FAR = torch.tensor([4.0e5, 5.0e6, 100.0], dtype=torch.float64)
"""Offset in meters, as in national coordinate systems; float32 would round it to half a meter."""


def tum_file(path: Path, times: list[float], poses: torch.Tensor) -> Path:
    """Write a TUM trajectory."""
    quaternions = g.quaternion_from_rotation(poses[:, :3, :3])[:, [1, 2, 3, 0]]
    rows = torch.cat([poses[:, :3, 3] + FAR, quaternions], dim=1)
    lines = [
        f"{time} " + " ".join(repr(value) for value in row.tolist()) for time, row in zip(times, rows, strict=True)
    ]
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")
    return path


def assert_poses(known: Priors, wanted: torch.Tensor) -> None:
    """Compare cameras relative to the first one, in float32 precision."""
    expected = (g.invert(wanted[0]) @ wanted).float()
    torch.testing.assert_close(known.world_from_cam, expected, atol=1e-6, rtol=1e-5)


class TestCameras:
    def test_a_trajectory_by_time(self, clip: Clip, tmp_path: Path) -> None:
        """The frames are at 0, 0.1 and 0.2 s; the file has more poses at slightly different times."""
        path = tum_file(tmp_path / "tum.txt", [0.001, 0.05, 0.109, 0.15, 0.2, 0.25, 0.3], POSES)
        assert_poses(priors_from(clip, cameras=path), POSES[[0, 2, 4]])

    def test_a_trajectory_by_image_names(self, clip: Clip, tmp_path: Path) -> None:
        stamps = [1305031102.1753 + 0.5 * i for i in range(7)]
        names = tuple(f"{stamps[i]:.4f}.png" for i in (1, 2, 6))
        path = tum_file(tmp_path / "tum.txt", stamps, POSES)
        photos = replace(clip, times=torch.full((3,), torch.nan), source=ClipSource("rgb", names, (1, 2, 6)))
        assert_poses(priors_from(photos, cameras=path), POSES[[1, 2, 6]])

    def test_a_trajectory_by_order(self, clip: Clip, tmp_path: Path) -> None:
        assert_poses(priors_from(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 1.0, 2.0], POSES[4:])), POSES[4:])

    def test_times_take_precedence_over_order(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [0.2, 0.0, 0.1], POSES[:3])
        assert_poses(priors_from(clip, cameras=path), POSES[[1, 2, 0]])

    def test_a_trajectory_with_a_gap(self, clip: Clip, tmp_path: Path) -> None:
        known = priors_from(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 0.2], POSES[:2]))
        assert known.world_from_cam[1].isnan().all()
        assert_poses(known.frames([0, 2]), POSES[:2])

    def test_a_trajectory_of_another_clip(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [7.0, 8.0], POSES[:2])
        with pytest.raises(UserError, match="2 cameras, and the clip has 3 frames; neither names nor times"):
            priors_from(clip, cameras=path)

    def test_a_colmap_model_without_images(self, clip: Clip, tmp_path: Path) -> None:
        """The model has images of twice the size and lacks one frame; the data set reader gives the same cameras."""
        colmap_model(tmp_path / "sparse", "PINHOLE 120 80 100 104 62 38")
        known = priors_from(clip, cameras=tmp_path / "sparse")
        assert torch.equal(known.intrinsics[[0, 2]], TestIntrinsics.ONE.expand(2, 3, 3))
        assert known.intrinsics[1].isnan().all()
        assert known.world_from_cam[1].isnan().all()
        for picture in ("v_000000.jpg", "v_000006.jpg"):
            write_jpeg(tmp_path / picture, torch.zeros(3, 80, 120, dtype=torch.uint8))
        sample = ColmapModels(tmp_path).read(tmp_path.name, [0, 1])
        torch.testing.assert_close(known.frames([0, 2]).world_from_cam, sample.scene.cameras.world_from_cam)
        # Given intrinsics override those of the file.
        assert priors_from(clip, cameras=tmp_path / "sparse", intrinsics="9,9,9,9").intrinsics[0, 0, 0] == 9

    def test_the_distortion_of_a_colmap_model_is_removed(self, clip: Clip, tmp_path: Path) -> None:
        colmap_model(tmp_path / "distorted", "OPENCV 60 40 50 52 31 19 0.1 -0.02 0.01 0.003", with_all=True)
        from_model = with_prior_files(clip, PriorFiles(cameras=tmp_path / "distorted"))
        from_text = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", distortion="0.1,-0.02,0.01,0.003"))
        assert torch.equal(from_model.images, from_text.images)
        assert not torch.equal(from_model.images, clip.images)
        # Given intrinsics imply no distortion unless it is given as well.
        own = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", cameras=tmp_path / "distorted"))
        assert torch.equal(own.images, clip.images)

    @pytest.mark.parametrize(
        ("lens", "message"),
        [
            ("EQUIRECTANGULAR 60 40 60 40", "360 degree panoramas"),
            ("SPHERE 60 40 50", "unknown model 'SPHERE'"),
            ("PINHOLE 60 40 50 52 31", "a PINHOLE camera with 3 parameters; wanted 4"),
            ("PINHOLE 60 40 -50 52 31 19", "focal lengths are -50 and 52"),
            ("PINHOLE 60 40 0 52 31 19", "focal lengths are 0 and 52"),
            ("PINHOLE 60 60 50 52 31 19", "60 x 60 pixels, and the clip's 60 x 40"),
        ],
    )
    def test_invalid_colmap_models(self, clip: Clip, tmp_path: Path, lens: str, message: str) -> None:
        colmap_model(tmp_path / "sparse", lens)
        with pytest.raises(UserError, match=message):
            priors_from(clip, cameras=tmp_path / "sparse")

    def test_transforms_json_by_hand(self, clip: Clip, tmp_path: Path) -> None:
        """OpenGL cameras look along -z. The second camera is at x = -2 and looks along the world's +x."""
        looks_along_x = [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
        frames = [
            {"file_path": "images/v_000003.png", "transform_matrix": looks_along_x, "fl_x": 60},
            {"file_path": "images/v_000000.png", "transform_matrix": np.eye(4).tolist()},
            {"file_path": "images/v_000006.png", "transform_matrix": np.eye(4).tolist()},
        ]
        stored = {"w": 60, "h": 40, "fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        for path in (tmp_path, tmp_path / "transforms.json"):
            known = priors_from(clip, cameras=path)
            assert known.intrinsics[:, 0, 0].tolist() == [50, 60, 50]
            assert torch.equal(known.intrinsics[0], TestIntrinsics.ONE)
            first_from_second = known.world_from_cam[1]
            # In the first camera (x right, y down, z forward), the second looks to the right and is upright.
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 0, 1, 0]), torch.tensor([1.0, 0, 0, 0]))
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 1, 0, 0]))
            torch.testing.assert_close(first_from_second[:3, 3], torch.tensor([-2.0, 0, 0]))

    def test_transforms_json_with_an_angle_only(self, clip: Clip, tmp_path: Path) -> None:
        frames = [{"file_path": f"./train/r_{i}", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
        stored = {"camera_angle_x": 2 * np.arctan(0.5), "w": 60, "h": 40, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        expected = torch.tensor([[60.0, 0, 30], [0, 60, 20], [0, 0, 1]])
        torch.testing.assert_close(priors_from(clip, cameras=tmp_path).intrinsics, expected.expand(3, 3, 3))

    def test_a_scene_archive(self, clip: Clip, tmp_path: Path) -> None:
        """The maps are smaller than the clip, and frames are matched by name."""
        scene = make_scene(7).resized(20, 30)
        names = tuple(f"v_{number:06d}" for number in range(7))
        info = SceneInfo("m", True, "0", ClipSource("v.mp4", names, tuple(range(7))), (40, 60), {})
        save_scene(tmp_path, scene, torch.arange(7) / 30, info)
        known = priors_from(clip, cameras=tmp_path)
        assert_poses(known, POSES[[0, 3, 6]])
        torch.testing.assert_close(known.intrinsics, scene.resized(40, 60).cameras.intrinsics[:3])

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", "hello", "wanted rows of time tx ty tz"),
            ("a.txt", "1 2 3\n", "wanted rows of time tx ty tz"),
            ("a.txt", "0 0 0 0 0 0 0 0\n", "quaternion"),
            ("a.json", '{"frames": []}', "no list, or an empty one"),
            ("a.json", "{", "a.json"),
            ("a.json", '{"frames": [{"file_path": "x", "transform_matrix": [[2]]}]}', "shape"),
            ("scene.npz", "PK nothing", "cannot read"),
        ],
    )
    def test_invalid_files(self, clip: Clip, tmp_path: Path, name: str, content: str, message: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            priors_from(clip, cameras=tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_missing_camera_files(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds neither a scene"):
            read_camera_file(tmp_path)
        with pytest.raises(UserError, match=r"does not exist|[Nn]o such file"):
            read_camera_file(tmp_path / "none")


def colmap_model(folder: Path, lens: str, with_all: bool = False) -> None:
    """Write a model of frames 0 and 6 (and 3 with `with_all`), shifted to the right of each other, without points."""
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"1 {lens}\n")
    numbers = (0, 3, 6) if with_all else (0, 6)
    rows = [f"{n + 1} 1 0 0 0 {-0.5 * n} 0 0 1 v_{n:06d}.jpg\n\n" for n in numbers]
    (folder / "images.txt").write_text("".join(rows))
    (folder / "points3D.txt").write_text("")


class TestMasks:
    MASK = np.zeros((40, 60), dtype=np.uint8)
    MASK[30:, 10:20] = 255

    def test_one_mask_for_all_frames(self, clip: Clip, tmp_path: Path) -> None:
        write_raster(tmp_path / "bonnet.png", self.MASK)
        ignore = priors_from(clip, mask=tmp_path / "bonnet.png").ignore
        assert torch.equal(ignore, torch.from_numpy(self.MASK > 0).expand(3, 40, 60))  # pyright: ignore
        one_by_one = list(mask_reader(tmp_path / "bonnet.png", clip)([0, 2]))
        assert torch.equal(torch.stack(one_by_one), ignore[[0, 2]])  # pyright: ignore

    def test_colored_and_sixteen_bit_masks(self, clip: Clip, tmp_path: Path) -> None:
        colored = np.stack([np.zeros_like(self.MASK), self.MASK, np.full_like(self.MASK, 90)], axis=-1)
        write_raster(tmp_path / "color.png", colored)
        write_raster(tmp_path / "deep.png", self.MASK.astype(np.uint16) * 257)
        for name in ("color.png", "deep.png"):
            assert torch.equal(priors_from(clip, mask=tmp_path / name).ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize(
        ("dtype", "dark", "white"), [(np.uint8, 127, 128), (np.uint16, 32767, 32768), (np.float32, 0.5, 0.51)]
    )
    def test_white_is_above_half(self, clip: Clip, tmp_path: Path, dtype: type, dark: float, white: float) -> None:
        path = tmp_path / ("mask.tif" if dtype is np.float32 else "mask.png")
        write_raster(path, np.where(self.MASK > 0, white, dark).astype(dtype))
        assert torch.equal(priors_from(clip, mask=path).ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("mode", ["1", "LA", "RGBA"])
    def test_masks_of_one_bit_and_with_alpha(self, clip: Clip, tmp_path: Path, mode: str) -> None:
        Image.fromarray(self.MASK).convert(mode).save(tmp_path / "mask.png")
        assert torch.equal(priors_from(clip, mask=tmp_path / "mask.png").ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("names", [("v_000000", "v_000001", "v_000003", "v_000006"), ("m10", "m2", "m1")])
    def test_a_folder_by_name_or_in_order(self, clip: Clip, tmp_path: Path, names: tuple[str, ...]) -> None:
        by_name = len(names) == 4
        for place, name in enumerate(names):
            write_raster(tmp_path / f"{name}.png", np.full((40, 60), 255 * (place == 2), dtype=np.uint8))
        ignored = priors_from(clip, mask=tmp_path).ignore.float().mean(dim=(1, 2))  # pyright: ignore
        assert ignored.tolist() == ([0, 1, 0] if by_name else [1, 0, 0])

    def test_invalid_values(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no pictures"):
            priors_from(clip, mask=tmp_path)
        write_raster(tmp_path / "small.png", np.zeros((20, 30), dtype=np.uint8))
        with pytest.raises(UserError, match="30 x 20 pixels, and the clip 60 x 40"):
            priors_from(clip, mask=tmp_path / "small.png")
        with pytest.raises(UserError, match=r"folder holds 1, and the clip has 3 frames; .* names like v_000000"):
            priors_from(clip, mask=tmp_path)
        with pytest.raises(UserError, match=r"does not exist|[Nn]o such file"):
            priors_from(clip, mask=tmp_path / "none.png")


class TestDepth:
    def test_maps(self, clip: Clip, tmp_path: Path) -> None:
        depths = np.zeros((3, 40, 60))
        depths[1, 2, 3], depths[2, 5, 5], depths[0, 0, 0] = 4.5, np.inf, -1
        np.savez(tmp_path / "depth.npz", depths=depths)
        found = priors_from(clip, depth=tmp_path / "depth.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[1, 2, 3]]
        assert found[1, 2, 3] == 4.5

    def test_single_points(self, clip: Clip, tmp_path: Path) -> None:
        """The pixel with center (3.5, 2.5) covers x from 3 to 4 and y from 2 to 3; the nearer of two points is kept."""
        pixels = np.array([[3.0, 2.0], [3.99, 2.99], [59.9, 39.9], [7, 7], [0, 0], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]])
        depths = np.array([4.0, 8, 2, 0, 3, 0, np.nan, -1])
        np.savez(tmp_path / "d.npz", depths=depths, pixels=pixels, frames=np.array([1, 1, 2, 0, 0, 0, 0, 0]))
        found = priors_from(clip, depth=tmp_path / "d.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[0, 0, 0], [1, 2, 3], [2, 39, 59]]
        assert [float(found[0, 0, 0]), float(found[1, 2, 3]), float(found[2, 39, 59])] == [3, 4, 2]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"depths": np.ones((2, 40, 60))}, r"shape \(2, 40, 60\); wanted .* = \(3, 40, 60\)"),
            (
                {"depths": np.ones((3, 20, 40))},
                r"40 x 20 pixels and the pictures 60 x 40; wanted the same size",
            ),
            ({"depths": np.ones((3, 60, 40))}, r"so one of them is turned"),
            ({"z": np.ones((3, 40, 60))}, "holds no depths"),
            ({"depths": np.zeros((3, 40, 60))}, "not a single depth"),
            ({"depths": np.ones(2), "pixels": np.ones((3, 2)), "frames": np.zeros(2)}, "arrays of shapes"),
            ({"depths": np.ones(()), "pixels": np.ones((3, 2)), "frames": np.zeros(3)}, "arrays of shapes"),
            ({"depths": np.ones(2), "pixels": np.ones((2, 2))}, "arrays of shapes"),
            ({"depths": np.ones(2), "frames": np.zeros(2)}, "arrays of shapes"),
            (
                {"depths": np.ones(3), "pixels": np.array([[59.9, 3], [60.0, 3], [3, -0.1]]), "frames": np.ones(3)},
                r"2 of 3 points lie outside the clip, the first in frame 1.* at pixel \(60, 3\)",
            ),
            ({"depths": np.ones(1), "pixels": np.array([[6.0, 3]]), "frames": np.array([3])}, "frames 0 to 2"),
            ({"depths": np.ones(1), "pixels": np.array([[6.0, 3]]), "frames": np.array([-1])}, "frames 0 to 2"),
        ],
    )
    def test_invalid_values(self, clip: Clip, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
        np.savez(tmp_path / "d.npz", **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=message):
            priors_from(clip, depth=tmp_path / "d.npz")

    @pytest.mark.parametrize("content", [b"nothing", b"", b"PK\x03\x04 damaged"])
    def test_damaged_archives(self, clip: Clip, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(UserError, match="no npz file, or damaged"):
            priors_from(clip, depth=tmp_path / "d.npz")
        with pytest.raises(UserError, match=r"none\.npz does not exist"):
            priors_from(clip, depth=tmp_path / "none.npz")

    def test_damage_inside_an_archive(self, clip: Clip, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "d.npz", depths=np.ones((3, 40, 60)))
        content = bytearray((tmp_path / "d.npz").read_bytes())
        content[50:80] = b"x" * 30
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(UserError, match="no npz file, or damaged"):
            priors_from(clip, depth=tmp_path / "d.npz")


LENS = (0.25, -0.08, 0.004, -0.003, 0.01)


def distorted(x: np.ndarray, y: np.ndarray, lens: tuple[float, ...] = LENS) -> tuple[np.ndarray, np.ndarray]:
    """Distort pinhole pixels (x, y) of a camera with intrinsics 50, 52, 31, 19, by Brown's formula."""
    k1, k2, p1, p2, k3 = lens
    x, y = (x - 31) / 50, (y - 19) / 52
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    across = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    down = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return 50 * across + 31, 52 * down + 19


class TestDistortion:
    FILES = PriorFiles(intrinsics="50,52,31,19", distortion=",".join(map(str, LENS)))
    X, Y = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)

    def test_every_pixel_is_sampled_at_its_distorted_position(self) -> None:
        """Colors are four times the pixel coordinates, so they tell where each pixel was sampled."""
        x, y = np.broadcast_to(4 * self.X, (3, 40, 60)), np.broadcast_to(4 * self.Y, (3, 40, 60))
        images = torch.from_numpy(np.stack([x, y, y], axis=1).astype(np.uint8))
        straight = with_prior_files(Clip(images, torch.arange(3) / 10), self.FILES)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        from_x, from_y = distorted(self.X, self.Y)
        outside = (from_x < 0) | (from_x >= 60) | (from_y < 0) | (from_y >= 40)
        assert np.array_equal(straight.priors.ignore[1].numpy(), outside)
        within = (from_x > 0.5) & (from_x < 59.5) & (from_y > 0.5) & (from_y < 39.5)
        for channel, expected in ((0, from_x), (1, from_y)):
            error = straight.images[2, channel].numpy() - 4 * expected
            assert np.abs(error[within]).max() < 0.51  # rounding to gray levels
        assert within.mean() > 0.7
        assert 0.05 < outside.mean() < 0.3
        # Black outside the image, and not darkened at its border.
        white = with_prior_files(Clip(torch.full_like(images, 255), torch.arange(3) / 10), self.FILES)
        assert np.array_equal(white.images[1, 0].numpy(), np.where(outside, 0, 255))

    def test_zero_distortion_changes_nothing(self, clip: Clip) -> None:
        known = priors_from(clip, intrinsics="50,52,31,19")
        straight = undistort(replace(clip, priors=known), [Lens("OPENCV", (0.0,) * 4)] * 3)
        assert torch.equal(straight.images, clip.images)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        assert not straight.priors.ignore.any()

    def test_depth_and_masks_are_undistorted(self, clip: Clip, tmp_path: Path) -> None:
        places = [(6, 4), (52, 35), (31, 19)]
        frames, pixels = np.arange(3), np.array([distorted(x + 0.5, y + 0.5) for x, y in places])
        np.savez(tmp_path / "d.npz", depths=np.array([1.0, 2, 3]), pixels=pixels, frames=frames)
        mask = np.zeros((40, 60), dtype=np.uint8)
        column, row = np.floor(pixels[1]).astype(int)
        mask[row, column] = 255
        write_raster(tmp_path / "mask.png", mask)
        known = priors_from(
            clip,
            intrinsics=self.FILES.intrinsics,
            distortion=self.FILES.distortion,
            depth=tmp_path / "d.npz",
            mask=tmp_path / "mask.png",
        )
        assert known.depths is not None
        assert known.ignore is not None
        found = known.depths.isfinite().nonzero()
        assert found[:, 0].tolist() == [0, 1, 2]
        for (x, y), (_, found_row, found_column) in zip(places, found.tolist(), strict=True):
            assert abs(found_row - y) <= 1
            assert abs(found_column - x) <= 1
        assert known.depths[known.depths.isfinite()].tolist() == [1, 2, 3]
        assert known.ignore[0, 35, 52]
        assert not known.ignore[0, 19, 31]

    @pytest.mark.parametrize("lens", [LENS, (-0.35, 0.02, 0.0, 0.0, 0.0)])
    def test_depths_are_moved_to_undistorted_pixels(self, lens: tuple[float, ...]) -> None:
        """Depth encodes the pixel. The second lens cannot be inverted in the corners."""
        depths = torch.full((2, 40, 60), torch.nan)
        depths[0] = 1 + torch.arange(2400.0).reshape(40, 60)
        found = self._undistorted_depths(depths, lens)
        assert found[1].isnan().all()
        row, column = found[0].isfinite().nonzero().numpy().T
        index = found[0, row, column].long().numpy() - 1
        assert len(index) > 1200
        x, y = distorted(column + 0.5, row + 0.5, lens)
        apart = np.hypot(x - index % 60 - 0.5, y - index // 60 - 0.5)
        assert apart.max() < 1.1  # half of the diagonal of a pixel, possibly stretched

    def test_the_nearest_of_coinciding_depths_is_kept(self) -> None:
        """Undistorting all pixels equals the minimum of undistorting two halves of them separately."""
        generator = torch.Generator().manual_seed(0)
        depths = 1 + torch.rand(1, 40, 60, generator=generator)
        is_first = torch.rand(1, 40, 60, generator=generator) < 0.5
        halves = [depths.where(is_half, torch.tensor(torch.nan)) for is_half in (is_first, ~is_first)]
        first, second, both = (self._undistorted_depths(known, LENS) for known in (*halves, depths))
        assert (first.isfinite() & second.isfinite()).sum() > 20
        torch.testing.assert_close(both, first.fmin(second), equal_nan=True)

    def _undistorted_depths(self, depths: torch.Tensor, lens: tuple[float, ...]) -> torch.Tensor:
        frames = len(depths)
        known = replace(Priors.unknown(frames), intrinsics=TestIntrinsics.ONE.expand(frames, 3, 3), depths=depths)
        clip = replace(make_clip(frames, 40, 60), priors=known)
        straight = undistort(clip, [Lens("FULL_OPENCV", (*lens, 0.0, 0.0, 0.0))] * frames).priors
        assert straight is not None
        assert straight.depths is not None
        return straight.depths

    @pytest.mark.parametrize("with_masks", [False, True])
    def test_frames_of_a_long_clip_have_their_own_distortion(self, clip: Clip, with_masks: bool) -> None:
        zoom = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.1, 1.0], [1.4, 1.5, 1.0]]))
        coefficients = [LENS, (-0.2, 0.0, 0.0, 0.0, 0.0), (0.1, 0.1, 0.0, 0.01, 0.0)]
        lenses = [brown_lens(torch.tensor(one, dtype=torch.float64)) for one in coefficients]
        ignore = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)) < 0.2
        known = replace(Priors.unknown(3), intrinsics=zoom @ TestIntrinsics.ONE, ignore=ignore if with_masks else None)
        short = undistort(replace(clip, priors=known), lenses)
        long = undistort_long_clip(as_long_clip(replace(clip, priors=known)), lenses)
        assert short.priors is not None
        assert short.priors.ignore is not None
        assert long.ignore is not None
        # Masks are sampled at the nearest pixel, and pixels outside the distorted image are ignored.
        x, y = distorted(self.X, self.Y)
        outside = (x < 0) | (x >= 60) | (y < 0) | (y >= 40)
        looked_up = ignore[0].numpy()[y.clip(0, 39).astype(int), x.clip(0, 59).astype(int)]
        wanted = outside | looked_up if with_masks else outside
        assert (short.priors.ignore[0].numpy() != wanted).mean() < 0.002  # rounding between two pixels
        assert torch.equal(torch.stack(list(long.images([1, 2]))), short.images[1:])
        assert torch.equal(torch.stack(list(long.ignore([1, 2]))), short.priors.ignore[1:])
        # A single frame with its own distortion.
        alone = replace(clip.frames([2]), priors=known.frames([2]))
        assert torch.equal(undistort(alone, lenses[2:]).images[0], short.images[2])

    def test_frames_without_intrinsics_are_an_error(self, clip: Clip) -> None:
        intrinsics = TestIntrinsics.ONE.repeat(3, 1, 1)
        intrinsics[1] = torch.nan
        clip = replace(clip, priors=replace(Priors.unknown(3), intrinsics=intrinsics))
        for bare in (clip, replace(clip, priors=None)):
            with pytest.raises(UserError, match="not known for every frame"):
                undistort(bare, [Lens("PINHOLE")] * 3)
            with pytest.raises(UserError, match="not known for every frame"):
                undistort_long_clip(as_long_clip(bare), [Lens("PINHOLE")] * 3)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (
                PriorFiles(distortion="0.1,0,0,0"),
                "needs the intrinsics of every frame, and 0 of 3 .*; give intrinsics too",
            ),
            (PriorFiles(intrinsics="50,52,31,19", distortion="0.1,0,0"), "expected k1,k2,p1,p2"),
            (PriorFiles(intrinsics="50,52,31,19", distortion="a,b,c,d"), "expected k1,k2,p1,p2"),
        ],
    )
    def test_invalid_values(self, clip: Clip, files: PriorFiles, message: str) -> None:
        with pytest.raises(UserError, match=message):
            with_prior_files(clip, files)


class TestCommand:
    QUICK = ("--model", "recon4d_tiny", "--processing-size", "32", "--refine", "off")

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        (tmp_path / "photos").mkdir()
        for number, image in enumerate(make_clip(3, 40, 60).images):
            write_jpeg(tmp_path / "photos" / f"{number}.jpg", image)
        return tmp_path / "photos"

    def test_all_priors_at_once(self, photos: Path, tmp_path: Path, capsys) -> None:
        write_raster(tmp_path / "mask.png", TestMasks.MASK)
        np.savez(tmp_path / "d.npz", depths=np.full((3, 40, 60), 5.0))
        cameras = tum_file(tmp_path / "tum.txt", [0.0, 1.0, 2.0], POSES[:3])
        options = ["--intrinsics", "50,52,31,19", "--distortion=-0.1,0,0,0", "--cameras", cameras]
        options += ["--depth", tmp_path / "d.npz", "--mask", tmp_path / "mask.png", "--full-resolution"]
        arguments = ["reconstruct", photos, "--out", tmp_path / "out", *options, *self.QUICK]
        assert main([str(argument) for argument in arguments]) == 0
        scene = load_scene(tmp_path / "out")
        torch.testing.assert_close(scene.cameras.intrinsics, TestIntrinsics.ONE.expand(3, 3, 3))
        torch.testing.assert_close(scene.cameras.world_from_cam, POSES[:3].float(), atol=1e-5, rtol=1e-5)
        confident = scene.depth_confidence > 0
        assert 0.8 < confident.float().mean() < 1
        assert float(scene.depths[confident].median()) == pytest.approx(5, rel=0.05)
        printed = capsys.readouterr().out
        assert "priors: intrinsics of 3 of 3 frames, cameras of 3 of 3 frames, depth at " in printed

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--intrinsics", "1,2"], "wanted fx fy cx cy"),
            (["--mask", "none.png"], "none.png does not exist"),
            (["--distortion", "0,0,0,0"], "give intrinsics too"),
        ],
    )
    def test_errors_are_one_line(self, photos: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
        assert main(["reconstruct", str(photos), "--out", str(tmp_path / "out"), *options, *self.QUICK]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
        assert message in line
        assert not (tmp_path / "out").exists()
