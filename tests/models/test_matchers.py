"""Models with every matcher: old checkpoints, storage, training, tracks for refinement, and the epipolar filter."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import assert_scenes_close, random_images, randomized, tiny_config
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.layers import AssignmentKind, MatchingConfig, SoftMatcher, cell_centers
from recon4d.models import Model, ModelConfig, match_feature_tracks
from recon4d.records import Priors, config_from_json, config_to_json
from recon4d.train.objective import Batch, TrainModule
from recon4d.zoo import create_model, load_model, save_model

ASSIGNMENTS: tuple[AssignmentKind, ...] = ("soft", "sinkhorn", "nearest", "hough")
each_assignment = pytest.mark.parametrize("assignment", ASSIGNMENTS)


def config_with(assignment: AssignmentKind = "soft", epipolar_width: float | None = None) -> ModelConfig:
    config = tiny_config()
    assert config.matching is not None
    return replace(config, matching=replace(config.matching, assignment=assignment, epipolar_width=epipolar_width))


def model_with(assignment: AssignmentKind = "soft", epipolar_width: float | None = None) -> Model:
    torch.manual_seed(0)
    return randomized(Model(config_with(assignment, epipolar_width)))


def sideways(frames: int, unknown: tuple[int, ...] = ()) -> Priors:
    """Return known cameras of one clip that move along the rows of the images."""
    poses = torch.eye(4, dtype=torch.float64).repeat(1, frames, 1, 1)
    poses[0, :, 0, 3] = torch.arange(frames)
    poses[:, list(unknown)] = torch.nan
    intrinsics = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return Priors(intrinsics=intrinsics.expand(1, frames, 3, 3), world_from_cam=poses)


class TestStorage:
    def test_the_default_model_was_stored_before_there_were_other_matchers(self) -> None:
        model = create_model("recon4d_mini")
        assert model.config.matching == MatchingConfig(channels=96)
        assert model.matching is not None
        assert model.matching.matcher == SoftMatcher()

    def test_a_configuration_without_the_new_fields_is_that_of_soft_matching(self) -> None:
        written = config_to_json(MatchingConfig(channels=7))
        for name in ("assignment", "sinkhorn_iterations", "hough_radius", "epipolar_width"):
            del written[name]
        assert config_from_json(MatchingConfig, written) == MatchingConfig(channels=7)

    @each_assignment
    def test_a_checkpoint_keeps_its_matcher(self, assignment: AssignmentKind, tmp_path: Path) -> None:
        model = Model(config_with(assignment, 1.5)).eval()
        save_model(model, tmp_path / "model.safetensors")
        loaded = load_model(tmp_path / "model.safetensors")
        assert loaded.config == model.config
        images = random_images(1, 3).float()
        with torch.no_grad():
            assert_scenes_close(loaded(images), model(images))


@each_assignment
class TestEveryMatcher:
    def test_one_and_more_frames_give_finite_outputs(self, assignment: AssignmentKind) -> None:
        model = model_with(assignment, 1.0)
        for frames in (1, 3):
            outputs = model.outputs(random_images(2, frames), torch.arange(frames).double().expand(2, -1))
            tracks = outputs.scene.tracks
            assert tracks is not None
            assert all(value.isfinite().all() for value in (outputs.scene.points, tracks.points, tracks.visibility))

    def test_identical_frames_without_texture_give_finite_outputs(self, assignment: AssignmentKind) -> None:
        model = model_with(assignment).float()
        outputs = model.outputs(torch.full((1, 3, 3, 32, 48), 0.5))
        assert outputs.scene.points.isfinite().all()

    def test_the_matcher_changes_the_result(self, assignment: AssignmentKind) -> None:
        model, soft = model_with(assignment), model_with()
        model.load_state_dict(soft.state_dict())
        images, times = random_images(1, 3), torch.arange(3).double()[None]
        difference = (model(images, times).points - soft(images, times).points).abs().max()
        assert (difference == 0) if assignment == "soft" else (difference > 1e-9)

    def test_feature_tracks_for_refinement(self, assignment: AssignmentKind) -> None:
        model = model_with(assignment)
        outputs = model.outputs(random_images(1, 3), anchors=())
        tracks = match_feature_tracks(model, outputs)
        assert tracks.pixels.isfinite().all()
        assert tracks.visibility.min() >= 0
        assert tracks.visibility.max() == 1

    @pytest.mark.parametrize("epipolar_width", [None, 1.5])
    def test_all_losses_and_gradients_are_finite(
        self, assignment: AssignmentKind, epipolar_width: float | None
    ) -> None:
        torch.manual_seed(0)
        model = Model(config_with(assignment, epipolar_width))
        scene = make_scene()
        clip = replace(make_clip().resized(32, 48), priors=None)
        sample = Sample(clip, scene.resized(32, 48))
        priors = Priors(sample.scene.cameras.intrinsics, sample.scene.cameras.world_from_cam)
        stacked = Sample.stack([replace(sample, clip=replace(clip, priors=priors))])
        totals, counts = TrainModule(model)(Batch(stacked, torch.zeros(1, 1, dtype=torch.long)))
        assert totals.isfinite().all()
        assert counts.sum() > 0
        totals.sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients.values())
        for name in ("matching.from_tokens.weight", "matching.no_match", "matching.log_temperature"):
            gradient = gradients[name]
            assert gradient is not None
            assert gradient.abs().max() > 0


class TestEpipolarFilter:
    def test_matches_of_frames_with_known_cameras_stay_near_their_lines(self) -> None:
        images, times = random_images(1, 3), torch.arange(3).double()[None]
        rows = cell_centers((2, 3), 8.0, images)[:, 1]

        def largest_offset(width: float | None, unknown: tuple[int, ...] = ()) -> tuple[float, float]:
            """Return the largest offset in y of the matches of frame 0 to frame 1, and of frame 0 to frame 2."""
            outputs = model_with(epipolar_width=width).outputs(images, times, priors=sideways(3, unknown))
            assert outputs.matches is not None
            # Pairs are (frame, neighbor): that of frames 1 and 0 is the fourth, that of frames 2 and 0 the seventh.
            first, second = ((outputs.matches.positions[0, pair, :, 1] - rows).abs().max() for pair in (3, 6))
            return float(first), float(second)

        assert min(largest_offset(None)) > 8
        assert max(largest_offset(1.0)) <= 8
        near, free = largest_offset(1.0, unknown=(2,))
        assert near <= 8 < free

    def test_anchors_and_feature_tracks_use_known_before_predicted_cameras(self) -> None:
        model = model_with(epipolar_width=1.0)
        images = random_images(1, 3)
        predicted = model.outputs(images)
        assert predicted.two_view is not None
        known = model.outputs(images, priors=sideways(3, unknown=(2,)))
        assert known.two_view is not None
        expected = model.matching.two_view_filter(  # pyright: ignore[reportOptionalMemberAccess]
            None, known.scene.cameras, known.scene.dynamic
        )
        assert expected is not None
        torch.testing.assert_close(known.two_view.fundamental[:, 2], expected.fundamental[:, 2])
        assert (known.two_view.fundamental[:, 0, 1] - expected.fundamental[:, 0, 1]).abs().max() > 1e-6
        assert known.two_view.unconstrained is not None
        assert torch.equal(known.two_view.unconstrained, expected.unconstrained)  # pyright: ignore[reportArgumentType]
        assert known.anchor_matches is not None
        is_free = known.two_view.unconstrained[0, 0]
        rows = cell_centers((2, 3), 8.0, images)[:, 1]
        offset = (known.anchor_matches.positions[0, 1, :, 1] - rows).abs()
        assert offset[~is_free].numel() == 0 or offset[~is_free].max() <= 8

    def test_feature_tracks_are_near_their_lines(self) -> None:
        model = model_with(epipolar_width=1.0)
        images = random_images(1, 2)
        outputs = model.outputs(images, priors=sideways(2))
        assert outputs.two_view is not None
        everywhere = replace(outputs, two_view=replace(outputs.two_view, unconstrained=None))
        rows = cell_centers((2, 3), 8.0, images)[:, 1]
        tracks = match_feature_tracks(model, everywhere)
        free = match_feature_tracks(model, replace(outputs, two_view=None))
        # The first 24 tracks start in frame 0.
        off = [(found.pixels[0, 1, :24, 1] - rows).abs().max() for found in (tracks, free)]
        assert off[0] <= 8 < off[1]

    def test_without_a_width_no_filter_is_made(self) -> None:
        assert model_with().outputs(random_images(1, 2)).two_view is None
