"""Reconstruction of many clips: output folders, failures of single clips, resumption, and several processes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scenes import make_clip, make_scene

from recon4d.cli import reconstruct as command
from recon4d.cli import reconstruct_pipeline
from recon4d.cli.main import main
from recon4d.errors import UserError
from recon4d.inference import (
    ClipOutcome,
    finished_frames,
    format_outcomes,
    output_folders,
    reconstruct_each,
)
from recon4d.io import SceneInfo, load_scene_info, write_results, write_video
from recon4d.records import ClipSource

QUICK = ("--model", "recon4d_tiny", "--num-frames", "2", "--processing-size", "32", "--refine", "off")


def video(path: Path, seed: int) -> Path:
    """Write a video of three random frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, make_clip(3, 48, 64, seed).images.permute(0, 2, 3, 1).numpy(), 10.0)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Return three clips; the second is not a video."""
    paths = [tmp_path / "clips" / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    for seed in (0, 2):
        video(paths[seed], seed)
    paths[1].write_text("no video")
    return paths


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the clips that are reconstructed and the models that are created, in order."""
    recorded: list[str] = []
    reconstruct_clip, find_model = command.reconstruct_clip, reconstruct_pipeline.find_model

    def counted(path: Path, *rest: object) -> int:
        recorded.append(path.name)
        return reconstruct_clip(path, *rest)  # pyright: ignore[reportArgumentType]

    def found(name: str) -> object:
        recorded.append(name)
        return find_model(name)

    monkeypatch.setattr(command, "reconstruct_clip", counted)
    monkeypatch.setattr(reconstruct_pipeline, "find_model", found)
    return recorded


def run(clips: list[Path], out: Path, *options: str) -> int:
    return main(["reconstruct", *map(str, clips), "--out", str(out), *QUICK, *options])


class TestCommand:
    def test_a_broken_clip_does_not_stop_the_others(
        self, clips: list[Path], tmp_path: Path, runs: list[str], capsys
    ) -> None:
        assert run(clips, tmp_path / "out") == 2
        # All clips share one model.
        assert runs == ["recon4d_tiny", "a.mp4", "b.mp4", "c.mp4"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]
        printed = capsys.readouterr()
        table = printed.out.splitlines()[-4:]
        assert table[0].split() == ["clip", "frames", "seconds", "result"]
        assert [line.split()[0] for line in table[1:]] == [str(clip) for clip in clips]
        assert table[1].split()[1] == "2"
        assert table[1].endswith(str(tmp_path / "out" / "a"))
        assert "failed: " in table[2]
        assert "b.mp4 is not a video" in table[2]
        assert printed.err.splitlines()[-1] == "recon4d: 1 of 3 clips failed; the table gives the reasons"

        # After the broken clip is replaced, the same command reconstructs only that one.
        video(clips[1], 1)
        before = (tmp_path / "out" / "a" / "scene.npz").stat().st_mtime_ns
        runs.clear()
        assert run(clips, tmp_path / "out") == 0
        assert runs == ["recon4d_tiny", "b.mp4"]
        assert (tmp_path / "out" / "a" / "scene.npz").stat().st_mtime_ns == before
        assert capsys.readouterr().out.count("(done before)") == 2
        runs.clear()
        assert run(clips, tmp_path / "out") == 0
        assert runs == []

    def test_results_with_other_settings_are_not_done(
        self, clips: list[Path], tmp_path: Path, runs: list[str], capsys
    ) -> None:
        pair = [clips[0], clips[2]]
        assert run(pair, tmp_path / "out") == 0
        assert run(pair, tmp_path / "out", "--key-stride", "2") == 2
        assert capsys.readouterr().out.count("not empty") == 2
        assert load_scene_info(tmp_path / "out" / "a").settings["key_stride"] == 1
        runs.clear()
        assert run(pair, tmp_path / "out", "--key-stride", "2", "--overwrite") == 0
        assert runs == ["recon4d_tiny", "a.mp4", "c.mp4"]
        assert load_scene_info(tmp_path / "out" / "a").settings["key_stride"] == 2

    def test_errors_that_concern_all_clips_are_reported_once(self, clips: list[Path], tmp_path: Path, capsys) -> None:
        assert run(clips, tmp_path / "out", "--model", "nothing") == 2
        assert capsys.readouterr().err.count("unknown model 'nothing'") == 1
        for option in (("--cameras", "x.txt"), ("--depth", "x.npz"), ("--mask", str(tmp_path))):
            assert run(clips, tmp_path / "out", *option) == 2
            assert "describe a single clip" in capsys.readouterr().err
        assert main(["reconstruct", "--out", str(tmp_path / "out")]) == 2
        assert "at least one clip" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_an_interrupt_keeps_what_is_finished(
        self, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        reconstruct_clip = command.reconstruct_clip

        def interrupted(path: Path, *rest: object) -> int:
            if path.name == "c.mp4":
                raise KeyboardInterrupt
            return reconstruct_clip(path, *rest)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(command, "reconstruct_clip", interrupted)
        assert run(clips, tmp_path / "out") == 130
        error = capsys.readouterr().err
        assert f"finished clips stay in {tmp_path / 'out'}, and the same command continues" in error
        assert "nothing was written" not in error
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]

    @pytest.mark.end_to_end
    def test_a_killed_run_can_be_resumed(self, clips: list[Path], tmp_path: Path, runs: list[str]) -> None:
        """The process is killed while it writes the folder of the last clip."""
        arguments = ["reconstruct", *map(str, clips), "--out", str(tmp_path / "out"), *QUICK]
        program = (
            "import os, signal, sys\n"
            "import recon4d.io as export\n"
            "from recon4d.cli import main\n"
            "write = export.write_results\n"
            "def dying(folder, clip, scene, info, **options):\n"
            "    write(folder, clip, scene, info, **options)\n"
            "    if 'c.mp4' in info.source.path: os.kill(os.getpid(), signal.SIGKILL)\n"
            "export.write_results = dying\n"
            "main(sys.argv[1:])\n"
        )
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert (tmp_path / "out" / "a" / "scene.npz").is_file()
        assert not (tmp_path / "out" / "c").exists()
        assert main(arguments) == 2
        assert runs == ["recon4d_tiny", "b.mp4", "c.mp4"]
        assert (tmp_path / "out" / "c" / "scene.npz").is_file()

    @pytest.mark.end_to_end
    def test_two_processes_share_the_clips(self, clips: list[Path], tmp_path: Path) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "recon4d.cli"]
        arguments = ["reconstruct", *map(str, clips), "--out", str(tmp_path / "out"), *QUICK]
        done = subprocess.run(
            [sys.executable, *launcher, *arguments],
            check=False,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0
        assert done.stderr.count("1 of 3 clips failed") == 1
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]
        # One table for both processes, in the order of the command; the second process had the broken clip.
        table = done.stdout[done.stdout.index("clip  ") :].splitlines()
        assert [line.split()[0] for line in table[1:4]] == [str(clip) for clip in clips]
        assert done.stdout.count("frames  seconds  result") == 1


