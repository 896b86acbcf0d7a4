"""Cameras turn with pictures: a point of the world stays at its place in the picture for all EXIF orientations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_scene

from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.io import read_clip, write_video
from recon4d.io.cameras.camera_file import CameraFile, CameraOptions
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.orientation import stored_orientations, turn_camera, turn_intrinsics
from recon4d.io.cameras.stored_intrinsics import StoredIntrinsics
from recon4d.records import Clip

HEIGHT, WIDTH = 24, 36
POINTS = torch.tensor([[0.1, 0.2, 3.0], [-0.5, 0.3, 4.0], [0.6, -0.4, 2.5]], dtype=torch.float64)
SPOT = (5, 17)
"""Row and column of the white pixel of each stored picture."""


def shoot(folder: Path, orientations: list[int]) -> Clip:
    """Write stored pictures with a white pixel, and read them turned upright."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, orientation in enumerate(orientations):
        stored = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        stored[SPOT] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(folder / f"{number}.png", exif=exif)
    return read_clip(folder)


def file_of(count: int, width: int = WIDTH, height: int = HEIGHT, is_upright: bool = False) -> CameraFile:
    lens = StoredIntrinsics(
        Lens("OPENCV", (0.0, 0.0, 0.01, 0.02)), 30.0, 33.0, center_x=19.0, center_y=10.0, width=width, height=height
    )
    poses = make_scene(count).cameras.world_from_cam.double()
    names = tuple(f"{number}.png" for number in range(count))
    return CameraFile(Path("c"), "test", poses, names, intrinsics=(lens,) * count, is_upright=is_upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_point_stays_at_its_pixel(tmp_path: Path, orientation: int) -> None:
    """The stored pixel of the projection, moved as the picture was, is the projection by the turned camera."""
    clip = shoot(tmp_path, [orientation])
    assert stored_orientations(clip) == (orientation,)
    row, column = (int(value) for value in (clip.images[0, 0] > 128).nonzero()[0])
    matrix = torch.tensor([[30.0, 0, 19], [0, 33, 10], [0, 0, 1]], dtype=torch.float64)
    pixel = torch.tensor([SPOT[1] + 0.5, SPOT[0] + 0.5, 1], dtype=torch.float64)
    in_stored_camera = 3 * torch.linalg.inv(matrix) @ pixel
    pose = make_scene(2).cameras.world_from_cam[1].double()
    point = (pose @ torch.cat([in_stored_camera, torch.ones(1).double()]))[:3]
    turned = torch.linalg.inv(turn_camera(pose, orientation))
    found = g.project(turned[:3, :3] @ point + turned[:3, 3], turn_intrinsics(matrix, (HEIGHT, WIDTH), orientation))
    torch.testing.assert_close(found, torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_of_stored_pictures_are_turned(tmp_path: Path, orientation: int) -> None:
    clip = shoot(tmp_path, [orientation] * 3)
    file = file_of(3)
    found = file.for_clip(clip)
    # Poses are relative to the first in a right-handed world: distances between cameras do not change.
    assert (torch.linalg.det(found.world_from_cam[:, :3, :3]) > 0).all()
    torch.testing.assert_close(found.world_from_cam[0], torch.eye(4), atol=1e-6, rtol=0)
    centers = file.world_from_cam[:, :3, 3].float()
    torch.testing.assert_close(torch.pdist(found.world_from_cam[:, :3, 3]), torch.pdist(centers), atol=1e-5, rtol=0)
    focal = (33.0, 30.0) if orientation >= 5 else (30.0, 33.0)
    assert (float(found.intrinsics[0, 0, 0]), float(found.intrinsics[0, 1, 1])) == focal
    assert any("turned upright" in line for line in found.report) == (orientation != 1)
    # The picture of a point, seen by the stored cameras, moves with the pixels.
    stored = torch.linalg.inv(file.world_from_cam)
    matrix = torch.tensor([[30.0, 0, 19], [0, 33, 10], [0, 0, 1]], dtype=torch.float64)
    first = turn_camera(file.world_from_cam[0], orientation)
    turned = torch.linalg.inv(first @ found.world_from_cam.double())
    for frame in range(3):
        x, y = g.project(g.transform_points(stored[frame], POINTS), matrix).unbind(-1)
        places = {
            1: (x, y),
            2: (WIDTH - x, y),
            3: (WIDTH - x, HEIGHT - y),
            4: (x, HEIGHT - y),
            5: (y, x),
            6: (HEIGHT - y, x),
            7: (HEIGHT - y, WIDTH - x),
            8: (y, WIDTH - x),
        }
        seen = g.project(g.transform_points(turned[frame], POINTS), found.intrinsics[frame].double())
        torch.testing.assert_close(seen, torch.stack(places[orientation], dim=-1), atol=1e-3, rtol=0)


def test_cameras_of_upright_pictures_stay(tmp_path: Path) -> None:
    upright = file_of(2, width=HEIGHT, height=WIDTH)
    clip = shoot(tmp_path / "quarter", [6, 6])
    found = upright.for_clip(clip)
    assert found.intrinsics[0, 0, 0] == 30
    assert not any("turned" in line for line in found.report)
    half_turned = shoot(tmp_path / "half", [3, 3])
    for file, options in (
        (file_of(2), CameraOptions(pictures="upright")),
        (file_of(2, is_upright=True), CameraOptions()),
    ):
        kept = file.for_clip(half_turned, options)
        assert kept.intrinsics[0, 0, 2] == 19
    turned = file_of(2).for_clip(half_turned)
    assert turned.intrinsics[0, 0, 2] == WIDTH - 19


def test_pictures_of_which_some_are_mirrored_show_no_scene(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mirrors some pictures and not others"):
        file_of(2).for_clip(shoot(tmp_path, [3, 2]))


def test_mixed_turns_are_relative_to_each_own_picture(tmp_path: Path) -> None:
    """The pictures are turned by 0 and 180 degrees, and so is the second camera relative to the first."""
    file = file_of(2)
    plain = file.for_clip(shoot(tmp_path / "plain", [1, 1])).world_from_cam
    mixed = file.for_clip(shoot(tmp_path / "mixed", [1, 3])).world_from_cam
    half_turn = torch.diag(torch.tensor([-1.0, -1, 1, 1]))
    torch.testing.assert_close(mixed[1], plain[1] @ half_turn, atol=1e-6, rtol=0)


TURNS = {(1, 0, 0, 1): 1, (0, 1, -1, 0): 6, (0, -1, 1, 0): 8, (-1, 0, 0, -1): 3, (-1, 0, 0, 1): 2, (0, 1, 1, 0): 5}
"""EXIF orientation that equals a display matrix (a, b, c, d) of a video: x' = a x + c y, y' = b x + d y."""


@pytest.mark.parametrize("matrix", TURNS)
def test_cameras_of_the_stored_frames_of_a_video(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path, orientation = tmp_path / "turned.mp4", TURNS[matrix]
    write_video(path, torch.zeros(2, 32, 48, 3, dtype=torch.uint8), 10.0)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[at + offset : at + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    clip = read_clip(path)
    assert stored_orientations(clip) == (orientation,) * 2
    lens = StoredIntrinsics(Lens("PINHOLE"), 40.0, 44.0, center_x=25.0, center_y=14.0, width=48, height=32)
    file = CameraFile(Path("c"), "test", torch.eye(4).double().repeat(2, 1, 1), intrinsics=(lens, lens))
    found = file.for_clip(clip).intrinsics
    # Only the size tells whether cameras belong to the stored frames: programs take frames out of videos upright.
    wanted = {5: (44, 40, 14, 25), 6: (44, 40, 32 - 14, 25), 8: (44, 40, 14, 48 - 25)}.get(
        orientation, (40, 44, 25, 14)
    )
    assert tuple(found[0][[0, 1, 0, 1], [0, 1, 2, 2]].tolist()) == wanted
