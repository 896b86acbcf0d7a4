"""Localization of new pictures in a finished scene, of a clip or of a long clip."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices, resized_intrinsics
from recon4d.io.cameras.exif import read_exif_focal
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.io.cameras.lenses import Lens, brown_lens
from recon4d.io.exporters.frame_source import FrameSource, open_frames
from recon4d.io.photos import list_photos, read_photo
from recon4d.records import Cameras, Clip, LocatedCameras, LocationTrust
from recon4d.refine.localization.features import Features, detect_features, match_features
from recon4d.refine.localization.localize import IntrinsicsHypothesis, Location, localize
from recon4d.refine.localization.scene_views import SceneView, view_frame
from recon4d.refine.no_solution import NoSolution

MAX_VIEWS = 48
"""Largest number of evenly spaced frames that each picture is compared with. Hand-tuned."""
NUM_BEST_VIEWS = 6
"""Number of best matching frames of a longer clip whose neighbors are compared too. Hand-tuned."""
EXIF_ERROR = 0.05
"""Standard deviation of the logarithm of a focal length from EXIF fields. Hand-tuned."""
GUESS_ERROR = 0.5
"""Standard deviation of the logarithm of a guessed focal length. Hand-tuned."""
GUESSED_FOCAL = 1.2
"""Guessed focal length as a multiple of the longer side of a picture, as COLMAP guesses it."""


@dataclass(frozen=True)
class _Picture:
    """A picture in memory."""

    name: str
    image: UInt8[Tensor, "3 height width"]
    path: Path | None

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]


@dataclass
class _SceneViews:
    """Views of a scene, computed when they are needed."""

    source: FrameSource
    _views: dict[int, SceneView | None] = field(default_factory=dict)

    def of(self, numbers: Sequence[int]) -> list[SceneView]:
        """Return the views of the frames whose cameras are known."""
        missing = [number for number in numbers if number not in self._views]
        for number, scene in zip(missing, self.source.iter_frames(missing), strict=True):
            self._views[number] = view_frame(scene, self.source.read_original_image(number))
        views = [self._views[number] for number in numbers]
        return [view for view in views if view is not None]

    def near(self, features: Features) -> list[SceneView]:
        """Return evenly spaced views; of longer clips also those between the ones that a picture matches best."""
        total = self.source.num_frames
        coarse = evenly_spaced_indices(total, MAX_VIEWS).tolist()
        views = self.of(coarse)
        if total <= MAX_VIEWS:
            return views
        counts = [len(match_features(features, view.features)) for view in views]
        best = sorted(range(len(views)), key=lambda place: (-counts[place], place))[:NUM_BEST_VIEWS]
        known = [number for number in coarse if self._views[number] is not None]
        step = max(1, (total // MAX_VIEWS) // 2)
        between = {known[place] + shift for place in best for shift in (-step, step)}
        chosen = sorted({known[place] for place in best} | {number for number in between if 0 <= number < total})
        return self.of(chosen)


def locate(scene: str | Path | FrameSource, images: Any, intrinsics: str | None = None) -> LocatedCameras:
    """Estimate where pictures were taken in a finished scene. The result is deterministic.

    Features of each picture are matched with those of the frames, on static surfaces. A camera is estimated by RANSAC
    from the points that depth gives to the matches, and adjusted together with the points. Without `intrinsics`, a
    picture of the size of the scene's pictures is assumed to come from the same camera, unless another focal length
    explains it significantly better; for others, the focal length is estimated, starting from the EXIF fields.

    Args:
        scene: The folder of a reconstruction with the pictures of its frames, of a clip or of a long clip.
        images: A picture, a folder of pictures, several of these, or images in memory, such as an array of shape
            (picture, height, width, 3).
        intrinsics: Known intrinsics of all pictures, as `recon4d reconstruct --intrinsics` takes them.

    Returns:
        The cameras in the world of the scene, with a measure of trust, or the reason why a picture cannot be located.

    Raises:
        UserError: If the scene or a picture cannot be read, or the intrinsics do not fit.
    """
    source = scene if isinstance(scene, FrameSource) else open_frames(scene)
    _warn_about_scene(source)
    views = _SceneViews(source)
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    found: list[Location | str] = []
    for picture in _read_pictures(images):
        features = detect_features(picture.image)
        hypotheses = _hypotheses(picture, source, intrinsics)
        names.append(picture.name)
        sizes.append(picture.size)
        try:
            found.append(localize(features, picture.size, views.near(features), hypotheses))
        except NoSolution as reason:
            found.append(str(reason))
    return _located(names, sizes, found)


def _warn_about_scene(source: FrameSource) -> None:
    summary = source.outline.info.refinement
    if summary is not None and summary.is_accepted and summary.is_rotation_only:
        warnings.warn(
            "the cameras of the scene do not translate, which determines no depth: positions have no meaning",
            stacklevel=3,
        )


def _read_pictures(images: Any) -> Iterator[_Picture]:
    """Read pictures one by one; their names are checked before the first is read."""
    if isinstance(images, str | Path):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(one, str | Path) for one in images):
        paths = [path for one in images for path in (list_photos(one) if Path(one).is_dir() else [Path(one)])]
        if not paths:
            raise UserError("no pictures were given; wanted at least one")
        return (_Picture(str(path), read_photo(path), path) for path in paths)
    clip = images if isinstance(images, Clip) else Clip.from_images(images)
    return (_Picture(str(number), image, None) for number, image in enumerate(clip.images))


def _hypotheses(picture: _Picture, source: FrameSource, intrinsics: str | None) -> list[IntrinsicsHypothesis]:
    """List possible intrinsics of a picture, the most likely first."""
    if intrinsics is not None:
        clip = Clip(picture.image[None], torch.zeros(1))
        given = read_intrinsics(intrinsics, clip)
        return [IntrinsicsHypothesis("given", given.matrices[0].double(), 0.0, lens=given.lens)]
    known = source.cameras.intrinsics[source.cameras.intrinsics.isfinite().all(dim=(1, 2))].double()
    if len(known) and picture.size == source.original_size:
        own = resized_intrinsics(known.quantile(0.5, dim=0), source.size, source.original_size)
        same = IntrinsicsHypothesis("the scene's camera", own, 0.0)
        zoomed = IntrinsicsHypothesis("the scene's camera with another focal length", own, GUESS_ERROR, is_guess=True)
        if source.distortion is None:
            return [same, zoomed]
        lens = brown_lens(source.distortion)
        return [replace(same, lens=lens), replace(same, name="the scene's camera without its distortion"), zoomed]
    hypotheses = []
    focal = None if picture.path is None else read_exif_focal(picture.path, picture.size)
    if focal is not None:
        hypotheses.append(IntrinsicsHypothesis("EXIF fields, adjusted", _centered(focal, picture.size), EXIF_ERROR))
    guess = _centered(GUESSED_FOCAL * max(picture.size), picture.size)
    return [*hypotheses, IntrinsicsHypothesis("estimated", guess, GUESS_ERROR, True)]


def _centered(focal: float, size: tuple[int, int]) -> Tensor:
    height, width = size
    matrix = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    return torch.tensor(matrix, dtype=torch.double)


def _located(names: Sequence[str], sizes: Sequence[tuple[int, int]], found: Sequence[Location | str]) -> LocatedCameras:
    count = len(names)
    poses = torch.full((count, 4, 4), torch.nan, dtype=torch.double)
    intrinsics = torch.full((count, 3, 3), torch.nan, dtype=torch.double)
    distortion = torch.zeros(count, 5, dtype=torch.double)
    trust: list[LocationTrust | None] = []
    for number, location in enumerate(found):
        if isinstance(location, str):
            trust.append(None)
            continue
        poses[number], intrinsics[number] = location.world_from_cam, location.intrinsics
        if location.hypothesis.lens is not None:
            distortion[number] = _coefficients(location.hypothesis.lens)
        trust.append(_trust(location))
    return LocatedCameras(
        tuple(names),
        tuple(sizes),
        Cameras(poses, intrinsics),
        distortion,
        tuple(trust),
        tuple(location if isinstance(location, str) else "" for location in found),
    )


def _coefficients(lens: Lens) -> Tensor:
    """Return OpenCV's coefficients of a lens; NaN if it has another model."""
    if lens.model not in ("OPENCV", "FULL_OPENCV") or any(lens.coefficients[5:]):
        return torch.full((5,), torch.nan, dtype=torch.double)
    return torch.tensor([*lens.coefficients, 0.0][:5], dtype=torch.double)


def _trust(location: Location) -> LocationTrust:
    relative = location.position_error / location.depth if location.depth > 0 else math.nan
    return LocationTrust(
        location.num_inliers,
        location.inlier_fraction,
        location.coverage,
        location.rotation_error,
        location.position_error,
        relative,
        location.hypothesis.name,
    )
