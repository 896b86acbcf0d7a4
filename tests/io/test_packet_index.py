"""Frames decoded from key frames are those of a full decode, at the same times, and nothing else is decoded."""

import warnings
from pathlib import Path

import av
import pytest
import torch
from videos import bare_stream, encode, numbered, textured

from recon4d.errors import UserError
from recon4d.io import packet_index, read_clip, videos
from recon4d.io.long_clips import open_long_clip
from recon4d.io.packet_index import index_packets
from recon4d.io.video_streams import DamageError
from recon4d.io.videos import read_frames, scan_video, use_video

UNEVEN = [0, 40, 300, 340, *range(1000, 5400, 100)]
X264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
OPEN_GOP = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop=1"}
VIDEOS = {
    "b_frames.mp4": {"options": X264},
    "b_frames.ts": {"options": X264},
    "long_gop.mp4": {"options": {"g": "500"}},
    "open_gop.mkv": {"options": OPEN_GOP},
    "open_gop.ts": {"options": OPEN_GOP},
    "uneven.mkv": {"milliseconds": UNEVEN, "options": X264},
    "late.mp4": {"milliseconds": [5000 + 100 * i for i in range(48)], "options": X264},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:log-level=none"}},
    "part2.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "alt_ref.webm": {"codec": "libvpx-vp9", "options": {"g": "24", "lag-in-frames": "16", "auto-alt-ref": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
    "all_keys.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}
"""Kinds of files: containers, codecs and orders of frames."""


@pytest.fixture(scope="module", params=VIDEOS, ids=str)
def video(request, tmp_path_factory) -> Path:
    options = VIDEOS[request.param]
    codec = options.get("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    return encode(tmp_path_factory.mktemp("index") / request.param, textured(48), **options)


def test_indexed_frames_are_those_of_a_full_decode(video):
    decoded = scan_video(video)
    index = index_packets(video)
    assert index.times == decoded.times
    indexed = videos.ScannedVideo(video, index.times, is_intact=True, index=index)
    whole = list(read_frames(decoded, range(48)))
    for numbers in (range(48), [0, 1, 47], [13], [30, 31, 44], [11, 12, 23, 24, 35, 36], [10, 22], [47]):
        for number, image in zip(numbers, read_frames(indexed, list(numbers)), strict=True):
            assert torch.equal(image, whole[number]), f"frame {number} of {list(numbers)}"


@pytest.fixture
def fed(monkeypatch) -> list[int]:
    """Positions of the packets that are given to the decoder through an index."""
    positions: list[int] = []
    packets_from = packet_index._IndexedDecoder._packets_from

    def recorded(self, *arguments):
        for packet in packets_from(self, *arguments):
            positions.append(self._fed)
            yield packet

    monkeypatch.setattr(packet_index._IndexedDecoder, "_packets_from", recorded)
    return positions


@pytest.fixture
def no_scan(monkeypatch) -> None:
    def refuse(*_arguments):
        raise AssertionError("the video is decoded as a whole")

    monkeypatch.setattr(videos, "scan_video", refuse)


@pytest.mark.usefixtures("no_scan")
@pytest.mark.parametrize("name", ["seek.mp4", "seek.mkv", "seek.ts"])
def test_only_the_packets_from_the_key_frame_on_are_decoded(tmp_path, fed, name):
    path = encode(tmp_path / name, textured(96), options=X264)
    index = index_packets(path)
    assert len(index.key_positions) == 8
    clip = read_clip(path, num_frames=2, start=5.0, stop=9.4, keep_cuts=True)
    assert clip.source.numbers == (50, 94)
    wanted = index.decoding_cost([50, 94])
    assert wanted <= 2 * 12
    # A decoder with B-frames returns a frame a few packets late.
    assert wanted <= len(fed) <= wanted + 2 * 6
    assert min(fed) >= 48
    assert not set(fed) & set(range(64, 84))


@pytest.mark.usefixtures("no_scan")
def test_a_window_of_a_long_clip_is_read_without_the_frames_before_it(tmp_path, fed):
    path = encode(tmp_path / "long.mp4", textured(96), options=X264)
    long_clip = open_long_clip(path)
    assert long_clip.num_frames == 96
    fed.clear()
    images = list(long_clip.images(range(60, 72)))
    assert min(fed) == 60
    assert torch.equal(torch.stack(images), read_clip(path, None).images[60:72])


@pytest.mark.usefixtures("no_scan")
def test_rotation_and_missing_index_need_no_scan(tmp_path):
    path = encode(tmp_path / "cues.mkv", textured(48), options=X264)
    whole = read_clip(path, None)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"\x1c\x53\xbb\x6b")  # the identifier of the index (Cues)
    content[at : at + 4] = b"\xec\x80\xec\x80"  # two empty void elements; what follows is skipped as unknown
    path.write_bytes(content)
    assert torch.equal(read_clip(path, 3, start=2.0).images, whole.images[[20, 33, 47]])


def test_files_whose_packets_do_not_determine_the_frames_are_decoded(tmp_path):
    (tmp_path / "bare.h264").write_bytes(bare_stream(encode(tmp_path / "a.ts", textured(12), options=X264)))
    with pytest.raises(DamageError):
        index_packets(tmp_path / "bare.h264")
    assert use_video(tmp_path / "bare.h264", None, lambda video: video.index) is None
    still = Path(__file__).parents[2] / "examples" / "dog.mp4"  # all of its time stamps are zero
    assert use_video(still, None, lambda video: (video.index, len(video.times))) == (None, 90)


def test_a_frame_that_its_packet_does_not_hold_leads_to_a_full_decode(tmp_path, monkeypatch):
    path = encode(tmp_path / "wrong.mp4", textured(48), options=X264)
    right = read_clip(path, 5)
    trusted = videos.index_packets

    def shifted(*arguments):
        index = trusted(*arguments)
        packets = [*index.packets]
        packets[20] = packet_index.IndexedPacket(packets[20].pts + 1, packets[20].dts, False, True)
        return packet_index.PacketIndex(tuple(packets), index.time_base, index.frame_pixels)

    monkeypatch.setattr(videos, "index_packets", shifted)
    scans = []
    scan = videos.scan_video
    monkeypatch.setattr(videos, "scan_video", lambda *arguments: scans.append(arguments) or scan(*arguments))
    clip = read_clip(path, 5)
    assert torch.equal(clip.images, right.images)
    assert clip.times.tolist() == right.times.tolist()
    assert len(scans) == 1


def test_damage_outside_the_frames_that_are_read_does_not_matter(tmp_path):
    path = encode(tmp_path / "part.mp4", textured(48), options=X264)
    whole = read_clip(path, None)
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][3]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_clip(path, None, start=2.0).images, whole.images[20:])
    with pytest.warns(UserWarning, match="breaks off after frame"):
        read_clip(path, None)
    with pytest.warns(UserWarning, match="breaks off after frame"):
        assert open_long_clip(path).num_frames < 12


