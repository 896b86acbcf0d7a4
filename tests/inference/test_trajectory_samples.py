"""Samples of the motion of a scene: through the observations, the same for a seed, for every curve."""

from dataclasses import replace

import pytest
import torch

import recon4d
from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.heads.motion_flow import motion_conditions, sample_motion
from recon4d.inference import processing_size, trajectory_samples
from recon4d.inference.tracking_tokens import tracking_tokens
from recon4d.inference.trajectory_samples import curves_to_sample, sample_trajectories
from recon4d.models import Model
from recon4d.motion import fit_trajectories
from recon4d.motion.trajectories import dynamic_tracks
from recon4d.records import Scene
from recon4d.zoo import create_model, load_motion_flow

FLOW = load_motion_flow()


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A clip in which much moves."""
    return SyntheticScenes(SyntheticConfig(8, 72, 96, static_scene_share=0)).sample(1)


@pytest.fixture(scope="module")
def observed(sample: Sample) -> Scene:
    """The first five frames with their true tracks and curves."""
    return fit_trajectories(sample.scene.frames(slice(0, 5)), sample.clip.times[:5], 400)


def sampled(scene: Scene, count: int = 4, **options: object) -> recon4d.records.MotionSamples:
    curves = sample_trajectories(scene, FLOW.network, count, **options).trajectories  # pyright: ignore[reportArgumentType]
    assert curves is not None
    assert curves.samples is not None
    return curves.samples


def test_samples_pass_through_the_observations(sample: Sample, observed: Scene) -> None:
    interval = (float(sample.clip.times[0]), float(sample.clip.times[-1]))
    samples = sampled(observed, interval=interval)
    curves = observed.trajectories
    assert curves is not None
    assert samples.control_points.shape[:2] == (4, curves.num_curves)
    known = curves.positions(curves.times)
    extent = (known - known[:, :1]).norm(dim=-1).amax()
    off = (samples.positions(curves.times) - known).norm(dim=-1)
    is_observed = curves.visibility > 0.5
    assert off[:, is_observed].mean() < 0.05 * extent
    # They differ more where nothing was observed.
    deviation = samples.standard_deviations(sample.clip.times).norm(dim=-1)
    assert deviation[:, 7].mean() > 4 * deviation[:, :5][is_observed].mean()


def test_samples_do_not_depend_on_chance(observed: Scene) -> None:
    first, again, other = sampled(observed, seed=3), sampled(observed, seed=3), sampled(observed, seed=4)
    assert torch.equal(first.control_points, again.control_points)
    assert not torch.equal(first.control_points, other.control_points)


def test_points_of_a_piece_move_together(sample: Sample, observed: Scene) -> None:
    """In each sample, points that are close keep their distance, though samples differ by much more."""
    interval = (float(sample.clip.times[0]), float(sample.clip.times[-1]))
    samples = sampled(observed, interval=interval)
    curves = observed.trajectories
    assert curves is not None
    start = curves.positions(curves.times[:1])[:, 0]
    of_piece = (curves.pieces == 0).nonzero()[:, 0]
    apart = torch.cdist(start[of_piece], start[of_piece])
    apart.fill_diagonal_(torch.inf)
    neighbor = of_piece[apart.argmin(dim=1)]
    end = samples.positions(sample.clip.times[-1:])[:, :, 0]
    stretched = ((end[:, of_piece] - end[:, neighbor]).norm(dim=-1) - apart.amin(dim=1)).abs()
    assert stretched.mean() < 0.5 * end[:, of_piece].std(dim=0).norm(dim=-1).mean()


def test_every_curve_gets_samples(observed: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves beyond the largest number that attend to each other move like their neighbors."""
    monkeypatch.setattr(trajectory_samples, "MAX_ATTENDING_CURVES", 100)
    chosen = curves_to_sample(observed)
    assert len(chosen) == 100
    samples = sampled(observed)
    curves = observed.trajectories
    assert curves is not None
    assert samples.control_points.shape[1] == curves.num_curves > 100
    others = torch.ones(curves.num_curves, dtype=torch.bool)
    others[chosen] = False
    known = curves.positions(curves.times)
    off = (samples.positions(curves.times) - known).norm(dim=-1)[:, others]
    assert off[:, curves.visibility[others] > 0.5].mean() < 0.05 * (known[:, -1] - known[:, 0]).norm(dim=-1).amax()


