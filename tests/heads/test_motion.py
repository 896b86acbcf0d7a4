"""The motion head starts from geometry: what it tells its anchor tokens, on maps whose answers are known."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from networks import random_images, tiny_model
from torch import Tensor, nn

from recon4d import geometry as g
from recon4d.heads import (
    MotionFrames,
    MotionHead,
    MotionHeadConfig,
    MotionPairs,
)
from recon4d.heads.dense import DenseHead
from recon4d.heads.motion import MIN_PROBABILITY
from recon4d.layers import BlockConfig, cell_centers, rotary_table

GRID, PATCH, WIDTH = (3, 4), 16, 16
CELLS = 4 * GRID[0] * GRID[1]


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


class Listener(DenseHead):
    """A dense head that keeps what it is given."""

    def __init__(self, raw: tuple[float, ...] = (0.0,) * 5) -> None:
        nn.Module.__init__(self)
        self.raw = torch.tensor(raw)
        self.layers: list[Tensor] = []
        self.skip = torch.empty(0)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int], skip: Tensor | None) -> Tensor:
        assert skip is not None
        self.layers, self.skip = list(layers), skip
        return self.raw[None, :, None, None].repeat(layers[0].shape[0], 1, grid[0] * PATCH, grid[1] * PATCH)


@pytest.fixture
def head() -> MotionHead:
    torch.manual_seed(0)
    return MotionHead(MotionHeadConfig(BlockConfig(WIDTH, 2, 32), blocks=1), [WIDTH], Listener())


def frames(skip: Tensor | None = None, dynamic: float = 0.0) -> MotionFrames:
    """Two frames whose point maps and tokens are linear in the picture, so that bilinear reading is exact."""
    pixels = g.pixel_grid(GRID[0] * PATCH, GRID[1] * PATCH)
    points = torch.cat([0.01 * pixels, torch.zeros_like(pixels[..., :1])], dim=-1).repeat(2, 1, 1, 1)
    points[1, ..., 2] = 0.1
    tokens = torch.zeros(2, 12, WIDTH)
    tokens[:, :, 0] = torch.arange(12) % 4  # column
    tokens[:, :, 1] = torch.arange(12) // 4  # row
    tokens[1, :, 2] = 7
    ones = torch.ones(points.shape[:-1])
    rotary = rotary_table(GRID, 0, WIDTH // 2)
    return MotionFrames(tokens, points, skip, GRID, rotary, 0, ones, dynamic * ones, torch.eye(4).repeat(2, 1, 1))


def pair(positions: Tensor, mass: Tensor | float = 1.0) -> MotionPairs:
    """Frame 0 to frame 1, its cells matched at `positions`."""
    flow = torch.zeros(1, CELLS, 4)
    flow[..., 2] = mass
    return MotionPairs(torch.tensor([0]), torch.tensor([1]), flow, positions[None])


def listened(head: MotionHead) -> Listener:
    assert isinstance(head.dense, Listener)
    return head.dense


def test_the_start_is_how_far_the_matched_point_is_from_the_anchors_own(head: MotionHead) -> None:
    centers = cell_centers(GRID, 8.0, torch.zeros(0))
    mass = torch.linspace(0.2, 1.0, CELLS)
    head(frames(), pair(centers + torch.tensor([3.0, -2.0]), mass))
    start = listened(head).skip[0].flatten(1).T
    inside = (centers[:, 0] < 50) & (centers[:, 1] > 10)
    # Three times the difference of the points, then the same times the mass of the match.
    expected = 3 * torch.tensor([0.03, -0.02, 0.1]).expand(int(inside.sum()), 3)
    torch.testing.assert_close(start[inside, 4:7], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(start[inside, 7:], expected * mass[inside, None], atol=1e-5, rtol=0)
    torch.testing.assert_close(start[:, 2], mass)


def test_a_wrong_match_does_not_shout(head: MotionHead) -> None:
    far = frames()
    far.points[1] += 100
    head(far, pair(cell_centers(GRID, 8.0, torch.zeros(0))))
    assert listened(head).skip[0, 4:7].max() == pytest.approx(4.5)


def test_the_query_reads_the_targets_token_where_its_surest_cell_went(head: MotionHead) -> None:
    nn.init.zeros_(head.start[2].weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(head.start[2].bias)  # pyright: ignore[reportArgumentType]
    nn.init.eye_(head.matched.weight)
    nn.init.zeros_(head.matched.bias)
    centers = cell_centers(GRID, 8.0, torch.zeros(0))
    # The upper left cell of each patch is sure, and moves by one column; the others are not, and lie.
    is_sure = ((centers % PATCH) < 8).all(dim=-1)
    positions = torch.where(is_sure[:, None], centers + torch.tensor([20.0, 4.0]), torch.zeros(2))
    head(frames(), pair(positions, is_sure * 1e5))
    query = listened(head).layers[0][0]
    own = frames().tokens[0]
    first_columns = torch.arange(12) % 4 < 3
    expected = own[:, :2] + own[:, :2] + torch.tensor([1.0, 0.0])
    torch.testing.assert_close(query[first_columns, :2], expected[first_columns], atol=1e-2, rtol=0)
    torch.testing.assert_close(query[:, 2], torch.full((12,), 7.0))


class TestLifting:
    @staticmethod
    def raw(gate: float, along_ray: float, dynamic: float) -> Tensor:
        """Return raw maps (channels, height, width) of a head that adds (0, 0, 1) to gated displacements."""
        torch.manual_seed(0)
        config = MotionHeadConfig(BlockConfig(WIDTH, 2, 32), blocks=1, lifted=True)
        head = MotionHead(config, [WIDTH], Listener((0.0, 0.0, 1.0, 2.0, 3.0, gate, along_ray)))
        planes = frames(dynamic=dynamic)
        planes.points[..., 2] += 1  # depth 1 in frame 0, 1.1 in frame 1
        planes = replace(planes, depths=planes.points[..., 2])
        moved = cell_centers(GRID, 8.0, torch.zeros(0)) + torch.tensor([3.0, -2.0])
        raw = head(planes, pair(moved))
        assert raw.shape[1] == 5
        assert_close(raw[0, 3:, 0, 0], torch.tensor([2.0, 3.0]))
        return raw[0, :3, 16:-16, 16:-16]

    @staticmethod
    def found() -> Tensor:
        """Return the points of frame 1 to which the pixels of frame 0 go, relative to their own points."""
        return torch.tensor([0.03, -0.02, 0.1])[:, None, None].expand(3, GRID[0] * PATCH - 32, GRID[1] * PATCH - 32)

    def test_dynamic_points_go_to_their_matches(self) -> None:
        assert_close(self.raw(20.0, 20.0, dynamic=1.0), self.found() + torch.tensor([0.0, 0.0, 1.0])[:, None, None])

    def test_the_second_gate_removes_the_part_along_the_ray(self) -> None:
        pixels = g.pixel_grid(GRID[0] * PATCH, GRID[1] * PATCH)[16:-16, 16:-16].movedim(-1, 0)
        own = torch.cat([0.01 * pixels, torch.ones_like(pixels[:1])])
        expected = (own + self.found()) / 1.1 - own
        assert_close(self.raw(20.0, -20.0, dynamic=1.0), expected + torch.tensor([0.0, 0.0, 1.0])[:, None, None])

    def test_the_first_gate_is_relative_to_the_dynamic_probability(self) -> None:
        added = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
        assert_close(self.raw(-20.0, 20.0, dynamic=1.0), 0 * self.found() + added)
        at_most = math.log((1 - MIN_PROBABILITY) / MIN_PROBABILITY)
        assert_close(self.raw(-at_most, 20.0, dynamic=1.0), 0.5 * self.found() + added)

    def test_what_all_static_points_share_is_an_error_of_the_cameras(self) -> None:
        assert_close(self.raw(20.0, 20.0, dynamic=0.01)[:2], 0 * self.found()[:2], atol=0.01)


def test_finer_features_are_those_of_the_anchor(head: MotionHead) -> None:
    skip = torch.stack([torch.zeros(5, 12, 16), torch.ones(5, 12, 16)])
    head(frames(skip), pair(cell_centers(GRID, 8.0, torch.zeros(0))))
    assert listened(head).skip.shape == (1, 5 + 10, 12, 16)
    assert (listened(head).skip[:, :5] == 0).all()


def test_pairs_are_every_anchor_with_every_frame_of_its_own_clip() -> None:
    model, seen = tiny_model(), []
    model.motion_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        model.outputs(random_images(2, 3), anchors=torch.tensor([[2], [0]]))
    assert seen[0].anchor.tolist() == [2, 2, 2, 3, 3, 3]
    assert seen[0].target.tolist() == [0, 1, 2, 3, 4, 5]


def test_motion_teaches_the_point_maps_nothing_through_its_start() -> None:
    model = tiny_model()
    scene = model(random_images(1, 2))
    assert scene.tracks is not None
    displacement = scene.tracks.points[:, :, 1] - scene.tracks.points[:, :, 0]
    point_weights = model.dense_heads[0].out.weight
    (gradient,) = torch.autograd.grad(displacement.square().sum(), point_weights, materialize_grads=True)  # pyright: ignore
    # Both tracks begin at the same points, so only the start could carry a gradient.
    assert gradient.abs().max() < 1e-9
