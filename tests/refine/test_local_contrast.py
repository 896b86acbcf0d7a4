"""Tests of images with normalized contrast."""

import pytest
import torch
import torch.nn.functional as F

from recon4d.refine.local_contrast import normalize_contrast, window_mean


@pytest.mark.parametrize("window", [3, 5, 7])
def test_sums_of_shifted_images_are_the_mean_of_the_window_inside_the_image(window: int) -> None:
    values = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0))
    pooled = F.avg_pool2d(values[:, None], window, 1, window // 2, count_include_pad=False)[:, 0]
    torch.testing.assert_close(window_mean(values, window), pooled)


def test_brightness_and_contrast_make_no_difference_but_noise_of_smooth_areas_is_not_amplified() -> None:
    image = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    normalized = normalize_contrast(image, 5)
    torch.testing.assert_close(normalize_contrast(0.5 * image + 0.3, 5), normalized, atol=0.02, rtol=0.0)
    assert normalize_contrast(0.001 * image, 5).abs().max() < 0.1
