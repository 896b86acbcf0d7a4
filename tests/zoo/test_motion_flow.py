"""Files of the generative head of motion: round trip, damage, wrong files."""

from pathlib import Path

import pytest
import torch

from recon4d.errors import UserError
from recon4d.heads.motion_flow import FlowConfig, FlowNetwork
from recon4d.zoo import MotionFlow, create_model, load_motion_flow, save_motion_flow
from recon4d.zoo.motion_flow import WEIGHTS_FILE


def test_the_package_has_weights() -> None:
    flow = load_motion_flow()
    assert flow.knows_tokens_of(create_model())
    assert not flow.knows_tokens_of(create_model("recon4d_tiny", pretrained=False))
    assert not flow.network.training
    assert WEIGHTS_FILE.stat().st_size < 8e6


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FlowNetwork(FlowConfig(width=16, depth=1, heads=2, token_width=8))
    save_motion_flow(MotionFlow(network, "some_model"), tmp_path / "flow.safetensors")
    loaded = load_motion_flow(tmp_path / "flow.safetensors")
    assert loaded.token_model == "some_model"
    assert loaded.network.config == network.config
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not exist"):
        load_motion_flow(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(WEIGHTS_FILE.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_motion_flow(damaged)
    with pytest.raises(UserError, match="no generative head of motion: its format is recon4d-checkpoint-1"):
        load_motion_flow(WEIGHTS_FILE.with_name("recon4d_mini.safetensors"))
