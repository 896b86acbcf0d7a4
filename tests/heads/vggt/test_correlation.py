"""Correlation and embeddings of VGGT's tracker equal slow references."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from recon4d.heads.vggt.tracker import (
    feature_pyramid,
    flow_embedding,
    local_correlation,
    position_embedding,
    read_maps,
)


def hat(places: Tensor, count: int) -> Tensor:
    """Weights (..., count) of a linear reading with nothing outside; along an axis of one cell, that cell."""
    if count == 1:
        return torch.ones(*places.shape, 1, dtype=places.dtype)
    return (1 - (places[..., None] - torch.arange(count)).abs()).clamp(min=0)


def full_volume_correlation(pyramid: Sequence[Tensor], features: Tensor, cells: Tensor, radius: int) -> Tensor:
    """The plain twin: products with every cell of every level first, read about each position afterwards."""
    found = []
    for level, maps in enumerate(pyramid):
        volume = torch.einsum("nqc,nchw->nqhw", features, maps) / features.shape[-1] ** 0.5
        for column in range(-radius, radius + 1):
            for row in range(-radius, radius + 1):
                over_x = hat(cells[..., 0] / 2**level + column, maps.shape[-1])
                over_y = hat(cells[..., 1] / 2**level + row, maps.shape[-2])
                found.append(torch.einsum("nqhw,nqh,nqw->nq", volume, over_y, over_x))
    return torch.stack(found, dim=-1)


class TestCorrelation:
    # The fifth level has one row, and the positions go beyond every border.
    pyramid = feature_pyramid(torch.randn(2, 8, 17, 37, generator=torch.Generator().manual_seed(0)).double(), 5)
    features = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    cells = torch.tensor([[0, 0], [36, 16], [-3.3, 8.2], [18.7, 40], [39.5, -2.5], [11.25, 7.5]]).double()
    cells = torch.stack([cells, cells.flip(0) - 0.3])

    def test_windows_give_what_the_full_volume_gives(self) -> None:
        assert [tuple(maps.shape[-2:]) for maps in self.pyramid] == [(17, 37), (8, 18), (4, 9), (2, 4), (1, 2)]
        given = local_correlation(self.pyramid, self.features, self.cells, radius=2)
        expected = full_volume_correlation(self.pyramid, self.features, self.cells, radius=2)
        torch.testing.assert_close(given, expected, atol=1e-12, rtol=1e-12)

    def test_so_are_its_gradients_and_no_window_is_kept_for_them(self) -> None:
        features, maps = self.features.clone().requires_grad_(), self.pyramid[0].clone().requires_grad_()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            given = local_correlation([maps], features, self.cells, radius=6)
        assert max(kept, default=0) <= maps.numel() < 2 * 6 * 13**2 * 8
        expected = full_volume_correlation([maps], features, self.cells, radius=6)
        weight = torch.linspace(-1, 1, given.numel(), dtype=given.dtype).reshape(given.shape)
        for mine, theirs in zip(
            *(torch.autograd.grad((weight * found).sum(), (features, maps)) for found in (given, expected)), strict=True
        ):
            torch.testing.assert_close(mine, theirs)

    def test_the_pyramid_is_made_of_means(self) -> None:
        mean = self.pyramid[0][:, :, 2:4, 6:8].mean(dim=(-1, -2))
        torch.testing.assert_close(self.pyramid[1][:, :, 1, 3], mean)

    def test_chunks_change_nothing_forward_or_backward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def predictions() -> tuple[Tensor, ...]:
            maps, features = self.pyramid[0].clone().requires_grad_(), self.features.clone().requires_grad_()
            correlations = local_correlation([maps], features, self.cells, radius=2)
            return correlations, *torch.autograd.grad(correlations.square().sum(), (maps, features))

        whole = predictions()
        seen = []
        monkeypatch.setattr("recon4d.heads.vggt.tracker.MAX_WINDOW_VALUES", 4 * 2 * 25 * 8)
        original = torch.cat
        monkeypatch.setattr(torch, "cat", lambda parts, dim: seen.append(len(parts)) or original(parts, dim=dim))
        for mine, theirs in zip(predictions(), whole, strict=True):
            torch.testing.assert_close(mine, theirs)
        assert 2 in seen  # six queries by fours

    def test_half_precision_outside_changes_nothing_inside(self) -> None:
        pyramid = [maps.float() for maps in self.pyramid]
        features, cells = self.features.float(), self.cells.float()
        expected = local_correlation(pyramid, features, cells, radius=2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = local_correlation(pyramid, features, cells, radius=2)
        assert torch.equal(given, expected)

    def test_borders_go_on_where_asked(self) -> None:
        maps = torch.arange(12.0).reshape(1, 1, 3, 4)
        cells = torch.tensor([[[[1.5, 1.0], [-4.0, 0.0], [9.0, 2.5]]]])
        assert read_maps(maps, cells, "border").flatten().tolist() == pytest.approx([5.5, 0, 11])
        assert read_maps(maps, cells, "zeros").flatten().tolist() == pytest.approx([5.5, 0, 0])


class TestEmbeddings:
    def test_flow_by_hand(self) -> None:
        x, y = torch.tensor(0.01), torch.tensor(-0.002)
        # 4 frequencies an axis below 1000: 0, 250, 500, 750.
        expected = [f(250 * k * place) for place in (x, y) for k in range(4) for f in (torch.sin, torch.cos)]
        given = flow_embedding(torch.stack([x, y]), 16)
        torch.testing.assert_close(given, torch.stack(expected))

    def test_position_is_the_reading_of_a_table(self) -> None:
        height, width, channels = 5, 8, 20
        omega = 10000.0 ** -(torch.arange(5, dtype=torch.float64) / 5)

        def wave(count: int) -> Tensor:
            angles = torch.arange(count, dtype=torch.float64)[:, None] * omega
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

        columns, rows = wave(width).expand(height, -1, -1), wave(height)[:, None].expand(-1, width, -1)
        table = torch.cat([columns, rows], dim=-1)
        cells = torch.tensor([[[0, 0], [2.25, 3.5], [7, 4], [-1, 9.0], [6.999, 0.001]]], dtype=torch.float64)
        inside = cells.clamp(min=0).minimum(torch.tensor([7.0, 4.0]))
        over_x, over_y = hat(inside[..., 0], width), hat(inside[..., 1], height)
        expected = torch.einsum("hwc,bqh,bqw->bqc", table, over_y, over_x)
        torch.testing.assert_close(position_embedding(cells, (height, width), channels), expected)
