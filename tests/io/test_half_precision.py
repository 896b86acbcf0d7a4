"""Archives with half-precision maps: small, safe, and read back by every reader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from walls import HEIGHT, NUM_FRAMES, WIDTH, make_clip, make_info, make_scene, make_tracks

from recon4d.io import load_scene, load_times, save_scene, write_results
from recon4d.io.half_precision import MAX_POINT_ERROR, MAX_RELATIVE_ERROR
from recon4d.io.saved_results import read_results
from recon4d.records import Scene

MAPS = ("depths", "depth_confidence", "points", "point_confidence", "moving")


def stored_types(folder: Path, scene: Scene) -> dict[str, str]:
    save_scene(folder / "scene.npz", scene, half_maps=True)
    with np.load(folder / "scene.npz") as arrays:
        return {name: arrays[name].dtype.name for name in arrays if name != "info"}


def varied(depth_scale: float = 1.0) -> Scene:
    """A scene with cameras apart and depth and confidence that vary, in any unit of length."""
    generator = torch.Generator().manual_seed(0)
    scene = scenes.make_scene(3)
    shape = scene.depths.shape
    depths = depth_scale * (0.5 + 20 * torch.rand(shape, generator=generator))
    poses = scene.cameras.world_from_cam.clone()
    poses[:, :3, 3] *= depth_scale
    scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=poses), depths=depths)
    return replace(
        scene,
        depth_confidence=1 + 9 * torch.rand(shape, generator=generator),
        points=scene.points_from_depth,
        point_confidence=1 + 9 * torch.rand(shape, generator=generator),
        dynamic=torch.rand(shape, generator=generator),
    )


def test_maps_are_half_and_everything_else_is_not(tmp_path):
    scene = replace(varied(), tracks=scenes.make_scene(3, anchors=(0,)).tracks)
    types = stored_types(tmp_path, scene)
    assert {name for name, dtype in types.items() if dtype == "float16"} == set(MAPS)
    save_scene(tmp_path / "full.npz", scene)
    maps = sum(getattr(scene, "dynamic" if name == "moving" else name).nbytes for name in MAPS)
    saved = (tmp_path / "full.npz").stat().st_size - (tmp_path / "scene.npz").stat().st_size
    assert saved == pytest.approx(maps / 2, rel=0.01)

    loaded = load_scene(tmp_path / "scene.npz")
    assert loaded.depths.dtype == loaded.cameras.intrinsics.dtype == torch.float32
    assert torch.equal(loaded.cameras.world_from_cam, scene.cameras.world_from_cam)
    assert torch.equal(loaded.tracks.points, scene.tracks.points)
    assert (loaded.depths / scene.depths - 1).abs().max() <= MAX_RELATIVE_ERROR
    distances = (scene.points - scene.cameras.centers[:, None, None]).norm(dim=-1, keepdim=True)
    assert ((loaded.points - scene.points).abs() / distances).max() <= MAX_POINT_ERROR


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_depth_outside_of_the_range_stays_exact(tmp_path, scale: float):
    # 1e-6: subnormal in half precision. 1e4: the farthest depths overflow.
    scene = varied(scale)
    types = stored_types(tmp_path, scene)
    assert types["depths"] == "float32"
    assert types["moving"] == "float16"
    assert torch.equal(load_scene(tmp_path).depths, scene.depths)


def test_points_far_from_the_origin_stay_exact(tmp_path):
    scene = varied()
    shift = torch.eye(4)
    shift[0, 3] = 5000.0  # float16 numbers near 5000 are 4 apart
    moved = scene.transformed(shift)
    types = stored_types(tmp_path, moved)
    assert types["points"] == "float32"
    assert types["depths"] == "float16"


def test_confidences_that_half_precision_would_merge_stay_exact(tmp_path):
    scene = varied()
    close = 1 + 1e-3 * torch.rand(scene.depths.shape, generator=torch.Generator().manual_seed(1))
    types = stored_types(tmp_path, replace(scene, depth_confidence=close))
    assert types["depth_confidence"] == "float32"
    assert types["point_confidence"] == "float16"
    # Where there is nothing to merge, half precision is enough.
    assert stored_types(tmp_path, replace(scene, depth_confidence=torch.ones_like(close)))["depth_confidence"] == (
        "float16"
    )


def test_known_pixels_stay_known_and_unknown_ones_unknown_and_finite(tmp_path):
    scene = varied()
    confidence, depths = scene.depth_confidence.clone(), scene.depths.clone()
    confidence[0, 0] = 0
    depths[0, 0, :3] = torch.tensor([1e30, 1e-30, -1e30])
    types = stored_types(tmp_path, replace(scene, depths=depths, depth_confidence=confidence))
    assert types["depths"] == types["depth_confidence"] == "float16"  # unknown pixels do not matter
    loaded = load_scene(tmp_path)
    assert torch.isfinite(loaded.depths).all()
    assert torch.equal(loaded.depth_confidence > 0, confidence > 0)
    confidence[0, 1, 0] = 1e-9  # would become 0, which is unknown
    types = stored_types(tmp_path, replace(scene, depth_confidence=confidence))
    assert types["depth_confidence"] == "float32"
    assert torch.equal(load_scene(tmp_path).depth_confidence > 0, confidence > 0)


def test_unknown_probabilities_stay_unknown(tmp_path):
    dynamic = varied().dynamic.clone()
    dynamic[1, 2] = torch.nan
    assert stored_types(tmp_path, replace(varied(), dynamic=dynamic))["moving"] == "float16"
    assert torch.equal(load_scene(tmp_path).dynamic.isnan(), dynamic.isnan())


def test_result_folders_are_read_as_ever(tmp_path):
    scene = replace(make_scene(), tracks=make_tracks())
    info = make_info(source=None, original_size=(HEIGHT, WIDTH))
    write_results(tmp_path, make_clip(), scene, info, half_maps=True)
    results = read_results(tmp_path)
    assert results.scene.depths.dtype == torch.float32
    assert torch.equal(results.scene.depths, scene.depths)  # a depth of 2 is exact
    assert len(load_times(tmp_path)) == NUM_FRAMES