def test_curves_that_attend_keep_their_own_samples(observed: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory_samples, "MAX_ATTENDING_CURVES", 100)
    curves = observed.trajectories
    assert curves is not None
    tracks = dynamic_tracks(observed, curves.num_curves)
    times = (curves.times - curves.times[0]) / (curves.times[-1] - curves.times[0])
    conditions = motion_conditions(tracks.points, (tracks.weights > 0).float(), times)
    chosen = curves_to_sample(observed)
    alone = conditions.select(chosen)
    values = sample_motion(FLOW.network, alone, None, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sampled(observed).control_points[:, chosen], alone.control_points(values))


def test_tokens_are_those_of_the_patch_and_frame(sample: Sample) -> None:
    model = create_model()
    assert isinstance(model, Model)
    height, width = processing_size(sample.clip.size, model.config.processing_size, model.patch_size)
    clip = sample.clip.resized(height, width)
    with torch.inference_mode():
        tokens = model.tokens(clip.images[None], clip.times[None])
    rows, columns = tokens.grid
    features = tokens.state.features[-1][0, :, tokens.state.num_special :].unflatten(1, tokens.grid)
    frames, row, column = torch.tensor([0, 3, 7]), torch.tensor([0, 2, rows - 1]), torch.tensor([1, 0, columns - 1])
    places = torch.stack([(column + 0.9) / columns, (row + 0.1) / rows], dim=-1)
    torch.testing.assert_close(tracking_tokens(model, sample.clip, frames, places), features[frames, row, column])


def test_a_scene_in_which_nothing_moves_has_no_samples(sample: Sample) -> None:
    scene = replace(sample.scene, dynamic=torch.zeros_like(sample.scene.dynamic))
    samples = sampled(fit_trajectories(scene, sample.clip.times))
    assert samples.control_points.shape[:2] == (4, 0)


def test_wrong_numbers_are_named(observed: Scene) -> None:
    with pytest.raises(UserError, match="number of motion samples is 0; wanted 1 to 256"):
        sampled(observed, 0)
    with pytest.raises(UserError, match="do not cover the frames"):
        sampled(observed, interval=(0.5, 9.0))


class TestSampleMotions:
    def test_from_a_clip(self, sample: Sample) -> None:
        """The default model's tokens take part, and the samples reach beyond the clip."""
        clip = sample.clip.frames(slice(0, 4))
        scene = recon4d.sample_motions("recon4d_mini", clip, 2, scene=sample.scene.frames(slice(0, 4)))
        curves = scene.trajectories
        assert curves is not None
        assert curves.samples is not None
        duration = clip.times[3] - clip.times[0]
        torch.testing.assert_close(
            curves.samples.interval, torch.stack([clip.times[0] - duration / 4, clip.times[3] + duration / 4])
        )
        flow = replace(FLOW, token_model="")
        without = recon4d.sample_motions("recon4d_mini", clip, 2, scene=sample.scene.frames(slice(0, 4)), flow=flow)
        assert without.trajectories is not None
        assert without.trajectories.samples is not None
        assert not torch.equal(without.trajectories.samples.control_points, curves.samples.control_points)

    def test_a_network_without_known_tokens(self, sample: Sample) -> None:
        """Tracks alone are enough."""
        model = recon4d.create_model("recon4d_tiny", pretrained=False)
        scene = recon4d.sample_motions(model, sample.clip, 2, scene=sample.scene)
        assert scene.trajectories is not None
        assert scene.trajectories.samples is not None
        assert scene.trajectories.samples.num_samples == 2

    def test_margin_out_of_range(self, sample: Sample) -> None:
        with pytest.raises(UserError, match="margin is 2 of the clip's duration; wanted 0 to 1"):
            recon4d.sample_motions("recon4d_mini", sample.clip, 2, scene=sample.scene, margin=2)
