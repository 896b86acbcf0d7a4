"""Tests of cropping, which keeps images and geometry consistent, and of photometric augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import HEIGHT, WIDTH, make_clip, make_scene

from recon4d.datasets.augmentation import Augmentation, augment_colors
from recon4d.datasets.cropping import (
    CropWindow,
    crop_and_resize,
    random_crop_window,
)
from recon4d.datasets.sample import Sample
from recon4d.errors import UserError
from recon4d.geometry import pixel_grid, project, transform_points
from recon4d.records import Clip, Priors


def make_sample() -> Sample:
    """Create a sample of the wall whose red, green and blue values encode the world's x, y and z."""
    scene = make_scene(anchors=(0, 1))
    return Sample(Clip(colors_of(scene.points), torch.arange(3) / 10), scene)


def colors_of(points: torch.Tensor) -> torch.Tensor:
    """Map world points (..., height, width, 3) to colors; those of the wall change by about 4 levels per pixel."""
    low, high = torch.tensor([-3.0, -3.0, 2.0]), torch.tensor([4.0, 3.0, 8.0])
    return (255 * (points - low) / (high - low)).round().to(torch.uint8).movedim(-1, -3)


class TestWindows:
    def test_random_crops_have_the_aspect_ratio_and_lie_inside(self) -> None:
        rng = np.random.default_rng(0)
        windows = [random_crop_window((480, 640), (210, 280), 0.5, rng) for _ in range(200)]
        for window in windows:
            assert window.width / window.height == pytest.approx(4 / 3, rel=0.01)
            assert 0 <= window.left <= 640 - window.width
            assert 0 <= window.top <= 480 - window.height
            assert 240 <= window.height <= 480
        assert min(window.height for window in windows) < 260
        assert max(window.height for window in windows) > 460
        assert min(window.left for window in windows) == 0 or len({window.left for window in windows}) > 50

    @pytest.mark.parametrize("min_scale", [0.0, 1.1])
    def test_scales_out_of_range_are_refused(self, min_scale: float) -> None:
        with pytest.raises(ValueError, match="wanted a value above 0 and at most 1"):
            random_crop_window((4, 4), (2, 2), min_scale, np.random.default_rng(0))

    def test_windows_beyond_the_image_are_refused(self) -> None:
        with pytest.raises(ValueError, match="does not fit into images of 12 rows and 16 columns"):
            crop_and_resize(make_sample(), CropWindow(9, 0, 4, 8), (4, 8))


