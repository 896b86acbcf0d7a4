"""Monocular and nested models: sky, metric depth, and what scenes of them assume."""

from dataclasses import replace

import pytest
import torch
from da3_weights import tiny_state_dict
from networks import random_images
from torch import Tensor

from recon4d.models import MonoModel, NestedModel, cast_to_bfloat16, plan_memory
from recon4d.models.nested import metric_scale
from recon4d.models.sky import fill_sky, ground_quantile
from recon4d.records import Priors
from recon4d.zoo import from_da3

INTRINSICS = torch.tensor([[60.0, 0.0, 21.0], [0.0, 90.0, 14.0], [0.0, 0.0, 1.0]])


def mono(preset: str = "mono") -> MonoModel:
    model = from_da3(tiny_state_dict("mono"), preset)
    assert isinstance(model, MonoModel)
    return model


def nested() -> NestedModel:
    model = from_da3(tiny_state_dict("nested"))
    assert isinstance(model, NestedModel)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return random_images(2, 3, size=(28, 42)).float()


def known_intrinsics(clips: int, frames: int) -> Priors:
    priors = Priors.stack([Priors.unknown(frames)] * clips)
    return replace(priors, intrinsics=INTRINSICS.expand(clips, frames, 3, 3))


class TestSky:
    def test_sky_gets_the_far_quantile_of_the_ground_of_all_frames(self) -> None:
        depths = torch.arange(1.0, 201.0).view(1, 2, 10, 10)
        sky = torch.zeros_like(depths)
        sky[0, 1, 5:] = 0.31
        filled = fill_sky(depths, sky)
        ground = depths[sky < 0.3]
        wanted = torch.quantile(ground, 0.99)
        torch.testing.assert_close(filled[sky >= 0.3], wanted.expand(50))
        assert torch.equal(filled[sky < 0.3], ground)

    @pytest.mark.parametrize("count", [10, 390])
    def test_too_few_pixels_of_a_kind_change_nothing(self, count: int) -> None:
        depths = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
        sky = torch.zeros(400)
        sky[:count] = 1.0
        assert torch.equal(fill_sky(depths, sky.view_as(depths)), depths)
        sky[: count + 1 if count == 10 else count - 1] = 1.0
        sky[389:] = 0.0
        assert not torch.equal(fill_sky(depths, sky.view_as(depths)), depths)

    def test_quantiles_of_each_clip(self) -> None:
        values = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
        ground = values > 0.2
        wanted = torch.stack([torch.quantile(row[kept], 0.37) for row, kept in zip(values, ground, strict=True)])
        torch.testing.assert_close(ground_quantile(values, ground, 0.37), wanted)


class TestMono:
    def test_frames_do_not_see_each_other(self, images: Tensor) -> None:
        model = mono()
        with torch.no_grad():
            together, _, _ = model.depth_and_sky(images)
            alone, _, _ = model.depth_and_sky(images[:1, 1:2])
            chunked, _, _ = model.depth_and_sky(images, frame_chunk=2)
        torch.testing.assert_close(together[:1, 1:2], alone, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together, chunked, rtol=1e-4, atol=1e-6)

    def test_cameras_stand_at_the_origin(self, images: Tensor) -> None:
        with torch.no_grad():
            scene = mono()(images)
            given = mono()(images, priors=known_intrinsics(2, 3))
        assert torch.equal(scene.cameras.world_from_cam, torch.eye(4).expand(2, 3, 4, 4))
        angles = scene.cameras.field_of_view(28, 42)
        assert angles[..., 0].min() > angles[..., 1].max()
        assert torch.equal(given.cameras.intrinsics, INTRINSICS.expand(2, 3, 3, 3))
        assert torch.equal(given.depths, scene.depths)
        assert scene.metres_per_unit.isnan().all()
        assert (scene.depth_confidence == 1).all()

    def test_metric_depth_needs_the_focal_length(self, images: Tensor) -> None:
        with torch.no_grad():
            plain = mono()(images)
            metric = mono("metric")(images, priors=known_intrinsics(2, 3))
            unknown = mono("metric")(images)
        torch.testing.assert_close(metric.depths, plain.depths * 75 / 300)
        assert (metric.metres_per_unit == 1).all()
        assert torch.equal(unknown.depths, plain.depths)
        assert unknown.metres_per_unit.isnan().all()

    def test_bfloat16_and_the_memory_plan(self, images: Tensor) -> None:
        model = mono()
        with torch.no_grad():
            exact = model(images).depths
        plan = plan_memory(model, 9, (28, 42))
        assert plan.peak > plan.weights > 0
        cast_to_bfloat16(model)
        assert model.backbone.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rough = model(images).depths
        assert ((rough - exact).abs() / exact).median() < 0.05


class TestNested:
    def test_scale_minimizes_squared_differences(self, images: Tensor) -> None:
        with torch.no_grad():
            scene = nested().any_view(images)
        metric_depths = scene.depths * 3.5
        sky = torch.zeros_like(scene.depths)
        torch.testing.assert_close(metric_scale(scene, metric_depths, sky), torch.full((2,), 3.5))
        # Sky and cells of less than the median confidence have no weight.
        metric_depths[scene.depth_confidence < scene.depth_confidence.flatten(1).median(dim=1).values[0]] *= 9
        sky[:, 0] = 1.0
        one = metric_scale(scene[:1].map(lambda tensor: tensor), metric_depths[:1], torch.zeros_like(sky[:1]))
        torch.testing.assert_close(one, torch.tensor([3.5]))

    def test_points_follow_depth_and_cameras(self, images: Tensor) -> None:
        with torch.no_grad():
            scene = nested()(images)
        torch.testing.assert_close(scene.points, scene.points_from_depth)
        assert (scene.metres_per_unit == 1).all()

    def test_options_of_the_any_view_model(self, images: Tensor) -> None:
        model = nested()
        model.reference_view, model.camera_source = "first", "rays"
        assert model.config.any_view.reference_view == "first"
        with torch.no_grad():
            outputs = model.outputs(images, anchors=())
        assert outputs.rays is not None
        assert model.encodes_all_cameras
        model.set_activation_checkpointing(True)
        assert model.any_view.aggregator.checkpointing
