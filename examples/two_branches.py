"""The two branches of St4RTrack (Feng et al. 2025) as outputs and losses, on a synthetic scene with exact ground truth.

    python examples/two_branches.py

For the first frame and any frame j, one network predicts two point maps in the world of the first camera:

- reconstruction branch: the pixels of frame j at their own time, ``scene.points[j]``;
- tracking branch: the pixels of the first frame at the time of frame j, ``scene.tracks.points[0, j]``.

Where a point of the first frame is visible in frame j, both branches describe the same point: its track, projected into
frame j, meets the point map there. The program prints this check and the errors of a model, for a pass over the whole
clip and for passes over the pairs (first frame, frame j) only, as St4RTrack makes them; then both losses.
"""

from dataclasses import dataclass, replace

import torch
import tyro
from torch import Tensor

from recon4d import geometry, losses
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.models import SceneModel
from recon4d.records import Clip, Scene
from recon4d.zoo import find_model

DYNAMIC_SHARE = 0.02
"""Points that are displaced by more than this share of their depth are dynamic. Hand-tuned."""


@dataclass(frozen=True)
class Arguments:
    """Compare both branches of the ground truth and of a model, frame by frame, and print their losses."""

    model: str = "recon4d_mini"
    """Name of a model that predicts dense tracks, see `recon4d models`."""
    seed: int = 0
    """Number of the synthetic scene."""
    frames: int = 6
    """Number of frames."""
    size: tuple[int, int] = (144, 192)
    """Height and width in pixels, multiples of 16."""


def main(arguments: Arguments) -> None:
    height, width = arguments.size
    config = SyntheticConfig(num_frames=arguments.frames, height=height, width=width, static_scene_share=0.0)
    sample = SyntheticScenes(config, anchors=(0,)).sample(arguments.seed)
    truth = losses.normalized(sample.scene)  # in the world of the first camera, with a mean distance of 1
    model = find_model(arguments.model, allow_untrained=True)
    whole = scaled_like(predict(model, sample.clip), truth)

    print("Medians in % of depth. gap: between both branches where they see the same point. X: error of a branch.")
    columns = ("gap of truth", "gap", "X^j_j", "X^1_j", "in pairs X^j_j", "X^1_j", "dynamic X^1_j", "held still")
    print("frame j  " + "  ".join(f"{column:>14}" for column in columns))
    for j in range(1, arguments.frames):
        pair = truth.frames([0, j])
        of_pair = scaled_like(predict(model, sample.clip.frames([0, j])), pair)
        values = (
            *(branch_difference(truth, truth, j), branch_difference(whole, truth, j)),
            *(reconstruction_error(whole, truth, j), tracking_error(whole, truth, j)),
            *(reconstruction_error(of_pair, pair, 1), tracking_error(of_pair, pair, 1)),
            tracking_error(whole, truth, j, only_dynamic=True),
            tracking_error(held_still(truth), truth, j, only_dynamic=True),
        )
        print(f"{j:7}  " + "  ".join(f"{100 * value:14.2f}" for value in values))
    for name, scene in (("the truth", truth), (arguments.model, whole)):
        reconstruction, tracking = branch_losses(scene, truth)
        print(f"losses of {name}: reconstruction {float(reconstruction):.4f}, tracking {float(tracking):.4f}")


def predict(model: SceneModel, clip: Clip) -> Scene:
    """Run a model on a clip of suitable size; the tracks start at the first frame."""
    batch = Clip.stack([clip])
    with torch.no_grad():
        return model(batch.images, batch.times)[0].in_frame(0)


def reconstruction_branch(scene: Scene, j: int) -> Tensor:
    """Return X^j_j (height, width, 3): the pixels of frame j at their own time, in the world of the first camera."""
    return scene.points[j]


def tracking_branch(scene: Scene, j: int) -> Tensor:
    """Return X^1_j (height, width, 3): the pixels of the first frame at the time of frame j, in the same world."""
    assert scene.tracks is not None
    return scene.tracks.points[0, j].unflatten(0, scene.size)


