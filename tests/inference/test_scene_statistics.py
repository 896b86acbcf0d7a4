"""Statistics of long clips: equal to those of a scene in memory, and computed in bounded memory."""

import weakref
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from long_scenes import INFO, LongSample, TrackingOracle, make_long_sample
from torch import Tensor

from recon4d.inference import SceneStatistics, expected_scene_errors, measure_long, measure_scene, scene_statistics
from recon4d.inference.windows import WindowConfig, reconstruct_windows
from recon4d.io.long_archive import LongScene, iter_frames, load_frames, load_index
from recon4d.records import Calibration, ErrorCurve, Scene

CURVE = ErrorCurve((1.0, 10.0), (0.5, 0.01), (0.5, 1.0, 2.0))
CALIBRATION = Calibration("synthetic scenes", CURVE, CURVE, CURVE)


@pytest.fixture(scope="module")
def sample() -> LongSample:
    return make_long_sample(anchors=range(20))


@pytest.fixture(scope="module")
def folder(sample: LongSample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long clip with random confidences, unknown pixels, noisy point maps and tracks."""

    def corrupt(scene: Scene, generator: torch.Generator) -> Scene:
        def random(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=generator)

        confidence = torch.where(random(scene.depths) < 0.2, 0.0, 1 + 9 * random(scene.depths))
        points = scene.points + 0.1 * scene.depths[..., None] * random(scene.points)
        return replace(scene, depth_confidence=confidence * scene.depth_confidence, points=points)

    folder = tmp_path_factory.mktemp("long") / "clip"
    info = replace(INFO, source=sample.long_clip.source, calibration=CALIBRATION)
    config = WindowConfig(8, 3, tracks=2)
    reconstruct_windows(TrackingOracle(sample.scene, corrupt), sample.long_clip, folder, info, config)
    return folder


@pytest.fixture
def index(folder: Path) -> LongScene:
    return load_index(folder)


def assert_close(found: SceneStatistics, wanted: SceneStatistics, tolerance: float) -> None:
    for name, value in asdict(wanted).items():
        assert asdict(found)[name] == pytest.approx(value, rel=tolerance, nan_ok=True), name


def test_a_long_clip_has_the_same_statistics_as_a_scene_in_memory(folder: Path, index: LongScene) -> None:
    scene = load_frames(folder, range(index.num_frames))
    statistics, expected = measure_long(index, iter_frames(folder))
    assert_close(statistics, measure_scene(scene, index.times), 1e-6)
    assert statistics.num_tracks == 14 * 18
    assert 0 < statistics.valid_share < 1
    assert 0 < statistics.agreement_share < 1
    assert expected == expected_scene_errors(scene, CALIBRATION)
    assert expected is not None
    assert expected.tracks is not None


def test_a_sample_of_the_pixels_gives_similar_medians_and_the_same_counts(folder: Path, index: LongScene) -> None:
    scene = load_frames(folder, range(index.num_frames))
    exact, exact_errors = measure_scene(scene, index.times), expected_scene_errors(scene, CALIBRATION)
    statistics, expected = measure_long(index, iter_frames(folder), max_samples=4000)
    again, _ = measure_long(index, iter_frames(folder), max_samples=4000)
    assert statistics == again
    assert statistics.median_depth != exact.median_depth
    assert_close(statistics, exact, 0.1)
    for name in ("valid_share", "dynamic_share", "agreement_share", "path_length", "max_rotation", "num_tracks"):
        assert getattr(statistics, name) == pytest.approx(getattr(exact, name), rel=1e-6)
    assert expected is not None
    for found, wanted in ((expected.depth, exact_errors.depth), (expected.tracks, exact_errors.tracks)):
        assert found is not None
        assert wanted is not None
        assert found.median == pytest.approx(wanted.median, rel=0.1)


def test_memory_does_not_grow_with_the_clip(folder: Path, index: LongScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame is alive at a time, and the number of collected values is bounded."""
    alive, most = weakref.WeakSet(), [0]
    collected: dict[str, int] = {}
    collect = scene_statistics._Sampler.collect

    def counted(self: scene_statistics._Sampler, name: str, values: Tensor) -> None:
        collected[name] = collected.get(name, 0) + len(values)
        collect(self, name, values)

    def frames() -> Iterator[Scene]:
        for frame in iter_frames(folder):
            alive.add(frame.depths)
            most[0] = max(most[0], len(alive))
            yield frame
            del frame

    monkeypatch.setattr(scene_statistics._Sampler, "collect", counted)
    measure_long(index, frames(), max_samples=1000)
    assert most[0] <= 2  # the one that is measured and the one that is read
    assert {"depth", "confidence", "disagreement", "tracks"} <= collected.keys()
    assert max(collected.values()) < 2 * 1200  # "depth" is collected for the statistics and for the expected errors


def test_many_cameras_are_compared_in_blocks(folder: Path, index: LongScene, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = measure_long(index, iter_frames(folder))
    monkeypatch.setattr(scene_statistics, "BLOCK", 3)
    assert measure_long(index, iter_frames(folder))[0] == exact
    monkeypatch.setattr(scene_statistics, "MAX_CAMERAS", 2)
    ends = index.cameras.centers[[0, -1]]
    found, _ = measure_long(index, iter_frames(folder))
    assert found.relative_baseline == pytest.approx(float((ends[1] - ends[0]).norm()) / exact.median_depth, rel=1e-5)
    assert found.path_length == exact.path_length


def test_without_a_calibration_no_errors_are_expected(folder: Path, index: LongScene) -> None:
    uncalibrated = replace(index, info=replace(index.info, calibration=None))
    assert measure_long(uncalibrated, iter_frames(folder))[1] is None


def test_frames_that_do_not_fit_the_index_are_an_error(folder: Path, index: LongScene) -> None:
    with pytest.raises(ValueError, match="expected 20 frames, got 3"):
        measure_long(index, iter_frames(folder, range(3)))
    with pytest.raises(ValueError, match="one of 2 frames"):
        measure_long(index, [load_frames(folder, [0, 1])])
