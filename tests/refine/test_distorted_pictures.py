"""Lens distortion is found and removed by refinement."""

import pytest
import torch
from perturbed_scenes import add_noise, feature_tracks_of_scene, perturb_cameras, rotation_errors, synthetic_scene

from recon4d.records import Clip, FeatureTracks, Scene
from recon4d.refine import refine_scene
from recon4d.refine.cameras.radial_distortion import RadialDistortion
from recon4d.refine.depth.triangulation import SparseDepths, triangulate_depths
from recon4d.refine.tracks.located_tracks import LocatedTracks


@pytest.mark.parametrize("k1", [-0.15, 0.1])
def test_a_lens_that_bends_lines_is_found_and_removed(k1: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are those of a synthetic scene through a lens with radial distortion."""
    triangulated: list[LocatedTracks] = []

    def record(scene: Scene, fitted: LocatedTracks, held_out: LocatedTracks) -> SparseDepths | None:
        triangulated.append(fitted)
        return triangulate_depths(scene, fitted, held_out)

    monkeypatch.setattr("recon4d.refine.pipeline.triangulate_depths", record)
    truth = synthetic_scene(4)
    matrix = truth.cameras.intrinsics[0]
    focal_lengths, center, lens = matrix.diagonal()[:2], matrix[:2, 2], RadialDistortion(k1)
    tracks = feature_tracks_of_scene(truth, 300)
    pixels = center + lens.factors((tracks.pixels - center) / focal_lengths) * (tracks.pixels - center)
    clip = Clip(torch.zeros(8, 3, *truth.size, dtype=torch.uint8), torch.arange(8.0))
    distorted = FeatureTracks(pixels, tracks.visibility)
    refinement = refine_scene(perturb_cameras(truth), distorted, clip=clip)
    assert refinement.is_accepted
    scene = refinement.scene
    assert scene.distortion is not None
    assert float(scene.distortion[0]) == pytest.approx(k1, abs=0.02)
    torch.testing.assert_close(scene.cameras.intrinsics[0, 0, 0], matrix[0, 0], rtol=0.02, atol=0)
    assert rotation_errors(scene, truth).max() < 0.2
    assert f"radial distortion {float(scene.distortion[0]):.3f}" in str(refinement)
    assert refinement.clip is not None
    assert refinement.clip.priors is not None
    # Depth is aligned to tracks of the undistorted pictures: each has its pixels in the pinhole picture.
    (straight,) = triangulated
    is_observed = straight.tracks.visibility > 0
    distances = torch.cdist(straight.tracks.pixels[0][is_observed[0]], tracks.pixels[0][tracks.visibility[0] > 0])
    assert distances.min(dim=1).values.quantile(0.9) < 0.5
    # A pixel that the distorted picture does not show is ignored and unknown.
    corner = refinement.clip.priors.ignore
    assert corner is not None
    assert bool(corner[0, 0, 0]) == bool(scene.depth_confidence[0, 0, 0] == 0) == (k1 > 0)


def test_the_center_of_a_distorting_lens_is_found() -> None:
    """Without distortion, the shift of the principal point explains too little to be believed."""
    truth = synthetic_scene(4)
    matrix, lens, shift = truth.cameras.intrinsics[0], RadialDistortion(0.15, -0.2), torch.tensor([2.0, -1.5])
    focal_lengths, center = matrix.diagonal()[:2], matrix[:2, 2]
    tracks = feature_tracks_of_scene(truth, 300)
    normalized = (tracks.pixels - center) / focal_lengths
    pixels = center + shift + lens.factors(normalized) * (tracks.pixels - center)
    noisy = add_noise(FeatureTracks(pixels, tracks.visibility), truth.size, 0.1, 0.0)
    clip = Clip(torch.zeros(8, 3, *truth.size, dtype=torch.uint8), torch.arange(8.0))
    refinement = refine_scene(perturb_cameras(truth), noisy, clip=clip)
    found = refinement.scene.cameras.intrinsics[0]
    torch.testing.assert_close(found[:2, 2], center + shift, atol=0.3, rtol=0)
    torch.testing.assert_close(found[0, 0], matrix[0, 0], rtol=0.01, atol=0)


def test_pinhole_pictures_have_no_distortion() -> None:
    truth = synthetic_scene(4)
    clip = Clip(torch.zeros(8, 3, *truth.size, dtype=torch.uint8), torch.arange(8.0))
    tracks = add_noise(feature_tracks_of_scene(truth, 300), truth.size, 0.1, 0.0)
    refinement = refine_scene(perturb_cameras(truth), tracks, clip=clip)
    assert refinement.is_accepted
    assert refinement.scene.distortion is None
    assert refinement.clip is clip
