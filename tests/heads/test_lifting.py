"""Lifted matches: the motion that static cells share is found and removed, and what moves keeps its displacement."""

from dataclasses import replace

import torch
from torch import Tensor

from recon4d.geometry import invert, rigid, rotation_from_axis_angle, transform_points, unproject_map
from recon4d.heads.lifting import CellPairs, LiftedPairs, lifted_displacements, static_alignment

CELLS, MOVERS = 300, 90


def disturbed_camera() -> Tensor:
    """Return the error of a camera: about two degrees, and two percent of the depth."""
    return rigid(rotation_from_axis_angle(torch.tensor([0.02, -0.03, 0.01])), torch.tensor([0.05, -0.02, 0.03]))[None]


def scene(weight_of_movers: float = 1.0, error: Tensor | None = None) -> tuple[CellPairs, Tensor]:
    """Return matched cells of which the first move, and their true displacements."""
    generator = torch.Generator().manual_seed(0)
    depths = 1 + 3 * torch.rand(1, CELLS, generator=generator)
    points = torch.randn(1, CELLS, 3, generator=generator) * depths[..., None] / 2
    displacement = torch.zeros_like(points)
    displacement[:, :MOVERS] = torch.tensor([0.3, 0.1, -0.2])
    found = points + displacement
    if error is not None:
        found = transform_points(error, found)
    weights = torch.ones(1, CELLS)
    weights[:, :MOVERS] = weight_of_movers
    return CellPairs(points, found, depths, weights), displacement


def remaining(pairs: CellPairs) -> Tensor:
    return transform_points(static_alignment(pairs), pairs.target) - pairs.anchor


def test_with_right_cameras_nothing_is_aligned() -> None:
    pairs, displacement = scene()
    torch.testing.assert_close(remaining(pairs), displacement, atol=0.01, rtol=0)


def test_the_error_of_a_camera_is_removed_and_motion_stays() -> None:
    error = disturbed_camera()
    pairs, displacement = scene(error=error)
    assert (pairs.target - pairs.anchor - displacement).norm(dim=-1).mean() > 0.05
    torch.testing.assert_close(remaining(pairs), displacement, atol=0.02, rtol=0)
    torch.testing.assert_close(static_alignment(pairs), invert(error), atol=0.02, rtol=0)


def test_cells_that_are_known_to_move_do_not_count() -> None:
    pairs, displacement = scene(weight_of_movers=0.0, error=disturbed_camera())
    torch.testing.assert_close(remaining(pairs), displacement, atol=2e-3, rtol=0)


def test_without_matches_the_cameras_are_trusted() -> None:
    pairs, _ = scene(error=disturbed_camera())
    unmatched = CellPairs(pairs.anchor, 5 * torch.randn(1, CELLS, 3), pairs.depths, torch.zeros(1, CELLS))
    torch.testing.assert_close(static_alignment(unmatched), torch.eye(4)[None], atol=1e-5, rtol=0)


class TestDisplacements:
    """A wall at depth 2 in a camera that is turned and moved; every pixel of the anchor goes 3 right and 2 up."""

    HEIGHT, WIDTH = 28, 42
    INSIDE = (slice(None), slice(None), slice(3, -3), slice(4, -4))

    @classmethod
    def pairs(cls, depth_of_target: float) -> tuple[LiftedPairs, Tensor, Tensor]:
        """Return the maps, and the rays of the pixels and of their matches."""
        intrinsics = torch.tensor([[40.0, 0, cls.WIDTH / 2], [0, 40.0, cls.HEIGHT / 2], [0, 0, 1]])
        camera = rigid(rotation_from_axis_angle(torch.tensor([0.1, 0.3, -0.2])), torch.tensor([0.5, -0.3, 0.2]))
        rays, found = (
            unproject_map(torch.full((cls.HEIGHT, cls.WIDTH), depth), shifted)
            for depth, shifted in ((2.0, intrinsics), (depth_of_target, intrinsics))
        )
        shift = torch.tensor([3.0, -2.0, 0.0]) * depth_of_target / 40
        own, target = (transform_points(camera, points).movedim(-1, 0)[None] for points in (rays, found))
        flow = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, 4, 6)
        depths = torch.full((1, cls.HEIGHT, cls.WIDTH), depth_of_target)
        pairs = LiftedPairs(own, target, depths, camera[None], flow)
        return pairs, rays, transform_points(camera, found + shift).movedim(-1, 0)[None]

    def test_the_depth_of_the_target(self) -> None:
        pairs, _, there = self.pairs(2.5)
        full, _ = lifted_displacements(pairs, torch.eye(4)[None], limit=10.0)
        torch.testing.assert_close(full[self.INSIDE], (there - pairs.own)[self.INSIDE], atol=1e-4, rtol=0)

    def test_the_own_depth(self) -> None:
        sideways = [lifted_displacements(self.pairs(depth)[0], torch.eye(4)[None], 10.0)[1] for depth in (2.0, 2.5)]
        torch.testing.assert_close(sideways[1][self.INSIDE], sideways[0][self.INSIDE], atol=1e-4, rtol=0)
        pairs, _, there = self.pairs(2.0)
        torch.testing.assert_close(sideways[0][self.INSIDE], (there - pairs.own)[self.INSIDE], atol=1e-4, rtol=0)

    def test_an_error_of_the_camera_is_removed_from_both(self) -> None:
        error = disturbed_camera()
        right, _, _ = self.pairs(2.5)
        disturbed = replace(
            right,
            target=transform_points(error, right.target.movedim(1, -1)).movedim(-1, 1),
            world_from_cam=error @ right.world_from_cam,
        )
        expected = lifted_displacements(right, torch.eye(4)[None], 10.0)
        for found, wanted in zip(lifted_displacements(disturbed, invert(error), 10.0), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)

    def test_wrong_matches_are_limited(self) -> None:
        pairs, _, _ = self.pairs(200.0)
        assert max(part.abs().max() for part in lifted_displacements(pairs, torch.eye(4)[None], 0.25)) == 0.25
