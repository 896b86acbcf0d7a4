"""What is written comes back, looks as it should and is never half there."""

import io
import json
import math
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from recon4d.export import (
    NoConfidentPointsError,
    SceneInfo,
    atomic_folder,
    check_output_folder,
    confident_points,
    depth_video_frames,
    folder,
    load_scene,
    load_scene_info,
    load_times,
    results,
    save_scene,
    write_camera_path,
    write_point_cloud,
    write_results,
)
from recon4d.records import Cameras, Clip, Scene, Source, Tracks

NUM_FRAMES, HEIGHT, WIDTH = 3, 12, 16
DEPTH = 2.0
LEFT_COLOUR, RIGHT_COLOUR = (200, 30, 10), (10, 40, 220)
PANEL_WIDTH, GAP = 480, 4


def make_scene(num_frames: int = NUM_FRAMES) -> Scene:
    """A wall at z = 2, seen by cameras that look along z and move one unit along x with each frame."""
    world_from_cam = torch.eye(4).repeat(num_frames, 1, 1)
    world_from_cam[:, 0, 3] = torch.arange(num_frames)
    intrinsics = torch.tensor([[10.0, 0, WIDTH / 2], [0, 10.0, HEIGHT / 2], [0, 0, 1]]).repeat(num_frames, 1, 1)
    maps = (num_frames, HEIGHT, WIDTH)
    return Scene(
        cameras=Cameras(world_from_cam, intrinsics),
        depths=torch.full(maps, DEPTH),
        depth_confidence=torch.ones(maps),
        points=torch.randn(*maps, 3, generator=torch.Generator().manual_seed(0)),
        point_confidence=torch.zeros(maps),
        moving=torch.full(maps, math.nan),
        metres_per_unit=torch.tensor(math.nan),
    )


def make_tracks() -> Tracks:
    generator = torch.Generator().manual_seed(1)
    return Tracks(
        points=torch.randn(2, NUM_FRAMES, 5, 3, generator=generator),
        visible=torch.rand(2, NUM_FRAMES, 5, generator=generator),
        confidence=torch.rand(2, NUM_FRAMES, 5, generator=generator),
        anchors=torch.tensor([0, 2]),
        pixels=torch.rand(2, 5, 2, generator=generator),
    )


