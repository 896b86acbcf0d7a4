"""A cheap check that a folder holds a complete result."""

from pathlib import Path

from recon4d.errors import UserError
from recon4d.io.archive import SCENE_FILE_NAME, check_scene_arrays, load_scene_info
from recon4d.io.long_archive import INDEX_FILE_NAME, frame_file, image_file, load_index
from recon4d.io.npz_arrays import load_headers
from recon4d.io.results import CAMERA_PATH_NAME, DEPTH_VIDEO_NAME, POINT_CLOUD_NAME, expected_frame_files


def is_complete_result(folder: str | Path) -> bool:
    """Check that a folder holds a complete result, without reading maps and pictures.

    The archive of a scene must have all its arrays with headers that fit each other and the file; every frame must
    have its picture. Files for viewing (depth video, camera path, point cloud) may be missing, because one that cannot
    be made is left out, but not be empty. The folder of a long clip must have an index, and for each frame an archive
    with fitting headers and a picture.

    Args:
        folder: A folder, which need not exist.

    Returns:
        Whether the result is complete.
    """
    folder = Path(folder)
    try:
        if (folder / INDEX_FILE_NAME).is_file():
            numbers = range(load_index(folder).num_frames)
            pictures = [image_file(folder, number) for number in numbers]
            return all(map(_has_content, pictures)) and all(
                _count_frames(frame_file(folder, number)) == 1 for number in numbers
            )
        num_frames, info = _count_frames(folder / SCENE_FILE_NAME), load_scene_info(folder)
        previews = [folder / name for name in (DEPTH_VIDEO_NAME, CAMERA_PATH_NAME, POINT_CLOUD_NAME)]
        files = [*filter(Path.exists, previews), *expected_frame_files(folder, info, num_frames)]
    except UserError:
        return False
    return all(map(_has_content, files))


def _count_frames(file: Path) -> int:
    """Number of frames of an archive by its headers."""
    headers = load_headers(file)
    check_scene_arrays(headers)
    return headers["depths"].shape[0]


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