def test_a_video_that_is_cut_after_opening_is_an_error_of_the_user(tmp_path):
    path = encode(tmp_path / "gone.mp4", textured(48), options=X264)
    long_clip = open_long_clip(path)
    encode(path, [numbered(i, 64, 96) for i in range(4)])
    with pytest.raises(UserError, match=r"gone\.mp4 has changed while it was read"):
        list(long_clip.images([30]))


def test_frames_excluded_by_an_edit_list_do_not_count(tmp_path):
    path = encode(tmp_path / "edited.mp4", textured(24), options={"bf": "0", "g": "100"})
    with av.open(str(path)) as container:
        starts = [packet.pts for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12  # behind version and number of entries: duration, then the time of the start
    content[at : at + 8] = (1800).to_bytes(4, "big") + starts[6].to_bytes(4, "big")
    path.write_bytes(content)
    decoded = scan_video(path)
    index = index_packets(path)
    assert index.times == decoded.times
    assert len(decoded.times) == 18
    assert not index.packets[5].is_shown
    indexed = videos.ScannedVideo(path, index.times, is_intact=True, index=index)
    for numbers in ([0], [3, 17]):
        for one, other in zip(read_frames(indexed, numbers), read_frames(decoded, numbers), strict=True):
            assert torch.equal(one, other)
