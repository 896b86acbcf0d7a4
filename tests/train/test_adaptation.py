"""Test-time adaptation: it corrects cameras, keeps depth, and keeps the given model if the held-out error rises."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import fails, run
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.geometry import pixel_grid, rotation_from_axis_angle
from recon4d.inference import ReconstructConfig, predict_scene
from recon4d.io import load_scene, write_video
from recon4d.losses import warp_static
from recon4d.models import Model
from recon4d.records import (
    Calibration,
    Clip,
    ErrorCurve,
    Scene,
)
from recon4d.train.adaptation import Adaptation, adapt
from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights
from recon4d.train.lora import LoraLinear
from recon4d.train.self_consistency import (
    ClipObservations,
    consistency,
    deviation,
    split_pairs,
    without_camera_motion,
)
from recon4d.zoo import create_model, load_model, save_model

HEIGHT, WIDTH, SIDE = 48, 64, 55
"""Image size of the tiny model for a processing size of SIDE, in pixels."""
FIT = 64
CONFIG = AdaptConfig(steps=30, processing_size=SIDE)
SETTINGS = ReconstructConfig(processing_size=SIDE, precision="float32")


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A static scene with a moving camera, in the frame of the first camera and in units of the mean depth."""
    world = SyntheticScenes(
        SyntheticConfig(num_frames=4, height=HEIGHT, width=WIDTH, static_scene_share=1.0, static_camera_share=0.0)
    ).sample(0)
    unit = torch.eye(4) / world.scene.depths.mean()
    unit[3, 3] = 1
    return replace(world, scene=world.scene.in_frame(0).transformed(unit))


@pytest.fixture(scope="module")
def disturbed(sample: Sample) -> Model:
    """A model that is fitted to the clip and whose camera head is then disturbed."""
    model = create_model("recon4d_tiny", pretrained=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    clip = Clip.stack([sample.clip])
    for step in range(FIT):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / FIT))
        scene = model.outputs(clip.images, clip.times, ()).scene[0].in_frame(0)
        loss = depth_error(scene, sample.scene) + 3 * camera_error(scene, sample.scene)
        loss = loss + (scene.cameras.intrinsics / sample.scene.cameras.intrinsics)[:, [0, 1], [0, 1]].log().abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(0)
    bias = model.camera_head.hidden.bias
    with torch.no_grad():
        bias.add_(0.2 * torch.randn(bias.shape, generator=generator))
    model.name, model.trained = "disturbed", True
    model.calibration = Calibration("its clip", depth=ErrorCurve((1.0,), (0.1,)))
    return model.eval()


@pytest.fixture(scope="module")
def adapted(disturbed: Model, sample: Sample) -> Adaptation:
    return adapt(disturbed, sample.clip, CONFIG)


def depth_error(scene: Scene, truth: Scene) -> torch.Tensor:
    return (scene.depths / truth.depths).log().abs().mean()


def camera_error(scene: Scene, truth: Scene) -> torch.Tensor:
    return (scene.cameras.world_from_cam - truth.cameras.world_from_cam).abs().mean()


