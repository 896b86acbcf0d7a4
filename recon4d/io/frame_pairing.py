"""Assignment of named items (masks, cameras) to the frames of a clip, by name or by order."""

import re
from collections import defaultdict
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


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Make a key that sorts names as people do: ``frame_2`` before ``frame_10``.

    Args:
        name: File name or path.

    Returns:
        The key.
    """
    parts = re.split(r"(\d+)", name.replace("\\", "/").lower())
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def match_by_name(clip: Clip, names: Sequence[str], subject: str = "items") -> list[int | None]:
    """Find for each frame the item of the same name; if several have it, the one in the most similar folder.

    Folders are compared from the innermost outward: the frame ``shoot/images/right/0001.jpg`` belongs to
    ``right/0001.png`` rather than to ``left/0001.png``. Image suffixes matter only between otherwise equal names.

    Args:
        clip: The clip. Without a source its frames have no names.
        names: Names of the items, with or without folders and image suffixes.
        subject: Beginning of the error message, such as "cameras transforms.json".

    Returns:
        For each frame an index into `names`, or None if there is no such name.

    Raises:
        UserError: If several items fit a frame equally well.
    """
    if clip.source is None:
        return [None] * clip.num_frames
    indices_of = defaultdict(list)
    for index, name in enumerate(names):
        indices_of[bare_name(name)].append(index)
    folder = clip.source.path
    return [
        _most_similar(f"{folder}/{frame}", names, indices_of.get(bare_name(frame), []), subject)
        for frame in clip.source.names
    ]


def _most_similar(frame: str, names: Sequence[str], indices: Sequence[int], subject: str) -> int | None:
    """The candidate with the longest common path from its end; exact suffixes win between equals."""
    if len(indices) <= 1:
        return indices[0] if indices else None
    scores = [_similarity(frame, names[index]) for index in indices]
    best = [index for index, score in zip(indices, scores, strict=True) if score == max(scores)]
    if len(best) > 1:
        raise UserError(
            f"{subject}: {names[best[0]]} and {names[best[1]]} both have the name of the frame {frame}, and nothing "
            "tells which is meant; give the pictures in a folder of the same name, or only one of the two"
        )
    return best[0]


def _similarity(frame: str, name: str) -> tuple[int, bool]:
    """Number of folders in common, from the innermost outward, and whether the suffixes are equal."""
    one, other = (PurePath(path.replace("\\", "/")) for path in (frame, name))
    folders = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    common = 0
    for mine, its in folders:
        if mine != its:
            break
        common += 1
    return common, one.suffix == other.suffix


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
    by_name = [index for index in match_by_name(clip, names, subject) if index is not None]
    if len(by_name) == clip.num_frames:
        return by_name
    if len(names) == clip.num_frames:
        return list(range(clip.num_frames))
    first = "frame 0" if clip.source is None else bare_name(clip.source.names[0])
    raise UserError(
        f"{subject} {len(names)}, and the clip has {clip.num_frames} frames; wanted one each, or names like {first}"
    )
