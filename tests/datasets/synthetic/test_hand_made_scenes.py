"""Rays, shadows, noise and light of worlds on cases whose answers are known by hand."""

import math
from dataclasses import replace

import pytest
import torch

from recon4d import geometry as g
from recon4d.datasets.synthetic import (
    Draws,
    SyntheticConfig,
    SyntheticScene,
    make_scenes,
    render_scenes,
)
from recon4d.datasets.synthetic.noise_volume import (
    CELL,
    SIDE,
    look_up,
    noise_volumes,
)
from recon4d.datasets.synthetic.ray_casting import cast_rays, is_shadowed
from recon4d.datasets.synthetic.shading import Textures, shade
from recon4d.records import Cameras

CONFIG = SyntheticConfig(num_frames=1, height=33, width=33, primitives=1, candidates=1)
FREE = 9.0
FORMS = {
    "sphere": ([1.0, 1.0, 1.0], [FREE, FREE, FREE]),
    "box": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "cylinder": ([1.0, 1.0, 0.0], [FREE, FREE, 1.0]),
}


def alone(form: str, size: tuple[float, float, float] = (1.0, 1.0, 1.0), turn: float = 0.0) -> SyntheticScene:
    """One shape at (0, 0, 5) in a wide room, seen from (0, -5, 5) along y; x to the right, z up."""
    world = make_scenes(CONFIG, 0, [0])
    quadric, slab = (torch.tensor(values).reshape(1, 1, 3) for values in FORMS[form])
    turned = g.rotation_from_axis_angle(torch.tensor([0.0, 0.0, turn]))
    shapes = replace(
        world.shapes,
        quadric=quadric,
        slab=slab,
        size=torch.tensor(size).reshape(1, 1, 3),
        world_from_local=g.rigid(turned, torch.tensor([0.0, 0.0, 5.0])).reshape(1, 1, 1, 4, 4),
        active=torch.ones(1, 1, dtype=torch.bool),
        moves=torch.zeros(1, 1, dtype=torch.bool),
    )
    axes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    cameras = Cameras(
        world_from_cam=g.rigid(axes, torch.tensor([0.0, -5.0, 5.0])).reshape(1, 1, 4, 4),
        intrinsics=torch.tensor([[33.0, 0.0, 16.5], [0.0, 33.0, 16.5], [0.0, 0.0, 1.0]]).reshape(1, 1, 3, 3),
    )
    return replace(world, shapes=shapes, cameras=cameras, room=torch.tensor([[20.0, 20.0, 30.0]]))


class TestRays:
    @pytest.mark.parametrize("form", list(FORMS))
    def test_the_middle_is_one_radius_before_the_center(self, form: str) -> None:
        hits = cast_rays(alone(form), 33, 33)
        assert hits.depths[0, 0, 16, 16].item() == pytest.approx(4, abs=1e-5)
        assert hits.surfaces[0, 0, 16, 16] == 0
        torch.testing.assert_close(hits.points[0, 0, 16, 16], torch.tensor([0.0, -1.0, 5.0]), atol=1e-5, rtol=0)

    def test_size_and_turn(self) -> None:
        assert cast_rays(alone("box", (1.0, 2.0, 1.0)), 33, 33).depths[0, 0, 16, 16].item() == pytest.approx(3)
        turned = cast_rays(alone("box", (1.0, 2.0, 1.0), turn=math.pi / 2), 33, 33)
        assert turned.depths[0, 0, 16, 16].item() == pytest.approx(4, abs=1e-4)
        corner = cast_rays(alone("box", turn=math.pi / 4), 33, 33)
        assert corner.depths[0, 0, 16, 16].item() == pytest.approx(5 - math.sqrt(2), abs=1e-4)

    def test_every_point_on_a_sphere_is_one_radius_from_its_center(self) -> None:
        hits = cast_rays(alone("sphere", (1.5, 1.5, 1.5)), 33, 33)
        on_sphere = hits.points[hits.surfaces == 0] - torch.tensor([0.0, 0.0, 5.0])
        assert len(on_sphere) > 50
        torch.testing.assert_close(on_sphere.norm(dim=-1), torch.full((len(on_sphere),), 1.5), atol=1e-4, rtol=0)

    def test_past_it_is_the_room(self) -> None:
        hits = cast_rays(alone("sphere"), 33, 33)
        # Straight on lies the wall at y = 20; surface 1 + 2 is the third face, +y.
        assert hits.surfaces[0, 0, 16, 0] == 1 + 2
        assert hits.depths[0, 0, 16, 0].item() == pytest.approx(25, abs=1e-3)
        low = hits.points[0, 0, -1, 0]
        assert low[2] < 5

    def test_faces_are_numbered_plus_before_minus(self) -> None:
        world = alone("sphere")
        turned = g.rotation_from_axis_angle(torch.tensor([0.0, math.pi, 0.0]))
        behind = world.cameras.world_from_cam @ g.rigid(turned, torch.zeros(3))
        away = replace(world, cameras=replace(world.cameras, world_from_cam=behind))
        hits = cast_rays(away, 33, 33)
        assert hits.surfaces[0, 0, 16, 16] == 1 + 3
        assert hits.depths[0, 0, 16, 16].item() == pytest.approx(15, abs=1e-3)


