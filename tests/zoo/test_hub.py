"""Published weights by name: downloaded once, converted and cached, with a one-line error if they are unavailable."""

from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from named_weights import read_shapes, shrunk_state_dict

from recon4d.errors import UserError
from recon4d.models import Model
from recon4d.zoo import (
    LicenseWarning,
    PublishedSource,
    create_model,
    load_model,
)
from recon4d.zoo.hub import (
    OMEGA_KEY,
    VGGT_KEY,
    cache_folder,
    published_model,
)
from recon4d.zoo.vggt.vggt import from_vggt

SOURCE = PublishedSource(
    "somebody/something", "model.pt", "CC BY-NC 4.0: not for commercial use", partial(from_vggt, taps=(0, 1))
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECON4D_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def test_fetched_converted_and_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(shrunk_state_dict(), tmp_path / "model.pt")
    asked: list[tuple[str, str]] = []

    def download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.warns(LicenseWarning, match="something_1b comes under .* not for commercial use"):
        first = published_model("something_1b", SOURCE)
    (tmp_path / "model.pt").unlink()
    with pytest.warns(LicenseWarning):
        second = published_model("something_1b", SOURCE)
    assert asked == [("somebody/something", "model.pt")]
    assert (cache / "something_1b.safetensors").is_file()
    assert first.name == second.name == "something_1b"
    assert _same(first, second)


@pytest.mark.filterwarnings("ignore::recon4d.zoo.LicenseWarning")
@pytest.mark.usefixtures("cache")
class TestRefusals:
    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _fail(monkeypatch, LocalEntryNotFoundError("the hub cannot be reached"))
        with pytest.raises(
            UserError, match=r"cannot be downloaded from somebody/something \(the hub cannot be reached\)"
        ):
            published_model("something_1b", SOURCE)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (OSError("no route to host\nTraceback of 20 lines"), r"\(no route to host\): try again"),
            (TimeoutError(), r"\(TimeoutError\)"),
        ],
    )
    def test_other_trouble_is_one_line(self, error: OSError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        _fail(monkeypatch, error)
        with pytest.raises(UserError, match=said) as refusal:
            published_model("something_1b", SOURCE)
        assert "\n" not in str(refusal.value)

    def test_gated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Made without its response, whose kind depends on the version of the hub's client.
        _fail(monkeypatch, GatedRepoError.__new__(GatedRepoError))
        with pytest.raises(UserError, match=r"is gated: ask for access at https://huggingface.co/somebody/something"):
            published_model("something_1b", SOURCE)

    def test_something_else_in_the_file(self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "model.pt"))
        with pytest.raises(UserError, match="no state dict of VGGT"):
            published_model("something_1b", SOURCE)
        assert not cache.exists()


def test_the_folder_is_that_of_the_environment_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RECON4D_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "recon4d"
    monkeypatch.setenv("RECON4D_CACHE", str(tmp_path / "deep" / "cache"))
    assert cache_folder() == tmp_path / "deep" / "cache"


def test_files_of_others_come_under_their_licenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor identifies the family of a file; the conversion is tested elsewhere."""
    for mark, maker, license_text in (
        (VGGT_KEY, "from_vggt", r"mine\.pt comes under .* CC BY-NC 4\.0"),
        (OMEGA_KEY, "from_vggt_omega", r"mine\.pt comes under .* FAIR Noncommercial"),
    ):
        torch.save({mark: torch.zeros(2)}, tmp_path / "mine.pt")
        made = create_model("recon4d_tiny", pretrained=False)
        monkeypatch.setattr(f"recon4d.zoo.hub.{maker}", lambda tensors, made=made: made)
        with pytest.warns(LicenseWarning, match=license_text):
            assert load_model(tmp_path / "mine.pt") is made
        assert made.name == "mine"


def test_the_marks_are_in_the_published_files() -> None:
    assert VGGT_KEY in read_shapes("vggt_1b")
    assert OMEGA_KEY in read_shapes("vggt_omega_1b")
    assert VGGT_KEY not in read_shapes("vggt_omega_1b")


class Wicked:
    """An object that runs a program when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({VGGT_KEY: Wicked(tmp_path / "was_run")}, tmp_path / "wicked.pt")
    with pytest.raises(UserError, match=r"wicked\.pt cannot be read as weights"):
        load_model(tmp_path / "wicked.pt")
    assert not (tmp_path / "was_run").exists()


def test_what_holds_no_tensors_is_named(tmp_path: Path) -> None:
    for content, reason in (({}, "it contains nothing"), ({"epoch": 3}, "contains dict, wanted a state dict")):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(UserError, match=reason):
            load_model(tmp_path / "other.pt")


def _fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: str) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)


def _same(first: Model, second: Model) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
