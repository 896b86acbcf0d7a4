"""Assignment of named items (masks, cameras) to the frames of a clip, by name or by order."""

from collections.abc import Sequence
from pathlib import PurePath

from recon4d.errors import UserError
from recon4d.io.photos import PHOTO_SUFFIXES
from recon4d.records import Clip


def bare_name(name: str) -> str:
    """Strip folders and the image suffix from a file name: ``left/0001.png`` and ``0001.jpg`` both give ``0001``.

    Args:
        name: File name or path, with slashes of either kind.

    Returns:
        The name. Suffixes that are not those of images stay.
    """
    path = PurePath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name


def match_by_name(clip: Clip, names: Sequence[str]) -> list[int | None]:
    """Find for each frame the item of the same name.

    Args:
        clip: The clip. Without a source its frames have no names.
        names: Names of the items; folders and image suffixes do not matter. The first of equal names counts.

    Returns:
        For each frame an index into `names`, or None if there is no such name.
    """
    if clip.source is None:
        return [None] * clip.num_frames
    index_of = {bare_name(name): index for index, name in reversed(list(enumerate(names)))}
    return [index_of.get(bare_name(name)) for name in clip.source.names]


def match_frames(clip: Clip, names: Sequence[str], subject: str) -> list[int]:
    """Assign an item to every frame: by name if every frame's name occurs, otherwise in order if the counts agree.

    Args:
        clip: The clip.
        names: Names of the items, in natural order.
        subject: Beginning of the error message, which continues with the number of items: ``"masks m: the folder
            holds"``.

    Returns:
        For each frame an index into `names`.

    Raises:
        UserError: If neither names nor counts fit.
    """
    by_name = [index for index in match_by_name(clip, names) if index is not None]
    if len(by_name) == clip.num_frames:
        return by_name
    if len(names) == clip.num_frames:
        return list(range(clip.num_frames))
    first = "frame 0" if clip.source is None else bare_name(clip.source.names[0])
    raise UserError(
        f"{subject} {len(names)}, and the clip has {clip.num_frames} frames; wanted one each, or names like {first}"
    )
