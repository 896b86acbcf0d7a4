"""Presets of Depth Anything 3: what the shapes of published weights do not show, and how a preset is told from them."""

from dataclasses import dataclass
from typing import Literal, get_args

from recon4d.errors import UserError
from recon4d.zoo.da3.names import VIT
from recon4d.zoo.published import PublishedWeights

Preset = Literal["small", "base", "large", "giant", "nested", "mono", "metric"]
"""Published models: four sizes of the any-view model, giant and metric in one file, and two monocular models."""


@dataclass(frozen=True)
class Size:
    """Size of a vision transformer."""

    width: int
    """Number of channels."""
    blocks: int
    """Number of blocks."""


ANY_VIEW_SIZES: dict[str, Size] = {
    "small": Size(384, 12),
    "base": Size(768, 12),
    "large": Size(1024, 24),
    "giant": Size(1536, 40),
}
"""Sizes of the any-view presets."""
MONO_PRESETS = ("mono", "metric")
"""Presets with the same names and shapes."""
ANY_VIEW_OUTPUTS = {12: (5, 7, 9, 11), 24: (11, 15, 19, 23), 40: (19, 27, 33, 39)}
"""Blocks whose outputs the head of an any-view model reads, by the number of blocks (as published)."""
MONO_OUTPUTS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}
"""Blocks whose outputs the head of a monocular model reads, by the number of blocks (as published)."""


def size_of(published: PublishedWeights) -> Size:
    """Read the size of the vision transformer from the shapes.

    Args:
        published: Published weights of one model.

    Returns:
        Width and number of blocks.

    Raises:
        UserError: If it is not a state dict of Depth Anything 3.
    """
    return Size(published.shape(f"{VIT}cls_token")[-1], published.count(f"{VIT}blocks."))


def outputs_of(size: Size, is_mono: bool) -> tuple[int, ...]:
    """Look up the blocks whose outputs the head reads; they are not visible in the shapes.

    Args:
        size: Size of the vision transformer.
        is_mono: Whether the model is monocular.

    Returns:
        Numbers of blocks.

    Raises:
        UserError: If no published model has this number of blocks.
    """
    known = MONO_OUTPUTS if is_mono else ANY_VIEW_OUTPUTS
    if size.blocks not in known:
        raise UserError(
            f"the vision transformer has {size.blocks} blocks, so this state dict is truncated or of no published "
            f"model of Depth Anything 3; wanted {', '.join(map(str, known))}"
        )
    return known[size.blocks]


def check_preset(preset: str | None, is_nested: bool, is_mono: bool, size: Size) -> None:
    """Check that a preset fits the shapes of a state dict.

    Args:
        preset: The preset that the user names; None if the shapes tell.
        is_nested: Whether the state dict contains two models.
        is_mono: Whether its only model is monocular.
        size: Size of its (first) vision transformer.

    Raises:
        UserError: If the preset is unknown or of other shapes, or if there is none and the shapes do not tell.
    """
    if preset is not None and preset not in get_args(Preset):
        raise UserError(f"unknown preset {preset!r} of Depth Anything 3; wanted one of {', '.join(get_args(Preset))}")
    if is_mono and preset is None:
        raise UserError(
            "these weights are of a monocular model of Depth Anything 3, and their shapes do not tell whether their "
            "depth is metric: give preset='mono' or preset='metric', or a file whose name contains one of these words"
        )
    found = _describe(is_nested, is_mono, size)
    if preset is None:
        return
    fits = preset in MONO_PRESETS if is_mono else preset == "nested" if is_nested else _is_size(preset, size)
    if not fits:
        raise UserError(f"the preset is {preset}, but this state dict is {found}")


def _is_size(preset: str, size: Size) -> bool:
    return ANY_VIEW_SIZES.get(preset) == size


def _describe(is_nested: bool, is_mono: bool, size: Size) -> str:
    if is_nested:
        return "of a nested model (it contains model.da3_metric)"
    if is_mono:
        return "of a monocular model (it has no camera_token)"
    names = {value: name for name, value in ANY_VIEW_SIZES.items()}
    name = f", the preset {names[size]}" if size in names else ""
    return f"of an any-view model with width {size.width} and {size.blocks} blocks{name}"
