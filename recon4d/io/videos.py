"""Reading and writing of videos with PyAV.

Reading takes two passes, so that only the selected frames are held in memory: the first finds the times of all frames,
and `read_frames` decodes and converts the selected ones. The first pass reads packets without decoding them, and the
second one decodes from the key frames before the selected frames (`packet_index`). Where packets do not determine the
frames, or something is damaged, both passes decode everything instead.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.containers import open_container
from recon4d.io.files import atomic_file
from recon4d.io.frame_selection import TIME_TOLERANCE
from recon4d.io.packet_index import PacketIndex, decode_indexed, index_packets
from recon4d.io.video_streams import DamageError, missing_end, opened_video

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

    FrameDecoder = Callable[[InputContainer, VideoStream], Iterator[av.VideoFrame]]

T = TypeVar("T")

BT709 = LIMITED_RANGE = 1
"""FFmpeg's codes of the color space BT.709 (AVCOL_SPC_BT709) and of luma from 16 to 235 (AVCOL_RANGE_MPEG)."""
MIN_STEP = 1e-6
"""Smallest time between frames in seconds: a stamp that exceeds a computed one by rounding does not advance. The unit
of MPEG's stamps is 11 times as long."""
_CORRUPT = "its data are damaged"


@dataclass(frozen=True)
class ScannedVideo:
    """A video whose frames have been counted."""

    path: Path
    """The file."""
    times: tuple[float, ...]
    """Time of each frame that can be decoded, in seconds from the first."""
    is_intact: bool
    """Whether the whole file can be decoded. If not, `times` end at the damage."""
    index: PacketIndex | None = None
    """Packets from which single frames can be decoded. None if everything before them must be decoded."""


class UnreliableIndexError(UserError):
    """Raised when the frames of a video differ from its packet index: the file is damaged or has changed."""


def use_video(path: str | Path, stop: float | None, use: Callable[[ScannedVideo], T]) -> T:
    """Call a function with a video that decodes only what is needed, and with a fully decoded one if that fails.

    Args:
        path: The file.
        stop: Seconds from the first frame. Frames after the first one behind it are not needed.
        use: Function that reads all the frames that it needs. It is called first with a video that has a packet
            index, and again with the result of `scan_video` if the file has no reliable index. It must have no effect
            before it has read the frames.

    Returns:
        The result of the function.

    Raises:
        UserError: If the file is missing, cannot be read, is not a video or has no frame that can be decoded.
    """
    path = Path(path)
    try:
        index = index_packets(path, stop)
        return use(ScannedVideo(path, index.times, is_intact=True, index=index))
    except (DamageError, UnreliableIndexError):
        pass  # not inside the handler, so that the errors below have no misleading context
    return use(scan_video(path, stop))


def scan_video(path: str | Path, stop: float | None = None) -> ScannedVideo:
    """Find the times of the frames of a video by decoding it.

    Times are presentation timestamps. A frame whose timestamp is missing or does not advance follows one frame
    duration after the previous one. If a part of the file is damaged, the frames before it count, with a warning.
    Damage that the decoder conceals without a message is not found.

    Args:
        path: The file.
        stop: Seconds from the first frame. The scan ends at the first frame after it. None scans the whole file.

    Returns:
        The video with the times of its frames in the order of presentation.

    Raises:
        UserError: If the file is missing, cannot be read, is not a video or has no frame that can be decoded.
    """
    path = Path(path)
    times, first_damage = _scan(path, stop, _all_frames)
    times, damage = _scan(path, stop, _frames_until_damage) if first_damage else (times, "")
    if not times:
        raise UserError(f"{path} has no frame that can be decoded: {first_damage or 'its video stream is empty'}")
    if damage:
        warnings.warn(
            f"{path} breaks off after frame {len(times) - 1} ({times[-1]:.2f} s): {damage}; "
            "the frames up to there are used",
            stacklevel=5,  # the caller of read_clip
        )
    return ScannedVideo(path, tuple(times), is_intact=not first_damage)


