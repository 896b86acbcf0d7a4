"""Equal models are saved as equal bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recon4d.zoo import create_model, load_model, save_model

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from recon4d.records import Calibration, ErrorCurve
from recon4d.zoo import create_model, save_model
model = create_model("recon4d_tiny", pretrained=False)
model.calibration = Calibration("a clip", depth=ErrorCurve((1.0,), (0.1,)))
for storage in ("float32", "int8"):
    save_model(model, f"{sys.argv[1]}.{storage}", storage)
"""


@pytest.mark.end_to_end
def test_two_processes_save_equal_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)
    for storage in ("float32", "int8"):
        assert (tmp_path / f"1.{storage}").read_bytes() == (tmp_path / f"2.{storage}").read_bytes()


def test_two_saves_are_equal_bytes_and_load_again(tmp_path: Path) -> None:
    model = create_model("recon4d_tiny", pretrained=False)
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:
        save_model(model, file)
    assert len({file.read_bytes() for file in files}) == 1
    loaded = load_model(files[0])
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
