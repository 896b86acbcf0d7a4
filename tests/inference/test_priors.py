"""What is known goes in at the right pixels, from every kind of file, and is true in the answer."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import assert_scenes_close, awake
from PIL import Image
from scenes import make_clip, make_scene

from recon4d import geometry as g
from recon4d.cli.main import main
from recon4d.datasets import ColmapModels
from recon4d.inference import (
    PriorFiles,
    ReconstructConfig,
    apply_priors,
    reconstruct,
    with_prior_files,
)
from recon4d.io import SceneInfo, load_scene, read_camera_file, save_scene, write_jpeg, write_raster
from recon4d.io.long_clips import as_long_clip
from recon4d.io.masks import mask_reader
from recon4d.io.undistortion import undistorted, undistorted_long
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
    """What the truth says of lenses and cameras, the latter in a world of their own."""
    nothing = Priors.nothing(scene.num_frames)
    own_from_world = g.rigid(g.rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2])), torch.tensor([5.0, -2.0, 1.0]))
    return replace(
        nothing,
        intrinsics=scene.cameras.intrinsics if lens else nothing.intrinsics,
        world_from_cam=own_from_world @ scene.cameras.world_from_cam if cameras else nothing.world_from_cam,
    )


OTHER_LENS = ((1.3, 1.0, 0.9), (1.0, 1.3, 1.2), (1.0, 1.0, 1.0))
SAME_LENS = ((1.0, 1.0, 1.0),) * 3


def misjudged(truth: Scene, scale: float = 0.2, turn: float = 0.05, lens: tuple = OTHER_LENS) -> Scene:
    """The truth as a network may see it: in its own unit, other frames turned away, by another lens."""
    steps = torch.arange(truth.num_frames)[:, None] * torch.tensor([turn, -turn, 0.5 * turn])
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[:, :3, :3] = world_from_cam[:, :3, :3] @ g.rotation_from_axis_angle(steps)
    wrong = truth.with_cameras(Cameras(world_from_cam, truth.cameras.intrinsics * torch.tensor(lens)))
    return wrong.transformed(g.similarity(torch.tensor(scale), torch.eye(3), torch.zeros(3)))


class TestHonored:
    def test_known_lens_and_cameras_bring_back_the_truth(self, truth: Scene) -> None:
        """Depth, point maps, tracks, cameras and unit: whatever the network got wrong was in them."""
        answer = apply_priors(misjudged(truth), known_of(truth, lens=True, cameras=True))
        assert_scenes_close(answer, truth, tolerance=2e-4)
        assert torch.equal(answer.cameras.intrinsics, truth.cameras.intrinsics)
        assert torch.equal(answer.cameras.world_from_cam[0], torch.eye(4))

    def test_a_known_lens_leaves_pixels_and_z_alone(self, truth: Scene) -> None:
        seen = misjudged(truth, scale=1.0)
        answer = apply_priors(seen, known_of(truth, lens=True))
        assert torch.equal(answer.depths, seen.depths)
        assert torch.equal(answer.cameras.world_from_cam, seen.cameras.world_from_cam)
        torch.testing.assert_close(answer.points, answer.points_from_depth, atol=CLOSE, rtol=CLOSE)
        torch.testing.assert_close(answer.track_pixels, seen.track_pixels, atol=1e-3, rtol=CLOSE)

    def test_a_lens_known_in_some_frames_counts_there(self, truth: Scene) -> None:
        seen, known = misjudged(truth), known_of(truth, lens=True)
        intrinsics = known.intrinsics.clone()
        intrinsics[2:] = torch.nan
        found = apply_priors(seen, replace(known, intrinsics=intrinsics)).cameras.intrinsics
        assert torch.equal(found[:2], truth.cameras.intrinsics[:2])
        assert torch.equal(found[2:], seen.cameras.intrinsics[2:])

    def test_a_quarter_of_wrong_predicted_cameras_does_not_pull_the_scale(self, truth: Scene) -> None:
        seen = misjudged(truth, lens=SAME_LENS)
        world_from_cam = seen.cameras.world_from_cam.clone()
        world_from_cam[[2, 5], :3, 3] += torch.tensor([3.0, -4.0, 1.0])
        answer = apply_priors(
            replace(seen, cameras=replace(seen.cameras, world_from_cam=world_from_cam)),
            known_of(truth, cameras=True),
        )
        torch.testing.assert_close(answer.depths, truth.depths, atol=CLOSE, rtol=CLOSE)
        torch.testing.assert_close(answer.cameras.world_from_cam, truth.cameras.world_from_cam, atol=CLOSE, rtol=CLOSE)

    def test_long_distances_tell_more_of_the_scale_than_short_ones(self, truth: Scene) -> None:
        """Six cameras stand together, where a network's jitter is larger than their distances."""
        centers = torch.tensor([0.0, 1, 2, 3, 4, 5, 400, 800])[:, None] * torch.tensor([1e-2, 0.0, 0.0])
        world_from_cam = g.rigid(torch.eye(3).expand(FRAMES, 3, 3), centers)
        generator = torch.Generator().manual_seed(0)
        predicted = world_from_cam.clone()
        predicted[1:, :3, 3] += 0.1 * torch.randn(FRAMES - 1, 3, generator=generator)
        seen = truth.with_cameras(Cameras(predicted, truth.cameras.intrinsics))
        answer = apply_priors(seen, replace(Priors.nothing(FRAMES), world_from_cam=world_from_cam))
        torch.testing.assert_close(answer.depths, seen.depths, atol=0, rtol=0.03)

    def test_a_camera_that_is_not_known_stays_beside_the_nearest_that_is(self, truth: Scene) -> None:
        seen, known = misjudged(truth), known_of(truth, cameras=True)
        world_from_cam = known.world_from_cam.clone()
        world_from_cam[[3, 4]] = torch.nan
        answer = apply_priors(seen, replace(known, world_from_cam=world_from_cam))
        for unknown, beside in ((3, 2), (4, 5)):
            assert_same_step(answer, seen, unknown, beside)
        torch.testing.assert_close(answer.points, answer.points_from_depth, atol=1e-3, rtol=CLOSE)

    def test_sparse_depth_fixes_the_unit_whatever_a_third_of_it_says(self, truth: Scene) -> None:
        generator = torch.Generator().manual_seed(0)
        depths = torch.where(torch.rand(truth.depths.shape, generator=generator) < 0.05, truth.depths, torch.nan)
        wild = torch.rand(truth.depths.shape, generator=generator) < 0.3
        known = replace(Priors.nothing(FRAMES), depths=torch.where(wild, 20 * depths, depths))
        seen = misjudged(truth, turn=0, lens=SAME_LENS)
        assert_scenes_close(apply_priors(seen, known), truth, tolerance=1e-3)
        # Of cameras in another unit, depth is believed.
        larger = truth.transformed(g.similarity(torch.tensor(7.0), torch.eye(3), torch.zeros(3)))
        both = replace(known, world_from_cam=larger.cameras.world_from_cam)
        answer = apply_priors(seen, both)
        torch.testing.assert_close(answer.depths, truth.depths, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(answer.cameras.centers, larger.cameras.centers, atol=CLOSE, rtol=CLOSE)

    def test_depth_that_the_answer_does_not_believe_in_tells_nothing(self, truth: Scene) -> None:
        seen = replace(truth, depth_confidence=torch.zeros_like(truth.depths))
        assert apply_priors(seen, replace(Priors.nothing(FRAMES), depths=9 * truth.depths)) is seen

    def test_meters_follow_the_unit(self) -> None:
        truth = make_scene(FRAMES, metres_per_unit=2.0)
        seen = misjudged(truth)
        assert float(apply_priors(seen, known_of(truth, True, True)).metres_per_unit) == pytest.approx(2.0)

    def test_cameras_that_stand_still_do_not_tell_a_unit(self, truth: Scene) -> None:
        world_from_cam = torch.eye(4).repeat(FRAMES, 1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer = apply_priors(truth, replace(Priors.nothing(FRAMES), world_from_cam=world_from_cam))
        assert torch.equal(answer.depths, truth.depths)
        assert torch.equal(answer.cameras.world_from_cam, world_from_cam)

    def test_predicted_cameras_that_stand_still_are_a_warning(self, truth: Scene) -> None:
        still = replace(truth.cameras, world_from_cam=torch.eye(4).repeat(FRAMES, 1, 1))
        with pytest.warns(UserWarning, match="hardly move"):
            answer = apply_priors(replace(truth, cameras=still), known_of(truth, cameras=True))
        torch.testing.assert_close(answer.cameras.centers, truth.cameras.centers, atol=CLOSE, rtol=CLOSE)
        assert torch.equal(answer.depths, truth.depths)

    def test_nothing_known_is_the_same_scene(self, truth: Scene) -> None:
        ignore = torch.zeros(truth.depths.shape, dtype=torch.bool)
        for known in (None, Priors.nothing(FRAMES), replace(Priors.nothing(FRAMES), ignore=ignore)):
            assert apply_priors(truth, known) is truth


def assert_same_step(answer: Scene, seen: Scene, one: int, other: int) -> None:
    """Both see the same rigid step between two cameras, up to the scale."""
    steps = [
        g.invert(scene.cameras.world_from_cam[other]) @ scene.cameras.world_from_cam[one] for scene in (answer, seen)
    ]
    scale = answer.depths.median() / seen.depths.median()
    torch.testing.assert_close(steps[0][:3, :3], steps[1][:3, :3], atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(steps[0][:3, 3], scale * steps[1][:3, 3], atol=CLOSE, rtol=CLOSE)


class TestReconstructed:
    """Through the network, which is told where it can be."""

    CLIP = make_clip(frames=4, height=60, width=100)
    SINGLE = ReconstructConfig(precision="float32", processing_size=64)

    @pytest.fixture(params=["told", "cannot be told"])
    def model(self, request: pytest.FixtureRequest) -> Model:
        config = replace(model_config("recon4d_tiny"), prior_inputs=request.param == "told")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return awake(Model(config)).float()

    @pytest.fixture
    def known(self) -> Priors:
        truth = make_scene(4)
        intrinsics = torch.tensor([[90.0, 0, 47], [0, 95, 33], [0, 0, 1]]).expand(4, 3, 3)
        return Priors(intrinsics, known_of(truth, cameras=True).world_from_cam)

    def test_lens_and_cameras_are_the_given_ones(self, model: Model, known: Priors) -> None:
        scene = reconstruct(model, replace(self.CLIP, priors=known), self.SINGLE)
        assert scene.size == (48, 80)
        assert torch.equal(scene.cameras.intrinsics, g.resized_intrinsics(known.intrinsics, (60, 100), (48, 80)))
        torch.testing.assert_close(scene.resized(60, 100).cameras.intrinsics, known.intrinsics)
        expected = make_scene(4).cameras.world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam, expected, atol=CLOSE, rtol=CLOSE)
        assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))

    def test_the_network_hears_it_if_it_can(self, model: Model, known: Priors) -> None:
        """By what stays when everything is honored afterwards: the confidences."""
        told = reconstruct(model, replace(self.CLIP, priors=known), self.SINGLE)
        alone = reconstruct(model, self.CLIP, self.SINGLE)
        assert torch.equal(told.depth_confidence, alone.depth_confidence) == (model.known is None)

    def test_given_depth_fixes_the_unit(self, model: Model) -> None:
        depths = torch.full((4, 60, 100), torch.nan)
        depths[:, ::7, ::9] = 300.0
        scene = reconstruct(model, replace(self.CLIP, priors=replace(Priors.nothing(4), depths=depths)), self.SINGLE)
        at_known = scene.depths[
            Priors.resized(replace(Priors.nothing(4), depths=depths), (60, 100), scene.size).depths > 0
        ]
        assert float((300 / at_known).median()) == pytest.approx(1, abs=CLOSE)

    def test_nothing_known_changes_no_bit(self, model: Model) -> None:
        bare = reconstruct(model, self.CLIP, self.SINGLE)
        assert_scenes_close(reconstruct(model, with_prior_files(self.CLIP, PriorFiles()), self.SINGLE), bare, 0)


