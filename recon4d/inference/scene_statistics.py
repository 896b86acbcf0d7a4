"""Statistics of a scene that need no ground truth: camera path, valid pixels, and agreement between outputs.

`measure_scene` measures a scene in memory, `measure_long` a long clip frame by frame in bounded memory. Both use the
same code. Counts and fractions always include every pixel. Medians and quantiles of long clips are computed from a
deterministic random sample of pixels if there are more than `MAX_SAMPLES`; below, both functions give the same numbers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import evenly_spaced_indices, rotation_angle
from recon4d.io.long_archive import LongScene
from recon4d.records import Calibration, Cameras, ErrorCurve, Scene

AGREEMENT_THRESHOLD = 0.05
"""Largest distance between the points of point map and depth that agree, as a fraction of depth. Hand-tuned."""
OUTLIER_THRESHOLD = 0.2
"""Relative depth error above which a pixel is an outlier. Hand-tuned."""
MOST_CONFIDENT_SHARE = 0.2
"""Fraction of the pixels that count as the most confident ones. Hand-tuned."""
MAX_SAMPLES = 2**21
"""Number of pixels, on average, from which `measure_long` computes each median: 8 MiB each. Hand-tuned."""
MAX_CAMERAS = 2048
"""Number of cameras, evenly spaced in time, whose pairwise distances and rotations are compared. Hand-tuned."""
BLOCK = 256
"""Number of cameras that are compared with all others at a time."""


@dataclass(frozen=True)
class ExpectedErrors:
    """Errors of one output that a calibration predicts for its valid pixels. Errors are fractions of depth."""

    median: float
    """Median error of all valid pixels."""
    median_of_most_confident: float
    """Median error of the most confident pixels, the `MOST_CONFIDENT_SHARE` of all."""
    outlier_share: float
    """Fraction of the valid pixels with an error above `OUTLIER_THRESHOLD`."""


@dataclass(frozen=True)
class ExpectedSceneErrors:
    """Expected errors of each output of a scene; None if the calibration or the scene lacks it."""

    depth: ExpectedErrors | None
    """Errors of depth."""
    points: ExpectedErrors | None
    """Errors of point maps."""
    tracks: ExpectedErrors | None
    """Errors of tracks at other times than those of their anchors."""


@dataclass(frozen=True)
class SceneStatistics:
    """Statistics of one scene; NaN where nothing can be measured. Angles are in degrees, shares from 0 to 1."""

    num_frames: int
    """Number of frames."""
    size: tuple[int, int]
    """Height and width of the maps in pixels."""
    seconds: float
    """Time between the first and the last frame in seconds; NaN without times."""
    fields_of_view: tuple[float, float]
    """Horizontal and vertical field of view, median over frames."""
    min_field_of_view: float
    """Smallest field of view of any frame along either axis."""
    max_field_of_view: float
    """Largest field of view of any frame along either axis."""
    field_of_view_ratio: float
    """Largest ratio between the fields of view of two frames along the same axis, at least 1."""
    path_length: float
    """Length of the path through the camera centers by time (by frame number without times), in units."""
    relative_baseline: float
    """Largest distance between two camera centers, as a fraction of the median depth."""
    max_rotation: float
    """Largest angle between the orientations of two cameras."""
    median_depth: float
    """Median depth of the valid pixels, in units."""
    valid_share: float
    """Share of the pixels with depth."""
    dynamic_share: float
    """Share of dynamic pixels among the valid pixels with a motion prediction."""
    confidence_quartiles: tuple[float, float, float]
    """Quantiles 0.25, 0.5 and 0.75 of the depth confidence of valid pixels."""
    agreement_share: float
    """Share of the pixels with both outputs where point map and depth agree within `AGREEMENT_THRESHOLD`."""
    median_disagreement: float
    """Median distance between the points of point map and depth, as a fraction of depth."""
    metres_per_unit: float
    """Length of the unit in meters; NaN if unknown."""
    num_tracks: int
    """Number of tracked queries."""


def measure_scene(scene: Scene, times: Float[Tensor, " time"]) -> SceneStatistics:
    """Measure a scene in memory.

    Args:
        scene: A scene without batch axes.
        times: Time of each frame (time) in seconds; NaN if unknown.

    Returns:
        Statistics of all pixels.

    Raises:
        ValueError: If the scene has batch axes or `times` has another length.
    """
    if scene.batch_shape or times.shape != (scene.num_frames,):
        raise ValueError(
            f"expected one scene and a time for each of its {scene.num_frames} frames, got a scene with batch shape "
            f"{tuple(scene.batch_shape)} and times of shape {tuple(times.shape)}"
        )
    maps = _MapStatistics()
    maps.add(scene)
    return _statistics(scene.cameras, scene.size, times, maps)


def measure_long(
    index: LongScene, frames: Iterable[Scene], max_samples: int = MAX_SAMPLES
) -> tuple[SceneStatistics, ExpectedSceneErrors | None]:
    """Measure a long clip frame by frame, in memory that does not grow with its length except for the cameras.

    Args:
        index: The index of the long clip.
        frames: The scenes of all frames in order, one frame each, as `recon4d.io.long_archive.iter_frames` yields. They
            are consumed one at a time.
        max_samples: Number of pixels, on average, from which each median and quantile is computed. If the clip has
            no more pixels, all are used and the numbers are those of `measure_scene` and `expected_scene_errors`.

    Returns:
        The statistics and the expected errors; the latter are None if ``index.info`` has no calibration.

    Raises:
        ValueError: If `frames` does not yield one scene for each frame of the index.
    """
    calibration = index.info.calibration
    maps = _MapStatistics(index.num_frames, max_samples)
    confidences = _Confidences(index.num_frames, max_samples)
    count = 0
    for frame in frames:
        if frame.batch_shape or frame.num_frames != 1:
            raise ValueError(f"expected scenes of one frame, got one of {frame.num_frames} frames")
        maps.add(frame)
        if calibration is not None:
            confidences.add(frame)
        count += 1
    if count != index.num_frames:
        raise ValueError(f"expected {index.num_frames} frames, got {count}")
    expected = None if calibration is None else confidences.expected_errors(calibration)
    return _statistics(index.cameras, index.size, index.times, maps), expected


def expected_scene_errors(scene: Scene, calibration: Calibration) -> ExpectedSceneErrors:
    """Predict the errors of a scene from its confidences.

    Args:
        scene: A scene without batch axes, as predicted by the model.
        calibration: Calibration of the model.

    Returns:
        The expected errors of each output.
    """
    confidences = _Confidences()
    confidences.add(scene)
    return confidences.expected_errors(calibration)


class _Sampler:
    """Collects values of pixels over the frames of a scene: all of them, or a random sample of bounded size."""

    def __init__(self, num_frames: int | None, max_samples: int | None) -> None:
        self._num_frames = num_frames
        self._max_samples = max_samples
        self._generator = torch.Generator().manual_seed(0)
        self._values: dict[str, list[Tensor]] = {}

    def mask(self, like: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return which elements of one frame to collect. Each element of the clip has the same probability."""
        if self._max_samples is None or self._num_frames is None or like.numel() == 0:
            return torch.ones_like(like)
        fraction = self._max_samples / (self._num_frames * like.numel())
        if fraction >= 1:
            return torch.ones_like(like)
        return torch.rand(like.shape, generator=self._generator) < fraction

    def collect(self, name: str, values: Float[Tensor, "n"]) -> None:
        """Add values of one kind."""
        self._values.setdefault(name, []).append(values)

    def values(self, name: str) -> Float[Tensor, "n"]:
        """Return all collected values of one kind."""
        return torch.cat(self._values.get(name, [torch.zeros(0)]))


