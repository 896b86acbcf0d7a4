"""Exported networks compute what PyTorch computes, for any number of clips, and say what is wrong with a request."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from da3_weights import tiny_state_dict
from networks import random_images, randomized
from torch import Tensor

from recon4d import Clip, reconstruct
from recon4d.cli.main import main
from recon4d.errors import UserError
from recon4d.models import Model, MonoModel
from recon4d.zoo import from_da3, model_config
from recon4d.zoo.runtimes import export_model as module
from recon4d.zoo.runtimes.export_model import ExportedModel, ModelExport, export_model
from recon4d.zoo.runtimes.onnx_files import onnx_runner

SIZE = (32, 48)
FRAMES = 2


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny network with matching, motion head and random weights in every layer."""
    torch.manual_seed(0)
    return randomized(Model(model_config("recon4d_tiny"))).float()


@contextlib.contextmanager
def open_sizes() -> Iterator[None]:
    """Do not check annotations: while an open batch is traced, its size is no integer."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def program(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    file = tmp_path_factory.mktemp("program") / "tiny.pt2"
    with open_sizes():
        return export_model(model, file, ModelExport("torch-export", FRAMES, SIZE))


@pytest.fixture(scope="module")
def network(program: ExportedModel) -> torch.nn.Module:
    """The network in the file."""
    return torch.export.load(program.file).module()


@pytest.fixture(scope="module")
def onnx_file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    pytest.importorskip("onnxruntime", reason="ONNX is the extra 'onnx'")
    pytest.importorskip("onnxscript", reason="ONNX is the extra 'onnx'")
    with open_sizes():
        return export_model(model, tmp_path_factory.mktemp("onnx") / "tiny.onnx", ModelExport("onnx", FRAMES, SIZE))


def inputs(clips: int, size: tuple[int, int] = SIZE) -> dict[str, Tensor]:
    times = torch.arange(FRAMES, dtype=torch.float32).expand(clips, -1).contiguous()
    return {"images": random_images(clips, FRAMES, size=size, seed=clips).float(), "times": times}


def expected(model: Model, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scene in the frame of its first camera, by the names of the outputs."""
    with torch.no_grad():
        scene = model(given["images"], given["times"]).in_frame(0)
    tracks = scene.tracks
    assert tracks is not None
    return {
        "depth": scene.depths,
        "depth_confidence": scene.depth_confidence,
        "points": scene.points,
        "point_confidence": scene.point_confidence,
        "world_from_cam": scene.cameras.world_from_cam,
        "intrinsics": scene.cameras.intrinsics,
        "dynamic": scene.dynamic,
        "tracks": tracks.points[:, 0],
        "track_visibility": tracks.visibility[:, 0],
        "track_confidence": tracks.confidence[:, 0],
        "track_pixels": tracks.pixels[:, 0],
    }


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.end_to_end
@pytest.mark.parametrize("clips", [1, 3])
def test_a_program_of_torch_export_computes_the_scene(model: Model, network: torch.nn.Module, clips: int) -> None:
    given = inputs(clips)
    with torch.no_grad():
        assert_close(network(**given), expected(model, given))


@pytest.mark.end_to_end
@pytest.mark.parametrize("clips", [1, 3])
def test_an_onnx_file_computes_the_scene(model: Model, onnx_file: ExportedModel, clips: int) -> None:
    given = inputs(clips)
    assert_close(onnx_runner(onnx_file.file)(given), expected(model, given))


def test_outputs_equal_those_of_reconstruct(model: Model, network: torch.nn.Module) -> None:
    images = (255 * random_images(FRAMES, size=SIZE)).round().to(torch.uint8)
    clip = Clip(images, torch.arange(FRAMES, dtype=torch.float32))
    size = round((SIZE[0] * SIZE[1]) ** 0.5)
    scene = reconstruct(model, clip, processing_size=size, precision="float32")
    assert scene.size == SIZE
    assert scene.tracks is not None
    with torch.no_grad():
        found = network(images=images[None] / 255, times=clip.times[None])
    torch.testing.assert_close(found["depth"][0], scene.depths, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["world_from_cam"][0], scene.cameras.world_from_cam, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["tracks"][0], scene.tracks.points[0], atol=1e-5, rtol=1e-5)


