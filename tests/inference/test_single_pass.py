"""Single-pass reconstruction: processing size, precision, memory, determinism and errors."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from networks import assert_scenes_close, randomized, tiny_config
from scenes import make_clip

import recon4d.refine
from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.heads import DptFeaturesConfig, TrackerConfig, TrackHeadConfig
from recon4d.inference import (
    MAX_FRAMES,
    ReconstructConfig,
    predict_scene,
    processing_size,
    reconstruct,
    reconstruct_and_match,
)
from recon4d.models import Model
from recon4d.records import Clip, FeatureTracks, Priors, Scene
from recon4d.refine import MAP_SIDE, RefineConfig, Refinement
from recon4d.zoo import create_model, model_config

SINGLE = ReconstructConfig(precision="float32")


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomized(Model(model_config("recon4d_tiny"))).float()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(frames=5, height=60, width=100)


class TestSizes:
    @pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (500, 500), (101, 67), (33, 2000)])
    @pytest.mark.parametrize("patch", [14, 16])
    def test_area_and_aspect_are_kept_up_to_the_patch_size(self, size: tuple[int, int], patch: int) -> None:
        height, width = processing_size(size, 256, patch)
        assert height % patch == width % patch == 0
        exact = [pixels * 256 / math.sqrt(size[0] * size[1]) for pixels in size]
        for given, wanted in zip((height, width), exact, strict=True):
            assert abs(given - wanted) <= max(patch / 2, patch - wanted)

    def test_the_scene_has_the_processing_size_and_matching_intrinsics(self, model: Model, clip: Clip) -> None:
        scene = predict_scene(model, clip, replace(SINGLE, processing_size=64))
        assert scene.size == (48, 80)
        original = scene.resized(*clip.size)
        angles = original.cameras.field_of_view(*clip.size)
        torch.testing.assert_close(angles, scene.cameras.field_of_view(*scene.size))

    def test_every_pixel_affects_the_result(self, model: Model, clip: Clip) -> None:
        depths = predict_scene(model, clip, SINGLE).depths
        for corner in ((0, 0), (0, 96), (56, 0), (56, 96)):
            images = clip.images.clone()
            images[:, :, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] ^= 255
            assert not torch.equal(predict_scene(model, replace(clip, images=images), SINGLE).depths, depths)


class TestScene:
    def test_the_world_is_the_first_camera_exactly(self, model: Model, clip: Clip) -> None:
        scene = predict_scene(model, clip, SINGLE)
        assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))
        bare = model(clip.resized(*scene.size).images[None], clip.times[None])[0]
        assert not torch.allclose(bare.cameras.world_from_cam[0], torch.eye(4))
        rotation = scene.cameras.world_from_cam[:, :3, :3]
        torch.testing.assert_close(
            rotation @ rotation.transpose(-1, -2), torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0
        )
        # Everything is transformed to the new world.
        assert_scenes_close(scene, bare.detach().in_frame(0), tolerance=1e-4)

    def test_it_is_deterministic_and_restores_the_training_mode(self, model: Model, clip: Clip) -> None:
        model.train()
        first = reconstruct(model, clip)
        assert model.training
        model.eval()
        torch.rand(7)
        assert_scenes_close(reconstruct(model, clip), first, tolerance=0)

    def test_the_frame_chunk_does_not_change_the_scene(self, model: Model, clip: Clip) -> None:
        whole = predict_scene(model, clip, replace(SINGLE, frame_chunk=64))
        assert_scenes_close(predict_scene(model, clip, replace(SINGLE, frame_chunk=1)), whole, tolerance=1e-4)

    def test_the_scene_can_be_used_in_training(self, model: Model, clip: Clip) -> None:
        scene = predict_scene(model, clip, SINGLE)
        weight = torch.ones(1, requires_grad=True)
        (weight * scene.depths * scene.depth_confidence * scene.dynamic).sum().backward()
        assert weight.grad is not None

    def test_the_precision_is_applied(self, model: Model, clip: Clip) -> None:
        dtypes = []
        hook = model.aggregator.frame_blocks[0].mlp.register_forward_hook(  # pyright: ignore
            lambda _, __, output: dtypes.append(output.dtype)
        )
        for precision in ("float32", "bfloat16"):
            reconstruct(model, clip, precision=precision)
        hook.remove()
        assert dtypes == [torch.float32, torch.bfloat16]

    def test_anchors(self, model: Model, clip: Clip) -> None:
        scene = predict_scene(model, clip, replace(SINGLE, anchors=(0, 3)))
        assert scene.tracks is not None
        assert scene.tracks.anchors.tolist() == [0, 3]
        assert predict_scene(model, clip, replace(SINGLE, anchors=())).tracks is None

    def test_one_photo(self, model: Model) -> None:
        scene = reconstruct(model, Clip(make_clip(1, 64, 64).images, torch.tensor([torch.nan])))
        assert scene.num_frames == 1
        assert scene.points.isfinite().all()

    def test_the_progress_bar_reaches_its_end(self, model: Model, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
        bars = []

        class Bar:
            def __init__(self, total: int, **_: object) -> None:
                self.total, self.count = total, 0
                bars.append(self)

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None: ...

            def update(self) -> None:
                self.count += 1

        monkeypatch.setattr("tqdm.tqdm", Bar)
        predict_scene(model, clip, replace(SINGLE, progress=True, frame_chunk=2, anchors=(0, 1)))
        predict_scene(model, clip, SINGLE)
        assert len(bars) == 1
        assert bars[0].count == bars[0].total > 0


class TestPriors:
    def test_ignored_pixels_have_no_confidence(self, model: Model, clip: Clip) -> None:
        ignore = torch.zeros(5, 60, 100, dtype=torch.bool)
        ignore[:, 40:] = True
        known = replace(Priors.unknown(5), ignore=ignore)
        scene = predict_scene(model, replace(clip, priors=known), SINGLE).resized(60, 100)
        for confidence in (scene.depth_confidence, scene.point_confidence):
            assert (confidence[:, 41:] == 0).all()
            assert (confidence[:, :38] > 0).all()

    def test_cameras_without_the_first_hold_relative_to_each_other(self, model: Model, clip: Clip) -> None:
        cameras = torch.eye(4).repeat(5, 1, 1)
        cameras[:, 0, 3] = torch.arange(5.0)
        cameras[0] = torch.nan
        known = replace(Priors.unknown(5), world_from_cam=cameras)
        found = reconstruct(model, replace(clip, priors=known)).cameras.world_from_cam
        assert torch.equal(found[0], torch.eye(4))
        second_from_cam = torch.linalg.inv(found[1]) @ found[1:]
        torch.testing.assert_close(second_from_cam[:, 0, 3], torch.arange(4.0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(second_from_cam[:, :3, :3], torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=1e-5)


class TestRefinement:
    def test_a_model_without_matches_is_guided_by_the_default_model(self, clip: Clip) -> None:
        model = randomized(Model(replace(tiny_config(), motion=None, matching=None))).float()
        scene, matches = reconstruct_and_match(model, clip, replace(SINGLE, processing_size=64))
        assert_scenes_close(scene, predict_scene(model, clip, replace(SINGLE, processing_size=64)), tolerance=0)
        guide, expected = reconstruct_and_match(create_model("recon4d_mini"), clip, replace(SINGLE, anchors=()))
        assert guide.size != scene.size
        scale = torch.tensor([scene.size[1] / guide.size[1], scene.size[0] / guide.size[0]])
        torch.testing.assert_close(matches.pixels, expected.pixels * scale)
        torch.testing.assert_close(matches.visibility, expected.visibility)

    def test_refine_returns_the_refined_scene(self, model: Model, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted, matches = reconstruct_and_match(model, clip, SINGLE)
        refined = replace(predicted, depths=2 * predicted.depths)

        def refine_clip(given: Clip, scene: Scene, tracks: FeatureTracks, config: RefineConfig) -> Refinement:
            assert given is clip
            assert config.map_side == MAP_SIDE
            assert_scenes_close(scene, predicted, tolerance=0)
            assert torch.equal(tracks.pixels, matches.pixels)
            return Refinement(refined, True, math.nan, math.nan, 0)

        monkeypatch.setattr(recon4d.refine, "refine_clip", refine_clip)
        assert reconstruct(model, clip, refine=True, precision="float32") is refined
        assert_scenes_close(predict_scene(model, clip, SINGLE), predicted, tolerance=0)

    def test_priors_that_exclude_refinement_are_an_error_before_the_pass(
        self, model: Model, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model, "outputs", None)
        known = replace(Priors.unknown(5), depths=torch.ones(5, 60, 100))
        with pytest.raises(UserError, match="depth of this clip is given"):
            reconstruct(model, replace(clip, priors=known), refine=True, precision="float32")

    def test_progress_is_reported_up_to_the_end(self, model: Model, clip: Clip) -> None:
        fractions: list[float] = []
        predict_scene(model, clip, replace(SINGLE, on_progress=fractions.append, frame_chunk=2, anchors=(0, 1)))
        assert fractions == sorted(fractions)
        assert len(set(fractions)) == len(fractions)
        assert fractions[-1] == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("frames", "height", "config", "message"),
        [
            (MAX_FRAMES + 1, 32, SINGLE, r"supports 1 to 512; .* num_frames .* \(recon4d\.inference\.windows\)"),
            (2, 20, SINGLE, "40 x 20 pixels; each side needs at least 32"),
            (2, 40, replace(SINGLE, anchors=(2,)), r"anchors are \[2\]; they must be frames from 0 to 1"),
            (2, 40, replace(SINGLE, frame_chunk=0), "frame_chunk is 0"),
            (2, 40, replace(SINGLE, processing_size=8), "processing size is 8 pixels"),
        ],
    )
    def test_invalid_clips_and_options(
        self, model: Model, frames: int, height: int, config: ReconstructConfig, message: str
    ) -> None:
        with pytest.raises(UserError, match=message) as caught:
            predict_scene(model, make_clip(frames, height, 40), config)
        assert "--" not in str(caught.value)

    def test_a_processing_size_too_small_for_the_tracker(self, clip: Clip) -> None:
        """Six levels at half of the size need 64 pixels; 60 x 100 pixels become 48 x 80 at a processing size of 64."""
        tracker = TrackerConfig(channels=16, levels=6, radius=1, width=32, heads=2, mlp_width=32, depth=1, iterations=1)
        track = TrackHeadConfig(DptFeaturesConfig((16, 16, 16, 16), 16), tracker)
        model = randomized(Model(replace(tiny_config(), motion=None, matching=None, track=track))).float()
        small = replace(SINGLE, processing_size=64)
        with pytest.raises(UserError, match=r"at least 64 pixels .* is 80 x 48; use") as caught:
            predict_scene(model, clip, small)
        (side,) = re.findall(r"processing size of at least (\d+)", str(caught.value))
        with pytest.raises(UserError, match="at least 64 pixels"):
            predict_scene(model, clip, replace(small, processing_size=int(side) - 1))
        assert predict_scene(model, clip, replace(small, processing_size=int(side))).tracks is not None
        with pytest.raises(UserError, match="or no anchors"):
            reconstruct_and_match(model, clip, small)
        # Without tracks, a smaller size suffices, and another model matches.
        assert predict_scene(model, clip, replace(small, anchors=())).size == (48, 80)
        scene, matches = reconstruct_and_match(model, clip, replace(small, anchors=()))
        assert scene.size == (48, 80)
        assert (matches.visibility > 0).any()

    def test_a_batch_is_an_error(self, model: Model, clip: Clip) -> None:
        with pytest.raises(ValueError, match=r"one clip, got a batch of shape \(1,\)") as caught:
            reconstruct(model, Clip.stack([clip]))
        assert not isinstance(caught.value, UserError)

    @pytest.mark.parametrize(
        "allocate",
        [
            lambda: torch.empty(2**60, dtype=torch.uint8),
            lambda: bytearray(2**60),
            lambda: _raise(torch.OutOfMemoryError("CUDA out of memory")),
        ],
        ids=["tensor on the CPU", "Python object", "CUDA"],
    )
    def test_out_of_memory_is_a_user_error(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch, allocate: Callable[[], object]
    ) -> None:
        model = create_model("recon4d_tiny", pretrained=False)
        monkeypatch.setattr(model, "outputs", lambda *_: allocate())
        with pytest.raises(UserError, match=r"5 frames of .* on cpu: use fewer frames, a smaller processing") as caught:
            reconstruct(model, clip)
        assert "--" not in str(caught.value)

    def test_other_errors_are_passed_on(self, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
        model = create_model("recon4d_tiny", pretrained=False)

        def broken(*_: object) -> None:
            raise RuntimeError("shapes differ")

        monkeypatch.setattr(model, "outputs", broken)
        with pytest.raises(RuntimeError, match="shapes differ"):
            reconstruct(model, clip)


def test_points_of_the_first_frame_are_its_unprojected_depth(model: Model, clip: Clip) -> None:
    scene = predict_scene(model, clip, SINGLE)
    points = g.unproject_map(scene.depths[:1], scene.cameras.intrinsics[:1])
    torch.testing.assert_close(scene.points_from_depth[:1], points)


def _raise(error: Exception) -> None:
    raise error
