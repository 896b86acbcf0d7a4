"""Uploads, sessions and downloads of the app, without gradio: limits, bad files, two sessions, full disks."""

import errno
import os
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import walls

from recon4d.app import Controller, JobOptions, Limits, Worker
from recon4d.app.downloads import RESULTS, download_choices
from recon4d.app.examples import Example, find_examples
from recon4d.app.options import model_choices
from recon4d.app.reconstruction import AppResult
from recon4d.errors import UserError
from recon4d.io import FORMATS, write_jpeg, write_results, write_video

OPTIONS = JobOptions("recon4d_mini", num_frames=3)


class InstantWorker(Worker):
    """Writes the wall at once, in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.clips: list[list[str]] = []

    def run(self, request, on_message, stop) -> AppResult:
        self.clips.append(sorted(path.name for path in request.inputs.iterdir()))
        request.out.mkdir()
        info = walls.make_info(source=None, original_size=(walls.HEIGHT, walls.WIDTH))
        write_results(request.out, walls.make_clip(), walls.make_scene(), info)
        views = tuple(request.out.parent / f"{kind}.glb" for kind in ("m0", "m1", "m2", "s0", "s1", "s2"))
        return AppResult(request.out, ("0", "1", "2"), views[:3], views[3:], (), (), ())


@pytest.fixture
def worker() -> InstantWorker:
    return InstantWorker()


@pytest.fixture
def controller(tmp_path: Path, worker: InstantWorker) -> Iterator[Controller]:
    root = tmp_path / "root"
    root.mkdir()
    controller = Controller(root, Limits(upload_megabytes=1, frames=8, seconds=5.0), worker)
    yield controller
    controller.close()


@pytest.fixture
def uploaded(tmp_path: Path) -> list[Path]:
    """Pictures in the folder of uploads, as the server stores them: each in a folder of its own."""
    files = []
    for number, name in enumerate(["b.jpg", "a.jpg", "A.jpg"]):
        files.append(tmp_path / "root" / f"hash{number}" / name)
        files[-1].parent.mkdir(parents=True)
        write_jpeg(files[-1], torch.full((3, 24, 32), 80 * number, dtype=torch.uint8))
    return files


def video(path: Path, num_frames: int) -> Path:
    frames = (torch.full((32, 48, 3), number, dtype=torch.uint8) for number in range(num_frames))
    write_video(path, frames, 10.0)
    return path


def run(controller: Controller, session: str) -> None:
    controller.start(session, OPTIONS)
    job = controller._sessions.get(session).job
    assert job is not None
    assert job.finished.wait(60)


class TestUploads:
    def test_pictures_are_kept_under_their_names_with_a_preview(self, controller: Controller, uploaded: list[Path]):
        upload = controller.take_files("one", uploaded)
        assert upload.summary == "3 pictures of 32 x 24 pixels"
        assert len({name.lower() for name in upload.names}) == 3
        assert len(upload.previews) == 3
        assert all(path.stat().st_size for path in upload.previews)

    def test_a_video_tells_its_length(self, controller: Controller, tmp_path: Path):
        upload = controller.take_files("one", [video(tmp_path / "clip.mp4", 20)])
        assert upload.summary == "clip.mp4: 1.9 s, 48 x 32 pixels"

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("notes.txt", b"hello", "^notes.txt is not a video"),
            ("broken.jpg", b"\xff\xd8\xff", "^broken.jpg"),
            ("empty.mp4", b"", "^empty.mp4 is not a video"),
            ("large.mp4", bytes(1_600_000), "^the files have 2 MB; at most 1 MB are allowed"),
        ],
    )
    def test_bad_files_are_named_as_the_person_knows_them(
        self, name: str, content: bytes, message: str, controller: Controller, tmp_path: Path
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            controller.take_files("one", [tmp_path / name])
        with pytest.raises(UserError, match="choose a video or pictures first"):
            controller.start("one", OPTIONS)

    def test_long_videos_and_mixed_files_are_refused(
        self, controller: Controller, tmp_path: Path, uploaded: list[Path]
    ):
        long = video(tmp_path / "long.mp4", 80)
        with pytest.raises(UserError, match=r"long\.mp4 is 8 s long; at most 5 s are allowed"):
            controller.take_files("one", [long])
        with pytest.raises(UserError, match="either one video or pictures"):
            controller.take_files("one", [long, *uploaded])

    def test_a_full_disk_is_one_line(self, controller: Controller, uploaded: list[Path], monkeypatch):
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5_000_000))
            with pytest.raises(UserError, match="disk is full: 5 MB are free, 300 are needed"):
                controller.take_files("one", uploaded)

        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", fail)
            patch.setattr(shutil, "copyfile", fail)
            with pytest.raises(UserError, match="the files cannot be stored: No space left on device"):
                controller.take_files("one", uploaded)
        controller.take_files("one", uploaded)


class TestSessions:
    def test_two_sessions_keep_their_files_apart_and_the_end_of_one_leaves_the_other(
        self, controller: Controller, uploaded: list[Path], worker: InstantWorker
    ):
        controller.take_files("one", uploaded[:1])
        controller.take_files("two", uploaded[1:2])
        run(controller, "one")
        run(controller, "two")
        assert worker.clips == [["b.jpg"], ["a.jpg"]]
        first, second = (controller._sessions.get(name).folder for name in ("one", "two"))
        controller.close_session("one")
        assert not first.exists()
        assert second.is_dir()
        assert controller.view("two", 0, "moment").name == "m0.glb"
        with pytest.raises(UserError, match="the connection to the server was lost"):
            controller.view("one", 0, "moment")

    def test_uploads_are_removed_once_no_session_has_them(
        self, controller: Controller, uploaded: list[Path], monkeypatch: pytest.MonkeyPatch
    ):
        from recon4d.app import sessions

        monkeypatch.setattr(sessions, "UPLOAD_SECONDS", -1.0)
        controller.take_files("one", uploaded[:2])
        controller.take_files("two", uploaded[1:2])
        controller.close_session("one")
        assert [file.exists() for file in uploaded] == [False, True, False]

    def test_a_new_run_replaces_the_earlier_one(self, controller: Controller, uploaded: list[Path]):
        controller.take_files("one", uploaded)
        run(controller, "one")
        earlier = controller.status("one").result
        run(controller, "one")
        later = controller.status("one").result
        assert earlier is not None
        assert later is not None
        assert not earlier.folder.exists()
        assert later.folder.is_dir()

    def test_views_are_those_of_time_and_kind(self, controller: Controller, uploaded: list[Path]):
        controller.take_files("one", uploaded)
        run(controller, "one")
        names = [controller.view("one", number, "scene").name for number in (0, 2, 9, -1)]
        assert names == ["s0.glb", "s2.glb", "s2.glb", "s0.glb"]
        assert controller.view("one", 1, "moment").name == "m1.glb"

    def test_limits_hold_for_runs(self, controller: Controller, uploaded: list[Path]):
        controller.take_files("one", uploaded)
        with pytest.raises(UserError, match="9 frames are wanted; at most 8 are allowed"):
            controller.start("one", JobOptions("recon4d_mini", num_frames=9))
        for wrong in ({"upload_megabytes": 0}, {"frames": 1}, {"seconds": 0.0}):
            with pytest.raises(UserError, match="wanted"):
                Limits(**wrong)


class TestDownloads:
    def test_formats_are_zip_files_and_one_that_fails_does_not_prevent_the_others(
        self, controller: Controller, uploaded: list[Path]
    ):
        controller.take_files("one", uploaded)
        run(controller, "one")
        with pytest.raises(UserError, match="choose at least one format"):
            controller.downloads("one", [], 20.0)
        downloads = controller.downloads("one", [RESULTS, "tum", "alpha", "ply"], 20.0)
        names = {path.name: set(zipfile.ZipFile(path).namelist()) for path in downloads.files}
        assert {"scene.npz", "depth.mp4", "frames/frame_000000.jpg"} <= names["recon4d_results.zip"]
        assert names["recon4d_ply.zip"] >= {"ply/static.ply"} or "static.ply" in str(names["recon4d_ply.zip"])
        assert len(downloads.files) + len(downloads.problems) == 4
        assert all(str(controller._sessions.get("one").folder) not in problem for problem in downloads.problems)

    def test_every_export_is_offered_once(self):
        names = [name for _, name in download_choices()]
        assert set(names) == {RESULTS, *FORMATS}
        assert len(set(names)) == len(names)


class TestChoices:
    def test_models_say_whether_they_work_offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("RECON4D_CACHE", str(tmp_path))
        labels = {choice.name: choice.label for choice in model_choices()}
        assert next(iter(labels)) == "recon4d_mini"
        assert labels["recon4d_mini"].endswith("works offline")
        assert "needs a download" in labels["da3_small"]
        assert "recon4d_tiny" not in labels
        (tmp_path / "da3_small.safetensors").touch()
        assert "works offline" in {choice.name: choice.label for choice in model_choices()}["da3_small"]

    def test_the_synthetic_example_exists_without_the_repository(self, controller: Controller):
        assert any(not example.files for example in find_examples())
        upload = controller.take_example("one", Example("synthetic", ()))
        assert upload.summary == "8 pictures of 256 x 192 pixels"
