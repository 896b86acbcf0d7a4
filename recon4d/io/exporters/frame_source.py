"""Access to a reconstruction frame by frame: a clip in memory, or a long clip of which one frame is read at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.long_archive import INDEX_FILE_NAME, LongScene, image_file, iter_frames, load_frames, load_index
from recon4d.io.photos import read_photo
from recon4d.io.results import frame_file_names
from recon4d.io.saved_results import SavedResults, read_results
from recon4d.records import Cameras, Scene

MAX_SAMPLES = 2**24
"""Largest number of pixels of a long clip from which a percentile or median is computed (64 MiB). Hand-tuned."""
MAX_GROUND_FRAMES = 64
"""Largest number of frames of a long clip in which the ground plane is searched. Hand-tuned."""

SceneMap = Callable[[Scene], Scene]
"""Changes the world frame or the unit of a scene of any number of frames, each frame independently of the others."""


class FrameSource(ABC):
    """Frames of a reconstruction, one at a time.

    Args:
        outline: Times, info and pictures of the results, with the cameras and `metres_per_unit` of all frames. The maps
            of its scene need only have the right shape.
    """

    max_samples: int | None = None
    """Largest number of pixels from which a percentile or median is computed; None uses all pixels."""

    def __init__(self, outline: SavedResults) -> None:
        self.outline = outline

    @property
    def cameras(self) -> Cameras:
        """Cameras of all frames, with intrinsics in pixels of the maps."""
        return self.outline.scene.cameras

    @property
    def original_cameras(self) -> Cameras:
        """Cameras of all frames, with intrinsics in pixels of the original pictures."""
        return self.outline.original_cameras()

    @property
    def metres_per_unit(self) -> float:
        """Length of the unit in meters; NaN if unknown."""
        return float(self.outline.scene.metres_per_unit)

    @property
    def distortion(self) -> Float[Tensor, "5"] | None:
        """Lens distortion k1, k2, p1, p2, k3 that was removed from the pictures; None if none was removed."""
        return self.outline.scene.distortion

    @property
    def times(self) -> Float[Tensor, " time"]:
        """Times of all frames in seconds, of shape (time,); NaN for photos without an order."""
        return self.outline.times

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.outline.scene.num_frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps in pixels."""
        return self.outline.scene.size

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the original pictures in pixels."""
        return self.outline.info.original_size

    @property
    def names(self) -> tuple[str, ...]:
        """A different name for each frame, without a suffix and without blanks."""
        return self.outline.names

    def copy_frames(self, folder: Path) -> list[str]:
        """Copy the pictures of the frames, byte for byte.

        Args:
            folder: The folder to create and copy to.

        Returns:
            File names in `folder`, frame by frame.

        Raises:
            UserError: If a picture is missing, or cannot be read or written.
        """
        return self.outline.copy_frames(folder)

    def read_image(self, number: int) -> UInt8[Tensor, "3 height width"]:
        """Read the picture of one frame and resize it to the maps.

        Args:
            number: The frame number, from 0.

        Returns:
            RGB image of shape (3, height, width).

        Raises:
            UserError: If the picture is missing or damaged, or does not have the original size.
        """
        alone = replace(self.outline, frame_files=self.outline.frame_files[number : number + 1])
        return next(alone.iter_images_at_map_size())

    def read_original_image(self, number: int) -> UInt8[Tensor, "3 height width"]:
        """Read the picture of one frame at its own size.

        Args:
            number: The frame number, from 0.

        Returns:
            RGB image of shape (3, height, width).

        Raises:
            UserError: If the picture is missing or damaged.
        """
        file = self.outline.frame_files[number]
        if not file.is_file():
            raise UserError(f"{file} does not exist; the pictures of the frames are needed beside the scene")
        return read_photo(file)

    @abstractmethod
    def iter_frames(self, numbers: Sequence[int] | None = None) -> Iterator[Scene]:
        """Iterate over frames. The source keeps no reference to a frame after it has been yielded.

        Args:
            numbers: Frame numbers, from 0, in the order wanted. None iterates over all frames.

        Returns:
            An iterator over scenes of one frame each, with tracks if the reconstruction has tracks at that frame.

        Raises:
            UserError: While iterating, if the file of a frame is missing or damaged.
        """

    @abstractmethod
    def map_scenes(self, function: SceneMap) -> "FrameSource":
        """Change the world frame or the unit of all frames.

        Args:
            function: The change. It is called with scenes of any number of frames.

        Returns:
            A source of the changed frames.
        """

    @abstractmethod
    def ground_from_world(self) -> Float[Tensor, "4 4"]:
        """Estimate the rigid transform from the world to the ground plane, see `Scene.ground_from_world`.

        Returns:
            ``ground_from_world`` of shape (4, 4).

        Raises:
            UserError: If no ground plane is found.
        """

    def converted_to_meters(self, metres_per_unit: float) -> "FrameSource":
        """Convert all frames to meters.

        Args:
            metres_per_unit: Length of the current unit in meters, above 0.

        Returns:
            A source of the frames in meters.

        Raises:
            UserError: If `metres_per_unit` is not finite and above 0.
        """
        return self.map_scenes(lambda scene: scene.in_metres(metres_per_unit))

    def with_one_camera(self) -> "FrameSource":
        """Give all frames the median of their intrinsics; points keep their pixels and depth.

        Returns:
            A source of the frames with equal intrinsics.

        Raises:
            UserError: If no intrinsics are known.
        """
        known = self.cameras.intrinsics[self.cameras.intrinsics.isfinite().all(dim=(1, 2))]
        if not len(known):
            raise UserError("no intrinsics of the scene are known, so that there is no common camera")
        median = known.median(dim=0).values

        def share(scene: Scene) -> Scene:
            intrinsics = median.to(scene.cameras.intrinsics).expand_as(scene.cameras.intrinsics)
            return scene.with_cameras(replace(scene.cameras, intrinsics=intrinsics.clone()))

        return self.map_scenes(share)

    def aligned_to_ground(self) -> "FrameSource":
        """Rotate and move the world so that the ground is y = 0, as `Scene.levelled` does.

        Returns:
            A source of the aligned frames.

        Raises:
            UserError: If no ground plane is found.
        """
        transform = self.ground_from_world()
        return self.map_scenes(lambda scene: scene.transformed(transform))


class MemoryFrames(FrameSource):
    """Frames of results in memory.

    Args:
        results: The results.
    """

    def iter_frames(self, numbers: Sequence[int] | None = None) -> Iterator[Scene]:
        """See `FrameSource.iter_frames`."""
        numbers = range(self.num_frames) if numbers is None else numbers
        return (self.outline.scene.frames([number]) for number in numbers)

    def map_scenes(self, function: SceneMap) -> "MemoryFrames":
        """See `FrameSource.map_scenes`."""
        return MemoryFrames(self.outline.with_scene(function(self.outline.scene)))

    def ground_from_world(self) -> Float[Tensor, "4 4"]:
        """See `FrameSource.ground_from_world`."""
        return self.outline.scene.ground_from_world()


class LongClipFrames(FrameSource):
    """Frames of a long clip, which are read from their files one at a time.

    Args:
        folder: The folder of the long clip.
        index: Its index.
        function: Change of the world frame or the unit. None changes nothing.
    """

    max_samples = MAX_SAMPLES

    def __init__(self, folder: Path, index: LongScene, function: SceneMap | None = None) -> None:
        names = frame_file_names(index.info.source, index.num_frames)
        files = tuple(image_file(folder, number) for number in range(index.num_frames))
        scene = _placeholder_scene(index, function)
        stems = tuple(Path(name).stem for name in names)
        super().__init__(SavedResults(scene, index.times, index.info, files, stems))
        self._folder = folder
        self._index = index
        self._function = function

    def iter_frames(self, numbers: Sequence[int] | None = None) -> Iterator[Scene]:
        """See `FrameSource.iter_frames`."""
        frames = iter_frames(self._folder, range(self.num_frames) if numbers is None else numbers)
        return frames if self._function is None else map(self._function, frames)

    def map_scenes(self, function: SceneMap) -> "LongClipFrames":
        """See `FrameSource.map_scenes`."""
        first = self._function
        return LongClipFrames(
            self._folder, self._index, function if first is None else lambda scene: function(first(scene))
        )

    def ground_from_world(self) -> Float[Tensor, "4 4"]:
        """See `FrameSource.ground_from_world`. At most `MAX_GROUND_FRAMES` evenly spaced frames are used."""
        count = min(self.num_frames, MAX_GROUND_FRAMES)
        numbers = [position * self.num_frames // count for position in range(count)]
        scene = replace(load_frames(self._folder, numbers), tracks=None)
        return (scene if self._function is None else self._function(scene)).ground_from_world()


def open_frames(path: str | Path) -> FrameSource:
    """Open a result folder for reading frame by frame.

    Args:
        path: A ``scene.npz``, the folder that holds one, or the folder of a long clip.

    Returns:
        The frames: of a long clip from their files, otherwise in memory.

    Raises:
        UserError: If the archive or index is missing or damaged, or if its names do not fit its frames.
    """
    folder = Path(path)
    if folder.is_dir() and (folder / INDEX_FILE_NAME).is_file():
        return LongClipFrames(folder, load_index(folder))
    return MemoryFrames(read_results(path))


def _placeholder_scene(index: LongScene, function: SceneMap | None) -> Scene:
    """A scene with the cameras of all frames and maps of the right shape that occupy no memory and hold zeros."""
    num_frames = index.num_frames
    maps = index.cameras.world_from_cam.new_zeros(num_frames, 1, 1)
    points = maps[..., None].expand(num_frames, 1, 1, 3)
    unit = maps.new_tensor(index.metres_per_unit)
    distortion = None if index.distortion is None else index.distortion.to(maps)
    scene = Scene(index.cameras, maps, maps, points, maps, maps, unit, distortion=distortion)
    # The function is applied to maps of one pixel, because its results could occupy memory.
    scene = scene if function is None else function(scene)
    maps = maps.expand(num_frames, *index.size)
    return replace(
        scene,
        depths=maps,
        depth_confidence=maps,
        points=maps[..., None].expand(*maps.shape, 3),
        point_confidence=maps,
        dynamic=maps,
    )
