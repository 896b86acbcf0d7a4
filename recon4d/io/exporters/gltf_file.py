"""Binary glTF 2.0 files: a JSON description and one buffer of arrays."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

FLOAT, UNSIGNED_SHORT = 5126, 5123
"""Component types of accessors (glTF 2.0, section 3.6.2.2)."""
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
"""Types of the chunks of a file (section 4.4.3)."""


class GltfFile:
    """A glTF file under construction.

    `content` is the JSON description, to which callers append nodes, meshes, cameras and animations.
    """

    def __init__(self) -> None:
        self.content: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "recon4d"},
            "accessors": [],
            "bufferViews": [],
        }
        self._parts: list[bytes] = []
        self._length = 0

    def append(self, kind: str, item: dict[str, Any]) -> int:
        """Append an item to a list of the description.

        Args:
            kind: Name of the list, such as "nodes".
            item: The item.

        Returns:
            Index of the item in the list.
        """
        items = self.content.setdefault(kind, [])
        items.append(item)
        return len(items) - 1

    def add_array(self, values: np.ndarray) -> int:
        """Add an array to the buffer, with its smallest and largest values.

        Args:
            values: Scalars (n,) or vectors (n, 3) or (n, 4): floating-point, or uint16 for numbers from 0 to 1.

        Returns:
            Index of the accessor.
        """
        is_normalized = values.dtype == np.uint16
        values = np.ascontiguousarray(values, None if is_normalized else np.float32)
        rows = values.reshape(len(values), -1)
        data = values.tobytes()
        view = self.append("bufferViews", {"buffer": 0, "byteOffset": self._length, "byteLength": len(data)})
        padded = data + bytes(-len(data) % 4)
        self._parts.append(padded)
        self._length += len(padded)
        accessor = {
            "bufferView": view,
            "componentType": UNSIGNED_SHORT if is_normalized else FLOAT,
            "count": len(values),
            "type": _TYPES[rows.shape[1]],
            "min": rows.min(axis=0).tolist(),
            "max": rows.max(axis=0).tolist(),
        }
        return self.append("accessors", {**accessor, "normalized": True} if is_normalized else accessor)

    def write(self, path: Path) -> None:
        """Write the file.

        Args:
            path: The file to write or replace.
        """
        self.content["buffers"] = [{"byteLength": self._length}]
        text = json.dumps(self.content, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        with path.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + self._length))
            file.write(struct.pack("<II", len(text), _JSON_CHUNK) + text)
            file.write(struct.pack("<II", self._length, _BINARY_CHUNK))
            file.writelines(self._parts)
