"""Depth Anything 3's weights run here: outputs of the published code, reached through conversion and network."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from named_weights import golden_state_dict, read_golden, relative_error
from safetensors.torch import save_file
from torch import Tensor, nn

from recon4d.geometry import invert
from recon4d.heads import Rays, cameras_from_rays
from recon4d.layers import Block
from recon4d.models import Model, MonoModel, NestedModel, Outputs
from recon4d.models.camera_encoder import CameraEncoder, normalized_cameras
from recon4d.models.reference_view import reference_frame
from recon4d.records import Priors
from recon4d.zoo import load_model
from recon4d.zoo.da3 import from_da3

CLOSE = 1e-5
"""Relative error that every stored output must stay under in float32."""
EVERY_THIRD = np.s_[:, ::3, ::3]
ANY_VIEW = ("da3_small", pytest.param("da3_base", marks=pytest.mark.slow), "da3nested_small")
"""Goldens of any-view models; `da3_base` is `da3_small` with wider layers."""


@cache
def model_of(golden: str) -> Model | MonoModel | NestedModel:
    model = from_da3(golden_state_dict(golden), "mono" if golden == "da3mono_large" else None)
    assert isinstance(model, Model | MonoModel | NestedModel)
    return model


def any_view_model(golden: str) -> Model:
    model = model_of(golden)
    found = model.any_view if isinstance(model, NestedModel) else model
    assert isinstance(found, Model)
    return found


@cache
def images_of(golden: str) -> Tensor:
    return torch.from_numpy(read_golden(golden)["images_uint8"])[None]


@cache
def run(golden: str) -> tuple[Outputs, dict[str, Tensor]]:
    """Run the any-view model of a golden with cameras from rays, so that rays are computed; record all blocks."""
    model = any_view_model(golden)
    return run_recorded(model, images_of(golden))


def run_recorded(model: Model, images: Tensor, priors: Priors | None = None) -> tuple[Outputs, dict[str, Tensor]]:
    recorded: dict[str, Tensor] = {}

    def record(name: str) -> object:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            recorded[name] = output.reshape(images.shape[1], -1, output.shape[-1])

        return hook

    hooks = [
        module.register_forward_hook(record(name))  # pyright: ignore[reportArgumentType]
        for name, module in model.named_modules()
        if isinstance(module, Block) and not name.startswith("camera_encoder")
    ]
    model.camera_source = "rays"
    try:
        with torch.no_grad():
            return model.outputs(images, anchors=(), priors=priors), recorded
    finally:
        model.camera_source = "decoder"
        for hook in hooks:
            hook.remove()


def reference_first(values: Tensor, golden: str) -> Tensor:
    """Move the reference frame to the front, where the published code has it inside the network."""
    arrays = read_golden(golden)
    reference = int(arrays["reference_views"][list(arrays["strategies"]).index("saddle_balanced")])
    others = [frame for frame in range(len(values)) if frame != reference]
    return values[[reference, *others]]


def activated(encoding: Tensor) -> Tensor:
    """Apply the published activation of fields of view to raw encodings."""
    return torch.cat([encoding[..., :7], encoding[..., 7:].relu()], dim=-1)


class TestAnyView:
    @pytest.mark.parametrize("golden", ANY_VIEW)
    def test_tokens_of_blocks(self, golden: str) -> None:
        _, recorded = run(golden)
        model, arrays = any_view_model(golden), read_golden(golden)
        first_global = "aggregator.global_blocks.0" if model.aggregator.leading_block is None else None
        last = model.config.aggregator.depth - 1
        blocks = {
            "tokens_before_cameras": f"backbone.blocks.{len(model.backbone.blocks) - 1}",  # pyright: ignore[reportArgumentType]
            "tokens_with_cameras": "aggregator.frame_blocks.0" if first_global else "aggregator.leading_block",
            "tokens_first_global": first_global or "aggregator.leading_block",
            "tokens_last": f"aggregator.global_blocks.{last}",
        }
        assert relative_error(recorded["backbone.blocks.0"][:, :12, :32], arrays["tokens_first"]) < CLOSE
        for name, block in blocks.items():
            tokens = reference_first(recorded[block], golden)
            assert relative_error(tokens[:, :12, :32], arrays[name]) < CLOSE, name

    @pytest.mark.parametrize("golden", ANY_VIEW)
    def test_features_of_heads(self, golden: str) -> None:
        outputs, _ = run(golden)
        arrays = read_golden(golden)
        for features, name in ((outputs.features[0], "features_first"), (outputs.features[-1], "features_last")):
            halves = [half[0, :, 1:13, :32] for half in features.chunk(2, dim=-1)]
            assert relative_error(torch.cat(halves, dim=-1), arrays[name]) < CLOSE

    @pytest.mark.parametrize("golden", ANY_VIEW)
    def test_what_the_camera_decoder_gets_is_not_normalized(self, golden: str) -> None:
        model, arrays = any_view_model(golden), read_golden(golden)
        with torch.no_grad():
            special = model.tokens(images_of(golden)).state.special_features
        assert special is not None
        halves = [half[0, :, 0, :32] for half in special.chunk(2, dim=-1)]
        assert relative_error(torch.cat(halves, dim=-1), arrays["camera_features"]) < CLOSE

    @pytest.mark.parametrize("golden", ANY_VIEW)
    def test_pose_encoding_and_rays(self, golden: str) -> None:
        outputs, _ = run(golden)
        arrays = read_golden(golden)
        assert relative_error(activated(outputs.camera_stages[-1, 0]), arrays["pose_encoding"]) < CLOSE
        assert_rays_match(outputs, arrays["ray"], arrays["ray_conf"])

    @pytest.mark.parametrize("golden", ANY_VIEW[:2])
    def test_scene(self, golden: str) -> None:
        model, arrays = any_view_model(golden), read_golden(golden)
        with torch.no_grad():
            scene = model(images_of(golden))[0]
        assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["extrinsics"]) < CLOSE
        assert relative_error(scene.cameras.intrinsics, arrays["intrinsics"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], arrays["depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], arrays["depth_conf"]) < CLOSE

    @pytest.mark.parametrize("golden", ANY_VIEW)
    def test_reference_views(self, golden: str) -> None:
        model, arrays = any_view_model(golden), read_golden(golden)
        with torch.no_grad():
            images = images_of(golden)[0].float() / 255
            class_tokens = model.backbone(images).class_tokens[None]
        chosen = [int(reference_frame(class_tokens, name)) for name in arrays["strategies"].tolist()]
        assert chosen == arrays["reference_views"].tolist()

    def test_first_frame_as_reference(self) -> None:
        model, arrays = any_view_model("da3_small"), read_golden("da3_small")
        model.reference_view = "first"
        try:
            with torch.no_grad():
                scene = model(images_of("da3_small"))[0]
        finally:
            model.reference_view = "saddle_balanced"
        assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["first_extrinsics"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], arrays["first_depth"]) < CLOSE

    def test_two_frames_have_the_first_as_reference(self) -> None:
        model, arrays = any_view_model("da3_small"), read_golden("da3_small")
        with torch.no_grad():
            scene = model(images_of("da3_small")[:, :2])[0]
        assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["two_extrinsics"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], arrays["two_depth"]) < CLOSE


@pytest.mark.filterwarnings("ignore::recon4d.zoo.LicenseWarning")
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_file_answers_the_same(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    state_dict = golden_state_dict("da3_small")
    save_file(state_dict, path) if ending == ".safetensors" else torch.save(state_dict, path)
    with torch.no_grad():
        scene = load_model(path)(images_of("da3_small"))[0]
    arrays = read_golden("da3_small")
    assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["extrinsics"]) < CLOSE
    assert relative_error(scene.depths[EVERY_THIRD], arrays["depth"]) < CLOSE


class TestGivenCameras:
    @pytest.fixture(scope="class")
    @classmethod
    def priors(cls) -> Priors:
        arrays = read_golden("da3_small")
        given = torch.from_numpy(arrays["given_extrinsics"])
        return Priors(torch.from_numpy(arrays["given_intrinsics"])[None], invert(given)[None])

    def test_cameras_are_normalized(self, priors: Priors) -> None:
        wanted = read_golden("da3_small")["given_normalised"]
        assert relative_error(invert(normalized_cameras(priors.world_from_cam))[0], wanted) < CLOSE

    def test_camera_tokens(self, priors: Priors) -> None:
        encoder = any_view_model("da3_small").camera_encoder
        assert isinstance(encoder, CameraEncoder)
        with torch.no_grad():
            tokens, is_given = encoder(priors, (112, 154))
        assert is_given.all()
        assert relative_error(tokens[0, :, :32], read_golden("da3_small")["posed_camera_tokens"]) < CLOSE

    def test_the_answer_of_the_network(self, priors: Priors) -> None:
        model, arrays = any_view_model("da3_small"), read_golden("da3_small")
        with torch.no_grad():
            scene = model(images_of("da3_small"), priors=priors)[0]
        assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["posed_extrinsics"]) < CLOSE
        assert relative_error(scene.cameras.intrinsics, arrays["posed_intrinsics"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], arrays["posed_depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], arrays["posed_depth_conf"]) < CLOSE

    def test_rays_and_pose_encoding(self, priors: Priors) -> None:
        model, arrays = any_view_model("da3_small"), read_golden("da3_small")
        outputs, _ = run_recorded(model, images_of("da3_small"), priors)
        assert relative_error(activated(outputs.camera_stages[-1, 0]), arrays["posed_pose_encoding"]) < CLOSE
        assert_rays_match(outputs, arrays["posed_ray"], None)

    def test_clips_of_a_batch_may_have_cameras_or_not(self, priors: Priors) -> None:
        model, images = any_view_model("da3_small"), images_of("da3_small")
        half_given = Priors.stack([priors[0], Priors.unknown(4)])
        with torch.no_grad():
            both = model(images.expand(2, -1, -1, -1, -1), priors=half_given)
            given, free = model(images, priors=priors), model(images)
        torch.testing.assert_close(both[0].depths, given[0].depths, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(both[1].depths, free[0].depths, rtol=1e-4, atol=1e-6)


class TestCamerasFromRays:
    @pytest.fixture(scope="class")
    @classmethod
    def rays(cls) -> Rays:
        arrays = read_golden("da3_ray_pose")
        ray = torch.from_numpy(arrays["ray"])
        return Rays(ray[..., :3], ray[..., 3:], torch.from_numpy(arrays["ray_conf"]))

    def test_published_cameras(self, rays: Rays) -> None:
        arrays = read_golden("da3_ray_pose")
        cameras = cameras_from_rays(rays, (56, 70), parity=True)
        assert relative_error(cameras.cam_from_world[:, :3], arrays["extrinsics"]) < CLOSE
        assert relative_error(cameras.intrinsics, arrays["intrinsics"]) < CLOSE

    def test_draws_are_deterministic(self, rays: Rays) -> None:
        torch.manual_seed(5)
        first = cameras_from_rays(rays, (56, 70))
        second = cameras_from_rays(rays, (56, 70))
        assert torch.equal(first.world_from_cam, second.world_from_cam)


@pytest.mark.slow
def test_mono_large() -> None:
    model, arrays = model_of("da3mono_large"), read_golden("da3mono_large")
    assert isinstance(model, MonoModel)
    recorded: dict[str, Tensor] = {}
    for number in (0, 23):
        block = model.backbone.blocks[number]
        block.register_forward_hook(lambda *call, number=number: recorded.update({str(number): call[-1]}))
    images = images_of("da3mono_large")
    with torch.no_grad():
        outputs = model.outputs(images, anchors=())
        depth_raw, _, _ = model.depth_and_sky(images.float() / 255)
    assert relative_error(recorded["0"][:, :12, :32], arrays["tokens_first"]) < CLOSE
    assert relative_error(recorded["23"][:, :12, :32], arrays["tokens_last"]) < CLOSE
    assert relative_error(outputs.features[0][0, :, :12, :32], arrays["features_first"]) < CLOSE
    assert relative_error(outputs.features[-1][0, :, :12, :32], arrays["features_last"]) < CLOSE
    assert outputs.sky is not None
    assert relative_error(outputs.sky[0][EVERY_THIRD], arrays["sky"]) < CLOSE
    assert relative_error(depth_raw[0][EVERY_THIRD], arrays["depth_raw"]) < CLOSE
    assert relative_error(outputs.scene[0].depths[EVERY_THIRD], arrays["depth"]) < CLOSE


class TestNested:
    def test_both_models(self) -> None:
        model, arrays = model_of("da3nested_small"), read_golden("da3nested_small")
        assert isinstance(model, NestedModel)
        images = images_of("da3nested_small")
        with torch.no_grad():
            scene = model.any_view(images)[0]
            metric_depths, sky, _ = model.metric.depth_and_sky(images.float() / 255)
        assert relative_error(scene.depths[EVERY_THIRD], arrays["depth_raw"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], arrays["depth_conf_raw"]) < CLOSE
        assert relative_error(metric_depths[0][EVERY_THIRD], arrays["metric_depth_raw"]) < CLOSE
        assert relative_error(sky[0][EVERY_THIRD], arrays["metric_sky"]) < CLOSE

    def test_the_aligned_answer(self) -> None:
        model, arrays = model_of("da3nested_small"), read_golden("da3nested_small")
        assert isinstance(model, NestedModel)
        images = images_of("da3nested_small")
        with torch.no_grad():
            outputs = model.outputs(images, anchors=())
            plain = model.any_view(images)
        scene = outputs.scene[0]
        scale = scene.cameras.centers.norm() / plain[0].cameras.centers.norm()
        assert relative_error(scale, arrays["scale_factor"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], arrays["depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], arrays["depth_conf"]) < CLOSE
        assert relative_error(scene.cameras.cam_from_world[:, :3], arrays["extrinsics"]) < CLOSE
        assert relative_error(scene.cameras.intrinsics, arrays["intrinsics"]) < CLOSE
        assert float(scene.metres_per_unit) == 1


class TestEpsilons:
    """Weights by name have large tokens, which hide a wrong epsilon: the modules are read instead."""

    def test_any_view(self) -> None:
        model = any_view_model("da3_small")
        assert model.aggregator.feature_norm is not None
        assert model.camera_encoder is not None
        for trunk in model.trunks:
            for block in (module for module in trunk.modules() if isinstance(module, Block)):
                assert block.norm1.eps == block.norm2.eps == 1e-6
        for block in model.aggregator.modules():
            if isinstance(block, Block):
                assert block.attention.q_norm.eps == block.attention.k_norm.eps == 1e-5
        assert isinstance(model.backbone.blocks[0].attention.q_norm, nn.Identity)  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
        norms = [module for module in model.camera_encoder.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) == 2 * 4 + 2
        head = model.dense_heads[0]
        others = [model.aggregator.feature_norm, head.pyramid.norm, head.rays.norm]  # pyright: ignore[reportAttributeAccessIssue]
        assert {norm.eps for norm in [*norms, *others]} == {1e-5}

    def test_mono(self) -> None:
        model = model_of("da3nested_small")
        assert isinstance(model, NestedModel)
        metric = model.metric
        assert metric.backbone.norm is not None
        assert metric.backbone.norm.eps == 1e-5
        assert {block.norm1.eps for block in metric.backbone.blocks} == {1e-6}  # pyright: ignore[reportAttributeAccessIssue]
        assert not any(isinstance(module, nn.LayerNorm) for module in metric.head.modules())


def assert_rays_match(outputs: Outputs, ray: np.ndarray, confidence: np.ndarray | None) -> None:
    assert outputs.rays is not None
    vectors = torch.cat([outputs.rays.directions, outputs.rays.origins], dim=-1)[0]
    assert relative_error(vectors[EVERY_THIRD], ray) < CLOSE
    if confidence is not None:
        assert relative_error(outputs.rays.confidence[0][EVERY_THIRD], confidence) < CLOSE
