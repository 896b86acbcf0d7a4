"""Tests of the reader of Point Odyssey, against files written by hand and against the writers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d import geometry as g
from recon4d.datasets import Sample
from recon4d.datasets.readers.point_odyssey import PointOdyssey
from recon4d.errors import DataError, UserError

FRAMES, HEIGHT, WIDTH = 3, 54, 96

STEPS = 327

Z = STEPS / 65535 * 1000
"""Depth of 327 steps: a wall 4.99 m away that fills all images."""

POINTS = np.array([[0, 0, Z], [1, 0, Z], [0, 1, Z], [-1, 0.5, Z]])

INTRINSICS = np.array([[57.6, 0, 48], [0, 57.6, 27], [0, 0, 1]])


def annotation() -> dict[str, np.ndarray]:
    """Create an annotation of version 1.2 with four points on the wall and a static camera."""
    pixels = (POINTS @ INTRINSICS.T)[:, :2] / Z
    count = len(POINTS)
    return {
        "trajs_2d": np.broadcast_to(pixels, (FRAMES, count, 2)).astype(np.float16).astype(np.float32),
        "trajs_3d": np.broadcast_to(POINTS, (FRAMES, count, 3)).astype(np.float16).astype(np.float32),
        "valids": np.ones((FRAMES, count), bool),
        "visibs": np.ones((FRAMES, count), bool),
        "intrinsics": np.broadcast_to(INTRINSICS, (FRAMES, 3, 3)).astype(np.float32),
        "extrinsics": np.broadcast_to(np.eye(4), (FRAMES, 4, 4)).astype(np.float32),
    }


def write_sequence(
    root: Path,
    arrays: dict[str, Any],
    file: str = "anno.npz",
    depths: np.ndarray | None = None,
    save: Callable[..., None] = np.savez,
) -> Path:
    """Write a sequence ``train/seq`` without recon4d, and return its folder."""
    folder = root / "train" / "seq"
    for part in ("rgbs", "depths"):
        (folder / part).mkdir(parents=True)
    steps = np.full((FRAMES, HEIGHT, WIDTH), STEPS, np.uint16) if depths is None else depths
    for frame, values in enumerate(steps):
        picture = np.full((*values.shape, 3), 40 * (frame + 1), np.uint8)
        Image.fromarray(picture).save(folder / "rgbs" / f"rgb_{frame:05d}.jpg", quality=95)
        Image.fromarray(values).save(folder / "depths" / f"depth_{frame:05d}.png")
    save(folder / file, **arrays)
    return folder


def read(root: Path, frames: tuple[int, ...] = (0, 1, 2), anchors: tuple[int, ...] = (0,)) -> Sample:
    return PointOdyssey(root).read("seq", frames, anchors)


def test_a_sequence_is_read_as_stored(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, annotation())
    (tmp_path / "train" / "seq.mp4").touch()
    data = PointOdyssey(tmp_path, "train")
    assert data.names() == ["seq"]
    assert data.num_frames("seq") == FRAMES

    sample = read(tmp_path)
    assert sample.clip.images.shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert (sample.clip.images[:, 0, 0, 0].int() - torch.tensor([40, 80, 120])).abs().max() <= 2
    assert sample.clip.times.tolist() == pytest.approx([0, 1 / 30, 2 / 30])
    assert sample.clip.source.path == str(folder / "rgbs")
    assert sample.clip.source.names == ("rgb_00000.jpg", "rgb_00001.jpg", "rgb_00002.jpg")
    assert sample.clip.source.numbers == (0, 1, 2)
    assert torch.allclose(sample.scene.depths, torch.tensor(Z).float(), rtol=1e-6)
    assert (sample.scene.depth_confidence == 1).all()
    assert sample.scene.metres_per_unit == 1
    assert sample.scene.dynamic.isnan().all()
    assert torch.allclose(sample.scene.tracks.points, torch.tensor(POINTS).float().expand(1, 3, 4, 3), atol=2e-3)
    assert (sample.scene.tracks.visibility == 1).all()
    assert (sample.scene.tracks.confidence == 1).all()


def test_the_intrinsics_of_the_release_are_not_shifted(tmp_path: Path) -> None:
    """At 960 x 540 the principal point (480, 270) is the corner between the four central pixels."""
    arrays = annotation()
    intrinsics = np.array([[576, 0, 480], [0, 576, 270], [0, 0, 1]], np.float32)
    arrays["intrinsics"] = np.broadcast_to(intrinsics, (FRAMES, 3, 3))
    arrays["trajs_2d"] = (arrays["trajs_2d"] * 10).astype(np.float16).astype(np.float32)
    write_sequence(tmp_path, arrays, depths=np.full((FRAMES, 540, 960), STEPS, np.uint16))
    sample = read(tmp_path)
    assert torch.equal(sample.scene.cameras.intrinsics[1], torch.from_numpy(intrinsics))
    assert sample.scene.tracks.pixels[0, 0].tolist() == [480, 270]
    assert torch.allclose(sample.scene.track_pixels[0, 0], sample.scene.tracks.pixels[0], atol=0.3)
    # On the optical axis, the mean of the four pixels around it.
    assert sample.scene.points[0, 269:271, 479:481].mean(dim=(0, 1)).tolist() == pytest.approx([0, 0, Z], abs=1e-4)


def test_depth_is_linear_and_unknown_at_0_and_65535(tmp_path: Path) -> None:
    depths = np.full((FRAMES, HEIGHT, WIDTH), STEPS, np.uint16)
    depths[0, 0, :5] = [0, 1, 2, 65534, 65535]
    write_sequence(tmp_path, annotation(), depths=depths)
    scene = read(tmp_path).scene
    step = 1000 / 65535
    assert scene.depths[0, 0, :5].tolist() == pytest.approx([0, step, 2 * step, 65534 * step, 0], rel=1e-6)
    assert scene.depth_confidence[0, 0, :5].tolist() == [0, 1, 1, 1, 0]


def test_depth_beyond_z_far_is_unknown_but_tracks_stay_visible(tmp_path: Path) -> None:
    write_sequence(tmp_path, annotation())
    near = PointOdyssey(tmp_path, z_far=4.9).read("seq", [0, 1]).scene
    assert (near.depth_confidence == 0).all()
    assert (near.tracks.visibility == 1).all()
    assert (PointOdyssey(tmp_path, z_far=5.1).read("seq", [0, 1]).scene.depth_confidence == 1).all()


def test_a_single_nan_for_3d_means_no_tracks(tmp_path: Path) -> None:
    write_sequence(tmp_path, annotation() | {"trajs_3d": np.array(np.nan)})
    sample = read(tmp_path)
    assert sample.scene.tracks is None
    assert (sample.scene.depth_confidence == 1).all()


def test_tracks_without_finite_pixels_or_points_are_invalid(tmp_path: Path) -> None:
    arrays = annotation()
    arrays["trajs_2d"][1, 0, 1] = np.inf
    arrays["trajs_2d"][1, 1, 0] = np.nan
    arrays["trajs_3d"][1, 2] = np.nan
    write_sequence(tmp_path, arrays)
    tracks = read(tmp_path).scene.tracks
    assert tracks.confidence[0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
    assert tracks.visibility[0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
    assert tracks.points.isfinite().all()
    assert tracks.pixels.isfinite().all()


NEAR = 20 * 1000 / 65535
"""Depth of 20 steps, of which five percent are one step."""
NEAR_POINTS = np.array([[0, 0, NEAR], [0, 0, NEAR + 0.04], [0, 0, NEAR], [0, 0, NEAR - 0.04]])


@pytest.mark.parametrize(
    ("key", "values", "steps", "confidence", "visibility"),
    [
        ("visibs", [False, True, True, True], STEPS, [1, 1, 1, 1], [0, 1, 1, 1]),
        ("valids", [True, False, True, True], STEPS, [1, 0, 1, 1], [1, 0, 1, 1]),
        # Outside of the image.
        ("trajs_2d", [[WIDTH, 27], [-0.01, 27], [48, HEIGHT], [48, 27]], STEPS, [1, 1, 1, 1], [0, 0, 0, 1]),
        # Without known depth.
        ("trajs_3d", [0, 0, 990.0], 65535, [1, 1, 1, 1], [0, 0, 0, 0]),
        ("trajs_3d", [0, 0, 0.03], 0, [1, 1, 1, 1], [0, 0, 0, 0]),
        # Off the surface: the tolerance is five percent of the depth, or three steps nearby.
        ("trajs_3d", POINTS + [[0, 0, dz] for dz in (0.24, 0.27, -0.23, -0.27)], STEPS, [1, 1, 1, 1], [1, 0, 1, 0]),
        ("trajs_3d", NEAR_POINTS, 20, [1, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_known_and_visible_tracks(
    tmp_path: Path, key: str, values: Any, steps: int, confidence: list[int], visibility: list[int]
) -> None:
    arrays, depths = annotation(), np.full((FRAMES, HEIGHT, WIDTH), STEPS, np.uint16)
    arrays[key][1], depths[1] = values, steps
    write_sequence(tmp_path, arrays, depths=depths)
    tracks = read(tmp_path).scene.tracks
    assert tracks.confidence[0, 1].tolist() == confidence
    assert tracks.visibility[0, 1].tolist() == visibility


def test_a_point_belongs_to_the_pixel_of_its_floor(tmp_path: Path) -> None:
    depths = np.full((FRAMES, HEIGHT, WIDTH), STEPS, np.uint16)
    depths[:, :, 48:] = 10 * STEPS
    arrays = annotation()
    arrays["trajs_2d"][:] = [[47.9, 27], [48.1, 27], [47.4, 27.9], [30, 27]]
    write_sequence(tmp_path, arrays, depths=depths)
    tracks = read(tmp_path).scene.tracks
    assert tracks.visibility[0, 0].tolist() == [1, 0, 1, 1]


def test_rounded_rotations_far_from_the_origin_keep_cameras_and_tracks_in_place(tmp_path: Path) -> None:
    angles = torch.tensor([[0.3, 0.5, -0.2], [0.35, 0.45, -0.25], [0.1, -0.9, 0.4]], dtype=torch.float64)
    extrinsics = np.broadcast_to(np.eye(4), (FRAMES, 4, 4)).copy()
    extrinsics[:, :3, :3] = g.rotation_from_axis_angle(angles).numpy().astype(np.float16)
    extrinsics[:, :3, 3] = [[600, -400, 700], [604, -404, 690], [-300, 500, 800]]
    exact = np.linalg.inv(extrinsics)
    skew = extrinsics[:, :3, :3] @ extrinsics[:, :3, :3].transpose(0, 2, 1) - np.eye(3)
    assert 1e-4 < np.abs(skew).max() < 2e-3
    # The points are on the wall in each frame, so they move in world coordinates.
    arrays = annotation() | {"extrinsics": extrinsics}
    arrays["trajs_3d"] = POINTS @ exact[:, :3, :3].transpose(0, 2, 1) + exact[:, None, :3, 3]
    write_sequence(tmp_path, arrays)
    scene = read(tmp_path).scene

    rotations = scene.cameras.world_from_cam[:, :3, :3].double()
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64), atol=2e-6)
    assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))
    # Distances between centers do not depend on the choice of world coordinates.
    wanted = np.linalg.norm(exact[1:, :3, 3] - exact[0, :3, 3], axis=-1)
    assert np.allclose(scene.cameras.centers[1:].norm(dim=-1).numpy(), wanted, atol=2e-4, rtol=1e-6)
    assert (scene.tracks.visibility == 1).all()
    assert torch.allclose(scene.tracks.points[0, 0], torch.tensor(POINTS).float(), atol=5e-3)
    wanted_pixels = torch.from_numpy(arrays["trajs_2d"]).expand(1, -1, -1, -1)
    assert torch.allclose(scene.track_pixels, wanted_pixels, atol=0.1)


def test_frames_are_read_in_the_requested_order_and_the_first_defines_the_world(tmp_path: Path) -> None:
    arrays = annotation()
    arrays["extrinsics"][:, 0, 3] = [0, -1, -2]
    arrays["trajs_3d"][:, :, 0] += np.array([[0.0], [1], [2]])
    write_sequence(tmp_path, arrays)
    sample = read(tmp_path, (2, 0, 2), anchors=(0, 1))
    assert sample.clip.source.numbers == (2, 0, 2)
    assert (sample.clip.images[:, 0, 0, 0].int() - torch.tensor([120, 40, 120])).abs().max() <= 2
    assert sample.scene.cameras.centers.tolist() == [[0, 0, 0], [-2, 0, 0], [0, 0, 0]]
    assert sample.scene.tracks.points[1, :, 0, 0].tolist() == [0, -2, 0]
    assert sample.scene.tracks.anchors.tolist() == [0, 1]


@pytest.mark.parametrize("file", ["annotations.npz", "annot.npz"])
def test_annotations_of_the_generator_are_read(tmp_path: Path, file: str) -> None:
    arrays = {key: value.astype(np.float16) for key, value in annotation().items()}
    del arrays["valids"], arrays["visibs"]
    visibilities = np.ones((FRAMES, 4), np.float16)
    visibilities[1, :3] = [0, 1, 2]
    write_sequence(tmp_path, arrays | {"visibilities": visibilities}, file)
    sample = read(tmp_path)
    assert sample.scene.depths.dtype == torch.float32
    assert sample.scene.tracks.confidence[0, 1].tolist() == [1, 1, 0, 1]
    assert sample.scene.tracks.visibility[0, 1].tolist() == [0, 1, 0, 1]
    assert torch.allclose(sample.scene.tracks.points[0, 2], torch.tensor(POINTS).float(), atol=3e-3)


def test_compressed_and_fortran_order_arrays_are_read(tmp_path: Path) -> None:
    arrays = annotation()
    arrays["trajs_3d"][:, :, 0] += np.array([[0.0], [1], [2]])
    write_sequence(tmp_path / "a", arrays)
    write_sequence(
        tmp_path / "b", {key: np.asfortranarray(value) for key, value in arrays.items()}, save=np.savez_compressed
    )
    first, second = read(tmp_path / "a", (1, 2)).scene, read(tmp_path / "b", (1, 2)).scene
    assert torch.equal(first.tracks.points, second.tracks.points)
    assert torch.equal(first.tracks.pixels, second.tracks.pixels)


def broken_zip(folder: Path) -> None:
    file = folder / "anno.npz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def broken_png(folder: Path) -> None:
    file = folder / "depths" / "depth_00001.png"
    file.write_bytes(file.read_bytes()[:60])


def broken_jpeg(folder: Path) -> None:
    file = folder / "rgbs" / "rgb_00001.jpg"
    file.write_bytes(file.read_bytes()[:400])


def other_size(folder: Path) -> None:
    Image.new("RGB", (WIDTH - 1, HEIGHT)).save(folder / "rgbs" / "rgb_00001.jpg")


def eight_bit_depth(folder: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT), 80).save(folder / "depths" / "depth_00001.png")


def small_depth(folder: Path) -> None:
    Image.fromarray(np.full((9, 16), STEPS, np.uint16)).save(folder / "depths" / "depth_00001.png")


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (broken_zip, "anno.npz"),
        (lambda folder: (folder / "anno.npz").unlink(), "anno.npz"),
        (broken_png, "depth_00001.png"),
        (lambda folder: (folder / "depths" / "depth_00001.png").unlink(), "depth_00001.png"),
        (eight_bit_depth, "depth_00001.png"),
        (small_depth, "depth_00001.png"),
        (broken_jpeg, "rgb_00001.jpg"),
        (lambda folder: (folder / "rgbs" / "rgb_00001.jpg").unlink(), "rgb_00001.jpg"),
        (other_size, "rgb_00001.jpg"),
    ],
)
def test_damaged_files_are_reported_in_one_line(tmp_path: Path, damage: Callable[[Path], object], file: str) -> None:
    damage(write_sequence(tmp_path, annotation()))
    assert PointOdyssey(tmp_path).names() == ["seq"]
    with pytest.raises(DataError, match=rf"^seq: .*{file}: [^\n]+$") as caught:
        read(tmp_path)
    assert caught.value.sequence == "seq"
    assert str(caught.value).count(file) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trajs_2d": np.zeros((FRAMES, 5, 2))}, "trajs_2d has shape"),
        ({"trajs_3d": np.zeros((FRAMES + 1, 4, 3))}, "trajs_3d has shape"),
        ({"visibs": np.ones((FRAMES, 5), bool)}, "visibs has shape"),
        ({"valids": np.ones((FRAMES - 1, 4), bool)}, "valids has shape"),
        ({"extrinsics": np.broadcast_to(np.eye(4), (FRAMES + 1, 4, 4))}, "extrinsics has shape"),
        ({"extrinsics": np.full((FRAMES, 4, 4), np.nan)}, "not finite"),
        ({"extrinsics": np.broadcast_to(np.diag([1, 1, -1, 1]), (FRAMES, 4, 4))}, "not rotation matrices"),
        ({"intrinsics": np.full((FRAMES, 3, 3), np.inf)}, "not finite"),
        ({"intrinsics": np.broadcast_to(np.diag([1, 1, 2]), (FRAMES, 3, 3))}, "pinhole"),
        ({"intrinsics": np.eye(3)[0]}, "intrinsics have shape"),
        ({"trajs_3d": np.array([None] * 5, dtype=object)}, "object rather than numbers"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], reason: str) -> None:
    write_sequence(tmp_path, annotation() | changes)
    with pytest.raises(DataError, match=rf"^seq: .*anno.npz: [^\n]*{reason}[^\n]*$"):
        read(tmp_path)


@pytest.mark.parametrize("key", ["trajs_3d", "trajs_2d", "valids", "visibs", "intrinsics", "extrinsics"])
def test_missing_arrays_are_reported(tmp_path: Path, key: str) -> None:
    write_sequence(tmp_path, {name: value for name, value in annotation().items() if name != key})
    with pytest.raises(DataError, match=key):
        read(tmp_path)


def test_missing_frames_sequences_and_splits_are_refused(tmp_path: Path) -> None:
    write_sequence(tmp_path, annotation())
    for frames in ((1, 2, 3), (-1, 2), ()):
        with pytest.raises(ValueError, match="has frames 0 to 2"):
            read(tmp_path, frames)
    with pytest.raises(ValueError, match="anchors"):
        read(tmp_path, (0, 1), anchors=(2,))
    with pytest.raises(DataError, match=r"nowhere: .*is missing"):
        PointOdyssey(tmp_path).num_frames("nowhere")
    write_sequence(tmp_path / "none", annotation() | {"intrinsics": np.zeros((0, 3, 3))})
    with pytest.raises(DataError, match="seq: sequence: has no frames"):
        read(tmp_path / "none", ())
    with pytest.raises(UserError, match="val is not a folder"):
        PointOdyssey(tmp_path, "val")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="no sequences"):
        PointOdyssey(tmp_path, "test")
