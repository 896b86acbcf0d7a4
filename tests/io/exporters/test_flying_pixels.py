"""No exporter writes points between two surfaces, although the maps have such pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
import trimesh

from recon4d import viewer
from recon4d.geometry import is_depth_edge
from recon4d.io import PointSelection, SceneInfo, export_results, read_results, save_scene, write_jpeg
from recon4d.io.flying_pixels import flying_pixels
from recon4d.io.point_cloud import confident_pixels
from recon4d.records import Cameras, ClipSource, Scene
from recon4d.viewer.selection import displayable_pixels

open3d = pytest.importorskip("open3d")

HEIGHT, WIDTH = 48, 512
NEAR, FAR = 1.0, 1.10
"""Depths whose ramp is too gentle for a comparison of direct neighbors."""


def two_planes(num_frames: int = 2) -> Scene:
    """A near plane on the left and a far one on the right, enlarged from maps of 224 pixels: the edge is a ramp."""
    small = (round(HEIGHT * 224 / WIDTH), 224)
    depths = torch.full((num_frames, *small), NEAR)
    depths[:, :, 112:] = FAR
    poses = torch.eye(4).repeat(num_frames, 1, 1)
    poses[:, 0, 3] = 0.02 * torch.arange(num_frames)
    intrinsics = torch.tensor([[200.0, 0, 112], [0, 200, small[0] / 2], [0, 0, 1]]).expand(num_frames, 3, 3)
    ones = torch.ones_like(depths)
    scene = Scene(
        Cameras(poses, intrinsics),
        depths,
        ones,
        torch.zeros(*depths.shape, 3),
        ones,
        torch.zeros_like(depths),
        torch.tensor(1.0),
    )
    scene = replace(scene, points=scene.points_from_depth)
    return scene.resized(HEIGHT, WIDTH)


def is_between(depths: np.ndarray) -> np.ndarray:
    return (depths > 1.02 * NEAR) & (depths < 0.98 * FAR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, scene = tmp_path_factory.mktemp("planes"), two_planes()
    (out / "frames").mkdir()
    names = tuple(f"{number}.jpg" for number in range(scene.num_frames))
    for name in names:
        write_jpeg(out / "frames" / name, torch.full((3, HEIGHT, WIDTH), 120, dtype=torch.uint8))
    source = ClipSource("clip.mp4", names, tuple(range(scene.num_frames)))
    save_scene(out, scene, torch.zeros(2), SceneInfo("truth", True, "0", source, (HEIGHT, WIDTH), {}))
    return out


def heights(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Depth (z in the world) of all points in the files of a format."""
    if name == "colmap":
        model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
        return {"points3D": np.array([point.xyz[2] for point in model.points3D.values()])}
    files = sorted(folder.glob("*.ply")) + sorted(folder.glob("*.glb"))
    found = {}
    for file in files:
        if file.suffix == ".glb":
            (cloud,) = trimesh.load(file).geometry.values()  # type: ignore[union-attr]
            found[file.name] = -np.asarray(cloud.vertices)[:, 2]
        elif name in ("tsdf", "alpha"):
            found[file.name] = np.asarray(open3d.io.read_triangle_mesh(str(file)).vertices)[:, 2]
        else:
            found[file.name] = np.asarray(open3d.io.read_point_cloud(str(file)).points)[:, 2]
    return found


def test_the_maps_have_pixels_between_the_planes() -> None:
    scene = two_planes()
    assert is_between(scene.depths.numpy()).any(axis=(0, 1)).sum() >= 2  # columns
    assert not is_depth_edge(scene.depths, scene.depths > 0).any()


@pytest.mark.parametrize("name", ["ply", "glb", "colmap", "splats", "tsdf", "alpha"])
def test_no_point_is_between_the_planes(folder: Path, tmp_path: Path, name: str) -> None:
    export_results(tmp_path / "out", read_results(folder), [name], PointSelection(drop=0.0))
    found = heights(tmp_path / "out" / name, name)
    assert found
    for depths in found.values():
        assert not is_between(depths).any()
        assert min((depths < 1.02 * NEAR).sum(), (depths > 0.98 * FAR).sum()) > 100


def test_clouds_of_results_and_the_viewer_select_the_same_pixels() -> None:
    scene = two_planes()
    kept = confident_pixels(scene, percentile=0.0)
    assert torch.equal(kept, displayable_pixels(scene))
    assert not is_between(scene.depths[kept].numpy()).any()
    assert kept.float().mean() > 0.98  # only the ramp is lost
    assert viewer.ViewConfig().movers_only


def test_oblique_planes_are_kept() -> None:
    # The ground of a camera 1.5 units above it: depth changes by more than 5 % over three rows.
    rows = torch.arange(24.0, 200.0) + 0.5
    ground = (1.5 * 400 / rows)[:, None].expand(-1, WIDTH)[None]
    steep = ground[0, :-3, 0] / ground[0, 3:, 0] > 1.05
    assert steep[4:].sum() > 30
    known = torch.ones_like(ground, dtype=torch.bool)
    assert not flying_pixels(ground, known)[:, 4:-4].any()


def test_a_sharp_edge_loses_one_pixel_on_either_side_and_unknown_pixels_form_none() -> None:
    depths = torch.full((1, 40, WIDTH), NEAR)
    depths[:, :, 256:] = FAR
    known = torch.ones_like(depths, dtype=torch.bool)
    assert flying_pixels(depths, known)[0, 20].nonzero()[:, 0].tolist() == [255, 256]
    known[:, :, 250:262] = False
    assert not flying_pixels(depths, known).any()
    # Small maps have no room for ramps: only direct neighbors count.
    ramp = torch.linspace(1.0, 1.12, 4).repeat_interleave(torch.tensor([20, 1, 1, 20]))[None, None].expand(1, 30, 42)
    assert not flying_pixels(ramp, torch.ones_like(ramp, dtype=torch.bool)).any()
