"""Parameter groups: each trainable parameter is in one group, by its layer and its name."""

import pytest
import torch
from networks import tiny_model
from torch import nn

from recon4d.layers import Block, BlockConfig
from recon4d.models import Model
from recon4d.models.backbones import DinoBackbone, DinoBackboneConfig
from recon4d.train.config import RateConfig, RateRule
from recon4d.train.parameter_groups import (
    ParameterGroup,
    backbone_depths,
    freeze,
    parameter_groups,
    rate_factors,
)

BLOCK = "aggregator.global_blocks.1."


@pytest.fixture(scope="module")
def dino() -> nn.Module:
    """A module with a backbone of two DINO blocks and a head."""
    holder = nn.Module()
    holder.backbone = DinoBackbone(DinoBackboneConfig("vit_small_patch14_reg4_dinov2", blocks=2))
    holder.head = nn.Linear(2, 2)
    return holder


def group_of(groups: tuple[ParameterGroup, ...], name: str) -> ParameterGroup:
    (found,) = (group for group in groups if name in group.names)
    return found


@pytest.mark.parametrize("heads", ["linear", "dpt"])
def test_every_trainable_parameter_is_in_exactly_one_group(heads: str) -> None:
    model = tiny_model(heads)
    freeze(model, ["backbone.*", "*.bias"])
    config = RateConfig((RateRule("camera_head.*", 0.1), RateRule("*.proj.*", 0.2)), backbone_decay=0.8)
    groups = parameter_groups(model, config)
    names = [name for group in groups for name in group.names]
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert 0 < len(wanted) < len(list(model.parameters()))
    assert sorted(names) == sorted(wanted)
    parameters = [value for group in groups for value in group.parameters]
    assert all(value is wanted[name] for name, value in zip(names, parameters, strict=True))


def test_a_tied_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert sorted(name for group in parameter_groups(model) for name in group.names) == ["0.bias", "0.weight", "1.bias"]


@pytest.mark.parametrize(
    ("name", "kind", "parts"),
    [
        (BLOCK + "attention.qkv.weight", "block_matrices", 3),
        (BLOCK + "attention.proj.weight", "block_matrices", 1),
        (BLOCK + "mlp.fc1.weight", "block_matrices", 1),
        (BLOCK + "mlp.fc2.weight", "block_matrices", 1),
        ("backbone.blocks.0.attention.qkv.weight", "block_matrices", 3),
        ("camera_head.blocks.0.mlp.fc2.weight", "block_matrices", 1),
        ("motion_head.blocks.0.attention.q.weight", "block_matrices", 1),
        ("motion_head.blocks.0.attention.kv.weight", "block_matrices", 2),
        ("backbone.to_quarter.weight", "matrices", 1),
        ("known.cameras.weight", "matrices", 1),
        ("matching.to_tokens.0.weight", "matrices", 1),
        ("motion_head.fuse.weight", "matrices", 1),
        ("aggregator.positions.linear.weight", "matrices", 1),
        (BLOCK + "attention.proj.bias", "vectors", 1),
        (BLOCK + "attention.q_norm.weight", "vectors", 1),
        (BLOCK + "norm1.weight", "vectors", 1),
        (BLOCK + "scale1.gamma", "vectors", 1),
        ("aggregator.special_tokens", "vectors", 1),
        ("matching.no_match", "vectors", 1),
    ],
)
def test_kinds_follow_from_the_layer(name: str, kind: str, parts: int) -> None:
    group = group_of(parameter_groups(tiny_model()), name)
    assert (group.kind, group.parts, group.rate) == (kind, parts, 1.0)


def test_transposed_convolutions_are_matrices() -> None:
    groups = parameter_groups(tiny_model("dpt"))
    assert group_of(groups, "dense_heads.0.pyramid.resize.0.weight").kind == "matrices"
    assert group_of(groups, "dense_heads.0.pyramid.resize.0.bias").kind == "vectors"


def test_dino_tokens_and_embeddings_are_not_decayed_and_its_blocks_do_not_use_muon(dino: nn.Module) -> None:
    groups = parameter_groups(dino)
    for name in ("cls_token", "reg_token", "pos_embed", "norm.weight", "blocks.0.ls1.gamma"):
        assert group_of(groups, f"backbone.vit.{name}").kind == "vectors"
    for name in ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        assert group_of(groups, f"backbone.vit.{name}").kind == "matrices"
    assert group_of(parameter_groups(nn.Sequential(nn.Embedding(3, 4))), "0.weight").kind == "vectors"


