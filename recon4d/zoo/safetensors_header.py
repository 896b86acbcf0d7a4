"""Deterministic headers of safetensors files.

The safetensors library writes the metadata of a file in random order, so two files with the same content differ.
"""

import json

LENGTH_BYTES = 8
"""Size of the little-endian length of the header, at the start of a file (safetensors format)."""
ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this many bytes (safetensors format)."""


def with_sorted_metadata(data: bytes) -> tuple[bytes, memoryview]:
    """Sort the metadata of a serialized safetensors file by key.

    Args:
        data: The bytes of a safetensors file.

    Returns:
        Length and header, and the bytes of the tensors without a copy. Both in this order are the new file; it depends
        on the tensors and the metadata only.
    """
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:start])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, memoryview(data)[start:]
