"""The command line: reconstruction of a clip, one line for every mistake of the user, and small commands."""

import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import walls
from commands import fails, run
from PIL import Image
from scenes import make_clip

import recon4d.zoo
from recon4d.cli.main import EXIT_BROKEN_PIPE, _warning_printer
from recon4d.datasets import DATASETS
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.io import save_scene, write_jpeg, write_video
from recon4d.zoo import DEFAULT_MODEL, create_model, save_model
from recon4d.zoo.registry import UntrainedWarning

EXAMPLE = Path(__file__).parents[2] / "examples" / "dog.mp4"
QUICK = ["--model", "recon4d_tiny", "--num-frames", "3", "--refine", "off"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(path, make_clip(frames=6, height=48, width=64).images.permute(0, 2, 3, 1).numpy(), 10.0)
    return path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Reconstruct the example clip in another process, as a user starts it; return the imported modules too."""
    out = tmp_path_factory.mktemp("results") / "out"
    options = ["--num-frames", "3", "--output-size", "256", "--refine", "off"]
    command = [sys.executable, "-X", "importtime", "-m", "recon4d.cli", "reconstruct", EXAMPLE, "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dog.mp4: 3 frames of 640 x 360 pixels, evenly spaced from 0.00 s to" in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return out, {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture(scope="module")
def out(started: tuple[Path, set[str]]) -> Path:
    """Return the folder of that reconstruction."""
    return started[0]


class TestReconstruct:
    def test_exactly_the_documented_files_are_written(self, out: Path) -> None:
        names = {"scene.npz", "frames", "depth.mp4", "cameras.png", "points.ply"}
        assert {path.name for path in out.iterdir()} == names
        assert {path.name for path in out.parent.iterdir()} == {"out"}
        assert len(list((out / "frames").iterdir())) == 3
        with Image.open(next((out / "frames").iterdir())) as frame:
            assert frame.size == (640, 360)

    def test_the_archive_has_the_documented_arrays(self, out: Path) -> None:
        with np.load(out / "scene.npz", allow_pickle=False) as scene:
            height, width = 144, 256
            queries = scene["tracks_pixels"].shape[1]  # one for each pixel of the network's maps
            shapes = {
                "world_from_cam": (3, 4, 4),
                "intrinsics": (3, 3, 3),
                "depths": (3, height, width),
                "depth_confidence": (3, height, width),
                "points": (3, height, width, 3),
                "point_confidence": (3, height, width),
                "moving": (3, height, width),
                "tracks_points": (1, 3, queries, 3),
                "tracks_visible": (1, 3, queries),
                "tracks_confidence": (1, 3, queries),
                "tracks_anchors": (1,),
                "tracks_pixels": (1, queries, 2),
                "times": (3,),
            }
            assert set(scene.files) == {*shapes, "metres_per_unit", "info"}
            for name, shape in shapes.items():
                assert scene[name].shape == shape
                assert np.isfinite(scene[name]).all()
            assert np.array_equal(scene["world_from_cam"][0], np.eye(4))
            rotation = scene["world_from_cam"][:, :3, :3].astype(np.float64)
            assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
            info = json.loads(str(scene["info"]))
        assert info["model"] == DEFAULT_MODEL
        assert info["original_size"] == [360, 640]
        assert info["settings"]["num_frames"] == 3
        assert len(info["source"]["numbers"]) == 3

    @pytest.mark.parametrize(("side", "expected"), [("96", (54, 96)), ("32", (48, 80))])
    def test_output_size_is_the_longer_side_and_never_below_the_maps_of_the_network(
        self, side: str, expected: tuple[int, int], tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.mp4"
        write_video(path, make_clip(frames=2, height=90, width=160).images.permute(0, 2, 3, 1).numpy(), 10.0)
        options = ["--processing-size", "56", "--output-size", side, *QUICK]
        assert run("reconstruct", path, "--out", tmp_path / "out", *options) == 0
        with np.load(tmp_path / "out" / "scene.npz") as scene:
            assert scene["depths"].shape[1:] == expected

    @pytest.mark.parametrize("options", [("--output-size", "0"), ("--output-size", "99", "--full-resolution")])
    def test_impossible_output_sizes_are_refused(self, options: tuple[str, ...], video: Path, tmp_path: Path) -> None:
        assert run("reconstruct", video, "--out", tmp_path / "out", *options, *QUICK) == 2

    def test_full_resolution_writes_maps_at_the_size_of_the_clip(self, video: Path, tmp_path: Path) -> None:
        assert run("reconstruct", video, "--out", tmp_path / "out", "--full-resolution", *QUICK) == 0
        with np.load(tmp_path / "out" / "scene.npz") as scene:
            assert scene["depths"].shape == (3, 48, 64)

    def test_a_folder_of_photos_a_checkpoint_and_anchors(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        for number, image in enumerate(make_clip(frames=3, height=40, width=40).images):
            write_jpeg(tmp_path / "photos" / f"{number}.jpg", image)
        save_model(create_model("recon4d_tiny", pretrained=False), tmp_path / "mine.safetensors")
        options = ["--model", tmp_path / "mine.safetensors", "--anchors", "0", "2", "--refine", "off"]
        assert run("reconstruct", tmp_path / "photos", "--out", tmp_path / "out", *options) == 0
        with np.load(tmp_path / "out" / "scene.npz") as scene:
            assert scene["tracks_anchors"].tolist() == [0, 2]
            assert np.isnan(scene["times"]).all()

    def test_overwriting_an_earlier_result(self, video: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out"
        assert run("reconstruct", video, "--out", out, *QUICK) == 0
        before = (out / "scene.npz").read_bytes()
        with np.load(out / "scene.npz") as opened:
            first = dict(opened)
        assert "not empty" in fails(capsys, "reconstruct", video, "--out", out, *QUICK)
        assert (out / "scene.npz").read_bytes() == before
        (out / "depth.mp4").write_bytes(b"an earlier result")
        assert run("reconstruct", video, "--out", out, "--overwrite", *QUICK) == 0
        assert (out / "depth.mp4").stat().st_size > 100
        # The same command writes the same scene.
        with np.load(out / "scene.npz") as second:
            assert all(np.array_equal(second[name], first[name], equal_nan=True) for name in first if name != "info")


class TestBadInput:
    """Each mistake is one line on stderr with exit code 2, and leaves no output folder."""

    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, tmp_path: Path):
        yield
        left = [path.name for path in tmp_path.iterdir() if "out" in path.name or "partial" in path.name]
        assert not left

    def test_missing_file(self, tmp_path: Path, capsys) -> None:
        assert "none.mp4 does not exist" in fails(
            capsys, "reconstruct", tmp_path / "none.mp4", "--out", tmp_path / "out"
        )

    def test_size_too_small(self, tmp_path: Path, capsys) -> None:
        path = tmp_path / "small.jpg"
        write_jpeg(path, torch.zeros(3, 20, 40, dtype=torch.uint8))
        assert "at least 32" in fails(capsys, "reconstruct", path, "--out", tmp_path / "out", *QUICK)

    def test_unknown_model(self, video: Path, tmp_path: Path, capsys) -> None:
        line = fails(capsys, "reconstruct", video, "--out", tmp_path / "out", "--model", "nothing")
        assert "unknown model 'nothing'; wanted one of recon4d_tiny" in line

    def test_foreign_or_damaged_checkpoint(self, video: Path, tmp_path: Path, capsys) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(b"not weights")
        line = fails(capsys, "reconstruct", video, "--out", tmp_path / "out", "--model", path)
        assert "is damaged or not a safetensors file" in line

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--anchors", "5"], "anchors are [5]; they must be frames from 0 to 2"),
            (["--device", "gpu"], "device 'gpu' cannot be used on this machine"),
            (["--device", "meta"], "device 'meta' cannot be used on this machine"),
            (["--start", "50"], "start = 50 s is beyond the last frame"),
            (["--num-frames", "0"], "num_frames = 0"),
            (["--processing-size", "3"], "processing size is 3"),
        ],
    )
    def test_options_out_of_range(self, video: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
        assert message in fails(capsys, "reconstruct", video, "--out", tmp_path / "out", *QUICK, *options)

    def test_too_many_frames(self, tmp_path: Path, capsys) -> None:
        path = tmp_path / "long.mp4"
        write_video(path, (np.zeros((32, 32, 3), np.uint8) for _ in range(513)), 30.0)
        line = fails(capsys, "reconstruct", path, "--out", tmp_path / "out", "--num-frames", 513, "--keep-cuts")
        assert "a single pass supports 1 to 512" in line
        assert "use windows: --window 16, lower --num-frames, lower --fps" in line

    def test_output_folder_that_is_not_ours(self, video: Path, tmp_path: Path, capsys) -> None:
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "diary.txt").write_text("precious")
        assert "is not empty" in fails(capsys, "reconstruct", video, "--out", mine, *QUICK)
        assert "did not write it" in fails(capsys, "reconstruct", video, "--out", mine, "--overwrite", *QUICK)
        assert (mine / "diary.txt").read_text() == "precious"

    def test_output_folder_that_holds_the_input(self, video: Path, tmp_path: Path, capsys) -> None:
        assert run("reconstruct", video, "--out", tmp_path / "result", *QUICK) == 0
        frames = tmp_path / "result" / "frames"
        line = fails(capsys, "reconstruct", frames, "--out", tmp_path / "result", "--overwrite", *QUICK)
        assert "lies in the output folder" in line
        assert len(list(frames.iterdir())) == 3

    def test_disk_full(self, video: Path, tmp_path: Path, capsys) -> None:
        # For the writer, a limit on the file size is the same as a full disk.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            line = fails(capsys, "reconstruct", video, "--out", tmp_path / "out", *QUICK)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "File too large" in line
        assert "scene.npz" in line


class TestRender:
    OPTIONS = ("--clips", 2, "--num-frames", 3, "--size", 48, 64, "--tracks", 40)

    @pytest.mark.parametrize("layout", ["point-odyssey", "dynamic-replica", "kubric"])
    def test_rendered_scenes_are_read_back(self, tmp_path: Path, layout: str) -> None:
        assert run("render", "--format", layout, "--out", tmp_path / "set", *self.OPTIONS) == 0
        sequences = DATASETS[layout](tmp_path / "set")  # pyright: ignore[reportCallIssue]
        assert sequences.names() == ["world_0_0000", "world_0_0001"]
        config = SyntheticConfig(num_frames=3, height=48, width=64)
        truth = render_scenes(make_scenes(config, 0, [1]), config)[0].scene
        read = sequences.read("world_0_0001", [0, 1, 2]).scene
        torch.testing.assert_close(read.cameras.world_from_cam, truth.cameras.world_from_cam, atol=2e-2, rtol=1e-2)
        both = (read.depth_confidence > 0) & (truth.depth_confidence > 0)
        assert both.float().mean() > 0.9 * truth.depth_confidence.mean()
        torch.testing.assert_close(read.depths[both], truth.depths[both], atol=2e-2, rtol=2e-3)
        if layout != "kubric":
            assert read.tracks.points.shape[-2] == 40

    @pytest.mark.parametrize(("option", "minimum"), [("--clips", 1), ("--tracks", 0), ("--seed", 0)])
    def test_options_out_of_range(self, tmp_path: Path, capsys, option: str, minimum: int) -> None:
        line = fails(capsys, "render", "--out", tmp_path / "set", option, minimum - 1)
        assert line == f"recon4d: {option} is {minimum - 1}; it must be at least {minimum}"
        assert not (tmp_path / "set").exists()

    def test_a_full_folder_is_refused(self, tmp_path: Path, capsys) -> None:
        (tmp_path / "photo.jpg").write_text("precious")
        assert "is not empty" in fails(capsys, "render", "--out", tmp_path, *self.OPTIONS)


class TestCalibrate:
    def test_a_size_out_of_range(self, tmp_path: Path, capsys) -> None:
        line = fails(capsys, "calibrate", "recon4d_tiny", "--out", tmp_path / "tiny.safetensors", "--size", 0, 48)
        assert line == "recon4d: --size is 0 48; height and width must be at least 1"


class TestOther:
    def test_models_lists_names_with_licenses(self, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        # Counting the parameters of all models takes seconds.
        monkeypatch.setattr(recon4d.zoo, "list_models", lambda: ("recon4d_small", "recon4d_dinov3_small"))
        assert run("models") == 0
        printed = capsys.readouterr().out
        assert "recon4d_small" in printed
        assert "29.5 M" in printed
        assert "DINOv3 License" in printed
        recommended = printed.split("recommended:\n")[1].splitlines()
        assert [line.split()[0] for line in recommended] == ["recon4d_mini", "da3_base", "da3_small", "vggt_1b"]

    def test_help_imports_no_heavy_package(self) -> None:
        program = (
            "import sys; from recon4d.cli import main\n"
            "try: main(['reconstruct', '--help'])\n"
            "except SystemExit: pass\n"
            "print([name for name in ('torch', 'numpy', 'timm', 'av', 'matplotlib') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "--num-frames" in done.stdout
        assert done.stdout.rstrip().endswith("[]")

    def test_a_reconstruction_imports_only_what_it_uses(self, started: tuple[Path, set[str]]) -> None:
        """torch._dynamo, which is imported by unusual ways to create a model, takes more than a second."""
        heavy = {"torch._dynamo", "sympy", "torchvision", "timm", "open3d", "kornia", "pycolmap", "sklearn"}
        assert {"torch", "recon4d.inference.single_pass"} <= started[1]
        assert not heavy & started[1]

    @pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
    def test_waiting_threads_sleep_unless_told_otherwise(
        self, given: str | None, used: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        assert run("info", "missing") == 2
        assert os.environ["OMP_WAIT_POLICY"] == used


@pytest.mark.end_to_end
def test_a_reader_that_closes_the_output_causes_no_trace(tmp_path: Path) -> None:
    """As in ``recon4d info scene.npz | head -1``: the pipe is closed before anything is written."""
    save_scene(tmp_path / "scene.npz", walls.make_scene(), torch.arange(3.0), walls.make_info())
    command = [sys.executable, "-m", "recon4d.cli", "info", str(tmp_path / "scene.npz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == EXIT_BROKEN_PIPE


@pytest.mark.parametrize(
    ("category", "file", "shown"),
    [
        (UserWarning, str(Path(recon4d.__file__).parent / "io" / "photos.py"), "recon4d: warning: careful\n"),
        (UserWarning, "/usr/lib/python3/site-packages/torch/cuda/__init__.py", "torch: warning: careful\n"),
        (DeprecationWarning, "/usr/lib/python3/site-packages/torch/cuda/__init__.py", ""),
        (FutureWarning, str(Path(recon4d.__file__).parent / "io" / "photos.py"), ""),
        (UntrainedWarning, "/home/somebody/script.py", "recon4d: warning: careful\n"),
    ],
)
def test_warnings_of_libraries_are_not_shown_as_ours(category, file, shown, capsys, monkeypatch):
    monkeypatch.delenv("RECON4D_DEBUG", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", _warning_printer(None))
        code = compile("warnings.warn('careful', category, stacklevel=2)", file, "exec")
        exec(code, {"warnings": warnings, "category": category})
    assert capsys.readouterr().err == shown
