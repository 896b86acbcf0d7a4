"""What `recon4d info` says follows from the scene: exact scenes whose every number is known by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from walls import DEPTH, HEIGHT, NUM_FRAMES, WIDTH, make_info, make_scene, make_tracks

from recon4d import geometry as g
from recon4d.cli.info import describe, distrust
from recon4d.cli.main import main
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE
from recon4d.inference import SceneFacts, measure_scene
from recon4d.io import save_scene
from recon4d.records import Scene

TIMES = torch.arange(NUM_FRAMES) / 2
TRAINED, UNTRAINED = make_info(trained=True), make_info(trained=False)


def good() -> Scene:
    """The wall, with point maps that agree and confidences that differ; 96 of 576 pixels move."""
    scene = make_scene()
    confidence = torch.arange(scene.depths.numel()).reshape(scene.depths.shape) + 1.0
    moving = torch.zeros_like(scene.depths)
    moving[0, : HEIGHT // 2] = 0.9
    ones = torch.ones_like(scene.depths)
    return replace(
        scene, points=scene.points_from_depth, point_confidence=ones, depth_confidence=confidence, dynamic=moving
    )


def facts_of(scene: Scene, times: torch.Tensor = TIMES) -> SceneFacts:
    return measure_scene(scene, times)


def doubts(scene: Scene) -> str:
    return "; ".join(distrust(facts_of(scene), TRAINED))


class TestFacts:
    def test_numbers_are_those_of_the_scene(self):
        facts = facts_of(good())
        assert (facts.num_frames, facts.size, facts.seconds) == (NUM_FRAMES, (HEIGHT, WIDTH), 1.0)
        horizontal, vertical = 2 * math.atan(WIDTH / 20), 2 * math.atan(HEIGHT / 20)
        assert facts.fields_of_view == pytest.approx((math.degrees(horizontal), math.degrees(vertical)))
        assert (facts.least_field_of_view, facts.greatest_field_of_view) == pytest.approx(facts.fields_of_view[::-1])
        assert facts.path_length == pytest.approx(2.0)
        assert facts.span == pytest.approx(2.0 / DEPTH)
        assert facts.median_depth == DEPTH
        assert facts.turn == pytest.approx(0.0)
        assert facts.known_share == 1.0
        assert facts.moving_share == pytest.approx(96 / 576)
        assert facts.confidence_quartiles == pytest.approx((144.75, 288.5, 432.25))
        assert facts.agreeing_share == 1.0
        assert facts.disagreement == pytest.approx(0.0, abs=1e-6)
        assert facts.focal_drift == 1.0
        assert math.isnan(facts.metres_per_unit)
        assert facts.num_tracks == 0

    def test_the_path_goes_by_time(self):
        scene = good()
        shuffled = facts_of(scene, torch.tensor([0.0, 2.0, 1.0]))
        assert shuffled.path_length == pytest.approx(3.0)
        unordered = facts_of(scene, torch.full((3,), math.nan))
        assert unordered.path_length == pytest.approx(2.0)
        assert math.isnan(unordered.seconds)

    def test_the_turn_is_the_greatest_between_any_two(self):
        scene = good()
        angles = torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.3, 0.0], [0.0, 0.4, 0.0]])
        world_from_cam = g.rigid(g.rotation_from_axis_angle(angles), scene.cameras.centers)
        turned = replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam))
        assert facts_of(turned).turn == pytest.approx(math.degrees(0.7), rel=1e-4)

    def test_shares_are_of_what_is_known(self):
        scene = good()
        scene.depth_confidence[0] = 0
        scene.dynamic[1] = math.nan
        scene.dynamic[2, :3] = 1
        facts = facts_of(scene)
        assert facts.known_share == pytest.approx(2 / 3)
        # Of frame 2 alone: frame 0 has no depth, of frame 1 nothing is said.
        assert facts.moving_share == pytest.approx(3 / HEIGHT)

    def test_disagreement_is_a_share_of_depth(self):
        scene = good()
        apart = torch.tensor([0.2 * DEPTH, 0.0, 0.0])
        scene.points[1:] += apart
        facts = facts_of(scene)
        assert facts.agreeing_share == pytest.approx(1 / 3)
        assert facts.disagreement == pytest.approx(0.2, rel=1e-4)

    def test_a_scene_of_which_nothing_is_known_has_facts_too(self):
        scene = good()
        facts = facts_of(replace(scene, depth_confidence=torch.zeros_like(scene.depths)))
        assert facts.known_share == 0
        assert math.isnan(facts.median_depth)
        assert describe(facts, TRAINED)[-1] == "depth: known nowhere"


class TestWords:
    def test_every_sentence_of_a_good_scene(self):
        scene = replace(good(), metres_per_unit=torch.tensor(3.0), tracks=make_tracks())
        assert describe(facts_of(scene), TRAINED) == [
            "model: wide, trained (recon4d 0.1.0)",
            "frames: 3, over 1.00 s; maps of 16 x 12 pixels, pictures of 1920 x 1080",
            "field of view: 77.3 degrees across, 61.9 down",
            "path of the camera: 2 units (6 m) long, turning by up to 0.0 degrees between two frames",
            "depth: known for 100.0 % of the pixels, 2 units (6 m) in the median",
            "confidence of depth: 145, 288, 432 (quartiles)",
            "moving: 16.7 % of the pixels",
            "point maps: at 100 % of the pixels within 5 % of what depth and camera say",
            "tracks: 10",
        ]

    def test_what_is_not_known_is_said_so(self):
        scene = replace(good(), dynamic=torch.full((3, HEIGHT, WIDTH), math.nan))
        lines = describe(facts_of(scene, torch.full((3,), math.nan)), UNTRAINED)
        assert "never trained" in lines[0]
        assert "without times" in lines[1]
        assert "2 units (of unknown length)" in lines[3]
        assert "moving: nothing says what moves" in lines
        assert lines[-1] == "tracks: none"


class TestDoubts:
    def test_a_good_scene_gives_none(self):
        assert doubts(good()) == ""

    def test_an_untrained_model(self):
        (doubt,) = distrust(facts_of(good()), UNTRAINED)
        assert "never trained" in doubt

    def test_a_still_camera_and_a_single_frame(self):
        scene = good()
        nearly = scene.cameras.world_from_cam.clone()
        nearly[:, :3, 3] *= 0.004
        still = replace(scene, cameras=replace(scene.cameras, world_from_cam=nearly))
        assert "its centers span 0.40 % of the median depth" in doubts(still)
        assert "hardly moves" not in doubts(replace(still, depths=scene.depths / 10))
        single = distrust(measure_scene(scene.frames([0]), TIMES[:1]), TRAINED)
        assert "single frame" in single[0]

    def test_point_maps_that_disagree(self):
        scene = good()
        scene.points[1:, ..., 1] += 0.2 * DEPTH
        assert "agree at 33 % of the pixels only; they differ by 20 %" in doubts(scene)

    @pytest.mark.parametrize(("limit", "word"), list(zip(FIELD_OF_VIEW_RANGE, ("least", "greatest"), strict=True)))
    def test_a_field_of_view_at_the_limit(self, limit: float, word: str):
        scene = good()
        middle = torch.tensor([WIDTH / 2, HEIGHT / 2]).expand(NUM_FRAMES, 2)

        def seen_at(angle: float) -> str:
            angles = torch.tensor([1.0, angle]).expand(NUM_FRAMES, 2)
            intrinsics = g.intrinsics_from_field_of_view(angles, middle, HEIGHT, WIDTH)
            cameras = replace(scene.cameras, intrinsics=intrinsics)
            points = replace(scene, cameras=cameras).points_from_depth
            return doubts(replace(scene, cameras=cameras, points=points))

        assert f"degrees is the {word} there is" in seen_at(limit)
        assert "there is" not in seen_at(limit * (1.2 if word == "least" else 0.9))

    def test_a_focal_length_that_changes(self):
        scene = good()
        intrinsics = scene.cameras.intrinsics.clone()
        intrinsics[2, 0, 0] *= 2
        assert "differs by a factor of 1.77" in doubts(
            replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics))
        )

    def test_hardly_any_depth_and_a_confidence_that_says_nothing(self):
        scene = good()
        few = torch.zeros_like(scene.depths)
        few[0, 0] = 1
        assert "known for 2.8 % of the pixels only" in doubts(replace(scene, depth_confidence=few))
        assert "does not tell them apart" in doubts(replace(scene, depth_confidence=torch.ones_like(few)))


class TestCommand:
    def test_it_prints_both(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        save_scene(tmp_path / "scene.npz", good(), TIMES, TRAINED)
        assert main(["info", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("model: wide")
        assert lines[-1] == "nothing measured here gives reason for doubt"
        save_scene(tmp_path / "scene.npz", good(), TIMES, UNTRAINED)
        assert main(["info", str(tmp_path / "scene.npz")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2] == "to distrust:"
        assert lines[-1].startswith("  - everything")

    def test_a_foreign_file_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "scene.npz").write_bytes(b"not a scene")
        assert main(["info", str(tmp_path / "scene.npz")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not an npz archive" in line
