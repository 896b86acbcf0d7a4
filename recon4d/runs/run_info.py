"""The description of a reconstruction, which is stored with its results."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon4d.io import SceneInfo
    from recon4d.io.long_clips import LongClip
    from recon4d.models import SceneModel
    from recon4d.records import Calibration, Clip

    Settings = dict[str, str | int | float | bool | list | None]


def scene_info(
    model: "SceneModel", clip: "Clip | LongClip", calibration: "Calibration | None", settings: "Settings"
) -> "SceneInfo":
    """Describe a run.

    Args:
        model: The network.
        clip: The clip.
        calibration: Meaning of the confidences; None if the model is not calibrated.
        settings: Options of the command.

    Returns:
        The description.
    """
    from recon4d import __version__
    from recon4d.inference import assumptions
    from recon4d.io import SceneInfo

    return SceneInfo(
        model=model.name,
        trained=model.trained,
        version=__version__,
        source=clip.source,
        original_size=clip.size,
        settings=settings,
        calibration=calibration,
        assumptions=assumptions(model, clip),
    )
