"""Synthetic worlds: their truth is exact, a scene is a function of its seed and number alone, wishes are kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon4d import geometry as g
from recon4d.datasets import Sample, make_loader
from recon4d.datasets.loader import sample_seed
from recon4d.datasets.synthetic import (
    Draws,
    Lattice,
    RenderParts,
    SyntheticConfig,
    SyntheticScene,
    SyntheticScenes,
    compiled_parts,
    load_pictures,
    make_scenes,
    render_scenes,
    scene_keys,
)
from recon4d.datasets.synthetic.appearance import PATTERNS
from recon4d.io import write_jpeg

CONFIG = SyntheticConfig(num_frames=5, height=48, width=64, static_share=0.0, still_share=0.0)
SEED, NUMBERS = 7, (0, 1, 2, 3)


@pytest.fixture(scope="module")
def worlds() -> SyntheticScene:
    return make_scenes(CONFIG, SEED, NUMBERS)


@pytest.fixture(scope="module")
def sample(worlds: SyntheticScene) -> Sample:
    return render_scenes(worlds, CONFIG, anchors=(0, 3))


class TestDraws:
    def test_numbers_belong_to_their_key_in_any_batch(self) -> None:
        keys = scene_keys(3, torch.arange(5))
        together, alone = Draws(keys), Draws(keys[2:3])
        for _ in range(2):
            assert torch.equal(together.bits(4)[2:3], alone.bits(4))
        assert not torch.equal(Draws(keys).bits(4)[0], Draws(keys).bits(4)[1])
        assert not torch.equal(scene_keys(3, torch.arange(5)), scene_keys(4, torch.arange(5)))
        assert not torch.equal(scene_keys(3, torch.arange(5)), scene_keys(3, torch.arange(5), candidate=1))

    def test_the_generator_is_splitmix64(self) -> None:
        # The published first outputs for state 0 (Vigna), as signed numbers.
        published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
        bits = Draws(torch.zeros(1, dtype=torch.int64)).bits(3)[0]
        assert [value % 2**64 for value in bits.tolist()] == published

    def test_distributions(self) -> None:
        draws = Draws(scene_keys(0, torch.arange(50)))
        uniform = draws.uniform(1000, low=2.0, high=4.0)
        assert uniform.min() > 2
        assert uniform.max() < 4
        assert uniform.mean().item() == pytest.approx(3, abs=0.02)
        normal = draws.normal(1000)
        assert normal.isfinite().all()
        assert normal.mean().item() == pytest.approx(0, abs=0.02)
        assert normal.std().item() == pytest.approx(1, abs=0.02)
        assert draws.chance(1000, probability=0.3).float().mean().item() == pytest.approx(0.3, abs=0.01)
        whole = draws.integers(1000, below=7)
        assert (torch.bincount(whole.flatten()) / 50_000).sub(1 / 7).abs().max() < 0.01
        log = draws.log_uniform(1000, low=0.1, high=10.0)
        assert log.log().mean().item() == pytest.approx(0, abs=0.05)


class TestTruth:
    def test_points_fall_on_their_own_pixels(self, sample: Sample) -> None:
        scene = sample.scene
        known = scene.depth_confidence > 0
        in_camera = g.transform_points(scene.cameras.cam_from_world, scene.points)
        pixels = g.project(in_camera, scene.cameras.intrinsics)
        error = (pixels - g.pixel_grid(*scene.size)).norm(dim=-1)
        assert error[known].max() < 1e-3
        torch.testing.assert_close(in_camera[..., 2][known], scene.depths[known], atol=1e-4, rtol=1e-5)

    def test_depth_and_points_agree(self, sample: Sample) -> None:
        scene = sample.scene
        known = scene.depth_confidence > 0
        torch.testing.assert_close(scene.points_from_depth[known], scene.points[known], atol=1e-4, rtol=1e-4)
        assert torch.equal(scene.cameras.world_from_cam[:, 0], torch.eye(4).expand(4, 4, 4))

    @pytest.mark.parametrize("stride", [2, 5])
    def test_thinned_tracks_are_those_of_their_pixels(
        self, worlds: SyntheticScene, sample: Sample, stride: int
    ) -> None:
        thinned = render_scenes(worlds, CONFIG, (0, 3), tracked=Lattice(stride)).scene.tracks
        dense = sample.scene.tracks
        assert thinned is not None
        assert dense is not None
        column, row = thinned.pixels[0, 0].long().unbind(-1)
        places = row * CONFIG.width + column
        assert thinned.pixels[0, 0, 0].tolist() == [stride // 2 + 0.5] * 2
        assert len(places) == len(range(stride // 2, 48, stride)) * len(range(stride // 2, 64, stride))
        for name in ("points", "visible", "confidence"):
            assert torch.equal(getattr(thinned, name), getattr(dense, name)[:, :, :, places])
        assert torch.equal(thinned.pixels, dense.pixels[:, :, places])

    def test_a_lattice_may_start_at_any_pixel(self, worlds: SyntheticScene) -> None:
        tracks = render_scenes(worlds, CONFIG, (0,), tracked=Lattice(4, (3, 1))).scene.tracks
        assert tracks is not None
        assert tracks.pixels[0, 0, :2].tolist() == [[1.5, 3.5], [5.5, 3.5]]

    def test_tracks_at_the_anchors_own_time_are_its_points(self, sample: Sample) -> None:
        tracks = sample.scene.tracks
        assert tracks is not None
        for place, anchor in enumerate((0, 3)):
            known = tracks.confidence[:, place, anchor] > 0
            points = sample.scene.points[:, anchor].flatten(1, 2)
            assert torch.equal(tracks.points[:, place, anchor][known], points[known])
            assert (tracks.visibility[:, place, anchor] == tracks.confidence[:, place, anchor]).all()

    def test_what_stands_still_is_tracked_to_one_place(self, sample: Sample) -> None:
        scene = sample.scene
        assert scene.tracks is not None
        still = (scene.dynamic[:, 0].flatten(1) == 0) & (scene.depth_confidence[:, 0].flatten(1) > 0)
        drift = (scene.tracks.points[:, 0] - scene.tracks.points[:, 0, :1]).norm(dim=-1)
        assert drift[still[:, None].expand_as(drift)].max() == 0
        moved = drift[(~still)[:, None].expand_as(drift) & (scene.tracks.confidence[:, 0] > 0)]
        assert (moved > 1e-3).float().mean() > 0.5

    def test_the_thing_under_a_visible_track_is_the_thing_that_was_tracked(self, sample: Sample) -> None:
        scene = sample.scene
        assert scene.tracks is not None
        assert sample.object_ids is not None
        agreed = total = 0
        for place, anchor in enumerate((0, 3)):
            source = sample.object_ids[:, anchor].flatten(1)
            pixels = scene.track_pixels[:, place]
            for time in range(CONFIG.num_frames):
                column, row = pixels[:, time].floor().long().unbind(-1)
                inside = (column >= 1) & (column < 63) & (row >= 1) & (row < 47)
                at = row.clamp(0, 47) * 64 + column.clamp(0, 63)
                found = sample.object_ids[:, time].flatten(1).gather(1, at)
                away = away_from_edges(sample.object_ids[:, time]).flatten(1).gather(1, at)
                chosen = inside & away & (scene.tracks.visibility[:, place, time] > 0)
                agreed += (found == source)[chosen].sum().item()
                total += chosen.sum().item()
        assert len(sample.object_ids.unique()) > 8
        assert total > 10_000
        assert agreed / total > 0.98

    def test_what_is_hidden_has_something_before_it(self, sample: Sample) -> None:
        scene = sample.scene
        assert scene.tracks is not None
        in_camera = g.transform_points(scene.cameras.cam_from_world, scene.tracks.points[:, 0])
        column, row = scene.track_pixels[:, 0].floor().long().unbind(-1)
        inside = (column >= 1) & (column < 63) & (row >= 1) & (row < 47) & (in_camera[..., 2] > 0.2)
        hidden = inside & (scene.tracks.visibility[:, 0] == 0) & (scene.tracks.confidence[:, 0] > 0)
        at = row.clamp(0, 47) * 64 + column.clamp(0, 63)
        before = scene.depths.flatten(2).gather(2, at)
        assert hidden.sum() > 500
        assert ((before < in_camera[..., 2]) | (before == 0))[hidden].float().mean() > 0.99

    def test_sky_is_unknown(self, sample: Sample) -> None:
        scene = sample.scene
        sky = scene.depth_confidence == 0
        assert 0 < sky.float().mean() < 0.7
        for maps in (scene.depths, scene.dynamic, scene.points.norm(dim=-1)):
            assert (maps[sky] == 0).all()


def away_from_edges(ids: torch.Tensor) -> torch.Tensor:
    """Pixels whose eight neighbors belong to the same thing."""
    values = ids.float()[:, None]
    largest = torch.nn.functional.max_pool2d(values, 3, stride=1, padding=1)
    smallest = -torch.nn.functional.max_pool2d(-values, 3, stride=1, padding=1)
    return (largest == smallest)[:, 0]


class TestSameness:
    def test_a_scene_does_not_depend_on_its_batch(self, sample: Sample) -> None:
        alone = render_scenes(make_scenes(CONFIG, SEED, [2]), CONFIG, anchors=(0, 3))
        difference = alone.clip.images[0].int() - sample.clip.images[2].int()
        assert difference.abs().max() <= 1
        torch.testing.assert_close(alone.scene.depths[0], sample.scene.depths[2], atol=1e-4, rtol=1e-4)

    def test_another_number_or_seed_is_another_scene(self, sample: Sample) -> None:
        assert not torch.equal(sample.scene.depths[0], sample.scene.depths[1])
        other = render_scenes(make_scenes(CONFIG, SEED + 1, [0]), CONFIG)
        assert not torch.allclose(other.scene.depths[0], sample.scene.depths[0])

    def test_the_same_command_gives_the_same_bits(self, sample: Sample) -> None:
        again = render_scenes(make_scenes(CONFIG, SEED, NUMBERS), CONFIG, anchors=(0, 3))
        assert torch.equal(again.clip.images, sample.clip.images)
        assert torch.equal(again.scene.points, sample.scene.points)

    @pytest.mark.parametrize("workers", [0, 1, 4])
    def test_any_number_of_workers_gives_the_same_bits(self, workers: int) -> None:
        source = SyntheticScenes(replace(CONFIG, num_frames=2, height=32, width=32))
        batches = make_loader(source, seed=5, first_step=3, batch_size=2, rank=0, world_size=1, num_workers=workers)
        images = next(iter(batches)).clip.images
        expected = [source.sample(sample_seed(5, 3, place)).clip.images for place in (0, 1)]
        assert torch.equal(images, torch.stack(expected))


class TestWishes:
    def many(self, **wishes: object) -> SyntheticScene:
        config = replace(CONFIG, num_frames=4, candidates=1, **wishes)
        return make_scenes(config, 1, range(200))

    def test_shares_of_static_scenes_and_still_cameras(self) -> None:
        world = self.many(static_share=0.3, still_share=0.2)
        centers = world.cameras.centers
        is_still = (centers - centers[:, :1]).norm(dim=-1).amax(dim=1) < 1e-6
        assert is_still.float().mean().item() == pytest.approx(0.2, abs=0.08)
        is_static = ~world.shapes.moves.any(dim=1)
        assert is_static.float().mean().item() == pytest.approx(0.3, abs=0.12)
        one = world.shapes.moves[is_still].sum(dim=1)
        assert (one >= 1).float().mean() > 0.4

    def test_speed_and_difficulty(self) -> None:
        def path(world: SyntheticScene) -> float:
            return world.cameras.centers.diff(dim=1).norm(dim=-1).sum(dim=1).median().item()

        config = replace(CONFIG, candidates=1)
        slow = make_scenes(replace(config, speed=0.3), 1, range(100))
        fast = make_scenes(config, 1, range(100))
        easy = make_scenes(config, 1, range(100), difficulty=0.3)
        assert path(slow) < 0.6 * path(fast)
        assert path(easy) == pytest.approx(path(slow), rel=0.05)

    def test_field_of_view_principal_point_and_size(self) -> None:
        config = replace(CONFIG, height=64, width=32, field_of_view=(50.0, 60.0), principal_point=0.1, candidates=1)
        world = make_scenes(config, 1, range(50))
        angles = world.cameras.field_of_view(64, 32)[:, 0].rad2deg()
        assert angles.amax(dim=1).min() >= 49.9
        assert angles.amax(dim=1).max() <= 60.1
        assert (angles[:, 1] > angles[:, 0]).all()
        offset = world.cameras.intrinsics[:, 0, :2, 2] - torch.tensor([16.0, 32.0])
        assert 2 < offset.abs().amax(dim=0)[0] <= 3.2
        sample = render_scenes(world.pick(torch.arange(2)), config)
        assert sample.clip.images.shape == (2, 5, 3, 64, 32)

    def test_loose_views_have_no_times_and_no_order(self) -> None:
        world = self.many(loose_share=1.0)
        assert world.is_loose.all()
        assert (world.phases[:, 0] == 0).all()
        assert (world.phases.diff(dim=1) < 0).any(dim=1).float().mean() > 0.5
        sample = render_scenes(world.pick(torch.arange(1)), replace(CONFIG, num_frames=4))
        assert sample.clip.times.isnan().all()

    def test_ordered_views_rise_in_time(self, sample: Sample) -> None:
        assert (sample.clip.times.diff(dim=1) > 0).all()
        assert (sample.clip.times[:, 0] == 0).all()

    @pytest.mark.parametrize("frames", [1, 2, 32])
    def test_any_number_of_frames(self, frames: int) -> None:
        config = replace(CONFIG, num_frames=frames, height=16, width=24)
        sample = render_scenes(make_scenes(config, 0, [0]), config)
        assert sample.clip.num_frames == frames
        assert sample.scene.depths.isfinite().all()

    def test_candidates_help_overlap(self) -> None:
        from recon4d.datasets.synthetic.generation import overlap_and_motion
        from recon4d.datasets.synthetic.ray_casting import cast_rays

        def seen(candidates: int) -> float:
            config = replace(CONFIG, candidates=candidates)
            world = make_scenes(config, 5, range(40))
            return overlap_and_motion(world, cast_rays(world, 48, 64))[0].amin(dim=1).mean().item()

        assert seen(3) > seen(1) + 0.05

    def test_image_textures_are_worn(self) -> None:
        pictures = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        pictures[:, 0] = 255
        world = make_scenes(CONFIG, SEED, [0], num_pictures=3)
        plain, worn = (render_scenes(world, CONFIG, pictures=given) for given in (None, pictures))
        assert torch.equal(plain.scene.depths, worn.scene.depths)
        changed = (plain.clip.images.int() - worn.clip.images.int()).abs().amax(dim=2) > 20
        assert 0.2 < changed.float().mean() < 0.95
        red = worn.clip.images.float()
        assert (red[:, :, 0] > red[:, :, 1] + 20)[changed].float().mean() > 0.8

    def test_pictures_from_a_folder_and_from_a_pack(self, tmp_path: Path) -> None:
        blue = torch.zeros(3, 10, 20, dtype=torch.uint8)
        blue[2] = 250
        (tmp_path / "folder").mkdir()
        write_jpeg(tmp_path / "folder" / "wide.jpg", blue)
        encoded = (tmp_path / "folder" / "wide.jpg").read_bytes()
        data, offsets = np.frombuffer(2 * encoded, np.uint8), np.array([0, len(encoded), 2 * len(encoded)])
        np.savez(tmp_path / "pack.npz", jpeg=data, offset=offsets)
        for path, count in (("folder", 1), ("pack.npz", 2)):
            pictures = load_pictures(tmp_path / path, side=16)
            assert pictures.shape == (count, 3, 16, 16)
            assert pictures[:, 2].float().mean() > 230
            assert pictures[:, 0].float().mean() < 20
        (tmp_path / "text.npz").write_text("no pack")
        with pytest.raises(ValueError, match="is not a pack of pictures"):
            load_pictures(tmp_path / "text.npz")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="holds no pictures"):
            load_pictures(tmp_path / "empty")

    @pytest.mark.parametrize(
        ("wishes", "message"),
        [
            ({"num_frames": 257}, "1 to 256 frames"),
            ({"height": 8}, "too small"),
            ({"field_of_view": (90.0, 40.0)}, "field_of_view"),
            ({"static_share": 0.7, "still_share": 0.6}, "may not exceed 1"),
        ],
    )
    def test_impossible_wishes(self, wishes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **wishes)

    def test_anchors_must_be_frames(self, worlds: SyntheticScene) -> None:
        with pytest.raises(ValueError, match=r"anchors \[5\] must be frames from 0 to 4"):
            render_scenes(worlds, CONFIG, anchors=(5,))


class TestPictures:
    def test_the_same_surface_has_the_same_color_in_every_frame(self, worlds: SyntheticScene) -> None:
        """Without noise, flicker and shadows, patterns stick to things that move."""
        calm = replace(
            worlds,
            photometry=replace(
                worlds.photometry,
                noise=torch.zeros(4),
                blur=torch.zeros(4),
                exposure=torch.ones(4, 5),
            ),
            light=replace(worlds.light, shadow=torch.zeros(4), direct=torch.zeros(4)),
            surfaces=replace(
                worlds.surfaces,
                colors=torch.tensor([[0.1] * 3, [0.9] * 3, [0.5] * 3]).expand_as(worlds.surfaces.colors),
                pattern=torch.full_like(worlds.surfaces.pattern, PATTERNS.index("checks")),
                pattern_from_local=torch.eye(3).expand_as(worlds.surfaces.pattern_from_local),
                sharpness=torch.full_like(worlds.surfaces.sharpness, 8.0),
                grain=torch.zeros_like(worlds.surfaces.grain),
                warp=torch.zeros_like(worlds.surfaces.warp),
            ),
        )
        sample = render_scenes(calm, CONFIG)
        scene, images = sample.scene, sample.clip.images.float()
        assert scene.tracks is not None
        assert sample.object_ids is not None
        away = [away_from_edges(sample.object_ids[:, time]).flatten(1) for time in (0, 2)]
        pixels = scene.track_pixels[:, 0, 2]
        grid = 2 * pixels / pixels.new_tensor([64.0, 48.0]) - 1
        there = torch.nn.functional.grid_sample(images[:, 2], grid[:, None], align_corners=False)[:, :, 0]
        column, row = pixels.floor().long().unbind(-1)
        at = row.clamp(0, 47) * 64 + column.clamp(0, 63)
        moves = scene.dynamic[:, 0].flatten(1) > 0
        chosen = moves & (scene.tracks.visibility[:, 0, 2] > 0) & away[0] & away[1].gather(1, at)
        assert chosen.sum() > 200
        here = images[:, 0].flatten(2)
        difference = (there - here).abs().mean(dim=1)[chosen]
        shuffled = (there - here.flip(2)).abs().mean(dim=1)[chosen]
        # Turning changes how a surface is lit a little; a pattern that slid over it would differ like any other.
        assert difference.median() < 0.6 * shuffled.median()

    def test_pictures_are_neither_black_nor_white(self, sample: Sample) -> None:
        brightness = sample.clip.images.float().mean(dim=(1, 2, 3, 4))
        assert (brightness > 30).all()
        assert (brightness < 220).all()
        assert (sample.clip.images.float().std(dim=(2, 3, 4)) > 5).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a compiler")
def test_compiled_steps_render_the_same() -> None:
    config = replace(CONFIG, num_frames=1, height=32, width=32, primitives=6, candidates=1)
    world = make_scenes(config, SEED, [0])
    plain, compiled = (render_scenes(world, config, parts=parts) for parts in (RenderParts(), compiled_parts()))
    assert (plain.clip.images.int() - compiled.clip.images.int()).abs().max() <= 1
    torch.testing.assert_close(plain.scene.points, compiled.scene.points, atol=1e-4, rtol=1e-4)
