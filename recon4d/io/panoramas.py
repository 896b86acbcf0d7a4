"""Splitting of 360 degree panoramas into perspective views, whose intrinsics and relative rotations are exact.

A panorama is equirectangular: its x is the longitude and its y the latitude. Its camera looks along the middle of the
picture, with OpenCV axes (x right, y down, z forward). The views of one panorama share its center; they are a `Rig`
whose relative poses are known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import pixel_grid
from recon4d.io.panorama_tags import PanoramaArea, read_panorama_area, read_video_projection
from recon4d.io.photos import PHOTO_SUFFIXES
from recon4d.records import Clip, ClipSource, Priors, Rig, rig_poses

DEFAULT_VIEWS = 8
"""Number of views around. Hand-tuned: neighbors of 90 degrees have half of their pictures in common."""
MAX_VIEWS = 72
"""Largest number of views around. Hand-tuned."""
FIELD_OF_VIEW_RANGE = (20.0, 140.0)
"""Range of the field of view of a view in degrees. Hand-tuned: wider views are stretched at their borders."""
ASPECT_TOLERANCE = 0.01
"""Largest relative difference of the aspect ratio of an untagged panorama from 2 to 1. Hand-tuned."""
SAMPLED_PICTURES = 16
"""Largest number of pictures whose metadata are read to recognize panoramas. Hand-tuned."""

PanoramaPixels = Float64[Tensor, "view_height view_width 2"]
"""Position (x, y) in the whole sphere's picture of each pixel of a view."""


