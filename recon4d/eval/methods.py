"""Methods to evaluate: networks, COLMAP, stored predictions and a static baseline."""

import contextlib
import dataclasses
import hashlib
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError, one_line
from recon4d.eval.baselines.colmap import reconstruct_with_colmap
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.isolation import CrashError, IsolatedFunction
from recon4d.eval.predictions import Prediction
from recon4d.inference import ReconstructConfig, predict_scene, reconstruct_and_match
from recon4d.io import load_scene
from recon4d.layers import Kernel, set_attention_kernel
from recon4d.models import SceneModel
from recon4d.records import Calibration, Clip, Priors, Scene
from recon4d.refine import (
    MAP_SIDE,
    ColmapConfig,
    CornerTrackingConfig,
    RefineConfig,
    StereoConfig,
    load_pycolmap,
    refine_clip,
)
from recon4d.refine.no_solution import NoSolution
from recon4d.zoo import find_model, list_models, load_model

FAILURES = (UserError, NoSolution, CrashError)
"""Exceptions that mean that a method has no result for a clip. All others are defects and surface."""


@dataclass(frozen=True)
class MethodConfig:
    """How methods are run."""

    device: str = "cpu"
    """Device of networks."""
    processing_size: int | None = None
    """Networks resize images to about the area of a square of this side, in pixels; None uses the model's own."""
    max_seconds: float = 600
    """Time limit of COLMAP for one clip; beyond it the clip counts as timed out."""
    attention: Kernel = "sdpa"
    """Attention kernel of networks."""


@dataclass(frozen=True)
class Request:
    """Input of a method: a clip and the tracks to predict."""

    clip_name: str
    """Name of the clip in the benchmark."""
    clip: Clip
    """Clip to reconstruct."""
    anchors: tuple[int, ...]
    """Frames whose pixels are tracked, by methods that predict tracks."""
    dynamic: Bool[Tensor, "time height width"] | None = None
    """True mask of dynamic pixels; None if unknown. Only for methods whose names say that they use it."""


class Method(ABC):
    """A method that predicts the scene of a clip."""

    name: str
    """Name in tables and of folders."""
    key: str
    """Everything that a prediction depends on besides the clip and the code, such as settings and weights."""
    is_computed: bool = True
    """False if predictions are read from files: they are neither timed nor stored again."""
    calibration: Calibration | None = None
    """Calibration of the method's confidence; None if it is not calibrated."""

    @abstractmethod
    def predict_scene(self, request: Request) -> Scene:
        """Predict the scene of a clip.

        Args:
            request: The clip and the anchor frames.

        Returns:
            The scene, with as many frames as the clip; cameras of unregistered frames are NaN.

        Raises:
            TimeoutError: If the clip takes too long.
            UserError: If the method cannot process this clip; one of `FAILURES` counts as a failed prediction.
        """

    def predict(self, request: Request) -> Prediction:
        """Predict the scene of a clip and measure the time; a failure is a prediction too.

        Args:
            request: The clip and the anchor frames.

        Returns:
            The prediction, with the reason if the method has no result for this clip.
        """
        started = time.perf_counter()
        scene, status, reason = None, "failed", ""
        try:
            scene = self.predict_scene(request)
        except TimeoutError as error:
            status, reason = "timed out", str(error)
        except FAILURES as error:
            reason = one_line(error)
        seconds = time.perf_counter() - started if self.is_computed else math.nan
        if scene is not None and scene.num_frames != request.clip.num_frames:
            reason = f"the prediction has {scene.num_frames} frames, the clip {request.clip.num_frames}"
            scene = None
        if scene is None:
            return Prediction(None, status, seconds, reason)
        return Prediction.from_scene(scene, seconds)

    def close(self) -> None:  # noqa: B027
        """Release what the method holds, such as processes."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory, shared by all methods that run it."""

    name: str
    """Name in tables."""
    model: SceneModel
    """The network. Methods move it to their device, in place."""
    fingerprint: str
    """Digest of its configuration and weights."""

    @classmethod
    def from_model(cls, name: str, model: SceneModel) -> "LoadedNetwork":
        """Compute the fingerprint of a model.

        Args:
            name: Name in tables.
            model: A model in memory.

        Returns:
            The model with its name and fingerprint.
        """
        return cls(name, model, _fingerprint(model))


class Network(Method):
    """A network that reconstructs each clip in a single pass.

    Args:
        network: The network; several methods may share it.
        config: Device, processing size and attention kernel.
    """

    def __init__(self, network: LoadedNetwork, config: MethodConfig) -> None:
        self.name = network.name
        self.key = f"{network.fingerprint}, processing size {config.processing_size}, {config.attention} attention"
        self.calibration = network.model.calibration
        self._model = network.model.to(config.device)
        set_attention_kernel(self._model, config.attention)
        self._processing_size = config.processing_size
        self._is_warm = False

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        return predict_scene(self._model, request.clip, self._config(request))

    def predict(self, request: Request) -> Prediction:
        """See `Method.predict`. A first pass over one frame, which is not timed, initializes device and kernels."""
        if not self._is_warm:
            # The timed pass reports why a clip is unsuitable.
            with contextlib.suppress(UserError):
                one_frame = ReconstructConfig(processing_size=self._processing_size)
                predict_scene(self._model, request.clip.frames([0]), one_frame)
            self._is_warm = True
        return super().predict(request)

    def _config(self, request: Request) -> ReconstructConfig:
        return ReconstructConfig(anchors=request.anchors, processing_size=self._processing_size)


