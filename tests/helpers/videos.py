"""Small videos whose frames carry their own number, for tests of reading and writing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

SIZE = (48, 64)


def numbered(number: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """Create a gray picture that encodes its number by levels six apart, more than compression changes them."""
    return np.full((height, width, 3), 20 + 6 * number, np.uint8)


def numbers_seen(images: torch.Tensor) -> list[int]:
    return ((images.float().mean((1, 2, 3)) - 20) / 6).round().int().tolist()


def encode(path: Path, pictures, milliseconds=None, codec="libx264", pixel_format="yuv420p", options=None) -> Path:
    """Encode pictures as a video with time stamps in milliseconds (by default ten frames per second)."""
    first = pictures[0]
    milliseconds = milliseconds or [100 * i for i in range(len(pictures))]
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, shown_at in zip(pictures, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = shown_at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def textured(count: int) -> list[np.ndarray]:
    """Create pictures with enough content that every encoded frame has some hundred bytes that can be damaged."""
    scenery = np.random.default_rng(0).integers(0, 255, (64, 96 + count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(scenery[:, i : i + 96]) for i in range(count)]


def bare_stream(path: Path) -> bytes:
    """Return the contents of the packets of a video, without the container."""
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(video=0))
