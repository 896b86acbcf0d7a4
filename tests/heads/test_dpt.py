"""The DPT heads that published weights run on: what each part must mean for those weights to mean anything."""

import math

import pytest
import torch
from layers import fill_constant_, record_inputs
from torch import Tensor, nn

from recon4d.heads.dense import ResidualConvolutions
from recon4d.heads.dpt import (
    DptFeatures,
    DptFeaturesConfig,
    DptHead,
    DptHeadConfig,
    ShuffleHead,
    ShuffleHeadConfig,
)
from recon4d.heads.pyramid import (
    PlainConvolutions,
    Pyramid,
    PyramidConfig,
    RectifiedConvolutions,
    resize_by_corners,
)
from recon4d.heads.uv_positions import add_uv_positions, uv_table

CHANNELS = (8, 8, 8, 8)
FEATURE_WIDTH = 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_features(grid: tuple[int, int], layers: int = 4) -> list[Tensor]:
    return [torch.randn(2, grid[0] * grid[1], FEATURE_WIDTH) for _ in range(layers)]


class TestUvPositions:
    def test_table_is_its_formula(self) -> None:
        # Twice as wide as high: half a diagonal of 1 gives half sides of 2 / sqrt(5) and 1 / sqrt(5).
        table = uv_table(8, (2, 3), aspect=2.0)
        assert table.dtype == torch.float32
        for row, y in enumerate([-0.5 / math.sqrt(5), 0.5 / math.sqrt(5)]):
            for column, x in enumerate([-4 / 3 / math.sqrt(5), 0.0, 4 / 3 / math.sqrt(5)]):
                across = [math.sin(x), math.sin(0.1 * x), math.cos(x), math.cos(0.1 * x)]
                down = [math.sin(y), math.sin(0.1 * y), math.cos(y), math.cos(0.1 * y)]
                assert table[:, row, column].tolist() == pytest.approx(across + down, abs=1e-7)

    def test_a_tenth_of_it_is_added(self) -> None:
        maps = torch.randn(2, 8, 5, 9)
        added = add_uv_positions(maps, 1.5) - maps
        torch.testing.assert_close(added, 0.1 * uv_table(8, (5, 9), 1.5).expand_as(maps))

    def test_half_types_stay(self) -> None:
        assert add_uv_positions(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16), 1.0).dtype == torch.bfloat16

    def test_a_checkpoint_knows_nothing_of_it(self) -> None:
        with_table, without = (
            Pyramid(PyramidConfig(CHANNELS, 8, positions=on), [FEATURE_WIDTH]) for on in (True, False)
        )
        with_table(random_features((2, 3), layers=1), (2, 3))
        assert with_table.state_dict().keys() == without.state_dict().keys()

    def test_channels_that_hold_no_table_are_refused(self) -> None:
        with pytest.raises(ValueError, match="multiples of 4"):
            PyramidConfig((6, 8, 8, 8), 8)
        with pytest.raises(ValueError, match="multiple of 8"):
            DptHeadConfig(CHANNELS, 12)
        with pytest.raises(ValueError, match="multiple of 4"):
            ShuffleHeadConfig(CHANNELS, 6)


