"""The run folder is written atomically, and an interrupted start does not block it."""

from pathlib import Path

import pytest
from training_run import config

from recon4d.errors import UserError
from recon4d.io.temporaries import temporary_path
from recon4d.train import run_folder
from recon4d.train.run_folder import begin_run, read_config


@pytest.mark.parametrize("dies_at", ["about.json", "config.json"])
def test_a_run_whose_start_was_killed_can_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    def die(path: Path, values: object) -> None:
        if path.name == dies_at:
            temporary_path(path, "partial").write_text('{"half')  # as after SIGKILL in the middle of the write
            raise KeyboardInterrupt
        write_json(path, values)

    write_json = run_folder._write_json
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "_write_json", die)
        with pytest.raises(KeyboardInterrupt):
            begin_run(tmp_path / "run", config())
    with pytest.raises(UserError, match="is not a training run"):
        read_config(tmp_path / "run")
    with pytest.warns(UserWarning, match="removed leftovers"):
        begin_run(tmp_path / "run", config())
    assert read_config(tmp_path / "run") == config()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"about.json", "config.json"}


def test_files_are_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(path: Path, text: str) -> int:
        path.write_bytes(text.encode()[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(KeyboardInterrupt):
        begin_run(tmp_path / "run", config())
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("of the user")
    with pytest.raises(UserError, match="is not empty"):
        begin_run(tmp_path, config())
    with pytest.raises(UserError, match="exists"):
        begin_run(tmp_path / "notes.txt", config())


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"type": "TrainConfig", "unknown": 1}'])
def test_a_damaged_configuration_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError):
        read_config(tmp_path)
