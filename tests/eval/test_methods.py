"""Methods: the static baseline, networks, COLMAP with masks and time limits."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import make_clip

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.eval import (
    Benchmark,
    Method,
    MethodConfig,
    NetworkVariants,
    Request,
    evaluate,
    make_method,
    make_methods,
    score_prediction,
)
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.isolation import CrashError
from recon4d.eval.methods import MaskedColmap, StaticBaseline
from recon4d.inference import ReconstructConfig, reconstruct_and_match
from recon4d.io import load_scene
from recon4d.records import Scene
from recon4d.refine import MAP_SIDE, ColmapFailure, RefineConfig, refine_clip
from recon4d.refine.no_solution import NoSolution
from recon4d.zoo import create_model


def test_the_static_baseline_is_static(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    clip = samples["world_01"].clip
    scene = static_scene(clip, (0, 3))
    torch.testing.assert_close(scene.points_from_depth, scene.points)
    torch.testing.assert_close(scene.tracks.points[1, 5], scene.points[3].flatten(0, 1))
    torch.testing.assert_close(scene.cameras.field_of_view(48, 64)[0, 0], torch.tensor(math.radians(60)))
    assert scene.tracks.anchors.tolist() == [0, 3]
    prediction = StaticBaseline().predict(Request("world_01", clip, (0,)))
    assert prediction.status == "ok"
    assert prediction.seconds > 0
    result = score_prediction("static", "world_01", prediction, samples["world_01"].scene, benchmark)
    found = {score.metric: score.value for score in result.scores}
    assert found["registered"] == 1
    assert found["auc_5"] < 0.2
    assert found["abs_rel"] > 0.1


def test_networks_predict_the_tracks_of_the_true_anchors(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no trained weights"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    one_clip = replace(benchmark, clips=("world_00",))
    (result,) = evaluate(one_clip, [method], tmp_path).results
    assert result.status == "ok"
    assert result.score("visibility_accuracy").value > 0
    stored = load_scene(tmp_path / "predictions" / "recon4d_tiny" / "world_00")
    assert stored.tracks.anchors.tolist() == [0]


def test_a_clip_that_is_too_small_for_a_network_is_a_failed_prediction() -> None:
    with pytest.warns(UserWarning, match="no trained weights"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    prediction = method.predict(Request("small", make_clip(2, 16, 24), (0,)))
    assert prediction.status == "failed"
    assert "at least 32" in prediction.reason


class Raises(Method):
    """A method that raises an error for every clip."""

    name = key = "raises"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict_scene(self, request: Request) -> Scene:
        raise self.error


@pytest.mark.parametrize(
    "error", [UserError("small"), NoSolution("no parallax"), ColmapFailure("no model"), CrashError("died")]
)
def test_a_method_without_a_result_is_a_failed_prediction(error: Exception, samples: dict[str, Sample]) -> None:
    prediction = Raises(error).predict(Request("world_00", samples["world_00"].clip, (0,)))
    assert (prediction.scene, prediction.status, prediction.reason) == (None, "failed", str(error))


def test_colmap_with_a_true_mask_ignores_dynamic_pixels_and_has_a_time_limit(samples: dict[str, Sample]) -> None:
    method = make_method("colmap-true-mask", MethodConfig(max_seconds=0.01))
    try:
        clip = samples["world_02"].clip
        dynamic = torch.zeros(8, *clip.size, dtype=torch.bool)
        dynamic[:, :20] = True
        assert make_method("colmap", MethodConfig())._clip(Request("world_02", clip, (0,), dynamic)) is clip
        assert isinstance(method, MaskedColmap)
        priors = method._clip(Request("world_02", clip, (0,), dynamic)).priors
        assert torch.equal(priors.ignore, dynamic)
        ignored = method._clip(
            Request("world_02", replace(clip, priors=replace(priors, ignore=~dynamic)), (0,), dynamic)
        )
        assert ignored.priors.ignore.all()
        prediction = method.predict(Request("world_02", clip, (0,)))
        assert prediction.reason == "the truth of this clip does not say which pixels are dynamic"
        prediction = method.predict(Request("world_02", clip, (0,), dynamic))
        assert (prediction.scene, prediction.status) == (None, "timed out")
    finally:
        method.close()


@pytest.mark.end_to_end
def test_the_refined_method_is_the_network_and_then_refinement() -> None:
    clip = SyntheticScenes(SyntheticConfig(num_frames=3, height=96, width=128)).sample(0).clip
    (_, refined) = make_methods("recon4d_mini", MethodConfig(), NetworkVariants(refine=True))
    assert refined.name == "recon4d_mini+refine"
    found = refined.predict_scene(Request("clip", clip, anchors=()))
    scene, matches = reconstruct_and_match(create_model("recon4d_mini"), clip, ReconstructConfig(anchors=()))
    wanted = refine_clip(clip, scene, matches, RefineConfig(map_side=MAP_SIDE)).scene
    torch.testing.assert_close(found.depths, wanted.depths)
    torch.testing.assert_close(found.cameras.world_from_cam, wanted.cameras.world_from_cam)
