"""Tests of joint bilateral upsampling: edges of maps follow the edges of images."""

from dataclasses import replace

import pytest
import torch

from recon4d.records import Cameras, Clip, Priors, Scene
from recon4d.refine import output_size, upsample_scene

SMALL, LARGE = (12, 16), (48, 64)


def scene_with_edge(column: int) -> Scene:
    """Return a scene whose left part, up to a column of its small maps, is at depth 1 and moves; the rest is at 4."""
    left = (torch.arange(SMALL[1]) < column).expand(1, *SMALL)
    matrix = torch.tensor([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]])
    cameras = Cameras(torch.eye(4)[None], matrix[None])
    depths, ones = torch.where(left, 1.0, 4.0), torch.ones(1, *SMALL)
    scene = Scene(cameras, depths, 2 * ones, torch.zeros(1, *SMALL, 3), 3 * ones, left.float(), torch.tensor(1.0))
    return replace(scene, points=scene.points_from_depth)


def clip_with_edge(column: int, priors: Priors | None = None) -> Clip:
    """Return a white picture that is black up to a column."""
    image = torch.where(torch.arange(LARGE[1]) < column, 0, 255).to(torch.uint8).expand(1, 3, *LARGE).contiguous()
    return Clip(image, torch.zeros(1), priors)


@pytest.mark.parametrize("column", [21, 22, 23, 24, 25, 26, 27])
def test_edges_of_depth_lie_on_edges_of_the_picture(column: int) -> None:
    """The small maps have their edge at column 24 of the picture, whose own edge is up to 3 pixels away."""
    scene = upsample_scene(scene_with_edge(6), clip_with_edge(column), LARGE)
    left = (torch.arange(LARGE[1]) < column).expand(1, *LARGE)
    torch.testing.assert_close(scene.depths, torch.where(left, 1.0, 4.0), rtol=0.25, atol=0)
    assert torch.equal(scene.dynamic > 0.5, left)
    torch.testing.assert_close(scene.depth_confidence, torch.full((1, *LARGE), 2.0))
    torch.testing.assert_close(scene.point_confidence, torch.full((1, *LARGE), 3.0))


def test_intrinsics_belong_to_the_new_size() -> None:
    scene = upsample_scene(scene_with_edge(6), clip_with_edge(24), LARGE)
    torch.testing.assert_close(scene.cameras.intrinsics[0, :2], 4 * scene_with_edge(6).cameras.intrinsics[0, :2])


def test_unknown_pixels_stay_unknown_and_have_no_influence() -> None:
    scene = scene_with_edge(6)
    known = scene.depths < 2
    unknown = replace(
        scene,
        depths=torch.where(known, scene.depths, 0.0),
        depth_confidence=torch.where(known, 2.0, 0.0),
        point_confidence=torch.where(known, 3.0, 0.0),
        dynamic=torch.where(known, 0.2, torch.nan),
    )
    enlarged = upsample_scene(unknown, clip_with_edge(24), LARGE)
    left = (torch.arange(LARGE[1]) < 24).expand(1, *LARGE)
    torch.testing.assert_close(enlarged.depths, torch.where(left, 1.0, 0.0), rtol=1e-4, atol=0)
    assert torch.equal(enlarged.depth_confidence > 0, left)
    assert torch.equal(enlarged.point_confidence > 0, left)
    torch.testing.assert_close(enlarged.dynamic, torch.where(left, 0.2, torch.nan), equal_nan=True)


def test_values_of_frames_without_a_camera_are_kept() -> None:
    """Tracks start at them."""
    scene = scene_with_edge(6).without_frames(torch.tensor([True]))
    enlarged = upsample_scene(scene, clip_with_edge(24), LARGE)
    assert not enlarged.depth_confidence.any()
    torch.testing.assert_close(enlarged.depths[0, 24], torch.where(torch.arange(LARGE[1]) < 24, 1.0, 4.0))


def test_ignored_pixels_are_unknown() -> None:
    priors = replace(Priors.unknown(1), ignore=(torch.arange(LARGE[1]) < 10).expand(1, *LARGE))
    scene = upsample_scene(scene_with_edge(6), clip_with_edge(24, priors=priors), LARGE)
    assert priors.ignore is not None
    assert torch.equal(scene.depth_confidence == 0, priors.ignore)


def test_a_scene_of_the_wanted_size_is_unchanged() -> None:
    scene = scene_with_edge(6)
    assert upsample_scene(scene, clip_with_edge(24), SMALL) is scene


@pytest.mark.parametrize(
    ("clip", "maps", "side", "expected"),
    [
        ((360, 640), (128, 224), 512, (288, 512)),
        ((640, 360), (224, 128), 512, (512, 288)),
        ((180, 320), (128, 224), 512, (180, 320)),  # the clip's own size
        ((360, 640), (288, 504), 504, (288, 504)),  # as large already
        ((360, 640), (288, 504), 100, (288, 504)),  # never smaller
        ((96, 128), (126, 168), 512, (126, 168)),  # a network that enlarges small pictures
    ],
)
def test_output_size(clip: tuple, maps: tuple, side: int, expected: tuple) -> None:
    assert output_size(clip, maps, side) == expected
