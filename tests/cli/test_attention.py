"""The option --attention of reconstruct, train and evaluate: it reaches the network, is reported, and fails early."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import fails, run
from scenes import make_clip

from recon4d import layers
from recon4d.errors import UserError
from recon4d.io import write_video
from recon4d.layers import Block, BlockConfig, attention_kernel, choose_kernel, set_attention_kernel
from recon4d.layers import blocks as blocks_of_layers
from recon4d.train.checkpoints import latest_complete

TRAIN = ["--config.model", "recon4d_tiny", "--config.steps", "2", "--config.save-every", "1"]
TRAIN += ["--config.data.batch-size", "1", "--config.data.shapes", "2x32x32", "--config.validation-clips", "1"]
EVALUATE = ["--method", "recon4d_tiny"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(path, make_clip(frames=3, height=48, width=64).images.permute(0, 2, 3, 1).numpy(), 10.0)
    return path


def arguments(command: str, video: Path, out: Path) -> list[object]:
    """Return a short run of a command."""
    options: dict[str, list[object]] = {
        "reconstruct": [video, "--model", "recon4d_tiny", "--num-frames", "2", "--refine", "off"],
        "train": TRAIN,  # pyright: ignore[reportAssignmentType]
        "evaluate": EVALUATE,  # pyright: ignore[reportAssignmentType]
    }
    return [command, *options[command], "--out", out]


class TestChoice:
    def test_auto_is_the_kernel_of_pytorch_on_every_device(self) -> None:
        for device in ("cpu", "cuda", "mps"):
            assert choose_kernel("auto", torch.device(device)) == choose_kernel("sdpa", torch.device(device)) == "sdpa"

    def test_xformers_needs_cuda_and_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="requires CUDA, but the device is mps"):
            choose_kernel("xformers", torch.device("mps"))
        monkeypatch.setitem(sys.modules, "xformers", None)
        with pytest.raises(UserError, match=r"not installed: pip install -e '\.\[xformers\]'"):
            choose_kernel("xformers", torch.device("cuda"))

    def test_a_network_tells_its_kernel(self) -> None:
        network = torch.nn.Sequential(torch.nn.Linear(4, 16), *(Block(BlockConfig(16, 2, 32)) for _ in range(2)))
        assert attention_kernel(network) == "sdpa"
        set_attention_kernel(network, "plain")
        assert attention_kernel(network) == "plain"


@pytest.mark.parametrize("command", ["reconstruct", "train", "evaluate"])
def test_xformers_on_a_cpu_is_one_line_before_anything_is_written(
    command: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = fails(capsys, *arguments(command, video, tmp_path / "out"), "--attention", "xformers")
    assert "xformers attention requires CUDA, but the device is cpu" in line
    assert "(give --attention sdpa)" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_benchmark")
@pytest.mark.parametrize("command", ["reconstruct", "train", "evaluate"])
def test_the_chosen_kernel_reaches_every_attention_layer_and_is_reported(
    command: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel "plain" stands in for xformers, which the machine of the tests need not have."""
    used = set()

    def recording(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: str) -> torch.Tensor:
        used.add(kernel)
        return layers.attention(query, key, value, kernel)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(blocks_of_layers, "attention", recording)
    monkeypatch.setattr(layers, "choose_kernel", lambda choice, device: {"xformers": "plain"}[choice])
    out = tmp_path / "out"
    assert run(*arguments(command, video, out), "--attention", "xformers") == 0
    assert used == {"plain"}
    printed = capsys.readouterr()
    if command == "reconstruct":
        assert "recon4d_tiny on cpu with plain attention: " in printed.out
    elif command == "train":
        assert json.loads((out / "about.json").read_text())["attention"] == "plain"
        assert "training recon4d_tiny on cpu with plain attention" in printed.err
        assert latest_complete(out / "checkpoints") is not None
    else:
        assert json.loads((out / "report.json").read_text())["settings"]["attention"] == "plain"


def test_a_resumed_run_may_have_another_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a GPU with xformers continues on a machine without it, because the kernel is no part of its settings."""
    assert run("train", *TRAIN, "--config.validate-every", "1", "--out", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "attention" not in config
    config["steps"] = 3
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert run("train", "--resume", tmp_path / "run", "--attention", "sdpa") == 0
    assert "with sdpa attention" in capsys.readouterr().err
