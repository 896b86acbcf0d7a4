"""Counter-based random numbers: a function of keys only, so a scene is the same alone, in any batch and on any device.

The n-th number of a key is a hash of both (SplitMix64, Steele et al. 2014). Scenes share no state, so the number of
workers, the batch size and resuming a run do not change them.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GOLDEN_GAMMA = -7046029254386353131
"""Increment of SplitMix64, 0x9E3779B97F4A7C15 as a signed integer."""
MULTIPLIERS = (-4658895280553007687, -7723592293110705685)
"""Multipliers of SplitMix64, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as signed integers."""
MANTISSA_BITS = 24
"""Number of random bits of a uniform float32."""


def mix(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Apply the finalizer of SplitMix64, in which every output bit depends on every input bit.

    Args:
        values: 64-bit integers.

    Returns:
        Hashed integers.
    """
    values = (values ^ _shift_right(values, 30)) * MULTIPLIERS[0]
    values = (values ^ _shift_right(values, 27)) * MULTIPLIERS[1]
    return values ^ _shift_right(values, 31)


def scene_keys(seed: int, indices: Int[Tensor, "batch"], attempt: int = 0) -> Int[Tensor, "batch"]:
    """Derive the key of each scene of a seed.

    Args:
        seed: Seed of the scenes.
        indices: Index of each scene.
        attempt: Number of the attempt at the same scene, from 0.

    Returns:
        One key per scene.
    """
    # Products of tensors, because they wrap around at 64 bits and Python integers do not.
    seeds, attempts = (torch.tensor(number, dtype=torch.int64, device=indices.device) for number in (seed, attempt))
    return mix(mix(mix(seeds * GOLDEN_GAMMA) + indices * GOLDEN_GAMMA) + attempts * GOLDEN_GAMMA)


class CounterRng:
    """An independent stream of random numbers for each key of a batch; every call advances all streams.

    Args:
        keys: One key per stream.
    """

    def __init__(self, keys: Int[Tensor, "batch"]) -> None:
        self.keys = keys
        self.position = 0

    def bits(self, *shape: int) -> Int[Tensor, "batch *shape"]:
        """Draw random 64-bit integers.

        Args:
            shape: Shape of the draw per key.

        Returns:
            The integers.
        """
        count = math.prod(shape)
        counters = torch.arange(self.position + 1, self.position + 1 + count, device=self.keys.device)
        self.position += count
        return mix(self.keys[:, None] + counters * GOLDEN_GAMMA).reshape(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "batch *shape"]:
        """Draw uniformly from an open interval.

        Args:
            shape: Shape of the draw per key.
            low: Lower bound, excluded.
            high: Upper bound, excluded.

        Returns:
            The numbers, float32.
        """
        unit = (_shift_right(self.bits(*shape), 64 - MANTISSA_BITS).float() + 0.5) / 2**MANTISSA_BITS
        return low + (high - low) * unit

    def log_uniform(self, *shape: int, low: float, high: float) -> Float[Tensor, "batch *shape"]:
        """Draw from an interval so that the logarithm is uniform.

        Args:
            shape: Shape of the draw per key.
            low: Lower bound, above 0.
            high: Upper bound.

        Returns:
            The numbers, float32.
        """
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Draw from the standard normal distribution.

        Args:
            shape: Shape of the draw per key.

        Returns:
            The numbers, float32.
        """
        return math.sqrt(2) * torch.erfinv(2 * self.uniform(*shape) - 1)

    def bernoulli(self, *shape: int, probability: float | Tensor) -> Bool[Tensor, "batch *shape"]:
        """Draw booleans.

        Args:
            shape: Shape of the draw per key.
            probability: Probability of True, a number or a tensor that broadcasts to (batch, *shape).

        Returns:
            The booleans.
        """
        return self.uniform(*shape) < probability

    def integers(self, *shape: int, below: int) -> Int[Tensor, "batch *shape"]:
        """Draw integers uniformly from 0 to `below` - 1.

        Args:
            shape: Shape of the draw per key.
            below: Upper bound, excluded.

        Returns:
            The integers.
        """
        return (self.uniform(*shape) * below).long().clamp(max=below - 1)


def _shift_right(values: Tensor, places: int) -> Tensor:
    """Shift logically; the operator of PyTorch keeps the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)
