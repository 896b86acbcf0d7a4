"""Random numbers that are a function of keys alone: the same for a scene by itself, in any batch, on any device.

A counter-based generator (SplitMix64, Steele et al. 2014): the n-th number of a key is a hash of both. No state is
shared between scenes, so worker processes, batch sizes and resumed runs cannot change what a scene is.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
MULTIPLIERS = (-4658895280553007687, -7723592293110705685)  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MANTISSA_BITS = 24


def mix(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The finaliser of SplitMix64: every bit of the answer depends on every bit of the value."""
    values = (values ^ _shift_right(values, 30)) * MULTIPLIERS[0]
    values = (values ^ _shift_right(values, 27)) * MULTIPLIERS[1]
    return values ^ _shift_right(values, 31)


def scene_keys(seed: int, indices: Int[Tensor, "batch"], candidate: int = 0) -> Int[Tensor, "batch"]:
    """The key of each scene of a seed; `candidate` tells apart several tries at the same scene."""
    # Products in tensors: they wrap around at 64 bits, which Python's own numbers do not.
    seeds, candidates = (torch.tensor(number, dtype=torch.int64, device=indices.device) for number in (seed, candidate))
    return mix(mix(mix(seeds * GOLDEN_GAMMA) + indices * GOLDEN_GAMMA) + candidates * GOLDEN_GAMMA)


class Draws:
    """A stream of random numbers for each key of a batch; every call takes the next ones."""

    def __init__(self, keys: Int[Tensor, "batch"]) -> None:
        self.keys = keys
        self.position = 0

    def bits(self, *shape: int) -> Int[Tensor, "batch *shape"]:
        """64 random bits each."""
        count = math.prod(shape)
        counters = torch.arange(self.position + 1, self.position + 1 + count, device=self.keys.device)
        self.position += count
        return mix(self.keys[:, None] + counters * GOLDEN_GAMMA).reshape(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "batch *shape"]:
        """Evenly between `low` and `high`, neither of them included."""
        unit = (_shift_right(self.bits(*shape), 64 - MANTISSA_BITS).float() + 0.5) / 2**MANTISSA_BITS
        return low + (high - low) * unit

    def log_uniform(self, *shape: int, low: float, high: float) -> Float[Tensor, "batch *shape"]:
        """Between `low` and `high`, evenly in the logarithm."""
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Standard normal."""
        return math.sqrt(2) * torch.erfinv(2 * self.uniform(*shape) - 1)

    def chance(self, *shape: int, probability: float | Tensor) -> Bool[Tensor, "batch *shape"]:
        """True with this probability: a number, or a tensor that broadcasts to (batch, shape)."""
        return self.uniform(*shape) < probability

    def integers(self, *shape: int, below: int) -> Int[Tensor, "batch *shape"]:
        """Whole numbers from 0 to `below` - 1."""
        return (self.uniform(*shape) * below).long().clamp(max=below - 1)


def _shift_right(values: Tensor, places: int) -> Tensor:
    """A logical shift: torch's own keeps the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)
