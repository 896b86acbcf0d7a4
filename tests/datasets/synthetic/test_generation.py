"""Synthetic scenes: exact ground truth, reproducibility from seed and index, and the effect of each option."""

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
    CounterRng,
    Lattice,
    RenderSteps,
    SyntheticConfig,
    SyntheticScene,
    SyntheticScenes,
    compile_render_steps,
    load_textures,
    make_scenes,
    render_scenes,
    scene_keys,
)
from recon4d.datasets.synthetic.appearance import PATTERNS
from recon4d.errors import UserError
from recon4d.io import write_jpeg

CONFIG = SyntheticConfig(num_frames=5, height=48, width=64, static_scene_share=0.0, static_camera_share=0.0)
SEED, NUMBERS = 7, (0, 1, 2, 3)


@pytest.fixture(scope="module")
def scenes() -> SyntheticScene:
    return make_scenes(CONFIG, SEED, NUMBERS)


@pytest.fixture(scope="module")
def sample(scenes: SyntheticScene) -> Sample:
    return render_scenes(scenes, CONFIG, anchors=(0, 3))


class TestCounterRng:
    def test_numbers_depend_on_their_key_only(self) -> None:
        keys = scene_keys(3, torch.arange(5))
        batched, alone = CounterRng(keys), CounterRng(keys[2:3])
        for _ in range(2):
            assert torch.equal(batched.bits(4)[2:3], alone.bits(4))
        assert not torch.equal(CounterRng(keys).bits(4)[0], CounterRng(keys).bits(4)[1])
        assert not torch.equal(scene_keys(3, torch.arange(5)), scene_keys(4, torch.arange(5)))
        assert not torch.equal(scene_keys(3, torch.arange(5)), scene_keys(3, torch.arange(5), attempt=1))

    def test_the_generator_is_splitmix64(self) -> None:
        # The published first outputs for state 0 (Vigna).
        published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
        bits = CounterRng(torch.zeros(1, dtype=torch.int64)).bits(3)[0]
        assert [value % 2**64 for value in bits.tolist()] == published

    def test_distributions(self) -> None:
        rng = CounterRng(scene_keys(0, torch.arange(50)))
        uniform = rng.uniform(1000, low=2.0, high=4.0)
        assert uniform.min() > 2
        assert uniform.max() < 4
        assert uniform.mean().item() == pytest.approx(3, abs=0.02)
        normal = rng.normal(1000)
        assert normal.isfinite().all()
        assert normal.mean().item() == pytest.approx(0, abs=0.02)
        assert normal.std().item() == pytest.approx(1, abs=0.02)
        assert rng.bernoulli(1000, probability=0.3).float().mean().item() == pytest.approx(0.3, abs=0.01)
        whole = rng.integers(1000, below=7)
        assert (torch.bincount(whole.flatten()) / 50_000).sub(1 / 7).abs().max() < 0.01
        log = rng.log_uniform(1000, low=0.1, high=10.0)
        assert log.log().mean().item() == pytest.approx(0, abs=0.05)


