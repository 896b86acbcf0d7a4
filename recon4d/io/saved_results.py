"""Reading of result folders: the scene, its times, its info and the pictures of its frames."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.archive import FRAMES_FOLDER_NAME, load_scene, load_scene_info, load_times
from recon4d.io.file_errors import is_there
from recon4d.io.fitting import Placement
from recon4d.io.long_archive import INDEX_FILE_NAME, image_file, load_frames, load_index
from recon4d.io.photos import read_photo, write_jpeg
from recon4d.io.results import frame_file_names
from recon4d.io.scene_info import SceneInfo
from recon4d.records import Cameras, Clip, Scene


@dataclass(frozen=True, eq=False)
class SavedResults:
    """The contents of a result folder, of a clip or a long clip. Pictures are read when they are needed."""

    scene: Scene
    """The scene."""
    times: Float[Tensor, " time"]
    """Times of the frames in seconds, of shape (time,); NaN for photos without an order."""
    info: SceneInfo
    """How the scene was made."""
    frame_files: tuple[Path, ...]
    """Picture of each frame, of the size `info.original_size` or of its own (`ClipSource.sizes`); the files need not
    exist."""
    frame_names: tuple[str, ...]
    """Name of each frame without a suffix."""

    @property
    def names(self) -> tuple[str, ...]:
        """A different name for each frame, without a suffix and without blanks."""
        names = tuple("_".join(name.split()) for name in self.frame_names)
        if len({name.lower() for name in names}) < len(names):
            return tuple(f"frame_{number:06d}" for number in range(len(names)))
        return names

    def original_cameras(self) -> Cameras:
        """Convert the intrinsics to pixels of the original frames.

        Returns:
            The cameras of the scene with these intrinsics.
        """
        return self.scene.cameras.resized(self.scene.size, self.info.original_size)

    def copy_frames(self, folder: Path) -> list[str]:
        """Copy the pictures of the frames, byte for byte; padding of pictures of different sizes is cut off.

        Args:
            folder: The folder to create and copy to.

        Returns:
            File names in `folder`, frame by frame.

        Raises:
            UserError: If a picture is missing, or cannot be read or written.
        """
        copies = [f"{name}{file.suffix}" for name, file in zip(self.names, self.frame_files, strict=True)]
        with os_errors_as_user_errors("cannot copy the frames"):
            folder.mkdir(parents=True)
            for copy, file in zip(copies, self.frame_files, strict=True):
                (folder / copy).write_bytes(_require(file).read_bytes())
        self._cut_off_padding(folder, copies)
        return copies

    def _cut_off_padding(self, folder: Path, copies: list[str]) -> None:
        """Cut pictures that were stored in their common frame, as those of long clips are, out of it."""
        frame_size, source = self.info.original_size, self.info.source
        if source is None or not source.sizes:
            return
        for copy, own in zip(copies, source.sizes, strict=True):
            image = read_photo(folder / copy)
            if (image.shape[1], image.shape[2]) == frame_size != own:
                write_jpeg(folder / copy, Placement(own, frame_size).cut_out(image))

    def images_at_map_size(self) -> UInt8[Tensor, "time 3 height width"]:
        """Read the pictures of all frames and resize them to the maps of the scene.

        Returns:
            RGB images of shape (time, 3, height, width).

        Raises:
            UserError: If a picture is missing or damaged, or does not have the size `info.original_size`.
        """
        return torch.stack(list(self.iter_images_at_map_size()))

    def iter_images_at_map_size(self) -> Iterator[UInt8[Tensor, "3 height width"]]:
        """Read the pictures as `images_at_map_size` does, one at a time.

        Yields:
            RGB image of shape (3, height, width) for each frame.

        Raises:
            UserError: As `images_at_map_size`.
        """
        for file in self.frame_files:
            image = read_photo(_require(file))
            found, wanted = (image.shape[1], image.shape[2]), self.info.original_size
            if found != wanted and self.info.source is not None and found in self.info.source.sizes:
                image = Placement(found, wanted).place(image)
            elif found != wanted:
                raise UserError(f"{file} has height and width {found}, but the archive says {wanted}")
            yield Clip(image[None], torch.zeros(1)).resized(*self.scene.size).images[0]

    def with_scene(self, scene: Scene) -> "SavedResults":
        """Replace the scene.

        Args:
            scene: The scene of the same frames, in another world for example.

        Returns:
            Results with this scene.
        """
        return replace(self, scene=scene)


def read_results(path: str | Path) -> SavedResults:
    """Read a result folder, with all maps in memory.

    Args:
        path: A ``scene.npz``, the folder that holds one, or the folder of a long clip. Pictures are expected in
            ``frames/`` beside the scene.

    Returns:
        The results.

    Raises:
        UserError: If the archive is missing or damaged, or if its names do not fit its frames.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if (folder / INDEX_FILE_NAME).is_file() and Path(path).is_dir():
        index = load_index(folder)
        scene, times, info = load_frames(folder, range(len(index.times))), index.times, index.info
        names = frame_file_names(info.source, scene.num_frames)
        files = [image_file(folder, number) for number in range(scene.num_frames)]
    else:
        scene, times, info = load_scene(path), load_times(path), load_scene_info(path)
        names = frame_file_names(info.source, scene.num_frames)
        files = [folder / FRAMES_FOLDER_NAME / name for name in names]
    return SavedResults(scene, times, info, tuple(files), tuple(Path(name).stem for name in names))


def _require(file: Path) -> Path:
    if not (is_there(file) and file.is_file()):
        raise UserError(f"{file} does not exist; this format needs the frames beside the scene")
    return file
