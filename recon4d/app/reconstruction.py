"""One reconstruction of the web app: from a folder of uploaded files to a folder of results, without the page."""

import math
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.app.options import JobOptions
from recon4d.app.uploads import check_space, clip_in
from recon4d.errors import UserError
from recon4d.runs.stages import Stages

if TYPE_CHECKING:
    from recon4d.models import SceneModel
    from recon4d.records import Clip, Scene
    from recon4d.refine import Refinement

VIEWS_FOLDER_NAME = "views"
"""Folder of the 3D views beside the folder of results."""


@dataclass(frozen=True)
class AppResult:
    """The result of one reconstruction, as the page shows it."""

    folder: Path
    """Folder of results, as `recon4d reconstruct` writes it."""
    labels: tuple[str, ...]
    """Name of each time, such as "0.50 s" or "picture 2"."""
    moments: tuple[Path, ...]
    """3D view of each time alone (GLB)."""
    scenes: tuple[Path, ...]
    """3D view of all times together, with what moves at this time (GLB)."""
    summary: tuple[str, ...]
    """What the result contains, one line for each topic."""
    confidence: tuple[str, ...]
    """What the confidences mean, and the expected errors if the model is calibrated."""
    distrust: tuple[str, ...]
    """What may be wrong, one line for each problem or warning; empty if nothing was found."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.labels)


def reconstruct_folder(inputs: Path, out: Path, options: JobOptions, stages: Stages) -> AppResult:
    """Reconstruct the clip in a folder.

    Args:
        inputs: Folder with a video, or with pictures.
        out: Folder of results to write, which must not exist. The 3D views are written beside it.
        options: What to do.
        stages: Receives the stages and lines for the user.

    Returns:
        The result.

    Raises:
        UserError: If the clip, the model or the disk is unsuitable.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _write_results(inputs, out, options, stages)
        stages.start("preparing the 3D view")
        result = describe_results(out, options.drop)
    told = [str(warning.message) for warning in caught if _is_for_people(warning)]
    return replace(result, distrust=tuple(dict.fromkeys([*result.distrust, *told])))


def describe_results(folder: Path, drop: float) -> AppResult:
    """Write the 3D views of a folder of results, and describe it.

    Args:
        folder: A folder of results.
        drop: Percentage of the pixels, the least confident ones, that are left out of the 3D views.

    Returns:
        The result, with the problems that `recon4d info` finds.

    Raises:
        UserError: If the folder cannot be read, or the views cannot be written.
    """
    from recon4d.app.scene_views import write_scene_views
    from recon4d.io import read_results
    from recon4d.runs.scene_report import describe_scene, explain_confidence, find_all_problems, measure

    results = read_results(folder)
    views = write_scene_views(folder.parent / VIEWS_FOLDER_NAME, results, drop)
    measured = measure(folder)
    return AppResult(
        folder=folder,
        labels=tuple(
            f"picture {number + 1}" if math.isnan(time) else f"{time:.2f} s"
            for number, time in enumerate(results.times.tolist())
        ),
        moments=views.moments,
        scenes=views.scenes,
        summary=tuple(line.strip() for line in describe_scene(measured)),
        confidence=tuple(line.strip() for line in explain_confidence(measured.expected, measured.info)),
        distrust=tuple(find_all_problems(measured)),
    )


def _write_results(inputs: Path, out: Path, options: JobOptions, stages: Stages) -> None:
    """Run the stages from reading to writing."""
    from recon4d.io import atomic_folder, read_clip, write_results
    from recon4d.refine import MAP_SIDE, output_size, upsample_scene
    from recon4d.runs.formatting import describe_clip
    from recon4d.runs.run_info import scene_info

    stages.start("reading")
    check_space(out.parent)
    path = clip_in(inputs)
    clip = read_clip(path, options.num_frames)
    stages.print(describe_clip(path.name, clip, None))
    stages.expect_frames(clip.num_frames)
    model = _load_model(options.model)
    scene, refinement = _predict(model, clip, options, stages)
    if refinement is not None:
        # If lens distortion was found, the refined scene is that of undistorted pictures.
        clip, scene = refinement.clip or clip, refinement.scene
    scene = upsample_scene(scene, clip, output_size(clip.size, scene.size, MAP_SIDE))

    stages.start("writing")
    calibration = model.calibration if refinement is None else refinement.calibration(model.calibration)
    settings = {"clip": path.name, "model": options.model, "refine": "auto" if options.is_refined else "off"}
    info = scene_info(model, clip, calibration, {**settings, "anchors": list(options.anchors(clip.num_frames))})
    info = replace(info, refinement=None if refinement is None else refinement.summary)
    with atomic_folder(out, overwrite=False) as folder:
        write_results(folder, clip, scene, info)


def _predict(
    model: "SceneModel", clip: "Clip", options: JobOptions, stages: Stages
) -> "tuple[Scene, Refinement | None]":
    """Run the network, and refine its prediction if that is wanted and possible."""
    from recon4d.inference import ReconstructConfig, predict_scene, reconstruct_and_match
    from recon4d.refine import MAP_SIDE
    from recon4d.runs.refinement_step import check_refinement, keep_prediction, refine

    mode = "auto" if options.is_refined else "off"
    obstacle = check_refinement(clip, mode)
    is_refined = options.is_refined and obstacle is None
    if not is_refined:
        stages.skip_refinement()
    stages.start("network")
    config = ReconstructConfig(anchors=options.anchors(clip.num_frames), on_progress=stages.advance)
    if is_refined:
        scene, matches = reconstruct_and_match(model, clip, config)
        return scene, refine(clip, scene, matches, mode, stages, MAP_SIDE)
    scene = predict_scene(model, clip, config)
    return scene, None if obstacle is None else keep_prediction(clip, scene, obstacle, stages)


@lru_cache(maxsize=1)  # one model in memory; most people try several clips with the same one
def _load_model(name: str) -> "SceneModel":
    """Load a model, to the GPU if there is one."""
    import torch

    from recon4d.zoo import find_model

    model = find_model(name)
    if not model.trained:
        raise UserError(f"{name} was never trained, so its results would be meaningless; choose another model")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _is_for_people(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is one of this package, or of a library that speaks to users."""
    developers = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
    return not issubclass(warning.category, developers) and "Triggered internally" not in str(warning.message)
