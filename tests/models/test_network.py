"""Invariances of the network, its inputs and its configuration, for linear and DPT heads."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from networks import assert_scenes_close, random_images, randomized, tiny_config, tiny_model

from recon4d import geometry as g
from recon4d.errors import UserError
from recon4d.heads import DptFeaturesConfig, TrackerConfig, TrackHeadConfig
from recon4d.layers import set_attention_kernel
from recon4d.models import Model, ModelConfig, match_feature_tracks
from recon4d.records import Priors, Scene

HEADS = ("linear", "dpt")
TIMES = torch.tensor([[0.0, 0.1, 0.3, 0.4]], dtype=torch.float64)


@pytest.fixture(scope="module", params=HEADS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def scene_of(model: Model, images: torch.Tensor, times: torch.Tensor | None = None, **options: object) -> Scene:
    return model.outputs(images, times, **options).scene  # pyright: ignore[reportArgumentType]


class TestShapes:
    @pytest.mark.parametrize(("batch", "frames", "size"), [(1, 1, (16, 16)), (2, 3, (48, 32)), (1, 5, (16, 80))])
    def test_any_batch_frames_and_size(self, model: Model, batch: int, frames: int, size: tuple[int, int]) -> None:
        scene = scene_of(model, random_images(batch, frames, size=size))
        assert scene.batch_shape == (batch,)
        assert scene.num_frames == frames
        assert scene.size == size
        assert scene.tracks is not None
        assert scene.tracks.points.shape == (batch, 1, frames, size[0] * size[1], 3)

    def test_sizes_that_do_not_fit_the_patch_are_refused(self, model: Model) -> None:
        with pytest.raises(ValueError, match="images have 40 x 32 pixels; both sides must be multiples of 16"):
            model(random_images(1, 2, size=(32, 40)))

    def test_anchors_outside_the_clip_are_refused(self, model: Model) -> None:
        with pytest.raises(ValueError, match=r"anchors \[0, 2\] must be frame indices from 0 to 1"):
            model.outputs(random_images(1, 2), anchors=(0, 2))

    def test_uint8_and_float_images_mean_the_same(self, model: Model) -> None:
        images = (random_images(1, 2) * 255).round()
        assert_scenes_close(scene_of(model, images.to(torch.uint8)), scene_of(model, images / 255))

    def test_outputs_are_finite_and_rotations_are_orthonormal(self, model: Model) -> None:
        scene = scene_of(model, random_images(2, 3))
        rotation = scene.cameras.world_from_cam[..., :3, :3]
        eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), eye)
        assert (scene.depths > 0).all()
        assert scene.depths.isfinite().all()
        assert scene.points.isfinite().all()
        assert (scene.depth_confidence >= 1).all()
        assert ((scene.dynamic >= 0) & (scene.dynamic <= 1)).all()


class TestInvariances:
    def test_permuting_frames_and_times_permutes_the_result(self, model: Model) -> None:
        images, order = random_images(1, 4), [0, 3, 1, 2]
        scene = scene_of(model, images, TIMES)
        assert_scenes_close(scene_of(model, images[:, order], TIMES[:, order]), scene.frames(order))

    def test_permuting_frames_without_times_permutes_the_result(self, model: Model) -> None:
        images, order = random_images(1, 4), [0, 2, 3, 1]
        assert_scenes_close(scene_of(model, images[:, order]), scene_of(model, images).frames(order))

    def test_only_the_order_of_times_matters(self, model: Model) -> None:
        images = random_images(1, 4)
        scene = scene_of(model, images, TIMES)
        assert_scenes_close(scene_of(model, images, 10 * TIMES + 5), scene)
        other_order = scene_of(model, images, TIMES[:, [0, 2, 1, 3]])
        assert (other_order.depths - scene.depths).abs().max() > 1e-6
        assert (scene_of(model, images).depths - scene.depths).abs().max() > 1e-6

    def test_the_first_frame_is_special(self, model: Model) -> None:
        images, order = random_images(1, 3), [1, 0, 2]
        swapped = scene_of(model, images[:, order])
        assert (swapped.depths - scene_of(model, images).depths[:, order]).abs().max() > 1e-6

    def test_a_clip_in_a_batch_equals_the_clip_alone(self, model: Model) -> None:
        images = random_images(3, 3)
        times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [torch.nan] * 3], dtype=torch.float64)
        batch = scene_of(model, images, times, anchors=(0, 2))
        for i in range(3):
            alone = scene_of(model, images[i : i + 1], times[i : i + 1], anchors=(0, 2))
            assert_scenes_close(alone[0], batch[i])

    def test_chunked_heads_equal_whole_heads(self, model: Model) -> None:
        images = random_images(2, 3)
        whole = scene_of(model, images, anchors=(0, 1))
        assert_scenes_close(scene_of(model, images, anchors=(0, 1), frame_chunk=2), whole)

    def test_cameras_and_depth_do_not_depend_on_anchors(self, model: Model) -> None:
        images = random_images(1, 4)
        one, two = scene_of(model, images, TIMES, anchors=(0,)), scene_of(model, images, TIMES, anchors=(0, 3))
        none = scene_of(model, images, TIMES, anchors=())
        assert none.tracks is None
        assert one.tracks is not None
        assert two.tracks is not None
        assert_scenes_close(replace(one, tracks=None), none)
        assert_scenes_close(replace(two, tracks=None), none)
        torch.testing.assert_close(two.tracks.points[:, :1], one.tracks.points)
        assert two.tracks.anchors.tolist() == [[0, 3]]

    def test_clips_of_a_batch_may_have_anchors_of_their_own(self, model: Model) -> None:
        images = random_images(2, 3)
        both = scene_of(model, images, anchors=torch.tensor([[2], [0]]))
        alone = scene_of(model, images[:1], anchors=(2,))
        assert_scenes_close(both[0], alone[0])

    def test_tracks_start_at_the_points_of_their_anchor_frame(self, model: Model) -> None:
        scene = scene_of(model, random_images(1, 4), TIMES, anchors=(2,))
        assert scene.tracks is not None
        assert torch.equal(scene.tracks.points[0, 0, 2], scene.points[0, 2].flatten(0, 1))
        assert (scene.tracks.visibility[0, 0, 2] == 1).all()
        assert (scene.tracks.points[0, 0, 1] - scene.tracks.points[0, 0, 2]).abs().max() > 1e-3
        assert scene.tracks.pixels[0, 0, 1].tolist() == [1.5, 0.5]

    def test_attention_kernels_agree(self, model: Model) -> None:
        images = random_images(1, 3)
        scene = scene_of(model, images)
        set_attention_kernel(model, "plain")
        try:
            assert_scenes_close(scene_of(model, images), scene)
        finally:
            set_attention_kernel(model, "sdpa")

    def test_more_frames_are_used(self, model: Model) -> None:
        images = random_images(1, 4)
        assert (scene_of(model, images[:, :2]).depths - scene_of(model, images).depths[:, :2]).abs().max() > 1e-6

    def test_bfloat16_stays_close_to_float32(self, model: Model) -> None:
        # Measured: depth 0.1 %, points and tracks 0.3 %, cameras 0.04 %. benchmarks/precision.py measures other models.
        single = randomized(Model(model.config)).float()
        images = random_images(1, 3).float()
        exact = scene_of(single, images)
        with torch.autocast("cpu", torch.bfloat16):
            half = scene_of(single, images)
        assert half.depths.dtype == torch.float32
        assert half.cameras.world_from_cam.dtype == torch.float32
        for mine, theirs in (
            (half.depths, exact.depths),
            (half.points, exact.points),
            (half.cameras.world_from_cam, exact.cameras.world_from_cam),
        ):
            assert (mine - theirs).norm() / theirs.norm() < 0.05


class TestTraining:
    @pytest.fixture(autouse=True)
    def _gradients(self, _no_gradients: None):
        with torch.enable_grad():
            yield

    def loss_gradients(self, model: Model) -> list[torch.Tensor]:
        outputs = model.outputs(random_images(1, 3), TIMES[:, :3], anchors=(0, 1))
        scene = outputs.scene
        assert scene.tracks is not None
        assert outputs.visibility_logits is not None
        assert outputs.anchor_matches is not None
        loss = (
            outputs.camera_stages.square().mean()
            + scene.depths.log().mean()
            + scene.points.square().mean()
            + scene.depth_confidence.log().mean()
            + scene.point_confidence.log().mean()
            + scene.tracks.points.square().mean()
            + scene.tracks.confidence.log().mean()
            + outputs.dynamic_logits.mean()
            + outputs.visibility_logits.mean()
            + outputs.matches.log_partition.mean()
            + outputs.anchor_matches.positions.mean()
        )
        names = [name for name, _ in model.named_parameters() if not name.startswith("known")]
        parameters = [model.get_parameter(name) for name in names]
        return list(torch.autograd.grad(loss, parameters))

    def test_all_weights_have_gradients_and_checkpointing_does_not_change_them(self, model: Model) -> None:
        plain = self.loss_gradients(model)
        assert all(gradient.isfinite().all() for gradient in plain)
        assert all(gradient.abs().sum() > 0 for gradient in plain)
        model.set_activation_checkpointing(True)
        try:
            recomputed = self.loss_gradients(model)
        finally:
            model.set_activation_checkpointing(False)
        for one, two in zip(plain, recomputed, strict=True):
            torch.testing.assert_close(one, two)

    def test_checkpointing_really_recomputes(self, model: Model) -> None:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        hook = model.aggregator.global_blocks[0].register_forward_pre_hook(count)
        model.set_activation_checkpointing(True)
        try:
            self.loss_gradients(model)
        finally:
            hook.remove()
            model.set_activation_checkpointing(False)
        assert calls == 2

    def test_outputs_contain_the_inputs_of_the_losses(self, model: Model) -> None:
        outputs = model.outputs(random_images(1, 3), TIMES[:, :3], anchors=(0, 2))
        assert outputs.matches.positions.shape == (1, 9, 24, 2)
        assert outputs.matches.valid.sum() == 2 + 2 + 2
        assert outputs.anchor_matches is not None
        assert outputs.anchor_matches.query_frames[0].tolist() == [0, 0, 0, 2, 2, 2]
        assert outputs.anchor_matches.target_frames[0].tolist() == [0, 1, 2, 0, 1, 2]
        decoded = model.camera_head.decode(outputs.camera_stages[-1], (32, 48))
        torch.testing.assert_close(decoded.world_from_cam, outputs.scene.cameras.world_from_cam)
        torch.testing.assert_close(outputs.dynamic_logits.sigmoid(), outputs.scene.dynamic)


class TestPriors:
    def priors(self, frames: int = 3, depths: bool = False) -> Priors:
        rotation = g.rotation_from_axis_angle(torch.arange(frames)[:, None] * torch.tensor([0.1, 0.2, 0.0]))
        priors = Priors(
            intrinsics=torch.tensor([[40.0, 0.0, 25.0], [0.0, 44.0, 15.0], [0.0, 0.0, 1.0]]).expand(frames, 3, 3),
            world_from_cam=g.rigid(rotation, torch.arange(frames)[:, None] * torch.tensor([0.3, 0.0, 0.1])),
            depths=torch.rand(frames, 32, 48) + 1 if depths else None,
        )
        return Priors.stack([priors.to(dtype=torch.float64)])

    def test_an_untrained_encoder_does_not_change_the_result(self) -> None:
        torch.manual_seed(0)
        model = Model(tiny_config()).double().eval()
        images = random_images(1, 3)
        assert_scenes_close(model(images, priors=self.priors(depths=True)), model(images))

    def test_each_prior_changes_the_result(self, model: Model) -> None:
        images, everything, nan = random_images(1, 3), self.priors(depths=True), torch.nan
        unknown = Priors.stack([Priors.unknown(3)]).to(dtype=torch.float64)
        nothing = model(images)
        assert_scenes_close(model(images, priors=unknown), nothing)
        for part in (
            replace(unknown, intrinsics=everything.intrinsics),
            replace(unknown, world_from_cam=everything.world_from_cam),
            replace(unknown, depths=everything.depths),
        ):
            informed = model(images, priors=part)
            assert informed.depths.isfinite().all()
            assert (informed.depths - nothing.depths).abs().max() > 1e-6
        # Individual frames may be unknown.
        partly = everything.intrinsics.clone()
        partly[:, 1] = nan
        assert model(images, priors=replace(unknown, intrinsics=partly)).depths.isfinite().all()

    def test_the_result_does_not_depend_on_world_frame_and_unit_of_priors(self, model: Model) -> None:
        images, priors = random_images(1, 3), self.priors(depths=True)
        turn = g.rotation_from_axis_angle(torch.tensor([[0.4, 0.1, 0.2]], dtype=torch.float64))
        moved = g.similarity(torch.full((1,), 7.0, dtype=torch.float64), turn, torch.ones_like(turn[..., 0]))
        elsewhere = replace(
            priors,
            world_from_cam=g.transform_cameras(moved, priors.world_from_cam),
            depths=7 * torch.as_tensor(priors.depths),
        )
        assert_scenes_close(model(images, priors=elsewhere), model(images, priors=priors))

    def test_cameras_are_ignored_if_the_first_is_unknown(self, model: Model) -> None:
        images = random_images(1, 3)
        cameras = self.priors().world_from_cam.clone()
        cameras[:, 0] = torch.nan
        unknown = Priors.stack([Priors.unknown(3)]).to(dtype=torch.float64)
        assert_scenes_close(model(images, priors=replace(unknown, world_from_cam=cameras)), model(images))


class TestConfig:
    def test_every_field_belongs_to_one_dense_group(self) -> None:
        for groups in ((("depth",), ("depth", "points")), (("points", "moving"),), (("depth", "color"),)):
            with pytest.raises(UserError, match=r"must contain depth, and each of .* at most once"):
                replace(tiny_config(), dense_groups=groups)

    def test_points_without_a_head_follow_from_depth_and_cameras(self) -> None:
        model = randomized(Model(replace(tiny_config(), dense_groups=(("depth",),))))
        scene = model(random_images(1, 2))
        assert torch.equal(scene.points, scene.points_from_depth)
        assert torch.equal(scene.point_confidence, scene.depth_confidence)
        assert scene.dynamic.isnan().all()

    def test_a_track_head_alongside_a_motion_head(self) -> None:
        tracker = TrackerConfig(channels=16, levels=2, radius=1, width=32, heads=2, mlp_width=32, depth=1, iterations=2)
        track = TrackHeadConfig(DptFeaturesConfig((16, 16, 16, 16), 16), tracker)
        model = randomized(Model(replace(tiny_config(), track=track)))
        images, queries = random_images(2, 3), torch.tensor([[[8.0, 8.0], [40.0, 20.0]]]).double().expand(2, -1, -1)
        pixels, visibility, confidence = model.track(images, queries, query_frame=1)
        assert torch.equal(pixels[:, 1], queries)
        assert visibility.shape == confidence.shape == (2, 3, 2)
        # The scene still contains the dense tracks of the motion head.
        assert model(images).tracks.pixels.shape[-2] == 32 * 48  # pyright: ignore[reportOptionalMemberAccess]
        with pytest.raises(ValueError, match="1 of 2 queries are outside the image"):
            model.track(images[:1], torch.tensor([[[8.0, 8.0], [49.0, 20.0]]]).double())

    def test_a_motion_head_requires_matching(self) -> None:
        with pytest.raises(UserError, match="a motion head requires matching"):
            replace(tiny_config(), matching=None)

    def test_without_matching_and_motion_there_are_no_tracks(self) -> None:
        model = randomized(Model(replace(tiny_config(), matching=None, motion=None)))
        outputs = model.outputs(random_images(1, 3))
        assert outputs.scene.tracks is None
        assert outputs.matches is None
        with pytest.raises(UserError, match="has neither matching nor a track head"):
            match_feature_tracks(model, outputs)
        with pytest.raises(UserError, match="has no track head"):
            model.track(random_images(1, 3), torch.full((1, 1, 2), 8.0))

    def test_separate_heads_for_separate_fields(self) -> None:
        config = replace(tiny_config(), dense_groups=(("moving", "depth"), ("points",)))
        model = randomized(Model(config))
        assert len(model.dense_heads) == 2
        assert model(random_images(1, 2)).points.isfinite().all()

    @pytest.mark.parametrize("out_indices", [(0, 3), (), (1, 1), (2, 0)])
    def test_output_indices_must_increase(self, out_indices: tuple[int, ...]) -> None:
        with pytest.raises(UserError, match=r"output indices .* must be increasing indices of blocks from 0 to 2"):
            replace(tiny_config().aggregator, out_indices=out_indices)

    @pytest.mark.parametrize(
        "change",
        [
            lambda config: replace(config, aggregator=replace(config.aggregator, absolute_positions=False)),
            lambda config: replace(config, aggregator=replace(config.aggregator, register_attention=())),
            lambda config: replace(config, matching=replace(config.matching, after_block=0)),
        ],
    )
    def test_each_option_changes_the_result(self, change: Callable[[ModelConfig], ModelConfig]) -> None:
        torch.manual_seed(0)
        model = Model(tiny_config()).double().eval()
        other = Model(change(tiny_config())).double().eval()
        other.load_state_dict(model.state_dict(), strict=False)
        images = random_images(1, 3)
        assert (other(images).points - model(images).points).abs().max() > 1e-9

    def test_register_attention_does_not_mix_patch_tokens(self) -> None:
        config = replace(tiny_config(), matching=replace(tiny_config().matching, after_block=0))
        aggregator = replace(config.aggregator, depth=1, out_indices=(0,), register_attention=(0,))
        model = randomized(Model(replace(config, aggregator=aggregator)))
        images = random_images(1, 2)
        both = model.outputs(images).features[0]
        other_second = torch.stack([images[0, 0], random_images(1, seed=9)[0]])[None]
        changed = model.outputs(other_second).features[0]
        special = model.aggregator.num_special
        # Frame 0 has no matches to a first neighbor, so its patch tokens depend on frame 0 only.
        torch.testing.assert_close(changed[0, 0, special:], both[0, 0, special:])
        assert (changed[0, 0, :special] - both[0, 0, :special]).abs().max() > 1e-9