@dataclass(frozen=True)
class PanoramaConfig:
    """Perspective views that a panorama is split into.

    Raises:
        UserError: If a value is out of range.
    """

    views: int = DEFAULT_VIEWS
    """Number of views around the horizon, the first one along the middle of the picture, the others to its right."""
    field_of_view: float = 90.0
    """Horizontal and vertical field of view of each view in degrees."""
    poles: bool = False
    """Whether there is a view straight up and one straight down too."""

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MAX_VIEWS:
            raise UserError(f"a panorama is to be split into {self.views} views; wanted 1 to {MAX_VIEWS}")
        lowest, highest = FIELD_OF_VIEW_RANGE
        if not lowest <= self.field_of_view <= highest:
            raise UserError(
                f"the views of a panorama are to see {self.field_of_view:g} degrees; wanted {lowest:g} to {highest:g}"
            )

    @property
    def num_views(self) -> int:
        """Number of views of each panorama."""
        return self.views + 2 * self.poles

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each view: its angle to the right in degrees, "up" or "down"."""
        angles = tuple(f"{round(360 * view / self.views) % 360:03d}" for view in range(self.views))
        return angles + (("up", "down") if self.poles else ())

    def rotations(self) -> Float64[Tensor, "view 3 3"]:
        """Compute the direction of each view.

        Returns:
            Rotations from the axes of each view to those of the panorama.
        """
        angles = [2 * math.pi * view / self.views for view in range(self.views)]
        around = [
            [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
            for angle in angles
        ]
        poles = [[[1, 0, 0], [0, 0, -1], [0, 1, 0]], [[1, 0, 0], [0, 0, 1], [0, -1, 0]]] if self.poles else []
        return torch.tensor([*around, *poles], dtype=torch.float64)


def panorama_reason(path: Path, names: Sequence[str] = ()) -> str | None:
    """Find out from metadata whether a video or pictures are panoramas.

    Args:
        path: A video, a picture, or the folder of the pictures.
        names: Names of the pictures in the folder. At most `SAMPLED_PICTURES` of them are read.

    Returns:
        Which file is one, for messages; None if there is none.
    """
    if path.is_dir():
        step = max(1, len(names) // SAMPLED_PICTURES)
        tagged = next((name for name in names[::step] if read_panorama_area(path / name) is not None), None)
        return None if tagged is None else f"{path / tagged} is an equirectangular picture (XMP GPano)"
    if path.suffix.lower() in PHOTO_SUFFIXES:
        return None if read_panorama_area(path) is None else f"{path} is an equirectangular picture (XMP GPano)"
    projection = read_video_projection(path)
    return None if projection is None else f"{path} is a spherical video ({projection})"


def refuse_panorama(path: Path, names: Sequence[str] = ()) -> None:
    """Refuse panoramas, which no pinhole camera shows.

    Args:
        path: A video, a picture, or the folder of the pictures.
        names: Names of the pictures in the folder.

    Raises:
        UserError: If metadata say that there are panoramas.
    """
    if (reason := panorama_reason(path, names)) is not None:
        raise UserError(
            f"{reason}: a 360 degree panorama, which no pinhole camera shows; split it into perspective views "
            "(split_panoramas)"
        )


def split_panoramas(clip: Clip, config: PanoramaConfig = PanoramaConfig()) -> Clip:
    """Split the panoramas of a clip into perspective views.

    The views have the resolution of the middle of the panorama. They come camera after camera: all moments of the first
    view, then all of the second. Known poses of the panoramas and masks become those of the views.

    Args:
        clip: A clip of equirectangular pictures.
        config: The views.

    Returns:
        The clip of the views with exact intrinsics and a rig. If there is a single panorama, or if all poses are known,
        the poses of all views are known too.

    Raises:
        UserError: If the pictures are not those of a sphere, or if depth is known, which has no meaning for them.
    """
    areas = _areas(clip)
    if clip.priors is not None and clip.priors.depths is not None:
        raise UserError("the depth of panoramas is given, and it is not read; give the depth of perspective pictures")
    side = round(areas[0].full_width / math.pi * math.tan(math.radians(config.field_of_view) / 2))
    side = max(2, side - side % 2)
    focal = side / 2 / math.tan(math.radians(config.field_of_view) / 2)
    intrinsics = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]], dtype=torch.float64)
    rotations, time = config.rotations(), clip.num_frames
    images = torch.zeros(config.num_views, time, 3, side, side, dtype=torch.uint8)
    ignore = torch.zeros(config.num_views, time, side, side, dtype=torch.bool)
    known_ignore = None if clip.priors is None else clip.priors.ignore
    for view, rotation in enumerate(rotations):
        pixels = _sphere_pixels(side, intrinsics, rotation, areas[0])
        for moment in range(time):
            mask = None if known_ignore is None else known_ignore[moment]
            images[view, moment], ignore[view, moment] = _look_up(clip.images[moment], mask, pixels, areas[moment])
    rig_from_cam = torch.eye(4, dtype=torch.float64).repeat(config.num_views, 1, 1)
    rig_from_cam[:, :3, :3] = rotations
    rig = Rig(
        tuple(f"view {name}" for name in config.names),
        tuple(view for view in range(config.num_views) for _ in range(time)),
        tuple(range(time)) * config.num_views,
        rig_poses(rig_from_cam),
    )
    world_from_rig = torch.full((time, 4, 4), torch.nan) if clip.priors is None else clip.priors.world_from_cam
    if time == 1 and not world_from_rig.isfinite().all():
        world_from_rig = torch.eye(4)[None]
    world_from_cam = (world_from_rig.double() @ rig_from_cam[:, None]).flatten(0, 1)
    priors = Priors(
        intrinsics.float().expand(len(world_from_cam), 3, 3).clone(),
        world_from_cam.float(),
        ignore=ignore.flatten(0, 1) if ignore.any() else None,
    )
    times, source = clip.times.repeat(config.num_views), _source(clip.source, config)
    return Clip(images.flatten(0, 1), times, priors, source, rig)


def _areas(clip: Clip) -> list[PanoramaArea]:
    """The part of the sphere that each picture shows, all of the same size."""
    height, width = clip.size
    whole = PanoramaArea(width, height, 0, 0, width, height)
    source = clip.source
    path = None if source is None else Path(source.path)
    tagged: list[PanoramaArea | None] = [None] * clip.num_frames
    if source is not None and path is not None and path.exists():
        if path.is_dir():
            tagged = [read_panorama_area(path / name) for name in source.names]
        else:
            tagged = [read_panorama_area(path)] * clip.num_frames
            projection = read_video_projection(path) if path.suffix.lower() not in PHOTO_SUFFIXES else None
            if projection not in (None, "equirectangular"):
                raise UserError(f"{path} is a {projection} video; only equirectangular ones can be split into views")
    if None in tagged and abs(width / (2 * height) - 1) > ASPECT_TOLERANCE:
        raise UserError(
            f"the pictures have {width} x {height} pixels; wanted equirectangular panoramas of 360 x 180 degrees, "
            "which are twice as wide as high, or pictures whose XMP metadata (GPano) tell the part that they show"
        )
    areas = [whole if area is None else _scaled(area, clip.size) for area in tagged]
    if any((area.full_width, area.full_height) != (areas[0].full_width, areas[0].full_height) for area in areas):
        raise UserError("the panoramas show parts of spheres of different sizes; give pictures of one size")
    return areas


def _scaled(area: PanoramaArea, size: tuple[int, int]) -> PanoramaArea:
    """Convert an area to pixels of a picture that may have been resized after its metadata were written."""
    height, width = size
    horizontal, vertical = width / area.width, height / area.height
    return PanoramaArea(
        round(area.full_width * horizontal),
        round(area.full_height * vertical),
        round(area.left * horizontal),
        round(area.top * vertical),
        width,
        height,
    )


def _sphere_pixels(
    side: int, intrinsics: Float64[Tensor, "3 3"], rotation: Float64[Tensor, "3 3"], area: PanoramaArea
) -> PanoramaPixels:
    """Compute where the whole sphere's picture shows each pixel of a view."""
    grid = pixel_grid(side, side, dtype=torch.float64)
    rays = torch.cat([(grid - intrinsics[:2, 2]) / intrinsics[0, 0], torch.ones(side, side, 1).double()], dim=-1)
    x, y, z = (rays @ rotation.T).unbind(-1)
    longitude, latitude = torch.atan2(x, z), torch.atan2(-y, torch.hypot(x, z))
    column = (longitude / (2 * math.pi) + 0.5) * area.full_width
    row = (0.5 - latitude / math.pi) * area.full_height
    return torch.stack([column, row], dim=-1)


