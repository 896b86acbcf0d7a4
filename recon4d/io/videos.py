"""Reads and writes videos; the only door to PyAV.

Reading takes two passes, so that only wanted frames are ever held: `scan_video` learns the times of all frames,
`read_frames` decodes the video again and converts the chosen ones.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.io.frame_selection import TIME_TOLERANCE

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

    FrameDecoder = Callable[[InputContainer, VideoStream], Iterator[av.VideoFrame]]

MISSING_SECONDS = 0.5
"""A file whose packets end by more than this before the duration it declares has lost its end."""
BT709 = LIMITED_RANGE = 1
"""The numbers that stand, in a video's tags, for the colors of BT.709 and for luma from 16 to 235."""
_CORRUPT = "its data are damaged"


@dataclass(frozen=True)
class ScannedVideo:
    """A video and what decoding it once has taught: the time of each frame in seconds from the first.

    `intact` is false where a part of the file cannot be decoded; `times` then end there.
    """

    path: Path
    times: tuple[float, ...]
    intact: bool


class _DamageError(Exception):
    """Raised at the first part of a video that cannot be decoded, with the reason."""


def scan_video(path: str | Path, stop: float | None = None) -> ScannedVideo:
    """The times of a video's frames, in the order shown, up to the first one after `stop` seconds.

    Times are presentation timestamps; a frame whose stamp is missing or does not advance follows one frame duration
    after the one before. Of a video that breaks off, the frames up to there count, with a warning; damage that the
    decoder patches up without a word goes unseen. Raises `FileNotFoundError` or, without decodable video, `ValueError`.
    """
    path = Path(path)
    times, first_damage = _scan(path, stop, _all_frames)
    times, damage = _scan(path, stop, _frames_until_damage) if first_damage else (times, "")
    if not times:
        raise ValueError(f"{path} has no frame that can be decoded: {first_damage or 'its video stream is empty'}")
    if damage:
        warnings.warn(
            f"{path} breaks off after frame {len(times) - 1} ({times[-1]:.2f} s): {damage}; "
            "the frames up to there are used",
            stacklevel=4,  # the caller of read_clip
        )
    return ScannedVideo(path, tuple(times), intact=not first_damage)


