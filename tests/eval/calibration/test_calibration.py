"""Calibration is tested on predictors whose errors are a known function of their confidence."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scored import scores_by_name
from training_run import config
from walls import make_info, make_scene, make_tracks

from recon4d import losses
from recon4d.cli.info import explain_confidence, find_problems
from recon4d.cli.main import main
from recon4d.datasets.synthetic import (
    Lattice,
    SyntheticConfig,
    make_scenes,
    render_scenes,
)
from recon4d.datasets.synthetic.source import TRAINING_SEED
from recon4d.datasets.synthetic.worlds_v1 import SEED
from recon4d.eval import Benchmark, MethodConfig, evaluate
from recon4d.eval.benchmarks import BENCHMARK_SEED
from recon4d.eval.calibration import (
    FITTING_SEED,
    HELD_OUT_SEED,
    ConfidenceSamples,
    calibration_error,
    compute_reliability,
    concatenate_samples,
    fit_calibration,
    fit_curve,
    fit_power_law,
    loss_implied_curve,
    model_input_size,
    scene_samples,
    synthetic,
    synthetic_samples,
    write_reliability_picture,
)
from recon4d.eval.calibration.reliability import MIN_ERROR, bin_samples
from recon4d.eval.methods import LoadedNetwork, Network
from recon4d.eval.metrics.calibration import calibration_scores
from recon4d.inference import ReconstructConfig, expected_scene_errors, measure_scene, processing_size, reconstruct
from recon4d.io import load_scene_info, save_scene
from recon4d.models import Model
from recon4d.records import (
    Calibration,
    Clip,
    ErrorCurve,
    Scene,
)
from recon4d.train.batches import TRAINING_FAMILY
from recon4d.train.loop import train
from recon4d.train.validation import VALIDATION_FAMILY
from recon4d.zoo import (
    create_model,
    load_model,
    model_config,
    save_model,
)

SIGMA = 0.8
"""Standard deviation of the logarithm of errors around the median."""
CURVE = ErrorCurve((1.0, 10.0, 100.0), (0.4, 0.1, 0.1), (0.45, 1.0, 1.9))


def median_error(confidence: torch.Tensor) -> torch.Tensor:
    """Return a law similar to that of the loss, clamped at 0.3, so that it is not a power law."""
    return torch.minimum(0.05 / (confidence - 1), torch.tensor(0.3))


def predictor(seed: int, count: int = 40_000) -> ConfidenceSamples:
    """Draw confidences of 1 + exp(raw) and errors of a log-normal distribution around `median_error`."""
    generator = torch.Generator().manual_seed(seed)
    raw = 1.5 * torch.randn(count, generator=generator)
    confidence = 1 + raw.exp()
    noise = SIGMA * torch.randn(count, generator=generator)
    return ConfidenceSamples(confidence, median_error(confidence) * noise.exp())


class TestErrorCurve:
    def test_it_is_linear_in_logarithms_between_knots_and_constant_beyond_them(self) -> None:
        confidence = torch.tensor([0.5, 1.0, 10**0.5, 10.0, 50.0, 1e9, math.inf])
        expected = torch.tensor([0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
        torch.testing.assert_close(CURVE.expected_error(confidence), expected)
        one = ErrorCurve((3.0,), (0.2,))
        torch.testing.assert_close(one.expected_error(torch.tensor([[1.0, 9.0]])), torch.tensor([[0.2, 0.2]]))

    def test_unknown_pixels_have_no_expected_error(self) -> None:
        assert CURVE.expected_error(torch.tensor([0.0, math.nan, 1.0])).isnan().tolist() == [True, True, False]
        assert CURVE.fraction_within(torch.tensor([0.0, 100.0]), 0.11) == pytest.approx(2 / 3)
        assert math.isnan(CURVE.fraction_within(torch.zeros(3), 0.1))
        assert math.isnan(CURVE.error_quantile(torch.zeros(3), 0.5))

    def test_the_confidence_at_an_error_is_the_smallest_sufficient_one(self) -> None:
        assert CURVE.confidence_for_error(0.2) == pytest.approx(10**0.5)
        assert CURVE.confidence_for_error(0.1) == pytest.approx(10.0)  # not 100, where the error is the same
        assert CURVE.confidence_for_error(0.099) == math.inf
        everything = CURVE.confidence_for_error(0.4)
        assert (torch.tensor([0.0, 1e-6]) >= everything).tolist() == [False, True]
        for error in (0.35, 0.2, 0.11):
            assert float(CURVE.expected_error(torch.tensor(CURVE.confidence_for_error(error)))) == pytest.approx(error)
        with pytest.raises(ValueError, match=r"error of 0; wanted a fraction"):
            CURVE.confidence_for_error(0)

    def test_fractions_follow_from_the_ratios(self) -> None:
        confidence = torch.tensor([1.0, 100.0])  # errors .18 .4 .76 and .045 .1 .19
        assert CURVE.fraction_within(confidence, 0.15) == pytest.approx(2 / 6)
        assert CURVE.fraction_within(confidence, 0.5) == pytest.approx(5 / 6)
        assert CURVE.error_quantile(confidence, 0.5) == pytest.approx(0.185)
        assert CURVE.error_quantile(confidence, 1.0) == pytest.approx(0.76)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (((), ()), "0 confidences"),
            (((1.0, 2.0), (0.1,)), "2 confidences, 1 errors"),
            (((1.0, 1.0), (0.1, 0.1)), "increasing confidences"),
            (((1.0, 2.0), (0.1, 0.2)), "non-increasing errors"),
            (((1.0, 2.0), (0.1, 0.0)), "finite numbers above 0"),
            (((1.0,), (0.1,), (2.0, 1.0)), "ascending"),
            (((1.0,), (0.1,), ()), "0 ratios"),
        ],
    )
    def test_invalid_curves_are_refused(self, arguments: tuple, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            ErrorCurve(*arguments)


class TestFit:
    def test_it_finds_a_known_law(self) -> None:
        curve = fit_curve(predictor(0))
        middle = bin_samples(predictor(1)).confidence[1:-1].float()
        found, true = curve.expected_error(middle), median_error(middle)
        assert ((found / true).log().abs() < 0.08).all()
        # The ratios are those of a log-normal distribution: 16 % lie below -1 sigma, 84 % below +1.
        ratios = torch.tensor(curve.ratios)
        assert float(ratios.quantile(0.16).log()) == pytest.approx(-SIGMA, abs=0.06)
        assert float(ratios.quantile(0.84).log()) == pytest.approx(SIGMA, abs=0.06)

    def test_it_is_accurate_on_new_data_and_the_simpler_curves_are_not(self) -> None:
        fresh = predictor(1)
        errors = [
            calibration_error(compute_reliability(curve, fresh))
            for curve in (fit_curve(predictor(0)), fit_power_law(predictor(0)), loss_implied_curve())
        ]
        assert errors[0] < 0.03
        assert errors[1] > 0.2
        assert errors[2] > 0.2

    def test_fractions_are_accurate_on_new_data(self) -> None:
        curve, fresh = fit_curve(predictor(0)), predictor(1)
        for error in (0.05, 0.2):
            assert curve.fraction_within(fresh.confidence, error) == pytest.approx(
                float((fresh.errors <= error).float().mean()), abs=0.015
            )
        assert curve.error_quantile(fresh.confidence, 0.5) == pytest.approx(float(fresh.errors.median()), rel=0.04)

    def test_errors_that_are_off_by_a_factor_are_detected(self) -> None:
        curve, fresh = fit_curve(predictor(0)), predictor(1)
        for factor in (3.0, 1 / 3):
            off = calibration_error(compute_reliability(curve, replace(fresh, errors=factor * fresh.errors)))
            assert off == pytest.approx(math.log(3), abs=0.03)

    def test_a_power_law_is_recovered(self) -> None:
        confidence = torch.logspace(0, 2, 2000)
        exact = ConfidenceSamples(confidence, 0.1 / confidence)
        power_law = fit_power_law(exact)
        slope = np.diff(np.log(power_law.errors)) / np.diff(np.log(power_law.confidences))
        assert slope == pytest.approx(-1, abs=1e-3)
        assert calibration_error(compute_reliability(power_law, exact)) < 0.01
        assert calibration_error(compute_reliability(loss_implied_curve(), exact)) < 0.01

    def test_rising_errors_are_pooled(self) -> None:
        counts = torch.tensor([20, 20, 60, 20])
        confidence = torch.arange(1, 5).repeat_interleave(counts).float()
        errors = torch.tensor([0.4, 0.1, 0.4, 0.05]).repeat_interleave(counts)
        curve = fit_curve(ConfidenceSamples(confidence, errors))
        assert curve.confidences == (1, 2, 3, 4)
        pooled = 0.1**0.25 * 0.4**0.75  # mean of the logarithms of 20 errors of .1 and 60 of .4
        assert curve.errors == pytest.approx((0.4, pooled, pooled, 0.05), rel=1e-4)

    def test_pooling_continues_backwards_until_errors_fall(self) -> None:
        counts, errors = torch.tensor([20, 10, 20, 60]), torch.tensor([0.4, 0.1, 0.05, 0.3])
        confidence = torch.arange(1, 5).repeat_interleave(counts).float()
        curve = fit_curve(ConfidenceSamples(confidence, errors.repeat_interleave(counts)))
        # Pooling the last two gives .19, which is above the .1 before them.
        pooled = math.exp(float((counts[1:] * errors[1:].log()).sum() / counts[1:].sum()))
        assert curve.errors == pytest.approx((0.4, pooled, pooled, pooled), rel=1e-4)

    def test_a_power_law_weights_bins_by_their_pixels(self) -> None:
        counts, errors = np.array([90, 20, 10]), np.array([0.4, 0.4, 0.1])
        confidences = np.array([1.0, 2.0, 4.0])
        samples = ConfidenceSamples(
            torch.from_numpy(confidences.repeat(counts)).float(), torch.from_numpy(errors.repeat(counts)).float()
        )
        slope, offset = np.polyfit(np.log(confidences), np.log(errors), 1, w=np.sqrt(counts))
        curve = fit_power_law(samples)
        assert curve.confidences == (1, 4)
        assert curve.errors == pytest.approx(np.exp(offset + slope * np.log([1, 4])), rel=1e-4)

    def test_a_single_confidence_is_a_power_law_of_one_knot(self) -> None:
        curve = fit_power_law(ConfidenceSamples(torch.full((50,), 2.0), torch.full((50,), 0.3)))
        assert (curve.confidences, curve.errors) == ((2.0,), pytest.approx((0.3,)))

    def test_a_reversed_confidence_gives_a_constant_curve(self) -> None:
        samples = predictor(0)
        reversed_samples = replace(samples, confidence=1 / samples.confidence)
        for curve in (fit_curve(reversed_samples), fit_power_law(reversed_samples)):
            assert max(curve.errors) == pytest.approx(min(curve.errors))

    def test_bins_have_equal_counts_and_never_split_one_confidence(self) -> None:
        assert bin_samples(predictor(0)).counts.tolist() == [2500] * 16
        bins = bin_samples(ConfidenceSamples(torch.tensor([1.0] * 90 + [2.0] * 10), torch.rand(100)))
        assert bins.counts.tolist() == [90, 10]
        assert fit_curve(ConfidenceSamples(torch.full((50,), 2.0), torch.full((50,), 0.3))).errors == pytest.approx(
            (0.3,)
        )
        with pytest.raises(ValueError, match="there are no samples"):
            fit_curve(ConfidenceSamples(torch.zeros(0), torch.zeros(0)))


@pytest.fixture(scope="module")
def truth() -> Scene:
    config = SyntheticConfig(num_frames=3, height=32, width=48, attempts=1)
    return render_scenes(make_scenes(config, 5, [1]), config, (0,), query_lattice=Lattice(4))[0].scene


def disturbed(truth: Scene) -> Scene:
    """Return a prediction in another unit whose nearest 30 % of depths are 25 % too far, with tracks of every pixel."""
    config = SyntheticConfig(num_frames=3, height=32, width=48, attempts=1)
    dense = render_scenes(make_scenes(config, 5, [1]), config, (0,))[0].scene
    tracks = dense.tracks
    assert tracks is not None
    is_known = truth.depth_confidence > 0
    is_near = is_known & (truth.depths < truth.depths[is_known].quantile(0.3))
    depths = torch.where(is_near, 1.25, 1.0) * truth.depths
    points = dense.points + 0.1 * truth.depths[..., None] * torch.tensor([0.6, 0.0, 0.8])
    confidence = torch.where(is_near, 2.0, 5.0)
    moved = replace(tracks, points=tracks.points + torch.tensor([0.0, 0.3, 0.0]), confidence=tracks.confidence + 6)
    prediction = replace(
        dense, depths=depths, points=points, depth_confidence=confidence, point_confidence=confidence, tracks=moved
    )
    unit = torch.eye(4)
    unit[:3, :3] *= 3
    return prediction.transformed(unit)


class TestSamples:
    def test_errors_are_relative_to_depth_after_one_scale(self, truth: Scene) -> None:
        found = scene_samples(disturbed(truth), truth)
        near = found.depth.confidence == 2
        assert float(near.float().mean()) == pytest.approx(0.3, abs=0.01)
        torch.testing.assert_close(found.depth.errors[near], torch.full_like(found.depth.errors[near], 0.25))
        assert found.depth.errors[~near].max() < 1e-5
        torch.testing.assert_close(found.points.errors, torch.full_like(found.points.errors, 0.1), rtol=1e-3, atol=0)

    def test_track_errors_are_those_of_other_times_relative_to_the_depth_in_the_anchor(self, truth: Scene) -> None:
        found = scene_samples(disturbed(truth), truth).tracks
        assert truth.tracks is not None
        count = losses.is_known_off_anchor(truth.tracks).sum()
        assert len(found) == count > 100
        depths = losses.depths_at_anchors(truth)
        wanted = (0.3 / depths[0][depths[0] > 0]).repeat(2)
        # At depth edges, a dense track is interpolated between near and far; these queries lie between pixels.
        assert (found.errors / wanted).log().abs().median() < 1e-3

    def test_unknown_pixels_are_skipped(self, truth: Scene) -> None:
        prediction = disturbed(truth)
        known = truth.depth_confidence.clone()
        known[:, :5] = 0
        truth = replace(truth, depth_confidence=known)
        whole = scene_samples(prediction, truth)
        count = int((truth.depth_confidence > 0).sum())
        assert len(whole.depth) == len(whole.points) == count < truth.depths.numel()
        confidence = prediction.depth_confidence.clone()
        confidence[0] = 0
        depths = prediction.depths.clone()
        depths[0] *= 7
        depths[1, 6] = math.nan
        points = prediction.points.clone()
        points[1, 7] = math.inf
        less = scene_samples(replace(prediction, depth_confidence=confidence, depths=depths, points=points), truth)
        assert len(less.depth) == int((truth.depth_confidence[1:] > 0).sum()) - truth.size[1]
        assert less.depth.errors.isfinite().all()
        assert len(less.points) == len(whole.points) - int((truth.point_confidence[1, 7] > 0).sum())
        nothing = scene_samples(prediction, replace(truth, depth_confidence=torch.zeros_like(truth.depths)))
        assert (len(nothing.depth), len(nothing.points), len(nothing.tracks)) == (0, 0, 0)

    def test_true_depth_that_is_not_positive_is_unknown(self, truth: Scene) -> None:
        prediction = disturbed(truth)
        depths, confidence = truth.depths.clone(), truth.depth_confidence.clone()
        depths[0], confidence[0] = 0, 0
        unknown = scene_samples(prediction, replace(truth, depths=depths, depth_confidence=confidence))
        depths[0, 1::2] = -1
        found = scene_samples(prediction, replace(truth, depths=depths))
        for field in ("depth", "points"):
            assert torch.equal(getattr(found, field).errors, getattr(unknown, field).errors)

    def test_the_scale_is_fitted_to_the_pixels_known_in_both(self, truth: Scene) -> None:
        """Half of the true depths are ten times larger, and unknown in the prediction."""
        prediction = disturbed(truth)
        depths, confidence = truth.depths.clone(), prediction.depth_confidence.clone()
        depths[:, :16] *= 10
        confidence[:, :16] = 0
        found = scene_samples(replace(prediction, depth_confidence=confidence), replace(truth, depths=depths))
        assert found.depth.errors.median() < 1e-5
        # A median depth that is not positive defines no scale.
        for sign in (-1, 0):
            nothing = scene_samples(replace(prediction, depths=sign * prediction.depths), truth)
            assert (len(nothing.depth), len(nothing.points), len(nothing.tracks)) == (0, 0, 0)

    def test_points_use_their_own_confidence_without_infinite_values(self, truth: Scene) -> None:
        prediction = disturbed(truth)
        confidence = torch.full_like(prediction.point_confidence, 3.0)
        confidence[0, 0] = math.inf
        found = scene_samples(replace(prediction, point_confidence=confidence), truth)
        assert found.points.confidence.unique().tolist() == [3]
        assert len(found.points) == len(found.depth) - truth.size[1]
        unknown = truth.point_confidence.clone()
        unknown[1] = 0
        found = scene_samples(prediction, replace(truth, point_confidence=unknown))
        assert len(found.points) == len(found.depth) * 2 // 3

    def test_pixels_are_sampled_uniformly(self, truth: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = scene_samples(disturbed(truth), truth).depth
        monkeypatch.setattr("recon4d.eval.calibration.samples.MAX_PIXELS", 1000)
        few = scene_samples(disturbed(truth), truth).depth
        assert len(few) == len(few.confidence) == 1000
        shares = [float((one.confidence == 2).float().mean()) for one in (few, whole)]
        assert shares[0] == pytest.approx(shares[1], abs=0.05)

    def test_one_scene_at_a_time(self, truth: Scene) -> None:
        batches = (Scene.stack([scene]) for scene in (disturbed(truth), truth))
        with pytest.raises(ValueError, match="wanted one prediction and its truth"):
            scene_samples(*batches)

    def test_tracks_of_other_anchors_and_sizes_are_skipped(self, truth: Scene) -> None:
        prediction = disturbed(truth)
        assert prediction.tracks is not None
        others = replace(prediction.tracks, anchors=torch.tensor([1]))
        assert not len(scene_samples(replace(prediction, tracks=others), truth).tracks)
        assert not len(scene_samples(replace(prediction, tracks=None), truth).tracks)
        assert not len(scene_samples(prediction, replace(truth, tracks=None)).tracks)
        sparse = replace(prediction, tracks=truth.tracks)
        assert not len(scene_samples(sparse, truth).tracks)
        with pytest.raises(ValueError, match=r"\(3, 16, 24\) and \(3, 32, 48\)"):
            scene_samples(prediction.resized(16, 24), truth)

    def test_samples_of_scenes_are_concatenated(self, truth: Scene) -> None:
        one = scene_samples(disturbed(truth), truth)
        both = concatenate_samples([one, one])
        assert len(both.points) == 2 * len(one.points)
        calibration = fit_calibration(
            replace(both, tracks=ConfidenceSamples(torch.zeros(0), torch.zeros(0))), "two worlds"
        )
        assert calibration.depth is not None
        assert calibration.tracks is None
        assert calibration.depth.expected_error(torch.tensor(2.0)) == pytest.approx(0.25, rel=1e-4)

    def test_seeds_differ_from_those_of_training_and_benchmarks(self) -> None:
        seeds = [FITTING_SEED, HELD_OUT_SEED, TRAINING_FAMILY, VALIDATION_FAMILY, SEED, BENCHMARK_SEED]
        assert TRAINING_SEED == TRAINING_FAMILY
        assert len(set(seeds)) == len(seeds)

    def test_scenes_are_reconstructed_like_any_clip(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Scenes of a seed differ; no image is resized; a model without tracks is called without anchors."""
        calls: list[tuple[tuple[int, int], ReconstructConfig]] = []

        def recorded(model: Model, clip: Clip, settings: ReconstructConfig) -> Scene:
            calls.append((clip.size, settings))
            return reconstruct(model, clip, settings)

        monkeypatch.setattr(synthetic, "reconstruct", recorded)
        model = Model(replace(model_config("recon4d_tiny"), motion=None)).eval()
        config = SyntheticConfig(num_frames=2, height=48, width=64, attempts=1)
        (first, _), (second, _) = synthetic_samples(model, config, FITTING_SEED, 2, "float32")
        ((other, _),) = synthetic_samples(model, config, HELD_OUT_SEED, 1, "float32")
        for one in (second, other):
            assert not torch.equal(one.depth.errors, first.depth.errors)
        assert not len(first.tracks)
        for size, settings in calls:
            assert size == processing_size(size, settings.processing_size or 0, model.patch_size) == (48, 64)
            assert (settings.anchors, settings.precision) == ((), "float32")

    def test_scenes_have_the_processing_size_of_the_model(self) -> None:
        model = create_model("recon4d_tiny", weights=None)
        assert model_input_size(model, None) == (80, 112)
        height, width = model_input_size(model, (50, 63))
        assert (height, width) == (48, 64)
        config = SyntheticConfig(num_frames=2, height=height, width=width, attempts=1)
        ((one, _),) = synthetic_samples(model, config, FITTING_SEED, 1, "float32")
        assert min(len(one.depth), len(one.points), len(one.tracks)) > 100
        ((again, _),) = synthetic_samples(model, config, FITTING_SEED, 1, "float32")
        assert torch.equal(one.tracks.errors, again.tracks.errors)


