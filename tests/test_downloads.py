"""Published weights by name: fetched once, converted, kept; and one clear line where they cannot be had."""

from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from named_weights import shrunk_state_dict

from recon4d.model import Model
from recon4d.zoo import LicenceWarning, PublishedSource, from_vggt
from recon4d.zoo.downloads import published_model

SOURCE = PublishedSource(
    "somebody/something", "model.pt", "CC BY-NC 4.0: not for commercial use", partial(from_vggt, taps=(0, 1))
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECON4D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_fetched_converted_and_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(shrunk_state_dict(), tmp_path / "model.pt")
    asked: list[tuple[str, str]] = []

    def download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.warns(LicenceWarning, match="something_1b comes under .* not for commercial use"):
        first = published_model("something_1b", SOURCE)
    (tmp_path / "model.pt").unlink()
    with pytest.warns(LicenceWarning):
        second = published_model("something_1b", SOURCE)
    assert asked == [("somebody/something", "model.pt")]
    assert (cache / "something_1b.safetensors").is_file()
    assert first.name == second.name == "something_1b"
    assert _same(first, second)


@pytest.mark.filterwarnings("ignore::recon4d.zoo.LicenceWarning")
@pytest.mark.usefixtures("cache")
class TestRefusals:
    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _fail(monkeypatch, LocalEntryNotFoundError("the hub cannot be reached"))
        with pytest.raises(ValueError, match=r"cannot be had from somebody/something \(the hub cannot be reached\)"):
            published_model("something_1b", SOURCE)

    def test_gated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Made without its response, whose kind depends on the version of the hub's client.
        _fail(monkeypatch, GatedRepoError.__new__(GatedRepoError))
        with pytest.raises(ValueError, match=r"is gated: ask for access at https://huggingface.co/somebody/something"):
            published_model("something_1b", SOURCE)

    def test_something_else_in_the_file(self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "model.pt"))
        with pytest.raises(ValueError, match="no state dict of VGGT"):
            published_model("something_1b", SOURCE)
        assert not cache.exists()


def _fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: str) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)


def _same(first: Model, second: Model) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
