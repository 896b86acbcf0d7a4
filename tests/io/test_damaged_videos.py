"""A damaged video is used up to the damage; other files are refused."""

import warnings
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from videos import SIZE, encode, numbered, textured

from recon4d.errors import UserError
from recon4d.io import read_clip


def read_with_warning(path: Path, **options):
    with pytest.warns(UserWarning, match=f"{path.name} breaks off after frame") as caught:
        clip = read_clip(path, **options)
    assert len(caught) == 1
    return clip, str(caught[0].message)


def damage_packet(path: Path, number: int) -> None:
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][number]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.webm"])
def test_truncated_video_is_used_up_to_its_end(tmp_path, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    pictures = textured(40)
    path = encode(tmp_path / name, pictures, codec=codec)
    whole = read_clip(path, num_frames=None)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    clip, message = read_with_warning(path, num_frames=None)
    last = clip.num_frames - 1
    assert 5 < clip.num_frames < 35
    assert torch.equal(clip.images, whole.images[: clip.num_frames])  # no partial frames
    assert f"after frame {last} ({whole.times[last]:.2f} s): " in message


@pytest.mark.parametrize("name", ["damaged.mp4", "damaged.ts"])
def test_damaged_video_is_used_up_to_the_damage(tmp_path, name):
    path = encode(tmp_path / name, textured(40), options={"g": "10"})
    whole = read_clip(path, num_frames=None)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = bytes(600)
    path.write_bytes(content)
    clip, message = read_with_warning(path, num_frames=None)
    assert 5 < clip.num_frames < 35
    assert torch.equal(clip.images, whole.images[: clip.num_frames])
    assert "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_clip(path, num_frames=None, stop=0.3).num_frames == 4  # the damage comes later


def test_a_video_damaged_at_its_second_frame_has_one(tmp_path):
    path = encode(tmp_path / "early.mp4", textured(40))
    first = read_clip(path, num_frames=1).images
    damage_packet(path, 1)
    clip, message = read_with_warning(path)
    assert torch.equal(clip.images, first)
    assert clip.times.tolist() == [0.0]
    assert "breaks off after frame 0 (0.00 s): " in message


def test_a_video_damaged_at_its_beginning_is_read_from_the_first_whole_frame(tmp_path):
    path = encode(tmp_path / "late.mp4", textured(40), options={"g": "10", "bf": "0"})
    whole = read_clip(path, num_frames=None)
    damage_packet(path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = read_clip(path, num_frames=None)
    assert clip.num_frames == 30
    assert torch.equal(clip.images, whole.images[10:])


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    with wave.open(str(tmp_path / "song.mp4"), "wb") as song:
        song.setparams((1, 2, 8000, 0, "NONE", ""))
        song.writeframes(bytes(8000))
    with av.open(str(tmp_path / "cover.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(0), format="rgb24")) + cover.encode(None))
        container.mux(sound.encode(silence) + sound.encode(None))
    content = encode(tmp_path / "stump.mp4", textured(4)).read_bytes()
    (tmp_path / "stump.mp4").write_bytes(content[: content.index(b"mdat") + 40])
    for name, reason in [
        ("text.mp4", "is not a video"),
        ("empty.mp4", "is not a video"),
        ("song.mp4", "has no video stream"),
        ("cover.mp4", "has no video stream"),
        ("stump.mp4", "has no frame that can be decoded"),
    ]:
        with pytest.raises(UserError, match=f"{name} {reason}") as caught:
            read_clip(tmp_path / name)
        assert "\n" not in str(caught.value)
