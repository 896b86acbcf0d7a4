"""The plain vision transformer of Depth Anything 3: positions, class tokens and layers."""

import pytest
import torch
from da3_weights import tiny_config, tiny_mono_config, tiny_state_dict
from torch import Tensor
from torch.nn import functional as F

from recon4d.models import Model, cast_to_bfloat16, plan_memory
from recon4d.models.backbones import PlainVit
from recon4d.zoo import from_da3


@pytest.fixture
def vit() -> PlainVit:
    config = tiny_config().backbone
    torch.manual_seed(0)
    return PlainVit(config).eval()  # pyright: ignore[reportArgumentType]


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_positions_are_the_table_at_its_own_size(vit: PlainVit) -> None:
    assert torch.equal(vit._patch_positions((37, 37)), vit.positions[1:])


def test_positions_are_sampled_by_scale_factors(vit: PlainVit) -> None:
    """The factors, not the sizes, decide where samples lie: at other places than those of a resize to a size."""
    found = vit._patch_positions((8, 11))
    table = vit.positions[1:].T.reshape(1, -1, 37, 37)
    by_size = F.interpolate(table, (8, 11), mode="bicubic")[0].flatten(1).T
    by_factor = F.interpolate(table, scale_factor=(8.1 / 37, 11.1 / 37), mode="bicubic")[0].flatten(1).T
    assert torch.equal(found, by_factor)
    assert not torch.allclose(found, by_size, atol=1e-4)


def test_class_tokens_are_those_before_the_last_block(vit: PlainVit) -> None:
    outputs: list[Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, _, output: outputs.append(output))
    with torch.no_grad():
        features = vit(pictures(28, 42))
    assert features.class_tokens is not None
    assert torch.equal(features.class_tokens, outputs[-2][:, 0])
    assert torch.equal(features.tokens, outputs[-1][:, 1:])  # no final norm
    assert features.layers == ()


def test_layers_pass_the_final_norm() -> None:
    vit = PlainVit(tiny_mono_config().backbone).eval()
    outputs: list[Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, _, output: outputs.append(output))
    with torch.no_grad():
        layers = vit(pictures(28, 42)).layers
    assert vit.norm is not None
    for layer, index in zip(layers, (2, 5, 8, 11), strict=True):
        torch.testing.assert_close(layer, vit.norm(outputs[index])[:, 1:])


def test_activation_checkpointing_gives_the_same_gradients(vit: PlainVit) -> None:
    gradients = []
    for enabled in (False, True):
        vit.set_activation_checkpointing(enabled)
        vit.zero_grad()
        vit(pictures(28, 28)).tokens.square().sum().backward()
        assert vit.class_token.grad is not None
        gradients.append(vit.class_token.grad.clone())
    torch.testing.assert_close(*gradients)


class TestWholeModel:
    @pytest.mark.end_to_end
    @pytest.mark.parametrize("source", ["decoder", "rays"])
    def test_memory_plan(self, source: str) -> None:
        model = from_da3(tiny_state_dict(), camera_source=source)
        few, more = (plan_memory(model, frames, (28, 42), frame_chunk=1) for frames in (1, 8))
        assert more.peak > few.peak > few.weights
        assert more.peak < 10 * few.peak

    @pytest.mark.parametrize("kind", ["even", "odd"])
    def test_bfloat16_stays_close(self, kind: str) -> None:
        model = from_da3(tiny_state_dict(kind))  # pyright: ignore[reportArgumentType]
        assert isinstance(model, Model)
        images = pictures(56, 70)[None]
        with torch.no_grad():
            exact = model.outputs(images, anchors=()).scene.depths
            cast_to_bfloat16(model)
            with torch.autocast("cpu", torch.bfloat16):
                rough = model.outputs(images, anchors=()).scene.depths
        assert model.aggregator.global_blocks[0].mlp.fc1.weight.dtype == torch.bfloat16  # pyright: ignore[reportAttributeAccessIssue]
        assert model.camera_head.hidden1.weight.dtype == torch.float32  # pyright: ignore[reportAttributeAccessIssue]
        assert 0 < float((rough - exact).norm() / exact.norm()) < 0.1

    @pytest.mark.parametrize(("frames", "size"), [(1, (70, 98)), (9, (28, 42)), (2, (126, 14))])
    def test_any_number_of_frames_of_any_size(self, frames: int, size: tuple[int, int]) -> None:
        model = from_da3(tiny_state_dict("odd"))
        with torch.no_grad():
            scene = model(torch.rand(1, frames, 3, *size))
        assert scene.depths.shape == (1, frames, *size)
        assert scene.points.isfinite().all()

    def test_every_part_learns(self) -> None:
        model = from_da3(tiny_state_dict("odd")).train()
        assert isinstance(model, Model)
        scene = model(pictures(28, 42)[None].expand(1, -1, -1, -1, -1))
        (scene.depths.log().sum() + scene.cameras.world_from_cam.square().sum()).backward()
        for part in (model.backbone, model.aggregator, model.camera_head, model.dense_heads[0].pyramid):  # pyright: ignore[reportAttributeAccessIssue]
            assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