def _look_up(
    image: UInt8[Tensor, "3 height width"],
    mask: Bool[Tensor, "height width"] | None,
    pixels: PanoramaPixels,
    area: PanoramaArea,
) -> tuple[UInt8[Tensor, "3 view_height view_width"], Bool[Tensor, "view_height view_width"]]:
    """Interpolate a view and the mask of the pixels to ignore, those outside of the picture included."""
    local = pixels - torch.tensor([area.left, area.top], dtype=torch.float64)
    if area.width < area.full_width:  # the picture may begin at any longitude
        local[..., 0] %= area.full_width
    outside = ~((local >= 0) & (local < torch.tensor([area.width, area.height], dtype=torch.float64))).all(dim=-1)
    ignored = torch.zeros(1, *image.shape[1:]) if mask is None else mask[None].float()
    is_whole = (area.width, area.height) == (area.full_width, area.full_height)
    channels = torch.cat([image.float(), ignored])
    padded = _wrap(channels) if is_whole else F.pad(channels[None], (1, 1, 1, 1), mode="replicate")[0]
    size = torch.tensor([area.width + 2, area.height + 2], dtype=torch.float64)
    grid = 2 * (local + 1) / size - 1
    found = F.grid_sample(padded[None], grid[None].float(), "bilinear", "zeros", align_corners=False)[0]
    colors = torch.where(outside, 0.0, found[:3]).round().clamp(0, 255).to(torch.uint8)
    return colors, outside | (found[3] > 0)


def _wrap(image: Float[Tensor, "channels height width"]) -> Float[Tensor, "channels padded_height padded_width"]:
    """Add the neighbors of the border pixels: those of the other end, and beyond the poles those turned by 180."""
    half = image.shape[-1] // 2
    above, below = (torch.roll(image[:, row : row + 1], half, dims=-1) for row in (0, image.shape[1] - 1))
    tall = torch.cat([above, image, below], dim=1)
    return torch.cat([tall[..., -1:], tall, tall[..., :1]], dim=-1)


def _source(source: ClipSource | None, config: PanoramaConfig) -> ClipSource | None:
    """Name the views after their panorama and their direction."""
    if source is None:
        return None
    names = tuple(
        f"{PurePath(name).with_suffix('')}_{view}{PurePath(name).suffix}"
        for view in config.names
        for name in source.names
    )
    return replace(source, names=names, numbers=source.numbers * config.num_views)