def observe(scene: Scene, seed: int = 0) -> ClipObservations:
    """Make random images and features for a scene."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(scene.num_frames, 3, *scene.size, generator=generator)
    return ClipObservations(images, torch.rand(scene.num_frames, 5, 3, 4, generator=generator), scene)


# The adapted model


@pytest.mark.end_to_end
def test_disturbed_cameras_improve_and_depth_stays(adapted: Adaptation, disturbed: Model, sample: Sample) -> None:
    first = predict_scene(disturbed, sample.clip, SETTINGS)
    assert adapted.is_kept
    assert adapted.after is not None
    assert adapted.after.total < 0.95 * adapted.before.total
    assert "fell" in adapted.reason
    # Ground truth was not used, but the cameras are closer to it.
    assert camera_error(adapted.scene, sample.scene) < 0.85 * camera_error(first, sample.scene)
    assert depth_error(adapted.scene, sample.scene) < 1.05 * depth_error(first, sample.scene)


def test_the_scene_is_the_prediction_of_the_adapted_model(adapted: Adaptation, sample: Sample) -> None:
    again = predict_scene(adapted.model, sample.clip, SETTINGS)
    torch.testing.assert_close(adapted.scene.depths, again.depths)
    assert adapted.model.name == "disturbed+adapted"
    assert adapted.model.trained
    assert adapted.model.calibration is None  # it was measured with other weights


def test_only_the_selected_layers_change(adapted: Adaptation, disturbed: Model) -> None:
    before, after = disturbed.state_dict(), adapted.model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert moved == {name for name in before if "aggregator" in name and name.endswith(("qkv.weight", "proj.weight"))}
    assert all(parameter.requires_grad for parameter in adapted.model.parameters())


def test_the_given_model_is_not_changed(disturbed: Model, sample: Sample) -> None:
    before = copy.deepcopy(disturbed.state_dict())
    adapt(disturbed, sample.clip, replace(CONFIG, steps=2))
    assert all(torch.equal(before[name], value) for name, value in disturbed.state_dict().items())
    assert all(parameter.requires_grad for parameter in disturbed.parameters())
    assert not any(isinstance(module, LoraLinear) for module in disturbed.modules())


def test_the_result_depends_on_the_seed_and_not_on_the_global_generator(disturbed: Model, sample: Sample) -> None:
    config = replace(CONFIG, steps=3)
    torch.manual_seed(1)
    one = adapt(disturbed, sample.clip, config)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = adapt(disturbed, sample.clip, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.curve == two.curve
    assert one.before == two.before
    assert one.after is not None
    assert one.after == two.after
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    other = adapt(disturbed, sample.clip, replace(config, seed=1))
    assert other.curve != one.curve


def test_the_original_is_kept_if_the_error_rises(disturbed: Model, sample: Sample) -> None:
    adaptation = adapt(disturbed, sample.clip, replace(CONFIG, steps=3, rate=1.0))
    assert not adaptation.is_kept
    assert adaptation.model is disturbed
    assert adaptation.after is not None
    assert adaptation.after.total > adaptation.before.total
    assert "did not fall" in adaptation.reason
    assert torch.equal(adaptation.scene.depths, predict_scene(disturbed, sample.clip, SETTINGS).depths)


def test_the_original_is_kept_if_training_diverges(disturbed: Model, sample: Sample) -> None:
    adaptation = adapt(disturbed, sample.clip, replace(CONFIG, steps=20, rate=1e30))
    assert not adaptation.is_kept
    assert adaptation.model is disturbed
    assert adaptation.after is None
    assert not math.isfinite(adaptation.curve[-1])
    assert len(adaptation.curve) < 20
    assert "diverged" in adaptation.reason


def test_a_prediction_that_explains_nothing_is_not_adapted(sample: Sample) -> None:
    model = create_model("recon4d_tiny", pretrained=False, seed=1)
    adaptation = adapt(model, sample.clip, CONFIG)
    assert adaptation.model is model
    assert (adaptation.is_kept, adaptation.after, adaptation.curve) == (False, None, ())
    assert "explains too little of the images" in adaptation.reason
    # The predicted cameras hardly move, so the warp is nearly the identity.
    assert adaptation.before.total == pytest.approx(adaptation.baseline.total, rel=0.1)
    assert adapt(model, sample.clip, replace(CONFIG, steps=1, near_enough=2.0)).curve != ()


@pytest.mark.end_to_end
def test_large_weights_keep_the_prediction_near_the_initial_one(disturbed: Model, sample: Sample) -> None:
    first = predict_scene(disturbed, sample.clip, SETTINGS)
    free, held = (
        deviation(adapt(disturbed, sample.clip, replace(CONFIG, steps=8, weights=weights)).scene, first)
        for weights in (AdaptWeights(), AdaptWeights(keep_depth=1e4, keep_cameras=1e4, keep_rest=1e4))
    )
    assert held.cameras < 0.2 * free.cameras
    # Eight steps hardly change these: the rest is noise of the optimizer.
    assert held.depth < 0.7 * free.depth
    assert held.rest < 0.7 * free.rest


# Pairs of frames and their errors


def test_held_out_pairs_never_train_in_either_order() -> None:
    observations = observe(make_scene(6))
    config = AdaptConfig(reach=3, held_out=0.3, least_overlap=0.1)
    training, held_out = split_pairs(observations, config)
    assert {tuple(sorted(pair)) for pair in training}.isdisjoint(tuple(sorted(pair)) for pair in held_out)
    assert len(set(training)) == len(training)
    assert {(b, a) for a, b in training} == set(training)
    assert {(b, a) for a, b in held_out} == set(held_out)
    assert len(held_out) == 2 * round(0.3 * (len(training) + len(held_out)) / 2)
    assert all(0 < abs(a - b) <= 3 for a, b in (*training, *held_out))
    assert split_pairs(observations, config) == (training, held_out)
    assert split_pairs(observations, replace(config, seed=5)) != (training, held_out)


def test_pairs_must_overlap() -> None:
    scene = make_scene(3)
    cameras = scene.cameras.world_from_cam.clone()
    cameras[2, 0, 3] += 100  # the last frame shows another place
    elsewhere = replace(scene, cameras=replace(scene.cameras, world_from_cam=cameras))
    with pytest.raises(ValueError, match="1 of 3 pairs of frames overlap by 20% or more"):
        split_pairs(observe(elsewhere), AdaptConfig())


def test_identical_cameras_project_pixels_to_themselves() -> None:
    scene = make_scene(3)
    identical = without_camera_motion(scene)
    assert not torch.equal(warp_static(scene, 0, 2).pixels, warp_static(identical, 0, 2).pixels)
    grid = pixel_grid(*scene.size)
    for source, target in ((0, 2), (2, 1), (1, 0)):
        torch.testing.assert_close(warp_static(identical, source, target).pixels, grid, atol=1e-4, rtol=0)


def test_dynamic_pixels_are_not_compared() -> None:
    scene = make_scene(3)
    dynamic = torch.zeros_like(scene.dynamic)
    dynamic[0, :, :7] = 0.6
    of_static = observe(replace(scene, dynamic=torch.zeros_like(dynamic))).comparable_pixels(0, 0)
    of_dynamic = observe(replace(scene, dynamic=dynamic)).comparable_pixels(0, 0)
    assert of_static.all()
    assert torch.equal(of_dynamic, dynamic[0] < 0.5)


def test_a_later_prediction_cannot_exclude_pixels_from_the_comparison() -> None:
    """Doubled depth places pixels behind the other frame's surfaces, but they are compared all the same."""
    scene = make_scene(3)
    scene = replace(scene, dynamic=torch.zeros_like(scene.dynamic))
    observations = observe(scene)
    exact = consistency(scene, observations, [(0, 1)])
    one_depth_doubled = replace(scene, depths=scene.depths * torch.tensor([2.0, 1, 1])[:, None, None])
    hidden = consistency(one_depth_doubled, observations, [(0, 1)])
    assert float(exact.geometric) < 1e-2
    assert 0.3 < float(hidden.geometric) < 0.6  # (2 - 1) / (2 + 1) inside the image, 1 outside
    assert float(hidden.photometric) > 0


