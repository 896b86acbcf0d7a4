"""Exports of long clips read one frame at a time and equal those of the same frames in a single scene."""

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from commands import run
from long_folders import count_loaded_frames, write_long_scene
from optional_packages import needs_open3d
from scenes import HEIGHT, WIDTH, make_clip, make_scene

from recon4d.errors import UserError
from recon4d.io import FORMATS, PointSelection, SceneInfo, export_results, open_frames, save_scene, write_jpeg
from recon4d.io import long_archive as archive
from recon4d.io.exporters.colmap_tracks import find_tracked_points
from recon4d.io.exporters.frame_source import LongClipFrames
from recon4d.io.exporters.selected_frames import PixelSample, SelectedFrames
from recon4d.records import ClipSource, Scene

NUM_FRAMES = 8
MAX_FRAMES_IN_MEMORY = 3
"""Frames that an export may hold at once: far fewer than the clip has."""
NAMES = tuple(f"wall_{number}" for number in range(NUM_FRAMES))


def make_wall() -> Scene:
    """Make the slanted wall with dynamic and unknown pixels, different confidences, and tracks of the first frame."""
    generator = torch.Generator().manual_seed(0)
    scene = make_scene(NUM_FRAMES)
    confidence = 1 + 9 * torch.rand(scene.depths.shape, generator=generator)
    confidence[torch.rand(scene.depths.shape, generator=generator) < 0.1] = 0.0
    confidence[4] = 0.0
    scene.dynamic[:, :, : WIDTH // 4] = 1.0
    return replace(scene, depth_confidence=confidence)


def make_ground() -> Scene:
    """Make a plane 1.5 below the cameras in the lower half of the maps, with nothing above the horizon."""
    scene = make_scene(NUM_FRAMES)
    rows = (torch.arange(HEIGHT) + 0.5)[:, None].expand(HEIGHT, WIDTH)
    world_from_cam = torch.eye(4).repeat(NUM_FRAMES, 1, 1)
    world_from_cam[:, 2, 3] = torch.arange(NUM_FRAMES) / 10
    is_ground = rows > 8
    depths = torch.where(is_ground, 1.5 * 22.0 / (rows - 6.5), 1.0).expand(NUM_FRAMES, HEIGHT, WIDTH)
    return replace(
        scene,
        cameras=replace(scene.cameras, world_from_cam=world_from_cam),
        depths=depths.clone(),
        depth_confidence=is_ground.float().expand(NUM_FRAMES, HEIGHT, WIDTH).clone(),
        tracks=None,
    )


def write_both(folder: Path, scene: Scene) -> tuple[Path, Path]:
    """Write a scene as the folder of a long clip and as a single archive, with the same pictures; return both."""
    long, short = folder / "long", folder / "short"
    times, size = torch.arange(NUM_FRAMES) / 10, (2 * HEIGHT, 2 * WIDTH)
    source = ClipSource("wall.mp4", NAMES, tuple(range(NUM_FRAMES)))
    info = SceneInfo("truth", True, "0", source, size, {})
    images = make_clip(NUM_FRAMES, *size).images
    write_long_scene(long, scene, times, info, images)
    (short / "frames").mkdir(parents=True)
    for name, image in zip(NAMES, images, strict=True):
        write_jpeg(short / "frames" / f"{name}.jpg", image)
    save_scene(short, scene, times, info)
    return long, short


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_loaded_frames(monkeypatch)


@needs_open3d
def test_every_format_equals_that_of_a_single_scene_and_reads_frame_by_frame(
    tmp_path: Path, loaded: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    long, short = write_both(tmp_path, make_wall())
    names = [name for name in FORMATS if name != "usd" or find_spec("pxr") is not None]
    options = ["--to", *names, "--max-points", 900, "--metres-per-unit", 2]
    assert run("export", long, "--out", tmp_path / "of_long", *options) == 0
    assert len(loaded) > NUM_FRAMES
    assert max(loaded) <= MAX_FRAMES_IN_MEMORY
    summaries = capfd.readouterr().out
    assert "of them from tracks" in summaries
    assert "(0 of them from tracks)" not in summaries
    assert run("export", short, "--out", tmp_path / "of_short", *options) == 0
    assert capfd.readouterr().out == summaries.replace("of_long", "of_short")
    of_long, of_short = contents(tmp_path / "of_long"), contents(tmp_path / "of_short")
    assert of_long.keys() == of_short.keys()
    assert [name for name in of_long if of_long[name] != of_short[name]] == []


def test_the_ground_is_leveled_frame_by_frame(tmp_path: Path, loaded: list[int]) -> None:
    long, short = write_both(tmp_path, make_ground())
    for folder in (long, short):
        assert run("export", folder, "--out", folder / "out", "--level", "--to", "npz", "tum") == 0
    assert contents(long / "out") == contents(short / "out")
    with np.load(long / "out" / "npz" / f"{NAMES[7]}.npz") as arrays:
        assert np.abs(arrays["points"][arrays["depth_confidence"] > 0][:, 1]).max() < 1e-4
        np.testing.assert_allclose(arrays["world_from_cam"][:3, 3], [0, -1.5, 0.7], atol=1e-4)


def test_the_ground_of_a_long_clip_is_searched_in_few_frames(tmp_path: Path, monkeypatch, loaded: list[int]) -> None:
    monkeypatch.setattr("recon4d.io.exporters.frame_source.MAX_GROUND_FRAMES", 3)
    long, _ = write_both(tmp_path, make_ground())
    transform = open_frames(long).converted_to_meters(2.0).ground_from_world()
    assert len(loaded) == 3
    np.testing.assert_allclose(transform[:3, 3], [0, -3.0, 0], atol=1e-4)


def test_a_damaged_frame_leaves_nothing(tmp_path: Path) -> None:
    long, _ = write_both(tmp_path, make_wall())
    archive.frame_file(long, 5).write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"000005\.npz"):
        export_results(tmp_path / "out", open_frames(long), ["tum", "depth-exr"], PointSelection())
    assert not (tmp_path / "out").exists()


@needs_open3d
def test_samples_of_a_long_clip_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentiles and medians come from few pixels, and the exports stay close to those of all pixels."""
    long, short = write_both(tmp_path, make_wall())
    monkeypatch.setattr(LongClipFrames, "max_samples", 40 * NUM_FRAMES)
    selection = PointSelection(drop=30, max_points=500)
    sampled, exact = (SelectedFrames(open_frames(folder), selection) for folder in (long, short))
    assert len(sampled.static.depths.values) <= 40 * NUM_FRAMES < len(exact.static.depths.values)
    assert len(sampled.depths.values) <= 40 * NUM_FRAMES
    assert sampled.static.depths.median == pytest.approx(exact.static.depths.median, rel=0.05)
    assert sampled.depths.maximum == exact.depths.maximum
    assert sampled.depths.count == exact.depths.count
    assert sampled.static.depths.count == pytest.approx(exact.static.depths.count, rel=0.1)
    points = sampled.static_points(500)
    assert len(points.points) == 500
    np.testing.assert_allclose(points.points[:, 2], 4 + points.points[:, 0] / 4, atol=1e-5)
    tracked, all_tracked = find_tracked_points(sampled, 500), find_tracked_points(exact, 500)
    assert len(tracked.points) <= 40 < len(all_tracked.points)
    np.testing.assert_allclose(tracked.points[:, 2], 4 + tracked.points[:, 0] / 4, atol=1e-4)
    export_results(tmp_path / "out", open_frames(long), ["ply", "tsdf"], selection)
    assert len(trimesh.load(tmp_path / "out" / "ply" / "static.ply").vertices) == 500


def test_a_pixel_sample_is_bounded_and_even() -> None:
    frames = torch.rand(10, 20, 30, generator=torch.Generator().manual_seed(1))
    masks = frames > 0.5
    masks[3] = False
    masks[3, 0, 0] = True
    bounded, complete = PixelSample(10, 1000), PixelSample(10, None)
    for values, mask in zip(frames, masks, strict=True):
        bounded.add(values[None], mask[None])
        complete.add(values[None], mask[None])
    assert torch.equal(complete.values, frames[masks])
    assert complete.count == bounded.count == int(masks.sum())
    assert complete.maximum == bounded.maximum == float(frames[masks].max())
    assert 300 < len(bounded.values) <= 1000
    assert bounded.median == pytest.approx(complete.median, abs=0.03)
    # A frame contributes at least one value, although the sampled pixels do not include its only one.
    alone = PixelSample(10, 10)
    alone.add(frames[3:4], masks[3:4])
    assert alone.values.tolist() == [float(frames[3, 0, 0])]


@needs_open3d
def test_a_clip_without_known_pixels_is_refused(tmp_path: Path) -> None:
    scene = make_wall()
    long, _ = write_both(tmp_path, replace(scene, depth_confidence=torch.zeros_like(scene.depths)))
    for name in ("ply", "splats", "tsdf", "depth-png", "depth-exr", "colmap"):
        with pytest.raises(UserError, match="no pixel has a known depth"):
            export_results(tmp_path / "out", open_frames(long), [name], PointSelection())
    dynamic = replace(scene, dynamic=torch.ones_like(scene.dynamic), metres_per_unit=torch.tensor(math.nan))
    long, _ = write_both(tmp_path / "dynamic", dynamic)
    with pytest.raises(UserError, match="every confident pixel is dynamic"):
        export_results(tmp_path / "out", open_frames(long), ["ply"], PointSelection())
