"""Epipolar filter: true cells of exact scenes are never excluded, and degenerate cameras exclude none."""

from dataclasses import replace

import pytest
import torch

from recon4d import geometry as g
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.layers import Matching, MatchingConfig, TwoViewFilter, cell_centers
from recon4d.layers.matching import MIN_EPIPOLAR_WIDTH
from recon4d.losses import true_matches
from recon4d.records import Cameras, Scene

CELL = 8.0
GRID = (6, 8)
SIZE = (96, 128)
CENTERS = cell_centers(GRID, CELL, torch.zeros(()))
COUNT = len(CENTERS)
INTRINSICS = torch.tensor([[100.0, 0.0, 64.0], [0.0, 100.0, 48.0], [0.0, 0.0, 1.0]])


def cameras(positions: list[list[float]], turns: list[list[float]] | None = None) -> Cameras:
    """Return a batch of one clip with the given positions and rotation vectors."""
    rotation = g.rotation_from_axis_angle(torch.tensor(turns or [[0.0, 0.0, 0.0]] * len(positions)))
    return Cameras(g.rigid(rotation, torch.tensor(positions))[None], INTRINSICS.expand(1, len(positions), 3, 3))


def allowed_pairs(cameras: Cameras, width: float = CELL, **options: torch.Tensor) -> torch.Tensor:
    """Return the cells of the second frame that each cell of the first may match."""
    return TwoViewFilter.from_cameras(cameras, width, **options).allowed(  # pyright: ignore[reportArgumentType]
        torch.tensor([0]), torch.tensor([1]), CENTERS
    )[0]


@pytest.mark.parametrize("seed", range(4))
def test_the_true_cell_of_an_exact_scene_is_never_excluded(seed: int) -> None:
    config = SyntheticConfig(num_frames=4, height=SIZE[0], width=SIZE[1], static_camera_share=0.0)
    sample = render_scenes(make_scenes(config, 5, [seed]), config)[0]
    truth = Scene.stack([replace(sample.scene, tracks=None)])  # only static points have true matches
    queries, targets = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    true = true_matches(truth, queries[None], targets[None], CELL)
    # The true position is that of the pixel at a corner of the cell's center, half a pixel off on both axes.
    width = MIN_EPIPOLAR_WIDTH * CELL + 1
    allowed = TwoViewFilter.from_cameras(truth.cameras, width).allowed(queries, targets, CENTERS)
    cells = (true.positions[0] / CELL).floor().long()
    cells = cells[..., 1].clamp(0, 2 * GRID[0] - 1) * 2 * GRID[1] + cells[..., 0].clamp(0, 2 * GRID[1] - 1)
    is_allowed = allowed.gather(-1, cells[..., None])[..., 0]
    assert true.has_match.sum() > 500
    assert is_allowed[true.has_match[0]].all()
    moved = (truth.cameras.centers[0, queries] - truth.cameras.centers[0, targets]).norm(dim=-1) > 1e-3
    if moved.any():
        assert allowed[moved].double().mean() < 0.35


def test_a_camera_that_moves_sideways_restricts_matches_to_rows() -> None:
    allowed = allowed_pairs(cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), width=0.9 * CELL)
    assert torch.equal(allowed, CENTERS[:, None, 1] == CENTERS[:, 1])
    wider = allowed_pairs(cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), width=1.1 * CELL)
    assert torch.equal(wider, (CENTERS[:, None, 1] - CENTERS[:, 1]).abs() <= CELL)


def test_a_camera_that_moves_forward_restricts_matches_to_rays_from_the_epipole() -> None:
    allowed = allowed_pairs(cameras([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]), width=0.9 * CELL)
    for cell in (0, 37, COUNT - 1):
        ray = CENTERS[cell] - torch.tensor([64.0, 48.0])
        offset = CENTERS - torch.tensor([64.0, 48.0])
        distance = (offset[:, 0] * ray[1] - offset[:, 1] * ray[0]).abs() / ray.norm()
        assert torch.equal(allowed[cell], distance <= 0.9 * CELL)


def test_cameras_at_one_position_exclude_nothing() -> None:
    assert allowed_pairs(cameras([[1.0, 2.0, 3.0]] * 2)).all()
    assert allowed_pairs(cameras([[1.0, 2.0, 3.0]] * 2, [[0.0, 0.0, 0.0], [0.0, 0.3, 0.0]])).all()


