"""Options of one reconstruction in the web app, and the models that it offers, in words."""

from dataclasses import dataclass
from typing import Literal

from recon4d.errors import UserError

Tracked = Literal["first", "middle", "none"]
"""The picture whose pixels are all tracked to every time."""
MIN_FRAMES, DEFAULT_FRAMES = 2, 8
"""Smallest and suggested number of frames of a clip."""


@dataclass(frozen=True)
class Limits:
    """Limits of what people may ask of the app.

    Raises:
        UserError: If a limit is out of range.
    """

    upload_megabytes: int = 500
    """Largest size of the files of one clip together, in megabytes (10^6 bytes)."""
    frames: int = 24
    """Largest number of frames that are reconstructed."""
    seconds: float = 600.0
    """Longest video in seconds."""

    def __post_init__(self) -> None:
        if self.upload_megabytes < 1:
            raise UserError(f"the largest upload is {self.upload_megabytes} MB; wanted at least 1")
        if self.frames < MIN_FRAMES:
            raise UserError(f"the largest number of frames is {self.frames}; wanted at least {MIN_FRAMES}")
        if not self.seconds > 0:
            raise UserError(f"the longest video is {self.seconds:g} s; wanted more than 0")


@dataclass(frozen=True)
class JobOptions:
    """What a person chooses for one reconstruction.

    Raises:
        UserError: If a value is out of range.
    """

    model: str
    """A name of the zoo, or a checkpoint file."""
    num_frames: int = DEFAULT_FRAMES
    """Number of frames; all pictures if there are fewer."""
    is_refined: bool = True
    """Whether cameras and depth are refined with the pictures."""
    tracked: Tracked = "first"
    """The picture whose pixels are tracked."""
    drop: float = 20.0
    """Percentage of the pixels, the least confident ones, that are left out of the 3D view."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise UserError(f"the number of frames is {self.num_frames}; wanted at least 1")
        if not 0 <= self.drop < 100:
            raise UserError(f"the percentage of points to leave out is {self.drop:g}; wanted 0 to below 100")

    def anchors(self, num_frames: int) -> tuple[int, ...]:
        """Return the frames whose pixels are tracked.

        Args:
            num_frames: Number of frames of the clip.

        Returns:
            Frame numbers.
        """
        return {"first": (0,), "middle": (num_frames // 2,), "none": ()}[self.tracked]


@dataclass(frozen=True)
class ModelChoice:
    """A model that the app offers."""

    name: str
    """Name in the zoo."""
    label: str
    """The name, with what a person should know before choosing it."""


def model_choices() -> list[ModelChoice]:
    """List the models of the zoo that have trained weights.

    Returns:
        The models: those that work offline first, then those that are downloaded at first use.
    """
    from recon4d.zoo import list_models, model_entry
    from recon4d.zoo.hub import cache_folder, placed_file

    ready, remote = [], []
    for name in list_models():
        entry = model_entry(name)
        if entry.weights_file is not None:
            ready.append(ModelChoice(name, f"{name}: included, works offline"))
        elif entry.published is not None:
            source = entry.published
            kept = (cache_folder() / f"{name}.safetensors", placed_file(name, source))
            terms = source.license.split(":")[0]
            if any(file.is_file() for file in kept):
                ready.append(ModelChoice(name, f"{name}: downloaded, works offline ({terms})"))
            else:
                remote.append(ModelChoice(name, f"{name}: needs a download at first use ({terms})"))
    return [*ready, *remote]
