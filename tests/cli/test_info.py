"""`recon4d info` and the statistics it prints, on exact scenes whose values can be derived by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from walls import DEPTH, HEIGHT, NUM_FRAMES, WIDTH, make_info, make_scene, make_tracks

from recon4d import geometry as g
from recon4d.cli.main import main
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE
from recon4d.inference import SceneStatistics, measure_scene
from recon4d.io import save_scene
from recon4d.records import Scene
from recon4d.refine import Refinement
from recon4d.runs.refinement_info import describe_windows
from recon4d.runs.scene_report import describe_statistics, find_problems

TIMES = torch.arange(NUM_FRAMES) / 2
TRAINED, UNTRAINED = make_info(trained=True), make_info(trained=False)


def make_consistent_scene() -> Scene:
    """Create the wall with point maps that agree with depth and varied confidences; 96 of 576 pixels are dynamic."""
    scene = make_scene()
    confidence = torch.arange(scene.depths.numel()).reshape(scene.depths.shape) + 1.0
    dynamic = torch.zeros_like(scene.depths)
    dynamic[0, : HEIGHT // 2] = 0.9
    ones = torch.ones_like(scene.depths)
    return replace(
        scene, points=scene.points_from_depth, point_confidence=ones, depth_confidence=confidence, dynamic=dynamic
    )


def measure(scene: Scene, times: torch.Tensor = TIMES) -> SceneStatistics:
    return measure_scene(scene, times)


def problems(scene: Scene) -> str:
    """Return the problems of a trained model's scene in one string."""
    return "; ".join(find_problems(measure(scene), TRAINED))


class TestStatistics:
    def test_values_of_an_exact_scene(self):
        facts = measure(make_consistent_scene())
        assert (facts.num_frames, facts.size, facts.seconds) == (NUM_FRAMES, (HEIGHT, WIDTH), 1.0)
        horizontal, vertical = 2 * math.atan(WIDTH / 20), 2 * math.atan(HEIGHT / 20)
        assert facts.fields_of_view == pytest.approx((math.degrees(horizontal), math.degrees(vertical)))
        assert (facts.min_field_of_view, facts.max_field_of_view) == pytest.approx(facts.fields_of_view[::-1])
        assert facts.path_length == pytest.approx(2.0)
        assert facts.relative_baseline == pytest.approx(2.0 / DEPTH)
        assert facts.median_depth == DEPTH
        assert facts.max_rotation == pytest.approx(0.0)
        assert facts.valid_share == 1.0
        assert facts.dynamic_share == pytest.approx(96 / 576)
        assert facts.confidence_quartiles == pytest.approx((144.75, 288.5, 432.25))
        assert facts.agreement_share == 1.0
        assert facts.median_disagreement == pytest.approx(0.0, abs=1e-6)
        assert facts.field_of_view_ratio == 1.0
        assert math.isnan(facts.metres_per_unit)
        assert facts.num_tracks == 0

    def test_the_path_follows_the_times(self):
        scene = make_consistent_scene()
        shuffled = measure(scene, torch.tensor([0.0, 2.0, 1.0]))
        assert shuffled.path_length == pytest.approx(3.0)
        unordered = measure(scene, torch.full((3,), math.nan))
        assert unordered.path_length == pytest.approx(2.0)
        assert math.isnan(unordered.seconds)

    def test_the_rotation_is_the_largest_between_any_two_frames(self):
        scene = make_consistent_scene()
        angles = torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.3, 0.0], [0.0, 0.4, 0.0]])
        world_from_cam = g.rigid(g.rotation_from_axis_angle(angles), scene.cameras.centers)
        turned = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
        assert measure(turned).max_rotation == pytest.approx(math.degrees(0.7), rel=1e-4)

    def test_shares_count_known_pixels_only(self):
        scene = make_consistent_scene()
        scene.depth_confidence[0] = 0
        scene.dynamic[1] = math.nan
        scene.dynamic[2, :3] = 1
        facts = measure(scene)
        assert facts.valid_share == pytest.approx(2 / 3)
        # Frame 2 only: frame 0 has no depth, and the dynamic probability of frame 1 is unknown.
        assert facts.dynamic_share == pytest.approx(3 / HEIGHT)

    def test_disagreement_is_relative_to_depth(self):
        scene = make_consistent_scene()
        apart = torch.tensor([0.2 * DEPTH, 0.0, 0.0])
        scene.points[1:] += apart
        facts = measure(scene)
        assert facts.agreement_share == pytest.approx(1 / 3)
        assert facts.median_disagreement == pytest.approx(0.2, rel=1e-4)

    def test_a_scene_without_known_depth_has_statistics(self):
        scene = make_consistent_scene()
        facts = measure(replace(scene, depth_confidence=torch.zeros_like(scene.depths)))
        assert facts.valid_share == 0
        assert math.isnan(facts.median_depth)
        assert describe_statistics(facts, TRAINED)[-1] == "depth: unknown at every pixel"


