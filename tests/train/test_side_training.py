"""Training of a side network: new parts learn, and the frozen part has no gradient and does not change by a bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon4d import losses
from recon4d.errors import UserError
from recon4d.models import Model
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, TrainConfig
from recon4d.train.loop import _TrainingRun, make_trainable_model, train
from recon4d.train.objective import Batch, TrainModule
from recon4d.zoo import create_model, load_model, save_model

TRAINED = ("side.", "matching.", "motion_head.")


@pytest.fixture(scope="module")
def frozen_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "tiny.safetensors"
    save_model(create_model("da3_tiny", pretrained=False, seed=1), path)
    return path


@pytest.fixture(scope="module")
def config(frozen_file: Path) -> TrainConfig:
    return TrainConfig(
        model="recon4d_da3_tiny",
        init=str(frozen_file),
        steps=2,
        warmup_steps=0,
        average=0.5,
        data=DataConfig(shapes=("3x42x56",), batch_size=2, track_stride=5),
        validation_clips=1,
        log_every=1,
    )


@pytest.fixture(scope="module")
def batch(config: TrainConfig) -> Batch:
    return Batches(config, RankInfo()).synthetic_batch(1000, 0)


@pytest.mark.end_to_end
@pytest.mark.parametrize("backward", ["joint", "separate"])
def test_only_new_parts_change(config: TrainConfig, frozen_file: Path, tmp_path: Path, backward: str) -> None:
    result = train(replace(config, backward=backward), tmp_path)  # pyright: ignore[reportArgumentType]
    trained, frozen = load_model(result.checkpoint.model_file), load_model(frozen_file)
    before = make_trainable_model(config).state_dict()
    assert trained.name == "recon4d_da3_tiny"
    assert trained.trained
    for name, value in trained.state_dict().items():
        if name.startswith(TRAINED):
            continue
        assert torch.equal(value, frozen.state_dict()[name]), name
    matrices = [name for name, value in before.items() if name.startswith(TRAINED) and value.ndim > 1]
    assert matrices
    unchanged = [name for name in matrices if torch.equal(trained.state_dict()[name], before[name])]
    assert not unchanged


def test_frozen_parts_have_no_gradient_no_optimizer_and_stay_in_evaluation_mode(
    config: TrainConfig, tmp_path: Path
) -> None:
    run = _TrainingRun(config, tmp_path, None)
    run._train_step(0, [run.batches.synthetic_batch(0, 0)])
    held = {
        parameter
        for optimizer in run.optimizers.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in run.model.named_parameters():
        is_new = name.startswith(TRAINED)
        assert (parameter.grad is not None) == is_new, name
        assert parameter.requires_grad == is_new
        assert (parameter in held) == is_new
    run._validate()
    assert run.model.training
    assert {name for name, part in run.model.named_children() if part.training} == {"side", "matching", "motion_head"}


def test_unit_of_frozen_depth(batch: Batch) -> None:
    truth = losses.normalized(batch.sample.scene)
    fitted = losses.in_predicted_unit(truth, 4 * truth.depths)
    torch.testing.assert_close(fitted.depths, 4 * truth.depths)
    assert fitted.tracks is not None
    assert truth.tracks is not None
    torch.testing.assert_close(fitted.tracks.points, 4 * truth.tracks.points)
    unknown = replace(truth, depth_confidence=0 * truth.depths)
    torch.testing.assert_close(losses.in_predicted_unit(unknown, 4 * truth.depths).depths, truth.depths)


def test_motion_ignores_the_scale_of_the_frozen_depth(config: TrainConfig, batch: Batch) -> None:
    model = make_trainable_model(config)
    assert isinstance(model, Model)
    module = TrainModule(model)
    tokens = module.tokens(batch)
    outputs = model.scene_outputs(tokens, batch.sample.clip.size, batch.sample.clip.priors)
    outputs = model.with_tracks(tokens, outputs, module.anchors(batch))
    larger = replace(outputs, scene=outputs.scene.scaled(torch.tensor([2.0, 2.0])))
    truth = losses.normalized(batch.sample.scene)
    first, second = (module.tracking_terms(one, truth, batch)["motion"] for one in (outputs, larger))
    torch.testing.assert_close(first.total, second.total, rtol=0.01, atol=0)


def test_weights_of_another_size_are_refused(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="recon4d_da3_small starts from da3_small, but"):
        make_trainable_model(replace(config, model="recon4d_da3_small"))
