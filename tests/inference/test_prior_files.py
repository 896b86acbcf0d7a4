"""Priors from files: intrinsics, cameras, masks and depth are read for the frames of a clip."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prior_examples import INTRINSICS, MASK, POSES, priors_from, three_frames, tum_file
from scenes import make_scene

from recon4d import geometry as g
from recon4d.datasets import ColmapModels
from recon4d.errors import UserError
from recon4d.inference import (
    PriorFiles,
    with_prior_files,
)
from recon4d.io import SceneInfo, read_camera_file, save_scene, write_jpeg, write_raster
from recon4d.io.masks import mask_reader
from recon4d.records import (
    Clip,
    ClipSource,
    Priors,
)


@pytest.fixture
def clip() -> Clip:
    """Return three frames, every third of a video."""
    return three_frames()


class TestIntrinsics:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "50,52,31,19"),
            ("row.txt", "# fx fy cx cy\n50 52, 31 19\n"),
            ("matrix.txt", "50 0 31\n0 52 19\n0 0 1\n"),
            ("nine.txt", "50 0 31 0 52 19 0 0 1\n"),
            ("row.json", "[50, 52, 31, 19]"),
            ("object.json", '{"fx": 50, "fy": 52, "cx": 31, "cy": 19, "unit": "pixels"}'),
            ("matrix.json", "[[50, 0, 31], [0, 52, 19], [0, 0, 1]]"),
        ],
    )
    def test_intrinsics_for_all_frames(self, clip: Clip, tmp_path: Path, name: str, text: str) -> None:
        if name:
            (tmp_path / name).write_text(text)
        known = priors_from(clip, intrinsics=str(tmp_path / name) if name else text)
        assert torch.equal(known.intrinsics, INTRINSICS.expand(3, 3, 3))

    @pytest.mark.parametrize(
        "text", ["50 52 31 19\n60 52 31 19\n70 52 31 19\n", "[[50,52,31,19],[60,52,31,19],[70,52,31,19]]"]
    )
    def test_intrinsics_for_each_frame(self, clip: Clip, tmp_path: Path, text: str) -> None:
        (tmp_path / "zoom").write_text(text)
        assert priors_from(clip, intrinsics=str(tmp_path / "zoom")).intrinsics[:, 0, 0].tolist() == [50, 60, 70]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("50,52,31", "wanted fx fy cx cy or a 3x3 matrix"),
            ("-50,52,31,19", "focal lengths above 0"),
            ("50,52,nan,19", "finite"),
            ("none.json", "no such file, nor is this fx,fy,cx,cy"),
        ],
    )
    def test_invalid_values(self, clip: Clip, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            priors_from(clip, intrinsics=text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1 2 3 4\n5 6 7 8\n", "2 cameras, and the clip has 3 frames"),
            ("1 2 3 4\n5 6 7\n", "wanted fx fy cx cy"),
            ("", "wanted fx fy cx cy"),
            ('{"fx": 3}', "wanted fx fy cx cy"),
            ("50 0 31\n0 52 19\n0 0 2\n", "as a pinhole has"),
        ],
    )
    def test_invalid_files(self, clip: Clip, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "lens").write_text(text)
        with pytest.raises(UserError, match=message):
            priors_from(clip, intrinsics=str(tmp_path / "lens"))


def assert_poses(known: Priors, wanted: torch.Tensor) -> None:
    """Compare cameras relative to the first one, in float32 precision."""
    expected = (g.invert(wanted[0]) @ wanted).float()
    torch.testing.assert_close(known.world_from_cam, expected, atol=1e-6, rtol=1e-5)


class TestCameras:
    def test_a_trajectory_by_time(self, clip: Clip, tmp_path: Path) -> None:
        """The frames are at 0, 0.1 and 0.2 s; the file has more poses at slightly different times."""
        path = tum_file(tmp_path / "tum.txt", [0.001, 0.05, 0.109, 0.15, 0.2, 0.25, 0.3], POSES)
        assert_poses(priors_from(clip, cameras=path), POSES[[0, 2, 4]])

    def test_a_trajectory_by_image_names(self, clip: Clip, tmp_path: Path) -> None:
        stamps = [1305031102.1753 + 0.5 * i for i in range(7)]
        names = tuple(f"{stamps[i]:.4f}.png" for i in (1, 2, 6))
        path = tum_file(tmp_path / "tum.txt", stamps, POSES)
        photos = replace(clip, times=torch.full((3,), torch.nan), source=ClipSource("rgb", names, (1, 2, 6)))
        assert_poses(priors_from(photos, cameras=path), POSES[[1, 2, 6]])

    def test_a_trajectory_by_order(self, clip: Clip, tmp_path: Path) -> None:
        assert_poses(priors_from(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 1.0, 2.0], POSES[4:])), POSES[4:])

    def test_times_take_precedence_over_order(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [0.2, 0.0, 0.1], POSES[:3])
        assert_poses(priors_from(clip, cameras=path), POSES[[1, 2, 0]])

    def test_a_trajectory_with_a_gap(self, clip: Clip, tmp_path: Path) -> None:
        known = priors_from(clip, cameras=tum_file(tmp_path / "tum.txt", [0.0, 0.2], POSES[:2]))
        assert known.world_from_cam[1].isnan().all()
        assert_poses(known.frames([0, 2]), POSES[:2])

    def test_a_trajectory_of_another_clip(self, clip: Clip, tmp_path: Path) -> None:
        path = tum_file(tmp_path / "tum.txt", [7.0, 8.0], POSES[:2])
        with pytest.raises(UserError, match="2 cameras, and the clip has 3 frames; neither names nor times"):
            priors_from(clip, cameras=path)

    def test_a_colmap_model_without_images(self, clip: Clip, tmp_path: Path) -> None:
        """The model has images of twice the size and lacks one frame; the data set reader gives the same cameras."""
        colmap_model(tmp_path / "sparse", "PINHOLE 120 80 100 104 62 38")
        known = priors_from(clip, cameras=tmp_path / "sparse")
        assert torch.equal(known.intrinsics[[0, 2]], INTRINSICS.expand(2, 3, 3))
        assert known.intrinsics[1].isnan().all()
        assert known.world_from_cam[1].isnan().all()
        for picture in ("v_000000.jpg", "v_000006.jpg"):
            write_jpeg(tmp_path / picture, torch.zeros(3, 80, 120, dtype=torch.uint8))
        sample = ColmapModels(tmp_path).read(tmp_path.name, [0, 1])
        torch.testing.assert_close(known.frames([0, 2]).world_from_cam, sample.scene.cameras.world_from_cam)
        # Given intrinsics override those of the file.
        assert priors_from(clip, cameras=tmp_path / "sparse", intrinsics="9,9,9,9").intrinsics[0, 0, 0] == 9

    def test_the_distortion_of_a_colmap_model_is_removed(self, clip: Clip, tmp_path: Path) -> None:
        colmap_model(tmp_path / "distorted", "OPENCV 60 40 50 52 31 19 0.1 -0.02 0.01 0.003", with_all=True)
        from_model = with_prior_files(clip, PriorFiles(cameras=tmp_path / "distorted"))
        from_text = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", distortion="0.1,-0.02,0.01,0.003"))
        assert torch.equal(from_model.images, from_text.images)
        assert not torch.equal(from_model.images, clip.images)
        # Given intrinsics imply no distortion unless it is given as well.
        own = with_prior_files(clip, PriorFiles(intrinsics="50,52,31,19", cameras=tmp_path / "distorted"))
        assert torch.equal(own.images, clip.images)

    @pytest.mark.parametrize(
        ("lens", "message"),
        [
            ("EQUIRECTANGULAR 60 40 60 40", "360 degree panoramas"),
            ("SPHERE 60 40 50", "unknown model 'SPHERE'"),
            ("PINHOLE 60 40 50 52 31", "a PINHOLE camera with 3 parameters; wanted 4"),
            ("PINHOLE 60 40 -50 52 31 19", "focal lengths are -50 and 52"),
            ("PINHOLE 60 40 0 52 31 19", "focal lengths are 0 and 52"),
            ("PINHOLE 60 60 50 52 31 19", "60 x 60 pixels, and the clip's 60 x 40"),
        ],
    )
    def test_invalid_colmap_models(self, clip: Clip, tmp_path: Path, lens: str, message: str) -> None:
        colmap_model(tmp_path / "sparse", lens)
        with pytest.raises(UserError, match=message):
            priors_from(clip, cameras=tmp_path / "sparse")

    def test_transforms_json_by_hand(self, clip: Clip, tmp_path: Path) -> None:
        """OpenGL cameras look along -z. The second camera is at x = -2 and looks along the world's +x."""
        looks_along_x = [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
        frames = [
            {"file_path": "images/v_000003.png", "transform_matrix": looks_along_x, "fl_x": 60},
            {"file_path": "images/v_000000.png", "transform_matrix": np.eye(4).tolist()},
            {"file_path": "images/v_000006.png", "transform_matrix": np.eye(4).tolist()},
        ]
        stored = {"w": 60, "h": 40, "fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        for path in (tmp_path, tmp_path / "transforms.json"):
            known = priors_from(clip, cameras=path)
            assert known.intrinsics[:, 0, 0].tolist() == [50, 60, 50]
            assert torch.equal(known.intrinsics[0], INTRINSICS)
            first_from_second = known.world_from_cam[1]
            # In the first camera (x right, y down, z forward), the second looks to the right and is upright.
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 0, 1, 0]), torch.tensor([1.0, 0, 0, 0]))
            torch.testing.assert_close(first_from_second @ torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 1, 0, 0]))
            torch.testing.assert_close(first_from_second[:3, 3], torch.tensor([-2.0, 0, 0]))

    def test_transforms_json_with_an_angle_only(self, clip: Clip, tmp_path: Path) -> None:
        frames = [{"file_path": f"./train/r_{i}", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
        stored = {"camera_angle_x": 2 * np.arctan(0.5), "w": 60, "h": 40, "frames": frames}
        (tmp_path / "transforms.json").write_text(json.dumps(stored))
        expected = torch.tensor([[60.0, 0, 30], [0, 60, 20], [0, 0, 1]])
        torch.testing.assert_close(priors_from(clip, cameras=tmp_path).intrinsics, expected.expand(3, 3, 3))

    def test_a_scene_archive(self, clip: Clip, tmp_path: Path) -> None:
        """The maps are smaller than the clip, and frames are matched by name."""
        scene = make_scene(7).resized(20, 30)
        names = tuple(f"v_{number:06d}" for number in range(7))
        info = SceneInfo("m", True, "0", ClipSource("v.mp4", names, tuple(range(7))), (40, 60), {})
        save_scene(tmp_path, scene, torch.arange(7) / 30, info)
        known = priors_from(clip, cameras=tmp_path)
        assert_poses(known, POSES[[0, 3, 6]])
        torch.testing.assert_close(known.intrinsics, scene.resized(40, 60).cameras.intrinsics[:3])

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", "hello", "wanted rows of time tx ty tz"),
            ("a.txt", "1 2 3\n", "wanted rows of time tx ty tz"),
            ("a.txt", "0 0 0 0 0 0 0 0\n", "quaternion"),
            ("a.json", '{"frames": []}', "no list, or an empty one"),
            ("a.json", "{", "a.json"),
            ("a.json", '{"frames": [{"file_path": "x", "transform_matrix": [[2]]}]}', "shape"),
            ("scene.npz", "PK nothing", "cannot read"),
        ],
    )
    def test_invalid_files(self, clip: Clip, tmp_path: Path, name: str, content: str, message: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            priors_from(clip, cameras=tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_missing_camera_files(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds neither a scene"):
            read_camera_file(tmp_path)
        with pytest.raises(UserError, match=r"does not exist|[Nn]o such file"):
            read_camera_file(tmp_path / "none")


def colmap_model(folder: Path, lens: str, with_all: bool = False) -> None:
    """Write a model of frames 0 and 6 (and 3 with `with_all`), shifted to the right of each other, without points."""
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"1 {lens}\n")
    numbers = (0, 3, 6) if with_all else (0, 6)
    rows = [f"{n + 1} 1 0 0 0 {-0.5 * n} 0 0 1 v_{n:06d}.jpg\n\n" for n in numbers]
    (folder / "images.txt").write_text("".join(rows))
    (folder / "points3D.txt").write_text("")


class TestMasks:
    def test_one_mask_for_all_frames(self, clip: Clip, tmp_path: Path) -> None:
        write_raster(tmp_path / "bonnet.png", MASK)
        ignore = priors_from(clip, mask=tmp_path / "bonnet.png").ignore
        assert torch.equal(ignore, torch.from_numpy(MASK > 0).expand(3, 40, 60))  # pyright: ignore
        one_by_one = list(mask_reader(tmp_path / "bonnet.png", clip)([0, 2]))
        assert torch.equal(torch.stack(one_by_one), ignore[[0, 2]])  # pyright: ignore

    def test_colored_and_sixteen_bit_masks(self, clip: Clip, tmp_path: Path) -> None:
        colored = np.stack([np.zeros_like(MASK), MASK, np.full_like(MASK, 90)], axis=-1)
        write_raster(tmp_path / "color.png", colored)
        write_raster(tmp_path / "deep.png", MASK.astype(np.uint16) * 257)
        for name in ("color.png", "deep.png"):
            assert torch.equal(priors_from(clip, mask=tmp_path / name).ignore[0], torch.from_numpy(MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize(
        ("dtype", "dark", "white"), [(np.uint8, 127, 128), (np.uint16, 32767, 32768), (np.float32, 0.5, 0.51)]
    )
    def test_white_is_above_half(self, clip: Clip, tmp_path: Path, dtype: type, dark: float, white: float) -> None:
        path = tmp_path / ("mask.tif" if dtype is np.float32 else "mask.png")
        write_raster(path, np.where(MASK > 0, white, dark).astype(dtype))
        assert torch.equal(priors_from(clip, mask=path).ignore[0], torch.from_numpy(MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("mode", ["1", "LA", "RGBA"])
    def test_masks_of_one_bit_and_with_alpha(self, clip: Clip, tmp_path: Path, mode: str) -> None:
        Image.fromarray(MASK).convert(mode).save(tmp_path / "mask.png")
        assert torch.equal(priors_from(clip, mask=tmp_path / "mask.png").ignore[0], torch.from_numpy(MASK > 0))  # pyright: ignore

    @pytest.mark.parametrize("names", [("v_000000", "v_000001", "v_000003", "v_000006"), ("m10", "m2", "m1")])
    def test_a_folder_by_name_or_in_order(self, clip: Clip, tmp_path: Path, names: tuple[str, ...]) -> None:
        by_name = len(names) == 4
        for place, name in enumerate(names):
            write_raster(tmp_path / f"{name}.png", np.full((40, 60), 255 * (place == 2), dtype=np.uint8))
        ignored = priors_from(clip, mask=tmp_path).ignore.float().mean(dim=(1, 2))  # pyright: ignore
        assert ignored.tolist() == ([0, 1, 0] if by_name else [1, 0, 0])

    def test_invalid_values(self, clip: Clip, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no pictures"):
            priors_from(clip, mask=tmp_path)
        write_raster(tmp_path / "small.png", np.zeros((20, 30), dtype=np.uint8))
        with pytest.raises(UserError, match="30 x 20 pixels, and the clip 60 x 40"):
            priors_from(clip, mask=tmp_path / "small.png")
        with pytest.raises(UserError, match=r"folder holds 1, and the clip has 3 frames; .* names like v_000000"):
            priors_from(clip, mask=tmp_path)
        with pytest.raises(UserError, match=r"does not exist|[Nn]o such file"):
            priors_from(clip, mask=tmp_path / "none.png")


class TestDepth:
    def test_maps(self, clip: Clip, tmp_path: Path) -> None:
        depths = np.zeros((3, 40, 60))
        depths[1, 2, 3], depths[2, 5, 5], depths[0, 0, 0] = 4.5, np.inf, -1
        np.savez(tmp_path / "depth.npz", depths=depths)
        found = priors_from(clip, depth=tmp_path / "depth.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[1, 2, 3]]
        assert found[1, 2, 3] == 4.5

    def test_single_points(self, clip: Clip, tmp_path: Path) -> None:
        """The pixel with center (3.5, 2.5) covers x from 3 to 4 and y from 2 to 3; the nearer of two points is kept."""
        pixels = np.array([[3.0, 2.0], [3.99, 2.99], [59.9, 39.9], [7, 7], [0, 0], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]])
        depths = np.array([4.0, 8, 2, 0, 3, 0, np.nan, -1])
        np.savez(tmp_path / "d.npz", depths=depths, pixels=pixels, frames=np.array([1, 1, 2, 0, 0, 0, 0, 0]))
        found = priors_from(clip, depth=tmp_path / "d.npz").depths
        assert found is not None
        assert (~found.isnan()).nonzero().tolist() == [[0, 0, 0], [1, 2, 3], [2, 39, 59]]
        assert [float(found[0, 0, 0]), float(found[1, 2, 3]), float(found[2, 39, 59])] == [3, 4, 2]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"depths": np.ones((2, 40, 60))}, r"shape \(2, 40, 60\); wanted .* = \(3, 40, 60\)"),
            (
                {"depths": np.ones((3, 20, 40))},
                r"40 x 20 pixels and the pictures 60 x 40; wanted the same size",
            ),
            ({"depths": np.ones((3, 60, 40))}, r"so one of them is turned"),
            ({"z": np.ones((3, 40, 60))}, "holds no depths"),
            ({"depths": np.zeros((3, 40, 60))}, "not a single depth"),
            ({"depths": np.ones(2), "pixels": np.ones((3, 2)), "frames": np.zeros(2)}, "arrays of shapes"),
            ({"depths": np.ones(()), "pixels": np.ones((3, 2)), "frames": np.zeros(3)}, "arrays of shapes"),
            ({"depths": np.ones(2), "pixels": np.ones((2, 2))}, "arrays of shapes"),
            ({"depths": np.ones(2), "frames": np.zeros(2)}, "arrays of shapes"),
            (
                {"depths": np.ones(3), "pixels": np.array([[59.9, 3], [60.0, 3], [3, -0.1]]), "frames": np.ones(3)},
                r"2 of 3 points lie outside the clip, the first in frame 1.* at pixel \(60, 3\)",
            ),
            ({"depths": np.ones(1), "pixels": np.array([[6.0, 3]]), "frames": np.array([3])}, "frames 0 to 2"),
            ({"depths": np.ones(1), "pixels": np.array([[6.0, 3]]), "frames": np.array([-1])}, "frames 0 to 2"),
        ],
    )
    def test_invalid_values(self, clip: Clip, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
        np.savez(tmp_path / "d.npz", **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=message):
            priors_from(clip, depth=tmp_path / "d.npz")

    @pytest.mark.parametrize("content", [b"nothing", b"", b"PK\x03\x04 damaged"])
    def test_damaged_archives(self, clip: Clip, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(UserError, match="no npz file, or damaged"):
            priors_from(clip, depth=tmp_path / "d.npz")
        with pytest.raises(UserError, match=r"none\.npz does not exist"):
            priors_from(clip, depth=tmp_path / "none.npz")

    def test_damage_inside_an_archive(self, clip: Clip, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "d.npz", depths=np.ones((3, 40, 60)))
        content = bytearray((tmp_path / "d.npz").read_bytes())
        content[50:80] = b"x" * 30
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(UserError, match="no npz file, or damaged"):
            priors_from(clip, depth=tmp_path / "d.npz")
