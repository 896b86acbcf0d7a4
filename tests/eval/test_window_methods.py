"""Variants of a network: windows and pairs with an anchor are scored like the single pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon4d.cli.main import main
from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.eval import (
    AnchoredNetwork,
    Benchmark,
    BenchmarkConfig,
    Method,
    MethodConfig,
    Network,
    NetworkVariants,
    RefinedWindows,
    WindowedNetwork,
    evaluate,
    load_benchmark,
    load_network,
    make_methods,
    window_methods,
)
from recon4d.eval import methods as network_methods
from recon4d.eval.methods import Request
from recon4d.geometry import rigid
from recon4d.inference import ReconstructConfig
from recon4d.inference.windows import LoopConfig, WindowConfig
from recon4d.io.long_clips import as_long_clip
from recon4d.models import Model
from recon4d.records import Clip, Priors, Scene
from recon4d.refine import Refinement
from recon4d.zoo import create_model, save_model

CONFIG = SyntheticConfig(num_frames=8, height=32, width=48, static_scene_share=0.6, attempts=1)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return render_scenes(make_scenes(CONFIG, 3, [5]), CONFIG, range(8))[0]


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    save_model(create_model("recon4d_tiny", pretrained=False), tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


def tracked(scene: Scene, numbers: tuple[int, ...], anchors: tuple[int, ...]) -> Scene:
    """Return the scene with tracks of the first of the given frames, if they are requested and known."""
    if anchors != (0,) or scene.tracks is None:
        return replace(scene, tracks=None)
    chosen = scene.tracks.anchors == numbers[0]
    return replace(scene, tracks=scene.tracks.map(lambda values: values[chosen]) if chosen.any() else None)


@pytest.fixture
def oracle(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Replace the network by the truth of the given frames, in another world and unit at each call."""
    calls: list[tuple[int, ...]] = []

    def reconstruct(model: Model, clip: Clip, config: ReconstructConfig) -> Scene:
        numbers = clip.source.numbers
        calls.append(numbers)
        scene = tracked(sample.scene, numbers, config.anchors).frames(list(numbers)).in_frame(0)
        unit = torch.diag(torch.tensor([1 + 0.1 * len(calls)] * 3 + [1.0]))
        return scene.transformed(rigid(torch.eye(3), torch.tensor([0.3, 0.0, 0.1])) @ unit)

    monkeypatch.setattr(window_methods, "predict_scene", reconstruct)
    return calls


def scores(method: Method, sample: Sample, folder: Path) -> dict[str, float]:
    benchmark = Benchmark("exact", "", ("one",), lambda name: sample)
    (result,) = evaluate(benchmark, [method], folder).results
    assert result.status == "ok", result.reason
    return {score.metric: score.value for score in result.scores}


def test_windows_of_the_truth_are_the_truth(sample: Sample, oracle: list, checkpoint: str, tmp_path: Path) -> None:
    method = WindowedNetwork(load_network(checkpoint), MethodConfig(), WindowConfig(4, 2))
    assert method.name == "tiny+windows-4-2"
    found = scores(method, sample, tmp_path)
    assert oracle == [(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7)]
    assert found["auc_5"] > 0.97
    assert found["abs_rel"] < 1e-3
    assert found["epe"] < 0.1  # tracks that end at a border keep their last position


