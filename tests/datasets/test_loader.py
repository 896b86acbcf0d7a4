"""Tests of mixtures, reproducible batches, skipped sequences and the cache of sequence lengths."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from scenes import make_scene

from recon4d.datasets.augmentation import Augmentation
from recon4d.datasets.loader import (
    PreprocessedSource,
    SeededDataset,
    make_loader,
    make_step_loader,
    sample_seed,
)
from recon4d.datasets.mixture import Mixture, Source
from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import ClipSampling
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError
from recon4d.records import Clip, ClipSource

SAMPLING = ClipSampling(
    num_frames=3, strides=(1, 2), irregular_probability=0.5, reversed_probability=0.25, shuffled_probability=0.25
)


class GrayWalls(SequenceDataset):
    """Sequences of a wall whose frames have one gray level each: 20 per sequence plus 1 per frame.

    A negative length marks an unreadable sequence. Frames from number 5 on of `unreadable` sequences cannot be read.
    """

    def __init__(self, lengths: dict[str, int], unreadable: tuple[str, ...] = (), tracked: bool = True) -> None:
        self.lengths = lengths
        self.unreadable = unreadable
        self.tracked = tracked
        self.requested: list[str] = []

    def names(self) -> list[str]:
        return sorted(self.lengths)

    def num_frames(self, name: str) -> int:
        self.requested.append(name)
        if self.lengths[name] < 0:
            raise DataError(name, "frames.txt", "is\nmissing")
        return self.lengths[name]

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        self.check_frames(name, frames, anchors)
        if name in self.unreadable and max(frames) >= 5:
            raise DataError(name, "depth_005.png", "is damaged")
        scene = make_scene(frames=len(frames), anchors=anchors)
        gray = 20 * (1 + self.names().index(name)) + torch.tensor(frames)
        images = gray[:, None, None, None].expand(-1, 3, *scene.size).to(torch.uint8)
        clip = Clip(images.clone(), torch.tensor(frames) / 10)
        return Sample(clip, scene if self.tracked else replace(scene, tracks=None))


class GraySource:
    """A source of samples with gray level 7, or one that always fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def sample(self, seed: int) -> Sample:
        if self.fails:
            raise DataError("world", "textures", "are missing")
        scene = make_scene(frames=3)
        images = torch.full((3, 3, *scene.size), 7, dtype=torch.uint8)
        ids = torch.zeros(3, *scene.size, dtype=torch.int64)
        return Sample(Clip(images, torch.arange(3) / 10, source=ClipSource("w", ("",) * 3, (0, 1, 2))), scene, ids)


def mixture(sequences: SequenceDataset, strict: bool = False) -> Mixture:
    return Mixture((Source("walls", sequences),), SAMPLING, strict=strict)


def grays(sample: Sample) -> list[int]:
    return sample.clip.images[:, 0, 0, 0].tolist()


GOOD = {"a": 12, "b": 8, "c": 20}