def read_frames(video: ScannedVideo, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """The frames `numbers` (ascending, from 0) of a scanned video as RGB, one after the other.

    Frames are turned and mirrored as the video's display matrix says. Pixels are taken as they are stored: where they
    are not square, the picture stays squeezed. Raises `ValueError` where the file has changed since it was scanned.
    """
    decode = _all_frames if video.intact else _frames_until_damage
    missing = set(numbers)
    try:
        with _opened(video.path) as (container, stream):
            for position, frame in enumerate(decode(container, stream)):
                if position in missing:
                    yield _upright_image(frame)
                    missing.remove(position)
                if not missing:
                    return  # not one frame further than needed: the next may be the damaged one
    except _DamageError as damage:
        raise ValueError(f"{video.path} has changed while it was read: {damage}") from damage
    raise ValueError(f"{video.path} has changed while it was read: frame {min(missing)} is gone")


def write_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]],
    frames_per_second: float,
) -> None:
    """Writes RGB frames of one size as an H.264 mp4 file that browsers play (MPEG-4 part 2 where x264 is missing).

    The codec wants even sizes: an odd one is padded by repeating the last row or column. A file appears only once all
    frames are written. Raises `ValueError` for no frames, frames of several sizes and a name that does not end in
    .mp4, `OSError` where the file cannot be written.
    """
    import av
    from av.error import FFmpegError

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} does not end in .mp4, and that is what is written")
    if not (math.isfinite(frames_per_second) and frames_per_second >= 0.001):
        raise ValueError(f"frames_per_second = {frames_per_second:g}; wanted at least 0.001")
    rate = Fraction(frames_per_second).limit_denominator(1001)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # The index goes to the front (faststart), so that a browser can play before it has all of the file.
        with av.open(str(partial.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
            _encode(container, _checked(frames), rate)
        partial.replace(path)
    except FFmpegError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """The container at `path` and its video stream, both closed afterwards; FFmpeg's errors become `_DamageError`."""
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        # Absolute, because FFmpeg takes what stands before a colon for a protocol.
        container = av.open(str(path.absolute()))
    except PermissionError:
        raise
    except FFmpegError as error:
        raise ValueError(f"{path} is not a video: {error.strerror}") from error
    with container:
        # The cover picture of a song is a video stream to FFmpeg; a stream without decoder has no context.
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        streams = [stream for stream in moving if stream.codec_context is not None]
        if not streams:
            raise ValueError(f"{path} has no video stream{' that PyAV can decode' if moving else ''}")
        # Not threads over frames: they report damage late, when frames after it are already under way, and one that
        # has something to say while the decoder is closed waits for Python's lock, and the closing for it, for ever.
        streams[0].thread_type = "SLICE"
        try:
            yield container, streams[0]
        except FFmpegError as error:
            raise _DamageError(str(error.strerror)) from error


def _all_frames(container: "InputContainer", stream: "VideoStream") -> "Iterator[av.VideoFrame]":
    """Every frame of an intact video; raises at the first sign of damage."""
    for packet in container.demux(stream):
        frames = stream.decode(packet)
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            raise _DamageError(_CORRUPT)
        yield from frames
    missing, _ = _missing_end(container, stream)
    if missing:
        raise _DamageError(missing)


def _frames_until_damage(container: "InputContainer", stream: "VideoStream") -> "Iterator[av.VideoFrame]":
    """The good frames of a damaged video up to the damage, where it raises.

    Damage before the first good frame is passed over: recordings often begin amid frames that refer to earlier ones.
    """
    missing, last_packet = _missing_end(container, stream)
    # Once damage is known, believe no frame that the decoder would patch up.
    stream.codec_context.options = {"err_detect": "explode"}
    any_good = False
    for packet in container.demux(stream):
        is_cut = missing and packet.dts == last_packet
        frames, damage = ([], missing) if is_cut else _decode(stream, packet)
        if damage and not any_good:
            # The first frame may still wait in the decoder; what waits behind it has gaps, and may be the damaged one.
            frames = [frame for frame in _decode(stream, None)[0][:1] if frame.pts != packet.pts]
        for frame in frames:
            if frame.is_corrupt:
                damage = _CORRUPT
                break
            any_good = True
            yield frame
        if damage and any_good:
            raise _DamageError(damage)
        if damage:
            stream.codec_context.flush_buffers()


def _decode(stream: "VideoStream", packet: "av.Packet | None") -> "tuple[list[av.VideoFrame], str]":
    """The frames that come out for a packet (None: for the end of the video), and what is wrong with it or ""."""
    from av.error import FFmpegError

    if packet is not None and packet.is_corrupt:
        return [], _CORRUPT
    try:
        return stream.decode(packet), ""
    except FFmpegError as error:
        return [], str(error.strerror)


def _missing_end(container: "InputContainer", stream: "VideoStream") -> tuple[str, int | None]:
    """How far a file falls short of the duration it declares ("" if it does not); its last packet's decoding time."""
    import av

    last_packet, ends = None, []
    with av.open(container.name) as again:
        for packet in again.demux():
            if packet.pts is not None:
                ends.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and packet.dts is not None:
                last_packet = packet.dts
    if container.duration is None or not ends:
        return "", last_packet
    # Formats differ in whether a late start counts; from zero on, no whole file looks short.
    found, declared = max(ends), container.duration / av.time_base
    missing = f"it declares {declared:.2f} s but has {found:.2f} s" if declared - found > MISSING_SECONDS else ""
    return missing, last_packet


def _scan(path: Path, stop: float | None, decode: "FrameDecoder") -> tuple[list[float], str]:
    """The times of the frames from `decode` until one is after `stop`, and what is wrong after them or ""."""
    times: list[float] = []
    try:
        with _opened(path) as (container, stream):
            for time in _advancing(decode(container, stream), stream):
                times.append(time)
                if stop is not None and time > stop + TIME_TOLERANCE:
                    break
    except _DamageError as damage:
        return times, str(damage)
    return times, ""


def _advancing(frames: "Iterable[av.VideoFrame]", stream: "VideoStream") -> Iterator[float]:
    """The time of each frame in seconds from the first, mended where the timestamps do not advance."""
    step = 1 / float(stream.guessed_rate or stream.average_rate or 25)
    first = last = None
    for frame in frames:
        # Not frame.time: a frame that waited in the decoder to the end has lost its time base.
        stamp = None if frame.pts is None or stream.time_base is None else float(frame.pts * stream.time_base)
        if first is None or last is None:
            first = last = stamp or 0.0
        else:
            last = stamp if stamp is not None and stamp > last else last + step
        yield last - first


def _upright_image(frame: "av.VideoFrame") -> UInt8[Tensor, "3 height width"]:
    pixels = frame.to_ndarray(format="rgb24")
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is not None:
        # x_shown = a x + c y and y_shown = b x + d y; cameras write quarter turns and mirrors only.
        (a, b, _), (c, d, _), _ = np.frombuffer(display, np.int32).reshape(3, 3)
        if abs(b) > abs(a):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _checked(frames: Iterable[np.ndarray | Tensor]) -> Iterator[np.ndarray]:
    """Each frame as an array of even size; raises where one is no RGB picture of the first one's size."""
    first_shape = None
    for number, frame in enumerate(frames):
        pixels = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else frame
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"frame {number} is {pixels.dtype} {pixels.shape}; wanted uint8 (height, width, 3)")
        first_shape = first_shape or pixels.shape
        if pixels.shape != first_shape:
            raise ValueError(
                f"frame {number} has shape {pixels.shape} but the first has {first_shape}; wanted one size"
            )
        yield np.pad(pixels, [(0, size % 2) for size in pixels.shape[:2]] + [(0, 0)], mode="edge")


def _encode(container: "OutputContainer", frames: Iterator[np.ndarray], rate: Fraction) -> None:
    import av

    has_x264 = "libx264" in av.codecs_available
    stream = None
    for pixels in frames:
        if stream is None:
            codec, options = ("libx264", {"crf": "18"}) if has_x264 else ("mpeg4", {"qmin": "2", "qmax": "4"})
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
            # Players guess the colors of an untagged video by its size, each in its own way.
            stream.colorspace = stream.color_primaries = stream.color_trc = BT709
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        shown = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range=LIMITED_RANGE)
        container.mux(stream.encode(shown))
    if stream is None:
        raise ValueError("there are no frames to write; wanted at least one")
    container.mux(stream.encode(None))
