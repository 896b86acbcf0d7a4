"""Which camera belongs to which frame: by path, time, frame number or order, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from named_clips import named_clip

from recon4d.errors import UserError
from recon4d.io import write_jpeg, write_video
from recon4d.io.cameras.pairing import CameraKeys, count_frames, pair_cameras, seconds_per_unit, times_of_names
from recon4d.io.frame_pairing import match_by_name, natural_order
from recon4d.records import Clip, ClipSource


def keys(names: list[str] | None = None, seconds: list[float] | None = None, count: int = 0) -> CameraKeys:
    stamps = None if seconds is None else torch.tensor(seconds, dtype=torch.float64)
    return CameraKeys(
        "cameras f", count or len(names or seconds or []), None if names is None else tuple(names), stamps
    )


RIG = ["left/0.jpg", "left/1.jpg", "right/0.jpg", "right/1.jpg"]


class TestNames:
    @pytest.mark.parametrize(
        ("folder", "names", "wanted"),
        [
            ("images/left", RIG, [0, 1]),
            ("images/right", RIG, [2, 3]),
            ("D:\\rig\\right", RIG, [2, 3]),
            ("images/right", [f"images/{name}" for name in RIG], [2, 3]),
            ("scan/b/right", ["a/right/0.png", "a/right/1.png", "b/right/0.png", "b/right/1.png"], [2, 3]),
            ("photos", ["./images/1", "./images/0"], [1, 0]),
            ("photos", ["C:\\x\\1.PNG", "C:\\x\\0.PNG"], [1, 0]),
            ("photos", ["7.jpg", "1.jpg"], [None, 1]),
        ],
    )
    def test_the_longest_common_path(self, folder: str, names: list[str], wanted: list[int | None]) -> None:
        assert match_by_name(named_clip(folder, ("0.jpg", "1.jpg")), names) == wanted
        pairing = pair_cameras(named_clip(folder, ("0.jpg", "1.jpg")), keys(names))
        assert list(pairing.indices) == wanted
        assert pairing.rule == "by name"

    @pytest.mark.parametrize("names", [RIG, ["0.jpg", "0.jpg", "1.jpg"]])
    def test_ambiguous_names_are_refused(self, names: list[str]) -> None:
        with pytest.raises(
            UserError, match=r"cameras f: .*0\.jpg and .*0\.jpg both have the name of the frame photos/0"
        ):
            pair_cameras(named_clip("photos", ("0.jpg", "1.jpg")), keys(names))

    def test_cameras_of_a_neighboring_folder_are_refused(self, tmp_path: Path) -> None:
        for folder in ("left", "right", "images", "images_4"):
            (tmp_path / folder).mkdir()
            for number in range(2):
                write_jpeg(tmp_path / folder / f"{number}.jpg", torch.zeros(3, 4, 6, dtype=torch.uint8))
        names = ("0.jpg", "1.jpg")
        for stored in ("left/{}.jpg", "rig\\\\left\\\\{}", "./left/{}"):
            given = keys([stored.format(number) for number in range(2)])
            with pytest.raises(UserError, match=r"cameras f: its cameras are those of .*left"):
                pair_cameras(named_clip(str(tmp_path / "right"), names), given)
            assert pair_cameras(named_clip(str(tmp_path / "left"), names), given).indices == (0, 1)
            assert pair_cameras(named_clip(str(tmp_path / "right"), names), given, "order").indices == (0, 1)
        copies = keys(["images/0.jpg", "images/1.jpg"])
        assert pair_cameras(named_clip(str(tmp_path / "images_4"), names), copies).indices == (0, 1)

    def test_equal_suffixes_winterpolated_frames_equal_names(self) -> None:
        assert match_by_name(named_clip("a", ("0.jpg", "0.png")), ["0.png", "0.jpg"]) == [1, 0]

    def test_natural_order(self) -> None:
        names = ["f_10", "f_2", "f_1", "e_3", "a/2/1", "a/10/1"]
        assert sorted(names, key=natural_order) == ["a/2/1", "a/10/1", "e_3", "f_1", "f_2", "f_10"]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of 12 frames at 10 per second."""
    images = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", torch.from_numpy(images), 10.0)
    return tmp_path / "clip.mp4"


def frames_of(video: Path, numbers: tuple[int, ...]) -> Clip:
    names = tuple(f"clip_{number:06d}" for number in numbers)
    return named_clip(str(video), names, numbers, [number / 10 for number in numbers])