class _MapStatistics:
    """Accumulates the statistics of maps over the frames of a scene.

    With `max_samples`, every added scene must be one frame of `num_frames`.
    """

    def __init__(self, num_frames: int | None = None, max_samples: int | None = None) -> None:
        self.sampler = _Sampler(num_frames, max_samples)
        self.num_pixels = self.num_valid = 0
        self.num_with_motion = self.num_dynamic = 0
        self.num_compared = self.num_agreeing = 0
        self.metres_per_unit: float | None = None
        self.num_tracks = 0

    def add(self, scene: Scene) -> None:
        """Add the next frames."""
        valid = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
        with_motion = valid & torch.isfinite(scene.dynamic)
        compared = valid & (scene.point_confidence > 0)
        disagreement = (scene.points - scene.points_from_depth).norm(dim=-1) / scene.depths
        self.num_pixels += valid.numel()
        self.num_valid += int(valid.sum())
        self.num_with_motion += int(with_motion.sum())
        self.num_dynamic += int((scene.is_dynamic & with_motion).sum())
        self.num_compared += int(compared.sum())
        self.num_agreeing += int((compared & (disagreement <= AGREEMENT_THRESHOLD)).sum())
        sample = self.sampler.mask(valid)
        self.sampler.collect("depth", scene.depths[valid & sample])
        self.sampler.collect("confidence", scene.depth_confidence[valid & sample])
        self.sampler.collect("disagreement", disagreement[compared & sample])
        if self.metres_per_unit is None:
            self.metres_per_unit = float(scene.metres_per_unit)
            self.num_tracks = 0 if scene.tracks is None else scene.tracks.confidence[:, 0].numel()