CALIBRATION = Calibration("3 worlds", depth=CURVE, points=ErrorCurve((2.0,), (0.3,)))


class TestFiles:
    def test_a_checkpoint_contains_it(self, tmp_path: Path) -> None:
        model = create_model("recon4d_tiny", weights=None)
        save_model(model, tmp_path / "before.safetensors")
        assert load_model(tmp_path / "before.safetensors").calibration is None
        model.calibration = CALIBRATION
        save_model(model, tmp_path / "after.safetensors", "int8")
        assert load_model(tmp_path / "after.safetensors").calibration == CALIBRATION

    def test_a_checkpoint_with_an_invalid_calibration_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        model = create_model("recon4d_tiny", weights=None)
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

    def test_an_archive_contains_it(self, tmp_path: Path) -> None:
        scene, times = make_scene(), torch.zeros(3)
        save_scene(tmp_path, scene, times, make_info(calibration=CALIBRATION))
        info = load_scene_info(tmp_path)
        assert info.calibration == CALIBRATION
        assert info == make_info(calibration=CALIBRATION)

    def test_an_archive_without_one_has_no_such_key(self, tmp_path: Path) -> None:
        save_scene(tmp_path, make_scene(), torch.zeros(3), make_info())
        with np.load(tmp_path / "scene.npz") as arrays:
            assert "calibration" not in json.loads(str(arrays["info"]))
        assert load_scene_info(tmp_path).calibration is None
        with pytest.raises(ValueError, match="wanted a Calibration or None"):
            make_info(calibration="good")