def test_parameters_with_equal_options_share_a_group_in_the_order_of_the_model() -> None:
    model = tiny_model()
    groups = parameter_groups(model)
    keys = [(group.kind, group.parts, group.rate) for group in groups]
    assert len(keys) == len(set(keys)) == 5
    order = [name for name, _ in model.named_parameters()]
    firsts = [order.index(group.names[0]) for group in groups]
    assert firsts == sorted(firsts)
    assert all(list(group.names) == sorted(group.names, key=order.index) for group in groups)


def test_frozen_parameters_are_not_trainable() -> None:
    model = tiny_model()
    freeze(model, ["backbone.*", "matching.no_match"])
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("backbone.")} | {
        "matching.no_match"
    }


def test_a_pattern_that_matches_nothing_is_rejected_with_examples() -> None:
    model = tiny_model()
    with pytest.raises(
        ValueError, match=r"'vit\.\*' matches no parameter; examples are backbone\.to_quarter\.weight, .*"
    ):
        freeze(model, ["vit.*"])
    with pytest.raises(ValueError, match="'Backbone"):
        parameter_groups(model, RateConfig((RateRule("Backbone.*", 0.1),)))
    with pytest.raises(ValueError, match="all frozen"):
        parameter_groups(model.requires_grad_(False))


def test_the_last_matching_rule_applies() -> None:
    rules = (RateRule("backbone.*", 0.1), RateRule("*.bias", 0.5))
    factors = rate_factors(tiny_model(), RateConfig(rules))
    assert factors["backbone.to_quarter.weight"] == 0.1
    assert factors["backbone.to_quarter.bias"] == 0.5
    assert factors["camera_head.out.bias"] == 0.5
    assert factors["camera_head.out.weight"] == 1.0


def test_groups_have_the_rates_of_their_rules() -> None:
    groups = parameter_groups(tiny_model(), RateConfig((RateRule("backbone.*", 0.1),)))
    for group in groups:
        for name in group.names:
            assert group.rate == (0.1 if name.startswith("backbone.") else 1.0)


def test_rates_decay_from_the_top_of_the_backbone_only(dino: nn.Module) -> None:
    factors = rate_factors(dino, RateConfig((RateRule("backbone.*", 0.1),), backbone_decay=0.5))
    wanted = {
        "backbone.vit.norm.weight": 0.1,
        "backbone.vit.blocks.1.mlp.fc1.weight": 0.05,
        "backbone.vit.blocks.0.attn.qkv.weight": 0.025,
        "backbone.vit.patch_embed.proj.weight": 0.0125,
        "backbone.vit.cls_token": 0.0125,
        "backbone.vit.pos_embed": 0.0125,
        "head.weight": 1.0,
    }
    assert {name: factors[name] for name in wanted} == pytest.approx(wanted)


def test_the_stem_of_a_convolutional_backbone_is_at_its_bottom() -> None:
    depths = backbone_depths([name for name, _ in tiny_model().named_parameters()])
    assert {depths[f"backbone.{name}.weight"] for name in ("to_quarter", "quarter.conv", "norm", "to_tokens")} == {2}
    assert depths["backbone.blocks.0.mlp.fc1.weight"] == 1
    assert all(name.startswith("backbone.") for name in depths)


def test_depths_count_blocks_by_their_numbers() -> None:
    names = ["backbone.stem", *(f"backbone.blocks.{block}.{part}" for block in range(12) for part in "ab")]
    depths = backbone_depths([*names, "backbone.norm", "other.blocks.40.a"])
    assert depths["backbone.stem"] == 13
    assert depths["backbone.blocks.0.b"] == 12
    assert depths["backbone.blocks.11.a"] == depths["backbone.blocks.11.b"] == 1
    assert depths["backbone.norm"] == 0


def test_rates_out_of_range_are_rejected() -> None:
    for decay in (0.0, 1.1):
        with pytest.raises(ValueError, match="rate decay"):
            RateConfig(backbone_decay=decay)
    with pytest.raises(ValueError, match="0 or more"):
        RateRule("*", -0.1)


def test_a_matrix_of_a_block_is_found_at_any_depth_and_by_its_layer() -> None:
    config = BlockConfig(width=8, heads=2, mlp_width=24)
    model = nn.ModuleDict({"qkv": nn.Linear(8, 24), "deep": nn.ModuleList([nn.Sequential(Block(config))])})
    groups = parameter_groups(model)
    assert group_of(groups, "qkv.weight").kind == "matrices"
    fc1 = group_of(groups, "deep.0.0.mlp.fc1.weight")
    assert (fc1.kind, fc1.parts) == ("block_matrices", 1)  # three times as many rows as columns, but one matrix
    assert group_of(groups, "deep.0.0.attention.qkv.weight").parts == 3


def test_groups_of_a_model_cover_it_on_the_meta_device_too() -> None:
    with torch.device("meta"):
        model = Model(tiny_model().config)
    assert sum(len(group.parameters) for group in parameter_groups(model)) == len(list(model.parameters()))
