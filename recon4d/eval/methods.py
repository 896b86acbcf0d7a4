"""What is scored, by name: networks, COLMAP, predictions from a folder, and the trivial answer."""

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

from recon4d import __version__
from recon4d.errors import one_line
from recon4d.eval.baselines.colmap import reconstruct_with_colmap
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.isolation import Isolated
from recon4d.eval.predictions import Prediction
from recon4d.inference import ReconstructConfig, reconstruct, reconstruct_and_match
from recon4d.io import load_scene
from recon4d.models import Model
from recon4d.records import (
    Calibration,
    Clip,
    Priors,
    Scene,
)
from recon4d.refine import (
    ColmapConfig,
    CornerTrackingConfig,
    RefineConfig,
    StereoConfig,
    load_pycolmap,
    refine_clip,
)
from recon4d.zoo import create_model, list_models, load_model


@dataclass(frozen=True)
class MethodConfig:
    """How methods are run."""

    device: str = "cpu"
    processing_size: int | None = None
    """For networks; None for the model's own."""
    max_seconds: float = 600
    """For COLMAP: a clip that takes longer is counted as timed out."""


@dataclass(frozen=True)
class Request:
    """What a method is asked for: the scene of a clip, with tracks of the frames `anchors` where it has tracks."""

    name: str
    clip: Clip
    anchors: tuple[int, ...]
    dynamic: Bool[Tensor, "time height width"] | None = None
    """What truly moves, where known: for methods alone that say in their name that they are told."""


class Method(ABC):
    """Something that answers a Scene for a clip."""

    name: str
    key: str
    """What the answer depends on beside the clip: answers of another key are computed again."""
    is_computed: bool = True
    """False where answers lie on disk already: they are neither timed nor stored again."""
    calibration: Calibration | None = None
    """What its confidences mean, where that was measured."""

    @abstractmethod
    def scene(self, request: Request) -> Scene:
        """The scene of a clip. Raises ``TimeoutError``, ``MemoryError`` or ``ValueError`` where there is none."""

    def predict(self, request: Request) -> Prediction:
        """The timed answer; whatever goes wrong with a clip is an answer too, and says why."""
        started = time.perf_counter()
        scene, status, reason = None, "failed", ""
        try:
            scene = self.scene(request)
        except TimeoutError as error:
            status, reason = "timed out", str(error)
        except (ValueError, MemoryError) as error:
            reason = one_line(error)
        seconds = time.perf_counter() - started if self.is_computed else math.nan
        if scene is not None and scene.num_frames != request.clip.num_frames:
            reason = f"the prediction has {scene.num_frames} frames, the clip {request.clip.num_frames}"
            scene = None
        if scene is None:
            return Prediction(None, status, seconds, reason)
        return Prediction.of_scene(scene, seconds)

    def close(self) -> None:  # noqa: B027
        """Give back what the method holds."""


class Network(Method):
    """A network: one forward pass for each clip."""

    def __init__(self, name: str, model: Model, config: MethodConfig) -> None:
        self.name = name
        self.key = f"{_fingerprint(model)}, processing size {config.processing_size}"
        self.calibration = model.calibration
        self._model = model.to(config.device)
        self._processing_size = config.processing_size
        self._is_warm = False

    def scene(self, request: Request) -> Scene:
        return reconstruct(self._model, request.clip, self._config(request))

    def predict(self, request: Request) -> Prediction:
        if not self._is_warm:
            # A first pass, over one frame and not timed, fetches what a process fetches once.
            # What it cannot do with a clip is said by the timed one.
            with contextlib.suppress(ValueError, MemoryError):
                one_frame = ReconstructConfig(processing_size=self._processing_size)
                reconstruct(self._model, request.clip.frames([0]), one_frame)
            self._is_warm = True
        return super().predict(request)

    def _config(self, request: Request) -> ReconstructConfig:
        return ReconstructConfig(anchors=request.anchors, processing_size=self._processing_size)


class RefinedNetwork(Network):
    """A network, its cameras and depth refined on the clip, from its own matches."""

    def __init__(self, name: str, model: Model, config: MethodConfig) -> None:
        super().__init__(f"{name}+refine", model, config)
        load_pycolmap()
        self.key += f", {CornerTrackingConfig()}, {RefineConfig()}, {StereoConfig()}"

    def scene(self, request: Request) -> Scene:
        scene, matches = reconstruct_and_match(self._model, request.clip, self._config(request))
        return refine_clip(request.clip, scene, matches).scene