class RefinedNetwork(Network):
    """A network whose cameras and depth are refined on the clip, starting from its own matches.

    Args:
        network: The network; several methods may share it.
        config: Device and processing size.
    """

    def __init__(self, network: LoadedNetwork, config: MethodConfig) -> None:
        super().__init__(network, config)
        load_pycolmap()
        self.name = f"{network.name}+refine"
        self._refine_config = RefineConfig(map_side=MAP_SIDE)
        self.key += f", {CornerTrackingConfig()}, {self._refine_config}, {StereoConfig()}"

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        scene, matches = reconstruct_and_match(self._model, request.clip, self._config(request))
        return refine_clip(request.clip, scene, matches, self._refine_config).scene


class Colmap(Method):
    """COLMAP in a process of its own, which can be stopped and may crash.

    Args:
        name: Name in tables.
        config: Settings of COLMAP.
        max_seconds: Time limit for one clip.
    """

    def __init__(self, name: str, config: ColmapConfig, max_seconds: float) -> None:
        pycolmap = load_pycolmap()
        self.name = name
        self.key = f"COLMAP {pycolmap.COLMAP_version}, {config}, at most {max_seconds} s"
        self._config = config
        self._reconstruct = IsolatedFunction(reconstruct_with_colmap, max_seconds)

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        return self._reconstruct(dataclasses.replace(self._clip(request), source=None), self._config)

    def _clip(self, request: Request) -> Clip:
        return request.clip

    def predict(self, request: Request) -> Prediction:
        """See `Method.predict`. The start of the process is not timed."""
        with contextlib.suppress(CrashError):  # the timed call tries again and reports it
            self._reconstruct.warm_up()
        return super().predict(request)

    def close(self) -> None:
        """See `Method.close`."""
        self._reconstruct.close()


class MaskedColmap(Colmap):
    """COLMAP that ignores the truly dynamic pixels: an upper bound of what masks can achieve."""

    def _clip(self, request: Request) -> Clip:
        if request.dynamic is None:
            raise UserError("the truth of this clip does not say which pixels are dynamic")
        priors = Priors.unknown(request.clip.num_frames) if request.clip.priors is None else request.clip.priors
        ignore = request.dynamic if priors.ignore is None else priors.ignore | request.dynamic
        return dataclasses.replace(request.clip, priors=dataclasses.replace(priors, ignore=ignore))


class StaticBaseline(Method):
    """Static cameras and a plane of constant depth: the trivial baseline."""

    name = "static"
    key = "static"

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        return static_scene(request.clip, request.anchors)


class StoredPredictions(Method):
    """Predictions in a folder: CLIP/scene.npz or CLIP.npz for each clip, as `recon4d reconstruct` writes them.

    Args:
        folder: The folder; its name is the name of the method.
    """

    is_computed = False

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.key = str(folder.resolve())
        self._folder = folder

    def predict_scene(self, request: Request) -> Scene:
        """See `Method.predict_scene`."""
        for path in (self._folder / request.clip_name / "scene.npz", self._folder / f"{request.clip_name}.npz"):
            if path.is_file():
                return load_scene(path)
        raise UserError(f"{self._folder} has neither {request.clip_name}/scene.npz nor {request.clip_name}.npz")


def make_method(name: str, config: MethodConfig) -> Method:
    """Create a method by name.

    Args:
        name: `static`, `colmap`, `colmap-global`, `colmap-true-mask`, a model of the zoo, a checkpoint file, or a
            folder of predictions.
        config: How the method is run.

    Returns:
        The method; call its `close` after use.

    Raises:
        UserError: If there is no such method, or a package or file that it needs is missing.
    """
    if name == "static":
        return StaticBaseline()
    if name in COLMAP_METHODS:
        method, colmap_config = COLMAP_METHODS[name]
        return method(name, colmap_config, config.max_seconds)
    if not is_network(name):
        return StoredPredictions(Path(name))
    return Network(load_network(name), config)


def is_network(name: str) -> bool:
    """Check whether the name of a method is that of a network.

    Args:
        name: Name of a method, see `make_method`.

    Returns:
        True for every name except those of baselines and folders, also for names that do not exist.
    """
    is_folder = Path(name).is_dir() and name not in list_models()
    return name != "static" and name not in COLMAP_METHODS and not is_folder


def load_network(name: str) -> LoadedNetwork:
    """Load a network and compute its fingerprint.

    Args:
        name: A model of the zoo or a checkpoint file.

    Returns:
        The network; its name in tables is the zoo name or the file name without suffix.

    Raises:
        UserError: If there is no such model, or its file is missing or damaged.
    """
    if name in list_models():
        return LoadedNetwork.from_model(name, find_model(name, allow_untrained=True))
    path = Path(name)
    if path.suffix == ".safetensors" or path.is_file():
        return LoadedNetwork.from_model(path.stem, load_model(path))
    available = ", ".join(["static", *COLMAP_METHODS, *list_models()])
    raise UserError(
        f"unknown method {name!r}; available are {available}, or give a checkpoint or a folder of predictions"
    )


COLMAP_METHODS: dict[str, tuple[type[Colmap], ColmapConfig]] = {
    "colmap": (Colmap, ColmapConfig(mapper="incremental")),
    "colmap-global": (Colmap, ColmapConfig(mapper="global")),
    "colmap-true-mask": (MaskedColmap, ColmapConfig(mapper="incremental")),
}
"""Class and settings of each COLMAP baseline by name."""


def _fingerprint(model: SceneModel) -> str:
    """Compute a digest of the configuration and weights of a model."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=12)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return f"weights {digest.hexdigest()}"
