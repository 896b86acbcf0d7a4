"""Tests of corner tracking: sub-pixel accuracy from guides that are several pixels off, and only where surface."""

from dataclasses import replace

import pytest
import torch
from perturbed_scenes import feature_tracks_of_scene, synthetic_sample

from recon4d.datasets import Sample
from recon4d.geometry import project, transform_points
from recon4d.records import (
    Clip,
    FeatureTracks,
    Priors,
    Scene,
)
from recon4d.refine import (
    CornerTrackingConfig,
    scene_guides,
    track_corners,
)

CALM, DYNAMIC = 11, 2
FEW = CornerTrackingConfig(corners_per_frame=100)


@pytest.fixture(scope="module")
def calm() -> Sample:
    return synthetic_sample(CALM)


@pytest.fixture(scope="module")
def dynamic() -> Sample:
    return synthetic_sample(DYNAMIC)


def rough_guides(scene: Scene, pixels: float = 2.0, wrong: float = 0.05) -> FeatureTracks:
    """Imitate the matches of a network: Gaussian noise of `pixels`, and a share of `wrong` ones anywhere."""
    generator = torch.Generator().manual_seed(0)
    tracks = feature_tracks_of_scene(scene, num_tracks=3000)
    off = pixels * torch.randn(tracks.pixels.shape, generator=generator)
    anywhere = torch.rand(tracks.pixels.shape, generator=generator) * scene.size[0]
    is_wrong = torch.rand(tracks.visibility.shape, generator=generator) < wrong
    return FeatureTracks(torch.where(is_wrong[..., None], anywhere, tracks.pixels + off), tracks.visibility)


def own_frames(tracks: FeatureTracks) -> torch.Tensor:
    """Return the frame in which each corner was detected: there it is exactly at the center of a pixel."""
    at_center = ((tracks.pixels % 1) - 0.5).abs().amax(dim=-1) < 1e-4
    return (at_center & (tracks.visibility > 0)).int().argmax(dim=0)


