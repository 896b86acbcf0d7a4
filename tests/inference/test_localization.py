"""`recon4d.locate` and `recon4d locate`: pictures in a scene on disk, their intrinsics, files and refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, run
from PIL import Image

import recon4d
from recon4d import geometry as g
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.inference import localization
from recon4d.io import SceneInfo, write_raster, write_results
from recon4d.io.cameras.exif import DIAGONAL_35MM, EXIF_FIELDS, FOCAL_LENGTH_35MM
from recon4d.io.long_archive import LongScene, save_frame, save_image, save_index
from recon4d.io.undistortion import undistort_image
from recon4d.records import Clip, ClipSource, RefinementSummary, Scene
from recon4d.refine import Refinement

CONFIG = SyntheticConfig(num_frames=5, height=168, width=224, static_scene_share=1.0, static_camera_share=0.0)
HELD = 2
OTHERS = (0, 1, 3, 4)
SIZE = (168, 224)


@pytest.fixture(scope="module")
def world() -> tuple[Clip, Scene]:
    """A static synthetic room; its scene is the truth."""
    sample = render_scenes(make_scenes(CONFIG, 0, [2]), CONFIG, ())[0]
    return sample.clip, replace(sample.scene.in_frame(0), tracks=None)


def write_scene(folder: Path, clip: Clip, scene: Scene, refinement: RefinementSummary | None = None) -> None:
    """Write a result folder of all frames but the held-back one."""
    folder.mkdir()
    source = ClipSource("room", tuple(f"room_{number}.png" for number in OTHERS), OTHERS)
    info = SceneInfo("truth", True, "0", source, SIZE, {}, refinement=refinement)
    write_results(folder, replace(clip.frames(OTHERS), source=source), scene.frames(OTHERS), info)


@pytest.fixture(scope="module")
def folder(world: tuple[Clip, Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder without one frame, and the picture of this frame beside it."""
    clip, scene = world
    root = tmp_path_factory.mktemp("located")
    write_scene(root / "scene", clip, scene)
    write_raster(root / "held.png", clip.images[HELD].permute(1, 2, 0).numpy())
    noise = torch.randint(0, 255, (21, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).resize((224, 168)).save(root / "other.png")
    return root


def check(located: recon4d.LocatedCameras, world: tuple[Clip, Scene], degrees: float, share: float) -> None:
    """Compare the camera of the first picture with the truth; `share` is relative to the depth."""
    scene = world[1]
    truth = scene.cameras.world_from_cam[HELD].double()
    found = located.world_from_camera[0]
    assert math.degrees(float(g.rotation_angle(found[:3, :3].T @ truth[:3, :3]))) < degrees
    assert (found[:3, 3] - truth[:3, 3]).norm() < share * scene.depths[HELD].median()


@pytest.mark.end_to_end
def test_a_held_back_frame_is_located(folder: Path, world: tuple[Clip, Scene]) -> None:
    located = recon4d.locate(folder / "scene", folder / "held.png")
    check(located, world, 0.2, 0.005)
    trust = located.trust[0]
    assert trust is not None
    assert trust.intrinsics_source == "the scene's camera"
    lens = world[1].cameras.intrinsics[HELD].double()
    torch.testing.assert_close(located.cameras.intrinsics[0], lens, rtol=1e-4, atol=1e-2)
    again = recon4d.locate(folder / "scene", world[0].images[[HELD]])
    torch.testing.assert_close(again.world_from_camera, located.world_from_camera)


def test_the_focal_length_of_a_picture_of_another_size_is_estimated(folder: Path, world: tuple[Clip, Scene]) -> None:
    image = world[0].resized(150, 200).images[[HELD]]
    located = recon4d.locate(folder / "scene", image)
    check(located, world, 0.5, 0.02)
    lens = world[1].cameras.resized(SIZE, (150, 200)).intrinsics[HELD]
    assert float(located.cameras.intrinsics[0, 0, 0]) == pytest.approx(float(lens[0, 0]), rel=0.02)
    text = ",".join(str(float(lens[place])) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    given = recon4d.locate(folder / "scene", image, intrinsics=text)
    assert given.trust[0] is not None
    assert given.trust[0].intrinsics_source == "given"
    check(given, world, 0.2, 0.005)


def test_exif_fields_tell_the_focal_length(folder: Path, tmp_path: Path) -> None:
    picture = Image.open(folder / "held.png").resize((200, 150))
    exif = Image.Exif()
    exif.get_ifd(EXIF_FIELDS)[FOCAL_LENGTH_35MM] = 28
    picture.save(tmp_path / "phone.jpg", exif=exif)
    (phone,) = localization._read_pictures(tmp_path / "phone.jpg")
    first, last = localization._hypotheses(phone, localization.open_frames(folder / "scene"), None)
    assert (first.name, first.is_guess) == ("EXIF fields, adjusted", False)
    assert float(first.intrinsics[0, 0]) == pytest.approx(28 / DIAGONAL_35MM * math.hypot(200, 150))
    assert last.is_guess


def test_pictures_of_the_scene_camera_have_its_distortion(
    folder: Path, world: tuple[Clip, Scene], tmp_path: Path
) -> None:
    """The frames were undistorted; a new picture of the same camera is not. Undistorted pictures are told apart."""
    clip, scene = world
    coefficients = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0])
    straight = clip.images
    write_scene(tmp_path / "scene", clip, replace(scene, distortion=coefficients))
    # Removing the opposite distortion is nearly the same as adding it.
    bent = undistort_image(straight[HELD], scene.cameras.intrinsics[HELD], -coefficients)
    located = recon4d.locate(tmp_path / "scene", torch.stack([bent, straight[HELD]]))
    check(located, world, 0.5, 0.02)
    sources = [trust.intrinsics_source for trust in located.trust if trust is not None]
    assert sources == ["the scene's camera", "the scene's camera without its distortion"]
    torch.testing.assert_close(located.distortion, torch.stack([coefficients, 0 * coefficients]).double())


