"""What a view holds is the scene: proved by reading its recordings back."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
import walls
from PIL import Image
from recordings import Row, read_blueprint, read_recording

from recon4d import viewer
from recon4d.geometry import stratified_indices
from recon4d.records import Scene

NUM_FRAMES, HEIGHT, WIDTH = walls.NUM_FRAMES, walls.HEIGHT, walls.WIDTH


@pytest.fixture
def with_rerun() -> None:
    pytest.importorskip("rerun", reason="rerun comes with the extra `view`")


def saved(folder: Path, scene: Scene, times: torch.Tensor, images=None, config=None) -> dict[str, list[Row]]:
    """The recording of a scene, written and read back."""
    view = viewer.record_scene(scene, times, images, config)
    viewer.save_view(folder / "view.rrd", view)
    # While the view is there: nothing may wait in it.
    return read_recording(folder / "view.rrd")


ALL_POINTS = viewer.ViewConfig(movers_only=False)


def assert_same_points(found: np.ndarray, expected: torch.Tensor) -> None:
    """Check that two clouds show the same places, whatever their order and number of points at a place."""
    rounded = (np.round(np.asarray(points, np.float64), 3) + 0.0 for points in (found, expected))
    ours, theirs = ({tuple(point) for point in points} for points in rounded)
    assert ours == theirs


def entities(recording: dict[str, list[Row]]) -> set[str]:
    return {name for name in recording if not name.startswith("__")}


@pytest.mark.usefixtures("with_rerun")
def test_the_recording_holds_the_scene(tmp_path: Path):
    scene, clip = walls.make_scene(), walls.make_clip()
    recording = saved(tmp_path, scene, clip.times, clip.images)
    camera = {"world/camera", "world/camera/frame", "world/camera/depth", "world/camera/confidence"}
    masks = {"world/camera/unknown", "world/camera/moving"}
    assert entities(recording) == {
        *("world", "world/camera_path", "world/cameras", "world/map/high", "world/points/high"),
        *(camera | masks),
    }
    assert [row.frame for row in recording["world/camera/moving"]] == [None]  # only what its classes are called
    for name in ("world/points/high", "world/camera/unknown", *sorted(camera)):
        rows = [row for row in recording[name] if row.frame is not None]
        assert [row.frame for row in rows] == [0, 1, 2]
        assert [row.seconds for row in rows] == pytest.approx([0, 0.1, 0.2])

    # Right, down, forward, as rerun numbers directions.
    assert recording["world"][0].array("ViewCoordinates:xyz").tolist() == [[3, 2, 5]]
    for frame in range(NUM_FRAMES):
        points = recording["world/points/high"][frame]
        expected = scene.points_from_depth[frame].reshape(-1, 3)
        np.testing.assert_allclose(points.array("Points3D:positions"), expected, atol=1e-6)
        colors = points.colors().reshape(HEIGHT, WIDTH, 3)
        assert (colors[:, : WIDTH // 2] == walls.LEFT_COLOR).all()
        assert (colors[:, WIDTH // 2 :] == walls.RIGHT_COLOR).all()
        depth = recording["world/camera/depth"][frame].picture("DepthImage", np.float16, (HEIGHT, WIDTH))
        (meter,) = recording["world/camera/depth"][frame].array("DepthImage:meter")
        np.testing.assert_array_equal(depth / meter, scene.depths[frame])
        (blob,) = recording["world/camera/frame"][frame].columns["EncodedImage:blob"]
        picture = np.asarray(Image.open(BytesIO(bytes(blob)))).astype(int)
        np.testing.assert_allclose(picture[6, 2], walls.LEFT_COLOR, atol=12)

    still = recording["world/map/high"][0]
    # Cameras five pixels apart see 16 + 5 + 5 columns of the wall.
    assert len(still.array("Points3D:positions")) == (WIDTH + 10) * HEIGHT
    assert_same_points(still.array("Points3D:positions"), scene.points_from_depth.reshape(-1, 3))
    np.testing.assert_array_equal(still.colors()[0], np.array(walls.LEFT_COLOR) // 2)
    path = recording["world/camera_path"][0].array("LineStrips3D:strips")
    np.testing.assert_allclose(path, scene.cameras.centers[None])


@pytest.mark.usefixtures("with_rerun")
def test_cameras_are_where_they_are_and_see_what_they_see(tmp_path: Path):
    scene = scenes.make_scene(4)
    recording = saved(tmp_path, scene, torch.arange(4) / 10)
    for row in recording["world/camera"]:
        assert row.frame is not None
        world_from_cam = scene.cameras.world_from_cam[row.frame]
        # rerun stores matrices column by column.
        rotation = row.array("Transform3D:mat3x3").reshape(3, 3).T
        intrinsics = row.array("Pinhole:image_from_camera").reshape(3, 3).T
        np.testing.assert_allclose(rotation, world_from_cam[:3, :3], atol=1e-6)
        np.testing.assert_allclose(row.array("Transform3D:translation")[0], world_from_cam[:3, 3], atol=1e-6)
        np.testing.assert_allclose(intrinsics, scene.cameras.intrinsics[row.frame])
        assert row.array("Pinhole:resolution").tolist() == [[16, 12]]
        assert row.array("Pinhole:camera_xyz").tolist() == [[3, 2, 5]]

    # Every edge of each frustum is in its line: four around the picture, four to the center.
    lines = recording["world/cameras"][0].array("LineStrips3D:strips")
    assert len(lines) == 4
    for line, camera in zip(lines, scene.cameras.world_from_cam, strict=True):
        corners = (line - camera[:3, 3].numpy()) @ camera[:3, :3].numpy()
        at_center = np.abs(corners).max(axis=1) < 1e-5
        ends = [frozenset(pair) for pair in zip(_numbered(corners), _numbered(corners)[1:], strict=False)]
        assert len(set(ends)) == 8
        assert len({end for end in ends if _numbered(corners)[int(at_center.argmax())] in end}) == 4
        # Straight ahead through the pixel (0, 0): x = (0 - 7) / 20, y = (0 - 6.5) / 22 at z = 1.
        first = corners[0] / corners[0, 2]
        np.testing.assert_allclose(first, [-7 / 20, -6.5 / 22, 1], atol=1e-5)
        assert (corners[~at_center, 2] > 0).all()


def _numbered(points: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(np.round(point, 4) + 0.0) for point in points]


@pytest.mark.usefixtures("with_rerun")
def test_what_moves_is_in_its_own_time_and_not_in_the_map(tmp_path: Path):
    scene = walls.make_scene()
    moving = torch.zeros_like(scene.dynamic)
    moving[1, 2:5, 3:7] = 0.9
    scene = replace(scene, dynamic=moving)
    recording = saved(tmp_path, scene, torch.arange(3.0))
    mask = next(row for row in recording["world/camera/moving"] if row.frame == 1)
    np.testing.assert_array_equal(mask.picture("SegmentationImage", np.uint8, (HEIGHT, WIDTH)), moving[1] > 0.5)
    (outline,) = recording["world/camera/outline"][1].columns["LineStrips2D:strips"]
    assert {tuple(corner) for corner in outline} == {(3.5, 2.5), (6.5, 2.5), (6.5, 4.5), (3.5, 4.5)}  # pixel centers
    assert [len(row.array("LineStrips2D:strips")) for row in recording["world/camera/outline"]] == [0, 1, 0]
    at_time = [row.array("Points3D:positions").reshape(-1, 3) for row in recording["world/points/high"]]
    assert [len(points) for points in at_time] == [0, 12, 0]
    np.testing.assert_allclose(at_time[1], scene.points_from_depth[1, 2:5, 3:7].reshape(-1, 3), atol=1e-6)
    in_map = recording["world/map/high"][0]
    assert_same_points(in_map.array("Points3D:positions"), scene.points_from_depth[moving == 0])
    assert in_map.colors().max() == 170  # as bright as the gray of points without pictures

    everything = saved(tmp_path, scene, torch.arange(3.0), config=ALL_POINTS)
    assert [len(row.array("Points3D:positions")) for row in everything["world/points/high"]] == [HEIGHT * WIDTH] * 3
    assert_same_points(
        everything["world/map/high"][0].array("Points3D:positions"), scene.points_from_depth[moving == 0]
    )
    assert everything["world/map/high"][0].colors().max() == 85  # dimmed, because static points of each time are shown


@pytest.mark.usefixtures("with_rerun")
def test_movers_of_low_confidence_are_shown_at_first(tmp_path: Path):
    scene = walls.make_scene()
    moving, confidence = torch.zeros_like(scene.dynamic), 1 + torch.rand_like(scene.depths)
    moving[1, 2:5, 3:7] = 1
    confidence[1, 2:5, 3:7] = 0.5
    recording = saved(tmp_path, replace(scene, dynamic=moving, depth_confidence=confidence), torch.arange(3.0))
    assert len(recording["world/points/low"][1].array("Points3D:positions")) == 12
    layout = read_blueprint(tmp_path / "view.rrd")
    hidden = [name for name, rows in layout.items() if rows[0].columns.get("EntityBehavior:visible") == [False]]
    assert hidden
    assert all("world/map/low" in name for name in hidden)


@pytest.mark.usefixtures("with_rerun")
def test_bands_of_confidence_are_entities_and_the_lowest_is_hidden_at_first(tmp_path: Path):
    scene = walls.make_scene()
    confidence = torch.rand(scene.depths.shape, generator=torch.Generator().manual_seed(0)) + 1
    recording = saved(tmp_path, replace(scene, depth_confidence=confidence), torch.arange(3.0))
    counts = {}
    for band in ("low", "middle", "high"):
        counts[band] = sum(len(row.array("Points3D:positions")) for row in recording[f"world/points/{band}"])
        assert 0 < len(recording[f"world/map/{band}"][0].array("Points3D:positions")) <= counts[band]
    total = NUM_FRAMES * HEIGHT * WIDTH
    assert counts["low"] == pytest.approx(0.2 * total, abs=1)
    assert counts["middle"] == pytest.approx(0.4 * total, abs=1)
    assert sum(counts.values()) == total
    least = recording["world/points/low"][0].array("Points3D:positions")
    expected = scene.points_from_depth[0][confidence[0] < confidence.quantile(0.2)]
    np.testing.assert_allclose(least, expected, atol=1e-6)

    layout = read_blueprint(tmp_path / "view.rrd")
    hidden = {name for name, rows in layout.items() if rows[0].columns.get("EntityBehavior:visible") == [False]}
    assert {name.split("overrides/")[1].split("/visualizers")[0] for name in hidden} == {
        "world/map/low",
        "world/points/low",
    }


@pytest.mark.usefixtures("with_rerun")
def test_the_layout_shows_the_world_upright_with_pictures_beside_it(tmp_path: Path):
    clip, scene = walls.make_clip(), replace(walls.make_scene(), dynamic=torch.zeros(NUM_FRAMES, HEIGHT, WIDTH))
    saved(tmp_path, scene, clip.times, clip.images)
    layout = [row.columns for rows in read_blueprint(tmp_path / "view.rrd").values() for row in rows]
    names = [row["ViewBlueprint:display_name"][0] for row in layout if "ViewBlueprint:display_name" in row]
    assert sorted(names) == ["confidence", "depth", "frame", "moving", "world"]
    (eye,) = [row for row in layout if "EyeControls3D:eye_up" in row]
    assert eye["EyeControls3D:eye_up"] == [[0.0, -1.0, 0.0]]  # y points down
    position, target = np.array(eye["EyeControls3D:position"][0]), np.array(eye["EyeControls3D:look_target"][0])
    assert position[2] < 0 < target[2]  # behind the cameras, looking the way they look
    assert position[1] < target[1]  # from above
    (timeline,) = [row["TimePanelBlueprint:timeline"] for row in layout if "TimePanelBlueprint:timeline" in row]
    assert timeline == ["time"]


@pytest.mark.usefixtures("with_rerun")
def test_frames_are_shown_in_the_order_of_time(tmp_path: Path):
    scene, clip = scenes.make_scene(3, anchors=(0,)), scenes.make_clip(3)
    recording = saved(tmp_path, scene, torch.tensor([0.5, 0.3, 0.4]), clip.images, ALL_POINTS)
    assert [row.seconds for row in recording["world/camera"]] == pytest.approx([0.3, 0.4, 0.5])
    for place, frame in enumerate([1, 2, 0]):
        row = recording["world/points/high"][place]
        np.testing.assert_allclose(
            row.array("Points3D:positions"), scene.points_from_depth[frame].reshape(-1, 3), atol=1e-5
        )
        np.testing.assert_array_equal(row.colors(), clip.images[frame].movedim(0, -1).reshape(-1, 3))


@pytest.mark.usefixtures("with_rerun")
def test_photos_have_no_seconds_and_no_path(tmp_path: Path):
    recording = saved(tmp_path, walls.make_scene(), torch.full((NUM_FRAMES,), torch.nan))
    assert "world/camera_path" not in recording
    assert [(row.frame, row.seconds) for row in recording["world/camera"]] == [(0, None), (1, None), (2, None)]
    layout = [row.columns for rows in read_blueprint(tmp_path / "view.rrd").values() for row in rows]
    assert [row["TimePanelBlueprint:timeline"] for row in layout if "TimePanelBlueprint:timeline" in row] == [["frame"]]


@pytest.mark.usefixtures("with_rerun")
def test_tracks_of_every_anchor_are_shown_with_tails(tmp_path: Path):
    scene = replace(walls.make_scene(), tracks=walls.make_tracks())
    assert scene.tracks is not None
    recording = saved(tmp_path, scene, torch.arange(3.0), config=viewer.ViewConfig(max_tracks=6))
    for anchor in range(2):
        heads = recording[f"world/tracks/anchor_{anchor}/points"]
        chosen = stratified_indices(5, 3)
        for frame in range(3):
            expected = scene.tracks.points[anchor, frame, chosen]
            np.testing.assert_allclose(heads[frame].array("Points3D:positions"), expected)
        tails = recording[f"world/tracks/anchor_{anchor}/tails"]
        assert len(tails[0].columns["LineStrips3D:strips"]) == 0
        whole = scene.tracks.points[anchor][:, chosen].transpose(0, 1)
        newest, older = np.split(tails[2].array("LineStrips3D:strips"), 2)
        np.testing.assert_allclose(newest, whole[:, 1:])
        np.testing.assert_allclose(older, whole[:, :2])
        bright, faded = np.split(tails[2].colors("LineStrips3D:colors").astype(int), 2)
        np.testing.assert_allclose(faded, 0.6 * bright, atol=1)


@pytest.mark.usefixtures("with_rerun")
def test_only_movers_have_tracks_if_the_mask_is_known(tmp_path: Path):
    scene = scenes.make_scene(3)
    assert scene.tracks is not None
    moving = torch.zeros_like(scene.dynamic)
    moving[0, 3, 4:8] = 1
    scene = replace(scene, dynamic=moving)
    recording = saved(tmp_path, scene, torch.arange(3.0))
    movers = 3 * 16 + torch.arange(4, 8)
    heads = recording["world/tracks/anchor_0/points"][1].array("Points3D:positions")
    np.testing.assert_allclose(heads, scene.tracks.points[0, 1, movers])
    everything = saved(tmp_path, scene, torch.arange(3.0), config=ALL_POINTS)
    assert len(everything["world/tracks/anchor_0/points"][1].array("Points3D:positions")) > len(movers)


@pytest.mark.usefixtures("with_rerun")
def test_a_scene_of_which_nothing_is_known_shows_its_cameras(tmp_path: Path):
    scene = replace(walls.make_scene(), depth_confidence=torch.zeros(NUM_FRAMES, HEIGHT, WIDTH))
    recording = saved(tmp_path, scene, torch.arange(3.0))
    assert not any(name.startswith(("world/points", "world/map", "world/camera/depth")) for name in recording)
    assert len(recording["world/camera"]) == len(recording["world/cameras"][0].columns["LineStrips3D:strips"]) == 3


@pytest.mark.usefixtures("with_rerun")
def test_a_camera_that_is_not_known_is_not_shown(tmp_path: Path):
    scene = walls.make_scene()
    poses = scene.cameras.world_from_cam.clone()
    poses[1] = torch.nan
    scene = replace(scene, cameras=replace(scene.cameras, world_from_cam=poses))
    recording = saved(tmp_path, scene, torch.arange(3.0))
    before, unknown, after = recording["world/camera"]
    assert "Clear:is_recursive" in unknown.columns
    assert "Transform3D:translation" not in unknown.columns
    assert "Transform3D:translation" in before.columns.keys() & after.columns.keys()
    assert len(recording["world/cameras"][0].columns["LineStrips3D:strips"]) == 2
    assert [len(row.array("Points3D:positions")) for row in recording["world/points/high"]] == [192, 0, 192]


@pytest.mark.usefixtures("with_rerun")
def test_unknown_depth_is_not_shown_as_depth(tmp_path: Path):
    scene = replace(walls.make_scene(), metres_per_unit=torch.tensor(0.5))
    confidence = scene.depth_confidence.clone()
    confidence[2, :3] = 0
    recording = saved(tmp_path, replace(scene, depth_confidence=confidence), torch.arange(3.0))
    depth = recording["world/camera/depth"][2]
    assert np.isnan(depth.picture("DepthImage", np.float16, (HEIGHT, WIDTH))[:3]).all()
    low, high = depth.array("DepthImage:depth_range")[0] / depth.array("DepthImage:meter")[0]
    assert low < 0.5 * walls.DEPTH < high  # in meters
    (blob,) = recording["world/camera/confidence"][2].columns["EncodedImage:blob"]
    levels = np.asarray(Image.open(BytesIO(bytes(blob)))).astype(int)
    assert levels[:2].max() < 30
    assert levels[5:].min() > 225
    mask = next(row for row in recording["world/camera/unknown"] if row.frame == 2)
    shown = mask.picture("SegmentationImage", np.uint8, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(shown, confidence[2] == 0)


@pytest.mark.usefixtures("with_rerun")
def test_large_scenes_are_made_light(tmp_path: Path):
    scene, clip = walls.make_scene(), walls.make_clip(height=96, width=128)
    large = scene.resized(48, 64)
    config = viewer.ViewConfig(max_points=200, max_side=32)
    recording = saved(tmp_path, large, clip.times, clip.images, config)
    assert recording["world/camera"][0].array("Pinhole:resolution").tolist() == [[32, 24]]
    intrinsics = recording["world/camera"][0].array("Pinhole:image_from_camera").reshape(3, 3).T
    np.testing.assert_allclose(intrinsics, [[20, 0, 16], [0, 20, 12], [0, 0, 1]])
    (blob,) = recording["world/camera/frame"][0].columns["EncodedImage:blob"]
    assert Image.open(BytesIO(bytes(blob))).size == (32, 24)
    counts = [len(row.array("Points3D:positions")) for row in recording["world/points/high"]]
    total = sum(counts) + len(recording["world/map/high"][0].array("Points3D:positions"))
    assert 150 < total <= 200
    assert sum(counts) <= 100
    assert len(set(counts)) == 1
    config = viewer.ViewConfig(max_frame_points=20, max_side=32)
    recording = saved(tmp_path, large, clip.times, clip.images, config)
    assert all(15 <= len(row.array("Points3D:positions")) <= 20 for row in recording["world/points/high"])


@pytest.mark.usefixtures("with_rerun")
@pytest.mark.parametrize(
    ("times", "images", "wanted"),
    [
        (torch.arange(2.0), None, r"times have shape \(2,\), wanted \(3,\)"),
        (torch.arange(3.0), torch.zeros(2, 3, 12, 16, dtype=torch.uint8), "given 2 images, wanted 3"),
    ],
)
def test_what_does_not_fit_the_scene_is_refused(times, images, wanted: str):
    with pytest.raises(ValueError, match=wanted):
        viewer.record_scene(walls.make_scene(), times, images)


@pytest.mark.parametrize("name", ["max_points", "max_frame_points", "max_tracks", "tail", "max_side"])
def test_limits_that_make_no_sense_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is -1; wanted at least"):
        viewer.ViewConfig(**{name: -1})
