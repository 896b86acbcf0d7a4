"""The command evaluate: mistakes, processes and tables."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recon4d.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "nonsense", "--method", "static"], "unknown benchmark 'nonsense'; available are worlds-v1"),
        (["--method", "nonsense"], "unknown method 'nonsense'; available are static, colmap"),
        (["--method", "nothing.safetensors"], "checkpoint nothing.safetensors does not exist"),
        (["--split", "9", "--method", "static"], "worlds-v1 has the splits 8, 32, given '9'"),
        (["--stride", "2", "--method", "static"], "worlds-v1 is frozen and takes no stride"),
        (["--clips", "0", "--method", "static"], "clips = 0; wanted at least 1"),
        (["--benchmark", "tum", "--method", "static"], "benchmark tum needs the folder of its data set"),
        (["--benchmark", "tum", "--data", "nowhere", "--method", "static"], "nowhere"),
        (["--benchmark", "tum", "--data", "DESK", "--split", "x", "--method", "static"], "tum has no splits"),
        (["--benchmark", "tum", "--data", "DESK", "--stride", "0", "--method", "static"], "wanted at least 1"),
    ],
)
def test_bad_commands_print_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(ROOT / "examples" / "freiburg2_desk") if word == "DESK" else word for word in arguments]
    assert main(["evaluate", "--out", str(tmp_path / "out"), *arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_benchmark")
def test_all_metrics_are_printed_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--method", "static", "--out", str(tmp_path / "out"), "--all-metrics"]) == 0
    printed = capsys.readouterr().out
    assert "\ncameras " in printed
    assert printed.index("auc_30") < printed.index("\ncameras ") < printed.index("\nrra_5 ")


@pytest.mark.end_to_end
def test_two_processes_give_the_results_of_one(tmp_path: Path) -> None:
    """Each process takes every other clip; results are the same except for times.

    The processes are started as torchrun starts them, without its agent, which gives up on a heavily loaded machine.
    """
    small = ["--benchmark", "worlds", "--clips", "2", "--num-frames", "2"]
    command = ["evaluate", *small, "--method", "static", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = {**os.environ, **place, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "recon4d.cli", *command, str(tmp_path / "two")],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    one, two = (json.loads((tmp_path / out / "report.json").read_text()) for out in ("one", "two"))
    assert one["clips"] == 2
    for report in (one, two):
        assert report["methods"]["static"].pop("seconds") > 0
    assert one["methods"] == two["methods"]
    assert (tmp_path / "two" / "report.html").stat().st_size > 10_000
