"""Efficient inference: bfloat16 weights, compiled blocks, strided keys and the estimate of memory."""

import re
from dataclasses import replace

import pytest
import torch
from networks import random_images, tiny_config
from torch import Tensor

from recon4d.inference import reconstruct
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
from recon4d.models.acceleration import MATRIX_LAYERS, compile_blocks
from recon4d.models.aggregator import strided_key_indices
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


class TestBfloat16Weights:
    @pytest.mark.parametrize("heads", ["linear", "dpt"])
    def test_results_are_identical_under_autocast(self, heads: HeadKind) -> None:
        model, images = _model(heads), random_images(1, 3).float()
        expected = _in_bfloat16(model, images)
        actual = _in_bfloat16(cast_to_bfloat16(model), images)
        assert torch.equal(actual.depths, expected.depths)
        assert torch.equal(actual.cameras.world_from_cam, expected.cameras.world_from_cam)

    def test_blocks_are_bfloat16_and_geometry_is_float32(self, model: Model) -> None:
        assert not is_bfloat16(model)
        assert is_bfloat16(cast_to_bfloat16(model))
        assert model.aggregator.frame_blocks[0].mlp.fc1.weight.dtype == torch.bfloat16  # pyright: ignore
        assert model.aggregator.frame_blocks[0].norm1.weight.dtype == torch.float32  # pyright: ignore
        assert {parameter.dtype for parameter in model.camera_head.parameters()} == {torch.float32}

    def test_a_bfloat16_model_cannot_run_in_float32(self, model: Model) -> None:
        clip = Clip((255 * random_images(1, 2)[0]).to(torch.uint8), torch.arange(2.0))
        with pytest.raises(ValueError, match=r"has bfloat16 weights and cannot run with precision .float32."):
            reconstruct(cast_to_bfloat16(model), clip, precision="float32")

    @pytest.mark.parametrize(
        ("name", "heads", "backbone"),
        [
            ("recon4d_dinov2_small", "dpt", "backbone.vit."),
            ("recon4d_tiny", "linear", "backbone.blocks."),
            ("vggt_omega_1b", "dpt", "backbone.blocks."),
        ],
    )
    def test_all_matrices_of_the_trunk_are_bfloat16(self, name: str, heads: HeadKind, backbone: str) -> None:
        """Matrices of DINO backbones, blocks and pyramids are bfloat16; norms and other layers are not."""
        model = cast_to_bfloat16(empty_model(model_config(name, heads)))
        matrices = {name for name, module in model.named_modules() if isinstance(module, MATRIX_LAYERS)}
        half = {name for name in matrices if model.get_parameter(f"{name}.weight").dtype == torch.bfloat16}
        trunk = {name for name in matrices if name.startswith(backbone)}
        trunk |= {name for name in matrices if re.match(r"aggregator\.(frame|global)_blocks\.", name)}
        trunk |= {name for name in matrices if ".pyramid." in name}
        assert half == trunk
        assert all(any(name.startswith(part) for name in half) for part in (backbone, "aggregator."))
        assert any("resize" in name for name in half) == (heads == "dpt")
        others = {name for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
        assert {name.rsplit(".", 1)[0] for name in others} == half


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


class TestStridedKeys:
    def test_selected_tokens(self) -> None:
        # Two frames of one special token and 2 x 3 patches: all tokens of the first, row 1 and column 1 of the second.
        kept = strided_key_indices(time=2, grid=(2, 3), num_special=1, stride=2)
        assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 12]

    def test_an_image_smaller_than_the_stride_keeps_one_patch(self) -> None:
        assert strided_key_indices(time=2, grid=(1, 1), num_special=1, stride=4).tolist() == [0, 1, 2, 3]

    def test_a_single_frame_is_not_approximated(self, model: Model) -> None:
        images = random_images(1, 1).float()
        with torch.no_grad():
            exact, strided = (model.outputs(images, key_stride=stride).scene for stride in (1, 2))
        torch.testing.assert_close(exact.depths, strided.depths)

    def test_other_tokens_are_not_attended_to(self, model: Model) -> None:
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
        # Selected tokens attend to each other only.
        torch.testing.assert_close(before[:, kept], alone)

    def test_longer_clips_are_an_approximation(self, model: Model) -> None:
        images = random_images(1, 3, size=(64, 96)).float()
        with torch.no_grad():
            exact, strided = (model.outputs(images, key_stride=stride).scene for stride in (1, 2))
        assert not torch.equal(exact.depths, strided.depths)

    def test_a_stride_below_one_is_refused(self, model: Model) -> None:
        clip = Clip((255 * random_images(1, 2)[0]).to(torch.uint8), torch.arange(2.0))
        with pytest.raises(ValueError, match="key_stride is 0; both must be at least 1"):
            reconstruct(model, clip, key_stride=0)


