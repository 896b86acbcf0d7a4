"""Clips are read frame by frame as they were shown, and what cannot be read says so in one line."""

import math
import re
import warnings
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from recon4d.media import list_photos, read_clip, read_photo, write_jpeg, write_video
from recon4d.media.selection import at_rate, positions_within, spread_evenly
from recon4d.media.video import read_frames, scan_video

SIZE = (48, 64)


def numbered(number: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """A grey picture that tells its number: levels lie six apart, far more than compression moves them."""
    return np.full((height, width, 3), 20 + 6 * number, np.uint8)


def numbers_seen(images: torch.Tensor) -> list[int]:
    return ((images.float().mean((1, 2, 3)) - 20) / 6).round().int().tolist()


def encode(path: Path, pictures, milliseconds=None, codec="libx264", pixel_format="yuv420p", options=None) -> Path:
    """A video of `pictures`, shown at `milliseconds` (ten a second unless given)."""
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
    """Pictures with enough in them that every frame fills some hundred bytes of a file, to be cut or damaged."""
    scenery = np.random.default_rng(0).integers(0, 255, (64, 96 + count, 3), dtype=np.uint8)
    return [np.ascontiguousarray(scenery[:, i : i + 96]) for i in range(count)]


def bare_stream(path: Path) -> bytes:
    """What the packets of a video hold, without the container around them."""
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(video=0))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Thirty numbered frames, ten a second, with frames that refer to later ones."""
    return encode(tmp_path_factory.mktemp("video") / "count.mp4", [numbered(i) for i in range(30)])


# --- which frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "wanted"),
    [
        ({}, [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19, 21, 23, 25, 27, 29]),
        ({"num_frames": 4}, [0, 10, 19, 29]),
        ({"num_frames": 1}, [0]),
        ({"num_frames": None}, list(range(30))),
        ({"num_frames": 99}, list(range(30))),
        ({"num_frames": 3, "start": 0.5, "stop": 1.5}, [5, 10, 15]),
        ({"num_frames": None, "start": 2.7}, [27, 28, 29]),
        ({"num_frames": 2, "stop": 0.75}, [0, 7]),
        ({"fps": 2}, [0, 5, 10, 15, 20, 25]),
        ({"fps": 2, "start": 0.3}, [3, 8, 13, 18, 23, 28]),
        ({"fps": 2, "num_frames": 3}, [0, 5, 10]),
        ({"fps": 4, "stop": 1.0}, [0, 2, 5, 7, 10]),
        ({"fps": 1000, "stop": 0.4}, [0, 1, 2, 3, 4]),
    ],
)
def test_the_frames_that_were_asked_for(video, wishes, wanted):
    clip = read_clip(video, **wishes)
    assert numbers_seen(clip.images) == wanted
    assert list(clip.source.numbers) == wanted
    assert clip.times.tolist() == pytest.approx([number / 10 for number in wanted])
    assert clip.images.shape[1:] == (3, *SIZE)


def test_a_clip_knows_where_it_came_from(video):
    source = read_clip(str(video), num_frames=2).source
    assert source.path == str(video)
    assert source.names == ("count_000000", "count_000029")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"num_frames": 0}, "num_frames = 0; wanted at least 1"),
        ({"fps": 0.0}, "fps = 0; wanted a number above 0"),
        ({"fps": math.inf}, "fps = inf"),
        ({"start": 2.0, "stop": 2.0}, "stop = 2 s is not after start = 2 s"),
        ({"stop": 0.0}, "stop = 0 s is not after start = 0 s"),
        ({"start": -1.0}, "start = -1 s; wanted seconds from 0"),
        ({"start": 7.0}, r"count.mp4: start = 7 s is beyond the last frame, which is at 2.900 s"),
        ({"start": 0.52, "stop": 0.58}, "count.mp4: no frame between start = 0.52 s and stop = 0.58 s"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(video, wishes, message):
    with pytest.raises(ValueError, match=message):
        read_clip(video, **wishes)


def test_spreading_is_even_in_time_and_takes_no_frame_twice():
    crowded = [0.0, 0.01, 0.02, 0.03, 5.0, 10.0]
    assert spread_evenly(crowded, 3) == [0, 4, 5]
    assert spread_evenly(crowded, 5) == [0, 2, 3, 4, 5]
    assert spread_evenly([0.0, 9.7, 9.8, 9.9, 10.0], 4) == [0, 1, 2, 4]
    for count in range(1, 7):
        assert len(set(spread_evenly(crowded, count))) == count


def test_rate_takes_the_nearest_frame_and_every_frame_at_most_once():
    assert at_rate([0.0, 0.4, 0.9, 1.1, 3.0], 0.0, 1.0) == [0, 2, 3, 4]
    assert at_rate([0.0], 0.0, 1e9) == [0]


def test_ties_go_to_the_earlier_frame_whatever_the_rounding():
    assert at_rate([i / 30 for i in range(20)], 0.0, 12.0) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert spread_evenly([i / 10 for i in range(40)], 7) == [0, 6, 13, 19, 26, 32, 39]


def test_a_time_printed_with_three_digits_finds_its_frame():
    times = [i * 1001 / 30000 for i in range(100)]
    assert list(positions_within(times, 0.067, 0.133)) == [2, 3, 4]  # at 0.06673 and 0.13347
    assert list(positions_within(times, 0.068, 0.132)) == [3]


# --- videos ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_times_are_those_at_which_frames_are_shown(tmp_path, name):
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
        ((0, 1, -1, 0), (0, -1)),  # a quarter turn clockwise, as telephones held upright write it
        ((0, -1, 1, 0), (-1, 0)),
        ((-1, 0, 0, -1), (-1, -1)),
        ((-1, 0, 0, 1), (0, -1)),
        ((0, 1, 1, 0), (0, 0)),
    ],
)
def test_pictures_come_out_upright(tmp_path, matrix, corner):
    picture = numbered(30)
    picture[:16, :16] = 10  # the dark corner lies top left in the file
    picture[:16, 16:32] = 120  # and a grey one to its right
    path = encode(tmp_path / "turned.mp4", [picture] * 2)
    content = bytearray(path.read_bytes())
    a, b, c, d = (value * 65536 for value in matrix)
    at = content.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        content[at + offset : at + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    image = read_clip(path).images[0].float().mean(0)
    # Where x and y of the file's picture end up, by the matrix: x' = a x + c y, y' = b x + d y.
    x_step = (matrix[1], matrix[0])
    assert tuple(image.shape) == (SIZE if matrix[0] else SIZE[::-1])
    row, column = (8 if side == 0 else side * 8 + size for side, size in zip(corner, image.shape, strict=True))
    assert image[row, column] == pytest.approx(10, abs=8)
    assert image[row + 16 * x_step[0], column + 16 * x_step[1]] == pytest.approx(120, abs=8)


def test_the_fast_decoder_agrees_with_the_careful_one(video):
    fast = scan_video(video)
    assert fast.intact
    careful = type(fast)(fast.path, fast.times, intact=False)
    for one, other in zip(read_frames(fast, [0, 7, 29]), read_frames(careful, [0, 7, 29]), strict=True):
        assert torch.equal(one, other)


def test_a_video_that_changes_size_midway_is_refused(tmp_path):
    small = encode(tmp_path / "small.ts", [numbered(i, 48, 64) for i in range(5)])
    large = encode(tmp_path / "large.ts", [numbered(i, 64, 96) for i in range(5)])
    (tmp_path / "both.h264").write_bytes(bare_stream(small) + bare_stream(large))
    with pytest.raises(ValueError, match="both_000005 is 96x64 but both_000000 is 64x48; a clip needs images of one"):
        read_clip(tmp_path / "both.h264")


# --- damaged videos and what is none --------------------------------------------------------------------------------


def read_with_warning(path: Path, **wishes):
    with pytest.warns(UserWarning, match=f"{path.name} breaks off after frame") as caught:
        clip = read_clip(path, **wishes)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return clip, str(caught[0].message)


def damage_packet(path: Path, number: int) -> None:
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][number]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.webm"])
def test_a_video_cut_short_is_used_up_to_there(tmp_path, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    pictures = textured(40)
    path = encode(tmp_path / name, pictures, codec=codec)
    whole = read_clip(path, num_frames=None)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    clip, message = read_with_warning(path, num_frames=None)
    last = clip.num_frames - 1
    assert 5 < clip.num_frames < 35
    assert torch.equal(clip.images, whole.images[: clip.num_frames])  # no frame is half a frame
    assert f"after frame {last} ({whole.times[last]:.2f} s): " in message


@pytest.mark.parametrize("name", ["damaged.mp4", "damaged.ts"])
def test_a_video_damaged_midway_is_used_up_to_there(tmp_path, name):
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


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
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
        ("stump.mp4", "has no frame that can be decoded: its data are damaged"),
    ]:
        with pytest.raises(ValueError, match=f"{name} {reason}") as caught:
            read_clip(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.mp4", "gone.jpg", "gone"])
def test_what_is_not_there_is_not_found(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        read_clip(tmp_path / name)


# --- pictures -------------------------------------------------------------------------------------------------------


def save_numbered(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        Image.fromarray(numbered(number)).save(folder / name)


def test_pictures_of_a_folder_come_in_natural_order(tmp_path):
    names = ["img1.png", "IMG2.JPG", "img10.png", "img11.webp", "shot_2.bmp"]
    save_numbered(tmp_path, names)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".img3.png").write_text("hidden")
    (tmp_path / "img4.png").mkdir()
    assert [path.name for path in list_photos(tmp_path)] == names
    clip = read_clip(tmp_path)
    assert numbers_seen(clip.images) == [0, 1, 2, 3, 4]
    assert clip.times.isnan().all()
    assert (clip.source.path, clip.source.names, clip.source.numbers) == (str(tmp_path), tuple(names), (0, 1, 2, 3, 4))


def test_of_many_pictures_some_are_taken(tmp_path):
    save_numbered(tmp_path, [f"{i}.png" for i in range(25)])
    assert read_clip(tmp_path, num_frames=3).source.numbers == (0, 12, 24)
    assert read_clip(tmp_path).num_frames == 16
    assert read_clip(tmp_path, num_frames=None).num_frames == 25


def test_pictures_taken_at_a_rate_have_times(tmp_path):
    save_numbered(tmp_path, [f"{i}.png" for i in range(20)])
    clip = read_clip(tmp_path, num_frames=3, fps=10, start=0.5, stop=1.5)
    assert numbers_seen(clip.images) == [5, 10, 15]
    assert clip.source.numbers == (5, 10, 15)
    assert clip.times.tolist() == pytest.approx([0.5, 1.0, 1.5])
    with pytest.raises(ValueError, match="start and stop need times"):
        read_clip(tmp_path, start=0.5)
    with pytest.raises(ValueError, match=r"start = 2 s is beyond the last frame, which is at 1.900 s"):
        read_clip(tmp_path, fps=10, start=2.0)


def test_a_list_of_pictures_keeps_its_order_and_one_picture_is_a_clip(tmp_path):
    save_numbered(tmp_path, ["a.png", "b.png", "c.png"])
    clip = read_clip([tmp_path / "c.png", str(tmp_path / "a.png")])
    assert numbers_seen(clip.images) == [2, 0]
    assert (clip.source.names, clip.source.numbers) == (("c.png", "a.png"), (0, 1))
    single = read_clip(tmp_path / "b.png")
    assert numbers_seen(single.images) == [1]
    assert single.source.path == str(tmp_path / "b.png")
    with pytest.raises(ValueError, match="the list of pictures is empty"):
        read_clip([])


def test_folders_without_pictures_and_of_mixed_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))} holds no pictures; wanted files ending in .bmp"):
        read_clip(tmp_path)
    save_numbered(tmp_path, ["a.png", "b.png"])
    Image.fromarray(numbered(0, 30, 40)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c.png is 40x30 but .*a.png is 64x48; a clip needs images of one size"):
        read_clip(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"a.png is a file"):
        list_photos(tmp_path / "a.png")


def test_exif_orientation_is_applied(tmp_path):
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:10, :10] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the corner top left comes top right
    Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif)
    image = read_photo(tmp_path / "turned.jpg")
    assert image.shape == (3, 40, 20)
    assert image[:, :8, 12:].min() > 200
    assert image[:, :, :8].max() < 50


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    level = np.full((20, 30), 100, np.uint8)
    transparent = np.stack([level, level + 50, level + 100, np.zeros_like(level)], axis=-1)
    Image.fromarray(transparent, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(level, "L").save(tmp_path / "grey.png")
    Image.fromarray(level.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(level.astype(np.int32) * 257).save(tmp_path / "deep.tif")
    Image.fromarray(level, "L").convert("CMYK").save(tmp_path / "print.jpg")
    palette = Image.fromarray(level, "L").convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes([0] * 100 + [128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("grey.png", "deep.png", "deep.tif", "print.jpg", "palette.png"):
            image = read_photo(tmp_path / name)
            assert image.shape == (3, 20, 30), name
            assert (image.int() - 100).abs().max() <= 2, name
        assert read_photo(tmp_path / "rgba.png")[:, 0, 0].tolist() == [100, 150, 200]
    Image.fromarray(level.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float.tif cannot be read as a picture: its pixels are floats"):
        read_photo(tmp_path / "float.tif")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.webp"])
def test_pictures_cut_short_are_refused_by_name(tmp_path, name):
    Image.fromarray(textured(1)[0]).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read as a picture: ") as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_jpeg_round_trip(tmp_path):
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    image[0], image[1, 20:], image[2, :, 25:] = 200, 120, 60
    write_jpeg(tmp_path / "a.jpg", image)
    assert (read_photo(tmp_path / "a.jpg").int() - image.int()).abs().float().mean() < 3
    write_jpeg(tmp_path / "small.jpg", image, quality=10)
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size
    with pytest.raises(ValueError, match="quality = 0; wanted 1 to 100"):
        write_jpeg(tmp_path / "a.jpg", image, quality=0)
    with pytest.raises(OSError, match="gone"):
        write_jpeg(tmp_path / "gone" / "a.jpg", image)


# --- writing videos -------------------------------------------------------------------------------------------------


def coloured(count: int, height: int, width: int) -> torch.Tensor:
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    frames[..., 0], frames[:, : height // 2, :, 1], frames[:, :, width // 2 :, 2] = 200, 120, 250
    frames[torch.arange(count), :, :, 1] += torch.arange(count, dtype=torch.uint8)[:, None, None] * 10
    return frames


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_video_round_trip(tmp_path, monkeypatch, codec):
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    frames = coloured(7, 61, 81)
    write_video(tmp_path / "out.mp4", iter(frames), 12.5)
    clip = read_clip(tmp_path / "out.mp4")
    assert clip.images.shape == (7, 3, 62, 82)
    assert clip.times.tolist() == pytest.approx([i / 12.5 for i in range(7)])
    shown = clip.images.permute(0, 2, 3, 1).int()
    assert (shown[:, :61, :81] - frames.int()).abs().float().mean((0, 1, 2)).max() < 3
    assert (shown[:, 61, :80] - shown[:, 60, :80]).abs().float().mean() < 4  # padded by its neighbour
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_written_videos_play_in_browsers(tmp_path):
    write_video(tmp_path / "out.mp4", [frame.numpy() for frame in coloured(3, 48, 64)], 30)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (stream.colorspace, stream.color_range) == (1, 1)  # BT.709, limited
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_videos_that_cannot_be_written(tmp_path):
    frames = coloured(2, 48, 64)
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
    with pytest.raises(OSError, match=r"gone.*a.mp4 cannot be written: No such file"):
        write_video(tmp_path / "gone" / "a.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []


def test_the_example_clip_is_what_its_page_says():
    clip = read_clip(Path(__file__).parent.parent / "examples" / "dog.mp4", num_frames=None, stop=0.19)
    assert clip.size == (360, 640)
    assert clip.source.numbers == (0, 1, 2, 3, 4, 5)
