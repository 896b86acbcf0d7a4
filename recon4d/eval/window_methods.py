"""Networks scored in parts: overlapping windows, and every frame with the first, beside the single pass."""

import tempfile
from collections.abc import Callable
from dataclasses import replace

from recon4d import __version__
from recon4d.eval.methods import (
    MethodConfig,
    Network,
    Request,
    is_network,
    load_network,
)
from recon4d.inference import reconstruct
from recon4d.inference.windows import (
    AnchorConfig,
    WindowConfig,
    reconstruct_anchored,
    reconstruct_windows,
)
from recon4d.io import SceneInfo
from recon4d.io.long_archive import load_frames
from recon4d.io.long_clips import as_long_clip
from recon4d.models import Model
from recon4d.records import Clip, Scene

ReconstructClip = Callable[[Clip], Scene]


def in_windows(reconstruct_clip: ReconstructClip, clip: Clip, windows: WindowConfig) -> Scene:
    """The scene of a clip in memory, taken in overlapping windows; it has no tracks."""
    with tempfile.TemporaryDirectory() as folder:
        reconstruct_windows(reconstruct_clip, as_long_clip(clip), folder, _info(clip), windows)
        return load_frames(folder, range(clip.num_frames))


def by_pairs(reconstruct_clip: ReconstructClip, clip: Clip) -> Scene:
    """The scene of a clip in memory, every frame with the first one alone; tracks are those of the first frame."""
    with tempfile.TemporaryDirectory() as folder:
        reconstruct_anchored(reconstruct_clip, as_long_clip(clip), folder, _info(clip))
        return load_frames(folder, range(clip.num_frames))


class WindowedNetwork(Network):
    """A network that takes a clip in overlapping windows."""

    def __init__(self, name: str, model: Model, config: MethodConfig, windows: WindowConfig) -> None:
        suffix = f"+windows-{windows.window}-{windows.overlap}" + ("-loops" if windows.loops is not None else "")
        super().__init__(name + suffix, model, config)
        self.key += f", {windows}"
        self._windows = windows

    def scene(self, request: Request) -> Scene:
        config = replace(self._config(request), anchors=())
        return in_windows(lambda clip: reconstruct(self._model, clip, config), request.clip, self._windows)


class AnchoredNetwork(Network):
    """A network that takes every frame with the first one alone."""

    def __init__(self, name: str, model: Model, config: MethodConfig) -> None:
        super().__init__(f"{name}+anchored", model, config)
        self.key += f", {AnchorConfig()}"

    def scene(self, request: Request) -> Scene:
        config = replace(self._config(request), anchors=(0,))
        return by_pairs(lambda clip: reconstruct(self._model, clip, config), request.clip)


def make_windowed_method(name: str, config: MethodConfig, windows: WindowConfig) -> WindowedNetwork | None:
    """The method of a network's name in overlapping windows; None for what is no network."""
    return WindowedNetwork(*load_network(name), config, windows) if is_network(name) else None


def make_anchored_method(name: str, config: MethodConfig) -> AnchoredNetwork | None:
    """The method of a network's name with every frame beside the first alone; None for what is no network."""
    return AnchoredNetwork(*load_network(name), config) if is_network(name) else None


def _info(clip: Clip) -> SceneInfo:
    return SceneInfo("any", True, __version__, clip.source, clip.size, settings={})
