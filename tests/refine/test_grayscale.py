"""Tests of grayscale images: gray values, averaged areas, and clips that are not contiguous."""

import torch
from kornia.color import rgb_to_grayscale

from recon4d.records import Clip
from recon4d.refine.grayscale import STRIP_PIXELS, grayscale_images


def clip_of(images: torch.Tensor) -> Clip:
    return Clip(images, torch.arange(len(images)).float())


def test_gray_values_are_those_of_kornia_across_strips_of_large_images() -> None:
    height, width = STRIP_PIXELS // 256 + 37, 256
    assert height * width > STRIP_PIXELS
    images = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = rgb_to_grayscale(images.float() / 255)[:, 0]
    torch.testing.assert_close(grayscale_images(clip_of(images), (height, width)), expected)
    # Images as decoders return them, with the colors last in memory.
    colors_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(grayscale_images(clip_of(colors_last), (height, width)), expected)


def test_smaller_images_average_every_pixel() -> None:
    """Stripes of one pixel become gray; a resampling that skips pixels would keep some of them."""
    images = torch.zeros(1, 3, 90, 120, dtype=torch.uint8)
    images[..., ::2] = 255
    small = grayscale_images(clip_of(images), (9, 12))[0]
    torch.testing.assert_close(small, torch.full((9, 12), 0.5), atol=0.03, rtol=0)