@pytest.fixture
def clip() -> Clip:
    """Three frames, every third of a video."""
    return replace(make_clip(3, 40, 60), source=ClipSource("v.mp4", ("v_000000", "v_000003", "v_000006"), (0, 3, 6)))


def known_by(clip: Clip, **files: object) -> Priors:
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
    def test_one_lens_for_all_frames(self, clip: Clip, tmp_path: Path, name: str, text: str) -> None:
        if name:
            (tmp_path / name).write_text(text)
        known = known_by(clip, intrinsics=str(tmp_path / name) if name else text)
        assert torch.equal(known.intrinsics, self.ONE.expand(3, 3, 3))

    @pytest.mark.parametrize(
        "text", ["50 52 31 19\n60 52 31 19\n70 52 31 19\n", "[[50,52,31,19],[60,52,31,19],[70,52,31,19]]"]
    )
    def test_a_lens_for_each_frame(self, clip: Clip, tmp_path: Path, text: str) -> None:
        (tmp_path / "zoom").write_text(text)
        assert known_by(clip, intrinsics=str(tmp_path / "zoom")).intrinsics[:, 0, 0].tolist() == [50, 60, 70]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("50,52,31", "wanted fx fy cx cy or a 3x3 matrix"),
            ("-50,52,31,19", "focal lengths above 0"),
            ("50,52,nan,19", "finite"),
            ("none.json", "no such file, nor is this fx,fy,cx,cy"),
        ],
    )
    def test_refusals(self, clip: Clip, text: str, complaint: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=complaint):
            known_by(clip, intrinsics=text)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("1 2 3 4\n5 6 7 8\n", "2 cameras, and the clip has 3 frames"),
            ("1 2 3 4\n5 6 7\n", "wanted fx fy cx cy"),
            ("", "wanted fx fy cx cy"),
            ('{"fx": 3}', "wanted fx fy cx cy"),
            ("50 0 31\n0 52 19\n0 0 2\n", "as a pinhole has"),
        ],
    )
    def test_refused_files(self, clip: Clip, tmp_path: Path, text: str, complaint: str) -> None:
        (tmp_path / "lens").write_text(text)
        with pytest.raises(ValueError, match=complaint):
            known_by(clip, intrinsics=str(tmp_path / "lens"))


