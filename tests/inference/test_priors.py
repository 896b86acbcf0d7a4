"""Priors: read from every supported file format, at the right pixels, and enforced in the result."""

import warnings
from dataclasses import replace

import pytest
import torch
from networks import assert_scenes_close, randomized
from scenes import make_clip, make_scene

from recon4d import geometry as g
from recon4d.inference import (
    PriorFiles,
    ReconstructConfig,
    apply_priors,
    predict_scene,
    with_prior_files,
)
from recon4d.models import Model
from recon4d.records import (
    Cameras,
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
        scene = predict_scene(model, replace(self.CLIP, priors=known), self.SINGLE)
        assert scene.size == (48, 80)
        assert torch.equal(scene.cameras.intrinsics, g.resized_intrinsics(known.intrinsics, (60, 100), (48, 80)))
        torch.testing.assert_close(scene.resized(60, 100).cameras.intrinsics, known.intrinsics)
        expected = make_scene(4).cameras.world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam, expected, atol=CLOSE, rtol=CLOSE)
        assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))

    def test_the_network_gets_the_priors(self, model: Model, known: Priors) -> None:
        """Confidences depend on priors only through the network, since `apply_priors` does not change them."""
        with_priors = predict_scene(model, replace(self.CLIP, priors=known), self.SINGLE)
        without = predict_scene(model, self.CLIP, self.SINGLE)
        assert torch.equal(with_priors.depth_confidence, without.depth_confidence) == (model.known is None)

    def test_given_depth_determines_the_unit(self, model: Model) -> None:
        depths = torch.full((4, 60, 100), torch.nan)
        depths[:, ::7, ::9] = 300.0
        scene = predict_scene(model, replace(self.CLIP, priors=replace(Priors.unknown(4), depths=depths)), self.SINGLE)
        at_known = scene.depths[
            Priors.resized(replace(Priors.unknown(4), depths=depths), (60, 100), scene.size).depths > 0
        ]
        assert float((300 / at_known).median()) == pytest.approx(1, abs=CLOSE)

    def test_without_priors_the_result_is_identical(self, model: Model) -> None:
        bare = predict_scene(model, self.CLIP, self.SINGLE)
        assert_scenes_close(predict_scene(model, with_prior_files(self.CLIP, PriorFiles()), self.SINGLE), bare, 0)
