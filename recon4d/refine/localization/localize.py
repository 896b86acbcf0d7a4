"""Localization of one picture: matches to the frames of a scene, PnP with RANSAC, adjustment, and a test of trust."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import invert, rigid
from recon4d.io.cameras.lenses import Lens
from recon4d.io.undistortion import undistort_pixels
from recon4d.refine.localization.correspondences import (
    Matches,
    agreeing_matches,
    feature_error,
    match_views,
    observe_points,
)
from recon4d.refine.localization.features import Features
from recon4d.refine.localization.pose_adjustment import AdjustedCamera, PointObservations, adjust_camera
from recon4d.refine.localization.scene_views import SceneView
from recon4d.refine.localization.uncertainty import covariance_of_views
from recon4d.refine.no_solution import NoSolution
from recon4d.refine.pycolmap_loader import matrix_of, pycolmap_session

RANSAC_TOLERANCE = 0.008
"""Largest reprojection error of an inlier of RANSAC, as a fraction of the longer side. Hand-tuned: points come from
depth, which is inaccurate."""
TOLERANCE = 4.0
"""Largest residual of an inlier after adjustment, in standard deviations of feature positions. Hand-tuned."""
MIN_INLIERS = 12
"""Smallest number of inliers; several points fit by chance. Hand-tuned."""
MAX_LOG_FALSE_ALARMS = -3.0
"""Largest decimal logarithm of the expected number of cameras that fit as many matches by chance, as in a-contrario
RANSAC (Moisan, Moulon and Monasse 2012)."""
MAX_ROTATION_ERROR = 5.0
"""Largest expected error of the rotation, in degrees. Hand-tuned."""
MAX_POSITION_ERROR = 0.2
"""Largest expected error of the position, as a fraction of the depth of the inliers. Hand-tuned."""
SIGNIFICANT_GAIN = 8.0
"""Decrease of the cost by which less likely intrinsics must explain the matches better. The probability that a correct
focal length loses by chance is 10^-4 (chi-squared test with one degree of freedom)."""
MIN_FOCAL_CHANGE = 0.1
"""Smallest difference of the logarithm of the focal length by which a guess replaces that of the scene's camera. The
focal length of a scene may be wrong by a few percent; its points are then wrong too, and fit best to the same focal
length. Hand-tuned."""
OUTSIDE = -1e6
"""Pixel of what no pinhole camera shows: no camera agrees with it."""
GRID = 6
"""Number of rows and columns of the cells by which the coverage of inliers over the picture is measured."""


@dataclass(frozen=True)
class IntrinsicsHypothesis:
    """Possible intrinsics of a picture."""

    name: str
    """Where they come from, for the user."""
    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the picture, in float64."""
    focal_error: float
    """Standard deviation of the logarithm of the focal length; 0 if it is known."""
    is_guess: bool = False
    """Whether the focal length is a guess, so that RANSAC estimates it."""
    lens: Lens | None = None
    """Lens distortion of the picture; None if it has none."""


