"""Checkpoints of a training are whole or not there, and what is damaged is never counted."""

from pathlib import Path

import pytest
import torch

from recon4d.models import Model
from recon4d.train.checkpoints import (
    Checkpoint,
    DamagedCheckpointError,
    checkpoints,
    keep_last_and_best,
    latest_whole,
    write_checkpoint,
)
from recon4d.zoo import create_model


@pytest.fixture(scope="module")
def model() -> Model:
    return create_model("recon4d_tiny", weights=None)


@pytest.fixture
def three(model: Model, tmp_path: Path) -> list[Checkpoint]:
    """Steps 1, 2 and 3 in a folder two levels deep."""
    return [write_checkpoint(tmp_path / "deep" / "run", step, model, {"step": step}, None) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", "null", '{"sums": null}', '{"sums": {}}', '{"sums": {"state.pt": 1}}']
)
def test_a_note_that_says_nothing_is_damage(three: list[Checkpoint], content: str) -> None:
    (three[2].folder / "complete.json").write_text(content)
    assert not three[2].is_whole()
    assert latest_whole(three[2].folder.parent) == three[1]


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_one_changed_byte_is_damage(three: list[Checkpoint], name: str) -> None:
    file = three[2].folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert not three[2].is_whole()
    with pytest.raises(DamagedCheckpointError, match=f"the one before is {three[1].folder}$"):
        three[2].load_state()


def test_the_advice_is_the_nearest_earlier_that_is_whole(three: list[Checkpoint]) -> None:
    for damaged in three[1:]:
        (damaged.folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match=f"the one before is {three[0].folder}$"):
        three[2].load_state()
    (three[0].folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match="there is no earlier one"):
        three[2].load_state()


def test_later_ones_are_no_advice(three: list[Checkpoint]) -> None:
    (three[0].folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match="there is no earlier one"):
        three[0].load_state()


def test_only_folders_of_steps_are_checkpoints_earliest_first(model: Model, tmp_path: Path) -> None:
    for step in (100, 20, 3, 4000):
        write_checkpoint(tmp_path, step, model, {}, None)
    for other in ("step_", "step_3", "step_00000003.old", "step_final"):
        (tmp_path / other).mkdir()
    assert [one.step for one in checkpoints(tmp_path)] == [3, 20, 100, 4000]
    assert checkpoints(tmp_path / "none") == []


def test_a_step_that_is_written_again_is_the_later_one(three: list[Checkpoint], model: Model) -> None:
    (three[2].folder / "state.pt").unlink()
    again = write_checkpoint(three[2].folder.parent, 3, model, {"step": 3, "again": True}, 0.5)
    assert again.load_state() == {"step": 3, "again": True}
    assert again.score() == 0.5


def test_what_cannot_be_written_leaves_what_there_was(three: list[Checkpoint], model: Model) -> None:
    folder = three[2].folder.parent

    def unwritable() -> None: ...

    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(folder, 3, model, {"step": unwritable}, None)
    assert {path.name for path in folder.iterdir()} == {one.folder.name for one in three}
    assert three[2].load_state() == {"step": 3}


def test_damaged_ones_are_not_counted_among_those_kept(three: list[Checkpoint]) -> None:
    (three[2].folder / "state.pt").unlink()
    keep_last_and_best(three[2].folder.parent, keep=2)
    assert [one.folder.is_dir() for one in three] == [True, True, True]
    keep_last_and_best(three[2].folder.parent, keep=1)
    assert latest_whole(three[2].folder.parent) == three[1]


def test_where_the_best_is_among_the_last_no_other_is_kept(model: Model, tmp_path: Path) -> None:
    for step, score in ((1, 3.0), (2, 2.0), (3, 1.0)):
        write_checkpoint(tmp_path, step, model, {}, score)
    keep_last_and_best(tmp_path, keep=2)
    assert [one.step for one in checkpoints(tmp_path)] == [2, 3]


def test_a_state_holds_no_programs(three: list[Checkpoint], model: Model) -> None:
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        write_checkpoint(three[2].folder.parent, 4, model, {"path": Path("x")}, None).load_state()
    assert torch.equal(
        write_checkpoint(three[2].folder.parent, 5, model, {"x": torch.ones(2)}, None).load_state()["x"], torch.ones(2)
    )
