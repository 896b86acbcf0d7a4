"""Selection of frames by number, rate and range."""

import math

import pytest
from videos import SIZE, numbers_seen

from recon4d.errors import UserError
from recon4d.io import read_clip
from recon4d.io.frame_selection import select_at_rate, select_evenly, select_range


@pytest.mark.parametrize(
    ("options", "wanted"),
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
def test_selected_frames(numbered_video, options, wanted):
    clip = read_clip(numbered_video, **options)
    assert numbers_seen(clip.images) == wanted
    assert list(clip.source.numbers) == wanted
    assert clip.times.tolist() == pytest.approx([number / 10 for number in wanted])
    assert clip.images.shape[1:] == (3, *SIZE)


def test_source_of_a_clip(numbered_video):
    source = read_clip(str(numbered_video), num_frames=2).source
    assert source.path == str(numbered_video)
    assert source.names == ("count_000000", "count_000029")


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_unsuitable_options_are_refused(numbered_video, options, message):
    with pytest.raises(UserError, match=message):
        read_clip(numbered_video, **options)


def test_even_selection_in_time_takes_no_frame_twice():
    crowded = [0.0, 0.01, 0.02, 0.03, 5.0, 10.0]
    assert select_evenly(crowded, 3) == [0, 4, 5]
    assert select_evenly(crowded, 5) == [0, 2, 3, 4, 5]
    assert select_evenly([0.0, 9.7, 9.8, 9.9, 10.0], 4) == [0, 1, 2, 4]
    for count in range(1, 7):
        assert len(set(select_evenly(crowded, count))) == count


def test_rate_takes_the_nearest_frame_and_every_frame_at_most_once():
    assert select_at_rate([0.0, 0.4, 0.9, 1.1, 3.0], 0.0, 1.0) == [0, 2, 3, 4]
    assert select_at_rate([0.0], 0.0, 1e9) == [0]


def test_ties_select_the_earlier_frame():
    assert select_at_rate([i / 30 for i in range(20)], 0.0, 12.0) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert select_evenly([i / 10 for i in range(40)], 7) == [0, 6, 13, 19, 26, 32, 39]


def test_a_time_printed_with_three_digits_finds_its_frame():
    times = [i * 1001 / 30000 for i in range(100)]
    assert list(select_range("clip", times, 0.067, 0.133)) == [2, 3, 4]  # at 0.06673 and 0.13347
    assert list(select_range("clip", times, 0.068, 0.132)) == [3]
