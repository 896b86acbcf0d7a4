"""Published weights: read from a local file or downloaded from the Hugging Face hub, converted once and cached."""

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from recon4d.errors import UserError
from recon4d.models import Model, NestedModel, SceneModel
from recon4d.models.reference_view import check_reference_view
from recon4d.zoo.checkpoints import load_checkpoint, save_model
from recon4d.zoo.da3.da3 import from_da3, is_da3, is_monocular, license_of, preset_of_place
from recon4d.zoo.vggt.vggt import from_vggt
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega

CACHE_VARIABLE = "RECON4D_CACHE"
"""Environment variable with the folder of converted weights; the default is ~/.cache/recon4d."""

OMEGA_LICENSE = "FAIR Noncommercial Research License, by Meta: not for commercial use, nor its outputs"

WEIGHTS_FILES = ("model.safetensors", "model.pt")
"""Names of the file of weights in a folder or repository; the first one that exists is used."""
CONFIG_FILE = "config.json"
"""File with the configuration in a folder or repository. Checkpoints of this package contain theirs; weights of Depth
Anything 3 need it to tell their preset."""

VGGT_KEY = "aggregator.global_blocks.0.attn.qkv.weight"
OMEGA_KEY = "aggregator.inter_frame_blocks.0.attn.qkv.weight"
"""Parameters that identify the two families of state dicts."""


class LicenseWarning(UserWarning):
    """Warns that weights have a license of their own, with terms that not every user can accept."""


@dataclass(frozen=True)
class PublishedSource:
    """Origin and license of published weights."""

    repository: str
    """Name of the repository on the Hugging Face hub."""
    filename: str
    """File within the repository."""
    license: str
    """Name of the license and its main restriction, shown at every use."""
    convert: Callable[[Mapping[str, Tensor]], SceneModel]
    """Function that builds the model from the published state dict."""
    is_gated: bool = False
    """Whether access must be requested on the page of the repository, followed by `hf auth login`."""


