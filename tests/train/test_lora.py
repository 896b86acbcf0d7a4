"""Low-rank adaptation: it starts as the identity, trains low-rank matrices only, and merges into plain layers."""

import pytest
import torch
from networks import assert_scenes_close, random_images, tiny_model
from torch import Tensor, nn

from recon4d.models.backbones import DinoBackbone, DinoBackboneConfig
from recon4d.train.config import OptimiserConfig
from recon4d.train.lora import (
    LoraConfig,
    LoraLinear,
    add_lora,
    merge_lora,
)
from recon4d.train.optimizers import make_optimizers
from recon4d.train.parameter_groups import freeze, parameter_groups
from recon4d.zoo import load_model, save_model

QKV = LoraConfig(("*.qkv", "camera_head.*.fc?"), rank=3, alpha=6.0)


def with_random_updates(model: nn.Module) -> nn.Module:
    """Give the adapted layers of a model random nonzero updates."""
    generator = torch.Generator().manual_seed(5)
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            noise = torch.randn(layer.up.shape, generator=generator, dtype=torch.float64)
            layer.up.data.copy_(0.1 * noise)
    return model


def plain_layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 7, bias=bias, dtype=torch.float64)


def test_the_layer_computes_the_formula() -> None:
    plain = plain_layer()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    layer = LoraLinear(plain, LoraConfig(("*",), rank=2, alpha=6.0))
    nn.init.normal_(layer.up)
    wanted = x @ (plain.weight + (6.0 / 2) * layer.up @ layer.down).T + plain.bias
    torch.testing.assert_close(layer(x), wanted)
    assert (layer.down.shape, layer.up.shape) == ((2, 5), (7, 2))


def test_adapted_layers_change_nothing_before_training() -> None:
    model, images = tiny_model(), random_images(1, 2)
    before = model(images)
    names = add_lora(model, QKV)
    assert len(names) == 1 + 3 + 3 + 1 + 2
    assert_scenes_close(model(images), before, tolerance=0)


def test_names_are_unique_and_in_the_order_of_the_model() -> None:
    model = tiny_model()
    order = [name for name, _ in model.named_modules()]
    names = add_lora(model, LoraConfig(("camera_head.*", "*.fc1", "camera_head.blocks.*")))
    assert list(names) == sorted(set(names), key=order.index)
    assert all(isinstance(model.get_submodule(name), LoraLinear) for name in names)


def test_only_the_low_rank_matrices_of_an_adapted_layer_are_trainable() -> None:
    model = tiny_model()
    freeze(model, ["*"])
    names = add_lora(model, QKV)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {f"{name}.{part}" for name in names for part in ("down", "up")}
    assert {group.kind for group in parameter_groups(model)} == {"matrices"}


def test_layers_that_are_not_adapted_stay_trainable() -> None:
    model = tiny_model()
    add_lora(model, QKV)
    parameters = dict(model.named_parameters())
    assert parameters["camera_head.out.weight"].requires_grad
    assert not parameters["camera_head.blocks.0.mlp.fc1.weight"].requires_grad
    assert not parameters["camera_head.blocks.0.mlp.fc1.bias"].requires_grad


def test_a_merged_model_predicts_the_same_and_has_its_old_names() -> None:
    model, images = tiny_model(), random_images(1, 2)
    names = list(model.state_dict())
    untouched = model(images)
    add_lora(model, QKV)
    before = with_random_updates(model)(images)
    assert (before.depths - untouched.depths).abs().max() > 1e-3
    merge_lora(model)
    assert list(model.state_dict()) == names
    assert not any(isinstance(layer, LoraLinear) for layer in model.modules())
    assert_scenes_close(model(images), before, tolerance=1e-7)
    assert all(value.requires_grad for value in model.parameters())


def test_a_merged_model_is_saved_and_loaded_like_a_plain_one(tmp_path) -> None:
    model = tiny_model().float()
    add_lora(model, QKV)
    merge_lora(with_random_updates(model))
    save_model(model, tmp_path / "merged.safetensors")
    loaded = load_model(tmp_path / "merged.safetensors")
    images = random_images(1, 2).float()
    assert_scenes_close(loaded(images), model(images), tolerance=0)


def test_bias_and_training_mode_are_kept() -> None:
    for plain in (plain_layer(bias=False), plain_layer().eval()):
        layer = LoraLinear(plain, LoraConfig(("*",)))
        merged = layer.merged()
        assert type(merged) is nn.Linear
        assert (merged.bias is None) == (plain.bias is None)
        assert merged.training == layer.training == plain.training
        assert merged.weight.dtype == layer.down.dtype == torch.float64
        assert (merged.in_features, merged.out_features) == (5, 7)
        torch.testing.assert_close(merged.weight, plain.weight)


def test_training_changes_the_prediction_and_not_the_frozen_weight() -> None:
    model, images = tiny_model().float(), random_images(1, 2).float()
    freeze(model, ["*"])
    (name,) = add_lora(model, LoraConfig(("camera_head.blocks.0.attention.qkv",), rank=2))
    layer = model.get_submodule(name)
    assert isinstance(layer, LoraLinear)
    frozen = layer.weight.clone()
    optimizers = make_optimizers(model, OptimiserConfig(adamw_rate=0.05, weight_decay=0.5))

    def loss() -> Tensor:
        return (model(images).cameras.intrinsics / 50).square().mean()

    before = loss()
    for _ in range(3):
        optimizers.zero_grad()
        loss().backward()
        optimizers.step(1.0)
    assert loss() < before
    assert torch.equal(layer.weight, frozen)
    assert (layer.up != 0).any()


def test_initial_low_rank_matrices() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(400, 10), LoraConfig(("*",), rank=50))
    assert (layer.up == 0).all()
    assert layer.down.std().item() == pytest.approx(1 / 20, rel=0.05)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_every_adapted_layer_of_a_dino_is_used(name: str) -> None:
    backbone = DinoBackbone(DinoBackboneConfig(name, blocks=1))
    names = add_lora(backbone, LoraConfig(("vit.blocks.*",), rank=2))
    assert any(name.endswith("qkv") for name in names)
    side = 2 * backbone.patch_size
    backbone(torch.rand(1, 3, side, side)).tokens.square().sum().backward()
    for adapted in names:
        assert backbone.get_submodule(adapted).up.grad.abs().sum() > 0, adapted


def test_patterns_that_match_nothing_are_rejected() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'\*\.norm1' matches no linear layer; examples are backbone\.blocks\.0\."):
        add_lora(model, LoraConfig(("*.norm1",)))
    add_lora(model, QKV)
    with pytest.raises(ValueError, match="matches no linear layer"):
        add_lora(model, LoraConfig(("*.qkv",)))
    with pytest.raises(ValueError, match="rank of 0"):
        LoraConfig(("*",), rank=0)


def test_the_default_scale_is_2() -> None:
    assert LoraLinear(plain_layer(), LoraConfig(("*",))).scale == 16.0 / 8