@dataclass(frozen=True)
class Location:
    """Camera of a picture in the world of a scene, and how far to trust it."""

    world_from_cam: Float[Tensor, "4 4"]
    """Pose, in float64."""
    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the picture, in float64."""
    hypothesis: IntrinsicsHypothesis
    """Where the intrinsics come from, and the lens distortion of the picture."""
    num_inliers: int
    """Number of different places in the picture that agree with the camera."""
    inlier_fraction: float
    """Fraction of the places with a match that agree with the camera."""
    coverage: float
    """Fraction of the cells of the picture that contain inliers."""
    rotation_error: float
    """Expected error of the rotation in degrees (one standard deviation)."""
    position_error: float
    """Expected error of the position in units of the scene (one standard deviation)."""
    depth: float
    """Median depth of the inliers in units of the scene."""
    inliers: Int[Tensor, " inlier"]
    """Features of the picture that agree with the camera."""
    depths: Float[Tensor, " inlier"]
    """Depth of the point of each inlier, in the frame of the camera and in units of the scene."""


def localize(
    features: Features,
    size: tuple[int, int],
    views: Sequence[SceneView],
    hypotheses: Sequence[IntrinsicsHypothesis],
    seed: int = 0,
) -> Location:
    """Estimate the camera of a picture.

    Args:
        features: Features of the picture.
        size: Height and width of the picture.
        views: Views of the scene.
        hypotheses: Possible intrinsics, the most likely first. A later one is taken if it explains the matches
            significantly better.
        seed: Seed of RANSAC.

    Returns:
        The camera.

    Raises:
        NoSolution: If the matches do not determine a camera; the message says why.
    """
    if not views:
        raise NoSolution("no frame of the scene has a known camera")
    matches = match_views(features, views)
    num_places = _num_places(matches.pixels, size)
    if num_places < MIN_INLIERS:
        raise NoSolution(f"only {num_places} places match the scene, at least {MIN_INLIERS} are needed")
    best, failure = None, None
    for hypothesis in hypotheses:
        try:
            found = _fit(matches, size, views, hypothesis, seed)
        except NoSolution as reason:
            failure = failure or reason
            continue
        if best is None or found.is_better_than(best):
            best = found
    if best is None:
        assert failure is not None
        raise failure
    return _describe(best, num_places, size)


@dataclass(frozen=True)
class _Fit:
    """A camera that was adjusted to its inliers."""

    hypothesis: IntrinsicsHypothesis
    camera: AdjustedCamera
    observations: PointObservations
    is_inlier: Bool[Tensor, " point"]
    """Whether each point agrees with the camera."""

    def is_better_than(self, other: "_Fit") -> bool:
        """Check whether this camera explains significantly more than a more likely one."""
        # A point that only one of the two explains counts as much as the worst inlier.
        outlier = 0.5 * TOLERANCE**2
        gain = int(self.is_inlier.sum() - other.is_inlier.sum()) * outlier - (self.camera.cost - other.camera.cost)
        if self.hypothesis.is_guess and not other.hypothesis.focal_error:
            ratio = self.camera.current_intrinsics[0, 0] / other.camera.current_intrinsics[0, 0]
            return gain > SIGNIFICANT_GAIN and abs(math.log(float(ratio))) > MIN_FOCAL_CHANGE
        return gain > SIGNIFICANT_GAIN


def _fit(
    matches: Matches,
    size: tuple[int, int],
    views: Sequence[SceneView],
    hypothesis: IntrinsicsHypothesis,
    seed: int,
) -> _Fit:
    """Estimate the camera by RANSAC, check that it is not due to chance, and adjust it to all matches that agree."""
    matches = replace(matches, pixels=_undistorted(matches.pixels, hypothesis))
    cam_from_world, focal_ratio, is_inlier = _ransac(matches, size, hypothesis, seed)
    _check_significance(matches.pixels[is_inlier], matches.pixels, size)
    factors = torch.tensor([[focal_ratio, 1, 1], [1, focal_ratio, 1], [1, 1, 1]], dtype=torch.double)
    intrinsics = hypothesis.intrinsics * factors
    camera = AdjustedCamera(
        cam_from_world[:3, :3], invert(cam_from_world)[:3, 3], 0.0, intrinsics, torch.zeros(0, 3).double()
    )
    pixel_error = feature_error(size)
    for tolerance in (RANSAC_TOLERANCE * max(size), TOLERANCE * pixel_error, TOLERANCE * pixel_error):
        chosen, depths = agreeing_matches(camera, matches, views, tolerance)
        if len(chosen) < MIN_INLIERS:
            raise NoSolution(f"only {len(chosen)} matches agree with one camera")
        points, observations = observe_points(chosen, depths, views, pixel_error)
        camera = adjust_camera(replace(camera, points=points), observations, hypothesis.focal_error)
    residuals = (camera.project()[0] - observations.query_pixels).norm(dim=1)
    is_kept = (residuals < TOLERANCE * pixel_error) & (camera.project()[1] > 0)
    return _Fit(hypothesis, camera, observations, is_kept)


def _ransac(
    matches: Matches, size: tuple[int, int], hypothesis: IntrinsicsHypothesis, seed: int
) -> tuple[Float[Tensor, "4 4"], float, Bool[Tensor, " match"]]:
    """Return the pose, the ratio of the focal length to the hypothesis, and the inliers."""
    matrix = hypothesis.intrinsics
    focal = float((matrix[0, 0] * matrix[1, 1]).sqrt())
    params = [focal, float(matrix[0, 2]), float(matrix[1, 2])]
    with pycolmap_session(seed) as pycolmap:
        camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=size[1], height=size[0], params=params)
        options = pycolmap.AbsolutePoseEstimationOptions()
        options.estimate_focal_length = hypothesis.is_guess
        options.ransac.max_error = RANSAC_TOLERANCE * max(size)
        options.ransac.min_inlier_ratio = 0.02
        options.ransac.random_seed = seed
        refinement = pycolmap.AbsolutePoseRefinementOptions()
        refinement.refine_focal_length = hypothesis.is_guess
        found = pycolmap.estimate_and_refine_absolute_pose(
            matches.pixels.numpy(), matches.points.numpy(), camera, options, refinement
        )
        new_focal = float(camera.focal_length)
    if found is None:
        raise NoSolution("no camera agrees with the matches")
    is_inlier = torch.from_numpy(np.asarray(found["inlier_mask"], dtype=bool))
    return matrix_of(found["cam_from_world"]), new_focal / focal, is_inlier


def _check_significance(inliers: Float[Tensor, "n 2"], pixels: Float[Tensor, "m 2"], size: tuple[int, int]) -> None:
    """Raise `NoSolution` if as many matches could agree with some camera by chance."""
    count, total = _num_places(inliers, size), _num_places(pixels, size)
    reason = f"only {count} of {total} places that match the scene agree with one camera"
    if count < MIN_INLIERS:
        raise NoSolution(reason)
    chance = math.pi * (RANSAC_TOLERANCE * max(size)) ** 2 / (size[0] * size[1])
    log_choices = (math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)) / math.log(10)
    if math.log10(total) + log_choices + (count - 4) * math.log10(chance) > MAX_LOG_FALSE_ALARMS:
        raise NoSolution(f"{reason}, which may be chance")


def _undistorted(pixels: Float[Tensor, "n 2"], hypothesis: IntrinsicsHypothesis) -> Float[Tensor, "n 2"]:
    """Return the pixels of a pinhole camera; far outside of the picture where the lens shows none."""
    if hypothesis.lens is None:
        return pixels
    return undistort_pixels(pixels, hypothesis.intrinsics, hypothesis.lens).nan_to_num(nan=OUTSIDE)


def _describe(fit: _Fit, num_places: int, size: tuple[int, int]) -> Location:
    """Measure how far to trust a camera, and raise `NoSolution` if it is not determined."""
    camera = fit.camera
    assert camera.covariance is not None
    covariance = camera.covariance + covariance_of_views(camera, fit.observations, fit.hypothesis.focal_error)
    pixels = fit.observations.query_pixels[fit.is_inlier]
    depth = float(camera.project()[1][fit.is_inlier].median()) if fit.is_inlier.any() else math.nan
    rotation_error = math.degrees(float(covariance[:3, :3].trace().clamp(min=0).sqrt()))
    position_error = float(covariance[3:6, 3:6].trace().clamp(min=0).sqrt())
    num_inliers = _num_places(pixels, size)
    if num_inliers < MIN_INLIERS:
        raise NoSolution(f"only {num_inliers} of {num_places} places that match the scene agree with one camera")
    if not (rotation_error < MAX_ROTATION_ERROR and position_error < MAX_POSITION_ERROR * depth):
        raise NoSolution(
            f"{num_inliers} places match, but they do not determine the camera (expected errors of "
            f"{rotation_error:.1f} degrees and {position_error / depth:.0%} of the depth)"
        )
    return Location(
        invert(rigid(camera.rotation, -camera.rotation @ camera.center)),
        camera.current_intrinsics,
        fit.hypothesis,
        num_inliers,
        min(1.0, num_inliers / num_places),
        _coverage(pixels, size),
        rotation_error,
        position_error,
        depth,
        fit.observations.features[fit.is_inlier],
        camera.project()[1][fit.is_inlier],
    )


def _num_places(pixels: Float[Tensor, "n 2"], size: tuple[int, int]) -> int:
    """Count the different places of pixels, in cells of the tolerance of RANSAC; features may share a place."""
    return len((pixels / (RANSAC_TOLERANCE * max(size))).floor().unique(dim=0)) if len(pixels) else 0


def _coverage(pixels: Float[Tensor, "n 2"], size: tuple[int, int]) -> float:
    cells = (pixels / pixels.new_tensor([size[1] / GRID, size[0] / GRID])).floor().clamp(0, GRID - 1)
    return len(cells.unique(dim=0)) / GRID**2
