"""Which of the things that a file or folder holds belongs to which frame of a clip, by name or by count."""

from collections.abc import Sequence
from pathlib import PurePath

from recon4d.io.photos import PHOTO_SUFFIXES
from recon4d.records import Clip


def bare_name(name: str) -> str:
    """The name of a picture without folders and ending: left/0001.png and 0001.jpg are both 0001."""
    path = PurePath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name


def places_by_name(clip: Clip, names: Sequence[str]) -> list[int | None]:
    """For each frame of `clip` the place in `names` of the thing called like it, None where there is none."""
    if clip.source is None:
        return [None] * clip.num_frames
    place_of = {bare_name(name): place for place, name in reversed(list(enumerate(names)))}
    return [place_of.get(bare_name(name)) for name in clip.source.names]


def places(clip: Clip, names: Sequence[str], what: str) -> list[int]:
    """For each frame the place in `names`: by name where every frame's name is there, else one each, in order.

    Raises ``ValueError``, which begins with `what` was given, where neither fits.
    """
    by_name = [place for place in places_by_name(clip, names) if place is not None]
    if len(by_name) == clip.num_frames:
        return by_name
    if len(names) == clip.num_frames:
        return list(range(clip.num_frames))
    first = "frame 0" if clip.source is None else bare_name(clip.source.names[0])
    raise ValueError(
        f"{what} {len(names)}, and the clip has {clip.num_frames} frames; wanted one each, or names like {first}"
    )
