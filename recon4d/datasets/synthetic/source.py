"""Worlds as a source of samples for training: any number is a scene."""

from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.generation import make_scenes, render_scenes
from recon4d.datasets.synthetic.scene import SyntheticConfig

FAMILY = 0
"""The seed under which training draws its worlds; benchmarks have seeds of their own."""


class SyntheticScenes:
    """Samples by number, each without a batch axis; the same for any number of workers."""

    def __init__(
        self,
        config: SyntheticConfig,
        anchors: Sequence[int] = (0,),
        pictures: UInt8[Tensor, "picture 3 side side"] | None = None,
    ) -> None:
        self.config = config
        self.anchors = tuple(anchors)
        self.pictures = pictures

    def sample(self, seed: int) -> Sample:
        """The clip and truth of world number `seed`."""
        count = 0 if self.pictures is None else len(self.pictures)
        world = make_scenes(self.config, FAMILY, [seed], num_pictures=count)
        return render_scenes(world, self.config, self.anchors, self.pictures)[0]