@dataclass(frozen=True)
class HubPlace:
    """A repository of the hub, and how its files are fetched."""

    repository: str
    """Name of the repository, such as "someone/model"."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    cache_dir: str | Path | None = None
    """Folder of downloads; None for that of huggingface_hub."""
    force_download: bool = False
    """Whether to download files that are cached."""
    local_files_only: bool = False
    """Whether to use only files that are cached."""
    token: str | bool | None = None
    """Access token; None for that of `hf auth login`."""

    def download(self, filename: str) -> Path:
        """Download a file, or find it in the cache.

        Args:
            filename: Name of the file in the repository.

        Returns:
            The cached file.

        Raises:
            EntryNotFoundError: If the repository has no such file.
            HfHubHTTPError: If the hub refuses.
            OSError: If the hub cannot be reached.
        """
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                self.repository,
                filename,
                revision=self.revision,
                cache_dir=self.cache_dir,
                force_download=self.force_download,
                local_files_only=self.local_files_only,
                token=self.token,
            )
        )


def download_weights(place: HubPlace) -> Path:
    """Download the weights of a repository, and its configuration if it has one.

    Args:
        place: The repository.

    Returns:
        The file of weights, in the cache of huggingface_hub, beside the configuration.

    Raises:
        UserError: If the repository has no weights or cannot be reached.
    """
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, HFValidationError

    name = place.repository
    try:
        with contextlib.suppress(EntryNotFoundError):
            place.download(CONFIG_FILE)
        for filename in WEIGHTS_FILES:
            with contextlib.suppress(EntryNotFoundError):
                return place.download(filename)
    except GatedRepoError as error:
        page = f"https://huggingface.co/{name}"
        raise UserError(f"{name} is gated: ask for access at {page}, then `hf auth login`") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{name} cannot be downloaded from the hub: {_first_line(error)}") from error
    raise UserError(f"repository {name} of the hub has none of {', '.join(WEIGHTS_FILES)}")


def published_model(name: str, source: PublishedSource) -> SceneModel:
    """Load published weights by name; download and convert them at first use.

    A file that was put into the folder NAME of the cache by hand is used instead of the download.

    Args:
        name: Name of the model in the zoo; the cached copy has this name.
        source: Origin of the weights.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        UserError: If the weights cannot be downloaded; the message explains the alternatives.
    """
    _warn_of_license(name, source.license)
    kept = cache_folder() / f"{name}.safetensors"
    if kept.is_file():
        return load_checkpoint(kept)
    placed = placed_file(name, source)
    model = source.convert(_read_tensors(placed if placed.is_file() else _download(name, source)))
    model.name = name
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, kept)
    return model


def load_published(path: Path, preset: str | None = None) -> SceneModel:
    """Load a local file with the published parameter names of VGGT, VGGT-Omega or Depth Anything 3.

    Args:
        path: A .pt, .pth, .bin or .safetensors file.
        preset: Preset of weights of Depth Anything 3 (`from_da3`). None is enough if shapes, the names of the file and
            its folders, or a config.json beside it tell.

    Returns:
        The model, named after the file, in evaluation mode on the CPU.

    Raises:
        UserError: If the file belongs to none of these models, or its parameters do not fit.
    """
    tensors = _read_tensors(path)
    if VGGT_KEY in tensors:
        model = from_vggt(tensors)
        _warn_of_license(str(path), "VGGT's: the original weights are CC BY-NC 4.0, not for commercial use")
    elif OMEGA_KEY in tensors:
        model = from_vggt_omega(tensors)
        _warn_of_license(str(path), OMEGA_LICENSE)
    elif is_da3(tensors):
        model = _load_da3(path, tensors, preset)
        _warn_of_license(str(path), license_of(model))
    else:
        some = ", ".join(list(tensors)[:3]) or "nothing"
        raise UserError(f"{path} is no checkpoint of recon4d, VGGT, VGGT-Omega or Depth Anything 3: it contains {some}")
    model.name = path.stem
    return model


def choose_reference_view(model: SceneModel, strategy: str) -> None:
    """Set how a model chooses its reference frame.

    Args:
        model: The model, changed in place.
        strategy: How the frame is chosen.

    Raises:
        UserError: If the strategy is unknown or the model cannot choose.
    """
    if not isinstance(model, Model | NestedModel):
        raise UserError(f"{model.name} is monocular and has no reference frame; remove the reference view")
    model.reference_view = check_reference_view(strategy)


def _load_da3(path: Path, tensors: Mapping[str, Tensor], preset: str | None) -> SceneModel:
    """Build a model of Depth Anything 3, with the name of the file in errors."""
    if preset is None and is_monocular(tensors):
        preset = preset_of_place(path)
    try:
        return from_da3(tensors, preset)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _warn_of_license(what: str, license_text: str) -> None:
    warnings.warn(f"{what} comes under the license of its makers: {license_text}", LicenseWarning, stacklevel=3)


def cache_folder() -> Path:
    """Return the folder of converted weights.

    Returns:
        The folder given by the environment variable RECON4D_CACHE, or ~/.cache/recon4d.
    """
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "recon4d"


def placed_file(name: str, source: PublishedSource) -> Path:
    """Return where published weights are found that were not downloaded by this package.

    Args:
        name: Name of the model in the zoo.
        source: Origin of the weights.

    Returns:
        A file in a folder of the cache; it need not exist.
    """
    return cache_folder() / name / source.filename


def _download(name: str, source: PublishedSource) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    address = f"https://huggingface.co/{source.repository}/resolve/main/{source.filename}"
    by_hand = f"or put the file {address} at {placed_file(name, source)}, or give its path instead of the name"
    try:
        return Path(hf_hub_download(source.repository, source.filename))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{source.repository}"
        raise UserError(f"{name} is gated: ask for access at {page}, then `hf auth login`, {by_hand}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        problem = f"{name} cannot be downloaded from {source.repository} ({_first_line(error)})"
        raise UserError(f"{problem}: try again, {by_hand}") from error


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a file by name; they are mapped from disk where the format allows it."""
    import torch

    if not path.is_file():
        raise UserError(f"weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        read = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the pickle or the archive may raise anything
        raise UserError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    read = read.get("model", read) if isinstance(read, dict) else read
    if not isinstance(read, dict) or not all(isinstance(value, Tensor) for value in read.values()):
        raise UserError(f"{path} contains {type(read).__name__}, wanted a state dict of tensors by name")
    return read


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