@pytest.mark.end_to_end
def test_the_export_tells_shapes_and_differences(program: ExportedModel) -> None:
    height, width = SIZE
    assert program.inputs == ("images", "times")
    assert program.batch_reason is None
    assert program.outputs["points"] == (FRAMES, height, width, 3)
    assert program.outputs["tracks"] == (FRAMES, height * width, 3)
    assert program.differences is not None
    assert program.differences.keys() == program.outputs.keys()
    assert max(program.differences.values()) <= 1e-4


@pytest.mark.end_to_end
def test_files_carry_their_description(program: ExportedModel) -> None:
    extra = {"recon4d.json": ""}
    torch.export.load(program.file, extra_files=extra)
    description = json.loads(extra["recon4d.json"])
    assert description["frames"] == FRAMES
    assert [description["height"], description["width"]] == list(SIZE)
    assert description["outputs"] == list(program.outputs)


def test_images_of_another_size_are_refused(network: torch.nn.Module) -> None:
    with pytest.raises(Exception, match=r"images.*(32|shape)"):
        network(**inputs(1, (48, 48)))


@pytest.mark.end_to_end
def test_onnx_runtime_names_the_wrong_side(onnx_file: ExportedModel) -> None:
    with pytest.raises(Exception, match=r"images.*\n?.*Got: 48 Expected: 32"):
        onnx_runner(onnx_file.file)(inputs(1, (48, 48)))


class TestMono:
    """A network without matching, cameras and tracks, small enough to be traced several times."""

    @pytest.fixture(scope="class")
    @classmethod
    def mono(cls) -> MonoModel:
        model = from_da3(tiny_state_dict("mono"), "mono")
        assert isinstance(model, MonoModel)
        return model

    EXPORT = ModelExport("torch-export", 1, (28, 42), open_batch=False)

    @pytest.mark.end_to_end
    def test_there_are_no_times_no_tracks_and_no_mask(self, mono: MonoModel, tmp_path: Path) -> None:
        written = export_model(mono, tmp_path / "mono.pt2", self.EXPORT)
        assert written.inputs == ("images",)
        assert not {"dynamic", "tracks"} & written.outputs.keys()
        assert written.batch_reason == "as requested"
        assert [file.name for file in tmp_path.iterdir()] == ["mono.pt2"]

    def test_a_file_that_differs_is_not_written(
        self, mono: MonoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = module._program_runner

        def wrong(file: Path):
            run = right(file)
            return lambda given: {name: value + 2e-3 * (name == "depth") for name, value in run(given).items()}

        monkeypatch.setattr(module, "_program_runner", wrong)
        with pytest.raises(UserError, match="depth differs from PyTorch by"):
            export_model(mono, tmp_path / "mono.pt2", self.EXPORT)
        assert not list(tmp_path.iterdir())

    def test_unknown_values_differ_from_everything(self) -> None:
        numbers = torch.tensor([1.0, 2.0])
        assert module._difference(numbers, numbers) == 0
        assert module._difference(100 * numbers + 1, 100 * numbers) == pytest.approx(0.01)
        assert not module._difference(torch.tensor([1.0, torch.nan]), numbers) <= 1e-4
        assert module._difference(numbers[:1], numbers) == torch.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "30x48", "--output", "tiny.pt2"], "the size is 30x48 (height x width); both sides must be"),
        (["--size", "30", "--output", "tiny.pt2"], "the size is '30'; wanted HEIGHTxWIDTH"),
        (["--frames", "0", "--output", "tiny.pt2"], "the number of frames is 0"),
        (["--output", "tiny.onnx"], "wanted a name that ends with .pt2"),
        (["--out", "nowhere/tiny.pt2"], "the folder nowhere of the output file does not exist"),
    ],
)
def test_unsuitable_requests(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export-model", "recon4d_tiny", "--to", "torch-export", *options]) == 2
    assert message in capsys.readouterr().err


def test_untrained_networks_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-model", "recon4d_tiny", "--to", "onnx", "--output", str(tmp_path / "tiny.pt2")]) == 2
    assert "has no trained weights yet" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[onnx\]'"):
        export_model(Model(model_config("recon4d_tiny")), tmp_path / "tiny.onnx", ModelExport("onnx", 1, (32, 32)))
