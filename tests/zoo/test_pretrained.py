"""Models load by name, file, folder and repository; what is saved is loaded bit for bit, offline and from a hub."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

from recon4d.errors import UserError
from recon4d.models import Model, MonoModel, SceneModel
from recon4d.zoo import create_model, save_model


@pytest.fixture(scope="module")
def tiny() -> Model:
    model = create_model("recon4d_tiny", pretrained=False)
    assert isinstance(model, Model)
    model.trained = True
    return model


def assert_same(found: SceneModel, wanted: SceneModel) -> None:
    """Check that two models have the same class, name, configuration and weights."""
    assert type(found) is type(wanted)
    assert (found.name, found.config, found.trained) == (wanted.name, wanted.config, wanted.trained)
    assert found.state_dict().keys() == wanted.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_a_saved_folder_is_loaded_bit_for_bit(tiny: Model, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "mine")
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert_same(Model.from_pretrained(tmp_path / "mine"), tiny)
    assert_same(SceneModel.from_pretrained(str(tmp_path / "mine" / "model.safetensors")), tiny)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["processing_size"] == tiny.config.processing_size


def test_names_are_those_of_the_zoo() -> None:
    assert_same(Model.from_pretrained("recon4d_mini"), create_model("recon4d_mini"))
    with pytest.raises(UserError, match="recon4d_tiny has no trained weights yet"):
        Model.from_pretrained("recon4d_tiny")
    with pytest.raises(UserError, match="has the first frame as reference, not 'middle'"):
        Model.from_pretrained("recon4d_mini", reference_view="middle")


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    for name in ("recon4d_gone", str(tmp_path / "gone"), "models/gone.safetensors"):
        with pytest.raises(UserError, match=f"there is no model '{name}': wanted one of recon4d_tiny, "):
            Model.from_pretrained(name)
    with pytest.raises(UserError, match=r"has none of model\.safetensors, model\.pt"):
        Model.from_pretrained(tmp_path)


def test_a_model_of_another_class_is_refused(tiny: Model, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is a Model, not a MonoModel; use recon4d\.models\.Model\.from_pretrained"):
        MonoModel.from_pretrained(tmp_path)


class TestCard:
    def test_it_tells_license_size_and_limits(self, tmp_path: Path) -> None:
        model = create_model("recon4d_mini")
        model.save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "license: apache-2.0" in card.split("---")[1]
        assert "library_name: recon4d" in card.split("---")[1]
        assert "| parameters | 10.5 million |" in card
        assert "calibrated on 64 synthetic worlds" in card
        assert "never trained" not in card

    def test_untrained_weights_of_unknown_license(self, tmp_path: Path) -> None:
        create_model("recon4d_tiny", pretrained=False).save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "never trained" in card
        assert "not recorded" in card
        assert "license:" not in card.split("---")[1]

    def test_a_card_that_exists_is_kept(self, tiny: Model, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("mine")
        tiny.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "mine"


class Hub(BaseHTTPRequestHandler):
    """The part of the interface of the Hugging Face hub that uploads and downloads of small files use."""

    files: dict[str, bytes]
    """Contents of the files of the only repository, by name."""

    def do_POST(self) -> None:
        """Create the repository, accept every file, and store a commit."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            self._answer(
                {"url": f"http://{self.headers['Host']}/someone/model", "name": "someone/model", "id": "someone/model"}
            )
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/someone/model/commit/1",
                    "commitOid": "1",
                    "success": True,
                }
            )
        else:
            self._answer({"valid": True})

    def do_HEAD(self) -> None:
        """Answer what a file is."""
        self._file(with_body=False)

    def do_GET(self) -> None:
        """Send a file, or what is known of the repository."""
        if self.path.startswith("/api/models/someone/model"):
            self._answer({"id": "someone/model", "sha": "1" * 40, "siblings": []})
        else:
            self._file(with_body=True)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _file(self, with_body: bool) -> None:
        content = self.files.get(self.path.rpartition("/resolve/main/")[2])
        if not self.path.startswith("/someone/model/") or content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "/someone/model/" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    """Run a hub with an empty repository; return its address."""
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SHARE = """
import sys
from recon4d.errors import UserError
from recon4d.models import Model
model = Model.from_pretrained(sys.argv[1])
print(model.push_to_hub("someone/model", token="hf_of_nobody"))
again = Model.from_pretrained("someone/model", cache_dir=sys.argv[2])
assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
assert Model.from_pretrained("someone/model", cache_dir=sys.argv[2], local_files_only=True).name == model.name
try:
    Model.from_pretrained("nobody/nothing", cache_dir=sys.argv[2])
except UserError as error:
    print(error)
"""
"""A program that shares a model; in a process of its own, because huggingface_hub reads the address at its import."""


@pytest.mark.end_to_end
def test_a_model_is_pushed_to_a_hub_and_downloaded_from_it(tiny: Model, hub: str, tmp_path: Path) -> None:
    save_model(tiny, tmp_path / "tiny.safetensors", "int8")
    run = subprocess.run(
        [sys.executable, "-c", SHARE, str(tmp_path / "tiny.safetensors"), str(tmp_path / "cache")],
        env={"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(Hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert "/someone/model" in run.stdout
    assert "nobody/nothing cannot be downloaded from the hub: " in run.stdout


def test_device_and_dtype_are_those_of_the_parameters(tiny: Model) -> None:
    assert tiny.device == torch.device("cpu")
    assert tiny.dtype == torch.float32
    assert create_model("recon4d_tiny", pretrained=False).to("meta").device.type == "meta"


class TestDownloads:
    """Without a hub: what `huggingface_hub` returns or raises is given."""

    def test_weights_are_found_beside_their_configuration(
        self, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(tiny, tmp_path / "model.safetensors")
        asked: list[tuple[str, str | None]] = []

        def download(repository: str, filename: str, **options: str | None) -> str:
            asked.append((filename, options["revision"]))
            if filename == "config.json":
                raise EntryNotFoundError.__new__(EntryNotFoundError)
            return str(tmp_path / filename)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        assert_same(Model.from_pretrained("someone/model", revision="v2"), tiny)
        assert asked == [("config.json", "v2"), ("model.safetensors", "v2")]

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (GatedRepoError.__new__(GatedRepoError), "someone/model is gated: ask for access at"),
            (OSError("no route\nto the hub"), r"someone/model cannot be downloaded from the hub: no route$"),
            (EntryNotFoundError.__new__(EntryNotFoundError), r"has none of model\.safetensors, model\.pt"),
        ],
    )
    def test_trouble_is_one_line(self, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> str:
            raise error

        monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
        with pytest.raises(UserError, match=message):
            Model.from_pretrained("someone/model")
