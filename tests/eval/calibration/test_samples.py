"""Samples of confidence and error, from scenes with known errors."""

import math
from dataclasses import replace

import pytest
import torch
from calibrated import disturbed

from recon4d import losses
from recon4d.datasets.synthetic import SyntheticConfig
from recon4d.datasets.synthetic.source import TRAINING_SEED
from recon4d.datasets.synthetic.worlds_v1 import SEED
from recon4d.eval.benchmarks import BENCHMARK_SEED
from recon4d.eval.calibration import (
    FITTING_SEED,
    HELD_OUT_SEED,
    ConfidenceSamples,
    concatenate_samples,
    fit_calibration,
    model_input_size,
    scene_samples,
    synthetic,
    synthetic_samples,
)
from recon4d.inference import ReconstructConfig, predict_scene, processing_size
from recon4d.models import Model
from recon4d.records import Clip, Scene
from recon4d.train.batches import TRAINING_FAMILY
from recon4d.train.validation import VALIDATION_FAMILY
from recon4d.zoo import create_model, model_config


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
            return predict_scene(model, clip, settings)

        monkeypatch.setattr(synthetic, "predict_scene", recorded)
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
        model = create_model("recon4d_tiny", pretrained=False)
        assert model_input_size(model, None) == (80, 112)
        height, width = model_input_size(model, (50, 63))
        assert (height, width) == (48, 64)
        config = SyntheticConfig(num_frames=2, height=height, width=width, attempts=1)
        ((one, _),) = synthetic_samples(model, config, FITTING_SEED, 1, "float32")
        assert min(len(one.depth), len(one.points), len(one.tracks)) > 100
        ((again, _),) = synthetic_samples(model, config, FITTING_SEED, 1, "float32")
        assert torch.equal(one.tracks.errors, again.tracks.errors)
