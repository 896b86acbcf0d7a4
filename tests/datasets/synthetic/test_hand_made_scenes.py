"""Rays, shadows, noise and light of synthetic scenes with analytic results."""

import math
from dataclasses import replace

import pytest
import torch

from recon4d import geometry as g
from recon4d.datasets.synthetic import (
    CounterRng,
    SyntheticConfig,
    SyntheticScene,
    make_scenes,
    render_scenes,
)
from recon4d.datasets.synthetic.noise_volume import (
    CELL,
    SIDE,
    noise_volumes,
    sample_noise,
)
from recon4d.datasets.synthetic.ray_casting import cast_rays, is_shadowed
from recon4d.datasets.synthetic.shading import Textures, shade
from recon4d.records import Cameras

CONFIG = SyntheticConfig(num_frames=1, height=33, width=33, primitives=1, attempts=1)
FREE = 9.0
FORMS = {
    "sphere": ([1.0, 1.0, 1.0], [FREE, FREE, FREE]),
    "box": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "cylinder": ([1.0, 1.0, 0.0], [FREE, FREE, 1.0]),
}


def alone(form: str, size: tuple[float, float, float] = (1.0, 1.0, 1.0), turn: float = 0.0) -> SyntheticScene:
    """Return one shape at (0, 0, 5) in a wide enclosure, in front of a camera at (0, -5, 5) that looks along y."""
    scene = make_scenes(CONFIG, 0, [0])
    quadric, slab = (torch.tensor(values).reshape(1, 1, 3) for values in FORMS[form])
    turned = g.rotation_from_axis_angle(torch.tensor([0.0, 0.0, turn]))
    shapes = replace(
        scene.shapes,
        quadric=quadric,
        slab=slab,
        size=torch.tensor(size).reshape(1, 1, 3),
        world_from_local=g.rigid(turned, torch.tensor([0.0, 0.0, 5.0])).reshape(1, 1, 1, 4, 4),
        is_active=torch.ones(1, 1, dtype=torch.bool),
        is_dynamic=torch.zeros(1, 1, dtype=torch.bool),
    )
    axes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    cameras = Cameras(
        world_from_cam=g.rigid(axes, torch.tensor([0.0, -5.0, 5.0])).reshape(1, 1, 4, 4),
        intrinsics=torch.tensor([[33.0, 0.0, 16.5], [0.0, 33.0, 16.5], [0.0, 0.0, 1.0]]).reshape(1, 1, 3, 3),
    )
    return replace(scene, shapes=shapes, cameras=cameras, enclosure=torch.tensor([[20.0, 20.0, 30.0]]))


class TestRays:
    @pytest.mark.parametrize("form", list(FORMS))
    def test_the_central_depth_is_one_radius_before_the_center(self, form: str) -> None:
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

    def test_rays_past_the_shape_hit_the_enclosure(self) -> None:
        hits = cast_rays(alone("sphere"), 33, 33)
        # The wall ahead is at y = 20; surface 1 + 2 is the third face, +y.
        assert hits.surfaces[0, 0, 16, 0] == 1 + 2
        assert hits.depths[0, 0, 16, 0].item() == pytest.approx(25, abs=1e-3)
        low = hits.points[0, 0, -1, 0]
        assert low[2] < 5

    def test_faces_are_numbered_plus_before_minus(self) -> None:
        scene = alone("sphere")
        turned = g.rotation_from_axis_angle(torch.tensor([0.0, math.pi, 0.0]))
        behind = scene.cameras.world_from_cam @ g.rigid(turned, torch.zeros(3))
        away = replace(scene, cameras=replace(scene.cameras, world_from_cam=behind))
        hits = cast_rays(away, 33, 33)
        assert hits.surfaces[0, 0, 16, 16] == 1 + 3
        assert hits.depths[0, 0, 16, 16].item() == pytest.approx(15, abs=1e-3)


