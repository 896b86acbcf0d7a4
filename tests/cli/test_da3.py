"""`recon4d reconstruct`, `train` and `evaluate` with files of Depth Anything 3's weights, end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from da3_weights import tiny_state_dict
from safetensors.torch import save_file

from recon4d.cli.main import main
from recon4d.geometry import invert
from recon4d.io import load_scene, load_scene_info, read_camera_file, read_clip, write_raster
from recon4d.zoo import load_model

DESK = Path(__file__).parents[2] / "examples" / "freiburg2_desk"
OPTIONS = ["--num-frames", "2", "--processing-size", "84", "--output-size", "84"]
OPTIONS += ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("even", "nested"):
        save_file(tiny_state_dict(kind), folder / f"da3_{kind}.safetensors")  # pyright: ignore[reportArgumentType]
    for preset in ("mono", "metric"):
        save_file(tiny_state_dict("mono"), folder / f"da3_{preset}.safetensors")
    return folder


def run(weights: Path, name: str, out: Path, *options: str, clip: Path = DESK) -> int:
    model = str(weights / f"{name}.safetensors")
    return main(["reconstruct", str(clip), "--model", model, "--out", str(out), *OPTIONS, *options])


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    """The measured cameras of the eight pictures, with their numbers as times, two of which are used."""
    rows = [line.split()[1:] for line in (DESK / "groundtruth.txt").read_text().splitlines()[1:]]
    clip = read_clip(DESK, 2)
    kept = [" ".join([str(number), *rows[number]]) for number in clip.source.numbers]
    (tmp_path / "trajectory.txt").write_text("\n".join(kept) + "\n")
    return tmp_path / "trajectory.txt"


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    """Pictures of a texture that moves by three pixels from one to the next."""
    texture = np.random.default_rng(0).integers(0, 255, (12, 32, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    folder = tmp_path / "panorama"
    folder.mkdir()
    for number in range(4):
        write_raster(folder / f"{number}.png", texture[:, 3 * number : 3 * number + 128].copy())
    return folder


def test_all_results_and_one_line_of_license(
    weights: Path, panorama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights, "da3_even", tmp_path / "out", clip=panorama) == 0
    printed = capsys.readouterr()
    assert printed.err.count("license") == 1
    assert "da3_even.safetensors comes under the license of its makers: Apache-2.0, by ByteDance" in printed.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scene.npz", "depth.mp4", "points.ply", "cameras.png"} <= names


def test_known_cameras_are_honored(weights: Path, trajectory: Path, tmp_path: Path) -> None:
    cameras = ["--cameras", str(trajectory), "--intrinsics", "520.9,521.0,325.1,249.7", "--no-refine"]
    assert run(weights, "da3_even", tmp_path / "out", *cameras) == 0
    scene = load_scene(tmp_path / "out")
    clip = read_clip(DESK, 2)
    given = read_camera_file(trajectory).for_clip(clip).world_from_cam.double()
    relative = (invert(given[0]) @ given).float()
    torch.testing.assert_close(scene.cameras.world_from_cam, relative, rtol=0, atol=1e-6)
    assert float(scene.cameras.intrinsics[0, 0, 0]) == pytest.approx(520.9 * scene.size[1] / clip.size[1], rel=1e-6)


def test_poses_without_intrinsics_are_one_line(
    weights: Path, trajectory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cameras = ["--cameras", str(trajectory), "--no-refine"]
    assert run(weights, "da3_even", tmp_path / "out", *cameras) == 2
    assert "2 of 2 frames have a given camera pose but no intrinsics" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_metric_scale(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = ["--metric", str(weights / "da3_metric.safetensors"), "--no-refine", "--reference-view", "first"]
    assert run(weights, "da3_even", tmp_path / "out", *metric, "--camera-source", "rays") == 0
    assert "da3_metric: the unit is" in capsys.readouterr().out
    assert float(load_scene(tmp_path / "out").metres_per_unit) > 0
    settings = load_scene_info(tmp_path / "out").settings
    assert (settings["reference_view"], settings["camera_source"]) == ("first", "rays")


def test_a_model_that_is_not_metric(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(weights, "da3_even", tmp_path / "out", "--metric", str(weights / "da3_mono.safetensors")) == 2
    assert "which is no metric model; give da3_metric_large" in capsys.readouterr().err


def test_assumptions_of_monocular_models_are_stored(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights, "da3_mono", tmp_path / "out", "--no-refine") == 0
    assert "da3_mono predicts no cameras: the scene assumes a camera that stands still" in capsys.readouterr().err
    assert len(load_scene_info(tmp_path / "out").assumptions) == 2
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "assumed, not predicted: a camera that stands still and a field" in capsys.readouterr().out
    for option, value, said in (
        ("--reference-view", "first", "has no reference frame"),
        ("--camera-source", "rays", "predicts no cameras"),
    ):
        assert run(weights, "da3_mono", tmp_path / "other", option, value) == 2
        assert said in capsys.readouterr().err


def test_nested_models_answer_meters(weights: Path, tmp_path: Path) -> None:
    assert run(weights, "da3_nested", tmp_path / "out", "--no-refine") == 0
    assert float(load_scene(tmp_path / "out").metres_per_unit) == pytest.approx(1)
    assert load_scene_info(tmp_path / "out").assumptions == ()


def test_videos_have_the_middle_frame_as_reference(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon4d.models import Model

    used = []
    outputs = Model.outputs

    def spy(self: Model, *arguments: object, **options: object) -> object:
        used.append(self.reference_view)
        return outputs(self, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Model, "outputs", spy)
    assert run(weights, "da3_even", tmp_path / "photos", "--no-refine") == 0
    assert run(weights, "da3_even", tmp_path / "video", "--no-refine", "--fps", "5") == 0
    assert used == ["saddle_balanced", "middle"]


def test_fine_tuning(weights: Path, tmp_path: Path) -> None:
    steps = ["--config.steps", "2", "--config.warmup-steps", "1", "--config.validate-every", "2"]
    data = ["--config.data.shapes", "3x42x42", "--config.data.batch-size", "1", "--config.validation-clips", "1"]
    rates = ["--config.optimiser.rates.backbone-decay", "0.8", "--config.freeze", "camera_head.*"]
    init = ["--config.init", str(weights / "da3_even.safetensors"), "--config.lora", "*qkv"]
    assert main(["train", "--out", str(tmp_path / "run"), *init, *steps, *data, *rates]) == 0
    (checkpoint,) = (tmp_path / "run").rglob("model.safetensors")
    before, after = load_model(weights / "da3_even.safetensors"), load_model(checkpoint)
    assert after.config == before.config
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert any(name.startswith("backbone.blocks.0.attention.qkv") for name in changed)
    assert any(name.startswith("dense_heads.0") for name in changed)
    assert not any(name.startswith("camera_head") for name in changed)


def test_monocular_models_are_not_trained(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = ["--config.init", str(weights / "da3_mono.safetensors"), "--config.data.shapes", "3x42x42"]
    assert main(["train", "--out", str(tmp_path / "run"), *init]) == 2
    assert "da3_mono cannot be trained or adapted" in capsys.readouterr().err