def test_refined_windows_are_scored(sample: Sample, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows are refined, and their tracks are those of the first frame of the clip."""
    calls: list[int] = []

    def refine(clip: Clip, scene: Scene, matches: None) -> Refinement:
        calls.append(clip.num_frames)
        return Refinement(scene, True, 1.0, 0.1, 100, clip, parallax=1.0)

    def match(model: Model, clip: Clip, config: ReconstructConfig) -> tuple[Scene, None]:
        numbers = clip.source.numbers
        return tracked(sample.scene, numbers, config.anchors).frames(list(numbers)).in_frame(0), None

    monkeypatch.setattr(window_methods, "refine_clip", refine)
    monkeypatch.setattr(window_methods, "reconstruct_and_match", match)
    method = RefinedWindows(load_network(checkpoint), MethodConfig(), WindowConfig(4, 2))
    scene = method.predict_scene(Request("one", sample.clip, (0,)))
    assert calls == [4] * 5  # two windows calibrate the lens
    assert scene.tracks.anchors.tolist() == [0]
    torch.testing.assert_close(scene.cameras.centers, sample.scene.in_frame(0).cameras.centers, rtol=0, atol=1e-3)


def test_pairs_of_the_truth_are_the_truth(sample: Sample, oracle: list, checkpoint: str, tmp_path: Path) -> None:
    method = AnchoredNetwork(load_network(checkpoint), MethodConfig())
    assert method.name == "tiny+anchored"
    found = scores(method, sample, tmp_path)
    assert oracle == [(0, frame) for frame in range(1, 8)]
    assert found["auc_5"] > 0.97
    assert found["abs_rel"] < 1e-3


def test_predictions_of_other_windows_have_other_keys(checkpoint: str) -> None:
    configs = [WindowConfig(4, 2), WindowConfig(4, 1), WindowConfig(4, 2, loops=LoopConfig())]
    network = load_network(checkpoint)
    methods = [WindowedNetwork(network, MethodConfig(), config) for config in configs]
    assert len({method.key for method in methods}) == 3
    assert len({method.name for method in methods}) == 3


EVERY_VARIANT = NetworkVariants(refine=True, windows=WindowConfig(4, 2), anchored=True)


@pytest.mark.parametrize("name", ["static", "colmap", "folder"])
def test_only_networks_have_variants(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    name = str(tmp_path / "folder") if name == "folder" else name
    (method,) = make_methods(name, MethodConfig(), EVERY_VARIANT)
    assert not isinstance(method, Network)


def test_all_variants_share_one_network(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is loaded and its weights are hashed once."""
    calls: list[str] = []
    for name in ("load_model", "_fingerprint"):
        function = getattr(network_methods, name)
        monkeypatch.setattr(
            network_methods, name, lambda given, name=name, function=function: calls.append(name) or function(given)
        )
    methods = make_methods(checkpoint, MethodConfig(), EVERY_VARIANT)
    assert [method.name for method in methods] == [
        "tiny",
        "tiny+refine",
        "tiny+windows-4-2",
        "tiny+windows-4-2+refine",
        "tiny+anchored",
    ]
    assert len({method.key for method in methods}) == 5
    assert calls == ["load_model", "_fingerprint"]
    models = [method._model for method in methods if isinstance(method, Network)]
    assert all(model is models[0] for model in models)


def test_a_clip_without_a_source_keeps_its_frames_and_times(sample: Sample) -> None:
    long_clip = as_long_clip(sample.clip)
    assert long_clip.size == (32, 48)
    assert long_clip.times == tuple(sample.clip.times.tolist())
    chosen = list(long_clip.images([1, 6]))
    torch.testing.assert_close(torch.stack(chosen), sample.clip.images[[1, 6]])


def test_the_priors_of_a_clip_in_memory_are_kept(sample: Sample) -> None:
    ignore = torch.zeros(8, 32, 48, dtype=torch.bool)
    ignore[3, :5] = True
    unknown = Priors.unknown(8)
    priors = replace(unknown, intrinsics=sample.scene.cameras.intrinsics, ignore=ignore)
    long_clip = as_long_clip(replace(sample.clip, priors=priors))
    assert torch.equal(long_clip.priors.intrinsics, sample.scene.cameras.intrinsics)
    assert long_clip.priors.ignore is None
    assert torch.equal(torch.stack(list(long_clip.ignore([3, 4]))), ignore[3:5])


def test_the_synthetic_benchmark_has_any_number_of_frames() -> None:
    benchmark = load_benchmark("worlds", BenchmarkConfig(clips=2, num_frames=2))
    assert benchmark.clips == ("world_000", "world_001")
    first, second = (benchmark.read(name).clip.images for name in benchmark.clips)
    assert first.shape == (2, 3, 192, 256)
    assert not torch.equal(first, second)
    torch.testing.assert_close(benchmark.read("world_000").clip.images, first)
    with pytest.raises(ValueError, match="takes clips and num_frames, and no split"):
        load_benchmark("worlds", BenchmarkConfig(split="8"))


@pytest.mark.parametrize(
    ("options", "message"), [(["--loops"], "--loops needs windows"), (["--windows", "4", "4"], "cannot share 4")]
)
def test_the_command_refuses_unsuitable_windows(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--method", "static", "--clips", "1", "--out", str(tmp_path / "out"), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.end_to_end
def test_the_command_scores_all_variants(
    oracle: list, sample: Sample, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    import recon4d.eval

    exact = Benchmark("exact", "", ("one",), lambda name: sample)
    monkeypatch.setattr(recon4d.eval, "load_benchmark", lambda name, config: exact)
    main(["evaluate", "--method", checkpoint, "--windows", "4", "2", "--anchored", "--out", str(tmp_path / "out")])
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert rows[:3] == ["tiny", "tiny+windows-4-2", "tiny+anchored"]