def test_a_curve_is_extended_to_higher_confidence() -> None:
    longer = CURVE.extended(1000.0, 0.01)
    assert longer.expected_error(torch.tensor([10.0, 100.0, 1000.0, 5000.0])).tolist() == pytest.approx(
        [0.1, 0.1, 0.01, 0.01]
    )
    assert CURVE.extended(1000.0, 0.5).errors[-1] == 0.1  # never rises
    with pytest.raises(ValueError, match="increasing confidences"):
        CURVE.extended(50.0, 0.01)
    both = CALIBRATION.extended(1000.0, 0.01, "corners")
    assert both.measured_on == "3 worlds; corners"
    assert (both.depth, both.tracks) == (longer, None)


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
        assert found.depth is not None
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
        assert found is not None
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
        model = create_model("recon4d_tiny", weights=None)
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
        small = ["--clips", "2", "--held-out", "1", "--num-frames", "2", "--size", "32", "48", "--device", "cpu"]
        arguments = ["calibrate", "recon4d_tiny", "--out", str(tmp_path / "tiny.safetensors"), *small]
        assert main(arguments) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "reliability.png"}
        printed = capsys.readouterr().out.splitlines()
        assert (
            printed[0] == "recon4d_tiny on cpu: fitting to 2 scenes of 2 frames, 48 x 32 pixels, checking on 1 others"
        )
        rows = [line.split() for line in printed[3:6]]
        assert [row[0] for row in rows] == ["depth", "points", "tracks"]
        assert all(int(row[1]) > 0 and float(row[4]) < float(row[2]) for row in rows)
        model = load_model(tmp_path / "tiny.safetensors")
        assert model.calibration is not None
        assert model.calibration.measured_on == "2 synthetic scenes of 2 frames, 48 x 32 pixels"
        plain = create_model("recon4d_tiny", weights=None).state_dict()
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, plain[name])]
        assert set(changed) <= {"dense_heads.0.out.bias"}  # where the moving mask is cut

        assert main(arguments) == 2
        assert "would be replaced: give --overwrite" in capsys.readouterr().err
        for wrong, reason in (
            (["--clips", "0"], "each must be at least 1"),
            (["--out", str(tmp_path / "none" / "m.safetensors")], "none does not exist"),
            (["--out", str(tmp_path / "m.pt")], "must end in .safetensors"),
        ):
            assert main([*arguments, *wrong]) == 2
            assert reason in capsys.readouterr().err

    def test_the_diagram_needs_samples(self, tmp_path: Path, truth: Scene) -> None:
        samples = scene_samples(disturbed(truth), truth)
        write_reliability_picture(tmp_path / "some.png", CALIBRATION, samples)
        assert [path.name for path in tmp_path.iterdir()] == ["some.png"]
        assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match="nothing to draw"):
            write_reliability_picture(tmp_path / "none.png", Calibration("nothing"), samples)


