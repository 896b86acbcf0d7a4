"""Worlds as a source of samples for training: any number is a scene."""

from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.generation import make_worlds, render_worlds
from recon4d.datasets.synthetic.scene import WorldConfig

FAMILY = 0
"""The seed under which training draws its worlds; benchmarks have seeds of their own."""


class Worlds:
    """Samples by number, each without a batch axis; the same for any number of workers."""

    def __init__(
        self,
        config: WorldConfig,
        anchors: Sequence[int] = (0,),
        pictures: UInt8[Tensor, "picture 3 side side"] | None = None,
    ) -> None:
        self.config = config
        self.anchors = tuple(anchors)
        self.pictures = pictures

    def sample(self, seed: int) -> Sample:
        """The clip and truth of world number `seed`."""
        count = 0 if self.pictures is None else len(self.pictures)
        world = make_worlds(self.config, FAMILY, [seed], num_pictures=count)
        return render_worlds(world, self.config, self.anchors, self.pictures)[0]
