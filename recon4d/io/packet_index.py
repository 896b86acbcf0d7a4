"""Frames of an intact video without decoding all of it: their time stamps from packets, and decoding from key frames.

A packet carries the presentation time stamp of its frame. If the stamps are complete and unique, sorting them gives the
times of all frames without decoding. A wanted frame is decoded from the last key frame at or before its time: the
frames in between are all that it can refer to. Decoded frames are compared with the index; any difference is an error.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.io.frame_selection import TIME_TOLERANCE
from recon4d.io.video_streams import DamageError, missing_end, opened_video

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

SEEK_PACKETS = 8
"""Smallest number of packets for which seeking over them replaces decoding them. Hand-tuned."""
HIDING_CODECS = ("vp8",)
"""Codecs with packets whose frame is not shown, so that packets and frames differ in number."""


@dataclass(frozen=True)
class IndexedPacket:
    """Time stamps of a packet that holds one frame."""

    pts: int
    """Presentation time stamp in units of the stream's time base."""
    dts: int | None
    """Decoding time stamp in units of the stream's time base. None if unknown."""
    is_key: bool
    """Whether decoding can start at this packet."""
    is_shown: bool
    """Whether the frame is part of the video; an edit list may exclude it."""


@dataclass(frozen=True)
class PacketIndex:
    """Packets of a video up to the first frame after the wanted range.

    Raises:
        DamageError: If the packets do not determine the frames: time stamps repeat, the first packet is no key frame,
            or the size is missing.
    """

    packets: tuple[IndexedPacket, ...]
    """Packets in decoding order."""
    time_base: Fraction
    """Unit of the time stamps in seconds."""
    frame_pixels: int
    """Number of pixels of a frame."""

    def __post_init__(self) -> None:
        stamps = [packet.pts for packet in self.packets]
        keys = [packet.pts for packet in self.packets if packet.is_key]
        if not self.stamps:
            raise DamageError("its video stream is empty")
        if self.frame_pixels < 1:
            raise DamageError("it does not tell the size of its frames")
        if len(set(stamps)) < len(stamps) or keys != sorted(keys):
            raise DamageError("its time stamps repeat or run backward")
        if not self.packets[0].is_key or min(stamps) < stamps[0]:
            raise DamageError("it does not begin with a key frame")

    @cached_property
    def stamps(self) -> tuple[int, ...]:
        """Presentation time stamps of the shown frames, ascending."""
        return tuple(sorted(packet.pts for packet in self.packets if packet.is_shown))

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Time of each frame in seconds from the first."""
        first = float(self.stamps[0] * self.time_base)
        return tuple(float(stamp * self.time_base) - first for stamp in self.stamps)

    @cached_property
    def key_positions(self) -> tuple[int, ...]:
        """Positions of the key frames in `packets`, ascending."""
        return tuple(position for position, packet in enumerate(self.packets) if packet.is_key)

    @cached_property
    def _key_stamps(self) -> tuple[int, ...]:
        return tuple(self.packets[position].pts for position in self.key_positions)

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {packet.pts: position for position, packet in enumerate(self.packets)}

    def position(self, number: int) -> int:
        """Find the packet of a frame.

        Args:
            number: Frame number, from 0 in the order of presentation.

        Returns:
            Position of its packet in `packets`.
        """
        return self._positions[self.stamps[number]]

    def key_position(self, number: int) -> int:
        """Find where to start decoding for a frame.

        Args:
            number: Frame number, from 0 in the order of presentation.

        Returns:
            Position in `packets` of the last key frame that is not shown after the frame. In an open GOP, a frame can
            also refer to frames before the key frame that precedes it in decoding order; that one is shown after it.
        """
        return self.key_positions[bisect_right(self._key_stamps, self.stamps[number]) - 1]

    def decoding_cost(self, numbers: Sequence[int]) -> int:
        """Count the packets that `decode_indexed` decodes.

        Args:
            numbers: Frame numbers in ascending order.

        Returns:
            Number of packets, except for those that only flush the decoder.
        """
        cost, fed = 0, -1
        for number in numbers:
            key, position = self.key_position(number), self.position(number)
            fed = key - 1 if key - fed > SEEK_PACKETS else fed
            cost, fed = cost + max(position - fed, 0), max(position, fed)
        return cost


def index_packets(path: Path, stop: float | None = None) -> PacketIndex:
    """Read the time stamps of a video by demuxing it.

    Args:
        path: The file.
        stop: Seconds from the first frame. The index ends at the first frame after it. None reads the whole file.

    Returns:
        The index.

    Raises:
        UserError: If the file is missing, cannot be read or is not a video.
        DamageError: If the file shows damage or its packets do not determine its frames.
    """
    packets: list[IndexedPacket] = []
    first, end, is_complete = None, 0.0, True
    with opened_video(path) as (container, stream):
        if stream.time_base is None or stream.codec_context.name in HIDING_CODECS:
            raise DamageError("its packets do not determine its frames")
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            # The empty packet at the end of each stream flushes its decoder.
            if packet.stream_index != stream.index or (packet.size == 0 and packet.dts is None):
                continue
            packets.append(_indexed(packet))
            if packets[-1].is_shown:
                first = packets[-1].pts if first is None else min(first, packets[-1].pts)
            # No frame is shown before it is decoded: the frames that follow are after `stop`.
            decoded_at = packets[-1].dts
            if stop is not None and first is not None and decoded_at is not None:
                is_complete = (decoded_at - first) * float(stream.time_base) <= stop + TIME_TOLERANCE
                if not is_complete:
                    break
        missing = missing_end(end, container) if is_complete else ""
        if missing:
            raise DamageError(missing)
        frame_pixels = stream.codec_context.width * stream.codec_context.height
        return PacketIndex(tuple(packets), Fraction(stream.time_base), frame_pixels)


def _indexed(packet: "av.Packet") -> IndexedPacket:
    if packet.is_corrupt or packet.pts is None or packet.size == 0:
        raise DamageError("a packet is damaged or has no time stamp")
    return IndexedPacket(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard)


def decode_indexed(path: Path, index: PacketIndex, numbers: Sequence[int]) -> "Iterator[av.VideoFrame]":
    """Decode some frames of a video from the key frames before them.

    Args:
        path: The file.
        index: Its index.
        numbers: Frame numbers in ascending order, without repetition.

    Yields:
        The decoded frame of each number.

    Raises:
        DamageError: If a decoded frame differs from the index, is damaged, or if packets are missing.
    """
    with opened_video(path) as (container, stream):
        decoder = _IndexedDecoder(container, stream, index)
        for number in numbers:
            yield decoder.frame(number)


class _IndexedDecoder:
    """Decode frames of ascending numbers, with seeks between them."""

    def __init__(self, container: "InputContainer", stream: "VideoStream", index: PacketIndex) -> None:
        self._container, self._stream, self._index = container, stream, index
        self._fed = -1
        """Position of the last packet given to the decoder."""
        self._frames: Iterator[tuple[int, av.VideoFrame]] = self._decode_from(0, is_at_start=True)

    def frame(self, number: int) -> "av.VideoFrame":
        """Decode one frame, whose number is above those before."""
        key = self._index.key_position(number)
        if key - self._fed > SEEK_PACKETS:
            self._frames = self._decode_from(key, is_at_start=False)
        for found, frame in self._frames:
            if found == number:
                return frame
        raise DamageError(f"frame {number} is gone")

    def _decode_from(self, key: int, is_at_start: bool) -> "Iterator[tuple[int, av.VideoFrame]]":
        """Decode the shown frames from a key frame on with their numbers; check that none is missing or changed."""
        first = self._index.packets[key].pts
        expected = bisect_left(self._index.stamps, first)
        for packet in self._packets_from(key, is_at_start):
            for frame in self._stream.decode(packet):
                if frame.pts is not None and frame.pts < first:
                    continue  # it is shown before the key frame and refers to frames that were not decoded
                if expected == len(self._index.stamps):
                    return
                if frame.is_corrupt or frame.pts != self._index.stamps[expected]:
                    raise DamageError(f"frame {expected} is damaged or not where its packet says")
                yield expected, frame
                expected += 1

    def _packets_from(self, key: int, is_at_start: bool) -> "Iterator[av.Packet]":
        """Yield the packets from a key frame on, and count them in `_fed`."""
        for position, packet in enumerate(self._found(key, is_at_start), start=key):
            if packet.is_corrupt:
                raise DamageError("its data are damaged")
            self._fed = position
            yield packet

    def _found(self, key: int, is_at_start: bool) -> "Iterator[av.Packet]":
        """Demux from a key frame on. Packets before it, where the seek may have ended, are not decoded."""
        wanted = self._index.packets[key]
        # Formats differ in the time stamp by which they search. The start of the file is the last resort.
        targets = [wanted.pts, wanted.dts, self._index.packets[0].dts, self._index.packets[0].pts]
        for target in [None] if is_at_start else [target for target in targets if target is not None]:
            if target is not None:
                self._container.seek(target, stream=self._stream)
            packets = self._container.demux(self._stream)
            for packet in packets:
                if packet.pts == wanted.pts and packet.is_keyframe:
                    yield packet
                    yield from packets
                    return
                if packet.pts is None or (packet.is_keyframe and packet.pts > wanted.pts):
                    break  # the seek went too far, or this is the end
        raise DamageError("a key frame is gone")