class TestShadows:
    @pytest.mark.parametrize(
        ("point", "expected"),
        [((0.0, 0.0, 1.0), True), ((0.0, 0.0, 9.0), False), ((1.5, 0.0, 1.0), False), ((0.9, 0.0, 1.0), True)],
    )
    def test_only_what_lies_between_the_point_and_the_light_casts_one(
        self, point: tuple[float, float, float], expected: bool
    ) -> None:
        up = torch.tensor([[0.0, 0.0, 1.0]])
        assert is_shadowed(alone("sphere"), torch.tensor(point).reshape(1, 1, 1, 3), up).item() == expected

    def test_light_comes_from_its_own_side(self) -> None:
        world = alone("sphere", (1.5, 1.5, 1.5))
        lit = replace(
            world,
            light=replace(
                world.light,
                direction=torch.tensor([[1.0, 0.0, 0.0]]),
                ambient=torch.zeros(1),
                direct=torch.ones(1),
                shadow=torch.ones(1),
            ),
        )
        hits = cast_rays(lit, 33, 33)
        brightness = shade(lit, hits, noise_volumes(torch.device("cpu"))[:1]).mean(dim=2)[0, 0]
        on_sphere = hits.surfaces[0, 0] == 0
        left, right = on_sphere.clone(), on_sphere.clone()
        left[:, 16:] = False
        right[:, :17] = False
        assert brightness[left].max() < 1e-3
        assert brightness[right].mean() > 0.05


class TestNoise:
    def test_volumes_close_without_a_seam(self) -> None:
        volumes = noise_volumes(torch.device("cpu"))[:1]
        period = SIDE / CELL
        across = torch.linspace(0, period, 50)
        for axis in range(3):
            before, after = (torch.stack([across] * 3, dim=-1) for _ in range(2))
            before[:, axis], after[:, axis] = -1e-4, 1e-4
            values = [look_up(volumes, positions[None, None]) for positions in (before, after)]
            torch.testing.assert_close(*values, atol=2e-2, rtol=0)
            before[:, axis], after[:, axis] = 0.3, 0.3 + period
            values = [look_up(volumes, positions[None, None]) for positions in (before, after)]
            torch.testing.assert_close(*values, atol=1e-3, rtol=0)

    def test_pictures_are_as_noisy_as_was_drawn(self) -> None:
        config = replace(CONFIG, primitives=6, height=48, width=48)
        world = make_scenes(config, 0, [0])
        images = []
        for noise in (0.0, 0.02):
            noisy = replace(world, photometry=replace(world.photometry, noise=torch.tensor([noise])))
            images.append(render_scenes(noisy, config).clip.images.float())
        middle = (images[0] > 40) & (images[0] < 215)
        assert (images[1] - images[0])[middle].std().item() == pytest.approx(0.02 * 255, rel=0.1)
        assert Draws(world.photometry.noise_key).normal(100).std() > 0.8


def test_a_picture_fades_to_its_mean_color_far_away() -> None:
    blocks = torch.arange(64) // 8
    checks = ((blocks[:, None] + blocks) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    world = alone("box")
    surfaces = replace(
        world.surfaces,
        picture=torch.zeros_like(world.surfaces.picture),
        grain=torch.zeros_like(world.surfaces.grain),
        is_sky=torch.zeros_like(world.surfaces.is_sky),
    )
    world = replace(world, surfaces=surfaces, light=replace(world.light, direct=torch.zeros(1), tint=torch.ones(1, 3)))
    hits = cast_rays(world, 33, 33)
    contrast = []
    for cells_per_meter in (0.3, 20.0):
        scaled = replace(surfaces, pattern_from_local=(cells_per_meter * torch.eye(3)).expand(1, 7, 3, 3))
        worn, noise = Textures.worn(scaled, checks), noise_volumes(torch.device("cpu"))[:1]
        colors = shade(replace(world, surfaces=scaled), hits, noise, worn)
        contrast.append(colors[0, 0, 0][hits.surfaces[0, 0] == 0].std().item())
    assert contrast[0] > 0.1
    assert contrast[1] < 0.01


def test_textures_know_the_mean_color_of_what_each_surface_wears() -> None:
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    pictures[0, 0], pictures[1, 2, :2] = 255, 102
    surfaces = alone("box").surfaces
    number = torch.arange(surfaces.picture.shape[1])[None] % 2
    means = Textures.worn(replace(surfaces, picture=number), pictures).means
    assert means.shape == (*number.shape, 3)
    torch.testing.assert_close(means[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(means[0, 1], torch.tensor([0.0, 0.0, 0.2]))


def test_the_sky_has_the_colors_of_the_sky() -> None:
    config = SyntheticConfig(num_frames=1, height=48, width=48, candidates=1)
    world = make_scenes(config, 3, range(12))
    hits = cast_rays(world, 48, 48)
    colors = shade(world, hits, noise_volumes(torch.device("cpu"))[world.volume])
    checked = 0
    for scene in range(12):
        is_sky = world.surfaces.is_sky[scene][hits.surfaces[scene, 0]]
        ends = torch.stack([world.light.zenith[scene], world.light.horizon[scene]])
        seen = colors[scene, 0][:, is_sky]
        if seen.shape[1]:
            checked += 1
            assert (seen >= ends.amin(dim=0)[:, None] - 0.16).all()
            assert (seen <= ends.amax(dim=0)[:, None] + 0.16).all()
    assert checked >= 3
