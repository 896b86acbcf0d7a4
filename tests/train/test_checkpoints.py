"""Checkpoints are written atomically, and damaged ones are never used."""

import warnings
from pathlib import Path

import pytest
import torch

from recon4d.errors import UserError
from recon4d.io.temporaries import temporary_folder
from recon4d.models import Model
from recon4d.train import checkpoints
from recon4d.train.checkpoints import (
    Checkpoint,
    DamagedCheckpointError,
    keep_last_and_best,
    latest_complete,
    list_checkpoints,
    remove_partial_checkpoints,
    write_checkpoint,
)
from recon4d.zoo import create_model


@pytest.fixture(scope="module")
def model() -> Model:
    return create_model("recon4d_tiny", pretrained=False)


@pytest.fixture
def three(model: Model, tmp_path: Path) -> list[Checkpoint]:
    """Checkpoints of steps 1, 2 and 3 in a folder two levels deep."""
    return [write_checkpoint(tmp_path / "deep" / "run", step, model, {"step": step}, None) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", "null", '{"sums": null}', '{"sums": {}}', '{"sums": {"state.pt": 1}}']
)
def test_an_invalid_checksum_file_is_damage(three: list[Checkpoint], content: str) -> None:
    (three[2].folder / "complete.json").write_text(content)
    assert not three[2].is_complete()
    assert latest_complete(three[2].folder.parent) == three[1]


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_one_changed_byte_is_damage(three: list[Checkpoint], name: str) -> None:
    file = three[2].folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert not three[2].is_complete()
    with pytest.raises(DamagedCheckpointError, match=f"the latest complete one before it is {three[1].folder}$"):
        three[2].load_state()


def test_the_error_names_the_latest_complete_one_before(three: list[Checkpoint]) -> None:
    for damaged in three[1:]:
        (damaged.folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match=f"the latest complete one before it is {three[0].folder}$"):
        three[2].load_state()
    (three[0].folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match="there is no earlier one"):
        three[2].load_state()


def test_the_error_names_no_later_checkpoint(three: list[Checkpoint]) -> None:
    (three[0].folder / "state.pt").unlink()
    with pytest.raises(DamagedCheckpointError, match="there is no earlier one"):
        three[0].load_state()


def test_checkpoints_are_listed_by_step(model: Model, tmp_path: Path) -> None:
    for step in (100, 20, 3, 4000):
        write_checkpoint(tmp_path, step, model, {}, None)
    for other in ("step_", "step_3", "step_00000003.old", "step_final"):
        (tmp_path / other).mkdir()
    assert [one.step for one in list_checkpoints(tmp_path)] == [3, 20, 100, 4000]
    assert list_checkpoints(tmp_path / "none") == []


def test_a_repeated_step_replaces_its_checkpoint(three: list[Checkpoint], model: Model) -> None:
    (three[2].folder / "state.pt").unlink()
    again = write_checkpoint(three[2].folder.parent, 3, model, {"step": 3, "again": True}, 0.5)
    assert again.load_state() == {"step": 3, "again": True}
    assert again.score() == 0.5


def test_a_failed_write_leaves_the_old_checkpoint(three: list[Checkpoint], model: Model) -> None:
    folder = three[2].folder.parent

    def unpicklable() -> None: ...

    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(folder, 3, model, {"step": unpicklable}, None)
    assert {path.name for path in folder.iterdir()} == {one.folder.name for one in three}
    assert three[2].load_state() == {"step": 3}


def test_damaged_checkpoints_do_not_count_as_kept(three: list[Checkpoint]) -> None:
    (three[2].folder / "state.pt").unlink()
    keep_last_and_best(three[2].folder.parent, keep=2)
    assert [one.folder.is_dir() for one in three] == [True, True, True]
    keep_last_and_best(three[2].folder.parent, keep=1)
    assert latest_complete(three[2].folder.parent) == three[1]


def test_no_other_is_kept_if_the_best_is_among_the_last(model: Model, tmp_path: Path) -> None:
    for step, score in ((1, 3.0), (2, 2.0), (3, 1.0)):
        write_checkpoint(tmp_path, step, model, {}, score)
    keep_last_and_best(tmp_path, keep=2)
    assert [one.step for one in list_checkpoints(tmp_path)] == [2, 3]


def test_a_state_cannot_hold_code(three: list[Checkpoint], model: Model) -> None:
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        write_checkpoint(three[2].folder.parent, 4, model, {"path": Path("x")}, None).load_state()
    assert torch.equal(
        write_checkpoint(three[2].folder.parent, 5, model, {"x": torch.ones(2)}, None).load_state()["x"], torch.ones(2)
    )


def test_files_are_hashed_once_in_a_process(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def checksum(path: Path) -> str:
        hashed.append(path.name)
        return original(path)

    original = checkpoints._checksum
    monkeypatch.setattr(checkpoints, "_checksum", checksum)
    for step in range(1, 5):
        write_checkpoint(tmp_path, step, model, {"step": step}, None)
        keep_last_and_best(tmp_path, keep=4)
    assert hashed == ["model.safetensors", "state.pt"] * 4
    monkeypatch.setattr(checkpoints, "_verified", {})  # as in a new process
    for _ in range(3):
        keep_last_and_best(tmp_path, keep=4)
    assert hashed == ["model.safetensors", "state.pt"] * 8


def test_files_that_changed_are_hashed_again(three: list[Checkpoint]) -> None:
    assert three[2].is_verified()
    (three[2].folder / "state.pt").write_bytes(b"damaged")
    assert not three[2].is_verified()


@pytest.mark.parametrize("fails", ["model", "state"])
def test_a_full_disk_is_reported_in_one_line(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A limit on the size of files replaces a full disk: the system refuses to write more."""
    resource = pytest.importorskip("resource")
    if fails == "state":
        monkeypatch.setattr(checkpoints, "save_model", lambda _, path: path.touch())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(UserError) as caught:
            write_checkpoint(tmp_path / "run", 1, model, {"weights": torch.zeros(10**6)}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith("cannot write")
    assert "File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_partial_checkpoints_are_removed_with_one_warning(three: list[Checkpoint]) -> None:
    folder = three[0].folder.parent
    names = [".step_00000004.partial-0123abcd", ".step_00000005.0123abcd"]
    for name in names:
        (folder / name).mkdir()
        (folder / name / "state.pt").write_text("half")
    with pytest.warns(UserWarning, match=rf"removed partial checkpoints .*: {', '.join(names)}$") as caught:
        remove_partial_checkpoints(folder)
    assert len(caught) == 1
    assert {path.name for path in folder.iterdir()} == {one.folder.name for one in three}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove_partial_checkpoints(folder)
        remove_partial_checkpoints(folder / "none")


def test_partial_checkpoints_of_a_living_process_are_kept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "step_00000004") as partial:
        remove_partial_checkpoints(tmp_path)
        assert partial.is_dir()
