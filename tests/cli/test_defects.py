"""Defects of the package surface with their traceback; only a `UserError` is printed as one line."""

import warnings
from pathlib import Path

import pytest
from commands import fails, run

from recon4d.cli.adapt import AdaptCommand
from recon4d.cli.hints import add_hint
from recon4d.cli.info import InfoCommand
from recon4d.cli.reconstruct import ReconstructCommand
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.io import write_raster

BUNDLE_ADJUSTMENT = "recon4d.refine.cameras.hypotheses.adjust"


@pytest.mark.parametrize(
    "error",
    [ValueError("shapes differ"), OSError(5, "Input/output error"), MemoryError("full"), RuntimeError("broken")],
)
def test_other_errors_than_those_of_the_user_surface(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: InfoCommand) -> None:
        raise error

    monkeypatch.setattr(InfoCommand, "run", fail)
    with pytest.raises(type(error)) as raised:
        run("info", tmp_path)
    assert raised.value is error


def test_errors_of_the_user_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    def fail(self: InfoCommand) -> None:
        raise UserError("the clip\nis  empty")

    monkeypatch.setattr(InfoCommand, "run", fail)
    assert fails(capsys, "info", tmp_path) == "recon4d: the clip is empty"
    monkeypatch.setenv("RECON4D_DEBUG", "1")
    with pytest.raises(UserError):
        run("info", tmp_path)


@pytest.mark.parametrize(
    "options",
    [("train", "--config.steps", 0), ("train", "--config.data.batch-size", 0), ("adapt", "a.mp4", "--steps", 0)],
)
def test_rejected_values_of_configurations_are_one_line(options: tuple, tmp_path: Path, capsys) -> None:
    line = fails(capsys, *options, "--out", tmp_path / "out")
    name = options[-2].rpartition(".")[2].strip("-").replace("-", "_")
    assert f"{name} = 0; wanted at least 1" in line or f"{name} is 0; it must be at least 1" in line
    assert not (tmp_path / "out").exists()


def test_unknown_options_are_explained_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("info", "scene.npz", "--nothing")
    assert stop.value.code == 2
    assert "Unrecognized options" in capsys.readouterr().err


class TestBundleAdjustment:
    """A shape mismatch inside bundle adjustment is a defect; an error of the user is one line."""

    @pytest.fixture
    def command(self, tmp_path: Path) -> list[object]:
        """Return a command that refines a synthetic clip whose camera moves."""
        sample = SyntheticScenes(SyntheticConfig(num_frames=6, height=96, width=128, static_camera_share=0)).sample(3)
        (tmp_path / "pictures").mkdir()
        for number, image in enumerate(sample.clip.images):
            write_raster(tmp_path / "pictures" / f"{number}.png", image.permute(1, 2, 0).numpy())
        return ["reconstruct", tmp_path / "pictures", "--refine", "--out", tmp_path / "out"]

    def test_a_shape_mismatch_surfaces(self, command: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ValueError("operands of shapes (3, 4) and (4, 3)")

        monkeypatch.setattr(BUNDLE_ADJUSTMENT, fail)
        with pytest.raises(ValueError, match="operands of shapes") as raised:
            run(*command)
        assert not isinstance(raised.value, UserError)
        assert "fail" in [entry.name for entry in raised.traceback]

    def test_an_error_of_the_user_is_one_line(
        self, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise UserError("the pictures are too small")

        monkeypatch.setattr(BUNDLE_ADJUSTMENT, fail)
        assert fails(capsys, *command) == "recon4d: the pictures are too small"
        assert not (tmp_path / "out").exists()


class TestHints:
    def test_options_are_added_to_messages_of_the_library(self) -> None:
        hinted = add_hint("out of memory with 16 frames", ReconstructCommand)
        assert hinted.startswith("out of memory with 16 frames (lower --num-frames, ")
        assert hinted.endswith("use windows: --window 16)")

    def test_values_of_the_message_are_used(self) -> None:
        message = "vggt_1b tracks points; use a processing size of at least 64, or neither anchors nor refinement"
        assert "(give --processing-size 64, " in add_hint(message, ReconstructCommand)

    def test_commands_show_only_their_own_options(self) -> None:
        hinted = add_hint("out of memory while adapting", AdaptCommand)
        assert hinted == (
            "out of memory while adapting (lower --num-frames, lower --processing-size, use --checkpointing)"
        )
        assert add_hint("out of memory", InfoCommand) == "out of memory"

    def test_other_messages_stay_as_they_are(self) -> None:
        assert add_hint("clip.mp4 does not exist", ReconstructCommand) == "clip.mp4 does not exist"

    def test_an_existing_output_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "photo.jpg").write_text("precious")
        line = fails(capsys, "reconstruct", "clip.mp4", "--out", tmp_path)
        assert line.endswith("(give another --out, or --overwrite)")
        assert "--overwrite" not in fails(capsys, "render", "--out", tmp_path)

    def test_warnings_get_hints_too(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def warn(self: ReconstructCommand) -> None:
            warnings.warn("if the clip has a zoom, use lens='each'", stacklevel=2)

        monkeypatch.setattr(ReconstructCommand, "run", warn)
        assert run("reconstruct", "clip.mp4", "--out", "out") == 0
        expected = "recon4d: warning: if the clip has a zoom, use lens='each' (give --lens each)\n"
        assert capsys.readouterr().err == expected
