"""Example clips of the app: those of the repository if it is there, and a synthetic scene that is rendered."""

from dataclasses import dataclass
from pathlib import Path

from recon4d.errors import os_errors_as_user_errors

SYNTHETIC_SEED = 3
"""Seed of the synthetic scene. Hand-tuned: several objects move, and the camera too."""
SYNTHETIC_FRAMES, SYNTHETIC_SIZE = 8, (192, 256)
"""Number of frames of the synthetic scene, and their height and width in pixels."""


@dataclass(frozen=True)
class Example:
    """A clip to try."""

    label: str
    """What is seen, for a button."""
    files: tuple[Path, ...]
    """Its files; empty for the synthetic scene, which is rendered at first use."""

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Return the files of the clip, rendered into a folder if they do not exist yet.

        Args:
            folder: Folder for rendered files; it is made.

        Returns:
            The files.

        Raises:
            UserError: If the files cannot be written.
        """
        return self.files or _render(folder)


def find_examples() -> list[Example]:
    """Find the example clips.

    Returns:
        Those of the repository, if the package is used from it, and the synthetic scene.
    """
    folder = Path(__file__).parents[2] / "examples"
    dog, desk = folder / "dog.mp4", sorted((folder / "freiburg2_desk").glob("*.jpg"))
    examples = [Example("Video of a dog", (dog,))] if dog.is_file() else []
    examples += [Example("Pictures of a desk", tuple(desk))] if desk else []
    return [*examples, Example("Synthetic scene", ())]


def _render(folder: Path) -> tuple[Path, ...]:
    from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
    from recon4d.io import write_jpeg

    height, width = SYNTHETIC_SIZE
    config = SyntheticConfig(num_frames=SYNTHETIC_FRAMES, height=height, width=width)
    clip = render_scenes(make_scenes(config, SYNTHETIC_SEED, [0]), config)[0].clip
    with os_errors_as_user_errors("the example cannot be stored"):
        folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"synthetic_{number}.jpg" for number in range(clip.num_frames)]
    for file, image in zip(files, clip.images[clip.times.argsort()], strict=True):
        write_jpeg(file, image)
    return tuple(files)