class TestNumbers:
    def test_frames_are_counted(self, video: Path, tmp_path: Path) -> None:
        assert count_frames(ClipSource(str(video), (), ())) == 12
        assert count_frames(ClipSource("none", (), ())) is None
        assert count_frames(None) is None
        for number in range(3):
            write_jpeg(tmp_path / "photos" / f"{number}.jpg", torch.zeros(3, 4, 6, dtype=torch.uint8)) if (
                tmp_path / "photos"
            ).mkdir(exist_ok=True) is None else None
        assert count_frames(ClipSource(str(tmp_path / "photos"), ("2.jpg",), (2,))) == 3
        assert count_frames(ClipSource(str(tmp_path / "photos"), ("2.jpg",), (0,))) is None

    @pytest.mark.parametrize("first", [0, 1, 100])
    def test_names_that_count_all_frames(self, video: Path, first: int) -> None:
        names = [f"frame_{first + number}.jpg" for number in range(12)]
        shuffled = names[5:] + names[:5]
        pairing = pair_cameras(frames_of(video, (0, 3, 11)), keys(shuffled))
        assert [shuffled[index or 0] for index in pairing.indices] == [names[0], names[3], names[11]]
        assert pairing.rule == f"by frame number, from {first}"

    def test_rows_without_names_count_all_frames(self, video: Path) -> None:
        assert pair_cameras(frames_of(video, (0, 3, 11)), keys(count=12)).indices == (0, 3, 11)
        with pytest.raises(UserError, match="30 cameras, and the clip has 3 frames"):
            pair_cameras(frames_of(video, (0, 3, 11)), keys(count=30))

    def test_names_of_other_frames_are_refused_unless_told(self, video: Path) -> None:
        """Frames 1 to 6 of 12: sampled at half the rate, or the first half."""
        names, clip = [f"frame_{number:05d}.png" for number in range(1, 7)], frames_of(video, (0, 3, 5, 11))
        with pytest.raises(UserError, match=r"cameras_by") as caught:
            pair_cameras(clip, keys(names))
        assert "frame_00001.png" in str(caught.value)
        assert pair_cameras(clip, keys(names), "number").indices == (None, 2, 4, None)
        assert pair_cameras(clip, keys(names), "number-from-1").indices == (0, 3, 5, None)

    def test_as_many_names_as_frames_are_paired_in_natural_order(self, video: Path) -> None:
        pairing = pair_cameras(frames_of(video, (0, 5, 11)), keys(["k_10", "k_9", "k_2"]))
        assert pairing.indices == (2, 1, 0)
        assert pairing.rule == "by the order of the names"

    @pytest.mark.parametrize("first", [0, 1])
    def test_whole_stamps_of_all_frames_are_frame_numbers(self, video: Path, first: int) -> None:
        stamps = [float(first + number) for number in range(12)]
        for numbers in ((0, 10), (0, 3, 10), tuple(range(12))):
            pairing = pair_cameras(frames_of(video, numbers), keys(seconds=stamps))
            assert pairing.indices == numbers
            assert pairing.rule == f"by frame number, from {first}"

    def test_as_many_cameras_as_the_file_has_frames(self, video: Path) -> None:
        """Names without numbers and stamps of another clock are paired by their rank among all frames."""
        letters = [f"{letter}.png" for letter in "lkjihgfedcba"]
        assert pair_cameras(frames_of(video, (0, 3, 11)), keys(letters)).indices == (11, 8, 0)
        stamps = [1305031102.25 + 0.1 * number for number in range(12)]
        pairing = pair_cameras(frames_of(video, (0, 3, 11)), keys(seconds=stamps))
        assert pairing.indices == (0, 3, 11)
        assert pairing.rule == "by order among all frames"

    def test_whole_stamps_of_every_fifth_frame_are_frame_numbers(self, video: Path) -> None:
        pairing = pair_cameras(frames_of(video, (0, 5, 10)), keys(seconds=[0.0, 5.0, 10.0, 11.0]))
        assert pairing.indices == (0, 1, 2)

    def test_stamps_that_are_seconds_and_frame_numbers_are_refused(self, tmp_path: Path, video: Path) -> None:
        """Seconds 0 to 1 of a video of two frames a second are also frames 0 and 1."""
        clip = replace(frames_of(video, (0, 1)), times=torch.tensor([0.0, 2.0]))
        stamps = keys(seconds=[0.0, 1.0, 2.0])
        with pytest.raises(UserError, match="may be seconds or frame numbers"):
            pair_cameras(clip, stamps)
        assert pair_cameras(clip, stamps, "time").indices == (0, 2)
        assert pair_cameras(clip, stamps, "number").indices == (0, 1)


