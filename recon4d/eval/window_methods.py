"""Networks that reconstruct a clip in parts, and all variants of a network as methods.

A clip is taken in overlapping windows, or each frame is paired with the first one, for comparison with a single pass.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

from recon4d import __version__
from recon4d.eval.methods import (
    LoadedNetwork,
    Method,
    MethodConfig,
    Network,
    RefinedNetwork,
    Request,
    is_network,
    load_network,
    make_method,
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
from recon4d.records import Clip, Scene

ReconstructClip = Callable[[Clip], Scene]
"""Function that reconstructs a short clip."""


def reconstruct_in_windows(reconstruct_clip: ReconstructClip, clip: Clip, windows: WindowConfig) -> Scene:
    """Reconstruct a clip in overlapping windows.

    Args:
        reconstruct_clip: Reconstructs the clip of one window.
        clip: Clip in memory.
        windows: Length, overlap and alignment of the windows.

    Returns:
        The scene of the whole clip, without tracks.
    """
    with tempfile.TemporaryDirectory() as folder:
        reconstruct_windows(reconstruct_clip, as_long_clip(clip), folder, _info(clip), windows)
        return load_frames(folder, range(clip.num_frames))


def reconstruct_by_pairs(reconstruct_clip: ReconstructClip, clip: Clip) -> Scene:
    """Reconstruct a clip in pairs of each frame with the first one.

    Args:
        reconstruct_clip: Reconstructs a clip of two frames.
        clip: Clip in memory.

    Returns:
        The scene of the whole clip; its tracks, if any, are those of the first frame.
    """
    with tempfile.TemporaryDirectory() as folder:
        reconstruct_anchored(reconstruct_clip, as_long_clip(clip), folder, _info(clip))
        return load_frames(folder, range(clip.num_frames))


class WindowedNetwork(Network):
    """A network that reconstructs a clip in overlapping windows.

    Args:
        network: The network; several methods may share it.
        config: Device and processing size.
        windows: Length, overlap and alignment of the windows.
    """

    def __init__(self, network: LoadedNetwork, config: MethodConfig, windows: WindowConfig) -> None:
        super().__init__(network, config)
        suffix = f"+windows-{windows.window}-{windows.overlap}" + ("-loops" if windows.loops is not None else "")
        self.name = network.name + suffix
        self.key += f", {windows}"
        self._windows = windows

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        config = replace(self._config(request), anchors=())
        return reconstruct_in_windows(lambda clip: reconstruct(self._model, clip, config), request.clip, self._windows)


class AnchoredNetwork(Network):
    """A network that reconstructs each frame paired with the first one.

    Args:
        network: The network; several methods may share it.
        config: Device and processing size.
    """

    def __init__(self, network: LoadedNetwork, config: MethodConfig) -> None:
        super().__init__(network, config)
        self.name = f"{network.name}+anchored"
        self.key += f", {AnchorConfig()}"

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        config = replace(self._config(request), anchors=(0,))
        return reconstruct_by_pairs(lambda clip: reconstruct(self._model, clip, config), request.clip)


@dataclass(frozen=True)
class NetworkVariants:
    """Further ways to run each network, besides the single pass."""

    refine: bool = False
    """Refine cameras and depth on the clip, as NAME+refine."""
    windows: WindowConfig | None = None
    """Take the clip in overlapping windows, as NAME+windows-FRAMES-OVERLAP; None skips this variant."""
    anchored: bool = False
    """Pair each frame with the first one, as NAME+anchored."""


def make_methods(name: str, config: MethodConfig, variants: NetworkVariants = NetworkVariants()) -> list[Method]:
    """Create a method by name, and its variants if it is a network.

    The network is loaded and its fingerprint computed once; all variants share it.

    Args:
        name: Name of a method, see `make_method`.
        config: How methods are run.
        variants: Variants to create. Methods that are not networks have none.

    Returns:
        The method itself, followed by its variants; call `close` of each after use.

    Raises:
        UserError: If there is no such method, or a package or file that it needs is missing.
    """
    if not is_network(name):
        return [make_method(name, config)]
    network = load_network(name)
    methods: list[Method] = [Network(network, config)]
    if variants.refine:
        methods.append(RefinedNetwork(network, config))
    if variants.windows is not None:
        methods.append(WindowedNetwork(network, config, variants.windows))
    if variants.anchored:
        methods.append(AnchoredNetwork(network, config))
    return methods


def _info(clip: Clip) -> SceneInfo:
    """Return the info of a temporary archive."""
    return SceneInfo("any", True, __version__, clip.source, clip.size, settings={})
