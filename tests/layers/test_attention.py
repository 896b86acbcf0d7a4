"""Attention kernels, transformer blocks, and rotary and absolute position encodings."""

import pytest
import torch

from recon4d.errors import UserError
from recon4d.layers import (
    AbsolutePosition,
    Block,
    BlockConfig,
    CrossBlock,
    RotaryTable,
    apply_rotary,
    attention,
    rotary_table,
    set_attention_kernel,
)


def random_qkv(width: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, width), (2, 3, 7, width), (2, 3, 7, width)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query, key, value


class TestKernels:
    def test_default_kernel_equals_the_formula_with_gradients(self) -> None:
        tensors = [tensor.requires_grad_() for tensor in random_qkv()]
        results = []
        for kernel in ("sdpa", "plain"):
            attended = attention(*tensors, kernel=kernel)
            results.append((attended, *torch.autograd.grad(attended.square().sum(), tensors)))
        for default, plain in zip(*results, strict=True):
            torch.testing.assert_close(default, plain)

    def test_plain_is_a_weighted_mean_of_values(self) -> None:
        query, key, value = random_qkv()
        # A key with a much larger product than all others gets all the weight.
        key[:, :, 3] = 100 * query.mean(dim=2)
        query = query.mean(dim=2, keepdim=True)
        torch.testing.assert_close(attention(query, key, value, "plain"), value[:, :, 3:4])

    def test_xformers_on_the_cpu_is_a_user_error(self) -> None:
        with pytest.raises(UserError, match="requires CUDA, but the device is cpu"):
            attention(*random_qkv(), kernel="xformers")

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers requires CUDA")
    def test_xformers_equals_plain(self) -> None:
        pytest.importorskip("xformers")
        tensors = [tensor.float().cuda() for tensor in random_qkv()]
        torch.testing.assert_close(attention(*tensors, kernel="xformers"), attention(*tensors, kernel="plain"))

    @pytest.mark.parametrize("qk_norm", ["none", "rms", "layer"])
    def test_blocks_agree_between_kernels(self, qk_norm: str) -> None:
        torch.manual_seed(0)
        config = BlockConfig(width=16, heads=2, mlp_width=32, qk_norm=qk_norm, layer_scale=0.5)  # pyright: ignore
        block, table = Block(config).double(), rotary_table((2, 3), 1, 8)
        x = torch.randn(2, 7, 16, dtype=torch.float64)
        expected = block(x, table)
        set_attention_kernel(block, "plain")
        torch.testing.assert_close(block(x, table), expected)


class TestBlocks:
    def test_unsuitable_widths_are_user_errors(self) -> None:
        with pytest.raises(UserError, match="multiple of 4"):
            BlockConfig(width=18, heads=3, mlp_width=8)

    def test_layer_scale_of_zero_is_the_identity(self) -> None:
        x = torch.randn(1, 4, 16)
        block = Block(BlockConfig(16, 2, 32, layer_scale=0.0))
        torch.testing.assert_close(block(x), x)

    def test_qk_norm_removes_the_scale_of_queries(self) -> None:
        torch.manual_seed(0)
        for qk_norm, is_invariant in (("none", False), ("rms", True), ("layer", True)):
            block = Block(BlockConfig(16, 2, 32, qk_norm=qk_norm))  # pyright: ignore
            x = torch.randn(1, 4, 16)
            before = block(x)
            with torch.no_grad():
                block.attention.qkv.weight[:16] *= 3
            assert torch.allclose(block(x), before, atol=1e-4) == is_invariant

    def test_blocks_depend_on_relative_positions_only(self) -> None:
        torch.manual_seed(0)
        block, cross = Block(BlockConfig(16, 2, 32)).double(), CrossBlock(BlockConfig(16, 2, 32)).double()
        table = rotary_table((4, 4), 0, 8)
        rows = torch.arange(16).reshape(4, 4)
        here, shifted = rows[:2, :2].flatten(), rows[1:3, 2:].flatten()
        tables = [RotaryTable(table.cosine[index], table.sine[index]) for index in (here, shifted)]
        x, context = torch.randn(2, 1, 4, 16, dtype=torch.float64)
        torch.testing.assert_close(block(x, tables[0]), block(x, tables[1]), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            cross(x, context, tables[0], tables[0]), cross(x, context, tables[1], tables[1]), atol=1e-6, rtol=1e-6
        )
        assert not torch.allclose(cross(x, context, tables[0], tables[0]), cross(x, context, tables[0], tables[1]))

    def test_cross_layer_scale_of_zero_is_the_identity(self) -> None:
        block, table = CrossBlock(BlockConfig(16, 2, 32, layer_scale=0.0)), rotary_table((2, 2), 0, 8)
        x = torch.randn(1, 4, 16)
        torch.testing.assert_close(block(x, torch.randn(1, 4, 16), table, table), x)

    def test_cross_block_depends_on_its_context(self) -> None:
        torch.manual_seed(0)
        block, table = CrossBlock(BlockConfig(16, 2, 32)), rotary_table((2, 2), 0, 8)
        x, context = torch.randn(1, 4, 16), torch.randn(1, 4, 16, requires_grad=True)
        block(x, context, table, table).sum().backward()
        assert context.grad is not None
        assert context.grad.abs().sum() > 0