class TestFolders:
    def test_equal_names_are_prefixed_with_parent_folders(self, tmp_path: Path) -> None:
        names = ("x/day/clip.mp4", "y/day/clip.mp4", "y/night/clip.mp4", "y/other.mp4", "z/one.mp4", "z/one.mov")
        clips = [tmp_path / name for name in names]
        folders = output_folders(clips, Path("out"))
        assert list(folders) == clips
        assert [folder.name for folder in folders.values()] == [
            *("x_day_clip", "y_day_clip", "night_clip", "other", "one.mp4", "one.mov")
        ]

    def test_names_that_are_still_equal_are_numbered(self) -> None:
        """With all parents, the first two have the same name; the third forces the second to use all parents."""
        clips = [Path("/a_b/clip.mp4"), Path("/a/b/clip.mp4"), Path("/c/b/Clip.mp4")]
        names = [folder.name.lower() for folder in output_folders(clips, Path("out")).values()]
        assert len(set(names)) == 3

    def test_a_folder_keeps_its_whole_name_and_a_clip_given_twice_counts_once(self, tmp_path: Path) -> None:
        photos = tmp_path / "photos.v2"
        photos.mkdir()
        folders = output_folders([photos, tmp_path / "clip.mp4", tmp_path / "photos.v2" / ".." / "clip.mp4"], Path("o"))
        assert folders == {photos: Path("o/photos.v2"), tmp_path / "clip.mp4": Path("o/clip")}


class TestOutcomes:
    def test_every_clip_belongs_to_one_process(self) -> None:
        folders = {Path(str(number)): Path("nowhere") / str(number) for number in range(7)}
        done = [
            int(outcome.clip)
            for rank in range(3)
            for outcome in reconstruct_each(folders, lambda _: {}, lambda clip, _: int(str(clip)), rank, 3)
        ]
        assert sorted(done) == list(range(7))
        assert done[:3] == [0, 3, 6]

    def test_user_errors_are_outcomes(self, capsys) -> None:
        def fail(clip: Path, folder: Path) -> int:
            raise UserError("two\nlines")

        folders = {Path(name): Path("nowhere") / name for name in "ab"}
        outcomes = reconstruct_each(folders, lambda _: {}, fail)
        assert [(outcome.result, outcome.reason) for outcome in outcomes] == [("failed", "two lines")] * 2
        assert capsys.readouterr().err.splitlines() == ["recon4d: a: two lines", "recon4d: b: two lines"]

    @pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("shapes"), MemoryError(), OSError("disk")])
    def test_defects_are_not_caught(self, error: Exception) -> None:
        def fail(clip: Path, folder: Path) -> int:
            raise error

        with pytest.raises(type(error)) as caught:
            reconstruct_each({Path("a"): Path("nowhere/a")}, lambda _: {}, fail)
        assert caught.value is error

    @pytest.mark.parametrize("missing", ["scene.npz", "frames/frame_000000.jpg", "frames/frame_000001.jpg"])
    def test_only_complete_results_are_done(self, tmp_path: Path, missing: str) -> None:
        source = ClipSource("clip.mp4", tuple(f"frame_{number:06d}" for number in range(2)), (0, 1))
        clip = replace(make_clip(2, 48, 64), source=source)
        settings: dict = {"fps": 2.0}
        scene = make_scene(2)
        write_results(tmp_path, clip, scene, SceneInfo("model", True, "0", source, clip.size, settings))
        assert finished_frames(tmp_path, settings) == 2
        assert finished_frames(tmp_path, {"fps": 3.0}) is None
        (tmp_path / missing).unlink()
        assert finished_frames(tmp_path, settings) is None

    def test_a_damaged_archive_is_not_done(self, tmp_path: Path) -> None:
        (tmp_path / "scene.npz").write_bytes(b"PK\x03\x04 and then nothing")
        assert finished_frames(tmp_path, {}) is None
        assert finished_frames(tmp_path / "none", {}) is None

    def test_the_columns_of_the_table_are_aligned(self) -> None:
        rows = format_outcomes(
            [
                ClipOutcome("a.mp4", "out/a", 16, 1.25, "done"),
                ClipOutcome("long.mp4", "out/long", None, 0.5, "failed", "why"),
            ]
        ).splitlines()
        assert rows == [
            "clip      frames  seconds  result",
            "a.mp4         16      1.2  out/a",
            "long.mp4              0.5  failed: why",
        ]
