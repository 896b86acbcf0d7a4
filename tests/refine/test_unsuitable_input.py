"""What refinement cannot use: few tracks, equal pictures, missing solutions and settings out of range."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from perturbed_scenes import add_noise, feature_tracks_of_scene, perturb_cameras, synthetic_sample, synthetic_scene

from recon4d.errors import UserError
from recon4d.records import Clip, FeatureTracks
from recon4d.refine import RefineConfig, refine_clip, refine_scene
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.refinement import Refinement


def test_many_tracks_of_few_corners_are_too_few() -> None:
    """A corner that is detected in every frame has a track from each of them."""
    truth = synthetic_scene(4)
    few = feature_tracks_of_scene(truth, 5)
    repeated = FeatureTracks(few.pixels.repeat(1, 20, 1), few.visibility.repeat(1, 20))
    refinement = refine_scene(perturb_cameras(truth), add_noise(repeated, truth.size, 0.01, 0.0))
    assert not refinement.is_accepted
    assert "different corners" in refinement.reason


@pytest.mark.parametrize(("degrees", "told"), [(0.0, "does not move"), (5.0, "only rotates")])
def test_it_is_told_whether_the_camera_rotates(degrees: float, told: str) -> None:
    truth = synthetic_scene(5)
    scene = perturb_cameras(replace(truth, cameras=truth.cameras.frames([0] * 8)), degrees=degrees, share=0.0)
    refinement = Refinement(scene, True, 1.0, 0.0, 100, is_rotation_only=True, inlier_fraction=1.0)
    assert f"the camera {told}, which determines no depth" in str(refinement)


def test_one_picture_many_times_is_not_refined() -> None:
    truth = synthetic_scene(4)
    clip = Clip(torch.randint(256, (1, 3, *truth.size)).to(torch.uint8).expand(8, -1, -1, -1), torch.arange(8.0))
    refinement = refine_clip(clip, truth, feature_tracks_of_scene(truth, 100))
    assert not refinement.is_accepted
    assert refinement.reason == "all frames are the same picture"


def test_the_number_of_threads_is_restored() -> None:
    truth, num_threads = synthetic_scene(4), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        refine_scene(perturb_cameras(truth), feature_tracks_of_scene(truth, 60))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(num_threads)


def test_too_few_tracks_change_nothing() -> None:
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 25)
    refinement = refine_scene(truth, tracks)
    assert refinement.scene is truth
    assert "30 are needed" in refinement.reason
    none = FeatureTracks(torch.zeros(8, 0, 2), torch.zeros(8, 0))
    assert "only 0 tracks are consistent" in refine_scene(truth, none).reason
    clip = synthetic_sample(4).clip
    blank = replace(clip, images=torch.full_like(clip.images, 90))
    assert refine_clip(blank, truth, tracks).scene is truth
    one_frame = truth.frames([0])
    assert (
        "at least 2 frames" in refine_scene(one_frame, FeatureTracks(tracks.pixels[:1], tracks.visibility[:1])).reason
    )
    unobserved = FeatureTracks(tracks.pixels, torch.zeros_like(tracks.visibility))
    assert refine_scene(truth, unobserved).scene is truth
    unknown = replace(truth, depth_confidence=torch.zeros_like(truth.depths))
    assert refine_scene(unknown, feature_tracks_of_scene(truth, 300)).scene is unknown


def raise_error(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


def test_a_defect_in_bundle_adjustment_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = synthetic_scene(4)
    monkeypatch.setattr("recon4d.refine.cameras.hypotheses.adjust", raise_error(ValueError("shapes differ")))
    with pytest.raises(ValueError, match="shapes differ"):
        refine_scene(perturb_cameras(truth), feature_tracks_of_scene(truth, 200))


@pytest.mark.parametrize(
    "function", ["hypotheses.adjust", "hypotheses.map_tracks", "scoring.refine_points", "model_selection.score_tracks"]
)
def test_a_missing_solution_does_not_surface(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, tracks = perturb_cameras(synthetic_scene(4)), feature_tracks_of_scene(synthetic_scene(4), 200)
    monkeypatch.setattr(f"recon4d.refine.cameras.{function}", raise_error(NoSolution("it did not converge")))
    refinement = refine_scene(before, tracks)
    if function == "hypotheses.map_tracks":  # the adjusted prediction is found all the same
        assert refinement.is_accepted
    else:
        assert refinement.scene is before
        assert refinement.reason == "it did not converge"


def test_unsuitable_input_is_rejected() -> None:
    truth = synthetic_scene(4)
    tracks = feature_tracks_of_scene(truth, 100)
    with pytest.raises(ValueError, match="tracks through 7") as caught:
        refine_scene(truth, FeatureTracks(tracks.pixels[:7], tracks.visibility[:7]))
    assert not isinstance(caught.value, UserError)
    lost = truth.cameras.world_from_cam.clone()
    lost[3] = torch.nan
    with pytest.raises(UserError, match="unknown"):
        refine_scene(replace(truth, cameras=replace(truth.cameras, world_from_cam=lost)), tracks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("held_out_fraction", 0.0),
        ("held_out_fraction", 1.0),
        ("min_tracks", 1),
        ("num_tracks", 29),
        ("inlier_threshold", 0.0),
    ],
)
def test_settings_outside_of_their_range_are_rejected(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        replace(RefineConfig(), **{name: value})
