"""What is drawn depends on seed, step and place only; broken sequences are skipped and told; lengths are cached."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from scenes import make_scene

from recon4d.datasets.augmentation import Augmentation
from recon4d.datasets.loader import (
    Prepared,
    SequenceIndex,
    make_loader,
    sample_seed,
)
from recon4d.datasets.mixture import Mixture, Source
from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import ClipChoice
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError
from recon4d.records import Clip, ClipSource

CHOICE = ClipChoice(num_frames=3, strides=(1, 2), gaps_share=0.5, reversed_share=0.25, unordered_share=0.25)


class Numbered(SequenceDataset):
    """Walls seen by moving cameras; every frame is one gray, 20 for each sequence and 1 for each frame."""

    def __init__(self, lengths: dict[str, int], unreadable: tuple[str, ...] = (), tracked: bool = True) -> None:
        self.lengths = lengths
        self.unreadable = unreadable
        self.tracked = tracked
        self.asked: list[str] = []

    def names(self) -> list[str]:
        return sorted(self.lengths)

    def num_frames(self, name: str) -> int:
        self.asked.append(name)
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


class Endless:
    """A source that makes its own samples, all of one gray."""

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
    return Mixture((Source("walls", sequences),), CHOICE, strict=strict)


def grays(sample: Sample) -> list[int]:
    return sample.clip.images[:, 0, 0, 0].tolist()


GOOD = {"a": 12, "b": 8, "c": 20}


class TestMixture:
    def test_weights_decide_between_sets(self) -> None:
        mixed = Mixture((Source("walls", Numbered(GOOD), 3.0), Source("endless", Endless(), 1.0)), CHOICE)
        from_endless = sum(grays(mixed.sample(seed)) == [7, 7, 7] for seed in range(200))
        assert from_endless / 200 == pytest.approx(0.25, abs=0.08)
        assert mixed.report() == "no sequence was skipped"

    def test_every_sequence_has_its_turn_and_frames_are_those_chosen(self) -> None:
        clips = [grays(mixture(Numbered(GOOD)).sample(seed)) for seed in range(100)]
        assert {clip[0] // 20 for clip in clips} == {1, 2, 3}
        assert all(len(set(clip)) == 3 for clip in clips)

    def test_times_are_those_of_the_frames_or_forgotten(self) -> None:
        kinds = set()
        for seed in range(60):
            sample = mixture(Numbered({"a": 12})).sample(seed)
            frames = torch.tensor(grays(sample)) - 20
            steps = frames.diff()
            if sample.clip.times.isnan().all():
                kinds.add("unordered")
            else:
                assert torch.allclose(sample.clip.times, frames / 10)
                assert (steps > 0).all() or (steps < 0).all()
                kinds.add("forward" if steps[0] > 0 else "reversed")
        assert kinds == {"unordered", "forward", "reversed"}

    def test_broken_and_short_sequences_are_skipped_counted_and_reported(self) -> None:
        sequences = Numbered({"a": 12, "broken": -1, "short": 2})
        mixed = mixture(sequences)
        for seed in range(30):
            assert grays(mixed.sample(seed))[0] // 20 == 1
        lines = mixed.report().splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("walls/broken was skipped ")
        assert lines[0].endswith(" times: broken: frames.txt: is missing")
        assert lines[1].endswith(" times: short: frames: has 2, a clip needs 3")
        assert 10 <= int(lines[0].split()[3]) <= 20 + 5
        # Their lengths were asked for once, then remembered.
        assert sequences.asked.count("broken") == sequences.asked.count("short") == 1

    def test_what_a_seed_gives_does_not_depend_on_what_was_drawn_before(self) -> None:
        def fresh() -> Mixture:
            return mixture(Numbered({"a": 12, "b": -1, "c": 9, "d": 9, "e": 1}, unreadable=("c",)))

        used = fresh()
        for seed in range(40):
            assert grays(used.sample(seed)) == grays(fresh().sample(seed))
        # Clips of the sequence with one damaged file are still drawn where they do not need it.
        assert any(grays(used.sample(seed))[0] // 20 == 3 for seed in range(40))
        assert "walls/c was skipped" in used.report()

    def test_good_sequences_are_not_moved_by_broken_ones(self) -> None:
        # The sequence that stands in for a broken one is cut as it would have been had it been drawn at once.
        both = mixture(Numbered({"a": 12, "b": -1}))
        alone = mixture(Numbered({"a": 12}))
        assert all(grays(both.sample(seed)) == grays(alone.sample(seed)) for seed in range(20))

    def test_strict_raises(self) -> None:
        for lengths in ({"broken": -1}, {"short": 2}):
            with pytest.raises(DataError):
                mixture(Numbered(lengths), strict=True).sample(0)
        with pytest.raises(DataError, match=r"depth_005\.png: is damaged"):
            mixture(Numbered({"c": 1000}, unreadable=("c",)), strict=True).sample(0)

    def test_a_set_of_broken_sequences_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="all 2 sequences of walls had to be skipped, the first because of a: fr"):
            mixture(Numbered({"a": -1, "b": -1})).sample(0)
        with pytest.raises(ValueError, match="broken failed 16 times in a row, first because of world: textures"):
            Mixture((Source("broken", Endless(fails=True)),), CHOICE).sample(0)

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has no sequences"):
            mixture(Numbered({}))
        with pytest.raises(ValueError, match="each above 0"):
            Mixture((Source("walls", Numbered(GOOD), 0.0),), CHOICE)
        with pytest.raises(ValueError, match="wanted at least one"):
            Mixture((), CHOICE)


def prepared() -> Prepared:
    """Everything that training does, from sets of which only some have tracks, ids of objects and a source."""
    parts = (
        Source("walls", Numbered({**GOOD, "broken": -1})),
        Source("bare", Numbered({"z": 9}, tracked=False)),
        Source("endless", Endless()),
    )
    augmentation = Augmentation(blur_share=0.5, grain_share=0.5, jpeg_share=0.5)
    return Prepared(Mixture(parts, CHOICE), size=(9, 14), num_tracks=20, augmentation=augmentation)


def batches(count: int, first_step: int = 0, batch_size: int = 4, workers: int = 0, **rest: int) -> list[Sample]:
    ranks = {"rank": 0, "world_size": 1, "seed": 3} | rest
    loader = make_loader(prepared(), first_step=first_step, batch_size=batch_size, workers=workers, **ranks)
    return list(islice(loader, count))


def tensors(batch: Sample) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(one: Sample, other: Sample) -> bool:
    # Bit for bit, NaN equal to NaN.
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
        assert batch.scene.tracks is not None
        assert batch.scene.tracks.pixels.shape == (4, 1, 20, 2)

    @pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
    @pytest.mark.parametrize("workers", [1, 4])
    def test_any_number_of_workers_gives_the_same_batches(self, workers: int) -> None:
        for one, other in zip(batches(6), batches(6, workers=workers), strict=True):
            assert same(one, other)

    def test_ranks_share_out_the_global_batch(self) -> None:
        whole = batches(3, batch_size=8)
        halves = [batches(3, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
        for step, batch in enumerate(whole):
            assert same(batch[:4], halves[0][step])
            assert same(batch[4:], halves[1][step])
            assert not same(batch[:4], batch[4:])

    def test_a_run_taken_up_at_step_37_goes_on_as_it_would_have(self) -> None:
        from_start = batches(39, batch_size=2)
        for workers in (0, 2):
            resumed = batches(2, first_step=37, batch_size=2, workers=workers)
            assert same(resumed[0], from_start[37])
            assert same(resumed[1], from_start[38])
        assert not same(from_start[36], from_start[37])

    def test_another_seed_gives_other_batches(self) -> None:
        assert not same(batches(1)[0], batches(1, seed=4)[0])

    def test_skips_in_workers_are_reported_to_the_parent(self) -> None:
        def report(workers: int) -> str:
            mixed = mixture(Numbered({**GOOD, "broken": -1}))
            loader = iter(make_loader(mixed, 0, 0, 4, 0, 1, workers))
            for _ in range(5):
                next(loader)
            return mixed.report()

        assert report(0).startswith("walls/broken was skipped ")
        assert report(2).endswith("broken: frames.txt: is missing")

    def test_samples_are_made_by_one_thread_and_the_others_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before, inside = torch.get_num_threads(), []
        source = Endless()
        make = source.sample
        monkeypatch.setattr(source, "sample", lambda seed: inside.append(torch.get_num_threads()) or make(seed))
        try:
            torch.set_num_threads(2)
            next(iter(make_loader(source, 0, 0, 2, 0, 1, 0)))
            assert inside == [1, 1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="rank = 2 of 2"):
            batches(1, rank=2, world_size=2)
        with pytest.raises(ValueError, match="first_step = -1"):
            batches(1, first_step=-1)


class TestSeeds:
    def test_written_down_once_and_for_all(self) -> None:
        assert sample_seed(0, 0, 0) == 1445694884619442965
        assert sample_seed(1, 2, 3) == 6520558355739401531

    def test_neighbors_differ(self) -> None:
        seeds = {sample_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
        assert len(seeds) == 1000
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62

    def test_below_zero_is_refused(self) -> None:
        with pytest.raises(ValueError, match="wanted none below 0"):
            sample_seed(0, -1, 0)


class TestIndex:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("a", "b"):
            (tmp_path / "data" / name).mkdir(parents=True)
            (tmp_path / "data" / name / "frames.txt").write_text("12")
        return tmp_path / "data"

    def test_lengths_are_asked_for_once(self, folder: Path, tmp_path: Path) -> None:
        first, second = Numbered({"a": 12, "b": -1}), Numbered({"a": 12, "b": -1})
        index = SequenceIndex(first, folder, tmp_path / "index.json")
        again = SequenceIndex(second, folder, tmp_path / "index.json")
        assert first.asked == ["a", "b"]
        assert second.asked == []
        for one in (index, again):
            assert one.names() == ["a", "b"]
            assert one.num_frames("a") == 12
            with pytest.raises(DataError, match=r"^b: index: frames.txt: is\nmissing$"):
                one.num_frames("b")
        assert grays(again.read("a", [1, 2])) == [21, 22]

    @pytest.mark.parametrize("change", ["size", "mtime", "new", "gone"])
    def test_it_is_built_anew_when_the_folder_changes(self, folder: Path, tmp_path: Path, change: str) -> None:
        SequenceIndex(Numbered(GOOD), folder, tmp_path / "index.json")
        file = folder / "a" / "frames.txt"
        if change == "size":
            times = file.stat().st_atime_ns, file.stat().st_mtime_ns
            file.write_text("123")
            os.utime(file, ns=times)
        elif change == "mtime":
            os.utime(file, ns=(0, 0))
        elif change == "new":
            (folder / "a" / "more.txt").write_text("")
        else:
            file.unlink()
        changed = Numbered({**GOOD, "a": 99})
        assert SequenceIndex(changed, folder, tmp_path / "index.json").num_frames("a") == 99
        assert changed.asked == ["a", "b", "c"]

    def test_it_is_built_anew_for_other_names_and_from_a_damaged_file(self, folder: Path, tmp_path: Path) -> None:
        SequenceIndex(Numbered(GOOD), folder, tmp_path / "index.json")
        assert SequenceIndex(Numbered({"q": 4}), folder, tmp_path / "index.json").num_frames("q") == 4
        for damage in ("{", "[]", json.dumps({"key": "other"})):
            (tmp_path / "index.json").write_text(damage)
            assert SequenceIndex(Numbered({"q": 5}), folder, tmp_path / "index.json").num_frames("q") == 5

    def test_it_may_lie_in_the_folder_itself(self, folder: Path) -> None:
        SequenceIndex(Numbered(GOOD), folder, folder / "index.json")
        second = Numbered(GOOD)
        SequenceIndex(second, folder, folder / "index.json")
        assert second.asked == []
        assert [file.name for file in folder.glob("*.json*")] == ["index.json"]

    def test_unknown_names_are_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="there is no sequence 'q'"):
            SequenceIndex(Numbered(GOOD), folder, tmp_path / "index.json").num_frames("q")

    def test_long_lists_show_their_progress(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        SequenceIndex(Numbered(GOOD), folder, tmp_path / "short.json")
        assert "indexing" not in capsys.readouterr().err
        SequenceIndex(Numbered({f"{i:04}": 5 for i in range(1000)}), folder, tmp_path / "long.json")
        assert "indexing" in capsys.readouterr().err


AFTER_A_VIDEO = """
import gc, sys
import av, numpy as np
from recon4d.datasets import make_loader
from recon4d.datasets.worlds import WorldConfig, Worlds

class Collecting(Worlds):
    def sample(self, seed):
        gc.collect()
        return super().sample(seed)

gc.disable()
frame = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
cycle = [frame, frame.reformat(format="yuv420p", threads=4)]
cycle.append(cycle)
del frame, cycle
source = Collecting(WorldConfig(num_frames=1, height=16, width=16))
loader = make_loader(source, seed=0, first_step=0, batch_size=1, rank=0, world_size=1, workers=1)
print(next(iter(loader)).clip.images.shape)
"""


def test_workers_do_not_wait_for_the_threads_of_a_video_that_the_parent_read() -> None:
    command = [sys.executable, "-c", AFTER_A_VIDEO]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "[1, 1, 3, 16, 16]" in done.stdout