class TestRotary:
    def products(self, table: RotaryTable, query: int, key: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        feature_q, feature_k = torch.randn(2, 8, generator=generator)
        tokens = table.cosine.shape[0]
        rotated_q = apply_rotary(feature_q.expand(1, 1, tokens, 8), table)[0, 0, query]
        rotated_k = apply_rotary(feature_k.expand(1, 1, tokens, 8), table)[0, 0, key]
        return rotated_q @ rotated_k

    def test_products_depend_on_relative_rows_and_columns(self) -> None:
        table = rotary_table((4, 5), 0, 8)
        index = lambda row, column: row * 5 + column  # noqa: E731
        reference = self.products(table, index(0, 0), index(1, 2))
        torch.testing.assert_close(self.products(table, index(2, 1), index(3, 3)), reference)
        assert not torch.allclose(self.products(table, index(2, 1), index(2, 3)), reference)
        assert not torch.allclose(self.products(table, index(2, 1), index(3, 2)), reference)

    def test_special_tokens_are_not_rotated(self) -> None:
        table = rotary_table((2, 2), 3, 8)
        features = torch.randn(1, 1, 7, 8)
        rotated = apply_rotary(features, table)
        torch.testing.assert_close(rotated[:, :, :3], features[:, :, :3])
        assert (rotated[:, :, 3:] - features[:, :, 3:]).abs().amax(dim=-1).min() > 1e-3

    def test_the_first_half_encodes_the_row_and_the_second_the_column(self) -> None:
        sine = rotary_table((3, 3), 0, 8).sine.reshape(3, 3, 8)
        assert torch.equal(sine[1, 0, :4], sine[1, 2, :4])
        assert torch.equal(sine[0, 1, 4:], sine[2, 1, 4:])
        assert not torch.allclose(sine[0, 1, :4], sine[2, 1, :4])

    def test_rotation_keeps_lengths(self) -> None:
        table, features = rotary_table((3, 3), 0, 16), torch.randn(1, 2, 9, 16)
        torch.testing.assert_close(apply_rotary(features, table).norm(dim=-1), features.norm(dim=-1))


class TestAbsolutePosition:
    def test_every_patch_differs_and_centers_agree_between_sizes(self) -> None:
        position = AbsolutePosition(32)
        table = position((5, 7))
        assert torch.cdist(table, table)[~torch.eye(35, dtype=torch.bool)].min() > 0.1
        torch.testing.assert_close(position((3, 3))[4], position((5, 5))[12])

    def test_rows_and_columns_are_not_confused(self) -> None:
        position = AbsolutePosition(32)
        wide, tall = position((3, 5)).reshape(3, 5, 32), position((5, 3)).reshape(5, 3, 32)
        assert not torch.allclose(wide, tall.transpose(0, 1))
        assert wide[0, 0].shape == (32,)
