"""`reconstruct` with Depth Anything 3: given cameras, sky, metric scale, and what monocular models assume."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from da3_weights import tiny_state_dict
from named_weights import golden_state_dict, read_golden, relative_error
from scenes import make_scene
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import invert, rigid, rotation_from_axis_angle, similarity, transform_points
from recon4d.inference import ReconstructConfig, assumptions, fit_metric_scale, predict_scene
from recon4d.inference.camera_alignment import similarity_scale_to_cameras, similarity_to_cameras
from recon4d.models import Model, MonoModel, Outputs, SceneModel
from recon4d.records import Clip, Priors
from recon4d.zoo import from_da3

CONFIG = ReconstructConfig(anchors=(), precision="float32", processing_size=56)
INTRINSICS = torch.tensor([[60.0, 0.0, 30.0], [0.0, 60.0, 25.0], [0.0, 0.0, 1.0]])


def clip_of(frames: int, priors: Priors | None = None) -> Clip:
    images = torch.randint(0, 256, (frames, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Clip(images, torch.arange(frames, dtype=torch.float32), priors)


def given_priors(frames: int) -> Priors:
    axes = torch.linspace(0, 0.5, frames)[:, None] * torch.tensor([0.0, 1.0, 0.2])
    centers = torch.stack([torch.linspace(0, 3, frames), torch.linspace(0, 1, frames) ** 2, torch.ones(frames)], dim=-1)
    return Priors(INTRINSICS.repeat(frames, 1, 1), rigid(rotation_from_axis_angle(axes), centers))


@pytest.fixture(scope="module")
def any_view() -> SceneModel:
    return from_da3(tiny_state_dict())


class SkyModel(MonoModel):
    """A metric model that sees a sky in the upper half and ground at 2 meters times focal / 300."""

    def outputs(self, *arguments: object, **options: object) -> Outputs:
        return super().outputs(*arguments, **options)  # pyright: ignore[reportArgumentType]

    def depth_and_sky(
        self, images: Tensor, frame_chunk: int | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        depths = torch.full_like(images[:, :, 0], 2.0)
        sky = torch.zeros_like(depths)
        sky[..., : depths.shape[-2] // 2, :] = 1.0
        return depths, sky, ()


def sky_model(metric: bool = True) -> SkyModel:
    config = from_da3(tiny_state_dict("mono"), "metric" if metric else "mono").config
    model = SkyModel(replace(config, processing_size=56)).eval()
    model.name = "sky"
    return model


class TestGivenCameras:
    def test_the_published_alignment(self) -> None:
        arrays = read_golden("da3_small")
        intrinsics, given = (torch.from_numpy(arrays[f"given_{name}"]) for name in ("intrinsics", "extrinsics"))
        world_from_cam = invert(given.double()).float()
        clip = Clip(torch.from_numpy(arrays["images_uint8"]), torch.arange(4.0), Priors(intrinsics, world_from_cam))
        model = from_da3(golden_state_dict("da3_small"))
        scene = predict_scene(model, clip, replace(CONFIG, processing_size=131))
        assert scene.size == (112, 154)
        wanted = arrays["posed_depth"] / arrays["posed_scale"]
        assert relative_error(scene.depths[:, ::3, ::3], wanted) < 1e-5
        assert torch.equal(scene.cameras.intrinsics, intrinsics)
        relative = invert(world_from_cam[0]) @ world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam, relative, rtol=0, atol=1e-6)

    def test_the_published_similarity(self) -> None:
        arrays = read_golden("da3_small")
        given = invert(torch.from_numpy(arrays["given_extrinsics"]).double())
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(4, 1, 4)
        predicted = invert(torch.cat([torch.from_numpy(arrays["posed_extrinsics"]), bottom], dim=1).double())
        fit = similarity_to_cameras(predicted[:, :3, 3], given[:, :3, 3])
        scale = similarity_scale_to_cameras(predicted[:, :3, 3], given[:, :3, 3])
        assert relative_error(torch.tensor(1 / scale), arrays["posed_scale"]) < 1e-5
        aligned = invert(torch.from_numpy(arrays["posed_aligned_extrinsics"]).double())
        torch.testing.assert_close(
            transform_points(fit, given[:, :3, 3]), aligned[:, :3, 3].double(), rtol=1e-4, atol=1e-5
        )

    def test_from_ten_frames_on_wrong_cameras_have_no_weight(self) -> None:
        rng = np.random.default_rng(0)
        given = torch.from_numpy(rng.standard_normal((12, 3)))
        rotation = rotation_from_axis_angle(torch.tensor([0.3, 0.2, -0.5], dtype=torch.float64))
        fit = similarity(torch.tensor(0.4), rotation, torch.tensor([1.0, 2.0, 3.0]))
        predicted = transform_points(fit.double(), given)
        predicted[3] += 20.0
        assert similarity_scale_to_cameras(predicted, given) == pytest.approx(1 / 0.4, rel=1e-6)
        few = similarity_scale_to_cameras(predicted[:9], given[:9])
        assert abs(few - 2.5) > 0.1

    def test_degenerate_cameras(self) -> None:
        point, path = torch.ones(4, 3), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
        assert np.isnan(similarity_scale_to_cameras(path, point))
        assert np.isnan(similarity_scale_to_cameras(path[:1], path[:1]))
        assert similarity_scale_to_cameras(point, path) == np.inf

    def test_honored_exactly(self, any_view: SceneModel) -> None:
        priors = given_priors(5)
        scene = predict_scene(any_view, clip_of(5, priors), CONFIG)
        assert torch.equal(scene.cameras.intrinsics, priors.intrinsics)
        relative = invert(priors.world_from_cam[0]) @ priors.world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam, relative, rtol=0, atol=1e-6)
        free = predict_scene(any_view, clip_of(5), CONFIG)
        ratio = scene.depths / free.depths
        assert float(ratio.std() / ratio.mean()) > 1e-4  # the network has seen the cameras

    def test_intrinsics_alone_and_some_cameras_are_honored(self, any_view: SceneModel) -> None:
        priors = given_priors(5)
        alone = replace(priors, world_from_cam=torch.full_like(priors.world_from_cam, torch.nan))
        scene = predict_scene(any_view, clip_of(5, alone), CONFIG)
        assert torch.equal(scene.cameras.intrinsics, priors.intrinsics)
        some = replace(priors, world_from_cam=priors.world_from_cam.clone())
        some.world_from_cam[3:] = torch.nan
        scene = predict_scene(any_view, clip_of(5, some), CONFIG)
        relative = invert(priors.world_from_cam[0]) @ priors.world_from_cam
        torch.testing.assert_close(scene.cameras.world_from_cam[:3], relative[:3], rtol=0, atol=1e-6)

    def test_poses_without_intrinsics_are_refused(self, any_view: SceneModel) -> None:
        priors = given_priors(3)
        priors = replace(priors, intrinsics=torch.full_like(priors.intrinsics, torch.nan))
        with pytest.raises(UserError, match="3 of 3 frames have a given camera pose but no intrinsics"):
            predict_scene(any_view, clip_of(3, priors), CONFIG)
        with pytest.raises(UserError, match="3 of 3 frames have a given camera pose but no intrinsics"):
            any_view(clip_of(3).images[None], priors=Priors.stack([priors]))

    def test_one_frame_with_a_camera_is_refused(self, any_view: SceneModel) -> None:
        with pytest.raises(UserError, match="the camera pose of a single frame is given, which does not determine"):
            predict_scene(any_view, clip_of(1, given_priors(1)), CONFIG)

    def test_sizes_that_are_no_multiple_of_the_patch(self, any_view: SceneModel) -> None:
        with pytest.raises(ValueError, match="images have 40 x 28 pixels; both sides must be multiples of 14"):
            any_view(torch.rand(1, 2, 3, 28, 40))


class TestMono:
    def test_assumptions_are_said(self) -> None:
        model = from_da3(tiny_state_dict("mono"), "mono")
        with pytest.warns(
            UserWarning, match=r"da3_mono predicts no cameras: .* stands still and a field of view of 63"
        ):
            predict_scene(model, clip_of(2), CONFIG)
        with pytest.warns(UserWarning, match="the scene assumes a field of view"):
            predict_scene(model, clip_of(1), CONFIG)
        known = replace(given_priors(1), world_from_cam=torch.full((1, 4, 4), torch.nan))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scene = predict_scene(model, clip_of(1, known), CONFIG)
        assert torch.equal(scene.cameras.intrinsics, known.intrinsics)
        assert assumptions(from_da3(tiny_state_dict()), clip_of(2)) == ()

    def test_sky_has_no_depth(self) -> None:
        known = replace(given_priors(2), world_from_cam=torch.full((2, 4, 4), torch.nan))
        with pytest.warns(UserWarning, match="stands still"):
            scene = predict_scene(sky_model(), clip_of(2, known), CONFIG)
        assert (scene.depth_confidence[:, :28] == 0).all()
        assert (scene.point_confidence[:, :28] == 0).all()
        assert (scene.depth_confidence[:, 28:] == 1).all()
        torch.testing.assert_close(scene.depths[:, 28:], torch.full((2, 28, 56), 2 * 60 / 300))
        assert float(scene.metres_per_unit) == 1


class TestMetricScale:
    def test_one_scale_of_the_clip(self) -> None:
        clip = clip_of(3)
        scene = make_scene(3)
        intrinsics = INTRINSICS.repeat(3, 1, 1)
        scene = replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics), tracks=None).resized(56, 56)
        depths = torch.full((3, 56, 56), 0.1)
        depths[:, 40:45] = 5.0  # outliers
        scene = replace(scene, depths=depths, depth_confidence=torch.full_like(depths, 2.0))
        fit = fit_metric_scale(sky_model(), clip, scene, CONFIG)
        focal = float(scene.cameras.intrinsics[0].diagonal()[:2].mean())
        assert fit.metres_per_unit == pytest.approx(2 * focal / 300 / 0.1, rel=1e-4)
        assert float(fit.scene.metres_per_unit) == pytest.approx(fit.metres_per_unit)
        assert fit.relative_error < 1e-4
        assert (fit.scene.depth_confidence[:, :28] == 0).all()
        assert fit.sky_share == pytest.approx(0.5)
        torch.testing.assert_close(fit.scene.depths, depths)  # the unit stays

    def test_other_models_are_refused(self) -> None:
        clip, scene = clip_of(3), make_scene(3)
        for model in (from_da3(tiny_state_dict()), sky_model(metric=False)):
            assert isinstance(model, Model | MonoModel)
            with pytest.raises(UserError, match="is no metric monocular model; use da3_metric_large"):
                fit_metric_scale(model, clip, scene, CONFIG)

    def test_nothing_but_sky(self) -> None:
        clip, scene = clip_of(3), make_scene(3)
        unknown = scene.without_frames(torch.ones(3, dtype=torch.bool))
        with pytest.raises(UserError, match="sees nothing but sky where the scene has depth"):
            fit_metric_scale(sky_model(), clip, replace(unknown, tracks=None), CONFIG)