def scaled_like(scene: Scene, truth: Scene) -> Scene:
    """Scale a scene by one median of distances from the first camera, over all known pixels of all frames."""
    is_known = truth.point_confidence > 0
    medians = [points[is_known].norm(dim=-1).median() for points in (truth.points, scene.points)]
    return scene.scaled(float(medians[0] / medians[1]))


def held_still(truth: Scene) -> Scene:
    """Keep the true points of the first frame where they are: what a reconstruction without tracks would say."""
    assert truth.tracks is not None
    points = truth.tracks.points[:, :1].expand_as(truth.tracks.points)
    return replace(truth, tracks=replace(truth.tracks, points=points))


def reconstruction_error(scene: Scene, truth: Scene, j: int) -> float:
    """Return the median distance of X^j_j from the truth, relative to the depth of the pixel."""
    is_known = truth.point_confidence[j] > 0
    errors = (reconstruction_branch(scene, j) - reconstruction_branch(truth, j)).norm(dim=-1) / truth.depths[j]
    return float(errors[is_known].median())


def tracking_error(scene: Scene, truth: Scene, j: int, only_dynamic: bool = False) -> float:
    """Return the median distance of X^1_j from the truth, relative to depth in the first frame.

    Points that are occluded in frame j count too. NaN if no point is dynamic.
    """
    true, depths = tracking_branch(truth, j), truth.depths[0]
    is_counted = is_tracked(truth, j)
    if only_dynamic:
        is_counted &= (true - tracking_branch(truth, 0)).norm(dim=-1) > DYNAMIC_SHARE * depths
    errors = (tracking_branch(scene, j) - true).norm(dim=-1) / depths
    return float(errors[is_counted].median())


def is_tracked(truth: Scene, j: int) -> Tensor:
    """Return the pixels of the first frame whose position at the time of frame j is known."""
    assert truth.tracks is not None
    return (truth.tracks.confidence[0, [0, j]] > 0).all(dim=0).unflatten(0, truth.size) & (truth.depths[0] > 0)


def branch_difference(scene: Scene, truth: Scene, j: int) -> float:
    """Return the median difference in depth of both branches, over depth, where the true point is visible in frame j.

    The track is projected into frame j by the cameras of the scene and compared with the point map there.
    """
    assert truth.tracks is not None
    cam_from_world = geometry.invert(scene.cameras.world_from_cam[j])
    in_camera = geometry.transform_points(cam_from_world, tracking_branch(scene, j))
    pixels = geometry.project(in_camera, scene.cameras.intrinsics[j])
    row, column = geometry.pixel_indices(pixels, scene.size)
    height, width = scene.size
    is_inside = (pixels > 0).all(dim=-1) & (pixels < torch.tensor([width, height])).all(dim=-1)
    is_visible = truth.tracks.visibility[0, j].unflatten(0, scene.size) > 0.5
    is_counted = is_tracked(truth, j) & is_visible & is_inside & (in_camera[..., 2] > 0)
    # Depths are compared, because the center of the pixel is up to half a pixel away from the projected point.
    met = geometry.transform_points(cam_from_world, reconstruction_branch(scene, j)[row, column])
    difference = (met[..., 2] - in_camera[..., 2]).abs() / truth.depths[0]
    return float(difference[is_counted].median())


def branch_losses(scene: Scene, truth: Scene) -> tuple[Tensor, Tensor]:
    """Return the losses of both branches, which ``recon4d train`` calls ``points`` and ``tracked_points``."""
    assert scene.tracks is not None
    assert truth.tracks is not None
    valid = (truth.point_confidence > 0) & (truth.depths > 0)
    confidence = torch.ones_like(truth.depths)  # weighs all pixels alike; in training it is predicted
    reconstruction = losses.point_term(scene.points, confidence, truth.points, truth.depths, valid)
    tracks = losses.sample_tracks(scene.tracks, truth.tracks.pixels, truth.size)
    tracks = replace(tracks, confidence=torch.ones_like(tracks.confidence))
    tracking = losses.tracking_point_term(tracks, truth.tracks, losses.depths_at_anchors(truth))
    return losses.mean(reconstruction), losses.mean(tracking)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
