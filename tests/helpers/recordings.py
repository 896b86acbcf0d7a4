"""Reads saved recordings of rerun, by entity and row, for tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """Data logged at one time: `frame` and `seconds` (None for static data), and the columns by name."""

    frame: int | None
    seconds: float | None
    columns: dict[str, Any]

    def array(self, column: str) -> np.ndarray:
        """The values of a column, empty where it is."""
        return np.asarray(self.columns[column])

    def colors(self, column: str = "Points3D:colors") -> np.ndarray:
        """RGB of a column of colors, which rerun packs as 0xRRGGBBAA."""
        packed = self.array(column).astype(np.uint32)
        return np.stack([packed >> 24, packed >> 16 & 255, packed >> 8 & 255], axis=-1)

    def picture(self, kind: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        """The pixels of a DepthImage or SegmentationImage."""
        return np.frombuffer(bytes(self.columns[f"{kind}:buffer"][0]), dtype).reshape(shape)


def read_recording(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every entity in order of time."""
    from rerun.chunk import RrdReader  # type: ignore[import-not-found]

    reader = RrdReader(path)
    (recording,) = reader.recordings()
    return _rows(reader.store(store=recording))


def read_blueprint(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every part of the layout."""
    from rerun.chunk import RrdReader  # type: ignore[import-not-found]

    reader = RrdReader(path)
    (blueprint,) = reader.blueprints()
    return _rows(reader.store(store=blueprint))


def _rows(store: Any) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for chunk in store.stream():
        batch = chunk.to_record_batch()
        for values in batch.to_pylist():
            frame, time = values.pop("frame", None), values.pop("time", None)
            seconds = None if time is None else time.total_seconds()
            columns = {name: value for name, value in values.items() if value is not None}
            rows.setdefault(chunk.entity_path.removeprefix("/"), []).append(Row(frame, seconds, columns))
    return {entity: sorted(found, key=lambda row: row.frame or 0) for entity, found in rows.items()}