def test_deviation_is_dimensionless() -> None:
    scene = make_scene(3)
    scene = replace(scene, dynamic=torch.zeros_like(scene.dynamic))
    unit = scene.depths[scene.depth_confidence > 0].mean()
    nothing = deviation(scene, scene)
    assert (float(nothing.depth), float(nothing.cameras), float(nothing.rest)) == (0, 0, 0)

    deeper = deviation(replace(scene, depths=2 * scene.depths), scene)
    assert float(deeper.depth) == pytest.approx(math.log(2) ** 2, rel=1e-5)
    assert (float(deeper.cameras), float(deeper.rest)) == (0, 0)

    cameras = scene.cameras.world_from_cam.clone()
    cameras[2, :3, 3] += torch.tensor([0.0, 0.3, 0.4]) * unit
    cameras[1, :3, :3] = cameras[1, :3, :3] @ rotation_from_axis_angle(torch.tensor([0.0, 0.1, 0.0]))
    moved = deviation(replace(scene, cameras=replace(scene.cameras, world_from_cam=cameras)), scene)
    assert float(moved.cameras) == pytest.approx((0.5**2 + 2 * (1 - math.cos(0.1))) / 3, rel=1e-4)
    intrinsics = scene.cameras.intrinsics * torch.tensor([2.0, 1, 1])[:, None]
    zoomed = deviation(replace(scene, cameras=replace(scene.cameras, intrinsics=intrinsics)), scene)
    assert float(zoomed.cameras) == pytest.approx(math.log(2) ** 2 / 2, rel=1e-5)

    shifted = deviation(replace(scene, points=scene.points + unit), scene)
    assert float(shifted.rest) == pytest.approx(3, rel=1e-5)
    flickering = deviation(replace(scene, dynamic=scene.dynamic + 0.5), scene)
    assert float(flickering.rest) == pytest.approx(0.25, rel=1e-5)
    surer = deviation(replace(scene, depth_confidence=2 * scene.depth_confidence), scene)
    assert float(surer.rest) == pytest.approx(math.log(2) ** 2, rel=1e-5)


# Unsuitable clips and settings


@pytest.mark.parametrize("frames", [1, 2])
def test_one_or_two_frames_are_too_few(frames: int, disturbed: Model, sample: Sample) -> None:
    with pytest.raises(ValueError, match=f"the clip has {frames} frames?; an adaptation needs 3 or more"):
        adapt(disturbed, sample.clip.frames(slice(frames)), CONFIG)


