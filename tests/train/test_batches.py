"""Batches from disk: lazy lists of steps, skipped sequences, and validation on clips that are not trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_run import config

from recon4d.cli.main import main
from recon4d.datasets import sample_seed
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, TrainConfig
from recon4d.train.loop import train
from recon4d.train.validation import validation_batches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences in the layout of PointOdyssey."""
    folder = tmp_path_factory.mktemp("data") / "po"
    options = ["--clips", "3", "--num-frames", "4", "--size", "48", "64", "--tracks", "16"]
    assert main(["render", "--format", "point-odyssey", *options, "--out", str(folder)]) == 0
    return folder


def disk_config(folder: Path, steps: int = 4, **data: object) -> TrainConfig:
    options = {"sets": (f"point-odyssey={folder}",), "worlds_weight": 0, "shapes": ("2x32x48",), "batch_size": 1}
    return replace(config(steps=steps), data=DataConfig(**(options | data)))  # type: ignore[arg-type]


def test_steps_are_not_listed_in_advance(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def is_synthetic(self: Batches, step: int) -> bool:
        drawn.append(step)
        return original(self, step)

    original = Batches.is_synthetic
    monkeypatch.setattr(Batches, "is_synthetic", is_synthetic)
    steps = Batches(disk_config(rendered, steps=10_000), RankInfo()).from_step(0)
    assert [next(steps)[0] for _ in range(3)] == [0, 1, 2]
    assert max(drawn) < 10


def test_disk_only_training_is_validated_on_its_data_sets(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_scenes(*_: object, **__: object) -> None:
        raise AssertionError("synthetic scenes are generated")

    monkeypatch.setattr("recon4d.train.validation.make_scenes", no_scenes)
    training = disk_config(rendered)
    batches = Batches(training, RankInfo())
    one, again = (validation_batches(training.data, 3, CPU, batches.sources) for _ in range(2))
    assert len(one) == 3
    for first, second in zip(one, again, strict=True):
        assert torch.equal(first.sample.clip.images, second.sample.clip.images)
        assert first.sample.clip.images.shape == (1, 2, 3, 32, 48)
        assert first.anchors.tolist() == [[0]]
        assert first.sample.scene.tracks is not None
        assert first.sample.scene.tracks.anchors.tolist() == [[0]]
        assert first.sample.clip.priors is not None
        assert first.sample.clip.priors.intrinsics is not None
        assert first.sample.clip.priors.intrinsics.isnan().all()
    assert not torch.equal(one[0].sample.clip.images, one[1].sample.clip.images)


def test_validation_seeds_are_never_used_in_training(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, int, int]] = []

    def record(seed: int, step: int, position: int) -> int:
        seeds.append((seed, step, position))
        return sample_seed(seed, step, position)

    monkeypatch.setattr("recon4d.train.validation.sample_seed", record)
    training = disk_config(rendered)
    validation_batches(training.data, 3, CPU, Batches(training, RankInfo()).sources)
    assert len(set(seeds)) == 3
    assert min(step for _, step, _ in seeds) > 10**18


def test_mixed_training_is_validated_on_synthetic_scenes(rendered: Path) -> None:
    mixed = disk_config(rendered, worlds_weight=1)
    plain = replace(mixed, data=replace(mixed.data, sets=()))
    one, other = (validation_batches(training.data, 1, CPU)[0] for training in (mixed, plain))
    assert torch.equal(one.sample.clip.images, other.sample.clip.images)


def test_training_names_skipped_sequences_and_what_it_is_validated_on(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rendered, tmp_path / "po")
    damaged = sorted(path.parent for path in (tmp_path / "po").rglob("anno.npz"))[0]
    (damaged / "anno.npz").write_bytes(b"damaged")
    training = replace(disk_config(tmp_path / "po", steps=8), log_every=4, validate_every=9)
    train(training, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    skipped = [line["skipped_sequences"] for line in lines if "skipped_sequences" in line]
    (name,) = (name for one in skipped for name in one)
    assert name == f"point-odyssey/{damaged.name}"
    printed = capsys.readouterr().err
    assert "validation on 1 clips of point-odyssey, drawn with seeds that are never used in training" in printed
    assert f"{name} is skipped: " in printed
    assert f"{name} was skipped" in printed