class TestPyramid:
    def test_residual_by_hand(self) -> None:
        """Convolutions that only look at their own pixel: the first doubles and adds 1, the second negates."""
        maps = torch.tensor([-3.0, 0.5])[None, None, None]
        answers = {}
        for kind in (PlainConvolutions, RectifiedConvolutions):
            unit = kind(1)
            for layer, center, bias in ((unit.conv1, 2.0, 1.0), (unit.conv2, -1.0, 0.0)):
                fill_constant_(layer, 0.0, bias)
                with torch.no_grad():
                    layer.weight[..., 1, 1] = center
            answers[kind] = unit(maps).flatten().tolist()
        assert answers[PlainConvolutions] == pytest.approx([-3 - 1, 0.5 - 2])
        assert answers[RectifiedConvolutions] == pytest.approx([0 - 1, 0.5 - 2])

    @pytest.mark.parametrize("rectified", [False, True])
    def test_fusion_by_hand(self, rectified: bool) -> None:
        """Residual units that add 1 to the level and 2 to the sum, and a convolution that multiplies by ten."""
        fusion = Pyramid(PyramidConfig((4, 4, 4, 4), 1, rectified=rectified), [FEATURE_WIDTH]).fusion[0]
        assert isinstance(fusion.refine_level, ResidualConvolutions)
        assert isinstance(fusion.refine_sum, ResidualConvolutions)
        fill_constant_(fusion.refine_level.conv2, 0.0, 1.0)
        fill_constant_(fusion.refine_sum.conv2, 0.0, 2.0)
        assert isinstance(fusion.out, nn.Conv2d)
        fill_constant_(fusion.out, 10.0, 0.0)
        level, coarser = torch.tensor([[-3.0, 0.5, -3.0], [7.0, 7.0, -7.0]])[:, None, None, None]
        # Rectified, -3 counts as 0 in the level, and the last sum, -6, as 0 in turn.
        expected = [100.0, 105.0, 20.0] if rectified else [70.0, 105.0, -70.0]
        assert fusion(level, coarser).flatten().tolist() == pytest.approx(expected)

    def test_vggt_rectifies_and_omega_does_not(self) -> None:
        widths = [FEATURE_WIDTH] * 4
        heads = (
            DptHead(DptHeadConfig(CHANNELS, 8), widths, 14, 0, 2),
            DptFeatures(DptFeaturesConfig(CHANNELS, 8), widths, 14),
            ShuffleHead(ShuffleHeadConfig(CHANNELS, 8), widths, 16, 0, 2),
        )
        kinds = [{type(part) for part in head.modules() if isinstance(part, ResidualConvolutions)} for head in heads]
        assert kinds == [{RectifiedConvolutions}, {RectifiedConvolutions}, {PlainConvolutions}]

    def test_a_ramp_between_the_corners_stays_a_ramp(self) -> None:
        across = torch.linspace(-1, 1, 3)
        maps = torch.stack([across.expand(4, 3), torch.linspace(5, 8, 4)[:, None].expand(4, 3)])[None]
        wide, high = resize_by_corners(maps, (7, 9))[0]
        torch.testing.assert_close(wide, torch.linspace(-1, 1, 9).expand(7, 9))
        torch.testing.assert_close(high, torch.linspace(5, 8, 7)[:, None].expand(7, 9))

    @pytest.mark.parametrize("grid", [(5, 9), (4, 6), (1, 1)])
    def test_levels_meet_at_their_own_sizes(self, grid: tuple[int, int]) -> None:
        pyramid = Pyramid(PyramidConfig(CHANNELS, 16), [FEATURE_WIDTH] * 4)
        sizes = {}
        for level, fusion in enumerate(pyramid.fusion):
            fusion.register_forward_hook(lambda *call, level=level: sizes.update({level: call[-1].shape[-2:]}))
        fused = pyramid(random_features(grid), grid)
        rows, columns = grid
        halves = ((rows + 1) // 2, (columns + 1) // 2)
        assert list(sizes) == [3, 2, 1, 0]
        assert [sizes[level] for level in range(4)] == [(4 * rows, 4 * columns), (2 * rows, 2 * columns), grid, halves]
        assert fused.shape == (2, 16, 4 * rows, 4 * columns)

    @pytest.mark.parametrize(("layers", "expected"), [(4, [0, 1, 2, 3]), (2, [0, 0, 1, 1]), (1, [0, 0, 0, 0])])
    def test_early_layers_are_the_fine_levels(self, layers: int, expected: list[int]) -> None:
        pyramid = Pyramid(PyramidConfig(CHANNELS, 8), [FEATURE_WIDTH] * layers)
        heard = record_inputs(*pyramid.project)
        tokens = random_features((2, 3), layers)
        pyramid(tokens, (2, 3))
        for level, layer in enumerate(expected):
            maps = pyramid.norm(tokens[layer]).transpose(1, 2).unflatten(2, (2, 3))
            torch.testing.assert_close(heard[level], maps)

    def test_a_resize_and_a_convolution_of_single_pixels_commute(self) -> None:
        out, maps = Pyramid(PyramidConfig(CHANNELS, 8), [FEATURE_WIDTH]).fusion[0].out, torch.randn(1, 8, 5, 9)
        assert isinstance(out, nn.Conv2d)
        torch.testing.assert_close(resize_by_corners(out(maps), (11, 18)), out(resize_by_corners(maps, (11, 18))))

    def test_every_layer_is_normalized(self) -> None:
        pyramid = Pyramid(PyramidConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4)
        layers = random_features((3, 4))
        louder = [(2 + index) * layer + index for index, layer in enumerate(layers)]
        torch.testing.assert_close(pyramid(louder, (3, 4)), pyramid(layers, (3, 4)), atol=1e-4, rtol=1e-4)

    def test_each_level_is_told_positions_of_the_token_grid_before_it_is_resized(self) -> None:
        told, untold = (Pyramid(PyramidConfig(CHANNELS, 8, positions=on), [FEATURE_WIDTH] * 4) for on in (True, False))
        untold.load_state_dict(told.state_dict())
        with_tables, without_tables = record_inputs(*told.resize), record_inputs(*untold.resize)
        layers = random_features((3, 4))
        told(layers, (3, 4))
        untold(layers, (3, 4))
        table = 0.1 * uv_table(8, (3, 4), 4 / 3)
        for with_table, without in zip(with_tables, without_tables, strict=True):
            torch.testing.assert_close(with_table - without, table.expand_as(without), atol=1e-6, rtol=1e-5)


class TestEnds:
    def test_the_convolutional_end_is_told_positions_at_the_full_size(self) -> None:
        """Nothing else is left of the picture once `hidden1` is silent."""
        head = DptHead(DptHeadConfig(CHANNELS, 16), [FEATURE_WIDTH] * 4, 14, 0, 2)
        fill_constant_(head.hidden1, 0.0, 0.0)
        seen = record_inputs(head.hidden2)
        head(random_features((3, 5)), (3, 5), None)
        torch.testing.assert_close(seen[0], 0.1 * uv_table(8, (42, 70), 5 / 3).expand(2, -1, -1, -1))

    def test_the_shuffled_end_is_told_positions_at_a_quarter_of_it(self) -> None:
        head = ShuffleHead(ShuffleHeadConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 16, 0, 2)
        out = head.pyramid.fusion[0].out
        assert isinstance(out, nn.Conv2d)
        fill_constant_(out, 0.0, 0.0)
        seen = record_inputs(head.out)
        head(random_features((3, 5)), (3, 5), None)
        torch.testing.assert_close(seen[0], 0.1 * uv_table(8, (12, 20), 5 / 3).expand(2, -1, -1, -1))

    def test_a_feature_is_a_block_of_pixels_row_by_row(self) -> None:
        head = ShuffleHead(ShuffleHeadConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 16, 0, 2)
        nn.init.zeros_(head.out.weight)
        assert head.out.bias is not None
        with torch.no_grad():
            head.out.bias.copy_(torch.arange(32))
        maps = head(random_features((3, 5)), (3, 5), None)
        assert maps.shape == (2, 2, 48, 80)
        block = torch.arange(16.0).reshape(4, 4)
        torch.testing.assert_close(maps[1, 0], block.repeat(12, 20))
        torch.testing.assert_close(maps[1, 1], 16 + block.repeat(12, 20))

    def test_the_shuffled_end_starts_near_its_bias_and_uses_features_and_skip(self) -> None:
        head = ShuffleHead(ShuffleHeadConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 16, 5, 3)
        head.initialize(torch.tensor([0.0, 5.0, -3.0]))
        inputs = [*random_features((3, 5)), torch.randn(2, 5, 12, 20)]
        for tensor in inputs:
            tensor.requires_grad_()
        maps = head(inputs[:4], (3, 5), inputs[4])
        torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.tensor([0.0, 5.0, -3.0]), atol=0.2, rtol=0)
        maps.sum().backward()
        assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in inputs)

    def test_patches_without_a_quarter_are_refused(self) -> None:
        with pytest.raises(ValueError, match="patch size is 14"):
            ShuffleHead(ShuffleHeadConfig(CHANNELS, 8), [FEATURE_WIDTH], 14, 0, 2)

    @pytest.mark.parametrize("patch_size", [14, 16])
    def test_features_have_half_the_size(self, patch_size: int) -> None:
        head = DptFeatures(DptFeaturesConfig(CHANNELS, 6), [FEATURE_WIDTH] * 4, patch_size)
        features = head(random_features((5, 9)), (5, 9))
        assert features.shape == (2, 6, 5 * patch_size // 2, 9 * patch_size // 2)

    def test_features_are_not_told_where_they_are(self) -> None:
        head = DptFeatures(DptFeaturesConfig(CHANNELS, 6), [FEATURE_WIDTH] * 4, 14)
        levels = record_inputs(*head.pyramid.resize)
        head([torch.randn(FEATURE_WIDTH).expand(1, 6, -1) for _ in range(4)], (2, 3))
        for maps in levels:
            torch.testing.assert_close(maps, maps[..., :1, :1].expand_as(maps))

    def test_the_first_convolutions_of_the_ends_see_eight_features_a_patch(self) -> None:
        maps = DptHead(DptHeadConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 14, 0, 2)
        features = DptFeatures(DptFeaturesConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 14)
        seen = record_inputs(maps.hidden1, features.out)
        maps(random_features((3, 5)), (3, 5), None)
        features(random_features((3, 5)), (3, 5))
        assert [tensor.shape for tensor in seen] == [(2, 8, 24, 40), (2, 8, 24, 40)]

    def test_the_last_convolution_sees_nothing_negative(self) -> None:
        head = DptHead(DptHeadConfig(CHANNELS, 8), [FEATURE_WIDTH] * 4, 14, 0, 2)
        seen = record_inputs(head.out)
        head(random_features((3, 5)), (3, 5), None)
        assert seen[0].min() == 0

    @pytest.mark.parametrize("kind", [DptHead, ShuffleHead])
    def test_the_last_layer_works_in_float32_under_autocast(self, kind: type[DptHead | ShuffleHead]) -> None:
        config = DptHeadConfig(CHANNELS, 8) if kind is DptHead else ShuffleHeadConfig(CHANNELS, 8)
        head = kind(config, [FEATURE_WIDTH] * 4, 16, 0, 2)  # pyright: ignore[reportArgumentType]
        seen = record_inputs(head.out)
        with torch.autocast("cpu", torch.bfloat16):
            maps = head(random_features((2, 3)), (2, 3), None)
        assert (seen[0].dtype, maps.dtype) == (torch.float32, torch.float32)
