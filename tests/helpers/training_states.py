"""Comparison of saved states of training runs."""

from pathlib import Path

import torch

from recon4d.train.checkpoints import (
    latest_complete,
)

ROOT = Path(__file__).parents[2]


def final_state(folder: Path) -> dict:
    last = latest_complete(folder / "checkpoints")
    assert last is not None
    return last.load_state()


def assert_same(one: object, other: object, where: str = "state") -> None:
    """Assert that two states are equal, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{where}[{place}]")
    elif isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other), where
    else:
        assert one == other, where
