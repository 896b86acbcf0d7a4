"""Cost of reading a few frames of a large video: ``python -m benchmarks.reading``.

A 4K video is made with a moving camera. The same frames are read by `read_clip`, by a hand-written loop that seeks and
decodes, and by decoding the whole file twice, as is done for videos without a reliable index. The cost of the scan for
the choice by motion and for cuts is printed as well.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import tyro

from recon4d.io import read_clip
from recon4d.io.motion import MotionScan, max_scan_packets
from recon4d.io.videos import ScannedVideo, read_frames, scan_video, use_video


@dataclass(frozen=True)
class Arguments:
    """Compare the ways of reading the same frames."""

    seconds: float = 20
    """Length of the video."""
    rate: int = 60
    """Frames per second."""
    height: int = 2160
    """Height in pixels; the width is 16/9 of it."""
    key_interval: int = 60
    """Frames from one key frame to the next. Phones write one or two per second."""
    frames: int = 8
    """Number of frames to read."""
    repetitions: int = 3
    """Number of runs, of which the medians are printed."""
    path: str = ""
    """A video to read instead of the one that is made."""


def main(arguments: Arguments) -> None:
    """Print the seconds of each way and their ratios to the hand-written loop."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments.path) if arguments.path else _make_video(Path(folder) / "large.mp4", arguments)
        source = read_clip(path, arguments.frames, keep_cuts=True).source
        assert source is not None
        count, numbers = arguments.frames, source.numbers
        stamps = use_video(path, None, lambda video: [video.index.stamps[i] for i in numbers] if video.index else [])
        ways: dict[str, Callable[[], object]] = {
            "seek and decode by hand": lambda: _read_by_hand(path, stamps),
            "read_clip": lambda: read_clip(path, count),
            "read_clip, keep_cuts": lambda: read_clip(path, count, keep_cuts=True),
            'read_clip, "auto"': lambda: read_clip(path, "auto"),
            "scan by motion": lambda: use_video(path, None, lambda video: _scan(video, None)),
            "scan for cuts": lambda: use_video(path, None, lambda video: _scan(video, numbers)),
        }
        seconds = {name: [] for name in ways}
        for _ in range(arguments.repetitions):
            for name, way in ways.items():
                seconds[name].append(_seconds(way))
        seconds["full decode, twice"] = [_seconds(lambda: list(read_frames(scan_video(path), numbers)))]
        size = path.stat().st_size / 1e6

    print(f"{count} frames of a video of {size:.0f} MB; medians of {arguments.repetitions} runs")
    print(f"{'':26}{'seconds':>10}{'ratio':>10}")
    by_hand = statistics.median(seconds["seek and decode by hand"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:26}{median:>10.2f}{median / by_hand:>10.2f}")


def _make_video(path: Path, arguments: Arguments) -> Path:
    """Encode a pan over a picture with noise and structure at all scales."""
    height, width = arguments.height, arguments.height * 16 // 9 // 2 * 2
    count = round(arguments.seconds * arguments.rate)
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(3, height, width + 2 * count)
    for level in range(2, 9):
        rows, columns = max(2, height >> level), max(2, picture.shape[2] >> level)
        coarse = torch.rand(1, 3, rows, columns, generator=generator)
        picture += torch.nn.functional.interpolate(coarse, picture.shape[1:], mode="bilinear")[0]
    pixels = (picture / 7 * 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    options = {"preset": "ultrafast", "g": str(arguments.key_interval), "bf": "2", "crf": "28"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(arguments.rate), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(count):
            shown = np.ascontiguousarray(pixels[:, 2 * number : 2 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _read_by_hand(path: Path, stamps: list[int]) -> torch.Tensor:
    images = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for stamp in stamps:
            container.seek(stamp, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts == stamp)
            images.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
    return torch.stack(images)


def _scan(video: ScannedVideo, numbers: tuple[int, ...] | None) -> None:
    scan = MotionScan(video, range(len(video.times)), max_scan_packets(video.index, numbers))
    scan.find_cuts()
    if numbers is None:
        scan.choose_frames(range(len(video.times)))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Arguments))
