"""A small network with every kind of parameter that the optimizers treat differently."""

import torch
from torch import Tensor, nn

from recon4d.layers import Block, BlockConfig


class Net(nn.Module):
    """A transformer block, a matrix outside of blocks, a norm and a token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 3, 8))
        self.enter = nn.Linear(5, 8)
        self.block = Block(BlockConfig(width=8, heads=2, mlp_width=16))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.block(self.token + self.enter(x)))
