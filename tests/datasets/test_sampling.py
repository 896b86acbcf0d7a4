"""Tests of the sampling of frames, overlapping views and tracks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import WIDTH, make_clip, make_scene

from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import (
    ClipSampling,
    placeholder_tracks,
    random_stream,
    sample_frames,
    sample_tracks,
    without_times,
)
from recon4d.errors import UserError

PLAIN = ClipSampling(
    num_frames=5, strides=(1, 3), irregular_probability=0, reversed_probability=0, shuffled_probability=0
)


def sampled(sampling: ClipSampling, length: int, count: int = 400) -> list[tuple[tuple[int, ...], bool]]:
    frames = [sample_frames(sampling, length, random_stream(seed, "test")) for seed in range(count)]
    return [(one.indices, one.is_shuffled) for one in frames]


class TestFrames:
    @pytest.mark.parametrize("length", [5, 6, 8, 9, 12, 13, 100])
    def test_frames_are_distinct_and_cover_the_sequence(self, length: int) -> None:
        sampling = replace(PLAIN, irregular_probability=0.5, reversed_probability=0.3, shuffled_probability=0.3)
        clips = sampled(sampling, length)
        assert all(len(set(numbers)) == 5 for numbers, _ in clips)
        covered = {number for numbers, _ in clips for number in numbers}
        assert covered == set(range(length))

    def test_steps_are_equal_within_a_clip_and_cover_the_strides(self) -> None:
        steps = Counter()
        for numbers, _ in sampled(PLAIN, 100):
            (step,) = set(np.diff(numbers).tolist())
            steps[step] += 1
        assert set(steps) == {1, 2, 3}
        assert min(steps.values()) > 400 / 3 * 0.7

    def test_steps_of_irregular_clips_vary(self) -> None:
        clips = [np.diff(numbers) for numbers, _ in sampled(replace(PLAIN, irregular_probability=1), 100)]
        assert all(steps.min() >= 1 and steps.max() <= 3 for steps in clips)
        assert np.mean([len(set(steps.tolist())) > 1 for steps in clips]) > 0.9

    def test_steps_that_do_not_fit_are_shortened_at_every_position(self) -> None:
        clips = [np.diff(numbers) for numbers, _ in sampled(replace(PLAIN, irregular_probability=1), 7)]
        assert all(steps.sum() <= 6 for steps in clips)
        assert all(mean > 1.15 for mean in np.mean(clips, axis=0))
        assert np.ptp(np.mean(clips, axis=0)) < 0.15

    def test_frequencies_approach_the_probabilities(self) -> None:
        sampling = replace(PLAIN, irregular_probability=0.5, reversed_probability=0.25, shuffled_probability=0.25)
        clips = sampled(sampling, 100, count=1000)
        ordered = [np.diff(numbers) for numbers, is_shuffled in clips if not is_shuffled]
        assert np.mean([is_shuffled for _, is_shuffled in clips]) == pytest.approx(0.25, abs=0.05)
        backward = [steps for steps in ordered if (steps < 0).all()]
        assert len(backward) / 1000 == pytest.approx(0.25, abs=0.05)
        assert all((steps > 0).all() for steps in ordered if (steps > 0).any())
        irregular = np.mean([len(set(steps.tolist())) > 1 for steps in ordered])
        assert irregular == pytest.approx(0.5, abs=0.08)

    def test_shuffled_clips_are_not_in_order(self) -> None:
        clips = sampled(replace(PLAIN, shuffled_probability=1), 100)
        assert all(is_shuffled for _, is_shuffled in clips)
        assert np.mean([(np.diff(numbers) > 0).all() for numbers, _ in clips]) < 0.05

    def test_a_sequence_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(ValueError, match="4 frames is too short for 5 frames at steps of at least 1; wanted 5"):
            sample_frames(PLAIN, 4, random_stream(0, ""))
        slow = replace(PLAIN, strides=(2, 4))
        assert slow.min_length == 9
        with pytest.raises(ValueError, match="wanted 9"):
            sample_frames(slow, 8, random_stream(0, ""))
        assert sample_frames(slow, 9, random_stream(0, "")).indices == (0, 2, 4, 6, 8)

    def test_single_frames(self) -> None:
        clips = {numbers for numbers, _ in sampled(replace(PLAIN, num_frames=1), 3)}
        assert clips == {(0,), (1,), (2,)}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"num_frames": 0},
            {"strides": (0, 2)},
            {"strides": (3, 2)},
            {"reversed_probability": 0.8, "shuffled_probability": 0.3},
        ],
    )
    def test_values_out_of_range_are_refused(self, wrong: dict) -> None:
        with pytest.raises(UserError, match="wanted"):
            replace(PLAIN, **wrong)

    def test_streams_differ_by_seed_and_by_purpose(self) -> None:
        numbers = {random_stream(seed, purpose).random() for seed in (0, 1, 2**63) for purpose in ("a", "b")}
        assert len(numbers) == 6
        assert random_stream(1, "a").random() == random_stream(1, "a").random()


def test_without_times_removes_times_only() -> None:
    sample = Sample(make_clip(), make_scene())
    loose = without_times(sample)
    assert loose.clip.times.isnan().all()
    assert torch.equal(loose.clip.images, sample.clip.images)


def partly_known(anchors: tuple[int, ...] = (0, 2)) -> Sample:
    """Create tracks of which only 30 of the first 60 queries of each anchor are known at the anchor's time."""
    sample = Sample(make_clip(), make_scene(anchors=anchors))
    confidence = sample.scene.tracks.confidence.clone()
    for row, anchor in enumerate(anchors):
        confidence[row, anchor, 60:] = 0
        confidence[row, anchor, 0:60:2] = 0
    return replace(sample, scene=replace(sample.scene, tracks=replace(sample.scene.tracks, confidence=confidence)))


