"""Training of the generative head of motion: clips of tracks without pictures, rendered clips, the loop."""

from dataclasses import replace

import torch

from recon4d.heads.motion_flow import FlowConfig, FlowNetwork
from recon4d.train.motion_flow.loop import FlowStep, FlowTrainConfig, clip_loss, train_flow
from recon4d.train.motion_flow.rendered_clips import NUM_FRAMES as RENDERED_FRAMES
from recon4d.train.motion_flow.rendered_clips import NUM_TRACKS, render_track_clips
from recon4d.train.motion_flow.track_clips import (
    MIN_WINDOW,
    TrackClips,
    augment,
    draw_track_clips,
    draw_windows,
    make_track_scenes,
)
from recon4d.zoo import create_model

SMALL = FlowTrainConfig(
    steps=10, batch=8, scenes=32, warmup=5, network=FlowConfig(width=32, depth=1, heads=2, token_width=512)
)


def draw(seed: int = 0, tracks: int = 24) -> TrackClips:
    """Draw a clip from each of 16 scenes."""
    return draw_track_clips(make_track_scenes(16)[0], tracks, torch.Generator().manual_seed(seed))


def test_every_track_is_observed_within_the_window() -> None:
    clips = draw()
    assert (clips.weights.sum(dim=1) >= 1).all()
    assert ((clips.weights == 0) | (clips.weights == 1)).all()
    assert 0.1 < clips.weights.mean() < 0.9
    # Frames outside of the window show nothing.
    assert 4 < (clips.weights.sum(dim=2) == 0).any(dim=1).sum() < 16
    assert (clips.times.diff(dim=1) > 0).all()
    assert torch.equal(clips.times[:, 0], torch.zeros(16))
    assert torch.equal(clips.times[:, -1], torch.ones(16))


def test_tracks_move_rigidly_with_their_primitive() -> None:
    """Some pairs of tracks keep their distance, namely those of the same primitive, and others do not."""
    points = draw(tracks=48).points
    distances = torch.cdist(points, points)  # (batch, time, track, track)
    change = distances.amax(dim=1) - distances.amin(dim=1)
    is_rigid = change < 1e-3
    pairs = is_rigid.float().mean()
    assert 1.5 / 48 < pairs < 0.9


def test_most_tracks_move_and_some_do_not() -> None:
    points = draw(tracks=96).points
    moved = (points - points[:, :1]).norm(dim=-1).amax(dim=1)
    assert 0.05 < (moved < 1e-4).float().mean() < 0.4


def test_windows_are_runs_of_frames() -> None:
    windows = draw_windows(500, 10, torch.Generator().manual_seed(0))
    length = windows.sum(dim=1)
    assert length.min() == MIN_WINDOW
    assert length.max() == 10
    changes = windows.int().diff(dim=1)
    assert ((changes == 1).sum(dim=1) <= 1).all()
    assert ((changes == -1).sum(dim=1) <= 1).all()
    assert 0.2 < (length == 10).float().mean() < 0.45


def test_augmentation_keeps_shapes_and_time() -> None:
    """Turned clips have the same distances; reversed ones tell the same positions at mirrored times."""
    clips = draw()
    changed = augment(clips, torch.Generator().manual_seed(2))
    before, after = (torch.cdist(c.points, c.points) for c in (clips, changed))
    is_reversed = (changed.times - clips.times).abs().amax(dim=1) > 1e-4
    assert 0 < is_reversed.sum() < 16
    torch.testing.assert_close(
        torch.where(is_reversed[:, None, None, None], before.flip(1), before), after, atol=1e-3, rtol=1e-3
    )
    mirrored = torch.where(is_reversed[:, None], 1 - clips.times.flip(1), clips.times)
    torch.testing.assert_close(changed.times, mirrored)
    assert torch.equal(changed.weights.sum(dim=1), clips.weights.sum(dim=1))
    is_noisy = (changed.observed != changed.points).any(dim=(1, 2, 3))
    assert 0 < is_noisy.sum() < 16


def test_training_lowers_the_loss_on_other_clips() -> None:
    steps: list[FlowStep] = []
    trained = train_flow(replace(SMALL, steps=60), None, steps.append, report_every=25)
    assert [step.step for step in steps] == [25, 50, 60]
    others = draw_track_clips(make_track_scenes(32, 1000)[0], 48, torch.Generator().manual_seed(5))
    before, after = (
        clip_loss(network, others, torch.Generator().manual_seed(6)).detach()
        for network in (FlowNetwork(SMALL.network), trained)
    )
    assert float(after) < 0.95 * float(before)


def test_training_repeats_itself() -> None:
    network, again = train_flow(SMALL), train_flow(SMALL)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_rendered_clips_have_tokens_of_the_observed_frames() -> None:
    model = create_model()
    finished: list[int] = []
    clips = render_track_clips(model, 3, finished.append)
    assert finished == [1, 1, 1]
    # Of some clips the model has not all frames; nothing is observed in the others.
    assert 0 < (clips.weights.sum(dim=2) == 0).any(dim=1).sum() < len(clips.times)
    assert clips.points.shape[1:] == (RENDERED_FRAMES, NUM_TRACKS, 3)
    assert clips.tokens is not None
    assert clips.tokens.isfinite().all()
    assert clips.tokens.shape[-1] == FlowConfig().token_width
    assert clips.tokens.float().std(dim=1).mean() > 0.01
    assert (clips.weights.sum(dim=1) >= 1).all()
    network = train_flow(FlowTrainConfig(steps=3, batch=2, scenes=8, rendered_share=1, network=SMALL.network), clips)
    assert all(value.isfinite().all() for value in network.state_dict().values())
