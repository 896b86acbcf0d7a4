"""Options of training: optional loss terms, static data sets, anchors and trackers."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_run import config
from turned_cameras import matrix, picture

from recon4d.cli.main import main
from recon4d.datasets import (
    ClipSampling,
    Mixture,
    Sample,
    SevenScenes,
    Source,
)
from recon4d.datasets.sampling import random_stream, sample_anchor
from recon4d.errors import UserError
from recon4d.losses import normalized, true_matches
from recon4d.train import consistency_terms, published_terms
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, LossWeights, TrainConfig
from recon4d.train.loop import make_trainable_model, train
from recon4d.train.objective import (
    DEFAULT_TERMS,
    OPTIONAL_TERMS,
    Batch,
    TrainModule,
    objective,
    term_names,
)
from recon4d.train.optimizers import make_optimizers
from recon4d.train.trackers import open_tracker

ZERO_WEIGHTS = LossWeights(**dict.fromkeys(DEFAULT_TERMS, 0.0))
SYNTHETIC = DataConfig(shapes=("3x64x96",), batch_size=1, known_share=0, other_anchor_share=1, track_stride=4)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """A synthetic clip with full motion, whose anchor is not the first frame."""
    found = Batches(TrainConfig(model="recon4d_tiny", data=SYNTHETIC), RankInfo()).synthetic_batch(5001, 0)
    assert found.anchors.item() > 0
    return found


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_fraction_of_unordered_synthetic_clips(share: float) -> None:
    """Unordered photos have no times."""
    data = replace(SYNTHETIC, batch_size=2, loose_share=share)
    clip = Batches(TrainConfig(model="recon4d_tiny", data=data), RankInfo()).synthetic_batch(5001, 0).sample.clip
    assert clip.times.isnan().all() if share else clip.times.isfinite().all()


def test_every_pixel_is_a_track_query_in_some_step() -> None:
    """A pixel shuffle has separate weights for each position in a patch; without queries they would stay random."""
    data = replace(SYNTHETIC, shapes=("1x32x32",), track_stride=DataConfig().track_stride)
    batches = Batches(TrainConfig(model="recon4d_tiny", data=data), RankInfo())
    is_query = torch.zeros(32, 32, dtype=torch.bool)
    for step in range(40):
        tracks = batches.synthetic_batch(step, 0).sample.scene.tracks
        assert tracks is not None
        column, row = tracks.pixels[0, 0].long().unbind(-1)
        places = torch.zeros(16, 16, dtype=torch.bool)
        places[row % 16, column % 16] = True
        assert places.float().mean() > 0.3
        is_query[row, column] = True
        if is_query.all():
            return
    pytest.fail("some pixels are never a query")


# Optional terms


@pytest.mark.parametrize("name", OPTIONAL_TERMS)
def test_every_optional_term_can_be_minimized_alone(name: str, batch: Batch) -> None:
    """Its gradient is finite and not zero, and optimizer steps lower the term."""
    weights = replace(ZERO_WEIGHTS, **{name: 1.0})
    training = TrainConfig(model="recon4d_tiny", losses=weights)
    model = make_trainable_model(training)
    train_module, optimizers = TrainModule(model, weights), make_optimizers(model, training.optimiser)
    history = []
    for _ in range(5):
        totals, counts = train_module(batch)
        assert counts[-1] > 50
        loss, means = objective(totals, counts, weights)
        assert loss.item() == pytest.approx(means[-1].item())
        history.append(loss.item())
        optimizers.zero_grad()
        loss.backward()
        length = optimizers.step(0.5)
        assert torch.isfinite(length)
        assert length > 1e-3
    # The compared pixels change with the prediction, so the last step need not be the best one.
    assert min(history) < 0.99 * history[0]


def test_optional_terms_work_in_half_precision(batch: Batch) -> None:
    weights = LossWeights(**dict.fromkeys(OPTIONAL_TERMS, 1.0))
    train_module = TrainModule(make_trainable_model(config()), weights)
    with torch.no_grad():
        whole = objective(*train_module(batch), weights)[1]
        with torch.autocast("cpu", torch.bfloat16):
            totals, counts = train_module(batch)
    assert totals.dtype == counts.dtype == torch.float32
    torch.testing.assert_close(objective(totals, counts, weights)[1], whole, rtol=0.15, atol=0.02)


def test_terms_of_weight_0_are_not_computed(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default objective consists of the default terms only."""

    def never(*_: object) -> None:
        raise AssertionError("computed")

    for name in published_terms.PUBLISHED_TERMS:
        monkeypatch.setitem(published_terms.PUBLISHED_TERMS, name, never)
    for view in ("_neighbor_views", "_tracked_views", "_frozen_features"):
        monkeypatch.setattr(consistency_terms, view, never)
    totals, counts = TrainModule(make_trainable_model(config()))(batch)
    assert len(totals) == len(counts) == len(DEFAULT_TERMS) == 15
    assert term_names(LossWeights()) == DEFAULT_TERMS
    assert term_names(LossWeights(depth=0.0, semantic=0.1)) == (*DEFAULT_TERMS, "semantic")


