"""Backbones: tokens for all image sizes, feature maps, and weights from local files."""

from pathlib import Path

import pytest
import torch

from recon4d.errors import UserError
from recon4d.layers import BlockConfig
from recon4d.models.backbones import (
    Backbone,
    ConvolutionalBackboneConfig,
    DinoBackbone,
    DinoBackboneConfig,
    create_backbone,
)

CONVOLUTIONAL = ConvolutionalBackboneConfig(BlockConfig(32, 2, 64), blocks=1, quarter_channels=16, eighth_channels=24)
DINOV2 = DinoBackboneConfig("vit_small_patch14_reg4_dinov2", blocks=1)
DINOV3 = DinoBackboneConfig("vit_small_patch16_dinov3", blocks=1)


def make(config: ConvolutionalBackboneConfig | DinoBackboneConfig) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(config).eval()


@pytest.mark.parametrize("config", [CONVOLUTIONAL, DINOV2, DINOV3], ids=["convolutional", "dinov2", "dinov3"])
def test_tokens_for_any_multiple_of_the_patch(config: ConvolutionalBackboneConfig | DinoBackboneConfig) -> None:
    backbone = make(config)
    patch = backbone.patch_size
    for rows, columns in ((1, 1), (2, 5), (4, 3)):
        features = backbone(torch.rand(2, 3, rows * patch, columns * patch))
        assert features.tokens.shape == (2, rows * columns, backbone.width)


@pytest.mark.parametrize("config", [CONVOLUTIONAL, DINOV2, DINOV3], ids=["convolutional", "dinov2", "dinov3"])
def test_tokens_are_row_by_row(config: ConvolutionalBackboneConfig | DinoBackboneConfig) -> None:
    backbone = make(config)
    patch = backbone.patch_size
    image = torch.rand(1, 3, 3 * patch, 4 * patch)
    changed = image.clone()
    changed[:, :, 2 * patch :, patch : 2 * patch] = torch.rand(1, 3, patch, patch)
    difference = (backbone(changed).tokens - backbone(image).tokens).norm(dim=-1)[0]
    assert difference.argmax().item() == 2 * 4 + 1


@pytest.mark.parametrize("config", [CONVOLUTIONAL, DINOV2, DINOV3], ids=["convolutional", "dinov2", "dinov3"])
def test_checkpointing_changes_no_gradient(config: ConvolutionalBackboneConfig | DinoBackboneConfig) -> None:
    backbone = make(config).train()
    image = torch.rand(1, 3, 2 * backbone.patch_size, 2 * backbone.patch_size)
    gradients = []
    for enabled in (False, True):
        backbone.set_activation_checkpointing(enabled)
        backbone.zero_grad()
        backbone(image).tokens.square().mean().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_convolutional_backbone_has_the_declared_feature_maps() -> None:
    backbone = make(CONVOLUTIONAL)
    features = backbone(torch.rand(1, 3, 32, 48))
    assert features.quarter is not None
    assert features.eighth is not None
    assert features.quarter.shape == (1, backbone.quarter_channels, 8, 12)
    assert features.eighth.shape == (1, backbone.eighth_channels, 4, 6)


def test_dino_backbones_have_no_finer_features() -> None:
    backbone = make(DINOV3)
    features = backbone(torch.rand(1, 3, 32, 32))
    assert features.quarter is None
    assert features.eighth is None
    assert backbone.quarter_channels == backbone.eighth_channels == 0


def test_dino_normalizes_by_imagenet_statistics() -> None:
    backbone = make(DINOV2)
    assert isinstance(backbone, DinoBackbone)
    normalized = []
    backbone.vit.patch_embed.register_forward_pre_hook(lambda _, inputs: normalized.append(inputs[0]))
    backbone(torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 14, 14))
    torch.testing.assert_close(normalized[0], torch.zeros(1, 3, 14, 14), atol=1e-6, rtol=0)


def test_the_stem_maps_gray_to_zero() -> None:
    backbone, inputs_of_stem = make(CONVOLUTIONAL), []
    backbone.to_quarter.register_forward_pre_hook(lambda _, inputs: inputs_of_stem.append(inputs[0]))  # pyright: ignore
    backbone(torch.full((1, 3, 16, 16), 0.5))
    backbone(torch.ones(1, 3, 16, 16))
    assert (inputs_of_stem[0] == 0).all()
    assert (inputs_of_stem[1] == 2).all()


def test_an_unknown_timm_name_is_a_user_error() -> None:
    with pytest.raises(UserError, match="timm has no model named 'vit_no_such'"):
        make(DinoBackboneConfig("vit_no_such"))


class TestPretrained:
    def saved(self, folder: Path) -> tuple[DinoBackbone, Path]:
        torch.manual_seed(5)
        backbone = DinoBackbone(DINOV2)
        file = folder / "dino.pth"
        torch.save(backbone.vit.state_dict(), file)
        return backbone, file

    def test_local_file(self, tmp_path: Path) -> None:
        original, file = self.saved(tmp_path)
        torch.manual_seed(6)
        backbone = DinoBackbone(DINOV2)
        backbone.load_pretrained(file)
        image = torch.rand(1, 3, 28, 28)
        torch.testing.assert_close(backbone.eval()(image).tokens, original.eval()(image).tokens)

    def test_missing_and_unsuitable_files_are_user_errors(self, tmp_path: Path) -> None:
        backbone = DinoBackbone(DINOV2)
        with pytest.raises(UserError, match="do not exist"):
            backbone.load_pretrained(tmp_path / "none.pth")
        foreign = tmp_path / "foreign.pth"
        torch.save({"weight": torch.zeros(3)}, foreign)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        with pytest.raises(UserError, match=r"weights of vit_small_patch14_reg4_dinov2 from .* cannot be loaded"):
            backbone.load_pretrained(foreign)
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
