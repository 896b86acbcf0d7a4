"""Which frames form a clip: none twice, in the shares asked for, seeing the same things, with tracks that stack."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import HEIGHT, WIDTH, make_clip, make_scene

from recon4d import geometry as g
from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import (
    ClipChoice,
    choose_frames,
    choose_overlapping,
    choose_tracks,
    overlap,
    overlaps,
    random_numbers,
    unknown_tracks,
    without_times,
)
from recon4d.records import Cameras, Scene

PLAIN = ClipChoice(num_frames=5, strides=(1, 3), gaps_share=0, reversed_share=0, unordered_share=0)


def drawn(choice: ClipChoice, length: int, count: int = 400) -> list[tuple[tuple[int, ...], bool]]:
    frames = [choose_frames(choice, length, random_numbers(seed, "test")) for seed in range(count)]
    return [(one.numbers, one.unordered) for one in frames]


class TestFrames:
    @pytest.mark.parametrize("length", [5, 6, 8, 9, 12, 13, 100])
    def test_none_twice_and_all_of_the_sequence(self, length: int) -> None:
        choice = replace(PLAIN, gaps_share=0.5, reversed_share=0.3, unordered_share=0.3)
        clips = drawn(choice, length)
        assert all(len(set(numbers)) == 5 for numbers, _ in clips)
        seen = {number for numbers, _ in clips for number in numbers}
        assert seen == set(range(length))

    def test_steps_are_even_and_as_asked(self) -> None:
        steps = Counter()
        for numbers, _ in drawn(PLAIN, 100):
            (step,) = set(np.diff(numbers).tolist())
            steps[step] += 1
        assert set(steps) == {1, 2, 3}
        assert min(steps.values()) > 400 / 3 * 0.7

    def test_gaps_vary_from_step_to_step(self) -> None:
        clips = [np.diff(numbers) for numbers, _ in drawn(replace(PLAIN, gaps_share=1), 100)]
        assert all(steps.min() >= 1 and steps.max() <= 3 for steps in clips)
        assert np.mean([len(set(steps.tolist())) > 1 for steps in clips]) > 0.9

    def test_gaps_that_do_not_fit_are_shortened_wherever_they_are(self) -> None:
        clips = [np.diff(numbers) for numbers, _ in drawn(replace(PLAIN, gaps_share=1), 7)]
        assert all(steps.sum() <= 6 for steps in clips)
        assert all(mean > 1.15 for mean in np.mean(clips, axis=0))
        assert np.ptp(np.mean(clips, axis=0)) < 0.15

    def test_shares_approach_what_was_asked(self) -> None:
        choice = replace(PLAIN, gaps_share=0.5, reversed_share=0.25, unordered_share=0.25)
        clips = drawn(choice, 100, count=1000)
        ordered = [np.diff(numbers) for numbers, unordered in clips if not unordered]
        assert np.mean([unordered for _, unordered in clips]) == pytest.approx(0.25, abs=0.05)
        backward = [steps for steps in ordered if (steps < 0).all()]
        assert len(backward) / 1000 == pytest.approx(0.25, abs=0.05)
        assert all((steps > 0).all() for steps in ordered if (steps > 0).any())
        uneven = np.mean([len(set(steps.tolist())) > 1 for steps in ordered])
        assert uneven == pytest.approx(0.5, abs=0.08)

    def test_unordered_clips_are_shuffled(self) -> None:
        clips = drawn(replace(PLAIN, unordered_share=1), 100)
        assert all(unordered for _, unordered in clips)
        assert np.mean([(np.diff(numbers) > 0).all() for numbers, _ in clips]) < 0.05

    def test_a_sequence_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(ValueError, match="4 frames is too short for 5 frames at steps of at least 1; wanted 5"):
            choose_frames(PLAIN, 4, random_numbers(0, ""))
        slow = replace(PLAIN, strides=(2, 4))
        assert slow.shortest == 9
        with pytest.raises(ValueError, match="wanted 9"):
            choose_frames(slow, 8, random_numbers(0, ""))
        assert choose_frames(slow, 9, random_numbers(0, "")).numbers == (0, 2, 4, 6, 8)

    def test_single_frames(self) -> None:
        seen = {numbers for numbers, _ in drawn(replace(PLAIN, num_frames=1), 3)}
        assert seen == {(0,), (1,), (2,)}

    @pytest.mark.parametrize(
        "wrong",
        [{"num_frames": 0}, {"strides": (0, 2)}, {"strides": (3, 2)}, {"reversed_share": 0.8, "unordered_share": 0.3}],
    )
    def test_nonsense_is_refused(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match="wanted"):
            replace(PLAIN, **wrong)

    def test_streams_differ_by_seed_and_by_purpose(self) -> None:
        numbers = {random_numbers(seed, purpose).random() for seed in (0, 1, 2**63) for purpose in ("a", "b")}
        assert len(numbers) == 6
        assert random_numbers(1, "a").random() == random_numbers(1, "a").random()


def test_without_times_forgets_times_only() -> None:
    sample = Sample(make_clip(), make_scene())
    loose = without_times(sample)
    assert loose.clip.times.isnan().all()
    assert torch.equal(loose.clip.images, sample.clip.images)


def flat_wall(world_from_cam: torch.Tensor, depth: float = 5.0) -> Scene:
    """Cameras that all measure `depth` everywhere; at focal length 20, 4 units of x move the wall by 16 pixels."""
    scene = make_scene(frames=len(world_from_cam))
    intrinsics = torch.tensor([[20.0, 0.0, WIDTH / 2], [0.0, 20.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
    cameras = Cameras(world_from_cam, intrinsics.expand(len(world_from_cam), 3, 3))
    scene = replace(scene, cameras=cameras, depths=torch.full_like(scene.depths, depth))
    return replace(scene, points=scene.points_from_depth)


def moved(*centers: tuple[float, float, float]) -> torch.Tensor:
    return g.rigid(torch.eye(3).expand(len(centers), 3, 3), torch.tensor(centers))


class TestOverlap:
    def test_a_frame_sees_all_of_itself(self) -> None:
        scene = make_scene()
        assert overlaps(scene).diagonal().tolist() == [1.0, 1.0, 1.0]

    def test_cameras_back_to_back_see_nothing_of_each_other(self) -> None:
        turned = g.rotation_from_axis_angle(torch.tensor([[0.0, 0.0, 0.0], [0.0, torch.pi, 0.0]]))
        scene = flat_wall(g.rigid(turned, torch.zeros(2, 3)))
        assert overlap(scene, 0, 1) == overlap(scene, 1, 0) == 0.0

    def test_half_a_picture_aside_is_half(self) -> None:
        scene = flat_wall(moved((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.75, 0.0), (9.0, 0.0, 0.0)))
        assert overlap(scene, 0, 1) == overlap(scene, 1, 0) == 0.5
        assert overlap(scene, 0, 2) == 0.75
        assert overlap(scene, 0, 3) == 0.0

    def test_depth_decides_to_ten_percent(self) -> None:
        scene = flat_wall(moved((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
        for factor, expected in [(1.09, 1.0), (0.92, 1.0), (1.3, 0.0), (0.8, 0.0)]:
            depths = scene.depths * torch.tensor([1.0, factor])[:, None, None]
            assert overlap(replace(scene, depths=depths), 0, 1) == expected

    def test_unknown_points_do_not_count_and_unknown_depth_sees_nothing(self) -> None:
        scene = flat_wall(moved((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
        left = (torch.arange(WIDTH) < 4).float().expand(2, HEIGHT, WIDTH)
        narrow = replace(scene, point_confidence=left * torch.tensor([1.0, 0.0])[:, None, None])
        assert overlap(narrow, 0, 1) == 1.0
        assert overlap(narrow, 1, 0) == 0.0
        assert overlap(replace(scene, depth_confidence=left), 0, 1) == 0.25

    def test_chosen_frames_hang_together(self) -> None:
        # Two groups, 0 1 2 3 in a chain and 4 5: three frames can only come from the chain.
        shares = torch.eye(6)
        for i, j in [(0, 1), (1, 2), (2, 3), (4, 5)]:
            shares[i, j] = shares[j, i] = 0.6
        shares[3, 4] = 0.9  # in one direction only
        starts = set()
        for seed in range(60):
            chosen = choose_overlapping(shares, 3, 0.5, random_numbers(seed, "overlap"))
            starts.add(chosen[0])
            assert len(set(chosen)) == 3
            assert set(chosen) <= {0, 1, 2, 3}
            for place in (1, 2):
                assert max(shares[chosen[place], earlier] for earlier in chosen[:place]) >= 0.5
        assert starts == {0, 1, 2, 3}

    def test_too_few_that_hang_together_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"no 3 of 4 frames hang together by overlaps of 0\.5 .*at most 1"):
            choose_overlapping(torch.eye(4), 3, 0.5, random_numbers(0, ""))


def partly_known(anchors: tuple[int, ...] = (0, 2)) -> Sample:
    """Of each anchor's queries only 30 of the first 60 are known at the anchor's time, all at the others."""
    sample = Sample(make_clip(), make_scene(anchors=anchors))
    assert sample.scene.tracks is not None
    confidence = sample.scene.tracks.confidence.clone()
    for row, anchor in enumerate(anchors):
        confidence[row, anchor, 60:] = 0
        confidence[row, anchor, 0:60:2] = 0
    return replace(sample, scene=replace(sample.scene, tracks=replace(sample.scene.tracks, confidence=confidence)))


class TestTracks:
    def test_known_queries_come_first_and_keep_their_facts(self) -> None:
        sample = partly_known()
        before = sample.scene.tracks
        after = choose_tracks(sample, 40, random_numbers(0, "tracks")).scene.tracks
        assert before is not None
        assert after is not None
        assert after.points.shape == (2, 3, 40, 3)
        for row, anchor in enumerate((0, 2)):
            assert after.confidence[row, anchor].tolist() == [1.0] * 30 + [0.0] * 10
            columns, rows = (after.pixels[row] - 0.5).long().unbind(-1)
            source = rows * WIDTH + columns
            assert len(set(source.tolist())) == 40
            assert set(source[:30].tolist()) == set(range(1, 60, 2))
            assert torch.equal(after.points[row], before.points[row][:, source])
            assert torch.equal(after.confidence[row], before.confidence[row][:, source])

    def test_fewer_than_known_are_a_random_part(self) -> None:
        first, again, other = (choose_tracks(partly_known(), 10, random_numbers(s, "")).scene.tracks for s in (0, 0, 1))
        assert first is not None
        assert again is not None
        assert other is not None
        assert torch.equal(first.pixels, again.pixels)
        assert not torch.equal(first.pixels, other.pixels)
        assert not torch.equal(first.pixels[0], first.pixels[1])
        assert (first.confidence[0, 0] == 1).all()

    def test_missing_queries_are_padded_as_unknown(self) -> None:
        after = choose_tracks(partly_known(), 200, random_numbers(0, "")).scene.tracks
        assert after is not None
        assert after.pixels.shape == (2, 200, 2)
        assert not after.confidence[..., 192:].any()
        assert not after.visibility[..., 192:].any()
        assert after.visibility[..., :192].all()

    def test_samples_stack_afterwards(self) -> None:
        many = Sample(make_clip(), make_scene())
        few = replace(many, scene=replace(many.scene, tracks=unknown_tracks(3, (0,), 2)))
        random = random_numbers(0, "")
        batch = Sample.stack([choose_tracks(many, 5, random), choose_tracks(few, 5, random)])
        assert batch.scene.tracks is not None
        assert batch.scene.tracks.confidence.sum(dim=(1, 2, 3)).tolist() == [15.0, 0.0]

    def test_a_sliced_anchor_knows_nothing(self) -> None:
        sample = Sample(make_clip(), make_scene(anchors=(0, 1)))
        later = replace(sample, clip=sample.clip.frames([1, 2]), scene=sample.scene.frames([1, 2]))
        chosen = choose_tracks(later, 4, random_numbers(0, "")).scene.tracks
        assert chosen is not None
        assert chosen.anchors.tolist() == [-1, 0]

    def test_no_tracks_and_batches_are_refused(self) -> None:
        sample = Sample(make_clip(), make_scene())
        with pytest.raises(ValueError, match="no tracks"):
            choose_tracks(replace(sample, scene=replace(sample.scene, tracks=None)), 4, random_numbers(0, ""))
        with pytest.raises(ValueError, match="one sample at a time"):
            choose_tracks(Sample.stack([sample]), 4, random_numbers(0, ""))