class TestCrop:
    WINDOW = CropWindow(left=4, top=2, height=8, width=10)

    @pytest.mark.parametrize("size", [(16, 20), (4, 5)])
    def test_images_and_points_agree_after_cropping(self, size: tuple[int, int]) -> None:
        cut = crop_and_resize(make_sample(), self.WINDOW, size)
        assert cut.clip.size == cut.scene.size == size
        scene = cut.scene
        # The color of a pixel encodes its ground-truth point. Half an original pixel is about 2 levels.
        difference = (cut.clip.images.float() - colors_of(scene.points).float()).abs()
        assert difference.max() <= 8
        assert difference.mean() <= 2
        in_camera = transform_points(scene.cameras.cam_from_world, scene.points)
        pixels = project(in_camera, scene.cameras.intrinsics)
        assert torch.allclose(pixels, pixel_grid(*size).expand_as(pixels), atol=1e-3)
        assert torch.allclose(in_camera[..., 2], scene.depths, atol=1e-4)

    def test_a_crop_without_resizing_shifts_maps_and_principal_point(self) -> None:
        sample = make_sample()
        cut = crop_and_resize(sample, self.WINDOW, (8, 10))
        assert torch.equal(cut.clip.images, sample.clip.images[..., 2:10, 4:14])
        assert torch.equal(cut.scene.depths, sample.scene.depths[..., 2:10, 4:14])
        assert torch.allclose(cut.scene.points, sample.scene.points[..., 2:10, 4:14, :], atol=1e-5)
        before, after = sample.scene.cameras.intrinsics, cut.scene.cameras.intrinsics
        assert torch.equal(before[:, :2, 2] - torch.tensor([4.0, 2.0]), after[:, :2, 2])
        assert torch.equal(before[:, :2, :2], after[:, :2, :2])
        assert torch.equal(cut.scene.cameras.world_from_cam, sample.scene.cameras.world_from_cam)

    def test_depth_is_never_interpolated_across_edges(self) -> None:
        sample = make_sample()
        steps = torch.where(torch.arange(WIDTH) < 7, 1.0, 9.0).expand(3, HEIGHT, WIDTH)
        known = (torch.arange(HEIGHT) < 6).float()[:, None].expand(3, HEIGHT, WIDTH)
        dynamic = torch.where(torch.arange(WIDTH) < 5, torch.nan, 1.0).expand(3, HEIGHT, WIDTH)
        scene = replace(
            sample.scene, depths=steps * known, depth_confidence=known, point_confidence=known, dynamic=dynamic
        )
        cut = crop_and_resize(replace(sample, scene=scene), CropWindow(0, 0, 12, 16), (5, 7)).scene
        assert set(cut.depths[cut.depth_confidence > 0].unique().tolist()) == {1.0, 9.0}
        assert set(cut.depth_confidence.unique().tolist()) == {0.0, 1.0}
        assert not cut.depths[cut.depth_confidence == 0].any()
        assert cut.dynamic.isnan().any()
        assert set(cut.dynamic[cut.dynamic.isfinite()].tolist()) == {1.0}
        # Unknown points are kept and not unprojected from depth 0.
        assert torch.equal(cut.points[0, 4, 0], scene.points[0, 10, 1])

    def test_object_ids_are_those_of_the_nearest_pixel(self) -> None:
        ids = torch.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).expand(3, HEIGHT, WIDTH)
        cut = crop_and_resize(replace(make_sample(), object_ids=ids), self.WINDOW, (4, 5))
        assert torch.equal(cut.object_ids, ids[:, 3:10:2, 5:14:2])

    def test_query_pixels_are_transformed_and_queries_outside_are_unknown(self) -> None:
        sample = make_sample()
        before = sample.scene.tracks
        after = crop_and_resize(sample, self.WINDOW, (16, 20)).scene.tracks
        corner, end = torch.tensor([4.0, 2.0]), torch.tensor([14.0, 10.0])
        kept = ((before.pixels >= corner) & (before.pixels < end)).all(dim=-1)
        assert kept.sum() == 2 * 80
        assert torch.equal(after.pixels[kept], 2 * (before.pixels - corner)[kept])
        assert torch.equal(after.confidence, kept[:, None].expand_as(after.confidence).float())
        assert not after.visibility[~kept[:, None].expand_as(after.visibility)].any()
        assert torch.equal(after.points, before.points)
        assert not after.pixels[~kept].any()

    def test_points_outside_the_cropped_image_are_not_visible(self) -> None:
        cut = crop_and_resize(make_sample(), self.WINDOW, (8, 10)).scene
        known = cut.tracks.confidence[0] > 0
        pixels = cut.track_pixels[0]
        inside = ((pixels > 0) & (pixels < torch.tensor([10.0, 8.0]))).all(dim=-1)
        assert torch.equal(cut.tracks.visibility[0][known] > 0, inside[known])
        assert (known & ~inside).any()

    def test_priors_are_cropped_with_the_images(self) -> None:
        sample = make_sample()
        depths = torch.full((3, HEIGHT, WIDTH), torch.nan)
        depths[:, 3, 5] = 7.0
        ignore = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
        ignore[:, 2, 4] = True
        priors = replace(Priors.unknown(3), intrinsics=sample.scene.cameras.intrinsics, depths=depths, ignore=ignore)
        cut = crop_and_resize(replace(sample, clip=replace(sample.clip, priors=priors)), self.WINDOW, (16, 20))
        assert torch.equal(cut.clip.priors.intrinsics, cut.scene.cameras.intrinsics)
        assert cut.clip.priors.depths[0].isfinite().nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
        assert cut.clip.priors.ignore[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def smooth_clip(frames: int = 4) -> torch.Tensor:
    """Create identical frames with smooth gradients and no saturated pixels."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 40), indexing="ij")
    picture = torch.stack([0.3 + 0.4 * x, 0.3 + 0.4 * y, 0.7 - 0.4 * x * y])
    return (255 * picture).round().to(torch.uint8).expand(frames, -1, -1, -1).clone()


NO_AUGMENTATION = Augmentation(
    *(0, 0, 0, 0, 0),
    gray_probability=0,
    blur_probability=0,
    noise_probability=0,
    jpeg_probability=0,
    per_frame_fraction=0,
)


class TestAugmentation:
    def test_the_seed_determines_every_byte(self) -> None:
        images, everything = smooth_clip(), Augmentation(blur_probability=1, noise_probability=1, jpeg_probability=1)
        given = images.clone()
        for seed in range(2):
            first = augment_colors(images, everything, seed)
            torch.manual_seed(seed)
            assert torch.equal(first, augment_colors(images, everything, seed))
            assert not torch.equal(first, augment_colors(images, everything, seed + 100))
        assert torch.equal(images, given)

    def test_zero_strengths_change_nothing(self) -> None:
        images = make_clip(frames=3).images
        assert (augment_colors(images, NO_AUGMENTATION, 0).int() - images.int()).abs().max() <= 1

    @pytest.mark.parametrize(
        "only",
        [
            {"brightness": 0.3},
            {"contrast": 0.3},
            {"saturation": 0.3},
            {"gamma": 0.3},
            {"hue": 0.3},
            {"gray_probability": 1.0},
            {"blur_probability": 1.0, "blur_sigma": (1.0, 1.5)},
            {"noise_probability": 1.0},
            {"jpeg_probability": 1.0},
        ],
        ids=lambda only: next(iter(only)),
    )
    def test_each_operation_changes_something(self, only: dict) -> None:
        images = make_clip(frames=3, height=24, width=24).images
        changed = [augment_colors(images, replace(NO_AUGMENTATION, **only), seed) for seed in range(4)]
        assert all(images.shape == one.shape and one.dtype == torch.uint8 for one in changed)
        assert max((one.float() - images.float()).abs().mean() for one in changed) > 1

    def test_gray_is_gray_in_every_frame(self) -> None:
        gray = augment_colors(smooth_clip(), replace(NO_AUGMENTATION, gray_probability=1.0), 0)
        assert torch.equal(gray[:, 0], gray[:, 1])
        assert torch.equal(gray[:, 1], gray[:, 2])

    def test_brightness_increases_and_decreases_equally_often(self) -> None:
        images = smooth_clip()
        means = [
            augment_colors(images, replace(NO_AUGMENTATION, brightness=0.3), seed).float().mean() for seed in range(30)
        ]
        brighter = sum(bool(mean > images.float().mean()) for mean in means)
        assert 8 <= brighter <= 22

    @pytest.mark.parametrize("quality", ["brightness", "hue"])
    def test_frames_differ_less_than_clips(self, quality: str) -> None:
        config = replace(NO_AUGMENTATION, per_frame_fraction=0.15, **{quality: 0.5})
        augmented = torch.stack([augment_colors(smooth_clip(), config, seed) for seed in range(20)]).float()
        of_clips = augmented.mean(dim=1).std(dim=0).mean()
        of_frames = (augmented - augmented.mean(dim=1, keepdim=True)).std(dim=1).mean()
        assert 0 < of_frames < 0.4 * of_clips

    def test_at_a_per_frame_fraction_of_0_all_frames_are_augmented_equally(self) -> None:
        alike = augment_colors(smooth_clip(), Augmentation(noise_probability=0, per_frame_fraction=0), 3)
        assert torch.equal(alike, alike[:1].expand_as(alike))

    def test_values_out_of_range_are_refused(self) -> None:
        for wrong in ({"brightness": -0.1}, {"gray_probability": 1.5}, {"per_frame_fraction": -0.1}):
            with pytest.raises(UserError, match="wanted strengths of at least 0"):
                Augmentation(**wrong)
        with pytest.raises(UserError, match="jpeg_quality from 1 to 100"):
            Augmentation(jpeg_quality=(0.0, 50.0))
