"""Weights of the generative head of motion: one file in the package, or one that was trained anew."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from recon4d.errors import UserError
from recon4d.heads.motion_flow import FlowConfig, FlowNetwork
from recon4d.io import atomic_file
from recon4d.models import SceneModel
from recon4d.records import config_from_json, config_to_json
from recon4d.zoo.registry import WEIGHTS_FOLDER
from recon4d.zoo.safetensors_header import with_sorted_metadata

FORMAT = "recon4d-motion-flow-1"
"""Format tag of the files."""
WEIGHTS_FILE = WEIGHTS_FOLDER / "motion_flow.safetensors"
"""Weights that are part of the package."""


@dataclass(frozen=True)
class MotionFlow:
    """A trained generative head and the model whose tokens it knows."""

    network: FlowNetwork
    """The network, in evaluation mode."""
    token_model: str
    """Name of the model whose tokens it was trained with; empty for none."""

    def knows_tokens_of(self, model: SceneModel) -> bool:
        """Return whether the tokens of a model help; those of others are left out.

        Args:
            model: The model.

        Returns:
            True for the model whose tokens the head was trained with.
        """
        return bool(self.token_model) and model.name == self.token_model


def save_motion_flow(flow: MotionFlow, path: Path) -> None:
    """Write a generative head as float16, atomically.

    Args:
        flow: The head.
        path: File to write; an existing one is replaced.

    Raises:
        UserError: If the file cannot be written.
    """
    from safetensors.torch import save

    metadata = {
        "format": FORMAT,
        "config": json.dumps(config_to_json(flow.network.config)),
        "token_model": flow.token_model,
    }
    state = {name: value.to(torch.float16) for name, value in flow.network.state_dict().items()}
    header, tensors = with_sorted_metadata(save(state, metadata))
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(header)
        file.write(tensors)


def load_motion_flow(path: Path = WEIGHTS_FILE) -> MotionFlow:
    """Load a generative head.

    Args:
        path: A file of `save_motion_flow`.

    Returns:
        The head with float32 weights, on the CPU.

    Raises:
        UserError: If the file does not exist, is damaged or is no such file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"weights {path} do not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is no generative head of motion: its format is {metadata.get('format', 'none')}")
    network = FlowNetwork(config_from_json(FlowConfig, json.loads(metadata["config"])))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} has weights that do not fit its own configuration") from error
    return MotionFlow(network.eval(), metadata.get("token_model", ""))