class TestDescription:
    def test_every_line_of_a_complete_scene(self):
        scene = replace(make_consistent_scene(), metres_per_unit=torch.tensor(3.0), tracks=make_tracks())
        assert describe_statistics(measure(scene), TRAINED) == [
            "model: wide, trained (recon4d 0.1.0)",
            "frames: 3, over 1.00 s; maps of 16 x 12 pixels, pictures of 1920 x 1080",
            "field of view: 77.3 degrees horizontal, 61.9 vertical",
            "camera path: 2 units (6 m) long, rotation of up to 0.0 degrees between two frames",
            "depth: known at 100.0 % of the pixels, median 2 units (6 m)",
            "depth confidence: quartiles 145, 288, 432",
            "dynamic: 16.7 % of the pixels",
            "point maps: within 5 % of depth and cameras at 100 % of the pixels",
            "tracks: 10",
        ]

    def test_unknown_quantities_are_reported_as_unknown(self):
        scene = replace(make_consistent_scene(), dynamic=torch.full((3, HEIGHT, WIDTH), math.nan))
        lines = describe_statistics(measure(scene, torch.full((3,), math.nan)), UNTRAINED)
        assert "never trained" in lines[0]
        assert "without times" in lines[1]
        assert "2 units (of unknown length)" in lines[3]
        assert "dynamic: unknown" in lines
        assert lines[-1] == "tracks: none"


class TestProblems:
    def test_a_static_camera_and_a_single_frame(self):
        scene = make_consistent_scene()
        nearly = scene.cameras.world_from_cam.clone()
        nearly[:, :3, 3] *= 0.004
        static = replace(scene, cameras=replace(scene.cameras, world_from_cam=nearly))
        assert "at most 0.40 % of the median depth apart" in problems(static)
        assert "hardly moves" not in problems(replace(static, depths=scene.depths / 10))
        single = find_problems(measure_scene(scene.frames([0]), TIMES[:1]), TRAINED)
        assert "single frame" in single[0]

    def test_point_maps_that_disagree(self):
        scene = make_consistent_scene()
        scene.points[1:, ..., 1] += 0.2 * DEPTH
        assert "agree at only 33 % of the pixels; the median difference is 20 %" in problems(scene)

    @pytest.mark.parametrize(("limit", "word"), list(zip(FIELD_OF_VIEW_RANGE, ("smallest", "largest"), strict=True)))
    def test_a_field_of_view_at_the_limit(self, limit: float, word: str):
        scene = make_consistent_scene()
        middle = torch.tensor([WIDTH / 2, HEIGHT / 2]).expand(NUM_FRAMES, 2)

        def problems_at(angle: float) -> str:
            angles = torch.tensor([1.0, angle]).expand(NUM_FRAMES, 2)
            intrinsics = g.intrinsics_from_field_of_view(angles, middle, HEIGHT, WIDTH)
            cameras = replace(scene.cameras, intrinsics=intrinsics)
            points = replace(scene, cameras=cameras).points_from_depth
            return problems(replace(scene, cameras=cameras, points=points))

        assert f"degrees is the {word} possible one" in problems_at(limit)
        assert "possible one" not in problems_at(limit * (1.2 if word == "smallest" else 0.9))

    def test_a_focal_length_that_changes(self):
        scene = make_consistent_scene()
        intrinsics = scene.cameras.intrinsics.clone()
        intrinsics[2, 0, 0] *= 2
        assert "changes by a factor of 1.77" in problems(
            replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics))
        )

    def test_little_depth_and_a_constant_confidence(self):
        scene = make_consistent_scene()
        few = torch.zeros_like(scene.depths)
        few[0, 0] = 1
        assert "known at only 2.8 % of the pixels" in problems(replace(scene, depth_confidence=few))
        assert "does not rank them" in problems(replace(scene, depth_confidence=torch.ones_like(few)))


def test_windows_that_were_not_refined_completely_are_listed() -> None:
    none = Refinement(make_scene(), False, 0, 0, 0, reason="only 3 tracks").summary
    rotates, lost = replace(none, is_accepted=True, is_rotation_only=True), replace(none, is_accepted=True)
    lines = describe_windows([None, none, rotates, replace(lost, unknown_frames=(2,)), lost])
    assert lines[0].startswith("refinement: 3 of 5 windows refined")
    assert lines[1:3] == ["  window 0: as predicted: ", "  window 1: as predicted: only 3 tracks"]
    assert "does not translate" in lines[3]
    assert lines[4].startswith("  window 3: the cameras of frame")
    assert len(lines) == 5


class TestCommand:
    def test_it_prints_description_and_problems(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        save_scene(tmp_path / "scene.npz", make_consistent_scene(), TIMES, TRAINED)
        assert main(["info", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("model: wide")
        assert lines[-1] == "no problems found"
        save_scene(tmp_path / "scene.npz", make_consistent_scene(), TIMES, UNTRAINED)
        assert main(["info", str(tmp_path / "scene.npz")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2] == "possible problems:"
        assert lines[-1].startswith("  - everything")

    def test_a_foreign_file_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "scene.npz").write_bytes(b"not a scene")
        assert main(["info", str(tmp_path / "scene.npz")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not an npz archive" in line
