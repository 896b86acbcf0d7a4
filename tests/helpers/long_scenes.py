"""A synthetic clip with dynamic objects, and an oracle that reconstructs its windows exactly up to world and unit."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recon4d import geometry as g
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes
from recon4d.datasets.synthetic.ground_truth import make_ground_truth
from recon4d.datasets.synthetic.ray_casting import cast_rays
from recon4d.inference.windows import WindowConfig, reconstruct_windows
from recon4d.io import SceneInfo
from recon4d.io.long_archive import LongScene
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, ClipSource, Scene

FRAMES, HEIGHT, WIDTH = 20, 28, 36
INFO = SceneInfo("oracle", True, "0", None, (HEIGHT, WIDTH), {})


@dataclass(frozen=True)
class LongSample:
    """A clip with its ground truth."""

    clip: Clip
    scene: Scene

    @property
    def long_clip(self) -> LongClip:
        """The clip, to be read frame by frame."""
        return in_memory(self.clip)


def in_memory(clip: Clip) -> LongClip:
    """Convert a clip in memory to a long clip that yields copies of its frames one by one."""

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        return (clip.images[position].clone() for position in positions)

    numbers = tuple(range(clip.num_frames))
    source = ClipSource("world", tuple(f"{i}" for i in numbers), numbers)
    return LongClip(tuple(clip.times.tolist()), clip.size, source, images)


def make_long_sample(size: tuple[int, int] = (HEIGHT, WIDTH), anchors: Sequence[int] = (0,)) -> LongSample:
    """Make a clip with 3 to 50 % dynamic pixels, with tracks of all pixels of the `anchors`."""
    config = SyntheticConfig(FRAMES, *size, static_scene_share=0, static_camera_share=0)
    made = make_scenes(config, 0, [3])
    hits = cast_rays(made, *size)
    scene = make_ground_truth(made, hits, torch.tensor([list(anchors)]))[0]
    assert 0.03 < scene.dynamic.mean() < 0.5
    # Colors are a function of depth: enough to distinguish places, and much cheaper than rendering.
    waves = torch.sin(hits.depths[0, :, None] * torch.tensor([2.0, 3.0, 5.0])[:, None, None])
    return LongSample(Clip((127.5 + 127 * waves).to(torch.uint8), torch.arange(FRAMES) / 10), scene)


@dataclass
class Oracle:
    """Reconstructs a window as the ground truth in the frame of its first camera and in a unit of its own."""

    truth: Scene
    corrupt: Callable[[Scene, torch.Generator], Scene] | None = None
    """Adds errors to the reconstruction."""
    calls: list[tuple[int, ...]] = field(default_factory=list)
    """Frame numbers of each reconstructed window."""
    fails_at: int | None = None
    """Number of the call that raises an error; None for no error."""

    def __call__(self, clip: Clip) -> Scene:
        assert clip.source is not None
        numbers = clip.source.numbers
        if self.fails_at == len(self.calls):
            raise RuntimeError("simulated failure")
        self.calls.append(numbers)
        scene = self.truth_of(numbers).in_frame(0).transformed(scaling(unit_of(numbers)))
        if self.corrupt is not None:
            scene = self.corrupt(scene, torch.Generator().manual_seed(sum(numbers)))
        return scene

    def truth_of(self, numbers: tuple[int, ...]) -> Scene:
        """Return the ground truth of some frames."""
        return self.truth.frames(numbers)


class TrackingOracle(Oracle):
    """Returns the tracks of each window's first frame only."""

    def truth_of(self, numbers: tuple[int, ...]) -> Scene:
        tracks = self.truth.tracks
        assert tracks is not None
        chosen = tracks.anchors == numbers[0]
        return replace(self.truth, tracks=tracks.map(lambda values: values[chosen])).frames(numbers)


def unit_of(numbers: Sequence[int]) -> float:
    """Return the scale of the oracle's reconstruction of some frames."""
    return math.exp(math.sin(7.0 * sum(numbers)))


def scaling(factor: float) -> Tensor:
    """Return a similarity that only scales."""
    return g.similarity(torch.tensor(factor), torch.eye(3), torch.zeros(3))


def expected(truth: Scene, first_window: Sequence[int]) -> Scene:
    """Return the ground truth in the frame of the first camera and the unit of the first window."""
    return truth.in_frame(0).transformed(scaling(unit_of(first_window)))


def assert_same_scene(found: Scene, wanted: Scene, tolerance: float = 1e-4) -> None:
    """Compare scenes; `tolerance` is relative to the median depth."""
    valid = wanted.depth_confidence > 0
    length = float(wanted.depths[valid].median())
    assert torch.equal(found.depth_confidence, wanted.depth_confidence)
    assert torch.equal(found.dynamic, wanted.dynamic)
    torch.testing.assert_close(found.depths[valid], wanted.depths[valid], rtol=tolerance, atol=tolerance * length)
    torch.testing.assert_close(found.points[valid], wanted.points[valid], rtol=tolerance, atol=tolerance * length)
    assert_same_cameras(found, wanted, tolerance * length)


def assert_same_cameras(found: Scene, wanted: Scene, tolerance: float) -> None:
    """Compare cameras; `tolerance` is the largest distance between centers."""
    torch.testing.assert_close(found.cameras.centers, wanted.cameras.centers, rtol=0, atol=tolerance)
    rotation = found.cameras.cam_from_world[..., :3, :3] @ wanted.cameras.world_from_cam[..., :3, :3]
    assert g.rotation_angle(rotation).max() < max(tolerance, 1e-3)
    torch.testing.assert_close(found.cameras.intrinsics, wanted.cameras.intrinsics)


def run(
    oracle: Oracle, sample: LongSample, folder: Path, window: int = 8, overlap: int = 3, **options: float
) -> LongScene:
    """Reconstruct the sample in overlapping windows."""
    config = WindowConfig(window, overlap, **options)  # pyright: ignore[reportArgumentType]
    return reconstruct_windows(oracle, sample.long_clip, folder, INFO, config)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def stopped_at(where: object, step: str, wait: int) -> Iterator[None]:
    """Interrupt the run inside, as by Ctrl-C, when it calls `step` of `where` after `wait` earlier calls."""
    calls: list[object] = []
    original = getattr(where, step)

    def stopped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > wait:
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, step, stopped)
        with pytest.raises(KeyboardInterrupt):
            yield
