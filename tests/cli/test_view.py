"""`recon4d view`: files, the browser, and one line for every mistake of the user."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from socket import socket

import numpy as np
import pytest
import torch
import walls
from commands import fails
from recordings import read_recording

from recon4d import viewer
from recon4d.cli.main import main
from recon4d.errors import UserError
from recon4d.io import write_results

NUM_FRAMES, HEIGHT, WIDTH = walls.NUM_FRAMES, walls.HEIGHT, walls.WIDTH


@pytest.fixture
def with_rerun() -> None:
    pytest.importorskip("rerun", reason="rerun comes with the extra `view`")


def results_folder(folder: Path) -> Path:
    """Write the wall as `recon4d reconstruct` writes a clip."""
    out = folder / "street"
    out.mkdir()
    write_results(
        out, walls.make_clip(), walls.make_scene(), walls.make_info(source=None, original_size=(HEIGHT, WIDTH))
    )
    return out


@pytest.mark.usefixtures("with_rerun")
def test_save_writes_the_scene_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, file = results_folder(tmp_path), tmp_path / "street.rrd"
    assert main(["view", str(out), "--save", str(file)]) == 0
    assert f"open it with: rerun {file}" in capsys.readouterr().out
    recording = read_recording(file)
    colors = recording["world/points/high"][1].colors().reshape(HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(colors[6, 2], walls.LEFT_COLOR, atol=12)
    assert any("street" in str(row.columns) for row in recording["__properties"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["street", "street.rrd"]

    assert main(["view", str(out / "scene.npz"), "--save", str(file)]) == 2
    assert "exists; give another name in --save, or replace it with --overwrite" in capsys.readouterr().err
    assert main(["view", str(out / "scene.npz"), "--save", str(file), "--overwrite"]) == 0


@pytest.mark.usefixtures("with_rerun")
def test_without_pictures_the_scene_is_gray_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, file = results_folder(tmp_path), tmp_path / "a.rrd"
    (out / "frames" / "frame_000001.jpg").unlink()
    assert main(["view", str(out), "--save", str(file)]) == 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "frame_000001.jpg does not exist (1 of 3 frames are missing)" in line
    recording = read_recording(file)
    assert "world/camera/frame" not in recording
    assert (recording["world/points/high"][0].colors() == 170).all()


@pytest.mark.usefixtures("with_rerun")
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["foreign.npz", "--save", "a.rrd"], "it has no info"),
        (["nothing", "--save", "a.rrd"], "nothing does not exist; wanted a scene.npz"),
        (["foreign.npz", "--save", "a.html"], "must end in .rrd"),
        (["foreign.npz", "--save", "no/a.rrd"], "the folder no does not exist"),
        (["foreign.npz", "--save", "folder.rrd"], "folder.rrd, which is a folder"),
        (["foreign.npz", "--save", "a.rrd", "--web"], "give only one of the two"),
        (["street", "--web", "--port", "65535"], "port is 65535; wanted 1 to 65534"),
        (["street", "--save", "a.rrd", "--max-points", "0"], "max_points is 0; wanted at least 2"),
    ],
)
def test_mistakes_are_one_line(arguments, wanted: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("foreign.npz", depth=np.zeros(3))
    Path("folder.rrd").mkdir()
    if arguments[0] == "street":
        results_folder(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["view", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert wanted in line
    assert sorted(tmp_path.iterdir()) == before


def test_without_rerun_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["view", "anything"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install -e '.[view]'" in line


def free_port() -> int:
    """Find a free port whose next port is free too."""
    for port in range(20000 + os.getpid() % 20000, 60000, 2):
        with socket() as one, socket() as other:
            try:
                one.bind(("0.0.0.0", port))
                other.bind(("0.0.0.0", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError


@pytest.mark.usefixtures("with_rerun")
def test_only_the_viewer_page_may_read_the_recording():
    port = free_port()
    view = viewer.record_scene(walls.make_scene(), torch.arange(3.0))
    with viewer.served(view, port) as address:
        page = f"http://localhost:{port}"
        assert address == f"{page}/?url=http%3A%2F%2Flocalhost%3A{port + 1}%2Fscene.rrd"
        assert b"html" in urllib.request.urlopen(page).read(200)
        recording = f"http://localhost:{port + 1}/scene.rrd"
        for origin, allowed in ((page, page), (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")):
            with urllib.request.urlopen(urllib.request.Request(recording, headers={"Origin": origin})) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == allowed
                assert answer.read(4) == b"RRF2"
        other = urllib.request.Request(recording, headers={"Origin": "http://example.org"})
        with urllib.request.urlopen(other) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] is None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(recording)


@pytest.mark.usefixtures("with_rerun")
@pytest.mark.parametrize("taken", [0, 1])
def test_a_taken_port_is_one_line(taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    port = free_port()
    with socket() as other:
        other.bind(("0.0.0.0", port + taken))
        other.listen()
        view = viewer.record_scene(walls.make_scene(), torch.arange(3.0))
        with (
            pytest.raises(UserError, match=f"port {port + taken} cannot be used; choose another port"),
            viewer.served(view, port),
        ):
            pass
        line = fails(capsys, "view", results_folder(tmp_path), "--web", "--port", port)
        assert line.endswith("(give another --port)")


@pytest.mark.end_to_end
@pytest.mark.usefixtures("with_rerun")
def test_without_a_display_the_scene_is_served_until_ctrl_c(tmp_path: Path):
    out, port = results_folder(tmp_path), free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    # Processes that a shell starts in the background inherit an ignored SIGINT: restore the default handler.
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run = "from recon4d.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", listen + run, "view", str(out), "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        first, address = process.stdout.readline(), process.stdout.readline()
        assert "no display found, serving the scene to a browser instead" in first
        assert address.startswith(f"http://localhost:{port}/")
        assert urllib.request.urlopen(f"http://localhost:{port + 1}/scene.rrd").read(4) == b"RRF2"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert rest.endswith("stopped\n")
    assert "Traceback" not in errors


def test_a_display_is_found_by_environment_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not viewer.has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert viewer.has_display()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert viewer.has_display()