def test_the_diagram_shows_measured_over_expected_error(
    tmp_path: Path, truth: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **how: (figures.append(self), savefig(self, *given, **how))
    )
    samples = scene_samples(disturbed(truth), truth)
    write_reliability_picture(tmp_path / "some.png", CALIBRATION, samples)
    (figure,) = figures
    columns = list(zip(figure.axes[:2], figure.axes[2:], strict=True))  # tracks have no calibration
    assert [above.get_title() for above, _ in columns] == ["depth", "points"]
    for (above, below), field in zip(columns, ("depth", "points"), strict=True):
        curve, measured = getattr(CALIBRATION, field), getattr(samples, field)
        lines = {line.get_label().split(":")[0]: line for line in above.get_lines()}
        for name, drawn in (("calibrated", curve), ("implied by the loss", loss_implied_curve())):
            found = compute_reliability(drawn, measured)
            np.testing.assert_allclose(lines[name].get_xdata(), found.expected)
            np.testing.assert_allclose(lines[name].get_ydata(), found.measured)
            assert lines[name].get_label() == f"{name}: {calibration_error(found):.2f}"
            for values, (least, most) in ((found.expected, above.get_xlim()), (found.measured, above.get_ylim())):
                assert least < float(values.min())
                assert float(values.max()) < most
        assert sum(bar.get_height() for bar in below.patches) == len(measured)
        assert below.get_xlim() == above.get_xlim()
        assert above.xaxis.get_major_formatter()(0.05) == "5 %"


def test_an_archive_contains_the_calibration_of_its_model(tmp_path: Path) -> None:
    model = create_model("recon4d_tiny", weights=None)
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
    model = create_model("recon4d_tiny", weights=None)
    model.calibration = Calibration("these weights", depth=CURVE)
    save_model(model, tmp_path / "calibrated.safetensors")
    assert load_model(tmp_path / "calibrated.safetensors").calibration is not None
    outcome = train(replace(config(steps=1), init=str(tmp_path / "calibrated.safetensors")), tmp_path / "run")
    assert load_model(outcome.checkpoint.model_file).calibration is None