def true_pixels(sample: Sample, tracks: FeatureTracks) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true pixels of each corner in every frame, and its relative depth behind the visible surface there."""
    scene, own = sample.scene, own_frames(tracks)
    column, row = tracks.pixels[own, torch.arange(len(own))].long().unbind(-1)
    points = scene.points[own, row, column].expand(scene.num_frames, -1, -1)
    in_camera = transform_points(scene.cameras.cam_from_world, points)
    pixels = project(in_camera, scene.cameras.intrinsics)
    height, width = scene.size
    x, y = (pixels[..., axis].long().clamp(0, side - 1) for axis, side in ((0, width), (1, height)))
    surface = scene.depths[torch.arange(scene.num_frames)[:, None], y, x]
    return pixels, in_camera[..., 2] / surface - 1


def test_corners_are_ten_times_as_accurate_as_the_guides(calm: Sample) -> None:
    guides = rough_guides(calm.scene)
    tracks = track_corners(calm.clip, calm.scene, guides, FEW)
    true, _ = true_pixels(calm, tracks)
    found = (tracks.visibility > 0) & (torch.arange(8)[:, None] != own_frames(tracks))
    off = (tracks.pixels - true).norm(dim=-1)[found]
    assert found.float().mean() > 0.4
    assert off.median() < 0.2
    # The rest are at occlusion boundaries or on repetitive texture; the two-view filter removes them.
    assert (off < 1).float().mean() > 0.7
    exact = feature_tracks_of_scene(calm.scene, num_tracks=3000)
    assert (guides.pixels - exact.pixels).norm(dim=-1)[exact.visibility > 0].median() > 2


def test_occluded_corners_are_not_found(calm: Sample) -> None:
    tracks = track_corners(calm.clip, calm.scene, rough_guides(calm.scene), FEW)
    _, behind = true_pixels(calm, tracks)
    is_occluded = behind > 0.1
    assert is_occluded.float().mean() > 0.02
    is_found = (tracks.visibility > 0).float()
    assert is_found[is_occluded].mean() < 0.25 * is_found[~is_occluded].mean()


def test_every_track_is_visible_at_the_pixel_center_where_it_was_detected(calm: Sample) -> None:
    tracks = track_corners(calm.clip, calm.scene, rough_guides(calm.scene), FEW)
    assert tracks.pixels.shape == (8, tracks.visibility.shape[1], 2)
    assert 300 < tracks.visibility.shape[1] <= 8 * 140
    own = own_frames(tracks)
    numbers = torch.arange(len(own))
    assert (tracks.visibility[own, numbers] == 1).all()
    assert set(own.tolist()) == set(range(8))


def test_no_corner_is_detected_on_dynamic_or_ignored_pixels(dynamic: Sample) -> None:
    ignore = torch.zeros_like(dynamic.scene.dynamic, dtype=torch.bool)
    ignore[:, :, :100] = True
    clip = replace(dynamic.clip, priors=replace(Priors.unknown(8), ignore=ignore))
    tracks = track_corners(clip, dynamic.scene, rough_guides(dynamic.scene), FEW)
    own = own_frames(tracks)
    column, row = tracks.pixels[own, torch.arange(len(own))].long().unbind(-1)
    assert len(own) > 100
    assert (dynamic.scene.dynamic[own, row, column] <= 0.5).all()
    assert (column >= 100).all()


def test_pixels_refer_to_the_maps_of_the_scene(calm: Sample) -> None:
    half = calm.scene.resized(96, 128)
    guides = rough_guides(calm.scene)
    small = FeatureTracks(guides.pixels / 2, guides.visibility)
    whole, halved = (
        track_corners(calm.clip, scene, guide, FEW) for scene, guide in ((calm.scene, guides), (half, small))
    )
    assert whole.visibility.shape == halved.visibility.shape
    same = (whole.visibility > 0) & (halved.visibility > 0)
    assert same.float().mean() > 0.9 * (whole.visibility > 0).float().mean()
    assert ((whole.pixels / 2 - halved.pixels).norm(dim=-1)[same] < 0.02).float().mean() > 0.97


def test_corners_do_not_move_between_equal_frames(calm: Sample) -> None:
    clip, scene = calm.clip.frames([0, 0, 0]), replace(calm.scene, tracks=None).frames([0, 0, 0])
    column, row = torch.meshgrid(torch.arange(8.5, 256, 16), torch.arange(8.5, 192, 16), indexing="xy")
    pixels = torch.stack([column, row], dim=-1).flatten(0, 1).expand(3, -1, -1)
    generator = torch.Generator().manual_seed(0)
    guides = FeatureTracks(pixels + torch.randn(pixels.shape, generator=generator), torch.ones(pixels.shape[:2]))
    tracks = track_corners(clip, scene, guides, FEW)
    assert tracks.visibility.mean() > 0.95
    off = (tracks.pixels - tracks.pixels[:1]).norm(dim=-1)
    assert off[tracks.visibility > 0].quantile(0.99) < 0.05


def test_shuffled_frames_give_nearly_as_many_tracks(calm: Sample) -> None:
    """Unordered photos: a corner that is lost in one frame is searched for from where it was last found."""
    order = torch.tensor([0, 5, 2, 7, 1, 4, 6, 3])
    guides = rough_guides(calm.scene)
    scene = replace(calm.scene, tracks=None)
    shuffled = track_corners(
        calm.clip.frames(order), scene.frames(order), FeatureTracks(guides.pixels[order], guides.visibility[order]), FEW
    )
    ordered = track_corners(calm.clip, scene, guides, FEW)
    assert shuffled.visibility.mean() > 0.8 * ordered.visibility.mean()


def test_without_guides_or_texture_no_corner_is_found(calm: Sample) -> None:
    none = FeatureTracks(torch.zeros(8, 0, 2), torch.zeros(8, 0))
    alone = track_corners(calm.clip, calm.scene, none, FEW)
    assert (alone.visibility.sum(dim=0) == 1).all()
    blank = replace(calm.clip, images=torch.full_like(calm.clip.images, 90))
    assert track_corners(blank, calm.scene, rough_guides(calm.scene), FEW).visibility.shape == (8, 0)
    one = track_corners(calm.clip.frames([0]), calm.scene.frames([0]), none.frames([0]), FEW)
    assert one.visibility.shape[0] == 1


def test_guides_of_a_scene_lead_to_its_unoccluded_surfaces(dynamic: Sample) -> None:
    scene = dynamic.scene
    guides = scene_guides(scene)
    assert guides.pixels.shape == (8, 8 * (192 // 8) * (256 // 8), 2)
    of_first = guides.frames(list(range(8)))
    column, row = guides.pixels[0, : 24 * 32].long().unbind(-1)
    is_dynamic = scene.dynamic[0, row, column] > 0.5
    assert is_dynamic.any()
    assert (of_first.visibility[:, : 24 * 32][:, is_dynamic] == 0).all()
    # Compare with the scene's own tracks of static pixels of the first frame, where both are visible.
    assert scene.tracks is not None
    query = row * 256 + column
    surface = (scene.tracks.visibility[0][:, query] > 0.5) & (guides.visibility[:, : 24 * 32] > 0)
    off = (scene.track_pixels[0][:, query] - guides.pixels[:, : 24 * 32]).norm(dim=-1)
    assert surface.float().mean() > 0.2
    assert off[surface].max() < 0.1
    is_hidden = (scene.tracks.visibility[0][:, query] < 0.5) & ~is_dynamic
    assert guides.visibility[:, : 24 * 32][is_hidden].mean() < 0.2


def test_different_numbers_of_frames_are_rejected(calm: Sample) -> None:
    guides = rough_guides(calm.scene)
    with pytest.raises(ValueError, match="guides through 7"):
        track_corners(calm.clip, calm.scene, guides.frames(list(range(7))), FEW)
    with pytest.raises(ValueError, match="one clip"):
        track_corners(Clip.stack([replace(calm.clip, source=None)]), calm.scene, guides, FEW)


def test_guides_many_pixels_off_lead_to_corners_through_the_coarsest_level(calm: Sample) -> None:
    """All guides lie on one side of the true place, so that their mean is as far off as each of them."""
    exact = feature_tracks_of_scene(calm.scene, num_tracks=3000)
    shift = torch.tensor([10.0, 0.0]) * (torch.arange(8) % 2)[:, None, None]
    tracks = track_corners(calm.clip, calm.scene, FeatureTracks(exact.pixels + shift, exact.visibility), FEW)
    true, _ = true_pixels(calm, tracks)
    is_near = ((tracks.pixels - true).norm(dim=-1) < 1) & (tracks.visibility > 0)
    is_next = torch.arange(8)[:, None] == own_frames(tracks) + 1
    assert is_near[is_next].float().mean() > 0.45


def test_corners_are_tracked_as_well_without_the_guides_of_one_frame(calm: Sample) -> None:
    """A corner that is lost in a frame is searched for from where it was last found."""
    guides = rough_guides(calm.scene)
    visibility = guides.visibility.clone()
    visibility[4] = 0
    tracks = track_corners(calm.clip, calm.scene, FeatureTracks(guides.pixels, visibility), FEW)
    full = track_corners(calm.clip, calm.scene, guides, FEW)
    is_elsewhere = (own_frames(tracks) < 4)[None] & (torch.arange(8) > 4)[:, None]
    assert (tracks.visibility[4][own_frames(tracks) != 4] == 0).all()
    assert tracks.visibility[is_elsewhere].sum() > 0.9 * full.visibility[is_elsewhere].sum()
