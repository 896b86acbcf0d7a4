"""Mutations of files, by bytes, by lines and numbers of text, and by the arrays of npz and npy files; all seeded."""

import io
import json
import re
import zipfile
from random import Random

import numpy as np

TOKENS = (
    *(
        "nan",
        "inf",
        "-inf",
        "NaN",
        "1e38",
        "1e39",
        "1e308",
        "1e999",
        "-1",
        "0",
        "-0.0",
        "0.5",
        "1.5",
        "1e-300",
        "-1e30",
    ),
    *("9" * 400, "99999999999", "2147483648", "", "null", "true", '"text"', "[]", "{}", "[" * 3000, "\u00e9", "\x00"),
    *("#", ",", "\t", "0x10", "1_000", "1,5", "../../etc/passwd", "None"),
)
"""Words that replace numbers of text files."""
_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")
TEXT_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tum", ".cam_text"})
"""Suffixes of files that are mutated as text half of the time."""


def mutate(data: bytes, suffix: str, random: Random) -> bytes:
    """Mutate the contents of a file.

    Args:
        data: Contents.
        suffix: Lower-case suffix of the file, which selects the mutations that suit its format.
        random: Source of randomness.

    Returns:
        Other contents, in rare cases the same.
    """
    if suffix == ".npz" and random.random() < 0.8:
        return _mutate_npz(data, random)
    if suffix == ".npy" and random.random() < 0.5 and b"'|O'" not in data[:128]:  # pickles are mutated as bytes
        return _save_npy(_mutate_array(np.load(io.BytesIO(data), allow_pickle=False), random))
    if suffix == ".safetensors" and random.random() < 0.7:
        return _mutate_safetensors(data, random)
    if suffix in TEXT_SUFFIXES and random.random() < 0.8:
        return _mutate_text(data, random)
    return _mutate_bytes(data, random)


def _mutate_bytes(data: bytes, random: Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        place = random.randrange(len(mutated) + 1)
        # Headers are at the beginning or, of zip files, at the end.
        if random.random() < 0.4:
            place = min(len(mutated), random.randrange(64))
        elif random.random() < 0.2:
            place = max(0, len(mutated) - random.randrange(64))
        end = min(len(mutated), place + random.choice((1, 2, 4, 30, 300)))
        kind = random.randrange(7)
        if kind == 0 and place < len(mutated):
            mutated[place] ^= 1 << random.randrange(8)
        elif kind == 1 and place < len(mutated):
            mutated[place] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            del mutated[place:end]
        elif kind == 3:
            mutated[place:place] = mutated[place:end]
        elif kind == 4:
            mutated[place:end] = bytes(random.randrange(256) for _ in range(end - place))
        elif kind == 5:
            mutated[place:end] = random.choice((b"\0", b"\xff")) * (end - place)
        else:
            mutated = mutated[:place] if random.random() < 0.5 else mutated
    return bytes(mutated)


def _mutate_text(data: bytes, random: Random) -> bytes:
    kind = random.randrange(8)
    lines = data.split(b"\n")
    if kind <= 3 and (numbers := list(_NUMBER.finditer(data))):
        chosen = random.sample(numbers, min(len(numbers), random.choice((1, 1, 2, 6))))
        for found in sorted(chosen, key=lambda match: -match.start()):
            data = data[: found.start()] + random.choice(TOKENS).encode() + data[found.end() :]
        return data
    if kind == 4:
        del lines[random.randrange(len(lines))]
    elif kind == 5:
        lines.insert(random.randrange(len(lines)), random.choice(lines))
    elif kind == 6:
        return random.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"")) + data.replace(b"\n", b"\r\n")
    else:
        words = data.split(b'"')
        if len(words) > 2:
            del words[random.randrange(1, len(words) - 1)]
        return b'"'.join(words)
    return b"\n".join(lines)


def _mutate_npz(data: bytes, random: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    kind = random.randrange(8)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = _mutate_bytes(members[name], random)
    elif kind == 2:
        members[name] = random.choice((b"", b"text", b"\x93NUMPY", members[random.choice(list(members))]))
    elif kind == 3:
        members[random.choice(("extra.npy", "extra.txt", name.removesuffix(".npy")))] = members[name]
    else:
        try:
            array = np.load(io.BytesIO(members[name]), allow_pickle=False)
        except ValueError:
            members[name] = _mutate_bytes(members[name], random)
        else:
            members[name] = _save_npy(_mutate_array(array, random))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return written.getvalue()


def _mutate_array(array: np.ndarray, random: Random) -> np.ndarray:
    if array.dtype.kind == "U":  # the JSON description of a scene
        text = _mutate_text(str(array).encode(), random) if random.random() < 0.8 else _drop_key(str(array), random)
        return np.array(text.decode("utf-8", "replace").replace("\0", "?"))
    kind = random.randrange(7)
    if kind == 0:
        return array.astype(random.choice((np.float16, np.float64, np.int32, np.uint8, np.bool_, np.complex64)))
    if kind == 1:
        return array.reshape(-1) if array.ndim else array[None]
    if kind == 2 and array.ndim:
        return array[: random.randrange(len(array) + 1)]
    if kind == 3:
        return np.array(random.choice(("text", 1.5, 7)))
    mutated = array.copy().reshape(-1)
    special = (0, -1, 1, 3, 1e4) if array.dtype.kind in "iub" else (np.nan, np.inf, -np.inf, 0, -1, 1e30, 3e38, 1e-30)
    if mutated.size:
        value = random.choice(special)
        if kind == 4:
            mutated[:] = value
        for _ in range(random.choice((1, 3, 10))):
            with np.errstate(over="ignore", invalid="ignore"):
                mutated[random.randrange(mutated.size)] = np.array(value).astype(array.dtype)
    return mutated.reshape(array.shape)


def _drop_key(text: str, random: Random) -> bytes:
    try:
        values = json.loads(text)
        del values[random.choice(list(values))]
    except (ValueError, TypeError, KeyError, IndexError):
        return text.encode()
    return json.dumps(values).encode()


def _mutate_safetensors(data: bytes, random: Random) -> bytes:
    """Mutate the JSON header and correct its length, or the values of the tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, values = data[8:start], data[start:]
    if random.random() < 0.3:
        place = random.randrange(len(values) // 4) * 4
        special = np.array(random.choice((np.nan, np.inf, -np.inf, 1e38)), np.float32).tobytes()
        return data[:start] + values[:place] + special + values[place + 4 :]
    if random.random() < 0.5:
        parsed = json.loads(header)
        metadata = parsed["__metadata__"]
        name = random.choice(list(metadata))
        if random.random() < 0.3:
            del metadata[name]
        else:
            metadata[name] = _mutate_text(metadata[name].encode(), random).decode("utf-8", "replace")
        header = json.dumps(parsed).encode()
    else:
        header = _mutate_text(header, random)
    return len(header).to_bytes(8, "little") + header + values


def _save_npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()