class _Confidences:
    """Accumulates the confidences of all outputs over the frames of a scene; arguments as for `_MapStatistics`."""

    def __init__(self, num_frames: int | None = None, max_samples: int | None = None) -> None:
        self._sampler = _Sampler(num_frames, max_samples)

    def add(self, scene: Scene) -> None:
        """Add the next frames."""
        confidences = {"depth": scene.depth_confidence, "points": scene.point_confidence}
        known = {name: confidence > 0 for name, confidence in confidences.items()}
        if scene.tracks is not None:
            is_off_anchor = scene.tracks.anchors[:, None] != torch.arange(scene.num_frames)
            confidences["tracks"] = scene.tracks.confidence
            known["tracks"] = is_off_anchor[..., None] & (scene.tracks.confidence > 0)
        for name, confidence in confidences.items():
            self._sampler.collect(name, confidence[known[name] & self._sampler.mask(known[name])])

    def expected_errors(self, calibration: Calibration) -> ExpectedSceneErrors:
        """Predict the errors of each output."""
        return ExpectedSceneErrors(
            depth=_expected_errors(calibration.depth, self._sampler.values("depth")),
            points=_expected_errors(calibration.points, self._sampler.values("points")),
            tracks=_expected_errors(calibration.tracks, self._sampler.values("tracks")),
        )


def _expected_errors(curve: ErrorCurve | None, confidence: Float[Tensor, "n"]) -> ExpectedErrors | None:
    if curve is None or not len(confidence):
        return None
    descending = confidence.sort(descending=True).values
    best = descending[: max(1, round(MOST_CONFIDENT_SHARE * len(descending)))]
    return ExpectedErrors(
        median=curve.error_quantile(descending, 0.5),
        median_of_most_confident=curve.error_quantile(best, 0.5),
        outlier_share=1 - curve.fraction_within(descending, OUTLIER_THRESHOLD),
    )


def _statistics(
    cameras: Cameras, size: tuple[int, int], times: Float[Tensor, " time"], maps: _MapStatistics
) -> SceneStatistics:
    has_times = bool(torch.isfinite(times).all())
    angles = cameras.field_of_view(*size).rad2deg()
    centers = cameras.centers[times.argsort(stable=True)] if has_times else cameras.centers
    compared = evenly_spaced_indices(len(centers), MAX_CAMERAS)
    median_depth = _median(maps.sampler.values("depth"))
    confidence = maps.sampler.values("confidence")
    quartiles = np.percentile(confidence.numpy(), (25, 50, 75)).tolist() if len(confidence) else [math.nan] * 3
    return SceneStatistics(
        num_frames=len(times),
        size=size,
        seconds=float(times.max() - times.min()) if has_times else math.nan,
        fields_of_view=(_median(angles[:, 0]), _median(angles[:, 1])),
        min_field_of_view=float(angles.min()),
        max_field_of_view=float(angles.max()),
        field_of_view_ratio=float((angles.amax(dim=0) / angles.amin(dim=0)).max()),
        path_length=float(centers.diff(dim=0).norm(dim=-1).sum()),
        relative_baseline=_max_distance(centers[compared]) / median_depth,
        max_rotation=_max_rotation(cameras.world_from_cam[compared, :3, :3]),
        median_depth=median_depth,
        valid_share=_share(maps.num_valid, maps.num_pixels),
        dynamic_share=_share(maps.num_dynamic, maps.num_with_motion),
        confidence_quartiles=(quartiles[0], quartiles[1], quartiles[2]),
        agreement_share=_share(maps.num_agreeing, maps.num_compared),
        median_disagreement=_median(maps.sampler.values("disagreement")),
        metres_per_unit=math.nan if maps.metres_per_unit is None else maps.metres_per_unit,
        num_tracks=maps.num_tracks,
    )


def _share(count: int, total: int) -> float:
    return count / total if total else math.nan


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy())) if values.numel() else math.nan


def _max_distance(centers: Float[Tensor, "camera 3"]) -> float:
    """Return the largest distance between two centers.

    Distances are computed directly: |a|^2 - 2 ab + |b|^2 would lose the precision of small ones.
    """
    return max(float((block[:, None] - centers[None]).norm(dim=-1).max()) for block in centers.split(BLOCK))


def _max_rotation(rotations: Float[Tensor, "camera 3 3"]) -> float:
    """Return the largest angle between two rotations, in degrees."""
    return max(float(rotation_angle(rotation.T @ rotations).max().rad2deg()) for rotation in rotations)
