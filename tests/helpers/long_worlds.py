"""A world that moves, its clip handed out frame by frame, and a perfect model of it in any world and unit."""

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
from recon4d.datasets.synthetic.ground_truth import ground_truth_of
from recon4d.datasets.synthetic.ray_casting import cast_rays
from recon4d.inference.windows import WindowConfig, reconstruct_windows
from recon4d.io import SceneInfo
from recon4d.io.long_archive import LongScene
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, ClipSource, Scene

FRAMES, HEIGHT, WIDTH = 20, 28, 36
INFO = SceneInfo("oracle", True, "0", None, (HEIGHT, WIDTH), {})


@dataclass(frozen=True)
class World:
    clip: Clip
    scene: Scene

    @property
    def long_clip(self) -> LongClip:
        return in_memory(self.clip)


def in_memory(clip: Clip) -> LongClip:
    """The frames of a clip handed out one by one."""

    def images(positions: Sequence[int]) -> Iterator[Tensor]:
        return (clip.images[position].clone() for position in positions)

    numbers = tuple(range(clip.num_frames))
    source = ClipSource("world", tuple(f"{i}" for i in numbers), numbers)
    return LongClip(tuple(clip.times.tolist()), clip.size, source, images)


def make_world(size: tuple[int, int] = (HEIGHT, WIDTH), anchors: Sequence[int] = (0,)) -> World:
    """A clip of a room in which a third of what is seen moves, with tracks of all pixels of the `anchors`."""
    config = SyntheticConfig(FRAMES, *size, static_share=0, still_share=0)
    made = make_scenes(config, 0, [3])
    hits = cast_rays(made, *size)
    scene = ground_truth_of(made, hits, torch.tensor([list(anchors)]))[0]
    assert 0.03 < scene.dynamic.mean() < 0.5
    # Painted by depth: enough to tell places apart, and far cheaper than the renderer's own surfaces.
    waves = torch.sin(hits.depths[0, :, None] * torch.tensor([2.0, 3.0, 5.0])[:, None, None])
    return World(Clip((127.5 + 127 * waves).to(torch.uint8), torch.arange(FRAMES) / 10), scene)


@dataclass
class Oracle:
    """The truth of a window, begun at its first camera and measured in a unit of its own; `spoil` may damage it."""

    truth: Scene
    spoil: Callable[[Scene, torch.Generator], Scene] | None = None
    asked: list[tuple[int, ...]] = field(default_factory=list)
    fails_at: int | None = None

    def __call__(self, clip: Clip) -> Scene:
        assert clip.source is not None
        numbers = clip.source.numbers
        if self.fails_at == len(self.asked):
            raise RuntimeError("the machine was taken away")
        self.asked.append(numbers)
        scene = self.truth_of(numbers).in_frame(0).transformed(scaled(unit_of(numbers)))
        if self.spoil is not None:
            scene = self.spoil(scene, torch.Generator().manual_seed(sum(numbers)))
        return scene

    def truth_of(self, numbers: tuple[int, ...]) -> Scene:
        return self.truth.frames(numbers)


class TrackingOracle(Oracle):
    """One that answers the tracks of each window's first frame, and of no other."""

    def truth_of(self, numbers: tuple[int, ...]) -> Scene:
        tracks = self.truth.tracks
        assert tracks is not None
        chosen = tracks.anchors == numbers[0]
        return replace(self.truth, tracks=tracks.map(lambda values: values[chosen])).frames(numbers)


def unit_of(numbers: Sequence[int]) -> float:
    return math.exp(math.sin(7.0 * sum(numbers)))


def scaled(factor: float) -> Tensor:
    return g.similarity(torch.tensor(factor), torch.eye(3), torch.zeros(3))


def expected(truth: Scene, first_window: Sequence[int]) -> Scene:
    """The truth from the first camera, in the unit of the first window."""
    return truth.in_frame(0).transformed(scaled(unit_of(first_window)))


def assert_same_scene(found: Scene, wanted: Scene, tolerance: float = 1e-4) -> None:
    known = wanted.depth_confidence > 0
    length = float(wanted.depths[known].median())
    assert torch.equal(found.depth_confidence, wanted.depth_confidence)
    assert torch.equal(found.dynamic, wanted.dynamic)
    torch.testing.assert_close(found.depths[known], wanted.depths[known], rtol=tolerance, atol=tolerance * length)
    torch.testing.assert_close(found.points[known], wanted.points[known], rtol=tolerance, atol=tolerance * length)
    assert_same_cameras(found, wanted, tolerance * length)


def assert_same_cameras(found: Scene, wanted: Scene, tolerance: float) -> None:
    torch.testing.assert_close(found.cameras.centers, wanted.cameras.centers, rtol=0, atol=tolerance)
    turned = found.cameras.cam_from_world[..., :3, :3] @ wanted.cameras.world_from_cam[..., :3, :3]
    assert g.rotation_angle(turned).max() < max(tolerance, 1e-3)
    torch.testing.assert_close(found.cameras.intrinsics, wanted.cameras.intrinsics)


def run(oracle: Oracle, world: World, folder: Path, window: int = 8, overlap: int = 3, **options: float) -> LongScene:
    config = WindowConfig(window, overlap, **options)  # pyright: ignore[reportArgumentType]
    return reconstruct_windows(oracle, world.long_clip, folder, INFO, config)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def stopped_at(where: object, step: str, wait: int) -> Iterator[None]:
    """The run inside is stopped, as by Ctrl-C, when it calls `step` of `where` for the time after `wait` others."""
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
