"""An npz file for each frame, for scripts that read one frame at a time."""

from pathlib import Path

import numpy as np
from torch import Tensor

from recon4d.io.exporters.own_pictures import OwnPicture, own_picture
from recon4d.io.exporters.selected_frames import SelectedFrames


def write_frame_arrays(folder: Path, frames: SelectedFrames) -> str:
    """Write ``<frame>.npz`` for each frame, which ``numpy.load(..., allow_pickle=False)`` opens.

    All arrays are in pixels of the maps, of height H and width W; without the padding of pictures of different sizes:

    =====================  =========  ==================================================================================
    name                   shape      meaning
    =====================  =========  ==================================================================================
    ``image``              (H, W, 3)  uint8 RGB
    ``depth``              (H, W)     z in the camera, in scene units; meaningless where ``depth_confidence`` is 0
    ``depth_confidence``   (H, W)     confidence of ``depth``; 0 where it is unknown
    ``points``             (H, W, 3)  world points from depth and camera; meaningless where ``depth_confidence`` is 0
    ``confident``          (H, W)     bool: pixels that the criteria of the export select
    ``moving``             (H, W)     bool: dynamic pixels
    ``intrinsics``         (3, 3)     in pixels of the maps
    ``world_from_cam``     (4, 4)     rigid, camera to world, OpenCV axes
    ``time``               ()         seconds; NaN if unknown
    ``metres_per_unit``    ()         length of the scene unit in meters; NaN if unknown
    =====================  =========  ==================================================================================

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If a picture is missing or damaged.
    """
    source = frames.source
    for number, frame in frames.numbered():
        picture = own_picture(source, number)

        def of_picture(values: Tensor, picture: OwnPicture = picture) -> np.ndarray:
            return picture.crop(values).numpy()

        np.savez(
            folder / f"{source.names[number]}.npz",
            image=of_picture(source.read_image(number).permute(1, 2, 0)),
            depth=of_picture(frame.depths[0]),
            depth_confidence=of_picture(frame.depth_confidence[0]),
            points=of_picture(frame.points_from_depth[0]),
            confident=of_picture(frames.confident_mask(frame)[0]),
            moving=of_picture(frame.is_dynamic[0]),
            intrinsics=picture.map_intrinsics.to(frame.cameras.intrinsics).numpy(),
            world_from_cam=frame.cameras.world_from_cam[0].numpy(),
            time=source.times[number].numpy(),
            metres_per_unit=frame.metres_per_unit.numpy(),
        )
    return f"{source.num_frames} frames of {source.size[1]} x {source.size[0]} pixels"
