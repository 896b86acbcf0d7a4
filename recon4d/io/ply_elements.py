"""PLY files of several elements (Turk 1994), each a table of numbers: structured arrays to files and back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recon4d.errors import UserError, os_errors_as_user_errors

_TYPES = {"float": "<f4", "double": "<f8", "int": "<i4", "uchar": "<u1"}
_NAMES = {np.dtype(value): name for name, value in _TYPES.items()}
_FORMAT = "format binary_little_endian 1.0"


def write_ply_elements(path: str | Path, elements: Mapping[str, np.ndarray]) -> None:
    """Write a binary PLY file.

    Args:
        path: The file to write or replace.
        elements: Structured array of each element, whose fields are float32, float64, int32 or uint8.

    Raises:
        UserError: If the file cannot be written.
    """
    lines = ["ply", _FORMAT]
    for name, rows in elements.items():
        lines.append(f"element {name} {len(rows)}")
        lines += [f"property {_NAMES[rows.dtype[column]]} {column}" for column in rows.dtype.names or ()]
    header = "\n".join([*lines, "end_header"]) + "\n"
    with os_errors_as_user_errors(f"cannot write {path}"), Path(path).open("wb") as file:
        file.write(header.encode("ascii"))
        for rows in elements.values():
            file.write(rows.tobytes())


def read_ply_elements(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file that `write_ply_elements` wrote, or any little-endian PLY file without lists.

    Args:
        path: The file.

    Returns:
        Structured array of each element.

    Raises:
        UserError: If the file cannot be read or has another form.
    """
    with os_errors_as_user_errors(f"cannot read {path}"):
        data = Path(path).read_bytes()
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode("ascii", errors="replace").split("\n")
    if lines[0] != "ply" or _FORMAT not in lines:
        raise UserError(f"{path} is not a binary little-endian PLY file")
    tables: dict[str, tuple[int, list[tuple[str, str]]]] = {}
    try:
        for line in lines:
            match line.split():
                case ["element", name, count]:
                    tables[name] = (int(count), [])
                case ["property", kind, column]:
                    tables[next(reversed(tables))][1].append((column, _TYPES[kind]))
                case ["property", *_]:
                    raise ValueError(line)
        elements, start = {}, 0
        for name, (count, columns) in tables.items():
            elements[name] = np.frombuffer(body, np.dtype(columns), count, start)
            start += elements[name].nbytes
    except (ValueError, KeyError, StopIteration) as error:
        raise UserError(f"{path} is damaged or has lists or types that are not read ({error})") from error
    return elements