def test_an_optional_term_does_not_change_the_others(batch: Batch) -> None:
    model = make_trainable_model(config())
    plain, more = TrainModule(model)(batch), TrainModule(model, LossWeights(affine_points=0.3))(batch)
    for one, other in zip(plain, more, strict=True):
        assert torch.equal(one, other[: len(DEFAULT_TERMS)])
    by_hand = objective(*plain, LossWeights())[0] + 0.3 * more[0][-1] / more[1][-1]
    assert objective(*more, LossWeights(affine_points=0.3))[0].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_optional_terms_are_minimal_for_the_ground_truth(batch: Batch) -> None:
    """Published terms are at their minimum, and the photometric term is below that of a random prediction."""
    truth = normalized(batch.sample.scene)
    model = make_trainable_model(config())
    clip = batch.sample.clip
    outputs = model.outputs(clip.images, clip.times, batch.anchors, clip.priors)
    predicted = outputs.scene
    confident = replace(
        truth,
        depth_confidence=torch.ones_like(truth.depths),
        point_confidence=torch.ones_like(truth.depths),
        tracks=None,
    )
    right = replace(outputs, scene=confident)
    for name, term in published_terms.PUBLISHED_TERMS.items():
        if name != "tracked_points":
            value, count = term(right, truth, 0).total.item(), term(right, truth, 0).count.item()
            floor = 0.5 * np.radians(1) ** 2 / np.radians(3) if name == "normal_angles" else 0.0
            assert value / count == pytest.approx(floor, abs=1e-4), name
    wanted = consistency_terms.CONSISTENCY_TERMS
    positive = replace(confident, depths=truth.depths.clamp(min=1e-3))
    with torch.no_grad():
        true, wrong = (
            consistency_terms.consistency_terms(model, clip.images, scene, wanted)["photometric"]
            for scene in (positive, replace(predicted, tracks=None))
        )
    assert true.total / true.count < 0.5 * wrong.total / wrong.count


def test_local_regions_are_drawn_by_the_seed_of_the_batch(batch: Batch) -> None:
    train_module = TrainModule(make_trainable_model(config()), LossWeights(local_points=1.0))
    first, again, other = (train_module(replace(batch, seed=seed))[0][-1].item() for seed in (1, 1, 2))
    assert first == again != other
    batches = Batches(replace(config(), data=SYNTHETIC), RankInfo())
    assert (
        batches.synthetic_batch(3, 0).seed == batches.synthetic_batch(3, 0).seed != batches.synthetic_batch(4, 0).seed
    )


# Data sets on disk


def test_tracks_of_clips_from_disk_start_at_any_frame(tmp_path: Path) -> None:
    """Half of the clips have a random anchor, and a sample is a function of its seed."""
    command = ["render", "--format", "point-odyssey", "--clips", "1", "--num-frames", "6", "--size", "48", "64"]
    assert main([*command, "--tracks", "16", "--out", str(tmp_path / "po")]) == 0
    data = DataConfig(sets=(f"point-odyssey={tmp_path / 'po'}",), worlds_weight=0, shapes=("3x32x48",), batch_size=8)
    batches = Batches(replace(config(steps=2), data=data), RankInfo())
    parts = [part for _, of_step in batches.from_step(0) for part in of_step]
    anchors = torch.cat([part.anchors[:, 0] for part in parts])
    assert len(set(anchors.tolist())) > 1
    for part in parts:
        tracks = part.sample.scene.tracks
        assert tracks is not None
        assert torch.equal(tracks.anchors, part.anchors)
        for clip, anchor in enumerate(part.anchors[:, 0].tolist()):
            valid = tracks.confidence[clip, 0, anchor] > 0
            assert valid.any()
            assert (tracks.visibility[clip, 0, anchor][valid] == 1).all()
    (_, again), *_ = Batches(replace(config(steps=2), data=data), RankInfo()).from_step(1)
    assert torch.equal(again[0].anchors, parts[1].anchors)