def test_a_clip_of_identical_frames_is_rejected(disturbed: Model, sample: Sample) -> None:
    noise = torch.randint(-2, 3, (3, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    images = (sample.clip.images[:1].int() + noise).clamp(0, 255).to(torch.uint8)
    with pytest.raises(ValueError, match="3 frames of the clip are identical"):
        adapt(disturbed, Clip(images, torch.arange(3.0)), CONFIG)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rank": 0}, {"rate": 0.0}, {"held_out": 1.0}, {"least_overlap": 0.0}])
def test_settings_out_of_range_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = 0|held_out = 1"):
        AdaptConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted none below 0"):
        AdaptWeights(semantic=-1)


# The command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, disturbed: Model, sample: Sample) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    write_video(folder / "clip.mp4", sample.clip.images[:3].permute(0, 2, 3, 1).numpy(), 10.0)
    save_model(disturbed, folder / "disturbed.safetensors")
    return folder


@pytest.fixture(scope="module")
def command(files: Path) -> list[object]:
    options = ["--near-enough", 2, "--processing-size", SIDE, "--num-frames", 3, "--steps", 4, "--device", "cpu"]
    return ["adapt", files / "clip.mp4", "--model", files / "disturbed.safetensors", *options]


def test_the_command_writes_the_model_the_results_and_the_errors(
    files: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "out"
    assert run(*command, "--out", out, "--weights.semantic", 0.2) == 0
    printed = capsys.readouterr().out
    names = {"model.safetensors", "adaptation.json", "scene.npz", "frames", "depth.mp4", "cameras.png", "points.ply"}
    assert {path.name for path in out.iterdir()} == names

    note = json.loads((out / "adaptation.json").read_text())
    assert f"{note['before']['total']:.4f}" in printed
    assert f"{note['after']['total']:.4f}" in printed
    assert note["kept"] == (note["after"]["total"] < note["before"]["total"])
    assert f"the {'adapted' if note['kept'] else 'original'} model is kept" in printed
    assert len(note["curve"]) == 4
    assert len(note["held_out_pairs"]) == 2
    assert note["settings"]["weights_semantic"] == 0.2
    assert note["settings"]["layers"] == ["aggregator.*attention.*"]

    model = load_model(out / "model.safetensors")
    assert model.name == ("disturbed+adapted" if note["kept"] else "disturbed")
    assert (
        run(
            "reconstruct",
            files / "clip.mp4",
            "--model",
            out / "model.safetensors",
            "--out",
            files / "again",
            "--num-frames",
            3,
            "--processing-size",
            SIDE,
            "--precision",
            "float32",
            "--refine",
            "off",
        )
        == 0
    )
    scene, again = load_scene(out), load_scene(files / "again")
    torch.testing.assert_close(scene.depths, again.depths)
    torch.testing.assert_close(scene.cameras.world_from_cam, again.cameras.world_from_cam)


def test_the_command_writes_the_original_model_if_adaptation_does_not_help(
    files: Path, command: list[object], disturbed: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "worse"
    out.mkdir()
    (out / "adaptation.json").write_text("of an earlier run")
    assert "not empty" in fails(capsys, *command, "--out", out, "--rate", 1e30)
    assert "needs 3 or more" in fails(capsys, *command, "--out", out, "--overwrite", "--num-frames", 2)
    assert (out / "adaptation.json").read_text() == "of an earlier run"
    assert run(*command, "--out", out, "--rate", 1e30, "--overwrite") == 0
    assert "the original model is kept: it diverged at step" in capsys.readouterr().out
    kept = load_model(out / "model.safetensors")
    assert kept.name == "disturbed"
    assert all(torch.equal(value, disturbed.state_dict()[name]) for name, value in kept.state_dict().items())
    note = json.loads((out / "adaptation.json").read_text())
    assert (note["kept"], note["after"], note["curve"][-1]) == (False, None, None)


def test_unsuitable_input_is_reported_in_one_line_and_nothing_is_written(
    files: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "refused"
    assert "needs 3 or more" in fails(capsys, *command, "--out", out, "--num-frames", 2)
    assert "matches no linear layer" in fails(capsys, *command, "--out", out, "--layers", "nothing")
    assert "steps = 0" in fails(capsys, *command, "--out", out, "--steps", 0)
    assert "not empty" in fails(capsys, *command, "--out", files)
    assert "holds no adaptation.json" in fails(capsys, *command, "--out", files, "--overwrite")
    identical = make_clip(1, HEIGHT, WIDTH).images.permute(0, 2, 3, 1).expand(4, -1, -1, -1)
    write_video(files / "identical.mp4", identical.numpy(), 10.0)
    assert "are identical" in fails(capsys, "adapt", files / "identical.mp4", *command[2:], "--out", out)
    assert not out.exists()
