"""The flow network: velocities of the control points of all tracks of a clip, which attend to each other."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.motion_flow.conditions import CHANNELS, FEATURES

FREQUENCIES = 16
"""Number of frequencies that encode the time of the flow."""


@dataclass(frozen=True)
class FlowConfig:
    """Configuration of the flow network."""

    width: int = 128
    """Width of the tokens, one for each track."""
    depth: int = 5
    """Number of blocks."""
    heads: int = 4
    """Number of attention heads."""
    token_width: int = 512
    """Width of the tokens of the frozen model."""


class FlowNetwork(nn.Module):
    """A transformer over tracks, conditioned on the time of the flow (adaptive layer norm, Peebles and Xie 2023).

    Args:
        config: Configuration of the network.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Linear(CHANNELS + FEATURES, width)
        self.tokens = nn.Sequential(nn.LayerNorm(config.token_width), nn.Linear(config.token_width, width))
        self.no_token = nn.Parameter(torch.zeros(width))
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList([_FlowBlock(width, config.heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CHANNELS)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        values: Float[Tensor, "batch track channel"],
        flow_time: Float[Tensor, " batch"],
        features: Float[Tensor, "batch track feature"],
        tokens: Float[Tensor, "batch track token_width"] | None,
    ) -> Float[Tensor, "batch track channel"]:
        """Predict the velocity of the flow.

        Args:
            values: Values at the time of the flow.
            flow_time: Time of the flow from 0 (noise) to 1 (data).
            features: `MotionConditions.features`.
            tokens: Tokens of the frozen model at the tracked pixels; None if there are none.

        Returns:
            Derivative of the values by the time of the flow.
        """
        hidden = self.embed(torch.cat([values, features], dim=-1))
        hidden = hidden + (self.no_token if tokens is None else self.tokens(tokens))
        rates = torch.arange(FREQUENCIES, device=values.device, dtype=values.dtype) * torch.pi
        phase = flow_time[:, None] * rates
        time = self.time(torch.cat([phase.sin(), phase.cos()], dim=-1))[:, None]
        for block in self.blocks:
            hidden = block(hidden, time)
        return self.out(self.norm(hidden))


class _FlowBlock(nn.Module):
    """Attention over tracks and a perceptron, both modulated by the time of the flow."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():  # gates start small, not at zero, so that blocks learn from the first step
            self.modulation.bias.view(6, width)[[2, 5]] = 0.3

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        shift, factor, gate, mlp_shift, mlp_factor, mlp_gate = self.modulation(time).chunk(6, dim=-1)
        width = hidden.shape[-1]
        normal = F.layer_norm(hidden, (width,)) * (1 + factor) + shift
        query, key, value = self.qkv(normal).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + gate * self.project(attended)
        normal = F.layer_norm(hidden, (width,)) * (1 + mlp_factor) + mlp_shift
        return hidden + mlp_gate * self.mlp(normal)
