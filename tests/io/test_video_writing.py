"""Written videos are read back and play in browsers."""

from collections.abc import Iterator

import av
import pytest
import torch

from recon4d.errors import UserError
from recon4d.io import read_clip, write_video


def colored(count: int, height: int, width: int) -> torch.Tensor:
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    frames[..., 0], frames[:, : height // 2, :, 1], frames[:, :, width // 2 :, 2] = 200, 120, 250
    frames[torch.arange(count), :, :, 1] += torch.arange(count, dtype=torch.uint8)[:, None, None] * 10
    return frames


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_video_round_trip(tmp_path, monkeypatch, codec):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    frames = colored(7, 61, 81)
    write_video(tmp_path / "out.mp4", iter(frames), 12.5)
    clip = read_clip(tmp_path / "out.mp4")
    assert clip.images.shape == (7, 3, 62, 82)
    assert clip.times.tolist() == pytest.approx([i / 12.5 for i in range(7)])
    shown = clip.images.permute(0, 2, 3, 1).int()
    assert (shown[:, :61, :81] - frames.int()).abs().float().mean((0, 1, 2)).max() < 3
    assert (shown[:, 61, :80] - shown[:, 60, :80]).abs().float().mean() < 4  # padded with the neighboring row
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_written_videos_play_in_browsers(tmp_path):
    write_video(tmp_path / "out.mp4", [frame.numpy() for frame in colored(3, 48, 64)], 30)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (stream.colorspace, stream.color_range) == (1, 1)  # BT.709, limited
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_videos_that_cannot_be_written(tmp_path):
    frames = colored(2, 48, 64)
    broken_late = [*[frames[0]] * 100, frames[0, :40]]
    for given, rate, name, message in [
        ([], 10, "a.mp4", "there are no frames to write"),
        ([frames[0], frames[1, :40]], 10, "a.mp4", r"frame 1 has shape \(40, 64, 3\) but the first has \(48, 64, 3\)"),
        (broken_late, 10, "a.mp4", r"frame 100 has shape"),
        ([frames[0].float()], 10, "a.mp4", r"frame 0 is float32 \(48, 64, 3\); wanted uint8"),
        ([frames[0].permute(2, 0, 1)], 10, "a.mp4", "frame 0 is uint8"),
        (frames, 0, "a.mp4", "frames_per_second = 0; wanted at least 0.001"),
        (frames, 10, "a.avi", "a.avi does not end in .mp4"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / name, iter(given), rate)
    with pytest.raises(UserError, match=r"cannot write .*gone.*a\.mp4: No such file"):
        write_video(tmp_path / "gone" / "a.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_video_do_not_interfere(tmp_path):
    frames = colored(5, 48, 64)

    def frames_of_the_first_writer() -> Iterator[torch.Tensor]:
        yield from frames[:2]
        write_video(tmp_path / "out.mp4", frames[:1], 10)
        yield from frames[2:]

    write_video(tmp_path / "out.mp4", frames_of_the_first_writer(), 10)
    assert read_clip(tmp_path / "out.mp4").num_frames == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
