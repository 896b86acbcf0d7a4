"""Lean inference: narrow weights answer the same, thinned attention keeps what it must, memory is known beforehand."""

import re
from dataclasses import replace

import pytest
import torch
from networks import random_images, tiny_config
from torch import Tensor

from recon4d.inference import ReconstructConfig, reconstruct
from recon4d.layers import (
    Block,
    CrossBlock,
    NormalizedRotary,
    apply_rotary,
)
from recon4d.models import (
    Model,
    cast_to_bfloat16,
    is_bfloat16,
    plan_memory,
)
from recon4d.models.acceleration import MATRICES, compile_blocks
from recon4d.models.aggregator import kept_tokens
from recon4d.records import Clip
from recon4d.zoo import HeadKind, empty_model, model_config


@pytest.fixture
def model() -> Model:
    return _model()


def _model(heads: HeadKind = "linear") -> Model:
    torch.manual_seed(0)
    model = Model(tiny_config(heads)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


class TestNarrowWeights:
    @pytest.mark.parametrize("heads", ["linear", "dpt"])
    def test_the_same_answer_bit_for_bit(self, heads: HeadKind) -> None:
        model, images = _model(heads), random_images(1, 3).float()
        wide = _in_bfloat16(model, images)
        narrow = _in_bfloat16(cast_to_bfloat16(model), images)
        assert torch.equal(wide.depths, narrow.depths)
        assert torch.equal(wide.cameras.world_from_cam, narrow.cameras.world_from_cam)

    def test_blocks_are_narrow_and_geometry_is_not(self, model: Model) -> None:
        assert not is_bfloat16(model)
        assert is_bfloat16(cast_to_bfloat16(model))
        assert model.aggregator.frame_blocks[0].mlp.fc1.weight.dtype == torch.bfloat16  # pyright: ignore
        assert model.aggregator.frame_blocks[0].norm1.weight.dtype == torch.float32  # pyright: ignore
        assert {parameter.dtype for parameter in model.camera_head.parameters()} == {torch.float32}

    def test_such_a_model_cannot_run_in_float32(self, model: Model) -> None:
        clip = Clip((255 * random_images(1, 2)[0]).to(torch.uint8), torch.arange(2.0))
        with pytest.raises(ValueError, match=r"has bfloat16 weights .* and cannot run in float32"):
            reconstruct(cast_to_bfloat16(model), clip, ReconstructConfig(precision="float32"))

    @pytest.mark.parametrize(
        ("name", "heads", "backbone"),
        [
            ("recon4d_dinov2_small", "linear", "backbone.vit."),
            ("recon4d_dinov2_small", "dpt", "backbone.vit."),
            ("recon4d_tiny", "linear", "backbone.blocks."),
            ("vggt_omega_1b", "dpt", "backbone.blocks."),
        ],
    )
    def test_all_matrices_of_the_trunk_are_narrow(self, name: str, heads: HeadKind, backbone: str) -> None:
        """Of a DINO backbone by timm everything that is a matrix, of others the blocks; pyramids too, and no norm."""
        model = cast_to_bfloat16(empty_model(model_config(name, heads)))
        matrices = {name for name, module in model.named_modules() if isinstance(module, MATRICES)}
        narrow = {name for name in matrices if model.get_parameter(f"{name}.weight").dtype == torch.bfloat16}
        trunk = {name for name in matrices if name.startswith(backbone)}
        trunk |= {name for name in matrices if re.match(r"aggregator\.(frame|global)_blocks\.", name)}
        trunk |= {name for name in matrices if ".pyramid." in name}
        assert narrow == trunk
        assert all(any(name.startswith(part) for name in narrow) for part in (backbone, "aggregator."))
        assert any("resize" in name for name in narrow) == (heads == "dpt")
        others = {name for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
        assert {name.rsplit(".", 1)[0] for name in others} == narrow


class TestCompiledBlocks:
    def test_every_block_compiles_itself_and_nothing_else(self, model: Model) -> None:
        import torch._dynamo.config as dynamo

        with dynamo.patch(recompile_limit=8):
            compile_blocks(model)
            assert dynamo.recompile_limit > 8
        blocks = {name for name, module in model.named_modules() if isinstance(module, Block | CrossBlock)}
        compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
        assert compiled == blocks
        kinds = {type(model.get_submodule(name)) for name in blocks}
        assert kinds == {Block, CrossBlock}


class TestThinnedKeys:
    def test_which_tokens_are_left(self) -> None:
        # Two frames of 2 x 3 patches behind one special token: all of the first, row 1 and column 1 of the second.
        kept = kept_tokens(time=2, grid=(2, 3), num_special=1, stride=2)
        assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 12]

    def test_a_picture_smaller_than_the_stride_keeps_a_patch(self) -> None:
        assert kept_tokens(time=2, grid=(1, 1), num_special=1, stride=4).tolist() == [0, 1, 2, 3]

    def test_one_frame_has_nothing_to_thin(self, model: Model) -> None:
        images = random_images(1, 1).float()
        with torch.no_grad():
            exact, thinned = (model.outputs(images, key_stride=stride).scene for stride in (1, 2))
        torch.testing.assert_close(exact.depths, thinned.depths)

    def test_what_is_left_out_is_not_looked_at(self, model: Model) -> None:
        block = model.aggregator.global_blocks[0]
        tokens = torch.randn(1, 6, 96)
        kept = torch.tensor([0, 2, 5])
        changed = tokens.clone()
        changed[:, 3] += 1
        with torch.no_grad():
            before, after = (block(one, None, kept) for one in (tokens, changed))
            alone = block(tokens[:, kept], None)
        others = [0, 1, 2, 4, 5]
        assert torch.equal(before[:, others], after[:, others])
        # Kept tokens see what they would see alone.
        torch.testing.assert_close(before[:, kept], alone)

    def test_longer_clips_are_an_approximation(self, model: Model) -> None:
        images = random_images(1, 3, size=(64, 96)).float()
        with torch.no_grad():
            exact, thinned = (model.outputs(images, key_stride=stride).scene for stride in (1, 2))
        assert not torch.equal(exact.depths, thinned.depths)

    def test_a_stride_below_one_is_refused(self, model: Model) -> None:
        clip = Clip((255 * random_images(1, 2)[0]).to(torch.uint8), torch.arange(2.0))
        with pytest.raises(ValueError, match="key_stride 0; at least 1 is needed"):
            reconstruct(model, clip, ReconstructConfig(key_stride=0))


class TestMemoryPlan:
    def test_the_straight_line_meets_the_pass_itself(self, model: Model) -> None:
        # Traced at 2 and 4 frames and continued, against traced at 8.
        continued = plan_memory(model, 8, (64, 96), num_anchors=1, frame_chunk=2)
        traced = plan_memory(model, 8, (64, 96), num_anchors=1, frame_chunk=8)
        assert continued.weights == sum(4 * tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
        assert 0.5 * traced.peak < continued.peak <= traced.peak

    def test_what_is_held_is_counted(self) -> None:
        # A model whose tokens are nothing beside its maps: they alone are held until the end.
        config = tiny_config()
        model = Model(replace(config, motion=None))
        small, large = (plan_memory(model, 2, size, 0, 2) for size in ((64, 64), (128, 128)))
        answers = 2 * 7 * 4 * 64 * 64  # depth, points, moving and two confidences of two frames
        assert small.peak - small.weights > answers
        assert 3 < (large.peak - large.weights) / (small.peak - small.weights) < 6

    def test_longer_clips_follow_the_line_through_one_and_two_chunks(self, model: Model) -> None:
        one, two, seven = (plan_memory(model, frames, (32, 48), 1, 2).peak for frames in (2, 4, 14))
        assert two > one
        assert seven == two + 5 * (two - one)

    def test_what_is_asked_for_is_paid_for(self, model: Model) -> None:
        dpt = Model(replace(tiny_config("dpt"), motion=None, matching=None))
        assert plan_memory(dpt, 2, (64, 96), 0, 2).peak > plan_memory(dpt, 2, (64, 96), 0, 1).peak
        plain = plan_memory(model, 2, (32, 48), 0, 2).peak
        assert plan_memory(model, 2, (32, 48), 1, 2).peak > plain
        wide = plan_memory(model, 2, (32, 48), 0, 2, bfloat16=True)
        assert wide.peak > plain  # autocast keeps narrow copies beside wide weights
        narrow = plan_memory(cast_to_bfloat16(model), 2, (32, 48), 0, 2, bfloat16=True)
        assert narrow.weights < 0.8 * wide.weights
        assert narrow.peak < wide.peak

    def test_in_words(self, model: Model) -> None:
        assert str(plan_memory(model, 1, (32, 32))).endswith("of which weights 0.0")


class TestNormalisedRotary:
    def test_centers_run_along_the_longer_side(self) -> None:
        rotary = NormalizedRotary(8)
        table = rotary((1, 2), num_special=1)
        # Two columns: -.5 and .5; the one row stands at -.5 too. Periods 1 and 10.
        angles = 2 * torch.pi * torch.tensor([[-0.5, -0.05], [-0.5, -0.05]])
        assert torch.equal(table.cosine[0], torch.ones(8))
        torch.testing.assert_close(table.sine[1, [0, 1, 4, 5]], angles.flatten().sin(), atol=1e-6, rtol=0)
        torch.testing.assert_close(table.sine[2, [4, 5]], -angles[0].sin(), atol=1e-6, rtol=0)

    def test_twice_as_many_patches_span_the_same(self) -> None:
        rotary = NormalizedRotary(16)
        coarse, fine = rotary((2, 4), 0), rotary((6, 12), 0)
        # The middle one of three by three patches has the center of the patch they share.
        place = (1 * 12) + 1
        torch.testing.assert_close(fine.cosine[place], coarse.cosine[0])
        torch.testing.assert_close(apply_rotary(torch.ones(1, 1, 8, 16), coarse).shape, torch.Size([1, 1, 8, 16]))


def _in_bfloat16(model: Model, images: Tensor):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.outputs(images, anchors=()).scene