class TestShadows:
    @pytest.mark.parametrize(
        ("point", "expected"),
        [((0.0, 0.0, 1.0), True), ((0.0, 0.0, 9.0), False), ((1.5, 0.0, 1.0), False), ((0.9, 0.0, 1.0), True)],
    )
    def test_only_primitives_toward_the_light_cast_shadows(
        self, point: tuple[float, float, float], expected: bool
    ) -> None:
        up = torch.tensor([[0.0, 0.0, 1.0]])
        assert is_shadowed(alone("sphere"), torch.tensor(point).reshape(1, 1, 1, 3), up).item() == expected

    def test_the_side_toward_the_light_is_bright(self) -> None:
        scene = alone("sphere", (1.5, 1.5, 1.5))
        lit = replace(
            scene,
            light=replace(
                scene.light,
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
    def test_volumes_are_periodic(self) -> None:
        volumes = noise_volumes(torch.device("cpu"))[:1]
        period = SIDE / CELL
        across = torch.linspace(0, period, 50)
        for axis in range(3):
            before, after = (torch.stack([across] * 3, dim=-1) for _ in range(2))
            before[:, axis], after[:, axis] = -1e-4, 1e-4
            values = [sample_noise(volumes, positions[None, None]) for positions in (before, after)]
            torch.testing.assert_close(*values, atol=2e-2, rtol=0)
            before[:, axis], after[:, axis] = 0.3, 0.3 + period
            values = [sample_noise(volumes, positions[None, None]) for positions in (before, after)]
            torch.testing.assert_close(*values, atol=1e-3, rtol=0)

    def test_image_noise_has_the_given_standard_deviation(self) -> None:
        config = replace(CONFIG, primitives=6, height=48, width=48)
        scene = make_scenes(config, 0, [0])
        images = []
        for noise in (0.0, 0.02):
            noisy = replace(scene, photometry=replace(scene.photometry, noise=torch.tensor([noise])))
            images.append(render_scenes(noisy, config).clip.images.float())
        middle = (images[0] > 40) & (images[0] < 215)
        assert (images[1] - images[0])[middle].std().item() == pytest.approx(0.02 * 255, rel=0.1)
        assert CounterRng(scene.photometry.noise_key).normal(100).std() > 0.8


def test_a_texture_fades_to_its_mean_color_far_away() -> None:
    blocks = torch.arange(64) // 8
    checks = ((blocks[:, None] + blocks) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    scene = alone("box")
    surfaces = replace(
        scene.surfaces,
        texture=torch.zeros_like(scene.surfaces.texture),
        grain=torch.zeros_like(scene.surfaces.grain),
        is_sky=torch.zeros_like(scene.surfaces.is_sky),
    )
    scene = replace(scene, surfaces=surfaces, light=replace(scene.light, direct=torch.zeros(1), tint=torch.ones(1, 3)))
    hits = cast_rays(scene, 33, 33)
    contrast = []
    for cells_per_meter in (0.3, 20.0):
        scaled = replace(surfaces, pattern_from_local=(cells_per_meter * torch.eye(3)).expand(1, 7, 3, 3))
        textures, noise = Textures.for_surfaces(scaled, checks), noise_volumes(torch.device("cpu"))[:1]
        colors = shade(replace(scene, surfaces=scaled), hits, noise, textures)
        contrast.append(colors[0, 0, 0][hits.surfaces[0, 0] == 0].std().item())
    assert contrast[0] > 0.1
    assert contrast[1] < 0.01


def test_textures_have_the_mean_color_of_each_surface() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0, 0], images[1, 2, :2] = 255, 102
    surfaces = alone("box").surfaces
    number = torch.arange(surfaces.texture.shape[1])[None] % 2
    means = Textures.for_surfaces(replace(surfaces, texture=number), images).mean_colors
    assert means.shape == (*number.shape, 3)
    torch.testing.assert_close(means[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(means[0, 1], torch.tensor([0.0, 0.0, 0.2]))


def test_sky_colors_are_between_zenith_and_horizon() -> None:
    config = SyntheticConfig(num_frames=1, height=48, width=48, attempts=1)
    scene = make_scenes(config, 3, range(12))
    hits = cast_rays(scene, 48, 48)
    colors = shade(scene, hits, noise_volumes(torch.device("cpu"))[scene.noise_volume])
    checked = 0
    for index in range(12):
        is_sky = scene.surfaces.is_sky[index][hits.surfaces[index, 0]]
        ends = torch.stack([scene.light.zenith[index], scene.light.horizon[index]])
        sky = colors[index, 0][:, is_sky]
        if sky.shape[1]:
            checked += 1
            assert (sky >= ends.amin(dim=0)[:, None] - 0.16).all()
            assert (sky <= ends.amax(dim=0)[:, None] + 0.16).all()
    assert checked >= 3
