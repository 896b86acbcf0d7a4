"""The model that ships: it is there, small, trained and calibrated, and knows more of held-out clips than nothing."""

import warnings
from pathlib import Path

import pytest

from recon4d.cli.adapt import AdaptCommand
from recon4d.cli.reconstruct import ReconstructCommand
from recon4d.eval import (
    BenchmarkConfig,
    MethodConfig,
    evaluate,
    load_benchmark,
    make_method,
    summarize,
)
from recon4d.models import Model
from recon4d.zoo import DEFAULT_MODEL, create_model, model_entry

CLIPS = 3


@pytest.fixture(scope="module")
def model() -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return create_model()


def test_the_default_model_ships_trained_and_calibrated_within_its_40_megabytes(model: Model) -> None:
    file = model_entry(DEFAULT_MODEL).weights_file
    assert file is not None
    assert file.stat().st_size < 40e6
    assert model.name == DEFAULT_MODEL
    assert model.trained
    assert model.calibration is not None
    assert all(curve is not None for curve in (model.calibration.depth, model.calibration.points))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_commands_use_the_default_model(tmp_path: Path) -> None:
    assert ReconstructCommand((tmp_path,), tmp_path).model == DEFAULT_MODEL
    assert AdaptCommand(tmp_path, tmp_path).model == DEFAULT_MODEL


@pytest.mark.end_to_end
def test_it_knows_more_of_held_out_worlds_than_the_trivial_answer(tmp_path: Path) -> None:
    """Depth, cameras, visibility and what moves, on the first clips of a benchmark that no training draws from."""
    methods = [make_method(name, MethodConfig()) for name in (DEFAULT_MODEL, "static")]
    evaluation = evaluate(load_benchmark("worlds-v1", BenchmarkConfig(split="8", clips=CLIPS)), methods, tmp_path)
    found = {(one.method, one.metric.name): one.value for one in summarize(evaluation.results)}

    def both(metric: str) -> tuple[float, float]:
        return found[DEFAULT_MODEL, metric], found["static", metric]

    for metric, share in (("abs_rel", 0.8), ("ate", 0.6), ("point_epe", 0.75), ("rotation_error", 0.6), ("epe", 0.8)):
        ours, trivial = both(metric)
        assert ours < share * trivial, metric
    for metric, more in (("auc_30", 0.05), ("visibility_accuracy", 0.1), ("moving_iou", 0.2)):
        ours, trivial = both(metric)
        assert ours > trivial + more, metric