class TestMemoryPlan:
    @pytest.mark.end_to_end
    def test_extrapolation_agrees_with_a_full_dry_run(self, model: Model) -> None:
        # Extrapolated from 1 and 2 frames, compared to a dry run of 4 frames.
        extrapolated = plan_memory(model, 4, (64, 96), num_anchors=1, frame_chunk=1)
        traced = plan_memory(model, 4, (64, 96), num_anchors=1, frame_chunk=4)
        assert extrapolated.weights == sum(4 * tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
        assert 0.5 * traced.peak < extrapolated.peak <= traced.peak

    def test_live_tensors_are_counted(self) -> None:
        # The tokens of this model are negligible compared to its maps, which live until the end.
        config = tiny_config()
        model = Model(replace(config, motion=None))
        small, large = (plan_memory(model, 2, size, 0, 2) for size in ((64, 64), (128, 128)))
        maps = 2 * 7 * 4 * 64 * 64  # depth, points, dynamic probability and two confidences of two frames
        assert small.peak - small.weights > maps
        assert 3 < (large.peak - large.weights) / (small.peak - small.weights) < 6

    def test_long_clips_are_extrapolated_from_one_and_two_chunks(self, model: Model) -> None:
        one, two, seven = (plan_memory(model, frames, (32, 48), 0, 1).peak for frames in (1, 2, 7))
        assert two > one
        assert seven == two + 5 * (two - one)

    @pytest.mark.end_to_end
    def test_options_that_need_memory_raise_the_estimate(self, model: Model) -> None:
        dpt = Model(replace(tiny_config("dpt"), motion=None, matching=None))
        assert plan_memory(dpt, 2, (64, 96), 0, 2).peak > plan_memory(dpt, 2, (64, 96), 0, 1).peak
        plain = plan_memory(model, 2, (32, 48), 0, 2).peak
        assert plan_memory(model, 2, (32, 48), 1, 2).peak > plain
        float32 = plan_memory(model, 2, (32, 48), 0, 2, bfloat16=True)
        assert float32.peak > plain  # autocast caches bfloat16 copies of float32 weights
        bfloat16 = plan_memory(cast_to_bfloat16(model), 2, (32, 48), 0, 2, bfloat16=True)
        assert bfloat16.weights < 0.8 * float32.weights
        assert bfloat16.peak < float32.peak

    def test_formatting(self, model: Model) -> None:
        assert str(plan_memory(model, 1, (32, 32))).endswith("of which weights 0.0")


class TestNormalizedRotary:
    def test_the_longer_side_normalizes_positions(self) -> None:
        rotary = NormalizedRotary(8)
        table = rotary((1, 2), num_special=1)
        # The columns are at -0.5 and 0.5; the single row is at -0.5. Periods are 1 and 10.
        angles = 2 * torch.pi * torch.tensor([[-0.5, -0.05], [-0.5, -0.05]])
        assert torch.equal(table.cosine[0], torch.ones(8))
        torch.testing.assert_close(table.sine[1, [0, 1, 4, 5]], angles.flatten().sin(), atol=1e-6, rtol=0)
        torch.testing.assert_close(table.sine[2, [4, 5]], -angles[0].sin(), atol=1e-6, rtol=0)

    def test_positions_do_not_depend_on_the_number_of_patches(self) -> None:
        rotary = NormalizedRotary(16)
        coarse, fine = rotary((2, 4), 0), rotary((6, 12), 0)
        # The central patch of 3 x 3 fine patches has the center of the coarse patch that they cover.
        index = (1 * 12) + 1
        torch.testing.assert_close(fine.cosine[index], coarse.cosine[0])
        torch.testing.assert_close(apply_rotary(torch.ones(1, 1, 8, 16), coarse).shape, torch.Size([1, 1, 8, 16]))


def _in_bfloat16(model: Model, images: Tensor):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.outputs(images, anchors=()).scene