def make_clip(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Clip:
    """The left half of every picture in one colour, the right half in another."""
    images = torch.empty(num_frames, 3, height, width, dtype=torch.uint8)
    images[..., : width // 2] = torch.tensor(LEFT_COLOUR, dtype=torch.uint8)[:, None, None]
    images[..., width // 2 :] = torch.tensor(RIGHT_COLOUR, dtype=torch.uint8)[:, None, None]
    return Clip(images=images, times=torch.arange(num_frames) / 10)


def make_info(**changes) -> SceneInfo:
    source = Source(path="street.mp4", names=("street_000000", "street_000010", "ünï"), numbers=(0, 10, 20))
    settings = {"anchors": [0, 2], "refine": False, "precision": "float32", "fps": 2.5, "limit": None, "frames": 3}
    info = SceneInfo("wide", True, "0.1.0", source, (1080, 1920), settings)  # type: ignore[arg-type]
    return replace(info, **changes)


def tensors_of(scene: Scene) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    scene.map(lambda tensor: (tensors.append(tensor), tensor)[1])
    return tensors


def names_in(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


# ---- archive


@pytest.mark.parametrize("with_tracks", [False, True])
def test_a_scene_comes_back_bit_for_bit(tmp_path, with_tracks):
    scene = replace(make_scene(), tracks=make_tracks() if with_tracks else None)
    # Bits that a comparison of numbers would not tell apart: -0 from 0, and a NaN with a payload from another.
    scene.depths.view(torch.int32)[0, 0, :3] = torch.tensor([-(2**31), 0x7FC01234, 1], dtype=torch.int32)
    save_scene(tmp_path / "scene.npz", scene, torch.tensor([0.0, math.nan, 1 / 3]), make_info())

    for path in (tmp_path, tmp_path / "scene.npz", str(tmp_path)):
        loaded = load_scene(path)
        assert (loaded.tracks is not None) == with_tracks
        for before, after in zip(tensors_of(scene), tensors_of(loaded), strict=True):
            assert before.dtype == after.dtype
            assert before.shape == after.shape
            assert before.numpy().tobytes() == after.numpy().tobytes()
        assert torch.equal(load_times(path)[[0, 2]], torch.tensor([0.0, 1 / 3]))
        assert load_scene_info(path) == make_info()
    assert names_in(tmp_path) == {"scene.npz"}


def test_other_precisions_and_layouts_are_kept(tmp_path):
    scene = make_scene().to(dtype=torch.float64)
    scene = replace(scene, moving=torch.rand(HEIGHT, WIDTH, NUM_FRAMES).double().permute(2, 0, 1).requires_grad_())
    save_scene(tmp_path, scene, torch.zeros(NUM_FRAMES), make_info())
    assert load_scene(tmp_path).depths.dtype == torch.float64
    assert torch.equal(load_scene(tmp_path).moving, scene.moving.detach())
    coarse = make_scene().to(dtype=torch.bfloat16)
    save_scene(tmp_path, coarse, torch.zeros(NUM_FRAMES), make_info())
    assert torch.equal(load_scene(tmp_path).points, coarse.points.float())


def test_plain_numpy_opens_the_archive_with_the_documented_names_and_shapes(tmp_path):
    scene = replace(make_scene(), tracks=make_tracks())
    save_scene(tmp_path / "named.npz", scene, torch.zeros(NUM_FRAMES), make_info())
    with np.load(tmp_path / "named.npz", allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}
        info = json.loads(str(arrays["info"]))
    maps = (NUM_FRAMES, HEIGHT, WIDTH)
    assert shapes == {
        "world_from_cam": (NUM_FRAMES, 4, 4),
        "intrinsics": (NUM_FRAMES, 3, 3),
        "depths": maps,
        "depth_confidence": maps,
        "points": (*maps, 3),
        "point_confidence": maps,
        "moving": maps,
        "metres_per_unit": (),
        "times": (NUM_FRAMES,),
        "tracks_points": (2, NUM_FRAMES, 5, 3),
        "tracks_visible": (2, NUM_FRAMES, 5),
        "tracks_confidence": (2, NUM_FRAMES, 5),
        "tracks_anchors": (2,),
        "tracks_pixels": (2, 5, 2),
        "info": (),
    }
    documented = sys.modules["recon4d.export.archive"].__doc__ or ""
    assert all(f"\n{name} " in documented for name in shapes)
    assert info["format"] == 1
    assert info["original_size"] == [1080, 1920]
    assert info["source"]["numbers"] == [0, 10, 20]


def test_a_batch_and_unfitting_times_are_refused(tmp_path):
    batch = Scene.stack([make_scene(), make_scene()])
    with pytest.raises(ValueError, match=r"given a batch of \(2,\)"):
        save_scene(tmp_path, batch, torch.zeros(NUM_FRAMES), make_info())
    with pytest.raises(ValueError, match=r"times have shape \(4,\), wanted \(3,\)"):
        save_scene(tmp_path, make_scene(), torch.zeros(4), make_info())
    assert not names_in(tmp_path)


def rewritten(path: Path, **changes) -> Path:
    """The archive at `path` with arrays replaced, added or, for None, taken out."""
    with np.load(path) as arrays:
        contents = {name: arrays[name] for name in arrays} | changes
    with path.open("wb") as file:
        np.savez(file, **{name: array for name, array in contents.items() if array is not None})
    return path


@pytest.fixture
def archive(tmp_path) -> Path:
    save_scene(tmp_path / "scene.npz", make_scene(), torch.zeros(NUM_FRAMES), make_info())
    return tmp_path / "scene.npz"


def test_files_that_are_no_scenes_are_refused_in_one_line(archive):
    foreign = io.BytesIO()
    np.savez(foreign, some=np.zeros(3))
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"depths.npy") + 400] ^= 1
    for content, reason in (
        (foreign.getvalue(), r"has no info, times, world_from_cam, .*metres_per_unit"),
        (single.getvalue(), "is not an npz archive"),
        (b"", "is not an npz archive"),
        (b"a letter", "is not an npz archive"),
        (whole[: len(whole) // 2], "only a part of one"),
        (bytes(flipped), "Bad CRC-32"),
    ):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=reason) as refusal:
            load_scene(archive)
        assert str(archive) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    for load in (load_scene, load_scene_info, load_times):
        with pytest.raises(FileNotFoundError, match=r"nowhere.npz does not exist"):
            load(archive.with_name("nowhere.npz"))
    archive.unlink()
    archive.mkdir()
    with pytest.raises(OSError, match=r"cannot read the scene: Is a directory: '.*scene.npz'"):
        load_scene(archive.parent)


def test_wrong_arrays_are_refused_by_name(archive):
    with pytest.raises(ValueError, match=r"scene.npz as a scene: it has no depths, moving, so"):
        load_scene(rewritten(archive, depths=None, moving=None))
    with pytest.raises(ValueError, match=r"Scene.moving has shape \(3, 2, 2\), wanted .* height = 12"):
        load_scene(
            rewritten(archive, depths=np.zeros((3, HEIGHT, WIDTH), np.float32), moving=np.zeros((3, 2, 2), np.float32))
        )
    with pytest.raises(ValueError, match=r"has no tracks_visible, tracks_confidence, tracks_anchors, tracks_pixels"):
        load_scene(rewritten(archive, tracks_points=np.zeros((1, 3, 5, 3), np.float32)))
    with pytest.raises(ValueError, match="has no times"):
        load_times(rewritten(archive, times=None))
    with pytest.raises(ValueError, match="cannot read"):
        load_scene(rewritten(archive, moving=np.array([[["who"]]])))


def test_an_archive_of_a_batch_is_refused(archive):
    with np.load(archive) as arrays:
        stacked = {name: arrays[name][None] for name in arrays if name not in ("info", "times")}
    with pytest.raises(ValueError, match=r"holds depths of shape \(1, 3, 12, 16\), wanted \(T, H, W\)"):
        load_scene(rewritten(archive, **stacked))


def test_a_newer_format_and_strange_info_are_refused(archive):
    values = json.loads(make_info().to_json())
    for changed, reason in (
        ({**values, "format": 2, "colour": "red"}, r"has format 2, this recon4d reads up to 1"),
        ({**values, "colour": "red"}, r"lacks nothing and has unknown \['colour'\]"),
        ({key: value for key, value in values.items() if key != "trained"}, r"lacks \['trained'\]"),
        ({**values, "source": {"path": "x"}}, r"source lacks \['names', 'numbers'\]"),
        ({**values, "trained": "yes"}, "trained is 'yes', wanted bool"),
        ({**values, "original_size": 5}, "original_size is 5"),
        ([1], "wanted a JSON object"),
    ):
        rewritten(archive, info=np.array(json.dumps(changed)))
        for load in (load_scene, load_scene_info, load_times):
            with pytest.raises(ValueError, match=reason) as refusal:
                load(archive)
            assert str(archive) in str(refusal.value)


def test_info_goes_through_json_and_back():
    for info in (make_info(), make_info(source=None), make_info(settings={})):
        assert SceneInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize("setting", [math.nan, [math.inf], [{1}], [(1, 2)]])
def test_settings_that_json_would_change_are_refused_at_once(setting):
    with pytest.raises(ValueError, match=r"setting 'strange' is .*, wanted a plain"):
        make_info(settings={"strange": setting})


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
sys.path[:0] = [{tests!r}]
from recon4d.export import atomic_folder, save_scene
from test_export import make_info, make_scene, names_in
here = Path({here!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a stand-in for a full disk; CPython ignores SIGXFSZ
for target in (here / "scene.npz", here / "new.npz"):
    try:
        save_scene(target, make_scene(), torch.zeros(3), make_info())
    except OSError as error:
        assert "cannot write the scene" in str(error) and target.name in str(error), error
    else:
        sys.exit("written in spite of the limit")
try:
    with atomic_folder(here / "folder", overwrite=False) as partial:
        save_scene(partial, make_scene(), torch.zeros(3), make_info())
except OSError:
    pass
else:
    sys.exit("written in spite of the limit")
"""


def test_a_full_disk_leaves_nothing_behind_and_the_old_archive_whole(archive):
    before = archive.read_bytes()
    script = FULL_DISK.format(tests=str(Path(__file__).parent), here=str(archive.parent))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert names_in(archive.parent) == {"scene.npz"}
    assert archive.read_bytes() == before


# ---- folder


def fill(path: Path, text: str = "new") -> None:
    (path / "scene.npz").write_text(text)


def test_a_folder_appears_only_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "some" / "where" / "out"
    with atomic_folder(target, overwrite=False) as partial:
        fill(partial)
        assert partial.parent == target.parent
        assert partial.name.startswith(".out.partial-")
        assert not target.exists()
    assert names_in(target) == {"scene.npz"}
    assert names_in(target.parent) == {"out"}
    # Not mkdtemp's 0700, which would keep colleagues out.
    plain = tmp_path / "plain"
    plain.mkdir()
    assert target.stat().st_mode == plain.stat().st_mode


def fill_and_fail(target: Path, error: type[BaseException]) -> None:
    with atomic_folder(target, overwrite=True) as partial:
        fill(partial)
        raise error


def test_failing_half_way_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fill_and_fail(target, error)
        assert names_in(tmp_path) == {"out"}
        assert (target / "scene.npz").read_text() == "old"


def test_overwriting_replaces_everything_in_our_own_folder(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    (target / "depth.mp4").write_text("old")
    (tmp_path / "link").symlink_to(target)
    with atomic_folder(tmp_path / "link", overwrite=True) as partial:
        fill(partial)
        assert (target / "scene.npz").read_text() == "old"
    assert names_in(tmp_path) == {"out", "link"}
    assert names_in(target) == {"scene.npz"}
    assert (target / "scene.npz").read_text() == "new"


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    rename = Path.rename

    def fail_for_the_new_one(path: Path, other: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError("no")
        return rename(path, other)

    monkeypatch.setattr(folder.Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="no"), atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "old"


def fill_while_another_does(target: Path) -> None:
    with atomic_folder(target, overwrite=False) as partial:
        fill(partial)
        target.mkdir()
        fill(target, "of somebody else")


def test_a_folder_filled_meanwhile_is_not_touched(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(FileExistsError, match="not empty"):
        fill_while_another_does(target)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "of somebody else"


def test_what_is_not_ours_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    (tmp_path / "ours").mkdir()
    fill(tmp_path / "ours")
    (tmp_path / "mixed").mkdir()
    fill(tmp_path / "mixed")
    (tmp_path / "mixed" / "notes.txt").write_text("of the user")
    for name, overwrite, reason in (
        ("file", True, "is a file"),
        ("file/out", False, "would lie in .*file, which is a file"),
        ("photos", False, "is not empty; choose another"),
        ("photos", True, "holds no scene.npz: recon4d did not write it"),
        ("ours", False, "is not empty; choose another"),
        ("mixed", True, "also holds notes.txt, which would be lost"),
        ("n" * 250, False, "cannot make the output folder: File name too long"),
    ):
        with pytest.raises(OSError, match=reason) as refusal:
            check_output_folder(tmp_path / name, overwrite)
        assert "\n" not in str(refusal.value)
        with pytest.raises(OSError, match=reason), atomic_folder(tmp_path / name, overwrite):
            pytest.fail("a refused folder was opened")
    assert names_in(tmp_path) == {"file", "photos", "ours", "mixed"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_places_that_cannot_hold_a_folder_are_refused():
    with pytest.raises(OSError, match=r"cannot make the output folder: .*/proc/out"):
        check_output_folder("/proc/out", overwrite=False)
    with pytest.raises(OSError, match="mount point"):
        check_output_folder("/proc", overwrite=True)


def test_good_output_folders_pass_and_nothing_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours").mkdir()
    fill(tmp_path / "ours")
    check_output_folder(tmp_path / "empty", overwrite=False)
    check_output_folder(tmp_path / "ours", overwrite=True)
    check_output_folder(tmp_path / "new" / "deep", overwrite=False)
    assert names_in(tmp_path) == {"empty", "ours"}
    with atomic_folder(tmp_path / "empty", overwrite=False) as partial:
        fill(partial)
    assert names_in(tmp_path / "empty") == {"scene.npz"}


# ---- point cloud


def test_points_and_colours_lie_where_they_belong(tmp_path):
    # The pictures are larger than the maps: colours must come from the right place all the same.
    write_point_cloud(tmp_path / "points.ply", make_scene(), make_clip(height=3 * HEIGHT, width=3 * WIDTH))
    assert b"format binary_little_endian" in (tmp_path / "points.ply").read_bytes()[:100]
    cloud = trimesh.load(tmp_path / "points.ply")
    assert isinstance(cloud, trimesh.PointCloud)
    assert cloud.vertices.shape == (NUM_FRAMES * HEIGHT * WIDTH, 3)
    # A pixel (x, y) sees the wall at ((x - 8) / 10, (y - 6) / 10) * 2 beside its camera.
    expected_x = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / 10 * DEPTH
    expected_y = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / 10 * DEPTH
    vertices = np.asarray(cloud.vertices).reshape(NUM_FRAMES, HEIGHT, WIDTH, 3)
    for frame in range(NUM_FRAMES):
        np.testing.assert_allclose(vertices[frame, ..., 0], np.tile(expected_x + frame, (HEIGHT, 1)), atol=1e-6)
        np.testing.assert_allclose(vertices[frame, ..., 1], np.tile(expected_y[:, None], (1, WIDTH)), atol=1e-6)
    np.testing.assert_allclose(vertices[..., 2], DEPTH)
    colours = np.asarray(cloud.colors).reshape(NUM_FRAMES, HEIGHT, WIDTH, 4)[..., :3]
    # Resizing may mix the two colours in the middle.
    assert (colours[:, :, : WIDTH // 2 - 1] == LEFT_COLOUR).all()
    assert (colours[:, :, WIDTH // 2 + 1 :] == RIGHT_COLOUR).all()


def test_unknown_and_unconfident_pixels_are_left_out():
    scene, images = make_scene(1), make_clip(1).images
    pixels = HEIGHT * WIDTH
    scene.depth_confidence[0] = torch.arange(pixels).reshape(HEIGHT, WIDTH) + 1.0
    points, _ = confident_points(scene, images)
    assert len(points) == math.floor(0.8 * pixels)
    # The least confident pixels are the first rows: y points down, so what stays is the lower part.
    assert torch.equal(points, scene.points_from_depth.flatten(0, 2)[pixels - len(points) :])

    scene = make_scene(1)
    scene.depth_confidence[0, 0] = 0
    scene.depths[0, 1] = math.nan
    scene.depths[0, 2] = math.inf
    scene.depths[0, 3] = -DEPTH
    points, _ = confident_points(scene, images)
    assert torch.equal(points, scene.points_from_depth[0, 4:].flatten(0, 1))

    scene = make_scene(2)
    scene.cameras.world_from_cam[1, 0, 3] = math.nan
    points, _ = confident_points(scene, make_clip(2).images)
    assert torch.equal(points, scene.points_from_depth[0].flatten(0, 1))


def test_depth_edges_are_left_out_on_both_sides_and_slopes_stay():
    scene, images = make_scene(1), make_clip(1).images
    scene.depths[0, :, 10:] = 3.0
    scene.depths[0, 5:, :4] = 1.8
    points, _ = confident_points(scene, images)
    is_kept = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    is_kept[:, 9:11] = False
    is_kept[4:6, :4] = False
    is_kept[5:, 3:5] = False
    assert torch.equal(points, scene.points_from_depth[0][is_kept])

    slope = make_scene(1)
    slope.depths[0] = DEPTH * 1.049 ** torch.arange(WIDTH)
    assert len(confident_points(slope, images)[0]) == HEIGHT * WIDTH
    slope.depths[0] = DEPTH * 1.051 ** torch.arange(WIDTH)
    assert len(confident_points(slope, images)[0]) == 0


def test_thinning_is_even_and_always_the_same(tmp_path):
    scene, clip = make_scene(), make_clip()
    # So that no two frames see the same point.
    scene.cameras.world_from_cam[:, 0, 3] *= 0.37
    points, colours = confident_points(scene, clip.images, max_points=144)
    assert points.shape == (144, 3)
    again, _ = confident_points(scene, clip.images, max_points=144)
    assert torch.equal(points, again)
    # A quarter of 576: each frame gives 48, and no column is preferred although 4 divides the width.
    everywhere = scene.points_from_depth
    pixels = [(everywhere == point).all(dim=-1).nonzero()[0].tolist() for point in points]
    frames, _, columns = (torch.tensor(axis) for axis in zip(*pixels, strict=True))
    assert len({tuple(pixel) for pixel in pixels}) == 144
    assert torch.bincount(frames).tolist() == [48, 48, 48]
    assert torch.bincount(columns, minlength=WIDTH).min() >= 5
    is_left = columns < WIDTH // 2
    assert (colours[is_left] == torch.tensor(LEFT_COLOUR)).all()
    for limit in (575, 576, 577):
        assert len(confident_points(scene, clip.images, max_points=limit)[0]) == min(limit, 576)
    write_point_cloud(tmp_path / "few.ply", scene, clip, max_points=10)
    assert len(trimesh.load(tmp_path / "few.ply").vertices) == 10  # type: ignore[union-attr]


def test_a_cloud_without_points_and_wrong_input_are_refused(tmp_path):
    scene, clip = make_scene(), make_clip()
    nothing = replace(scene, depth_confidence=torch.zeros_like(scene.depths))
    with pytest.raises(NoConfidentPointsError, match="no points"):
        write_point_cloud(tmp_path / "points.ply", nothing, clip)
    assert not names_in(tmp_path)
    with pytest.raises(ValueError, match=r"images have shape \(3, 3, 24, 16\), wanted \(3, 3, 12, 16\)"):
        confident_points(scene, make_clip(height=24).images)
    with pytest.raises(ValueError, match="max_points is 0"):
        confident_points(scene, clip.images, max_points=0)
    with pytest.raises(ValueError, match="given a batch"):
        confident_points(Scene.stack([scene]), clip.images)


# ---- pictures


def brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(int).sum(axis=-1)


def test_nearer_is_brighter_and_unknown_is_black():
    scene, clip = make_scene(), make_clip()
    scene.depths[:] = torch.linspace(1, 4, WIDTH)
    scene.depths[1] *= 2
    scene.depth_confidence[:, 0] = 0
    pictures = list(depth_video_frames(clip, scene))
    assert [picture.shape for picture in pictures] == [(360, 2 * PANEL_WIDTH + GAP, 3)] * NUM_FRAMES
    assert all(picture.dtype == np.uint8 for picture in pictures)
    frame, gap, depth = np.split(pictures[0], [PANEL_WIDTH, PANEL_WIDTH + GAP], axis=1)
    assert (frame[180, 100], frame[180, 400]) == (pytest.approx(LEFT_COLOUR), pytest.approx(RIGHT_COLOUR))
    assert (gap == 255).all()
    assert (depth[:28] == 0).all()
    along = brightness(depth[180])[::30]
    assert (np.diff(along) < 0).all()
    # Even the farthest known pixel does not look like an unknown one.
    assert brightness(pictures[1][:, -1]).max() > 60
    # One range for the clip: what is farther in the second frame is darker there.
    assert brightness(pictures[1][180, -100]) < brightness(pictures[0][180, -100])


def test_a_flat_wall_is_one_colour_and_an_unknown_scene_is_black():
    scene, clip = make_scene(), make_clip()
    scene.depths[0] += 1e-5 * torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    depth = next(depth_video_frames(clip, scene))[:, PANEL_WIDTH + GAP :].astype(int)
    assert np.ptp(depth, axis=(0, 1)).max() <= 4
    assert depth.min() > 0
    nothing = replace(scene, depth_confidence=torch.zeros_like(scene.depths), depths=scene.depths * math.nan)
    assert (next(depth_video_frames(clip, nothing))[:, PANEL_WIDTH + GAP :] == 0).all()


def test_the_third_panel_shows_what_moves():
    scene, clip = make_scene(), make_clip()
    scene.moving[:] = 0.0
    scene.moving[:, 6:, :8] = 1.0
    scene.moving[:, :, 12:] = math.nan
    picture = next(depth_video_frames(clip, scene))
    assert picture.shape == (360, 3 * PANEL_WIDTH + 2 * GAP, 3)
    panel = picture[:, -PANEL_WIDTH:].astype(int)
    moving, still, untold = panel[270, 120], panel[90, 120], panel[180, 450]
    assert moving[0] > moving[2] + 100
    assert np.ptp(still) == 0
    assert still[0] > 0
    assert (untold == 0).all()


def test_pictures_follow_time_and_odd_proportions_give_even_sizes():
    clip = make_clip(width=WIDTH - 1)
    images = torch.arange(NUM_FRAMES, dtype=torch.uint8)[:, None, None, None].expand_as(clip.images) * 50
    shuffled = Clip(images=images.contiguous(), times=torch.tensor([0.2, 0.0, 0.1]))
    pictures = list(depth_video_frames(shuffled, make_scene()))
    assert [int(picture[0, 0, 0]) for picture in pictures] == [50, 100, 0]
    assert all(length % 2 == 0 for length in pictures[0].shape[:2])
    unordered = replace(shuffled, times=torch.full((NUM_FRAMES,), math.nan))
    assert [int(picture[0, 0, 0]) for picture in depth_video_frames(unordered, make_scene())] == [0, 50, 100]


def test_a_clip_and_a_scene_that_do_not_belong_together_are_refused_at_the_call():
    with pytest.raises(ValueError, match="wanted one clip and its scene"):
        depth_video_frames(make_clip(2), make_scene())


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("case", ["moving", "photos", "still", "one frame", "nothing known", "metres"])
def test_the_camera_path_is_drawn_whatever_the_cameras_do(tmp_path, case):
    scene, times = make_scene(), torch.arange(NUM_FRAMES) / 10
    if case == "photos":
        times = times * math.nan
    if case == "still":
        scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=torch.eye(4).repeat(NUM_FRAMES, 1, 1)))
    if case == "one frame":
        scene, times = scene.frames([1]), times[:1]
    if case == "nothing known":
        scene = replace(scene.frames([0]), depth_confidence=torch.zeros(1, HEIGHT, WIDTH))
        times = times[:1]
    if case == "metres":
        scene = replace(scene, metres_per_unit=torch.tensor(2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_camera_path(tmp_path / "cameras.png", scene, times)
    picture = read_picture(tmp_path / "cameras.png")
    assert picture.shape[0] > 500
    is_coloured = np.ptp(picture, axis=-1) > 60
    # Cameras are seen in both views.
    assert is_coloured[:, : picture.shape[1] // 2].sum() > 100
    assert is_coloured[:, picture.shape[1] // 2 : picture.shape[1] * 8 // 10].sum() > 100


def drawn_axes(monkeypatch, tmp_path, scene: Scene, times: torch.Tensor):
    """The axes of the figure as they were when it was saved."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
        write_camera_path(tmp_path / "cameras.png", scene, times)
    return figures[0].axes


def test_the_camera_path_has_the_right_axes_units_and_marks(monkeypatch, tmp_path):
    scene = make_scene()
    scene.cameras.world_from_cam[:, 1, 3] = torch.tensor([0.0, -0.5, -1.0])
    scene.cameras.world_from_cam[:, 2, 3] = torch.tensor([5.0, 6.0, 7.0])
    scene = replace(scene, metres_per_unit=torch.tensor(2.0))
    above, side, _ = drawn_axes(monkeypatch, tmp_path, scene, torch.tensor([0.2, 0.1, 0.0]))
    assert (above.get_xlabel(), above.get_ylabel()) == ("x (metres)", "z (metres)")
    assert (side.get_xlabel(), side.get_ylabel()) == ("z (metres)", "y (metres)")
    marks = {line.get_label(): line for line in above.lines}
    # The earliest frame is the last of the scene.
    assert marks["start"].get_xydata().tolist() == [[4.0, 14.0]]
    assert marks["end"].get_xydata().tolist() == [[0.0, 10.0]]
    assert {line.get_label(): line for line in side.lines}["start"].get_xydata().tolist() == [[14.0, -2.0]]
    assert side.yaxis_inverted()
    assert not above.yaxis_inverted()
    assert np.ptp(above.get_xlim()) == pytest.approx(np.ptp(above.get_ylim()))
    assert np.ptp(above.get_xlim()) == pytest.approx(abs(np.ptp(side.get_ylim())))
    # Cameras look along +z: every frustum opens upwards as seen from above.
    assert all(line.get_ydata().min() >= 10 for line in above.lines)

    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(1), torch.zeros(1))
    assert above.get_xlabel() == "x (unit of the scene)"


def test_photos_are_not_joined_and_a_tremble_is_not_a_path(monkeypatch, tmp_path):
    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(), torch.arange(NUM_FRAMES) / 10)
    assert [len(lines.get_segments()) for lines in above.collections if hasattr(lines, "get_segments")] == [2]
    above, *_ = drawn_axes(monkeypatch, tmp_path, make_scene(), torch.full((NUM_FRAMES,), math.nan))
    assert not any(hasattr(lines, "get_segments") for lines in above.collections)
    assert not {"start", "end"} & {line.get_label() for line in above.lines}

    scene = make_scene()
    scene.cameras.world_from_cam[:, 0, 3] = torch.tensor([0.0, 1e-5, 0.0])
    above, *_ = drawn_axes(monkeypatch, tmp_path, scene, torch.arange(NUM_FRAMES) / 10)
    assert np.ptp(above.get_xlim()) > 500 * 1e-5


def test_a_camera_path_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="a time for each of its 3 frames"):
        write_camera_path(tmp_path / "cameras.png", make_scene(), torch.zeros(2))
    with pytest.raises(ValueError, match=r"given a batch of \(1,\)"):
        write_camera_path(tmp_path / "cameras.png", Scene.stack([make_scene()]), torch.zeros(3))


# ---- results


def test_all_results_are_written(tmp_path):
    clip = replace(make_clip(height=24, width=32), source=Source("photos", ("a.png", "b.JPEG", "c.001"), (0, 1, 2)))
    scene = make_scene()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_results(tmp_path, clip, scene, make_info(source=clip.source))
    assert names_in(tmp_path) == {"scene.npz", "frames", "depth.mp4", "cameras.png", "points.ply"}
    assert names_in(tmp_path / "frames") == {"a.jpg", "b.jpg", "c.001.jpg"}
    frame = read_picture(tmp_path / "frames" / "b.jpg")
    assert frame.shape == (24, 32, 3)
    np.testing.assert_allclose(frame[12, 4], LEFT_COLOUR, atol=12)
    assert torch.equal(load_scene(tmp_path).depths, scene.depths)
    assert torch.equal(load_times(tmp_path), clip.times)
    assert len(trimesh.load(tmp_path / "points.ply").vertices) == NUM_FRAMES * HEIGHT * WIDTH  # type: ignore[union-attr]
    with av.open(str(tmp_path / "depth.mp4")) as video:
        assert float(video.streams.video[0].average_rate or 0) == pytest.approx(10)
        pictures = [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]
    assert len(pictures) == NUM_FRAMES
    assert pictures[0].shape == (360, 2 * PANEL_WIDTH + GAP, 3)


def test_without_a_confident_point_everything_else_is_written(tmp_path):
    scene = replace(make_scene(1), depth_confidence=torch.zeros(1, HEIGHT, WIDTH))
    with pytest.warns(UserWarning, match=r"points.ply is left out"):
        write_results(tmp_path, make_clip(1), scene, make_info(source=None))
    assert names_in(tmp_path) == {"scene.npz", "frames", "depth.mp4", "cameras.png"}
    assert names_in(tmp_path / "frames") == {"frame_000000.jpg"}


@pytest.mark.parametrize("names", [("a.png", "a.jpg"), ("left/1.png", "right/1.png"), ("a.png", "A.png")])
def test_frames_of_one_name_are_numbered_with_a_warning(names):
    with pytest.warns(UserWarning, match="all are numbered instead"):
        assert results._frame_names(Source("x", names, (0, 1)), 2) == ["frame_000000.jpg", "frame_000001.jpg"]


def test_frames_lie_in_one_folder_whatever_their_names():
    assert results._frame_names(Source("x", ("left/1.png", "../2.v3"), (0, 1)), 2) == ["1.jpg", "2.v3.jpg"]


def test_names_that_do_not_fit_the_clip_are_refused():
    with pytest.raises(ValueError, match="names 2 frames, but the clip has 3"):
        results._frame_names(Source("x", ("a", "b"), (0, 1)), 3)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 0.1, 0.2], 10.0),
        ([0.2, 0.0, 0.1], 10.0),
        ([0.0, 0.2, 0.4, 9.0], 5.0),
        ([0.0, 60.0], 2.0),
        ([0.0, 0.001], 30.0),
        ([1.0, 1.0], 30.0),
        ([0.0], 4.0),
        ([math.nan, math.nan], 4.0),
    ],
)
def test_the_video_runs_at_the_speed_of_the_clip(times, expected):
    assert results._frames_per_second(torch.tensor(times)) == pytest.approx(expected, rel=1e-5)


def test_the_archive_is_not_compressed(archive):
    with zipfile.ZipFile(archive) as zipped:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipped.infolist())