def test_rounding_of_a_turning_camera_never_excludes_its_true_cells() -> None:
    positions, turns = [[1.0, 2.0, 3.0], [1.0, 2.0 + 1e-6, 3.0]], [[0.0, 0.0, 0.0], [0.02, 0.1, 0.05]]
    turning = cameras(positions, turns)
    rays = g.unproject(CENTERS, torch.ones(COUNT), INTRINSICS)
    b_from_a = turning.cam_from_world[0, 1, :3, :3] @ turning.world_from_cam[0, 0, :3, :3]
    true = g.project(rays @ b_from_a.T, INTRINSICS)
    inside = (true > 0).all(dim=-1) & (true[:, 0] < SIZE[1]) & (true[:, 1] < SIZE[0])
    cells = (true / CELL).floor().long()
    cells = (cells[:, 1] * 2 * GRID[1] + cells[:, 0]).clamp(0, COUNT - 1)
    allowed = allowed_pairs(turning, width=MIN_EPIPOLAR_WIDTH * CELL + 0.1)
    assert allowed.gather(1, cells[:, None])[inside].all()
    assert not allowed.all()


def test_a_cell_at_the_epipole_may_match_anywhere() -> None:
    forward = cameras([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    at_cell = forward.intrinsics.clone()
    at_cell[..., :2, 2] = CENTERS[40]
    allowed = allowed_pairs(Cameras(forward.world_from_cam, at_cell))
    assert allowed[40].all()
    assert not allowed[41].all()


def test_unknown_cameras_exclude_nothing_unless_there_is_a_fallback() -> None:
    known = cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    unknown = Cameras(known.world_from_cam * torch.nan, known.intrinsics)
    assert allowed_pairs(unknown).all()
    expected = allowed_pairs(known)
    assert torch.equal(allowed_pairs(unknown, fallback=known), expected)  # pyright: ignore[reportArgumentType]
    upward = cameras([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    assert torch.equal(allowed_pairs(known, fallback=upward), expected)  # pyright: ignore[reportArgumentType]


def test_unconstrained_cells_may_match_anywhere() -> None:
    unconstrained = torch.zeros(1, 2, COUNT, dtype=torch.bool)
    unconstrained[0, 0, 5] = unconstrained[0, 1, 6] = True
    allowed = allowed_pairs(cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), unconstrained=unconstrained)
    assert allowed.all(dim=1).nonzero().flatten().tolist() == [5]


def test_clips_of_a_batch_have_their_own_cameras() -> None:
    sideways, upward = (cameras([[0.0, 0.0, 0.0], move]) for move in ([0.5, 0.0, 0.0], [0.0, 0.5, 0.0]))
    both = Cameras(
        torch.cat([sideways.world_from_cam, upward.world_from_cam]),
        torch.cat([sideways.intrinsics, upward.intrinsics]),
    )
    allowed = TwoViewFilter.from_cameras(both, CELL).allowed(torch.tensor([0, 2]), torch.tensor([1, 3]), CENTERS)
    assert torch.equal(allowed[0], allowed_pairs(sideways))
    assert torch.equal(allowed[1], allowed_pairs(upward))
    assert not torch.equal(allowed[0], allowed[1])


class TestMatchingLayer:
    def layer(self, width: float | None) -> Matching:
        config = MatchingConfig(channels=8, epipolar_width=width)
        return Matching(config, width=16, patch_size=16, eighth_channels=0)

    def test_the_width_is_in_cells(self) -> None:
        known = cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        found = self.layer(1.25).two_view_filter(known)
        assert found is not None
        assert found.width == 1.25 * CELL

    def test_without_a_width_or_cameras_there_is_no_filter(self) -> None:
        known = cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        assert self.layer(None).two_view_filter(known, known) is None
        assert self.layer(1.0).two_view_filter(None) is None

    def test_cells_with_a_dynamic_pixel_are_unconstrained(self) -> None:
        dynamic = torch.zeros(1, 2, *SIZE)
        dynamic[0, 0, 17, 9] = 0.9
        dynamic[0, 0, 18, 9] = torch.nan
        dynamic[0, 1, 0, 0] = torch.nan
        found = self.layer(1.0).two_view_filter(None, cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), dynamic)
        assert found is not None
        assert found.unconstrained is not None
        assert found.unconstrained.nonzero().tolist() == [[0, 0, 2 * 16 + 1]]

    def test_matches_are_near_their_lines(self) -> None:
        layer = self.layer(1.0)
        generator = torch.Generator().manual_seed(0)
        features = torch.nn.functional.normalize(torch.randn(1, 2, COUNT, 8, generator=generator), dim=-1)
        found = layer.two_view_filter(cameras([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
        frames = torch.tensor([[0]]), torch.tensor([[1]])
        valid = torch.ones(1, 1, dtype=torch.bool)
        free, near = (layer.match(features, *frames, valid, GRID, two_view) for two_view in (None, found))
        off = [(matches.positions[0, 0, :, 1] - CENTERS[:, 1]).abs() for matches in (free, near)]
        assert off[0].max() > 4 * CELL
        assert off[1].max() <= CELL
