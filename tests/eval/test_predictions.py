"""Stored predictions are lossless and belong to the code that made them."""

import json
import math
from pathlib import Path

import pytest
import torch

import recon4d
from recon4d.datasets import Sample
from recon4d.eval import Prediction, PredictionStore, predictions
from recon4d.eval.source_digest import UNRELATED, digest_folder, source_digest
from recon4d.records import Scene


def test_the_store_is_lossless(samples: dict[str, Sample], tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    sample = samples["world_00"]
    store.write("m", "a/b", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    found = store.read("m", "a/b", "key")
    assert torch.equal(found.scene.depths, sample.scene.depths)
    assert found.seconds == 1.5
    store.write("m", "c", "key", Prediction(None, "timed out", math.nan, "slow"), sample.clip.times)
    found = store.read("m", "c", "key")
    assert (found.scene, found.status, found.reason) == (None, "timed out", "slow")
    assert math.isnan(found.seconds)


def test_the_digest_covers_code_that_can_change_a_prediction(tmp_path: Path) -> None:
    files = {"models/network.py": "a", "cli/main.py": "b", "eval/report/page.py": "c", "eval/methods.py": "d"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    digest = digest_folder(tmp_path)
    assert digest_folder(tmp_path) == digest
    for name, is_covered in zip(files, (True, False, False, True), strict=True):
        (tmp_path / name).write_text("changed")
        assert (digest_folder(tmp_path) != digest) == is_covered
        (tmp_path / name).write_text(files[name])
    (tmp_path / "models" / "network.py").rename(tmp_path / "models" / "other.py")
    assert digest_folder(tmp_path) != digest
    assert len(source_digest()) == 64
    for folder in UNRELATED:
        assert (Path(recon4d.__path__[0]) / folder).is_dir()


def test_predictions_of_other_code_or_settings_are_not_read(
    samples: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sample = PredictionStore(tmp_path), samples["world_00"]
    store.write("m", "c", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    assert store.read("m", "c", "key") is not None
    assert store.read("m", "c", "other key") is None
    stored = json.loads((tmp_path / "m" / "c" / "prediction.json").read_text())
    assert recon4d.__version__ in stored["key"]
    assert source_digest() in stored["key"]
    for name, changed in (("source_digest", lambda: "other"), ("__version__", "0.0.0")):
        with monkeypatch.context() as patch:
            patch.setattr(predictions, name, changed)
            assert store.read("m", "c", "key") is None


def test_incomplete_and_damaged_scenes_are_not_read(samples: dict[str, Sample], tmp_path: Path) -> None:
    store, sample = PredictionStore(tmp_path), samples["world_00"]
    for clip in ("incomplete", "damaged"):
        store.write("m", clip, "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    (tmp_path / "m" / "incomplete" / "prediction.json").unlink()
    (tmp_path / "m" / "damaged" / "scene.npz").write_bytes(b"PK\x03\x04 no archive")
    assert store.read("m", "incomplete", "key") is None
    assert store.read("m", "damaged", "key") is None


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff\xfe", b'{"key": "1"}', b'{"key": 1, "status": "ok", "seconds": 1.0, "reason": ""}']
)
def test_damaged_records_are_no_predictions(content: bytes, samples: dict[str, Sample], tmp_path: Path) -> None:
    store, sample = PredictionStore(tmp_path), samples["world_00"]
    store.write("m", "c", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    assert store.read("m", "c", "key") is not None
    (tmp_path / "m" / "c" / "prediction.json").write_bytes(content)
    assert store.read("m", "c", "key") is None


def test_a_defect_while_a_prediction_is_read_surfaces(
    samples: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Scene:
        raise ValueError("shapes do not match")

    store, sample = PredictionStore(tmp_path), samples["world_00"]
    store.write("m", "c", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    monkeypatch.setattr(predictions, "load_scene", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        store.read("m", "c", "key")