class TestTracks:
    def test_known_queries_come_first_with_their_values(self) -> None:
        sample = partly_known()
        before = sample.scene.tracks
        after = sample_tracks(sample, 40, random_stream(0, "tracks")).scene.tracks
        assert after.points.shape == (2, 3, 40, 3)
        for row, anchor in enumerate((0, 2)):
            assert after.confidence[row, anchor].tolist() == [1.0] * 30 + [0.0] * 10
            columns, rows = (after.pixels[row] - 0.5).long().unbind(-1)
            source = rows * WIDTH + columns
            assert len(set(source.tolist())) == 40
            assert set(source[:30].tolist()) == set(range(1, 60, 2))
            assert torch.equal(after.points[row], before.points[row][:, source])
            assert torch.equal(after.confidence[row], before.confidence[row][:, source])

    def test_a_small_count_takes_a_random_subset(self) -> None:
        first, again, other = (sample_tracks(partly_known(), 10, random_stream(s, "")).scene.tracks for s in (0, 0, 1))
        assert torch.equal(first.pixels, again.pixels)
        assert not torch.equal(first.pixels, other.pixels)
        assert not torch.equal(first.pixels[0], first.pixels[1])
        assert (first.confidence[0, 0] == 1).all()

    def test_missing_queries_are_padded_as_unknown_so_that_samples_can_be_stacked(self) -> None:
        many = Sample(make_clip(), make_scene())
        few = replace(many, scene=replace(many.scene, tracks=placeholder_tracks(3, (0,), 2)))
        rng = random_stream(0, "")
        batch = Sample.stack([sample_tracks(many, 200, rng), sample_tracks(few, 200, rng)])
        tracks = batch.scene.tracks
        assert tracks.confidence.sum(dim=(1, 2, 3)).tolist() == [3 * 192.0, 0.0]
        assert not tracks.confidence[..., 192:].any()
        assert not tracks.visibility[..., 192:].any()
        assert tracks.visibility[0, ..., :192].all()

    def test_queries_of_a_sliced_anchor_are_unknown(self) -> None:
        sample = Sample(make_clip(), make_scene(anchors=(0, 1)))
        later = replace(sample, clip=sample.clip.frames([1, 2]), scene=sample.scene.frames([1, 2]))
        chosen = sample_tracks(later, 4, random_stream(0, "")).scene.tracks
        assert chosen.anchors.tolist() == [-1, 0]

    def test_no_tracks_and_batches_are_refused(self) -> None:
        sample = Sample(make_clip(), make_scene())
        with pytest.raises(ValueError, match="no tracks"):
            sample_tracks(replace(sample, scene=replace(sample.scene, tracks=None)), 4, random_stream(0, ""))
        with pytest.raises(ValueError, match="wanted a single sample"):
            sample_tracks(Sample.stack([sample]), 4, random_stream(0, ""))