class TestMixture:
    def test_sources_are_drawn_by_weight(self) -> None:
        mixed = Mixture((Source("walls", GrayWalls(GOOD), 3.0), Source("gray", GraySource(), 1.0)), SAMPLING)
        from_gray = sum(grays(mixed.sample(seed)) == [7, 7, 7] for seed in range(100))
        assert from_gray / 100 == pytest.approx(0.25, abs=0.08)
        assert mixed.report() == "no sequence was skipped"

    def test_all_sequences_are_drawn_with_distinct_frames(self) -> None:
        clips = [grays(mixture(GrayWalls(GOOD)).sample(seed)) for seed in range(30)]
        assert {clip[0] // 20 for clip in clips} == {1, 2, 3}
        assert all(len(set(clip)) == 3 for clip in clips)

    def test_times_are_those_of_the_frames_or_removed(self) -> None:
        kinds = set()
        for seed in range(60):
            sample = mixture(GrayWalls({"a": 12})).sample(seed)
            frames = torch.tensor(grays(sample)) - 20
            steps = frames.diff()
            if sample.clip.times.isnan().all():
                kinds.add("shuffled")
            else:
                assert torch.allclose(sample.clip.times, frames / 10)
                assert (steps > 0).all() or (steps < 0).all()
                kinds.add("forward" if steps[0] > 0 else "reversed")
        assert kinds == {"shuffled", "forward", "reversed"}

    def test_unreadable_and_short_sequences_are_skipped_counted_and_reported(self) -> None:
        sequences = GrayWalls({"a": 12, "broken": -1, "short": 2})
        mixed = mixture(sequences)
        for seed in range(30):
            assert grays(mixed.sample(seed))[0] // 20 == 1
        lines = mixed.report().splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("walls/broken was skipped ")
        assert lines[0].endswith(" times: broken: frames.txt: is missing")
        assert lines[1].endswith(" times: short: frames: has 2, but a clip needs 3")
        assert 10 <= int(lines[0].split()[3]) <= 20 + 5
        # Lengths are requested once and remembered.
        assert sequences.requested.count("broken") == sequences.requested.count("short") == 1

    def test_the_sample_of_a_seed_does_not_depend_on_earlier_samples(self) -> None:
        def fresh() -> Mixture:
            return mixture(GrayWalls({"a": 12, "b": -1, "c": 9, "d": 9, "e": 1}, unreadable=("c",)))

        used = fresh()
        for seed in range(40):
            assert grays(used.sample(seed)) == grays(fresh().sample(seed))
        # A sequence with a damaged file still gives clips that do not contain it.
        assert any(grays(used.sample(seed))[0] // 20 == 3 for seed in range(40))
        assert "walls/c was skipped" in used.report()

    def test_skipped_sequences_do_not_change_the_frames_of_others(self) -> None:
        # The replacement of a skipped sequence has the frames that it would have had if it had been drawn first.
        both = mixture(GrayWalls({"a": 12, "b": -1}))
        alone = mixture(GrayWalls({"a": 12}))
        assert all(grays(both.sample(seed)) == grays(alone.sample(seed)) for seed in range(20))

    def test_strict_raises(self) -> None:
        for lengths in ({"broken": -1}, {"short": 2}):
            with pytest.raises(DataError):
                mixture(GrayWalls(lengths), strict=True).sample(0)
        with pytest.raises(DataError, match=r"depth_005\.png: is damaged"):
            mixture(GrayWalls({"c": 1000}, unreadable=("c",)), strict=True).sample(0)

    def test_a_source_without_readable_sequences_is_an_error(self) -> None:
        with pytest.raises(UserError, match="none of the 2 sequences of walls can be used; first reason: a: frames"):
            mixture(GrayWalls({"a": -1, "b": -1})).sample(0)
        with pytest.raises(UserError, match="broken failed 16 times in a row; first reason: world: textures"):
            Mixture((Source("broken", GraySource(fails=True)),), SAMPLING).sample(0)

    def test_unusable_sources_are_refused(self) -> None:
        with pytest.raises(UserError, match="no sequences in data set walls"):
            mixture(GrayWalls({}))
        with pytest.raises(UserError, match="each above 0"):
            Mixture((Source("walls", GrayWalls(GOOD), 0.0),), SAMPLING)
        with pytest.raises(UserError, match="wanted at least one"):
            Mixture((), SAMPLING)


def preprocessed() -> PreprocessedSource:
    """Create a source as in training, from data sets of which only some have tracks, object ids and a clip source."""
    parts = (
        Source("walls", GrayWalls({**GOOD, "broken": -1})),
        Source("bare", GrayWalls({"z": 9}, tracked=False)),
        Source("gray", GraySource()),
    )
    augmentation = Augmentation(blur_probability=0.5, noise_probability=0.5, jpeg_probability=0.5)
    return PreprocessedSource(Mixture(parts, SAMPLING), size=(9, 14), num_tracks=20, augmentation=augmentation)


def batches(count: int, first_step: int = 0, batch_size: int = 4, workers: int = 0, **rest: int) -> list[Sample]:
    ranks = {"rank": 0, "world_size": 1, "seed": 3} | rest
    loader = make_loader(preprocessed(), first_step=first_step, batch_size=batch_size, num_workers=workers, **ranks)
    return list(islice(loader, count))


def tensors(batch: Sample) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(one: Sample, other: Sample) -> bool:
    # Compare bytes, so that NaN equals NaN.
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
        for a, b in zip(tensors(one), tensors(other), strict=True)
    )


class TestLoader:
    def test_batches_are_stacked_samples(self) -> None:
        (batch,) = batches(1)
        assert batch.batch_shape == (4,)
        assert batch.clip.images.shape == (4, 3, 3, 9, 14)
        assert batch.scene.tracks.pixels.shape == (4, 1, 20, 2)

    def test_workers_give_the_same_batches(self) -> None:
        for one, other in zip(batches(3), batches(3, workers=2), strict=True):
            assert same(one, other)

    def test_the_global_batch_is_split_over_the_ranks(self) -> None:
        halves = [batches(2, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
        for step, batch in enumerate(batches(2, batch_size=4)):
            assert same(batch[:2], halves[0][step])
            assert same(batch[2:], halves[1][step])
            assert not same(batch[:2], batch[2:])

    def test_a_resumed_run_continues_identically(self) -> None:
        from_start = batches(7, batch_size=2)
        for workers in (0, 2):
            resumed = batches(2, first_step=5, batch_size=2, workers=workers)
            assert same(resumed[0], from_start[5])
            assert same(resumed[1], from_start[6])
        assert not same(from_start[4], from_start[5])
        assert not same(batches(1, batch_size=2, seed=4)[0], from_start[0])

    def test_skips_in_workers_are_reported_to_the_parent(self) -> None:
        def report(workers: int) -> str:
            mixed = mixture(GrayWalls({**GOOD, "broken": -1}))
            loader = iter(make_loader(mixed, 0, 0, 4, 0, 1, workers))
            for _ in range(5):
                next(loader)
            return mixed.report()

        assert report(0).startswith("walls/broken was skipped ")
        assert report(2).endswith("broken: frames.txt: is missing")

    def test_samples_are_computed_in_one_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before, inside = torch.get_num_threads(), []
        source = GraySource()
        make = source.sample
        monkeypatch.setattr(source, "sample", lambda seed: inside.append(torch.get_num_threads()) or make(seed))
        try:
            torch.set_num_threads(2)
            next(iter(make_loader(source, 0, 0, 2, 0, 1, 0)))
            assert inside == [1, 1]
            next(iter(make_step_loader(SeededDataset(source, 0), [[(0, 0)]], 0)))
            assert inside == [1, 1, 1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_user_errors_keep_their_message_in_workers(self, workers: int) -> None:
        strict = make_loader(mixture(GrayWalls({"a": 2}), strict=True), 0, 0, 2, 0, 1, workers)
        with pytest.raises(UserError, match=r"^a: frames: has 2, but a clip needs 3$"):
            next(iter(strict))

    def test_defects_in_workers_keep_their_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = GraySource()
        monkeypatch.setattr(source, "sample", lambda seed: [][seed])
        with pytest.raises(IndexError, match="Traceback"):
            next(iter(make_loader(source, 0, 0, 2, 0, 1, 1)))

    def test_numbers_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match="rank = 2, world_size = 2"):
            batches(1, rank=2, world_size=2)
        with pytest.raises(ValueError, match="first_step = -1"):
            batches(1, first_step=-1)


class TestSeeds:
    def test_seeds_never_change(self) -> None:
        assert sample_seed(0, 0, 0) == 1445694884619442965
        assert sample_seed(1, 2, 3) == 6520558355739401531

    def test_neighbors_differ(self) -> None:
        seeds = {sample_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
        assert len(seeds) == 1000
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62

    def test_negative_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="wanted none below 0"):
            sample_seed(0, -1, 0)


AFTER_A_VIDEO = """
import gc, sys
import av, numpy as np
from recon4d.datasets import make_loader
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes

class Collecting(SyntheticScenes):
    def sample(self, seed):
        gc.collect()
        return super().sample(seed)

gc.disable()
frame = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
cycle = [frame, frame.reformat(format="yuv420p", threads=4)]
cycle.append(cycle)
del frame, cycle
source = Collecting(SyntheticConfig(num_frames=1, height=16, width=16))
loader = make_loader(source, seed=0, first_step=0, batch_size=1, rank=0, world_size=1, num_workers=1)
print(next(iter(loader)).clip.images.shape)
"""


@pytest.mark.end_to_end
def test_workers_do_not_wait_for_threads_of_a_video_decoder_of_the_parent() -> None:
    command = [sys.executable, "-c", AFTER_A_VIDEO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "[1, 1, 3, 16, 16]" in done.stdout
