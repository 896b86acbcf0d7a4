"""Synthetic scenes as a source of training samples, one per integer."""

from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.datasets.synthetic.generation import make_scenes, render_scenes
from recon4d.datasets.synthetic.scene import SyntheticConfig

TRAINING_SEED = 0
"""Seed of the scenes used for training; benchmarks use other seeds."""


class SyntheticScenes:
    """Source of synthetic samples, identical for any number of workers.

    Args:
        config: Configuration of the scenes.
        anchors: Frames to track all pixels from.
        textures: Image textures from `load_textures`. None renders procedural patterns only.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        anchors: Sequence[int] = (0,),
        textures: UInt8[Tensor, "texture 3 side side"] | None = None,
    ) -> None:
        self.config = config
        self.anchors = tuple(anchors)
        self.textures = textures

    def sample(self, seed: int) -> Sample:
        """Render a clip with its ground truth.

        Args:
            seed: Index of the scene.

        Returns:
            The sample, without a batch axis.
        """
        count = 0 if self.textures is None else len(self.textures)
        scene = make_scenes(self.config, TRAINING_SEED, [seed], num_textures=count)
        return render_scenes(scene, self.config, self.anchors, self.textures)[0]
