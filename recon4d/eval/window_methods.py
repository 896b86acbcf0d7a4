"""Networks scored in parts: overlapping windows, and every frame with the first, beside the single pass."""

import tempfile
from dataclasses import replace

from recon4d import __version__
from recon4d.eval.methods import MethodConfig, Network, Request, is_network, load_network
from recon4d.export import SceneInfo
from recon4d.export.long_archive import load_frames
from recon4d.media.long_clips import LongClip
from recon4d.model import Model
from recon4d.reconstruction import reconstruct
from recon4d.records import Clip, Scene, Source
from recon4d.windows import AnchorConfig, WindowConfig, reconstruct_anchored, reconstruct_windows


class WindowedNetwork(Network):
    """A network that takes a clip in overlapping windows; it has no tracks."""

    def __init__(self, name: str, model: Model, config: MethodConfig, windows: WindowConfig) -> None:
        suffix = f"+windows-{windows.window}-{windows.overlap}" + ("-loops" if windows.loops is not None else "")
        super().__init__(name + suffix, model, config)
        self.key += f", {windows}"
        self._windows = windows

    def scene(self, request: Request) -> Scene:
        def reconstruct_clip(clip: Clip) -> Scene:
            return reconstruct(self._model, clip, replace(self._config(request), anchors=()))

        long_clip = as_long_clip(request.clip)
        with tempfile.TemporaryDirectory() as folder:
            reconstruct_windows(reconstruct_clip, long_clip, folder, _info(long_clip), self._windows)
            return load_frames(folder, range(long_clip.num_frames))


class AnchoredNetwork(Network):
    """A network that takes every frame with the first one alone; its tracks are those of the first frame."""

    def __init__(self, name: str, model: Model, config: MethodConfig) -> None:
        super().__init__(f"{name}+anchored", model, config)
        self.key += f", {AnchorConfig()}"

    def scene(self, request: Request) -> Scene:
        def reconstruct_clip(clip: Clip) -> Scene:
            return reconstruct(self._model, clip, replace(self._config(request), anchors=(0,)))

        long_clip = as_long_clip(request.clip)
        with tempfile.TemporaryDirectory() as folder:
            reconstruct_anchored(reconstruct_clip, long_clip, folder, _info(long_clip))
            return load_frames(folder, range(long_clip.num_frames))


def make_windowed_method(name: str, config: MethodConfig, windows: WindowConfig) -> WindowedNetwork | None:
    """The method of a network's name in overlapping windows; None for what is no network."""
    return WindowedNetwork(*load_network(name), config, windows) if is_network(name) else None


def make_anchored_method(name: str, config: MethodConfig) -> AnchoredNetwork | None:
    """The method of a network's name with every frame beside the first alone; None for what is no network."""
    return AnchoredNetwork(*load_network(name), config) if is_network(name) else None


def as_long_clip(clip: Clip) -> LongClip:
    """A clip in memory as one whose frames are read when they are wanted."""
    numbers = tuple(range(clip.num_frames))
    source = clip.source or Source("clip", tuple(map(str, numbers)), numbers)
    return LongClip(
        times=tuple(clip.times.tolist()),
        size=clip.size,
        source=source,
        images=lambda positions: (clip.images[position] for position in positions),
    )


def _info(long_clip: LongClip) -> SceneInfo:
    return SceneInfo("network", True, __version__, long_clip.source, long_clip.size, settings={})
