"""What a path means as a clip, and that everything that is passed over is told."""

import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image
from videos import encode, numbered, numbers_seen

from recon4d.errors import UserError
from recon4d.io import read_clip
from recon4d.io.clip_files import UNREADABLE_SUFFIXES, find_clip_files
from recon4d.io.long_clips import open_long_clip
from recon4d.io.photos import PHOTO_SUFFIXES, register_heif


def save(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(numbered(number)).save(path)
    return path


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_every_kind_of_picture_is_read(tmp_path, suffix):
    register_heif()
    Image.fromarray(numbered(4)).save(tmp_path / f"one{suffix.upper()}")
    save(tmp_path / "two.png", 5)
    assert numbers_seen(read_clip(tmp_path).images) == [4, 5]
    assert numbers_seen(read_clip(tmp_path / f"one{suffix.upper()}").images) == [4]


def test_a_folder_with_one_video_means_the_video(tmp_path):
    encode(tmp_path / "clip.mp4", [numbered(i) for i in range(5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = read_clip(tmp_path)
    assert numbers_seen(clip.images) == [0, 1, 2, 3, 4]
    assert clip.source.path == str(tmp_path / "clip.mp4")
    save(tmp_path / "thumb.jpg", 9)
    save(tmp_path / "poster.png", 9)
    said = r"the video clip.mp4 is used; passed over: 1 .png file \(poster.png\), 1 .jpg file \(thumb.jpg\); give"
    for read in (read_clip, open_long_clip):
        with pytest.warns(UserWarning, match=said):
            assert read(tmp_path).num_frames == 5


def test_pictures_beside_several_videos_are_used_and_the_videos_told(tmp_path):
    for name in ("IMG_1.MOV", "IMG_2.MOV"):
        encode(tmp_path / "one.mp4", [numbered(0)]).rename(tmp_path / name)
    with pytest.raises(UserError, match=r"holds 2 videos \(IMG_1.MOV, IMG_2.MOV\) and no pictures; give one"):
        read_clip(tmp_path)
    save(tmp_path / "IMG_1.jpg", 3)
    save(tmp_path / "IMG_2.jpg", 4)
    with pytest.warns(UserWarning, match=r"2 pictures are used; passed over: 2 .MOV files \(IMG_1.MOV, IMG_2.MOV\)"):
        assert numbers_seen(read_clip(tmp_path).images) == [3, 4]


@pytest.mark.parametrize("name", [*sorted(f"raw{suffix}" for suffix in UNREADABLE_SUFFIXES), "frame_0001", "a.jpg_old"])
def test_pictures_that_are_not_read_are_told(tmp_path, name):
    save(tmp_path / "a.jpg", 3)
    shutil.copy(tmp_path / "a.jpg", tmp_path / name)
    with pytest.warns(UserWarning, match=rf"1 picture is used; passed over: 1 .*\({name}\)"):
        assert numbers_seen(read_clip(tmp_path).images) == [3]


def test_folders_of_pictures_inside_are_told_and_other_files_are_not(tmp_path):
    save(tmp_path / "a.jpg")
    for name in ("cameras.json", "notes.txt", "IMG_1.AAE", ".hidden.mp4"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_clip(tmp_path)
    save(tmp_path / "left" / "a.jpg")
    with pytest.warns(UserWarning, match="1 picture is used; passed over: the folder left"):
        read_clip(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"holds no pictures that are read, but the folder left; give .*left"):
        read_clip(tmp_path)


def test_pictures_of_several_folders_keep_their_folders_as_names(tmp_path):
    left, right = save(tmp_path / "left" / "1.jpg", 1), save(tmp_path / "right" / "1.jpg", 2)
    files = find_clip_files([left, right])
    assert files.name == str(tmp_path)
    assert files.photo_names == ("left/1.jpg", "right/1.jpg")
    assert numbers_seen(read_clip([right, left]).images) == [2, 1]


def test_what_is_missing_is_told_with_what_is_wanted(tmp_path):
    with pytest.raises(UserError, match=r"gone does not exist; wanted a video, a picture or a folder of pictures"):
        read_clip(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone.jpg does not exist; wanted a list of picture files"):
        read_clip([tmp_path / "gone.jpg"])
    with pytest.raises(UserError, match=r"is a folder; wanted a list of picture files"):
        read_clip([tmp_path])
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.jpg is empty; wanted a picture"):
        read_clip(tmp_path / "empty.jpg")
    (tmp_path / "foreign.jpg").write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=r"foreign.jpg cannot be read as a picture: it is damaged, or of a format that"):
        read_clip(tmp_path / "foreign.jpg")