class TestGroundTruth:
    def test_points_project_to_their_own_pixels(self, sample: Sample) -> None:
        scene = sample.scene
        known = scene.depth_confidence > 0
        in_camera = g.transform_points(scene.cameras.cam_from_world, scene.points)
        pixels = g.project(in_camera, scene.cameras.intrinsics)
        error = (pixels - g.pixel_grid(*scene.size)).norm(dim=-1)
        assert error[known].max() < 1e-3
        torch.testing.assert_close(in_camera[..., 2][known], scene.depths[known], atol=1e-4, rtol=1e-5)
        assert torch.equal(scene.cameras.world_from_cam[:, 0], torch.eye(4).expand(4, 4, 4))

    def test_subsampled_tracks_equal_dense_ones(self, scenes: SyntheticScene, sample: Sample) -> None:
        stride = 5
        sparse = render_scenes(scenes, CONFIG, (0, 3), query_lattice=Lattice(stride)).scene.tracks
        dense = sample.scene.tracks
        column, row = sparse.pixels[0, 0].long().unbind(-1)
        places = row * CONFIG.width + column
        assert sparse.pixels[0, 0, 0].tolist() == [stride // 2 + 0.5] * 2
        assert len(places) == len(range(stride // 2, 48, stride)) * len(range(stride // 2, 64, stride))
        for name in ("points", "visibility", "confidence"):
            assert torch.equal(getattr(sparse, name), getattr(dense, name)[:, :, :, places])
        assert torch.equal(sparse.pixels, dense.pixels[:, :, places])

    def test_a_lattice_may_start_at_any_pixel(self, scenes: SyntheticScene) -> None:
        tracks = render_scenes(scenes, CONFIG, (0,), query_lattice=Lattice(4, (3, 1))).scene.tracks
        assert tracks.pixels[0, 0, :2].tolist() == [[1.5, 3.5], [5.5, 3.5]]

    def test_tracks_at_the_anchors_own_time_are_its_points(self, sample: Sample) -> None:
        tracks = sample.scene.tracks
        for place, anchor in enumerate((0, 3)):
            known = tracks.confidence[:, place, anchor] > 0
            points = sample.scene.points[:, anchor].flatten(1, 2)
            assert torch.equal(tracks.points[:, place, anchor][known], points[known])
            assert (tracks.visibility[:, place, anchor] == tracks.confidence[:, place, anchor]).all()

    def test_tracks_of_static_points_are_constant(self, sample: Sample) -> None:
        scene = sample.scene
        static = (scene.dynamic[:, 0].flatten(1) == 0) & (scene.depth_confidence[:, 0].flatten(1) > 0)
        drift = (scene.tracks.points[:, 0] - scene.tracks.points[:, 0, :1]).norm(dim=-1)
        assert drift[static[:, None].expand_as(drift)].max() == 0
        moved = drift[(~static)[:, None].expand_as(drift) & (scene.tracks.confidence[:, 0] > 0)]
        assert (moved > 1e-3).float().mean() > 0.5

    def test_visible_tracks_are_on_the_object_that_was_tracked(self, sample: Sample) -> None:
        scene = sample.scene
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

    def test_occluded_points_are_behind_a_surface(self, sample: Sample) -> None:
        scene = sample.scene
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
    """Return a mask of pixels whose eight neighbors belong to the same object."""
    values = ids.float()[:, None]
    largest = torch.nn.functional.max_pool2d(values, 3, stride=1, padding=1)
    smallest = -torch.nn.functional.max_pool2d(-values, 3, stride=1, padding=1)
    return (largest == smallest)[:, 0]


class TestReproducibility:
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

    def test_a_worker_gives_the_same_bits(self) -> None:
        source = SyntheticScenes(replace(CONFIG, num_frames=2, height=32, width=32))
        batches = make_loader(source, seed=5, first_step=3, batch_size=2, rank=0, world_size=1, num_workers=1)
        images = next(iter(batches)).clip.images
        expected = [source.sample(sample_seed(5, 3, place)).clip.images for place in (0, 1)]
        assert torch.equal(images, torch.stack(expected))


class TestOptions:
    def many(self, **options: object) -> SyntheticScene:
        config = replace(CONFIG, num_frames=4, attempts=1, **options)
        return make_scenes(config, 1, range(200))

    def test_shares_of_static_scenes_and_static_cameras(self) -> None:
        scenes = self.many(static_scene_share=0.3, static_camera_share=0.2)
        centers = scenes.cameras.centers
        has_static_camera = (centers - centers[:, :1]).norm(dim=-1).amax(dim=1) < 1e-6
        assert has_static_camera.float().mean().item() == pytest.approx(0.2, abs=0.08)
        is_static = ~scenes.shapes.is_dynamic.any(dim=1)
        assert is_static.float().mean().item() == pytest.approx(0.3, abs=0.12)
        one = scenes.shapes.is_dynamic[has_static_camera].sum(dim=1)
        assert (one >= 1).float().mean() > 0.4

    def test_speed_and_difficulty(self) -> None:
        def path(scenes: SyntheticScene) -> float:
            return scenes.cameras.centers.diff(dim=1).norm(dim=-1).sum(dim=1).median().item()

        config = replace(CONFIG, attempts=1)
        slow = make_scenes(replace(config, speed=0.3), 1, range(100))
        fast = make_scenes(config, 1, range(100))
        easy = make_scenes(config, 1, range(100), difficulty=0.3)
        assert path(slow) < 0.6 * path(fast)
        assert path(easy) == pytest.approx(path(slow), rel=0.05)

    def test_field_of_view_principal_point_and_size(self) -> None:
        config = replace(CONFIG, height=64, width=32, field_of_view=(50.0, 60.0), principal_point=0.1, attempts=1)
        scenes = make_scenes(config, 1, range(50))
        angles = scenes.cameras.field_of_view(64, 32)[:, 0].rad2deg()
        assert angles.amax(dim=1).min() >= 49.9
        assert angles.amax(dim=1).max() <= 60.1
        assert (angles[:, 1] > angles[:, 0]).all()
        offset = scenes.cameras.intrinsics[:, 0, :2, 2] - torch.tensor([16.0, 32.0])
        assert 2 < offset.abs().amax(dim=0)[0] <= 3.2
        sample = render_scenes(scenes.select(torch.arange(2)), config)
        assert sample.clip.images.shape == (2, 5, 3, 64, 32)

    def test_unordered_frames_have_no_times(self) -> None:
        scenes = self.many(loose_share=1.0)
        assert scenes.is_unordered.all()
        assert (scenes.phases[:, 0] == 0).all()
        assert (scenes.phases.diff(dim=1) < 0).any(dim=1).float().mean() > 0.5
        sample = render_scenes(scenes.select(torch.arange(1)), replace(CONFIG, num_frames=4))
        assert sample.clip.times.isnan().all()
        ordered = render_scenes(self.many(loose_share=0.0).select(torch.arange(1)), replace(CONFIG, num_frames=4))
        assert (ordered.clip.times.diff(dim=1) > 0).all()
        assert (ordered.clip.times[:, 0] == 0).all()

    @pytest.mark.parametrize("frames", [1, 32])
    def test_any_number_of_frames(self, frames: int) -> None:
        config = replace(CONFIG, num_frames=frames, height=16, width=24)
        sample = render_scenes(make_scenes(config, 0, [0]), config)
        assert sample.clip.num_frames == frames
        assert sample.scene.depths.isfinite().all()

    def test_attempts_help_overlap(self) -> None:
        from recon4d.datasets.synthetic.generation import overlap_and_motion
        from recon4d.datasets.synthetic.ray_casting import cast_rays

        def overlap(attempts: int) -> float:
            config = replace(CONFIG, attempts=attempts)
            scenes = make_scenes(config, 5, range(12))
            return overlap_and_motion(scenes, cast_rays(scenes, 48, 64))[0].amin(dim=1).mean().item()

        assert overlap(3) > overlap(1) + 0.05

    def test_image_textures_change_the_appearance_only(self) -> None:
        images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        images[:, 0] = 255
        scenes = make_scenes(CONFIG, SEED, [0], num_textures=3)
        plain, textured = (render_scenes(scenes, CONFIG, textures=given) for given in (None, images))
        assert torch.equal(plain.scene.depths, textured.scene.depths)
        changed = (plain.clip.images.int() - textured.clip.images.int()).abs().amax(dim=2) > 20
        assert 0.2 < changed.float().mean() < 0.95
        red = textured.clip.images.float()
        assert (red[:, :, 0] > red[:, :, 1] + 20)[changed].float().mean() > 0.8

    def test_textures_from_a_folder_and_from_a_pack(self, tmp_path: Path) -> None:
        blue = torch.zeros(3, 10, 20, dtype=torch.uint8)
        blue[2] = 250
        (tmp_path / "folder").mkdir()
        write_jpeg(tmp_path / "folder" / "wide.jpg", blue)
        encoded = (tmp_path / "folder" / "wide.jpg").read_bytes()
        data, offsets = np.frombuffer(2 * encoded, np.uint8), np.array([0, len(encoded), 2 * len(encoded)])
        np.savez(tmp_path / "pack.npz", jpeg=data, offset=offsets)
        for path, count in (("folder", 1), ("pack.npz", 2)):
            textures = load_textures(tmp_path / path, side=16)
            assert textures.shape == (count, 3, 16, 16)
            assert textures[:, 2].float().mean() > 230
            assert textures[:, 0].float().mean() < 20
        (tmp_path / "text.npz").write_text("no pack")
        with pytest.raises(UserError, match="is not a pack of pictures"):
            load_textures(tmp_path / "text.npz")
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="contains no pictures"):
            load_textures(tmp_path / "empty")

    def test_unusable_texture_files_are_user_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"missing\.npz does not exist"):
            load_textures(tmp_path / "missing.npz")
        np.savez(tmp_path / "other.npz", images=np.zeros(3))
        np.save(tmp_path / "array.npy", np.zeros(3))
        np.savez(tmp_path / "cut.npz", jpeg=np.zeros(1000, np.uint8), offset=np.zeros(2))
        (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
        for name in ("other.npz", "array.npy", "cut.npz"):
            with pytest.raises(UserError, match=f"{name} is not a pack of pictures; give an npz file"):
                load_textures(tmp_path / name)
        np.savez(tmp_path / "damaged.npz", jpeg=np.zeros(8, np.uint8), offset=np.array([0, 8]))
        with pytest.raises(UserError, match=r"damaged\.npz: picture 0 cannot be read"):
            load_textures(tmp_path / "damaged.npz")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_frames": 257}, "num_frames is 257; choose 1 to 256 frames"),
            ({"height": 8}, "too small"),
            ({"groups": 0}, "groups is 0; it must be at least 1"),
            ({"field_of_view": (90.0, 40.0)}, "field_of_view"),
            ({"static_scene_share": 0.7, "static_camera_share": 0.6}, "their sum must be at most 1"),
        ],
    )
    def test_options_out_of_range(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            replace(CONFIG, **options)

    def test_anchors_must_be_frames(self, scenes: SyntheticScene) -> None:
        with pytest.raises(ValueError, match=r"anchors \[5\] must be frames from 0 to 4"):
            render_scenes(scenes, CONFIG, anchors=(5,))


class TestAppearance:
    def test_the_same_surface_has_the_same_color_in_every_frame(self, scenes: SyntheticScene) -> None:
        """Without noise, flicker and shadows, patterns move with their objects."""
        calm = replace(
            scenes,
            photometry=replace(
                scenes.photometry,
                noise=torch.zeros(4),
                blur=torch.zeros(4),
                exposure=torch.ones(4, 5),
            ),
            light=replace(scenes.light, shadow=torch.zeros(4), direct=torch.zeros(4)),
            surfaces=replace(
                scenes.surfaces,
                colors=torch.tensor([[0.1] * 3, [0.9] * 3, [0.5] * 3]).expand_as(scenes.surfaces.colors),
                pattern=torch.full_like(scenes.surfaces.pattern, PATTERNS.index("checks")),
                pattern_from_local=torch.eye(3).expand_as(scenes.surfaces.pattern_from_local),
                sharpness=torch.full_like(scenes.surfaces.sharpness, 8.0),
                grain=torch.zeros_like(scenes.surfaces.grain),
                warp=torch.zeros_like(scenes.surfaces.warp),
            ),
        )
        sample = render_scenes(calm, CONFIG)
        scene, images = sample.scene, sample.clip.images.float()
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
        # Rotation changes the shading a little; a pattern that slides over the surface would differ far more.
        assert difference.median() < 0.6 * shuffled.median()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a compiler")
def test_compiled_steps_render_the_same() -> None:
    config = replace(CONFIG, num_frames=1, height=32, width=32, primitives=6, attempts=1)
    scenes = make_scenes(config, SEED, [0])
    all_steps = (RenderSteps(), compile_render_steps())
    plain, compiled = (render_scenes(scenes, config, steps=steps) for steps in all_steps)
    assert (plain.clip.images.int() - compiled.clip.images.int()).abs().max() <= 1
    torch.testing.assert_close(plain.scene.points, compiled.scene.points, atol=1e-4, rtol=1e-4)