POSES = make_scene(7).cameras.world_from_cam.double()
FAR = torch.tensor([4.0e5, 5.0e6, 100.0], dtype=torch.float64)
"""Meters, as of a map of a country: float32 would round to half a meter."""


def tum_file(path: Path, times: list[float], poses: torch.Tensor) -> Path:
    quaternions = g.quaternion_from_rotation(poses[:, :3, :3])[:, [1, 2, 3, 0]]
    rows = torch.cat([poses[:, :3, 3] + FAR, quaternions], dim=1)
    lines = [
        f"{time} " + " ".join(repr(value) for value in row.tolist()) for time, row in zip(times, rows, strict=True)
    ]
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")
    return path


def assert_poses(known: Priors, wanted: torch.Tensor) -> None:
    """In the first frame's camera, to what float32 holds."""
    expected = (g.invert(wanted[0]) @ wanted).float()
    torch.testing.assert_close(known.world_from_cam, expected, atol=1e-6, rtol=1e-5)


class TestCameras:
    def test_a_trajectory_by_time(self, clip: Clip, tmp_path: Path) -> None:
        """The clip's frames are at 0, .1 and .2 s; the file goes on and is slightly off."""
        path = tum_file(tmp_path / "tum.txt", [0.001, 0.05, 0.109, 0.15, 0.2, 0.25, 0.3], POSES)
        assert_poses(known_by(clip, cameras=path), POSES[[0, 2, 4]])

    def test_a_trajectory_by_the_names_of_pictures(self, clip: Clip, tmp_path: Path) -> None:
        stamps = [1305031102.1753 + 0.5 * i for i in range(7)]
        names = tuple(f"{stamps[i]:.4f}.png" for i in (1, 2, 6))
        path = tum_file(tmp_path / "tum.txt", stamps, POSES)
        photos = replace(clip, times=torch.full((3,), torch.nan), source=ClipSource("rgb", names, (1, 2, 6)))
        assert_poses(known_by(photos, cameras=path), POSES[[1, 2, 6]])

    def test_a_trajectory_by_order(self, clip: Clip, tmp_path: Path) -> None:
        assert_poses(known_by(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 1.0, 2.0], POSES[4:])), POSES[4:])

    def test_time_goes_before_order(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [0.2, 0.0, 0.1], POSES[:3])
        assert_poses(known_by(clip, cameras=path), POSES[[1, 2, 0]])

    def test_a_trajectory_with_a_gap(self, clip: Clip, tmp_path: Path) -> None:
        known = known_by(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 0.2], POSES[:2]))
        assert known.world_from_cam[1].isnan().all()
        assert_poses(known.frames([0, 2]), POSES[:2])

    def test_a_trajectory_of_something_else(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [7.0, 8.0], POSES[:2])
        with pytest.raises(ValueError, match="2 cameras, and the clip has 3 frames; neither names nor times"):
            known_by(clip, cameras=path)

    def test_a_colmap_model_without_its_pictures(self, clip: Clip, tmp_path: Path) -> None:
        """Of pictures of twice the size, one of them not in it; the other reader of such models says the same."""
        colmap_model(tmp_path / "sparse", "PINHOLE 120 80 100 104 62 38")
        known = known_by(clip, cameras=tmp_path / "sparse")
        assert torch.equal(known.intrinsics[[0, 2]], TestIntrinsics.ONE.expand(2, 3, 3))
        assert known.intrinsics[1].isnan().all()
        assert known.world_from_cam[1].isnan().all()
        for picture in ("v_000000.jpg", "v_000006.jpg"):
            write_jpeg(tmp_path / picture, torch.zeros(3, 80, 120, dtype=torch.uint8))
        sample = ColmapModels(tmp_path).read(tmp_path.name, [0, 1])
        torch.testing.assert_close(known.frames([0, 2]).world_from_cam, sample.scene.cameras.world_from_cam)
        # What is given by itself goes before what is in the file.
        assert known_by(clip, cameras=tmp_path / "sparse", intrinsics="9,9,9,9").intrinsics[0, 0, 0] == 9

    def test_the_lens_of_a_colmap_model_is_straightened(self, clip: Clip, tmp_path: Path) -> None:
        colmap_model(tmp_path / "bent", "OPENCV 60 40 50 52 31 19 0.1 -0.02 0.01 0.003", with_all=True)
        bent = with_prior_files(clip, PriorFiles(cameras=tmp_path / "bent"))
        words = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", distortion="0.1,-0.02,0.01,0.003"))
        assert torch.equal(bent.images, words.images)
        assert not torch.equal(bent.images, clip.images)
        # A lens that is given by itself bends nothing unless that is given too.
        own = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", cameras=tmp_path / "bent"))
        assert torch.equal(own.images, clip.images)

    @pytest.mark.parametrize(
        ("lens", "complaint"),
        [
            ("FOV 60 40 50 52 31 19 1", "model FOV; wanted"),
            ("PINHOLE 60 60 50 52 31 19", "60 x 60 pixels, and the clip's 60 x 40"),
        ],
    )
    def test_refused_colmap_models(self, clip: Clip, tmp_path: Path, lens: str, complaint: str) -> None:
        colmap_model(tmp_path / "sparse", lens)
        with pytest.raises(ValueError, match=complaint):
            known_by(clip, cameras=tmp_path / "sparse")

    def test_transforms_json_by_hand(self, clip: Clip, tmp_path: Path) -> None:
        """OpenGL's camera looks along its -z; the second looks along the world's +x from two to the left."""
        looks_along_x = [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
        frames = [
            {"file_path": "images/v_000003.png", "transform_matrix": looks_along_x, "fl_x": 60},
            {"file_path": "images/v_000000.png", "transform_matrix": np.eye(4).tolist()},
            {"file_path": "images/v_000006.png", "transform_matrix": np.eye(4).tolist()},
        ]
        stored = {"w": 60, "h": 40, "fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        for path in (tmp_path, tmp_path / "transforms.json"):
            known = known_by(clip, cameras=path)
            assert known.intrinsics[:, 0, 0].tolist() == [50, 60, 50]
            assert torch.equal(known.intrinsics[0], TestIntrinsics.ONE)
            first_from_second = known.world_from_cam[1]
            # In the first camera, x to the right, y down, z forward (its -z): it looks to the right, and is upright.
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 0, 1, 0]), torch.tensor([1.0, 0, 0, 0]))
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 1, 0, 0]))
            torch.testing.assert_close(first_from_second[:3, 3], torch.tensor([-2.0, 0, 0]))

    def test_transforms_json_with_an_angle_only(self, clip: Clip, tmp_path: Path) -> None:
        frames = [{"file_path": f"./train/r_{i}", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
        stored = {"camera_angle_x": 2 * np.arctan(0.5), "w": 60, "h": 40, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        expected = torch.tensor([[60.0, 0, 30], [0, 60, 20], [0, 0, 1]])
        torch.testing.assert_close(known_by(clip, cameras=tmp_path).intrinsics, expected.expand(3, 3, 3))

    def test_a_scene_of_ours(self, clip: Clip, tmp_path: Path) -> None:
        """Whose maps are smaller than the clip, and whose frames are found by their names."""
        scene = make_scene(7).resized(20, 30)
        names = tuple(f"v_{number:06d}" for number in range(7))
        info = SceneInfo("m", True, "0", ClipSource("v.mp4", names, tuple(range(7))), (40, 60), {})
        save_scene(tmp_path, scene, torch.arange(7) / 30, info)
        known = known_by(clip, cameras=tmp_path)
        assert_poses(known, POSES[[0, 3, 6]])
        torch.testing.assert_close(known.intrinsics, scene.resized(40, 60).cameras.intrinsics[:3])

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
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
    def test_refused_files(self, clip: Clip, tmp_path: Path, name: str, content: str, complaint: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=complaint) as caught:
            known_by(clip, cameras=tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_refused_places(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds neither a scene"):
            read_camera_file(tmp_path)
        with pytest.raises(FileNotFoundError):
            read_camera_file(tmp_path / "none")


def colmap_model(folder: Path, lens: str, with_all: bool = False) -> None:
    """Frames 0 and 6 of the clip (and 3), a step to the right of each other, and no points."""
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"1 {lens}\n")
    numbers = (0, 3, 6) if with_all else (0, 6)
    rows = [f"{n + 1} 1 0 0 0 {-0.5 * n} 0 0 1 v_{n:06d}.jpg\n\n" for n in numbers]
    (folder / "images.txt").write_text("".join(rows))
    (folder / "points3D.txt").write_text("")


class TestMasks:
    MASK = np.zeros((40, 60), dtype=np.uint8)
    MASK[30:, 10:20] = 255

    def test_one_picture_for_all_frames(self, clip: Clip, tmp_path: Path) -> None:
        write_raster(tmp_path / "bonnet.png", self.MASK)
        ignore = known_by(clip, mask=tmp_path / "bonnet.png").ignore
        assert torch.equal(ignore, torch.from_numpy(self.MASK > 0).expand(3, 40, 60))  # pyright: ignore
        one_after_the_other = list(mask_reader(tmp_path / "bonnet.png", clip)([0, 2]))
        assert torch.equal(torch.stack(one_after_the_other), ignore[[0, 2]])  # pyright: ignore

    def test_colored_and_sixteen_bit_masks(self, clip: Clip, tmp_path: Path) -> None:
        colored = np.stack([np.zeros_like(self.MASK), self.MASK, np.full_like(self.MASK, 90)], axis=-1)
        write_raster(tmp_path / "color.png", colored)
        write_raster(tmp_path / "deep.png", self.MASK.astype(np.uint16) * 257)
        for name in ("color.png", "deep.png"):
            assert torch.equal(known_by(clip, mask=tmp_path / name).ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize(
        ("dtype", "dark", "white"), [(np.uint8, 127, 128), (np.uint16, 32767, 32768), (np.float32, 0.5, 0.51)]
    )
    def test_white_is_above_half(self, clip: Clip, tmp_path: Path, dtype: type, dark: float, white: float) -> None:
        path = tmp_path / ("mask.tif" if dtype is np.float32 else "mask.png")
        write_raster(path, np.where(self.MASK > 0, white, dark).astype(dtype))
        assert torch.equal(known_by(clip, mask=path).ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("mode", ["1", "LA", "RGBA"])
    def test_masks_of_one_bit_and_opaque_ones(self, clip: Clip, tmp_path: Path, mode: str) -> None:
        Image.fromarray(self.MASK).convert(mode).save(tmp_path / "mask.png")
        assert torch.equal(known_by(clip, mask=tmp_path / "mask.png").ignore[0], torch.from_numpy(self.MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("names", [("v_000000", "v_000001", "v_000003", "v_000006"), ("m10", "m2", "m1")])
    def test_a_folder_by_name_or_in_order(self, clip: Clip, tmp_path: Path, names: tuple[str, ...]) -> None:
        by_name = len(names) == 4
        for place, name in enumerate(names):
            write_raster(tmp_path / f"{name}.png", np.full((40, 60), 255 * (place == 2), dtype=np.uint8))
        ignored = known_by(clip, mask=tmp_path).ignore.float().mean(dim=(1, 2))  # pyright: ignore
        assert ignored.tolist() == ([0, 1, 0] if by_name else [1, 0, 0])

    def test_refusals(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no pictures"):
            known_by(clip, mask=tmp_path)
        write_raster(tmp_path / "small.png", np.zeros((20, 30), dtype=np.uint8))
        with pytest.raises(ValueError, match="30 x 20 pixels, and the clip 60 x 40"):
            known_by(clip, mask=tmp_path / "small.png")
        with pytest.raises(ValueError, match=r"folder holds 1, and the clip has 3 frames; .* names like v_000000"):
            known_by(clip, mask=tmp_path)
        with pytest.raises(FileNotFoundError):
            known_by(clip, mask=tmp_path / "none.png")


class TestDepth:
    def test_maps(self, clip: Clip, tmp_path: Path) -> None:
        depths = np.zeros((3, 40, 60))
        depths[1, 2, 3], depths[2, 5, 5], depths[0, 0, 0] = 4.5, np.inf, -1
        np.savez(tmp_path / "depth.npz", depths=depths)
        found = known_by(clip, depth=tmp_path / "depth.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[1, 2, 3]]
        assert found[1, 2, 3] == 4.5

    def test_single_points(self, clip: Clip, tmp_path: Path) -> None:
        """The pixel whose center is (3.5, 2.5) goes from 3 to 4 and from 2 to 3; the nearer of two points counts."""
        pixels = np.array([[3.0, 2.0], [3.99, 2.99], [59.9, 39.9], [7, 7], [0, 0], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]])
        depths = np.array([4.0, 8, 2, 0, 3, 0, np.nan, -1])
        np.savez(tmp_path / "d.npz", depths=depths, pixels=pixels, frames=np.array([1, 1, 2, 0, 0, 0, 0, 0]))
        found = known_by(clip, depth=tmp_path / "d.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[0, 0, 0], [1, 2, 3], [2, 39, 59]]
        assert [float(found[0, 0, 0]), float(found[1, 2, 3]), float(found[2, 39, 59])] == [3, 4, 2]

    @pytest.mark.parametrize(
        ("arrays", "complaint"),
        [
            ({"depths": np.ones((2, 40, 60))}, r"shape \(2, 40, 60\); wanted .* = \(3, 40, 60\)"),
            ({"depths": np.ones((3, 20, 30))}, r"shape \(3, 20, 30\)"),
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
    def test_refusals(self, clip: Clip, tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str) -> None:
        np.savez(tmp_path / "d.npz", **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=complaint):
            known_by(clip, depth=tmp_path / "d.npz")

    @pytest.mark.parametrize("content", [b"nothing", b"", b"PK\x03\x04 damaged"])
    def test_what_is_no_archive(self, clip: Clip, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(ValueError, match="no npz file, or damaged"):
            known_by(clip, depth=tmp_path / "d.npz")
        with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist"):
            known_by(clip, depth=tmp_path / "none.npz")

    def test_other_files_of_arrays(self, clip: Clip, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.ones((3, 40, 60)))
        np.savez_compressed(tmp_path / "d.npz", depths=np.ones((3, 40, 60)))
        content = bytearray((tmp_path / "d.npz").read_bytes())
        content[50:80] = b"x" * 30
        (tmp_path / "d.npz").write_bytes(content)
        for name in ("d.npy", "d.npz"):
            with pytest.raises(ValueError, match="no npz file, or damaged"):
                known_by(clip, depth=tmp_path / name)


LENS = (0.25, -0.08, 0.004, -0.003, 0.01)


def bent(x: np.ndarray, y: np.ndarray, lens: tuple[float, ...] = LENS) -> tuple[np.ndarray, np.ndarray]:
    """Where a lens of 50, 52, 31, 19 puts the pinhole's pixels (x, y): Brown's formula, written out."""
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

    def test_every_pixel_comes_from_where_the_lens_put_it(self) -> None:
        """Pictures whose colors are four times their own pixel say where they were looked up."""
        x, y = np.broadcast_to(4 * self.X, (3, 40, 60)), np.broadcast_to(4 * self.Y, (3, 40, 60))
        images = torch.from_numpy(np.stack([x, y, y], axis=1).astype(np.uint8))
        straight = with_prior_files(Clip(images, torch.arange(3) / 10), self.FILES)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        from_x, from_y = bent(self.X, self.Y)
        outside = (from_x < 0) | (from_x >= 60) | (from_y < 0) | (from_y >= 40)
        assert np.array_equal(straight.priors.ignore[1].numpy(), outside)
        within = (from_x > 0.5) & (from_x < 59.5) & (from_y > 0.5) & (from_y < 39.5)
        for channel, expected in ((0, from_x), (1, from_y)):
            error = straight.images[2, channel].numpy() - 4 * expected
            assert np.abs(error[within]).max() < 0.51  # of a gray level, by rounding
        assert within.mean() > 0.7
        assert 0.05 < outside.mean() < 0.3
        # Black outside, and of the border's color up to its very edge.
        white = with_prior_files(Clip(torch.full_like(images, 255), torch.arange(3) / 10), self.FILES)
        assert np.array_equal(white.images[1, 0].numpy(), np.where(outside, 0, 255))

    def test_a_lens_that_bends_nothing_changes_nothing(self, clip: Clip) -> None:
        known = known_by(clip, intrinsics="50,52,31,19")
        straight = undistorted(replace(clip, priors=known), torch.zeros(3, 5))
        assert torch.equal(straight.images, clip.images)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        assert not straight.priors.ignore.any()

    def test_depth_and_masks_follow(self, clip: Clip, tmp_path: Path) -> None:
        places = [(6, 4), (52, 35), (31, 19)]
        frames, pixels = np.arange(3), np.array([bent(x + 0.5, y + 0.5) for x, y in places])
        np.savez(tmp_path / "d.npz", depths=np.array([1.0, 2, 3]), pixels=pixels, frames=frames)
        mask = np.zeros((40, 60), dtype=np.uint8)
        column, row = np.floor(pixels[1]).astype(int)
        mask[row, column] = 255
        write_raster(tmp_path / "mask.png", mask)
        known = known_by(
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
    def test_depths_stand_where_the_lens_sees_them(self, lens: tuple[float, ...]) -> None:
        """Depths that tell their own pixel; also in the corners of a lens that bends too much to be straightened."""
        depths = torch.full((2, 40, 60), torch.nan)
        depths[0] = 1 + torch.arange(2400.0).reshape(40, 60)
        found = self._undistorted_depths(depths, lens)
        assert found[1].isnan().all()
        row, column = found[0].isfinite().nonzero().numpy().T
        index = found[0, row, column].long().numpy() - 1
        assert len(index) > 1200
        x, y = bent(column + 0.5, row + 0.5, lens)
        apart = np.hypot(x - index % 60 - 0.5, y - index // 60 - 0.5)
        assert apart.max() < 1.1  # half the diagonal of a pixel, which the lens may stretch

    def test_the_nearest_of_depths_that_meet_counts(self) -> None:
        """Two halves of the pixels straightened apart and laid over each other are both straightened together."""
        generator = torch.Generator().manual_seed(0)
        depths = 1 + torch.rand(1, 40, 60, generator=generator)
        is_first = torch.rand(1, 40, 60, generator=generator) < 0.5
        halves = [depths.where(is_half, torch.tensor(torch.nan)) for is_half in (is_first, ~is_first)]
        first, second, both = (self._undistorted_depths(known, LENS) for known in (*halves, depths))
        assert (first.isfinite() & second.isfinite()).sum() > 20
        torch.testing.assert_close(both, first.fmin(second), equal_nan=True)

    def _undistorted_depths(self, depths: torch.Tensor, lens: tuple[float, ...]) -> torch.Tensor:
        frames = len(depths)
        known = replace(Priors.nothing(frames), intrinsics=TestIntrinsics.ONE.expand(frames, 3, 3), depths=depths)
        clip = replace(make_clip(frames, 40, 60), priors=known)
        straight = undistorted(clip, torch.tensor(lens).expand(frames, 5)).priors
        assert straight is not None
        assert straight.depths is not None
        return straight.depths

    @pytest.mark.parametrize("with_masks", [False, True])
    def test_every_frame_of_a_long_clip_has_its_own_lens(self, clip: Clip, with_masks: bool) -> None:
        zoom = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.1, 1.0], [1.4, 1.5, 1.0]]))
        lenses = torch.tensor([LENS, (-0.2, 0.0, 0.0, 0.0, 0.0), (0.1, 0.1, 0.0, 0.01, 0.0)])
        ignore = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)) < 0.2
        known = replace(Priors.nothing(3), intrinsics=zoom @ TestIntrinsics.ONE, ignore=ignore if with_masks else None)
        short = undistorted(replace(clip, priors=known), lenses)
        long = undistorted_long(as_long_clip(replace(clip, priors=known)), lenses)
        assert short.priors is not None
        assert short.priors.ignore is not None
        assert long.ignore is not None
        # Masks follow by whole pixels, and what the lens did not see is ignored as well.
        x, y = bent(self.X, self.Y)
        outside = (x < 0) | (x >= 60) | (y < 0) | (y >= 40)
        looked_up = ignore[0].numpy()[y.clip(0, 39).astype(int), x.clip(0, 59).astype(int)]
        wanted = outside | looked_up if with_masks else outside
        assert (short.priors.ignore[0].numpy() != wanted).mean() < 0.002  # rounding, on the line between two pixels
        assert torch.equal(torch.stack(list(long.images([1, 2]))), short.images[1:])
        assert torch.equal(torch.stack(list(long.ignore([1, 2]))), short.priors.ignore[1:])
        # One frame alone, by its own lens.
        alone = replace(clip.frames([2]), priors=known.frames([2]))
        assert torch.equal(undistorted(alone, lenses[2:]).images[0], short.images[2])

    def test_a_frame_of_unknown_lens_is_refused(self, clip: Clip) -> None:
        intrinsics = TestIntrinsics.ONE.repeat(3, 1, 1)
        intrinsics[1] = torch.nan
        clip = replace(clip, priors=replace(Priors.nothing(3), intrinsics=intrinsics))
        for bare in (clip, replace(clip, priors=None)):
            with pytest.raises(ValueError, match="not known for every frame"):
                undistorted(bare, torch.zeros(3, 5))
            with pytest.raises(ValueError, match="not known for every frame"):
                undistorted_long(as_long_clip(bare), torch.zeros(3, 5))

    @pytest.mark.parametrize(
        ("files", "complaint"),
        [
            (PriorFiles(distortion="0.1,0,0,0"), "give its --intrinsics too"),
            (PriorFiles(intrinsics="50,52,31,19", distortion="0.1,0,0"), "wanted k1,k2,p1,p2"),
            (PriorFiles(intrinsics="50,52,31,19", distortion="a,b,c,d"), "wanted k1,k2,p1,p2"),
        ],
    )
    def test_refusals(self, clip: Clip, files: PriorFiles, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            with_prior_files(clip, files)


class TestCommand:
    QUICK = ("--model", "recon4d_tiny", "--processing-size", "32")

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        (tmp_path / "photos").mkdir()
        for number, image in enumerate(make_clip(3, 40, 60).images):
            write_jpeg(tmp_path / "photos" / f"{number}.jpg", image)
        return tmp_path / "photos"

    def test_everything_at_once(self, photos: Path, tmp_path: Path, capsys) -> None:
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
        believed = scene.depth_confidence > 0
        assert 0.8 < believed.float().mean() < 1
        assert float(scene.depths[believed].median()) == pytest.approx(5, rel=0.05)
        printed = capsys.readouterr().out
        assert "known: intrinsics of 3 of 3 frames, cameras of 3 of 3 frames, depth at " in printed

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--intrinsics", "1,2"], "wanted fx fy cx cy"),
            (["--mask", "none.png"], "none.png does not exist"),
            (["--distortion", "0,0,0,0"], "give its --intrinsics too"),
        ],
    )
    def test_refusals_are_one_line(
        self, photos: Path, tmp_path: Path, capsys, options: list[str], complaint: str
    ) -> None:
        assert main(["reconstruct", str(photos), "--out", str(tmp_path / "out"), *options, *self.QUICK]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
        assert complaint in line
        assert not (tmp_path / "out").exists()
