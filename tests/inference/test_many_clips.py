"""Many clips by one command: folders by name, one failure alone, a stop gone on from, and work shared by processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import make_clip

from recon4d.cli import clip_pipeline as clip_work
from recon4d.cli.main import main
from recon4d.inference import (
    Outcome,
    finished_frames,
    output_folders,
    reconstruct_each,
    table_of,
)
from recon4d.io import load_scene_info, write_video

QUICK = ("--model", "recon4d_tiny", "--num-frames", "2", "--processing-size", "32")


def video(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, make_clip(3, 48, 64, seed).images.permute(0, 2, 3, 1).numpy(), 10.0)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Three clips, the second of which is broken."""
    paths = [tmp_path / "clips" / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    for seed in (0, 2):
        video(paths[seed], seed)
    paths[1].write_text("no video")
    return paths


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that are worked on, and every model that is made, as they come."""
    asked: list[str] = []
    work, find_model = clip_work.ClipPipeline.reconstruct, clip_work.find_model

    def counted(self: clip_work.ClipPipeline, path: Path, *rest: object) -> int:
        asked.append(path.name)
        return work(self, path, *rest)  # pyright: ignore[reportArgumentType]

    def found(name: str) -> object:
        asked.append(name)
        return find_model(name)

    monkeypatch.setattr(clip_work.ClipPipeline, "reconstruct", counted)
    monkeypatch.setattr(clip_work, "find_model", found)
    return asked


def run(clips: list[Path], out: Path, *options: str) -> int:
    return main(["reconstruct", *map(str, clips), "--out", str(out), *QUICK, *options])


class TestCommand:
    def test_one_broken_clip_stops_no_other(self, clips: list[Path], tmp_path: Path, runs: list[str], capsys) -> None:
        assert run(clips, tmp_path / "out") == 2
        # One model for all.
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
        assert printed.err.splitlines()[-1] == "recon4d: 1 of 3 clips failed; the reasons are in the table"

        # Mended and asked again, only what is missing is done, and all is well.
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

    def test_other_settings_are_not_taken_for_done(
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

    def test_what_is_wrong_for_all_is_said_once(self, clips: list[Path], tmp_path: Path, capsys) -> None:
        assert run(clips, tmp_path / "out", "--model", "nothing") == 2
        assert capsys.readouterr().err.count("unknown model 'nothing'") == 1
        for option in (("--cameras", "x.txt"), ("--depth", "x.npz"), ("--mask", str(tmp_path))):
            assert run(clips, tmp_path / "out", *option) == 2
            assert "belong to one clip" in capsys.readouterr().err
        assert main(["reconstruct", "--out", str(tmp_path / "out")]) == 2
        assert "at least one clip" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_an_interrupt_keeps_what_is_finished(
        self, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        work = clip_work.ClipPipeline.reconstruct

        def interrupted(self: clip_work.ClipPipeline, path: Path, *rest: object) -> int:
            if path.name == "c.mp4":
                raise KeyboardInterrupt
            return work(self, path, *rest)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(clip_work.ClipPipeline, "reconstruct", interrupted)
        with pytest.raises(SystemExit, match="130"):
            run(clips, tmp_path / "out")
        assert "the same command goes on" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]

    def test_a_killed_run_is_gone_on_with(self, clips: list[Path], tmp_path: Path, runs: list[str]) -> None:
        """The process dies in the middle of the last clip, with its folder half written."""
        arguments = ["reconstruct", *map(str, clips), "--out", str(tmp_path / "out"), *QUICK]
        program = (
            "import os, signal, sys\n"
            "import recon4d.io as export\n"
            "from recon4d.cli import main\n"
            "write = export.write_results\n"
            "def dying(folder, clip, scene, info):\n"
            "    write(folder, clip, scene, info)\n"
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
        # One table, in the order given: the second process did the broken one.
        table = done.stdout[done.stdout.index("clip  ") :].splitlines()
        assert [line.split()[0] for line in table[1:4]] == [str(clip) for clip in clips]
        assert done.stdout.count("frames  seconds  result") == 1


class TestFolders:
    def test_clips_are_told_apart_by_as_much_as_it_takes(self, tmp_path: Path) -> None:
        names = ("x/day/clip.mp4", "y/day/clip.mp4", "y/night/clip.mp4", "y/other.mp4", "z/one.mp4", "z/one.mov")
        clips = [tmp_path / name for name in names]
        folders = output_folders(clips, Path("out"))
        assert list(folders) == clips
        assert [folder.name for folder in folders.values()] == [
            *("x_day_clip", "y_day_clip", "night_clip", "other", "one.mp4", "one.mov")
        ]

    def test_names_that_still_meet_are_numbered(self) -> None:
        """The first two have the same parts in the same order, and the third makes the second need all of them."""
        clips = [Path("/a_b/clip.mp4"), Path("/a/b/clip.mp4"), Path("/c/b/Clip.mp4")]
        names = [folder.name.lower() for folder in output_folders(clips, Path("out")).values()]
        assert len(set(names)) == 3

    def test_a_folder_keeps_its_whole_name_and_a_clip_given_twice_counts_once(self, tmp_path: Path) -> None:
        photos = tmp_path / "photos.v2"
        photos.mkdir()
        folders = output_folders([photos, tmp_path / "clip.mp4", tmp_path / "photos.v2" / ".." / "clip.mp4"], Path("o"))
        assert folders == {photos: Path("o/photos.v2"), tmp_path / "clip.mp4": Path("o/clip")}


class TestShares:
    def test_every_clip_is_done_once_whatever_the_number_of_processes(self) -> None:
        folders = {Path(str(number)): Path("nowhere") / str(number) for number in range(7)}
        done = [
            int(outcome.clip)
            for process in range(3)
            for outcome in reconstruct_each(folders, lambda _: {}, lambda clip, _: int(str(clip)), process, 3)
        ]
        assert sorted(done) == list(range(7))
        assert done[:3] == [0, 3, 6]

    def test_a_defect_is_an_outcome_with_its_kind(self, capsys) -> None:
        def broken(clip: Path, folder: Path) -> int:
            raise {"a": RuntimeError("two\nlines"), "b": MemoryError(), "c": OSError(28, "No space", "x")}[clip.name]

        folders = {Path(name): Path("nowhere") / name for name in "abc"}
        outcomes = reconstruct_each(folders, lambda _: {}, broken)
        assert [outcome.reason for outcome in outcomes] == ["RuntimeError: two lines", "MemoryError", "No space: x"]
        assert {outcome.result for outcome in outcomes} == {"failed"}
        assert capsys.readouterr().err.splitlines()[0] == "recon4d: a: RuntimeError: two lines"

    def test_a_damaged_scene_is_not_done(self, tmp_path: Path) -> None:
        (tmp_path / "scene.npz").write_bytes(b"PK\x03\x04 and then nothing")
        assert finished_frames(tmp_path, {}) is None
        assert finished_frames(tmp_path / "none", {}) is None

    def test_the_table_lines_up(self) -> None:
        rows = table_of(
            [Outcome("a.mp4", "out/a", 16, 1.25, "done"), Outcome("long.mp4", "out/long", None, 0.5, "failed", "why")]
        ).splitlines()
        assert rows == [
            "clip      frames  seconds  result",
            "a.mp4         16      1.2  out/a",
            "long.mp4              0.5  failed: why",
        ]