def test_the_fraction_of_random_anchors() -> None:
    def anchors(share: float) -> np.ndarray:
        choice = ClipSampling(num_frames=5, random_anchor_probability=share)
        return np.array([sample_anchor(choice, random_stream(seed, "anchor")) for seed in range(1000)])

    assert (anchors(0.0) == 0).all()
    counts = np.bincount(anchors(0.5), minlength=5) / 1000
    assert counts == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.04)
    with pytest.raises(ValueError, match="random_anchor_probability"):
        ClipSampling(random_anchor_probability=1.5)


def two_views_of_a_wall(folder: Path) -> SevenScenes:
    """Write a wall at a depth of 2 m, and a camera that moves 0.2 m to the right: by 6 of 64 pixels."""
    for number in range(2):
        stem = folder / "chess" / "seq-01" / f"frame-{number:06d}"
        picture(stem.with_name(f"{stem.name}.color.png"), 10 * number, (48, 64))
        Image.fromarray(np.full((48, 64), 2000, np.uint16)).save(stem.with_name(f"{stem.name}.depth.png"))
        pose = matrix(np.eye(3), [0.2 * number, 0, 0])
        stem.with_name(f"{stem.name}.pose.txt").write_text("\n".join(" ".join(map(str, row)) for row in pose))
    return SevenScenes(folder, intrinsics=(60.0, 60.0, 32.0, 24.0))


@pytest.mark.parametrize("is_static", [True, False])
def test_static_data_sets_give_matches_and_others_do_not(tmp_path: Path, is_static: bool) -> None:
    choice = ClipSampling(num_frames=2, strides=(1, 1), reversed_probability=0, shuffled_probability=0)
    sample = Mixture((Source("rooms", two_views_of_a_wall(tmp_path), static=is_static),), choice).sample(0)
    truth = Sample.stack([sample]).scene
    matches = true_matches(truth, torch.tensor([[0]]), torch.tensor([[1]]), cell_size=4)
    if not is_static:
        assert truth.dynamic.isnan().all()
        assert not (matches.has_match | matches.is_unmatched).any()
        return
    assert (truth.dynamic == 0).all()
    x = torch.arange(16) * 4.0 + 2
    in_both = (x + 0.5 > 6).expand(12, -1).flatten()  # a cell is represented by its central pixel
    assert torch.equal(matches.has_match[0, 0], in_both)
    assert torch.equal(matches.is_unmatched[0, 0], ~in_both)
    torch.testing.assert_close(matches.positions[0, 0, in_both, 0], (x - 6).expand(12, -1).flatten()[in_both])


def test_seven_scenes_is_static_by_default_and_tum_is_not() -> None:
    assert DataConfig().still == ("7-scenes",)


# Trackers


class Writer:
    """Replaces `torch.utils.tensorboard.SummaryWriter`."""

    made: list["Writer"] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.numbers: list[tuple[str, float, int]] = []
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, global_step: int) -> None:
        self.numbers.append((name, value, global_step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer


def test_trackers_receive_the_numbers_of_the_log(tmp_path: Path, tensorboard: type[Writer]) -> None:
    training = replace(config(steps=4), log_every=2, validate_every=4, trackers=("tensorboard",))
    train(training, tmp_path)
    (writer,) = tensorboard.made
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.purge_step is None
    assert writer.closed
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    wanted = [(name, value, line["step"]) for line in logged for name, value in line.items() if name != "step"]
    assert writer.numbers == wanted
    assert {name for name, _, _ in wanted} >= {"loss", "depth", "validation_loss"}


def test_a_resumed_run_purges_later_steps_from_tensorboard(tmp_path: Path, tensorboard: type[Writer]) -> None:
    open_tracker("tensorboard", tmp_path, config(), 35)
    assert tensorboard.made[0].purge_step == 36


def test_a_resumed_run_continues_its_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, logged, ended = [], [], []

    def init(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(
            id=options["id"] or "new-id",
            log=lambda values, step: logged.append((values, step)),
            finish=lambda: ended.append(True),
        )

    module: Any = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for first_step in (0, 20):
        tracker = open_tracker("wandb", tmp_path, config(), first_step)
        tracker.log({"loss": 2.0}, first_step + 5)
        tracker.finish()
    assert [call["id"] for call in calls] == [None, "new-id"]
    assert calls[0]["config"]["model"] == "recon4d_tiny"
    assert calls[0]["dir"] == str(tmp_path)
    assert logged == [({"loss": 2.0}, 5), ({"loss": 2.0}, 25)]
    assert ended == [True, True]


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_tracker_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"tracker '{name}' is not installed.*pip install -e '\.\[{name}\]'"):
        train(replace(config(steps=1), trackers=(name,)), tmp_path)