class TestTimes:
    def test_given_times_come_before_names(self) -> None:
        clip = named_clip("p", tuple(f"{i:06d}.jpg" for i in range(4)), times=[0.0, 0.1, 0.2, 0.3])
        pairing = pair_cameras(clip, keys(seconds=[i / 10 for i in range(21)]))
        assert pairing.indices == (0, 1, 2, 3)
        assert pairing.rule == "by time"

    @pytest.mark.parametrize(
        ("names", "seconds"),
        [
            (("1305031102.175304.png", "1305031102.211214.png"), [1305031102.1753, 1305031102.2112]),
            (("1403636579763555584.png", "1403636579813555456.png"), [1403636579.763555584, 1403636579.813555456]),
            (("1403636579763.jpg", "1403636579813.jpg"), [1403636579.763, 1403636579.813]),
            (("0.50.png", "1.25.png"), [0.5, 1.25]),
        ],
    )
    def test_pictures_named_by_their_times(self, names: tuple[str, ...], seconds: list[float]) -> None:
        found = times_of_names(names)
        np.testing.assert_allclose(found, seconds, rtol=0, atol=1e-4)
        pairing = pair_cameras(named_clip("rgb", names), keys(seconds=seconds[::-1]))
        assert pairing.indices == (1, 0)
        assert pairing.rule == "by the times that the pictures are named by"

    @pytest.mark.parametrize("names", [("000000.jpg", "000001.jpg"), ("12.jpg", "13.jpg"), ("a1.5.jpg", "a2.5.jpg")])
    def test_numbers_are_no_times(self, names: tuple[str, ...]) -> None:
        assert times_of_names(names) is None

    def test_pictures_without_times_are_not_paired_with_seconds(self) -> None:
        with pytest.raises(UserError, match="the pictures have no times; fps gives them"):
            pair_cameras(named_clip("p", ("000000.jpg", "000001.jpg")), keys(seconds=[0.0, 0.1, 0.2]))

    def test_an_offset(self) -> None:
        clip = named_clip("v.mp4", ("v_0", "v_1"), times=[0.0, 0.1])
        stamps = [1305031102.175, 1305031102.225, 1305031102.275]
        with pytest.raises(UserError, match=r"first camera is at 1\.30503e\+09 s .* cameras_offset"):
            pair_cameras(clip, keys(seconds=stamps))
        assert pair_cameras(clip, keys(seconds=stamps), offset=-1305031102.175).indices == (0, 2)

    def test_a_camera_belongs_to_its_nearest_frame_only(self) -> None:
        """Frames at 60 a second and cameras at 30: every second frame has none."""
        clip = named_clip("v.mp4", tuple("abcd"), times=[0.0, 1 / 60, 2 / 60, 3 / 60])
        assert pair_cameras(clip, keys(seconds=[0.0, 2 / 60])).indices == (0, None, 1, None)

    @pytest.mark.parametrize(
        ("stamps", "unit"),
        [
            ([1403636579763555584, 1403636579813555456], 1e-9),
            ([1403636579763555, 1403636579813555], 1e-6),
            ([1403636579763, 1403636579813], 1e-3),
            ([1403636579.763, 1403636579.813], 1.0),
            ([0, 33333333, 66666666], 1e-9),
            ([0, 33333, 66666], 1e-6),
            ([0, 1, 2], 1.0),
            ([0.0, 0.033, 0.066], 1.0),
            ([7.0], 1.0),
        ],
    )
    def test_units(self, stamps: list[float], unit: float) -> None:
        assert seconds_per_unit(np.array(stamps, dtype=np.float64)) == unit


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("name", "no frame of the clip has a camera by name"),
        ("time", "no frame of the clip has a camera by time"),
        ("number", "no frame numbers, or some have the same"),
        ("order", "2 cameras, and the clip has 3 frames"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(rule: str, message: str) -> None:
    clip = named_clip("v.mp4", tuple("abc"), times=[0.0, 0.1, 0.2])
    with pytest.raises(UserError, match=message):
        pair_cameras(clip, keys(seconds=[7.25, 8.25]), rule)  # pyright: ignore[reportArgumentType]
