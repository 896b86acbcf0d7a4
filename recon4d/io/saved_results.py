"""Reads back a folder of results, to write it in other formats: the scene, its times, its making and its frames."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.io.archive import (
    SceneInfo,
    load_scene,
    load_scene_info,
    load_times,
)
from recon4d.io.long_archive import (
    INDEX_FILE_NAME,
    load_frames,
    load_index,
    picture_file,
)
from recon4d.io.photos import read_photo

# The names under which `write_results` left the frames.
from recon4d.io.results import frame_file_names
from recon4d.records import Cameras, Clip, Scene


@dataclass(frozen=True, eq=False)
class SavedResults:
    """What `write_results` left in a folder, or a run over a long clip; frames are read when they are asked for.

    `times` are seconds, NaN for photos without an order; `frame_files` are the pictures in the order of the scene's
    frames, at the size `info.original_size`, whether they are there or not; `frame_names` what the frames are called.
    """

    scene: Scene
    times: Float[Tensor, " time"]
    info: SceneInfo
    frame_files: tuple[Path, ...]
    frame_names: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each frame, without an ending and without blanks, no two alike."""
        names = tuple("_".join(name.split()) for name in self.frame_names)
        if len({name.lower() for name in names}) < len(names):
            return tuple(f"frame_{number:06d}" for number in range(len(names)))
        return names

    def original_cameras(self) -> Cameras:
        """The cameras with intrinsics in pixels of the original frames."""
        return self.scene.cameras.resized(self.scene.size, self.info.original_size)

    def copy_frames(self, folder: Path) -> list[str]:
        """Copy the frames, byte for byte, into `folder`, which is made; answers their new names, frame by frame.

        Raises ``FileNotFoundError`` where a frame is missing.
        """
        folder.mkdir(parents=True)
        copies = [f"{name}{file.suffix}" for name, file in zip(self.names, self.frame_files, strict=True)]
        for copy, file in zip(copies, self.frame_files, strict=True):
            (folder / copy).write_bytes(_there(file).read_bytes())
        return copies

    def images_of_maps(self) -> UInt8[Tensor, "time 3 height width"]:
        """The frames resized to the scene's maps. Raises ``ValueError`` where a frame is not what the archive says."""
        resized = []
        for file in self.frame_files:
            image = read_photo(_there(file))
            if image.shape[1:] != self.info.original_size:
                found, said = tuple(image.shape[1:]), self.info.original_size
                raise ValueError(f"{file} is {found} pixels high and wide, the archive says {said}")
            resized.append(Clip(image[None], torch.zeros(1)).resized(*self.scene.size).images[0])
        return torch.stack(resized)

    def with_scene(self, scene: Scene) -> "SavedResults":
        """The same results with the scene in another world."""
        return replace(self, scene=scene)


def read_results(path: str | Path) -> SavedResults:
    """The results at `path`: a ``scene.npz``, the folder that holds one, or the folder of a long clip, read whole.

    The pictures are in ``frames/`` beside the scene, of a long clip by number. Raises what `load_scene` raises, and
    ``ValueError`` where the names of the frames do not fit the scene.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if (folder / INDEX_FILE_NAME).is_file() and Path(path).is_dir():
        index = load_index(folder)
        scene, times, info = load_frames(folder, range(len(index.times))), index.times, index.info
        names = frame_file_names(info.source, scene.num_frames)
        files = [picture_file(folder, number) for number in range(scene.num_frames)]
    else:
        scene, times, info = load_scene(path), load_times(path), load_scene_info(path)
        names = frame_file_names(info.source, scene.num_frames)
        files = [folder / "frames" / name for name in names]
    return SavedResults(scene, times, info, tuple(files), tuple(Path(name).stem for name in names))


def _there(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; this format needs the frames beside the scene")
    return file
