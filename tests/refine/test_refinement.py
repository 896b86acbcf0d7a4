"""Tests of what a refinement tells about itself."""

from dataclasses import replace

from moving_square import filmed, turning_cameras

from recon4d.refine import Refinement
from recon4d.refine.pipeline import find_what_moves
from recon4d.runs.refinement_info import find_refinement_problems


def test_the_reason_why_what_moves_is_as_predicted_is_told() -> None:
    clip, scene, _ = filmed(0.0)
    refinement = Refinement(scene, True, 1.0, 0.5, 100, clip, inlier_fraction=1.0, inlier_fraction_before=0.5)
    wrong = replace(refinement, scene=replace(scene, cameras=turning_cameras(2.0)))
    kept = find_what_moves(clip, wrong, None)
    assert (kept.scene.dynamic == scene.dynamic).all()
    assert "what moves is as predicted: most of the picture moves against these cameras" in str(kept)
    assert any(problem.startswith("what moves") for problem in find_refinement_problems(kept.summary))
    found = find_what_moves(clip, refinement, None)
    assert "what moves" not in str(found)
    assert (found.scene.dynamic != scene.dynamic).any()
