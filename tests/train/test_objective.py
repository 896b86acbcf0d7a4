"""The training objective: counts and weights of its terms, and the priors of the network."""

from dataclasses import replace

import pytest
import torch
from da3_weights import tiny_config
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.losses import normalized
from recon4d.models import Model
from recon4d.records import Scene, Tracks
from recon4d.train.batches import make_priors
from recon4d.train.config import DataConfig, LossWeights, TrainConfig
from recon4d.train.loop import make_trainable_model
from recon4d.train.objective import (
    DEFAULT_TERMS,
    Batch,
    TrainModule,
    objective,
)
from recon4d.train.terms import select_anchors


def test_the_objective_by_hand() -> None:
    """Depth 2 x 3/4 and rotation 4 x 10/5; terms with count 0 are 0 and not NaN."""
    totals, counts = torch.zeros(len(DEFAULT_TERMS)), torch.zeros(len(DEFAULT_TERMS))
    for name, total, count in (("depth", 3.0, 4.0), ("rotation", 10.0, 5.0)):
        totals[DEFAULT_TERMS.index(name)], counts[DEFAULT_TERMS.index(name)] = total, count
    loss, means = objective(totals, counts, LossWeights(depth=2.0, rotation=4.0))
    assert loss.item() == pytest.approx(2 * 0.75 + 4 * 2)
    assert means[DEFAULT_TERMS.index("depth")].item() == 0.75
    assert means.isfinite().all()
    assert objective(totals, counts, LossWeights(depth=0.0, rotation=0.0))[0].item() == 0


def test_anchors_are_selected_by_frame_number() -> None:
    """Anchors may be in any order; frames that are not anchors have confidence 0."""
    generator = torch.Generator().manual_seed(0)
    tracks = Tracks(
        points=torch.randn(2, 3, 4, 5, 3, generator=generator),
        visibility=torch.rand(2, 3, 4, 5, generator=generator),
        confidence=torch.ones(2, 3, 4, 5),
        anchors=torch.tensor([[0, 2, 3], [3, 1, 0]]),
        pixels=torch.rand(2, 3, 5, 2, generator=generator),
    )
    found = select_anchors(tracks, torch.tensor([[3, 1], [1, 3]]))
    assert torch.equal(found.points[0, 0], tracks.points[0, 2])
    assert torch.equal(found.points[1, 0], tracks.points[1, 1])
    assert torch.equal(found.visibility[1, 1], tracks.visibility[1, 0])
    assert torch.equal(found.pixels[1, 1], tracks.pixels[1, 0])
    assert found.confidence.amax(dim=(2, 3)).tolist() == [[1, 0], [1, 1]]


def batch_of(scene: Scene, frames: int, size: tuple[int, int] = (32, 48)) -> Batch:
    """Make a batch of one exact clip, at a size that the tiny model accepts."""
    sample = Sample(make_clip(frames).resized(*size), scene.resized(*size))
    stacked = Sample.stack([sample])
    none = torch.zeros(1, dtype=torch.bool)
    clip = replace(stacked.clip, priors=make_priors(stacked, none, none))
    return Batch(replace(stacked, clip=clip), torch.zeros(1, 1, dtype=torch.long))


def counts_of(scene: Scene, frames: int = 3) -> dict[str, float]:
    model = make_trainable_model(TrainConfig(model="recon4d_tiny", data=DataConfig()))
    totals, counts = TrainModule(model)(batch_of(scene, frames))
    assert totals.isfinite().all()
    return dict(zip(DEFAULT_TERMS, counts.tolist(), strict=True))


def test_terms_count_valid_ground_truth() -> None:
    counts = counts_of(make_scene())
    pixels = 3 * 32 * 48
    assert counts["depth"] == counts["points"] == counts["moving"] == pixels
    assert counts["rotation"] == counts["translation"] == 6  # ordered pairs of three frames
    assert counts["centre"] == counts["field_of_view"] == counts["principal_point"] == 3
    # Queries of the small clip at two other times; nothing moves, so each has weight 1.
    assert counts["motion"] == counts["track_confidence"] == counts["visibility"] == 2 * 12 * 16
    assert counts["match"] > 100


def test_unknown_ground_truth_counts_nothing() -> None:
    scene = make_scene()
    unknown = replace(
        scene,
        depth_confidence=torch.zeros_like(scene.depths),
        point_confidence=torch.zeros_like(scene.depths),
        dynamic=torch.full_like(scene.dynamic, torch.nan),
        tracks=None,
    )
    counts = counts_of(unknown)
    of_pixels = ("depth", "depth_gradient", "points", "moving")
    for name in (*of_pixels, "motion", "track_confidence", "visibility", "match", "no_match"):
        assert counts[name] == 0, name
    assert counts["rotation"] == 6


def test_predictions_in_the_world_of_another_frame_are_compared_in_that_of_the_first() -> None:
    """Depth Anything 3 predicts in the world of a frame that it chooses."""
    train_module = TrainModule(Model(tiny_config()))
    train_module.model.reference_view = "middle"
    batch = batch_of(make_scene(), 3, size=(28, 42))
    truth = normalized(batch.sample.scene)
    outputs = train_module.model.outputs(batch.sample.clip.images, anchors=())
    in_first, in_middle = (
        train_module.reconstruction_terms(replace(outputs, scene=truth.in_frame(frame)), truth, batch)
        for frame in (0, 1)
    )
    assert in_first["points"].total.item() == pytest.approx(in_middle["points"].total.item(), abs=1e-3)
    moved = (truth.in_frame(1).points - truth.points).norm(dim=-1)
    assert moved.median() > 0.01  # the worlds differ


def test_priors_are_given_to_the_selected_clips() -> None:
    sample = Sample.stack([Sample(make_clip(), make_scene()) for _ in range(3)])
    priors = make_priors(sample, torch.tensor([True, True, False]), torch.tensor([False, True, False]))
    assert priors.intrinsics.isfinite().flatten(1).all(dim=1).tolist() == [True, True, False]
    assert priors.intrinsics.isnan().flatten(1).all(dim=1).tolist() == [False, False, True]
    assert priors.world_from_cam.isfinite().flatten(1).all(dim=1).tolist() == [False, True, False]
    assert torch.equal(priors.intrinsics[0], sample.scene.cameras.intrinsics[0])
    assert torch.equal(priors.world_from_cam[1], sample.scene.cameras.world_from_cam[1])
    assert priors.depths is not None
    assert priors.depths.isnan().all()