def test_pictures_are_located_in_long_clips(folder: Path, world: tuple[Clip, Scene], tmp_path: Path) -> None:
    clip, scene = world
    (tmp_path / "frames").mkdir()
    source = ClipSource("room", tuple(map(str, OTHERS)), OTHERS)
    info = SceneInfo("truth", True, "0", source, SIZE, {})
    for number, frame in enumerate(OTHERS):
        save_frame(tmp_path, number, scene.frames([frame]), 0.0, info)
        save_image(tmp_path, number, clip.images[frame])
    windows, unit = torch.zeros(4, dtype=torch.int64), torch.eye(4, dtype=torch.double)[None]
    cameras = scene.frames(OTHERS).cameras
    save_index(tmp_path, LongScene(cameras, torch.zeros(4), SIZE, windows, unit, torch.zeros(1), math.nan, info))
    check(recon4d.locate(tmp_path, folder / "held.png"), world, 0.3, 0.01)


def test_of_long_clips_the_frames_near_the_best_ones_are_compared(
    folder: Path, world: tuple[Clip, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localization, "MAX_VIEWS", 2)
    monkeypatch.setattr(localization, "NUM_BEST_VIEWS", 1)
    check(recon4d.locate(folder / "scene", folder / "held.png"), world, 0.5, 0.02)


def test_the_command_writes_cameras_that_agree(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert run("locate", folder / "held.png", "--scene", folder / "scene", "--out", out) == 0
    assert "places agree" in capsys.readouterr().out
    (entry,) = json.loads((out / "located.json").read_text())["pictures"]
    (frame,) = json.loads((out / "transforms.json").read_text())["frames"]
    arrays = np.load(out / "cameras.npz")
    world_from_camera = np.array(entry["world_from_camera"])
    np.testing.assert_allclose(arrays["world_from_cam"][0], world_from_camera)
    np.testing.assert_allclose(np.array(frame["transform_matrix"]), world_from_camera @ np.diag([1, -1, -1, 1]))
    assert (frame["w"], frame["h"]) == (224, 168)
    assert frame["fl_x"] == entry["intrinsics"][0][0]
    assert entry["trust"]["num_inliers"] > 50
    assert "not empty" in fails(capsys, "locate", folder / "held.png", "--scene", folder / "scene", "--out", out)
    assert run("locate", folder / "held.png", "--scene", folder / "scene", "--out", out, "--overwrite") == 0


def test_a_picture_of_something_else_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scene = ("--scene", folder / "scene", "--out", tmp_path / "out")
    assert "other.png cannot be located: only" in fails(capsys, "locate", folder / "other.png", *scene)
    assert not (tmp_path / "out").exists()
    line = fails(capsys, "locate", folder / "other.png", folder / "held.png", *scene)
    assert "1 of 2 pictures cannot be located" in line
    first, second = json.loads((tmp_path / "out" / "located.json").read_text())["pictures"]
    assert (first["located"], second["located"]) == (False, True)
    assert "agree" in first["reason"] or "match" in first["reason"]
    assert np.isnan(np.load(tmp_path / "out" / "cameras.npz")["world_from_cam"][0]).all()


def test_the_pictures_of_the_scene_are_needed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "scene.npz").write_bytes((folder / "scene" / "scene.npz").read_bytes())
    line = fails(capsys, "locate", folder / "held.png", "--scene", tmp_path)
    assert "does not exist; the pictures of the frames are needed" in line
    assert "give at least one picture" in fails(capsys, "locate", "--scene", tmp_path)


def test_a_scene_without_translation_gives_a_warning(folder: Path, world: tuple[Clip, Scene], tmp_path: Path) -> None:
    clip, scene = world
    summary = replace(Refinement(scene, True, 1.0, 0.1, 100), is_rotation_only=True).summary
    write_scene(tmp_path / "scene", clip, scene, summary)
    with pytest.warns(UserWarning, match="positions have no meaning"):
        recon4d.locate(tmp_path / "scene", folder / "other.png")


def test_pixels_that_move_are_not_used(folder: Path, world: tuple[Clip, Scene], tmp_path: Path) -> None:
    clip, scene = world
    write_scene(tmp_path / "scene", clip, replace(scene, dynamic=torch.ones_like(scene.dynamic)))
    assert not recon4d.locate(tmp_path / "scene", folder / "held.png").is_located.any()
