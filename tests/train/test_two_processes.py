"""Two processes train like one, sharded or not, and resume exactly; sharded runs write the same files."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_states import ROOT, assert_same, final_state
from two_process_runs import SAVED, config, unsharded_config

from recon4d.train.checkpoints import Checkpoint, latest_complete
from recon4d.train.loop import make_trainable_model, train
from recon4d.train.objective import DEFAULT_TERMS
from recon4d.zoo import load_model

pytestmark = pytest.mark.end_to_end

SCRIPT = Path(__file__).parents[1] / "helpers" / "two_process_runs.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the script in two processes."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    # The variables that torchrun sets. Without torchrun the test is faster, because the launcher imports torch too.
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stderr=(folder / f"stderr_{rank}.txt").open("w"),
        )
        for rank in ("0", "1")
    ]
    codes = [process.wait(timeout=300) for process in started]
    assert codes == [0, 0], [(folder / f"stderr_{rank}.txt").read_text() for rank in ("0", "1")]
    return folder


def state_at(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / f"checkpoints/step_{step:08d}/state.pt", weights_only=True)


def shapes(value: Any) -> Any:
    """Replace the tensors in nested dictionaries and lists by their types and shapes."""
    if isinstance(value, dict):
        return {key: shapes(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [shapes(one) for one in value]
    return (type(value), value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value)


def flat(value: Any) -> torch.Tensor:
    """Concatenate the values of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return value.double().flatten()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return torch.cat([torch.zeros(0, dtype=torch.double), *(flat(part) for part in parts)])


def relative_difference(one: Any, other: Any, before: Any) -> float:
    """Return the distance of two states relative to the distance of the first from `before`."""
    return float((flat(one) - flat(other)).norm() / (flat(one) - flat(before)).norm())


def test_each_process_holds_half(runs: Path) -> None:
    """Parameters, moments and the average are split in half; the two scalar parameters are on both processes."""
    whole = json.loads((runs / "sharded/rank_0.json").read_text())
    for rank in (0, 1):
        numbers = json.loads((runs / f"sharded/rank_{rank}.json").read_text())
        for kind in ("parameters", "moments", "average"):
            assert numbers[kind] == pytest.approx(whole[f"{kind}_whole"] / 2, rel=0.01), kind


def test_only_the_main_process_gathers_the_state(runs: Path) -> None:
    numbers = [json.loads((runs / f"sharded/rank_{rank}.json").read_text()) for rank in (0, 1)]
    for kind in ("parameters", "moments", "average"):
        assert numbers[0][f"{kind}_whole"] > 0
        assert numbers[1][f"{kind}_whole"] == 0, kind
    assert numbers[0]["devices"] == ["cpu"]


def test_sharded_training_is_unsharded_training(runs: Path) -> None:
    whole, sharded, before = (
        *(final_state(runs / name) for name in ("whole", "sharded")),
        state_at(runs / "whole", SAVED),
    )
    for part in ("model", "average", "optimisers"):
        assert 0 < relative_difference(whole[part], sharded[part], before[part]) < 1e-3, part
    # Gradients of scalar parameters, which cannot be sharded, are averaged separately.
    for name in ("matching.log_temperature", "matching.no_match"):
        assert relative_difference(whole["model"][name], sharded["model"][name], before["model"][name]) < 1e-2, name
    logs = [(runs / name / "log.jsonl").read_text().splitlines() for name in ("whole", "sharded")]
    for mine, theirs in zip(*logs, strict=True):
        for number in {"gradient", "loss", "validation_loss"} & json.loads(mine).keys():
            assert json.loads(mine)[number] == pytest.approx(json.loads(theirs)[number], rel=1e-4), mine


def test_the_checkpoint_is_the_same_as_without_sharding(runs: Path) -> None:
    whole, sharded = (final_state(runs / name) for name in ("whole", "sharded"))
    assert shapes(whole) == shapes(sharded)
    assert whole["optimisers"]["names"] == sharded["optimisers"]["names"]
    last = latest_complete(runs / "sharded" / "checkpoints")
    assert last is not None
    weights = dict(load_model(last.model_file).named_parameters())
    for name, value in sharded["average"]["average"].items():
        assert torch.equal(weights[name], value), name
    assert not torch.equal(flat(sharded["model"]), flat(sharded["average"]))


def test_resuming_a_killed_sharded_run_is_exact(runs: Path) -> None:
    assert_same(final_state(runs / "sharded"), final_state(runs / "killed"))


def test_one_process_resumes_a_run_of_two(runs: Path, tmp_path: Path) -> None:
    left = Checkpoint(runs / "sharded" / "checkpoints" / f"step_{SAVED:08d}")
    train(config("full"), tmp_path, left)
    alone, sharded = final_state(tmp_path), final_state(runs / "sharded")
    assert shapes(alone) == shapes(sharded)
    assert relative_difference(sharded["model"], alone["model"], state_at(runs / "sharded", SAVED)["model"]) < 0.05


def test_resuming_a_killed_run_is_exact(runs: Path) -> None:
    assert_same(final_state(runs / "joint"), final_state(runs / "joint_killed"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in this process as the two processes do together."""
    folder = tmp_path_factory.mktemp("alone")
    train(unsharded_config(), folder)
    return folder


@pytest.mark.parametrize("backward", ["joint", "separate"])
def test_two_processes_with_four_clips_train_like_one_with_eight(runs: Path, alone: Path, backward: str) -> None:
    one, two = (final_state(folder)["model"] for folder in (alone, runs / backward))
    logs = [json.loads((folder / "log.jsonl").read_text().splitlines()[-2]) for folder in (alone, runs / backward)]
    assert {log["step"] for log in logs} == {5}
    for term in DEFAULT_TERMS:
        assert logs[0][term] == pytest.approx(logs[1][term], rel=1e-3, abs=1e-4), term
    start = make_trainable_model(unsharded_config()).state_dict()
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one])
    difference = torch.cat([(one[name] - two[name]).flatten() for name in one])
    assert difference.norm() < 0.02 * moved.norm()
