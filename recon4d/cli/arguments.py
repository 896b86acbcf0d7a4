"""Arguments that several commands take: models by name or file, devices, scenes and output folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon4d.errors import UserError

if TYPE_CHECKING:
    import torch

    from recon4d.layers import Kernel
    from recon4d.models import SceneModel

AttentionName = Literal["auto", "sdpa", "xformers"]
"""Kernel of attention as an option, `recon4d.layers.KernelChoice`."""


def find_model(name_or_file: str) -> "SceneModel":
    """Create a model from its name or load it from a checkpoint.

    Args:
        name_or_file: A name that `recon4d models` lists, or the path of a checkpoint file.

    Returns:
        The model on the CPU. One without trained weights gets random ones, with an `UntrainedWarning`.

    Raises:
        UserError: If there is no such model, or the checkpoint cannot be read.
    """
    from recon4d import zoo

    return zoo.find_model(name_or_file, allow_untrained=True)


def find_device(name: str) -> "torch.device":
    """Find a device by name and check that it works.

    Args:
        name: A device name of PyTorch such as "cpu" or "cuda:1", or "auto" for the GPU if there is one, else the CPU.

    Returns:
        The device.

    Raises:
        UserError: If the device does not exist or cannot hold a tensor.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # PyTorch raises AssertionError if it was built without CUDA and NotImplementedError for the meta device.
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used on this machine: {reason}") from error
    return device


def find_kernel(name: AttentionName, device: "torch.device") -> "Kernel":
    """Find the attention kernel by its option and check that it runs on a device.

    Args:
        name: The value of the option.
        device: Device of the network.

    Returns:
        The kernel.

    Raises:
        UserError: If the kernel cannot run on the device, or its package is not installed.
    """
    from recon4d.layers import choose_kernel

    return choose_kernel(name, device)


def is_long_clip(path: Path) -> bool:
    """Check whether a path is the result of a long clip, which is read frame by frame.

    Args:
        path: A scene file or a folder of results.

    Returns:
        Whether it is a folder with an index of frames, as `recon4d reconstruct --window` writes it.
    """
    from recon4d.io.long_archive import INDEX_FILE_NAME

    return path.is_dir() and (path / INDEX_FILE_NAME).is_file()


def check_outside(path: Path, out: Path) -> None:
    """Check that an input does not lie in the output folder, which the command may replace.

    Args:
        path: An input file or folder.
        out: The output folder; it need not exist.

    Raises:
        UserError: If `path` is `out` or lies in it.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{path} lies in the output folder {out}; move it, or choose another output folder")