class Colmap(Method):
    """COLMAP, in a process of its own: it can be stopped, and cannot take the evaluation down with it."""

    def __init__(self, name: str, config: ColmapConfig, max_seconds: float) -> None:
        pycolmap = load_pycolmap()
        self.name = name
        self.key = f"COLMAP {pycolmap.COLMAP_version}, {config}, at most {max_seconds} s"
        self._config = config
        self._run = Isolated(reconstruct_with_colmap, max_seconds)

    def scene(self, request: Request) -> Scene:
        return self._run(dataclasses.replace(self._clip(request), source=None), self._config)

    def _clip(self, request: Request) -> Clip:
        return request.clip

    def predict(self, request: Request) -> Prediction:
        self._run.warm_up()
        return super().predict(request)

    def close(self) -> None:
        self._run.close()


class MaskedColmap(Colmap):
    """COLMAP that is told by the truth what moves, and does not look there: the most that masks can give."""

    def _clip(self, request: Request) -> Clip:
        if request.dynamic is None:
            raise ValueError("the truth of this clip does not tell what moves")
        known = Priors.nothing(request.clip.num_frames) if request.clip.priors is None else request.clip.priors
        ignore = request.dynamic if known.ignore is None else known.ignore | request.dynamic
        return dataclasses.replace(request.clip, priors=dataclasses.replace(known, ignore=ignore))


class StaticBaseline(Method):
    """The trivial answer, which everything else has to beat."""

    name = "static"
    key = f"static, recon4d {__version__}"

    def scene(self, request: Request) -> Scene:
        return static_scene(request.clip, request.anchors)


class Stored(Method):
    """Predictions that lie in a folder: CLIP/scene.npz or CLIP.npz each, as `recon4d reconstruct` writes them."""

    is_computed = False

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self.key = str(folder.resolve())
        self._folder = folder

    def scene(self, request: Request) -> Scene:
        for path in (self._folder / request.name / "scene.npz", self._folder / f"{request.name}.npz"):
            if path.is_file():
                return load_scene(path)
        raise ValueError(f"{self._folder} has neither {request.name}/scene.npz nor {request.name}.npz")


def make_method(name: str, config: MethodConfig) -> Method:
    """The method of a name: `static`, `colmap`, `colmap-global`, `colmap-true-mask`, a zoo name, a file or a folder.

    Raises ``ValueError`` or ``FileNotFoundError`` where there is no such thing.
    """
    if name == "static":
        return StaticBaseline()
    if name in COLMAP_METHODS:
        method, colmap_config = COLMAP_METHODS[name]
        return method(name, colmap_config, config.max_seconds)
    if Path(name).is_dir() and name not in list_models():
        return Stored(Path(name))
    return Network(*load_network(name), config)


def make_refined_method(name: str, config: MethodConfig) -> Method | None:
    """The method of a network's name with refined cameras; None for what is no network."""
    return RefinedNetwork(*load_network(name), config) if is_network(name) else None


def is_network(name: str) -> bool:
    """Whether a method's name is that of a network: in the zoo, or a checkpoint file."""
    is_folder = Path(name).is_dir() and name not in list_models()
    return name != "static" and name not in COLMAP_METHODS and not is_folder


def load_network(name: str) -> tuple[str, Model]:
    """The network of a zoo name or a checkpoint file, and what it is called in tables.

    Raises ``ValueError`` or ``FileNotFoundError`` where there is no such thing.
    """
    if name in list_models():
        return name, create_model(name)
    path = Path(name)
    if path.suffix == ".safetensors" or path.is_file():
        return path.stem, load_model(path)
    known = ", ".join(["static", *COLMAP_METHODS, *list_models()])
    raise ValueError(f"unknown method {name!r}; there are {known}, or give a checkpoint or a folder of predictions")


COLMAP_METHODS: dict[str, tuple[type[Colmap], ColmapConfig]] = {
    "colmap": (Colmap, ColmapConfig(mapper="incremental")),
    "colmap-global": (Colmap, ColmapConfig(mapper="global")),
    "colmap-true-mask": (MaskedColmap, ColmapConfig(mapper="incremental")),
}


def _fingerprint(model: Model) -> str:
    """A name for the very weights and configuration of a model."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=12)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return f"weights {digest.hexdigest()}"
