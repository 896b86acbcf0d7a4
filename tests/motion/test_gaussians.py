"""Gaussian splats of exact scenes: a wall, and a plate in front of it that rotates and moves."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import HEIGHT, WIDTH, make_clip, make_scene

from recon4d.geometry import (
    pixel_grid,
    project,
    rigid,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    transform_points,
    unproject_map,
)
from recon4d.geometry.gaussian_splatting import project_covariances, rasterize_gaussians
from recon4d.motion import fit_trajectories, scene_gaussians
from recon4d.motion.gaussians import MAX_OPACITY, MIN_RELATIVE_OPACITY, SIZE, THICKNESS, SplatFrame, frame_gaussians
from recon4d.records import Cameras, Scene, Tracks
from recon4d.records.gaussians import DynamicGaussians, Gaussians

FRAMES = 7
TIMES = torch.arange(FRAMES) / 5
COLUMNS = slice(10, 22)
ROWS = slice(6, 18)
AXIS = torch.tensor([0.0, 0.0, 1.0])
MOTION = rigid(rotation_from_axis_angle(0.8 * TIMES[:, None] * AXIS), TIMES[:, None] * torch.tensor([0.2, 0.1, 0.0]))
"""Motion of the plate in its own plane: rotation about the viewing axis and a shift."""


def plate_scene() -> Scene:
    """Make a static camera before a plate at z = 2 and a wall at z = 4; in the first frame the plate fills a square."""
    height, width = 24, 32
    intrinsics = torch.tensor([[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]]).expand(FRAMES, 3, 3)
    cameras = Cameras(torch.eye(4).expand(FRAMES, 4, 4).clone(), intrinsics.clone())
    at_plate = unproject_map(torch.full((height, width), 2.0), intrinsics[0])
    start = transform_points(torch.linalg.inv(MOTION), at_plate.expand(FRAMES, height, width, 3))
    pixels = project(start, intrinsics)
    is_plate = (pixels[..., 0] >= COLUMNS.start) & (pixels[..., 0] < COLUMNS.stop)
    is_plate &= (pixels[..., 1] >= ROWS.start) & (pixels[..., 1] < ROWS.stop)
    depths = torch.where(is_plate, 2.0, 4.0)
    scene = Scene.from_depth(depths, cameras, dynamic=is_plate.float())
    moved = transform_points(MOTION, at_plate.expand(FRAMES, height, width, 3)).flatten(1, 2)
    points = torch.where(is_plate[0].flatten()[:, None], moved, scene.points[0].flatten(0, 1))
    ones = torch.ones(1, FRAMES, height * width)
    tracks = Tracks(points[None], ones, ones, torch.tensor([0]), pixel_grid(height, width).reshape(1, -1, 2))
    return replace(scene, tracks=tracks)


def colors_of(scene: Scene) -> torch.Tensor:
    """Return images in which the plate is red and the wall green."""
    images = torch.zeros(scene.num_frames, 3, *scene.size, dtype=torch.uint8)
    images[:, 0] = 200 * scene.is_dynamic
    images[:, 1] = 100 * ~scene.is_dynamic
    return images


@pytest.fixture(scope="module")
def plate() -> tuple[Scene, DynamicGaussians]:
    scene = fit_trajectories(plate_scene(), TIMES)
    return scene, scene_gaussians(scene, colors_of(scene), TIMES)


class TestSurfaces:
    def test_the_projection_is_round_and_half_a_pixel_large(self) -> None:
        """On a slanted wall, in the frame of the pixel."""
        scene, clip = make_scene(), make_clip()
        frame = SplatFrame(scene.frames([2]), clip.images[2], torch.ones(HEIGHT, WIDTH, dtype=torch.bool))
        made = frame_gaussians(frame)
        torch.testing.assert_close(made.centers, scene.points_from_depth[2].reshape(-1, 3))
        cam_from_world, intrinsics = scene.cameras.cam_from_world[2], scene.cameras.intrinsics[2]
        in_camera = transform_points(cam_from_world, made.centers)
        projected = project_covariances(in_camera, made.covariances, cam_from_world, intrinsics, (HEIGHT, WIDTH))
        # The thickness adds a little in the direction in which the wall recedes.
        torch.testing.assert_close(projected, SIZE**2 * torch.eye(2).expand_as(projected), atol=0.006, rtol=0)

    def test_the_thin_axis_is_the_normal(self) -> None:
        scene, clip = make_scene(), make_clip()
        frame = SplatFrame(scene.frames([0]), clip.images[0], torch.ones(HEIGHT, WIDTH, dtype=torch.bool))
        made = frame_gaussians(frame)
        thin, axis = made.scales.min(dim=1)
        columns = rotation_from_quaternion(made.quaternions)
        normals = columns[torch.arange(len(axis)), :, axis]
        wall = torch.tensor([-0.25, 0.0, 1.0]) / math.hypot(0.25, 1)
        torch.testing.assert_close((normals @ wall).abs(), torch.ones(len(axis)), atol=1e-4, rtol=0)
        footprint = scene.depths[0].flatten() / 21
        torch.testing.assert_close(thin, THICKNESS * SIZE * footprint, atol=1e-4, rtol=0)

    def test_unknown_pixels_and_their_neighbors(self) -> None:
        """The neighbor of an unknown pixel has the normal of its other neighbor."""
        scene, clip = make_scene(), make_clip()
        mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        whole = frame_gaussians(SplatFrame(scene.frames([0]), clip.images[0], mask.clone()))
        mask[4, 5] = False
        holey = replace(scene, depths=scene.depths.clone())
        holey.depths[0, 4, 5] = 0.3
        made = frame_gaussians(SplatFrame(holey.frames([0]), clip.images[0], mask))
        chosen = mask.flatten()
        torch.testing.assert_close(made.covariances[chosen], whole.covariances[chosen], atol=1e-6, rtol=1e-3)

    def test_confidence_is_opacity(self) -> None:
        scene, clip = make_scene(), make_clip()
        confidence = torch.full((3, HEIGHT, WIDTH), 2.0)
        confidence[:, 0, :3] = torch.tensor([0.2, 1.5, 9.0])
        scene = replace(scene, depth_confidence=confidence)
        frame = SplatFrame(scene.frames([0]), clip.images[0], confidence[0] > 0)
        found = frame_gaussians(frame).opacities[:4] / MAX_OPACITY
        torch.testing.assert_close(found, torch.tensor([MIN_RELATIVE_OPACITY, 0.75, 1.0, 1.0]))


class TestStatic:
    def test_a_surface_becomes_gaussians_once(self) -> None:
        scene, clip = make_scene(), make_clip()
        splats = scene_gaussians(scene, clip.images, clip.times)
        assert splats.is_static.all()
        first, count = HEIGHT * WIDTH, len(splats.curves)
        assert first < count < 1.6 * first
        # What comes after the first frame is outside its image.
        pixels = project(splats.gaussians.centers[first:], scene.cameras.intrinsics[0])
        is_inside = ((pixels > 0) & (pixels < torch.tensor([WIDTH, HEIGHT]))).all(dim=1)
        assert not is_inside.any()

    def test_a_closer_look_adds_detail(self) -> None:
        """A frame with finer pixels repeats the surface."""
        scene, clip = make_scene(2), make_clip(2)
        cameras = scene.cameras.frames([0, 0])
        depths = scene.depths[[0, 0]]
        same = Scene.from_depth(depths, cameras)
        intrinsics = cameras.intrinsics.clone()
        intrinsics[1, :2, :2] *= 2
        zoomed = Scene.from_depth(depths, replace(cameras, intrinsics=intrinsics))
        count = HEIGHT * WIDTH
        assert len(scene_gaussians(same, clip.images, clip.times).curves) == count
        zoomed = replace(zoomed, depths=torch.full_like(depths, 4.0))
        assert len(scene_gaussians(zoomed, clip.images, clip.times).curves) == 2 * count

    @pytest.mark.parametrize("limit", [150, 20])
    def test_fewer_gaussians_are_larger(self, limit: int) -> None:
        """The covered area stays."""
        scene, clip = make_scene(), make_clip()
        every = scene_gaussians(scene, clip.images, clip.times).gaussians
        few = scene_gaussians(scene, clip.images, clip.times, max_static=limit).gaussians
        assert limit / 2 < len(few.centers) <= limit
        area, wanted = (one.scales.sort(dim=1).values[:, 1:].prod(dim=1).sum() for one in (few, every))
        torch.testing.assert_close(area, wanted, rtol=0.25, atol=0)


class TestMotion:
    def test_tracked_gaussians_are_on_their_curves_at_every_time(self, plate: tuple[Scene, DynamicGaussians]) -> None:
        scene, splats = plate
        curves = scene.trajectories
        assert curves is not None
        tracked = splats.curves[(splats.curves >= 0) & (splats.shown_frames < 0)]
        assert tracked.unique().tolist() == list(range(curves.num_curves))
        moment = scene.at(0.5)
        for time in (0.0, 0.5, 1.2):
            found = splats.at(time).centers
            wanted = curves.positions(torch.tensor([time]))[tracked, 0]
            assert torch.cdist(wanted, found).amin(dim=1).max() < 1e-5
        dynamic = moment.points[moment.is_dynamic]
        assert torch.cdist(dynamic, splats.at(0.5).centers).amin(dim=1).max() < 1e-5

    def test_a_piece_that_rotates_rotates_its_gaussians(self, plate: tuple[Scene, DynamicGaussians]) -> None:
        _, splats = plate
        assert splats.trajectories is not None
        assert (splats.trajectories.pieces >= 0).all()
        tracked = (splats.curves >= 0) & (splats.shown_frames < 0)
        before, after = (gaussians_at(splats, tracked, float(time)) for time in TIMES[[0, -1]])
        rotation = MOTION[-1, :3, :3]
        # The Gaussians are round in the plane of the plate: only their axes tell the rotation.
        axes, wanted = (rotation_from_quaternion(one.quaternions) for one in (after, before))
        torch.testing.assert_close(axes, rotation @ wanted, atol=1e-2, rtol=0)
        # Half of the time is half of the rotation.
        half = splats.trajectories.rotations_at(float(TIMES[-1]) / 2)[0]
        wanted = rotation_from_axis_angle(0.4 * TIMES[-1] * AXIS)
        torch.testing.assert_close(half, wanted, atol=1e-2, rtol=0)

    def test_the_picture_is_that_of_the_plate_between_the_frames(self, plate: tuple[Scene, DynamicGaussians]) -> None:
        """Where the plate is at a time between two frames the picture is red, elsewhere green."""
        scene, splats = plate
        time = 0.5
        found = splats.at(time)
        image, opacity = rasterize_gaussians(
            found.centers,
            found.covariances,
            found.opacities,
            found.colors,
            torch.eye(4),
            scene.cameras.intrinsics[0],
            scene.size,
        )
        motion = rigid(rotation_from_axis_angle(0.8 * time * AXIS), time * torch.tensor([0.2, 0.1, 0.0]))
        at_plate = unproject_map(torch.full(scene.size, 2.0), scene.cameras.intrinsics[0])
        pixels = project(transform_points(torch.linalg.inv(motion), at_plate), scene.cameras.intrinsics[0])
        inside = torch.minimum(pixels - torch.tensor([COLUMNS.start, ROWS.start]), torch.tensor([22, 18]) - pixels)
        depth = inside.amin(dim=-1)
        assert (image[depth > 1, 0] > image[depth > 1, 1]).all()
        far = depth < -2
        assert (image[far & (opacity > 0.5), 0] < 0.1).all()

    def test_untracked_pixels_are_shown_near_their_frame_and_move_with_the_nearest_curve(self) -> None:
        """Tracks of the left half of the plate carry the right half, which each frame shows itself."""
        scene = plate_scene()
        assert scene.tracks is not None
        confidence = scene.tracks.confidence.clone()
        confidence[..., scene.tracks.pixels[0, :, 0] > 16] = 0
        scene = fit_trajectories(replace(scene, tracks=replace(scene.tracks, confidence=confidence)), TIMES)
        splats = scene_gaussians(scene, colors_of(scene), TIMES)
        single = splats.shown_frames == 3
        on_curves = single & (splats.curves >= 0)
        assert on_curves.sum() > 0.6 * single.sum() > 20
        own, time = gaussians_at(splats, on_curves, float(TIMES[3])), float(TIMES[3]) + 0.09
        # In their own frame they are what the frame shows.
        every = torch.ones(scene.size, dtype=torch.bool)
        made = frame_gaussians(SplatFrame(replace(scene, tracks=None).frames([3]), colors_of(scene)[3], every))
        distances, pixel = torch.cdist(own.centers, made.centers).min(dim=1)
        assert distances.max() < 1e-3
        axes, wanted = (
            rotation_from_quaternion(quaternions) for quaternions in (own.quaternions, made.quaternions[pixel])
        )
        torch.testing.assert_close(axes, wanted, atol=1e-3, rtol=0)
        motion = rigid(rotation_from_axis_angle(0.8 * time * AXIS), time * torch.tensor([0.2, 0.1, 0.0]))
        moved = transform_points(motion @ torch.linalg.inv(MOTION[3]), own.centers)
        torch.testing.assert_close(gaussians_at(splats, on_curves, time).centers, moved, atol=5e-3, rtol=0)
        assert len(splats.at(float(TIMES[3])).centers) < len(splats.curves)

    def test_without_curves_dynamic_pixels_are_those_of_the_nearest_frame(self) -> None:
        scene = plate_scene()
        splats = scene_gaussians(scene, colors_of(scene), TIMES)
        for number, time in ((2, float(TIMES[2])), (3, float(TIMES[3]) + 0.05)):
            found = splats.at(time)
            red = found.colors[:, 0] > 0.5
            assert red.sum() == scene.is_dynamic[number].sum()
            torch.testing.assert_close(found.centers[red], scene.points_from_depth[number][scene.is_dynamic[number]])

    def test_hidden_curves_are_left_out(self) -> None:
        scene = fit_trajectories(plate_scene(), TIMES)
        assert scene.trajectories is not None
        visibility = scene.trajectories.visibility.clone()
        visibility[:, 4] = 0
        scene = replace(scene, trajectories=replace(scene.trajectories, visibility=visibility))
        splats = scene_gaussians(scene, colors_of(scene), TIMES)
        tracked = (splats.curves >= 0) & (splats.shown_frames < 0)
        shown = int((splats.is_static | (splats.shown_frames == 4)).sum())
        assert tracked.any()
        assert len(splats.at(float(TIMES[4])).centers) == shown


def gaussians_at(splats: DynamicGaussians, chosen: torch.Tensor, time: float) -> Gaussians:
    """Return some Gaussians at a time, in their order."""
    alone = replace(
        splats,
        gaussians=splats.gaussians.select(chosen),
        curves=splats.curves[chosen],
        offsets=splats.offsets[chosen],
        shown_frames=splats.shown_frames[chosen],
    )
    found = alone.at(time)
    assert len(found.centers) == int(chosen.sum())
    return found