def read_frames(video: ScannedVideo, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """Decode some frames of a video.

    Frames are rotated and mirrored as the display matrix of the video says. Pixels that are not square are not
    resampled.

    Args:
        video: A scanned video.
        numbers: Frame numbers in ascending order, from 0.

    Yields:
        RGB image of shape (3, height, width) for each number.

    Raises:
        UserError: If the file is missing or has changed since it was scanned.
        UnreliableIndexError: If the video has a packet index and frames differ from it.
    """
    for frame in _selected_frames(video, numbers):
        yield _upright_image(frame)


def read_thumbnails(
    video: ScannedVideo, numbers: Sequence[int], longer_side: int
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Decode some frames of a video at low resolution, for measurements of its content.

    Args:
        video: A scanned video.
        numbers: Frame numbers in ascending order, from 0.
        longer_side: Longer side of the images in pixels. Smaller frames keep their size.

    Yields:
        RGB image of shape (height, width, 3) for each number, not rotated upright.

    Raises:
        UserError: If the file is missing or has changed since it was scanned.
        UnreliableIndexError: If the video has a packet index and frames differ from it.
    """
    for frame in _selected_frames(video, numbers):
        scale = min(1.0, longer_side / max(frame.width, frame.height))
        width, height = (max(1, round(scale * length)) for length in (frame.width, frame.height))
        small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        yield small.to_ndarray()


def check_frames(video: ScannedVideo, numbers: Sequence[int]) -> None:
    """Decode some frames of a video with a packet index to find damage before they are needed.

    Args:
        video: A scanned video.
        numbers: Frame numbers in ascending order, from 0.

    Raises:
        UnreliableIndexError: If frames differ from the index.
    """
    if video.index is not None:
        for _ in _selected_frames(video, numbers):
            pass


def _selected_frames(video: ScannedVideo, numbers: Sequence[int]) -> "Iterator[av.VideoFrame]":
    if video.index is not None:
        try:
            yield from decode_indexed(video.path, video.index, numbers)
        except DamageError as damage:
            raise UnreliableIndexError(f"{video.path} has changed while it was read: {damage}") from damage
        return
    decode = _all_frames if video.is_intact else _frames_until_damage
    missing = set(numbers)
    try:
        with opened_video(video.path) as (container, stream):
            for position, frame in enumerate(decode(container, stream)):
                if position in missing:
                    yield frame
                    missing.remove(position)
                if not missing:
                    return  # the next frame, which is not needed, may be damaged
    except DamageError as damage:
        raise UserError(f"{video.path} has changed while it was read: {damage}") from damage
    raise UserError(f"{video.path} has changed while it was read: frame {min(missing)} is gone")


def write_video(
    path: str | Path,
    frames: Iterable[UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]],
    frames_per_second: float,
) -> None:
    """Write an H.264 video in an mp4 file that browsers play, or MPEG-4 part 2 if PyAV has no x264.

    The file appears complete or not at all. The codec needs even sizes: an odd one is padded by repeating the last row
    or column.

    Args:
        path: The file to write or replace, ending in ``.mp4``.
        frames: RGB frames of shape (height, width, 3), uint8, at least one and all of one size.
        frames_per_second: Frame rate, at least 0.001.

    Raises:
        ValueError: If there are no frames, a frame has the wrong type or size, or the rate is too low.
        UserError: If the path does not end in ``.mp4`` or the file cannot be written.
    """
    import av
    from av.error import FFmpegError

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path} does not end in .mp4, the only format that is written")
    if not (math.isfinite(frames_per_second) and frames_per_second >= 0.001):
        raise ValueError(f"frames_per_second = {frames_per_second:g}; wanted at least 0.001")
    rate = Fraction(frames_per_second).limit_denominator(1001)
    with atomic_file(path) as partial:
        try:
            # The index goes to the front (faststart), so that a browser can play the file while it is loading.
            with av.open(str(partial.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
                _encode(container, _check_and_pad(frames), rate)
        except FFmpegError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error


def _all_frames(container: "InputContainer", stream: "VideoStream") -> "Iterator[av.VideoFrame]":
    """Decode every frame of an intact video; raise `DamageError` at the first sign of damage."""
    for packet in container.demux(stream):
        frames = stream.decode(packet)
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            raise DamageError(_CORRUPT)
        yield from frames
    missing, _ = _missing_end(container, stream)
    if missing:
        raise DamageError(missing)


def _frames_until_damage(container: "InputContainer", stream: "VideoStream") -> "Iterator[av.VideoFrame]":
    """Decode the undamaged frames of a damaged video, and raise `DamageError` after them.

    Damage before the first undamaged frame is skipped: recordings often begin with frames that refer to earlier ones.
    """
    missing, last_packet = _missing_end(container, stream)
    # The decoder must report damage instead of concealing it.
    stream.codec_context.options = {"err_detect": "explode"}
    any_good = False
    for packet in container.demux(stream):
        is_cut = missing and packet.dts == last_packet
        frames, damage = ([], missing) if is_cut else _decode(stream, packet)
        if damage and not any_good:
            # The first frame may still be in the decoder. Frames behind it may be incomplete or damaged.
            frames = [frame for frame in _decode(stream, None)[0][:1] if frame.pts != packet.pts]
        for frame in frames:
            if frame.is_corrupt:
                damage = _CORRUPT
                break
            any_good = True
            yield frame
        if damage and any_good:
            raise DamageError(damage)
        if damage:
            stream.codec_context.flush_buffers()


def _decode(stream: "VideoStream", packet: "av.Packet | None") -> "tuple[list[av.VideoFrame], str]":
    """Decode a packet (None: the end of the video) to its frames, and "" or the description of its damage."""
    from av.error import FFmpegError

    if packet is not None and packet.is_corrupt:
        return [], _CORRUPT
    try:
        return stream.decode(packet), ""
    except FFmpegError as error:
        return [], str(error.strerror)


def _missing_end(container: "InputContainer", stream: "VideoStream") -> tuple[str, int | None]:
    """Compare the packets with the declared duration.

    Returns:
        A description of the missing end, or "", and the decoding timestamp of the last packet of the stream.
    """
    last_packet, ends = None, []
    with open_container(container.name) as again:
        for packet in again.demux():
            if packet.pts is not None:
                ends.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and packet.dts is not None:
                last_packet = packet.dts
    return missing_end(max(ends), container) if ends else "", last_packet


def _scan(path: Path, stop: float | None, decode: "FrameDecoder") -> tuple[list[float], str]:
    """The times of the frames from `decode` until one is after `stop`, and "" or the damage that follows them."""
    times: list[float] = []
    try:
        with opened_video(path) as (container, stream):
            for time in _frame_times(decode(container, stream), stream):
                times.append(time)
                if stop is not None and time > stop + TIME_TOLERANCE:
                    break
    except DamageError as damage:
        return times, str(damage)
    return times, ""


def _frame_times(frames: "Iterable[av.VideoFrame]", stream: "VideoStream") -> Iterator[float]:
    """The time of each frame in seconds from the first, corrected where the timestamps do not advance."""
    step = 1 / float(stream.guessed_rate or stream.average_rate or 25)
    first = last = None
    for frame in frames:
        # Not frame.time: frames that the decoder returns at the end have no time base.
        stamp = None if frame.pts is None or stream.time_base is None else float(frame.pts * stream.time_base)
        if first is None or last is None:
            first = last = stamp or 0.0
        else:
            last = stamp if stamp is not None and stamp > last + MIN_STEP else last + step
        yield last - first


def _upright_image(frame: "av.VideoFrame") -> UInt8[Tensor, "3 height width"]:
    pixels = frame.to_ndarray(format="rgb24")
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is not None:
        # x_shown = a x + c y and y_shown = b x + d y; cameras write only quarter turns and reflections.
        (a, b, _), (c, d, _), _ = np.frombuffer(display, np.int32).reshape(3, 3)
        if abs(b) > abs(a):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _check_and_pad(frames: Iterable[np.ndarray | Tensor]) -> Iterator[np.ndarray]:
    """Convert each frame to an array of even size; raise ``ValueError`` unless all are RGB images of one size."""
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
            # Players guess the color space of an untagged video from its size, and differ in their guesses.
            stream.colorspace = stream.color_primaries = stream.color_trc = BT709
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        shown = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range=LIMITED_RANGE)
        container.mux(stream.encode(shown))
    if stream is None:
        raise ValueError("there are no frames to write; wanted at least one")
    container.mux(stream.encode(None))
