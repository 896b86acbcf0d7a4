"""Times, sizes and orientation of the frames of videos."""

import contextlib
import warnings
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest
import torch
from videos import SIZE, bare_stream, encode, numbered, numbers_seen

from recon4d.errors import UserError
from recon4d.io import read_clip
from recon4d.io.videos import _frame_times, read_frames, scan_video


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_times_are_presentation_times(tmp_path, name):
    shown_at = [0, 40, 300, 340, 1000, 2500]
    clip = read_clip(encode(tmp_path / name, [numbered(i) for i in range(6)], shown_at))
    assert clip.times.tolist() == pytest.approx([0.0, 0.04, 0.3, 0.34, 1.0, 2.5])
    assert numbers_seen(clip.images) == [0, 1, 2, 3, 4, 5]
    assert read_clip(tmp_path / name, num_frames=3).source.numbers == (0, 4, 5)


@pytest.mark.parametrize("name", ["late.ts", "late.mkv", "late.mp4"])
def test_times_count_from_the_first_frame(tmp_path, name):
    path = encode(tmp_path / name, [numbered(i) for i in range(4)], [5000, 5100, 5200, 5300])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = read_clip(path)
    assert clip.times.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=1e-4)


def test_a_bare_stream_without_timestamps_gets_them_from_its_rate(tmp_path):
    path = encode(tmp_path / "a.ts", [numbered(i) for i in range(6)])
    (tmp_path / "bare.h264").write_bytes(bare_stream(path))
    clip = read_clip(tmp_path / "bare.h264")
    assert numbers_seen(clip.images) == [0, 1, 2, 3, 4, 5]
    steps = clip.times.diff()
    assert (steps > 0).all()
    assert torch.allclose(steps, steps[0])


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("odd.webm", "libvpx-vp9", "yuv420p"), ("odd.mp4", "libx264", "yuv444p"), ("odd.mkv", "ffv1", "bgr0")],
)
def test_odd_sizes_keep_every_row_and_column(tmp_path, name, codec, pixel_format):
    picture = numbered(5, 67, 101)
    picture[:, -1], picture[-1, :] = 250, 10
    image = read_clip(encode(tmp_path / name, [picture] * 2, codec=codec, pixel_format=pixel_format)).images[0]
    assert image.shape == (3, 67, 101)
    assert image[:, :-2, -1].float().mean() == pytest.approx(250, abs=12)
    assert image[:, -1, :-2].float().mean() == pytest.approx(10, abs=12)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, -1)),  # a clockwise quarter turn, as phones in portrait orientation write it
        ((0, -1, 1, 0), (-1, 0)),
        ((-1, 0, 0, -1), (-1, -1)),
        ((-1, 0, 0, 1), (0, -1)),
        ((0, 1, 1, 0), (0, 0)),
    ],
)
def test_frames_are_rotated_upright(tmp_path, matrix, corner):
    picture = numbered(30)
    picture[:16, :16] = 10  # a dark corner at the top left of the stored picture
    picture[:16, 16:32] = 120  # and a gray square to its right
    path = encode(tmp_path / "turned.mp4", [picture] * 2)
    content = bytearray(path.read_bytes())
    a, b, c, d = (value * 65536 for value in matrix)
    at = content.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        content[at + offset : at + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    image = read_clip(path).images[0].float().mean(0)
    # Axes of the stored picture in the displayed one: x' = a x + c y, y' = b x + d y.
    x_step = (matrix[1], matrix[0])
    assert tuple(image.shape) == (SIZE if matrix[0] else SIZE[::-1])
    row, column = (8 if side == 0 else side * 8 + size for side, size in zip(corner, image.shape, strict=True))
    assert image[row, column] == pytest.approx(10, abs=8)
    assert image[row + 16 * x_step[0], column + 16 * x_step[1]] == pytest.approx(120, abs=8)


def test_both_decoders_agree_on_an_intact_video(numbered_video):
    fast = scan_video(numbered_video)
    assert fast.is_intact
    careful = type(fast)(fast.path, fast.times, is_intact=False)
    for one, other in zip(read_frames(fast, [0, 7, 29]), read_frames(careful, [0, 7, 29]), strict=True):
        assert torch.equal(one, other)


def test_video_that_changes_its_size_is_refused(tmp_path):
    small = encode(tmp_path / "small.ts", [numbered(i, 48, 64) for i in range(5)])
    large = encode(tmp_path / "large.ts", [numbered(i, 64, 96) for i in range(5)])
    (tmp_path / "both.h264").write_bytes(bare_stream(small) + bare_stream(large))
    with pytest.raises(ValueError, match="both_000005 is 96x64 but both_000000 is 64x48; a clip needs images of one"):
        read_clip(tmp_path / "both.h264")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
def test_tags_in_another_encoding_do_not_matter(tmp_path, suffix):
    path = tmp_path / f"tagged{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"], container.metadata["comment"] = "Cafe uber", "title"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b"Cafe uber") == 1
    path.write_bytes(content.replace(b"Cafe uber", b"Caf\xe9 \xfcber"))  # as in latin-1, not UTF-8
    with contextlib.suppress(UnicodeDecodeError), av.open(str(path)) as container:
        assert container.metadata["title"] != "Cafe uber"
    assert numbers_seen(read_clip(path, num_frames=None).images) == [0, 1, 2, 3]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])  # damaged files are opened in another way
    with contextlib.suppress(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_clip(path)


def test_stamps_that_exceed_computed_times_by_rounding_do_not_repeat_them():
    stream = SimpleNamespace(guessed_rate=10, average_rate=10, time_base=Fraction(1, 90000))
    frames = [SimpleNamespace(pts=pts) for pts in (9000, 45000, None, 54000, 63000)]  # 0.5 s + 0.1 s is below 0.6 s
    times = torch.tensor(list(_frame_times(frames, stream)))  # pyright: ignore[reportArgumentType]
    assert (times.diff() > 0.05).all()
