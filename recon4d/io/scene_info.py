"""The description of how a scene was made, stored in its archive as one JSON string."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from recon4d.errors import UserError
from recon4d.records import Calibration, ClipSource, RefinementSummary, config_from_json, config_to_json

NEWEST_FORMAT = 1
"""Newest version of the archive format that this package reads, and the one that it writes."""

MAX_SIDE = 2**20
"""Largest side of a picture in pixels."""

PlainValue = str | int | float | bool | list | None


@dataclass(frozen=True)
class SceneInfo:
    """How a scene was made: facts that a later reader needs and the arrays do not contain.

    Raises:
        UserError: If a value has the wrong type, or if JSON would change a setting.
    """

    model: str
    """Name of the model, or ``custom`` for a scene that other code made."""
    trained: bool
    """Whether the model's weights were trained. False means random weights."""
    version: str
    """Version of recon4d."""
    source: ClipSource | None
    """File or folder of the clip with the names and numbers of its frames. None if unknown."""
    original_size: tuple[int, int]
    """Height and width in pixels of the frames before any resizing."""
    settings: dict[str, PlainValue]
    """Options of the run as plain JSON values."""
    format: int = NEWEST_FORMAT
    """Version of the archive format."""
    calibration: Calibration | None = None
    """Meaning of the model's confidences. None if the model was not calibrated."""
    refinement: RefinementSummary | None = None
    """What was refined, and how far to trust it. None if no refinement was tried."""
    assumptions: tuple[str, ...] = ()
    """What the scene assumes because the network does not predict it, such as cameras; one phrase each."""
    camera_report: tuple[str, ...] = ()
    """How known cameras and intrinsics were read and assigned to the frames, in lines for the user."""

    # Values from files may have any type, which is checked below with messages for the user.
    __no_type_check__ = True

    def __post_init__(self) -> None:
        kinds = {"model": str, "trained": bool, "version": str, "settings": dict, "format": int}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"info: {name} is {getattr(self, name)!r}, wanted {kind.__name__}")
        if not isinstance(self.source, ClipSource | None):
            raise UserError(f"info: source is {self.source!r}, wanted a ClipSource or None")
        if not isinstance(self.calibration, Calibration | None):
            raise UserError(f"info: calibration is {self.calibration!r}, wanted a Calibration or None")
        if not isinstance(self.refinement, RefinementSummary | None):
            raise UserError(f"info: refinement is {self.refinement!r}, wanted a RefinementSummary or None")
        if not isinstance(self.assumptions, tuple) or not all(isinstance(text, str) for text in self.assumptions):
            raise UserError(f"info: assumptions is {self.assumptions!r}, wanted a tuple of strings")
        if len(self.original_size) != 2 or not all(isinstance(length, int) for length in self.original_size):
            raise UserError(f"info: original_size is {self.original_size}, wanted (height, width) in pixels")
        if not all(isinstance(line, str) for line in self.camera_report):
            raise UserError(f"info: camera_report is {self.camera_report!r}, wanted lines of text")
        for name, value in self.settings.items():
            # Checked at construction rather than after hours of computing, when the archive is written.
            if not _survives_json(value):
                raise UserError(f"info: setting {name!r} is {value!r}, wanted a plain, finite JSON value or a list")

    def to_json(self) -> str:
        """Convert to one JSON object.

        Returns:
            The fields by name. `calibration`, `refinement`, `assumptions`, `camera_report`, and `selection` and
            `sizes` of the source are left out if they are None or empty, so that versions before them can
            read the rest.
        """
        values = dataclasses.asdict(self)
        for name in ("calibration", "refinement"):
            values[name] = config_to_json(getattr(self, name))
            if values[name] is None:
                del values[name]
        if not self.assumptions:
            del values["assumptions"]
        if not self.camera_report:
            del values["camera_report"]
        for name in ("selection", "sizes"):
            if self.source is not None and not getattr(self.source, name):
                del values["source"][name]
        return json.dumps(values, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "SceneInfo":
        """Parse the string that `to_json` returned.

        Args:
            text: One JSON object.

        Returns:
            The info.

        Raises:
            UserError: If the text is not such an object, has unknown or missing keys, or has a newer format.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"info is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"info is {text[:60]!r}, wanted a JSON object")
        # Checked before the keys, which may differ in a newer format.
        if isinstance(values.get("format"), int) and values["format"] > NEWEST_FORMAT:
            raise UserError(
                f"it has format {values['format']}, this recon4d reads up to {NEWEST_FORMAT}; please upgrade"
            )
        values = {"calibration": None, "refinement": None, "assumptions": [], "camera_report": [], **values}
        _check_keys("info", values, cls)
        source, original_size, calibration = values["source"], values["original_size"], values["calibration"]
        if not isinstance(values["camera_report"], list):
            raise UserError(f"info: camera_report is {values['camera_report']!r}, wanted a list")
        if not isinstance(original_size, list):
            raise UserError(f"info: original_size is {original_size!r}, wanted [height, width]")
        if calibration is not None:
            calibration = config_from_json(Calibration, calibration)
        refinement = values["refinement"]
        if refinement is not None:
            refinement = config_from_json(RefinementSummary, refinement)
        parsed = {
            "source": _parse_source(source),
            "original_size": tuple(original_size),
            "camera_report": tuple(values["camera_report"]),
            "calibration": calibration,
            "refinement": refinement,
            "assumptions": _parse_assumptions(values["assumptions"]),
        }
        return cls(**{**values, **parsed})


def _parse_assumptions(texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list):
        raise UserError(f"info: assumptions is {texts!r}, wanted a list of strings")
    return tuple(texts)


def _parse_source(source: Any) -> ClipSource | None:
    if source is None:
        return None
    source = {"selection": "", "sizes": [], **source} if isinstance(source, dict) else source
    if isinstance(source, dict):
        source.pop("is_fitted", None)  # of earlier versions, which did not store sizes
    _check_keys("info: source", source, ClipSource)
    path, names, numbers = source["path"], source["names"], source["numbers"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"info: source.names is {names!r}, wanted a list of strings")
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise UserError(f"info: source.numbers is {numbers!r}, wanted a list of whole numbers")
    return ClipSource(
        str(path), tuple(names), tuple(numbers), str(source["selection"]), _parse_sizes(source["sizes"], len(names))
    )


def _parse_sizes(sizes: Any, count: int) -> tuple[tuple[int, int], ...]:
    """Sizes of the pictures: none, or positive heights and widths, one pair for each frame."""
    rows: list[Any] = sizes if isinstance(sizes, list) else [None]
    are_pairs = all(
        isinstance(row, list) and len(row) == 2 and all(type(side) is int and 0 < side < MAX_SIDE for side in row)
        for row in rows
    )
    if not are_pairs or len(rows) not in (0, count):
        raise UserError(f"info: source.sizes is {str(sizes)[:60]}, wanted [height, width] of each of {count} pictures")
    return tuple((row[0], row[1]) for row in rows)


def _check_keys(place: str, values: Any, record_type: type) -> None:
    wanted = [field.name for field in dataclasses.fields(record_type)]
    given = list(values) if isinstance(values, dict) else []
    if set(given) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        raise UserError(f"{place} lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}")


def _survives_json(value: Any) -> bool:
    try:
        return not isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False
