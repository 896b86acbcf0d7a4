"""Weights that others published: from a local file or from the Hugging Face hub, converted once and kept."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from recon4d.models import Model
from recon4d.zoo.checkpoints import load_checkpoint, save_model
from recon4d.zoo.vggt.vggt import from_vggt
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega

CACHE_VARIABLE = "RECON4D_CACHE"
"""Environment variable with the folder for converted weights; ~/.cache/recon4d without."""

OMEGA_LICENSE = "FAIR Noncommercial Research License, by Meta: not for commercial use, nor what it answers"

VGGT_MARK = "aggregator.global_blocks.0.attn.qkv.weight"
OMEGA_MARK = "aggregator.inter_frame_blocks.0.attn.qkv.weight"


class LicenseWarning(UserWarning):
    """Weights come under terms that not everybody can accept."""


@dataclass(frozen=True)
class PublishedSource:
    """Where published weights are and under which terms."""

    repository: str
    """On the Hugging Face hub."""
    filename: str
    license: str
    """Short, as a person must know it before using them."""
    convert: Callable[[Mapping[str, Tensor]], Model]
    is_gated: bool = False
    """Whether the hub asks who is there: access is granted on the repository's page, then `hf auth login`."""


def published_model(name: str, source: PublishedSource) -> Model:
    """The model of a name: the converted copy where there is one, else downloaded, converted and kept.

    Raises ``ValueError`` in one line where it cannot be downloaded, with what to do instead.
    """
    _say_license(name, source.license)
    kept = cache_folder() / f"{name}.safetensors"
    if kept.is_file():
        return load_checkpoint(kept)
    model = source.convert(_read_tensors(_download(name, source)))
    model.name = name
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, kept)
    return model


def load_published(path: Path) -> Model:
    """The model of a file in VGGT's or VGGT-Omega's names (.pt, .pth, .bin or .safetensors), named after the file.

    Raises ``ValueError`` where it is neither, or does not fit.
    """
    tensors = _read_tensors(path)
    if VGGT_MARK in tensors:
        model = from_vggt(tensors)
        _say_license(str(path), "VGGT's: the original weights are CC BY-NC 4.0, not for commercial use")
    elif OMEGA_MARK in tensors:
        model = from_vggt_omega(tensors)
        _say_license(str(path), OMEGA_LICENSE)
    else:
        some = ", ".join(list(tensors)[:3]) or "nothing"
        raise ValueError(f"{path} is no checkpoint of recon4d, VGGT or VGGT-Omega: it holds {some}")
    model.name = path.stem
    return model


def _say_license(what: str, license: str) -> None:
    warnings.warn(f"{what} comes under the license of its makers: {license}", LicenseWarning, stacklevel=3)


def cache_folder() -> Path:
    """Where converted weights are kept."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "recon4d"


def _download(name: str, source: PublishedSource) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    by_hand = f"or download {source.filename} by hand and give the file: --model path/to/{source.filename}"
    try:
        return Path(hf_hub_download(source.repository, source.filename))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{source.repository}"
        raise ValueError(f"{name} is gated: ask for access at {page}, then `hf auth login`, {by_hand}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        problem = f"{name} cannot be had from {source.repository} ({_first_line(error)})"
        raise ValueError(f"{problem}: try again, {by_hand}") from error


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, left on disk until they are used."""
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        read = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever the pickle or the archive holds
        raise ValueError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    read = read.get("model", read) if isinstance(read, dict) else read
    if not isinstance(read, dict) or not all(isinstance(value, Tensor) for value in read.values()):
        raise ValueError(f"{path} holds {type(read).__name__}, wanted a state dict of tensors by name")
    return read


def _first_line(error: Exception) -> str:
    """What an error says, in one line; what it is called where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
