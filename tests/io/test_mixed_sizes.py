"""Pictures of different sizes: priors are mapped to the common frame, and exports have pictures of their own size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.errors import UserError
from recon4d.geometry import project, transform_points
from recon4d.inference import PriorFiles, long_clip_with_prior_files, with_prior_files
from recon4d.io import PointSelection, export_results, open_frames, read_clip, read_photo, write_raster, write_results
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.fitting import Placement
from recon4d.io.long_clips import open_long_clip
from recon4d.io.scene_info import SceneInfo
from recon4d.records import Cameras, Clip, Scene

SIZES = ((60, 80), (80, 60), (120, 160))
"""Landscape, portrait, and landscape of twice the size: all have a longer side of 80 in a frame of 80 x 80."""
FOCAL = (100.0, 100.0, 200.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    for number, (height, width) in enumerate(SIZES):
        picture = np.full((height, width, 3), 200, np.uint8)
        picture[: height // 2] = 100  # the upper half is darker
        Image.fromarray(picture).save(tmp_path / "p" / f"{number}.png")
    frames = []
    for number, (height, width) in enumerate(SIZES):
        pose = np.eye(4)
        pose[0, 3] = number
        lens = {"fl_x": FOCAL[number], "cx": width / 2 + 2, "cy": height / 2 - 1, "w": width, "h": height}
        frames.append({"file_path": f"{number}.png", "transform_matrix": pose.tolist(), **lens})
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    for name, value in (("masks", 255), ("depth", 2000)):
        (tmp_path / name).mkdir()
        for number, (height, width) in enumerate(SIZES):
            values = np.zeros((height, width), np.uint8 if name == "masks" else np.uint16)
            values[: height // 2, : width // 4] = value
            write_raster(tmp_path / name / f"{number}.png", values)
    return tmp_path


def read(folder: Path) -> Clip:
    with pytest.warns(UserWarning, match="pictures of 3 sizes"):
        return read_clip(folder / "p")


def test_cameras_masks_and_depth_are_those_of_the_pictures(folder: Path) -> None:
    files = PriorFiles(cameras=folder / "transforms.json", mask=folder / "masks", depth=folder / "depth")
    clip = with_prior_files(read(folder), files)
    priors = clip.priors
    assert clip.size == (80, 80)
    # Centers: (42, 29) + 10 rows, (32, 39) + 10 columns, and (82, 59) / 2 + 10 rows.
    found = priors.intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    assert found == [[100, 100, 42, 39], [100, 100, 42, 39], [100, 100, 41, 39.5]]
    for frame, size in enumerate(SIZES):
        rows, columns = Placement(size, (80, 80)).slices
        height, width = Placement(size, (80, 80)).scaled
        ignored = torch.ones(80, 80, dtype=torch.bool)
        ignored[rows, columns] = False
        ignored[rows.start : rows.start + height // 2, columns.start : columns.start + width // 4] = True
        assert torch.equal(priors.ignore[frame], ignored)
        depth = priors.depths[frame, rows, columns]
        assert (depth[: height // 2, : width // 4] == 2).all()
        assert int(priors.depths[frame].isfinite().sum()) == (height // 2) * (width // 4)


def test_points_of_depth_are_in_pixels_of_the_pictures(folder: Path) -> None:
    pixels, frames = np.array([[79.5, 0.5], [0.5, 79.5], [159.5, 119.5]]), np.arange(3)
    np.savez(folder / "points.npz", depths=np.array([1.0, 2, 3]), pixels=pixels, frames=frames)
    priors = with_prior_files(read(folder), PriorFiles(depth=folder / "points.npz")).priors
    assert priors.depths[0, 10, 79] == 1
    assert priors.depths[1, 79, 10] == 2
    assert priors.depths[2, 69, 79] == 3
    np.savez(folder / "points.npz", depths=np.array([1.0]), pixels=np.array([[70.0, 5]]), frames=np.array([1]))
    with pytest.raises(UserError, match="outside the clip"):
        with_prior_files(read(folder), PriorFiles(depth=folder / "points.npz"))


def test_intrinsics_of_each_picture_or_of_one_camera(folder: Path) -> None:
    clip = read(folder)
    (folder / "each.txt").write_text("100 100 42 29\n100 100 32 39\n200 200 82 59\n")
    each = read_intrinsics(str(folder / "each.txt"), clip).matrices
    assert each[:, 0, 2].tolist() == [42, 42, 41]
    one = read_intrinsics("200,210,80,60", clip, (120, 160)).matrices
    assert one[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist() == [[100, 105, 40, 40], [105, 100, 40, 40], [100, 105, 40, 40]]
    with pytest.raises(UserError, match="wanted one set of intrinsics for each, or the size"):
        read_intrinsics("200,200,80,60", clip)
    with pytest.raises(UserError, match="another aspect ratio"):
        read_intrinsics("200,200,80,60", clip, (100, 160))
    with pytest.raises(UserError, match="off the center"):
        read_intrinsics("200,200,90,60", clip, (120, 160))


def test_one_mask_for_pictures_of_different_sizes_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="it is 80 x 60 pixels, and the clip"):
        with_prior_files(read(folder), PriorFiles(mask=folder / "masks" / "0.png"))
    with pytest.raises(UserError, match="wanted a folder with a mask for each"):
        long_clip_with_prior_files(open_long_clip(folder / "p"), PriorFiles(mask=folder / "masks" / "0.png"))


def test_long_clips_are_brought_to_the_same_frame(folder: Path) -> None:
    files = PriorFiles(cameras=folder / "transforms.json", mask=folder / "masks")
    clip, long = with_prior_files(read(folder), files), long_clip_with_prior_files(open_long_clip(folder / "p"), files)
    assert long.size == (80, 80)
    assert torch.equal(torch.stack(list(long.images([0, 1, 2]))), clip.images)
    torch.testing.assert_close(long.priors.intrinsics, clip.priors.intrinsics)
    assert torch.equal(torch.stack(list(long.ignore([0, 1, 2]))), clip.priors.ignore)
    bare = open_long_clip(folder / "p")
    assert not next(bare.ignore([0]))[10:70].any()
    assert next(bare.ignore([0]))[:10].all()


def exact_results(folder: Path) -> Path:
    """A plane at z = 4 seen by the known cameras, with maps of half the size of the frame."""
    clip = with_prior_files(read(folder), PriorFiles(cameras=folder / "transforms.json"))
    cameras = Cameras(clip.priors.world_from_cam, clip.priors.intrinsics).resized((80, 80), (40, 40))
    ones = torch.ones(3, 40, 40)
    scene = Scene(cameras, 4 * ones, ones, torch.zeros(3, 40, 40, 3), 0 * ones, 0 * ones, torch.tensor(torch.nan))
    scene = scene.with_unknown(clip.priors.resized((80, 80), (40, 40)).ignore)  # pyright: ignore[reportArgumentType]
    out = folder / "out"
    out.mkdir()
    write_results(out, clip, scene, SceneInfo("m", True, "0", clip.source, clip.size, {}))
    return out


def test_exports_have_pictures_cameras_and_maps_of_their_own_size(folder: Path) -> None:
    out = exact_results(folder)
    kinds = ["colmap", "colmap-text", "nerfstudio", "depth-png", "depth-exr", "npz"]
    export_results(folder / "exported", open_frames(out), kinds, PointSelection(drop=0))
    stored = json.loads((folder / "exported" / "nerfstudio" / "transforms.json").read_text())["frames"]
    for number, (height, width) in enumerate(SIZES):
        image = read_photo(folder / "exported" / "colmap" / "images" / f"{number}.jpg")
        assert tuple(image.shape[1:]) == (height, width)
        assert abs(int(image[0, 2, 2]) - 100) < 4  # no black padding
        assert abs(int(image[0, -2, -2]) - 200) < 4
        frame = stored[number]
        assert (frame["h"], frame["w"]) == (height, width)
        assert frame["fl_x"] == pytest.approx(FOCAL[number], rel=1e-5)
        assert (frame["cx"], frame["cy"]) == pytest.approx((width / 2 + 2, height / 2 - 1), rel=1e-5)
    sizes = json.loads((folder / "exported" / "depth-png" / "depth.json").read_text())["sizes"]
    assert sizes == [[30, 40], [40, 30], [30, 40]]
    for number, size in enumerate(sizes):
        arrays = np.load(folder / "exported" / "npz" / f"{number}.npz")
        assert list(arrays["depth"].shape) == size
        assert (arrays["depth_confidence"] > 0).all()
        column, row = 5, 7
        pixel = np.array([column + 0.5, row + 0.5, 1])
        point = np.linalg.inv(arrays["intrinsics"]) @ pixel * 4
        world = arrays["world_from_cam"][:3, :3] @ point + arrays["world_from_cam"][:3, 3]
        np.testing.assert_allclose(arrays["points"][row, column], world, atol=0.06)
        with Image.open(folder / "exported" / "depth-png" / f"{number}.png") as picture:
            assert list(np.array(picture).shape) == size
            assert (np.array(picture) > 0).all()


def test_exported_colmap_observations_are_exact(folder: Path) -> None:
    import pycolmap

    out = exact_results(folder)
    export_results(folder / "exported", open_frames(out), ["colmap", "colmap-text"], PointSelection(drop=0))
    for kind in ("colmap", "colmap-text"):
        model = pycolmap.Reconstruction(folder / "exported" / kind / "sparse" / "0")
        assert {(camera.height, camera.width) for camera in model.cameras.values()} == set(SIZES)
        for image in model.images.values():
            camera, observed = image.camera, image.get_observation_points2D()
            assert len(observed) > 100
            points = torch.from_numpy(np.stack([model.points3D[point.point3D_id].xyz for point in observed]))
            pose = torch.eye(4).double()
            pose[:3] = torch.from_numpy(np.array(image.cam_from_world().matrix()))
            pixels = project(
                transform_points(pose, points), torch.from_numpy(np.array(camera.calibration_matrix())).double()
            )
            found = torch.from_numpy(np.stack([point.xy for point in observed]))
            assert (pixels - found).norm(dim=-1).max() < 1e-2
            assert (found >= 0).all()
            assert (found <= torch.tensor([camera.width, camera.height])).all()


def test_results_are_read_back_and_sizes_survive(folder: Path) -> None:
    out = exact_results(folder)
    frames = open_frames(out)
    assert frames.outline.info.source.sizes == SIZES
    image = frames.read_image(2)
    assert tuple(image.shape[1:]) == (40, 40)
    assert not image[:, :4].any()  # the padding
    assert abs(int(image[0, 8, 20]) - 100) < 4
    assert read_photo(out / "frames" / "2.jpg").shape == (3, 120, 160)
    for sizes in ([[1, 2]], [[0, 1]] * 3, [1, 2, 3], "x"):
        text = json.loads(frames.outline.info.to_json())
        text["source"]["sizes"] = sizes
        with pytest.raises(UserError, match=r"source\.sizes"):
            SceneInfo.from_json(json.dumps(text))
    assert replace(frames.outline.info, source=None).to_json()
