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
from recon4d.inference import ReconstructConfig, predict_scene, reconstruct_and_match
from recon4d.inference.windows import (
    AnchorConfig,
    WindowConfig,
    reconstruct_anchored,
    reconstruct_windows,
    refine_windows,
)
from recon4d.io import SceneInfo
from recon4d.io.long_archive import load_frames
from recon4d.io.long_clips import as_long_clip
from recon4d.models import predicts_dense_tracks
from recon4d.records import Clip, Scene
from recon4d.refine import CornerTrackingConfig, RefineConfig, Refinement, StereoConfig, load_pycolmap, refine_clip

ReconstructClip = Callable[[Clip], Scene]
"""Function that reconstructs a short clip."""


def reconstruct_in_windows(reconstruct_clip: ReconstructClip, clip: Clip, windows: WindowConfig) -> Scene:
    """Reconstruct a clip in overlapping windows.

    Args:
        reconstruct_clip: Reconstructs the clip of one window.
        clip: Clip in memory.
        windows: Length, overlap and alignment of the windows.

    Returns:
        The scene of the whole clip, with tracks of the first frame if `windows` requests them.
    """
    with tempfile.TemporaryDirectory() as folder:
        reconstruct_windows(reconstruct_clip, as_long_clip(clip), folder, _info(clip), windows)
        return load_frames(folder, range(clip.num_frames))


def refine_in_windows(refine_window: Callable[[Clip], Refinement], clip: Clip, windows: WindowConfig) -> Scene:
    """Reconstruct a clip in overlapping windows, each of which is refined.

    Args:
        refine_window: Reconstructs and refines the clip of one window.
        clip: Clip in memory.
        windows: Length, overlap and alignment of the windows.

    Returns:
        The scene of the whole clip, with tracks of the first frame if `windows` requests them.
    """
    with tempfile.TemporaryDirectory() as folder:
        refine_windows(refine_window, as_long_clip(clip), folder, _info(clip), windows)
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

    If the first frame is requested as an anchor and the network tracks every pixel, the pixels of the first frame are
    tracked through all windows.

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
        config, windows = self._with_tracks(request)
        return reconstruct_in_windows(lambda clip: predict_scene(self._model, clip, config), request.clip, windows)

    def _with_tracks(self, request: Request) -> tuple[ReconstructConfig, WindowConfig]:
        """Request the tracks of the first frame of each window if those of the clip are stitched from them."""
        has_tracks = 0 in request.anchors and predicts_dense_tracks(self._model)
        config = replace(self._config(request), anchors=(0,) if has_tracks else ())
        return config, replace(self._windows, tracks=int(has_tracks))


class RefinedWindows(WindowedNetwork):
    """A network that reconstructs a clip in overlapping windows, each of which is refined.

    Args:
        network: The network; several methods may share it.
        config: Device and processing size.
        windows: Length, overlap and alignment of the windows.
    """

    def __init__(self, network: LoadedNetwork, config: MethodConfig, windows: WindowConfig) -> None:
        super().__init__(network, config, windows)
        load_pycolmap()
        self.name += "+refine"
        self.key += f", {CornerTrackingConfig()}, {RefineConfig()}, {StereoConfig()}"

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        config, windows = self._with_tracks(request)

        def refine_window(clip: Clip) -> Refinement:
            return refine_clip(clip, *reconstruct_and_match(self._model, clip, config))

        return refine_in_windows(refine_window, request.clip, windows)


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
        return reconstruct_by_pairs(lambda clip: predict_scene(self._model, clip, config), request.clip)


@dataclass(frozen=True)
class NetworkVariants:
    """Further ways to run each network, besides the single pass."""

    refine: bool = False
    """Refine cameras and depth on the clip, as NAME+refine."""
    windows: WindowConfig | None = None
    """Take the clip in overlapping windows, as NAME+windows-FRAMES-OVERLAP; None skips this variant. With `refine`,
    windows are also refined, as NAME+windows-FRAMES-OVERLAP+refine."""
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
        if variants.refine:
            methods.append(RefinedWindows(network, config, variants.windows))
    if variants.anchored:
        methods.append(AnchoredNetwork(network, config))
    return methods


def _info(clip: Clip) -> SceneInfo:
    """Return the info of a temporary archive."""
    return SceneInfo("any", True, __version__, clip.source, clip.size, settings={})
