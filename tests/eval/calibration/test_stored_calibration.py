"""Checkpoints, archives and descriptions contain the calibration of a model; metrics and commands use it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import CALIBRATION, CURVE, disturbed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scored import scores_by_name
from training_run import config
from walls import make_info, make_scene, make_tracks

from recon4d.cli.main import main
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.eval import Benchmark, MethodConfig, evaluate
from recon4d.eval.calibration import logit_shift
from recon4d.eval.calibration.reliability import MIN_ERROR
from recon4d.eval.methods import LoadedNetwork, Network
from recon4d.eval.metrics.calibration import calibration_scores
from recon4d.inference import expected_scene_errors, measure_scene
from recon4d.io import load_scene_info, save_scene
from recon4d.records import Calibration, ErrorCurve, Scene
from recon4d.runs.scene_report import explain_confidence, find_problems
from recon4d.train.loop import train
from recon4d.zoo import create_model, load_model, save_model


class TestFiles:
    def test_a_checkpoint_contains_it(self, tmp_path: Path) -> None:
        model = create_model("recon4d_tiny", pretrained=False)
        save_model(model, tmp_path / "before.safetensors")
        assert load_model(tmp_path / "before.safetensors").calibration is None
        model.calibration = CALIBRATION
        save_model(model, tmp_path / "after.safetensors", "int8")
        assert load_model(tmp_path / "after.safetensors").calibration == CALIBRATION

    def test_a_checkpoint_with_an_invalid_calibration_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        model = create_model("recon4d_tiny", pretrained=False)
        model.calibration = CALIBRATION
        save_model(model, file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        changed = json.loads(metadata["calibration"])
        changed["depth"]["errors"][0] = 0.01
        save_file(load_file(file), file, {**metadata, "calibration": json.dumps(changed)})
        with pytest.raises(
            ValueError, match=r"model.safetensors has a calibration that this version cannot read: .*non-increasing"
        ):
            load_model(file)

    def test_an_archive_without_one_has_no_such_key(self, tmp_path: Path) -> None:
        save_scene(tmp_path, make_scene(), torch.zeros(3), make_info())
        with np.load(tmp_path / "scene.npz") as arrays:
            assert "calibration" not in json.loads(str(arrays["info"]))
        assert load_scene_info(tmp_path).calibration is None
        with pytest.raises(ValueError, match="wanted a Calibration or None"):
            make_info(calibration="good")


def confident(*confidences: float) -> Scene:
    """Return the wall with these confidences at its first pixels; the others are unknown."""
    scene = make_scene()
    confidence = torch.zeros_like(scene.depths)
    confidence[0, 0, : len(confidences)] = torch.tensor(confidences)
    return replace(scene, depth_confidence=confidence)


class TestDescription:
    def test_expected_errors_of_a_scene(self) -> None:
        # Errors .18 .4 .76 of the first four pixels, .045 .1 .19 of the last.
        found = expected_scene_errors(confident(1, 1, 1, 1, 100), CALIBRATION)
        assert found.depth.median == pytest.approx(0.4)
        assert found.depth.median_of_most_confident == pytest.approx(0.1)
        assert found.depth.outlier_share == pytest.approx(8 / 15)
        assert found.points is None  # they are unknown
        assert found.tracks is None

    def test_tracks_are_described_at_other_times_than_their_anchors(self) -> None:
        tracks = make_tracks()
        confidence = torch.full_like(tracks.confidence, 100.0)
        confidence[0, 0] = confidence[1, 2] = 1.0  # at the times of anchors 0 and 2
        scene = replace(confident(1), tracks=replace(tracks, confidence=confidence))
        found = expected_scene_errors(scene, replace(CALIBRATION, tracks=CURVE)).tracks
        assert (found.median, found.outlier_share) == pytest.approx((0.1, 0.0))

    def test_a_calibrated_scene_is_described_in_words(self) -> None:
        info = make_info(calibration=CALIBRATION)
        expected = expected_scene_errors(confident(1, 1, 1, 1, 100), CALIBRATION)
        assert explain_confidence(expected, info) == [
            "confidence: calibrated on 3 worlds; errors are relative to depth, after alignment by one scale per clip",
            "  depth: expected median error 40 %, 10 % for the most confident 20 %; expected to exceed 20 % at 53 %",
        ]

    def test_a_scene_with_large_expected_errors_is_distrusted(self) -> None:
        info, doubtful, sure = make_info(calibration=CALIBRATION), confident(1, 1, 1, 1, 100), confident(1, 100, 100)
        for scene, doubts in ((doubtful, True), (sure, False)):
            facts, expected = measure_scene(scene, torch.zeros(3)), expected_scene_errors(scene, CALIBRATION)
            assert any("predicts large errors" in doubt for doubt in find_problems(facts, info, expected)) == doubts

    def test_the_command_describes_calibrated_and_other_scenes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_scene(tmp_path, confident(1, 100), torch.zeros(3), make_info(calibration=CALIBRATION))
        assert main(["info", str(tmp_path)]) == 0
        assert "  depth: expected median error" in capsys.readouterr().out
        save_scene(tmp_path, confident(1, 100), torch.zeros(3), make_info())
        assert main(["info", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "confidence: only ranks the pixels of this clip (the model is not calibrated)" in printed
        assert "expected median error" not in printed


class TestScores:
    def test_a_calibrated_prediction_is_scored_by_its_expected_errors(self, truth: Scene) -> None:
        prediction = disturbed(truth)
        # Depth is wrong by 25 % at confidence 2 and exact (raised to 1e-6) at 5; points by 10 % everywhere.
        exact = ErrorCurve((2.0, 5.0), (0.25, MIN_ERROR))
        scores = scores_by_name(
            calibration_scores(prediction, truth, Calibration("exact", exact, ErrorCurve((1.0,), (0.3,))))
        )
        assert scores["point_calibration"].value == pytest.approx(math.log(3), abs=1e-3)
        assert scores["point_calibration"].count == scores["point_calibration"].total == truth.depths.numel()
        # The scale is float32: exact depth is off by a few 1e-7, which are raised to 1e-6.
        assert scores["depth_calibration"].value == pytest.approx(0, abs=1e-3)
        only_depth = Calibration("half", depth=ErrorCurve((2.0, 5.0), (0.5, 2 * MIN_ERROR)))
        (score,) = calibration_scores(prediction, truth, only_depth)
        assert score.value == pytest.approx(math.log(2), abs=1e-3)

    def test_the_score_is_absent_without_calibration_or_truth_and_undefined_without_prediction(
        self, truth: Scene
    ) -> None:
        assert calibration_scores(disturbed(truth), truth, None) == ()
        unknown = replace(truth, depth_confidence=torch.zeros_like(truth.depths))
        assert calibration_scores(disturbed(truth), unknown, CALIBRATION) == ()
        nothing = replace(disturbed(truth), depth_confidence=torch.zeros_like(truth.depths))
        (score, _) = calibration_scores(nothing, truth, CALIBRATION)
        assert math.isnan(score.value)
        assert "no pixel is known to both" in score.note

    def test_evaluate_uses_the_calibration_of_a_network(self, tmp_path: Path) -> None:
        model = create_model("recon4d_tiny", pretrained=False)
        for calibration, wanted in ((CALIBRATION, {"depth_calibration", "point_calibration"}), (None, set())):
            model.calibration = calibration
            method = Network(LoadedNetwork.from_model("tiny", model), MethodConfig(processing_size=32))
            (result,) = evaluate(one_clip(), [method], tmp_path).results
            found = {score.metric: score.value for score in result.scores if score.metric.endswith("_calibration")}
            assert set(found) == wanted
            assert all(value > 0 for value in found.values())


def one_clip() -> Benchmark:
    """Return a benchmark of one tiny clip."""
    config = SyntheticConfig(num_frames=2, height=32, width=32, attempts=1)
    sample = render_scenes(make_scenes(config, 5, [0]), config)[0]
    return Benchmark("one", "", ("world",), lambda _: sample)


class TestCommand:
    def test_it_writes_the_same_model_with_its_calibration(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = create_model("recon4d_tiny", pretrained=False)
        before.trained = True
        before.shift_dynamic_logits(-logit_shift(0.2))
        save_model(before, tmp_path / "before.safetensors")
        small = ["--clips", "3", "--held-out", "2", "--num-frames", "2", "--size", "48", "64", "--device", "cpu"]
        given, out = str(tmp_path / "before.safetensors"), tmp_path / "out"
        out.mkdir()
        arguments = ["calibrate", given, "--out", str(out / "after.safetensors"), *small]
        assert main(arguments) == 0
        assert {path.name for path in out.iterdir()} == {"after.safetensors", "reliability.png"}
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert lines[0].endswith("on cpu: fitting to 3 scenes of 2 frames, 64 x 48 pixels, checking on 2 others")
        rows = [line.split() for line in lines[3:6]]
        assert [row[0] for row in rows] == ["depth", "points", "tracks"]
        assert all(int(row[1]) > 0 and float(row[4]) < float(row[2]) for row in rows)
        after = load_model(out / "after.safetensors")
        assert after.calibration.measured_on == "3 synthetic scenes of 2 frames, 64 x 48 pixels"
        plain = before.state_dict()
        changed = [name for name, value in after.state_dict().items() if not torch.equal(value, plain[name])]
        assert changed == ["dense_heads.0.out.bias"]  # where the moving mask is cut
        assert "becomes 0.50; IoU on held-out scenes" in printed
        shift = after.state_dict()[changed[0]] - plain[changed[0]]
        cut = float(printed.split("are shifted so that ")[1].split()[0])
        torch.testing.assert_close(shift[shift != 0].mean(), torch.tensor(logit_shift(cut)), atol=0.05, rtol=0)

        assert main(arguments) == 2
        assert "would be replaced: give --overwrite" in capsys.readouterr().err
        for wrong, reason in (
            (["--clips", "0"], "each must be at least 1"),
            (["--out", str(tmp_path / "none" / "m.safetensors")], "none does not exist"),
            (["--out", str(tmp_path / "m.pt")], "must end in .safetensors"),
        ):
            assert main([*arguments, *wrong]) == 2
            assert reason in capsys.readouterr().err


def test_an_archive_contains_the_calibration_of_its_model(tmp_path: Path) -> None:
    model = create_model("recon4d_tiny", pretrained=False)
    model.calibration = CALIBRATION
    save_model(model, tmp_path / "tiny.safetensors")
    picture = Path(__file__).parents[3] / "examples" / "dog.mp4"
    options = [
        "--model",
        str(tmp_path / "tiny.safetensors"),
        "--num-frames",
        "1",
        "--processing-size",
        "32",
        "--refine",
        "off",
    ]
    assert main(["reconstruct", str(picture), "--out", str(tmp_path / "out"), *options]) == 0
    assert load_scene_info(tmp_path / "out").calibration == CALIBRATION


def test_training_discards_the_calibration_of_the_initial_weights(tmp_path: Path) -> None:
    model = create_model("recon4d_tiny", pretrained=False)
    model.calibration = Calibration("these weights", depth=CURVE)
    save_model(model, tmp_path / "calibrated.safetensors")
    assert load_model(tmp_path / "calibrated.safetensors").calibration is not None
    outcome = train(replace(config(steps=1), init=str(tmp_path / "calibrated.safetensors")), tmp_path / "run")
    assert load_model(outcome.checkpoint.model_file).calibration is None
