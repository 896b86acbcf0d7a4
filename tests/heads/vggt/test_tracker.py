"""The point tracker: what it compares, how it steps, and that it follows what moves."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon4d.heads.vggt.tracker import (
    TrackedPoints,
    Tracker,
    TrackerConfig,
    check_queries,
    flow_embedding,
    local_correlation,
    position_embedding,
    read_maps,
)
from recon4d.heads.vggt.tracker_update import NormedBlock, NormedCrossBlock
from recon4d.layers import BlockConfig
from recon4d.records import config_from_json, config_to_json

CONFIG = TrackerConfig(
    channels=8, levels=3, radius=2, width=32, heads=2, mlp_width=48, depth=2, virtual_tracks=3, iterations=3
)

HEIGHT, WIDTH = 9, 14
"""Cells of the feature maps; the picture is twice as large."""


def awake_tracker(config: TrackerConfig = CONFIG) -> Tracker:
    """A tracker in float64 that steps by about a pixel: one fresh from its constructor stays where it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tracker = Tracker(config).double()
        for linear, std in ((tracker.update.output, 0.05), (tracker.visibility, 0.5), (tracker.confidence, 0.5)):
            nn.init.normal_(linear.weight, std=std)
        for part in tracker.modules():
            if isinstance(part, nn.LayerNorm):
                nn.init.normal_(part.weight, mean=1.0, std=0.2)
                nn.init.normal_(part.bias, std=0.2)
    return tracker


def random_features(batch: int = 1, time: int = 4, seed: int = 0, channels: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


def random_queries(batch: int = 1, count: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([2.0 * WIDTH, 2.0 * HEIGHT], dtype=torch.float64)
    return torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) * size


def assert_same(given: TrackedPoints, expected: TrackedPoints, tolerance: float = 1e-10) -> None:
    for mine, theirs in zip(
        (given.stages, given.visibility_logits, given.confidence_logits),
        (expected.stages, expected.visibility_logits, expected.confidence_logits),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


class TestBlocks:
    """The blocks are torch's own attention with the sum starting from the normed input."""

    config = BlockConfig(width=16, heads=2, mlp_width=24, qk_norm="none", qkv_bias=True)

    def torch_attention(self, q: Tensor, kv: Tensor, out: nn.Linear, weights: tuple[Tensor, Tensor]) -> Tensor:
        reference = nn.MultiheadAttention(16, 2, batch_first=True).double()
        reference.load_state_dict(
            {
                "in_proj_weight": weights[0],
                "in_proj_bias": weights[1],
                "out_proj.weight": out.weight,
                "out_proj.bias": out.bias,
            }
        )
        return reference(q, kv, kv)[0]

    def test_self_attention(self) -> None:
        torch.manual_seed(0)
        block, x = NormedBlock(self.config).double(), 3 * torch.randn(2, 5, 16, dtype=torch.float64) + 1
        nn.init.normal_(block.norm1.weight, mean=1, std=0.3)
        normed, qkv = block.norm1(x), block.attention.qkv
        assert qkv.bias is not None
        attended = normed + self.torch_attention(normed, normed, block.attention.proj, (qkv.weight, qkv.bias))
        torch.testing.assert_close(block(x), attended + block.mlp(block.norm2(attended)))

    def test_cross_attention(self) -> None:
        torch.manual_seed(0)
        block, x = NormedCrossBlock(self.config).double(), 3 * torch.randn(2, 5, 16, dtype=torch.float64) + 1
        context = torch.randn(2, 7, 16, dtype=torch.float64) * 2
        for norm in (block.norm1, block.norm_context):
            nn.init.normal_(norm.weight, mean=1, std=0.3)
        q, kv = block.attention.q, block.attention.kv
        assert q.bias is not None
        assert kv.bias is not None
        weights = torch.cat([q.weight, kv.weight]), torch.cat([q.bias, kv.bias])
        normed = block.norm1(x)
        attended = normed + self.torch_attention(normed, block.norm_context(context), block.attention.proj, weights)
        torch.testing.assert_close(block(x, context), attended + block.mlp(block.norm2(attended)))

    def test_the_transformer_runs_over_each_track_and_then_over_each_frame(self) -> None:
        update = awake_tracker().update
        tokens = torch.randn(1, 4, 5, 28, generator=torch.Generator().manual_seed(0)).double()
        start = update.input(update.input_norm(tokens[0])).unbind(1)
        tracks = [*start, *(virtual.expand(4, -1) for virtual in update.virtual_tracks[0])]
        for layer in range(CONFIG.depth):
            tracks = [update.time_blocks[layer](track[None])[0] for track in tracks]
            frames = []
            for frame in torch.stack(tracks, dim=1):
                points, virtual = frame[None].split([5, 3], dim=1)
                virtual = update.virtual_from_points[layer](virtual, points)
                virtual = update.virtual_blocks[layer](virtual)
                frames.append(torch.cat([update.points_from_virtual[layer](points, virtual), virtual], dim=1)[0])
            tracks = torch.stack(frames).unbind(1)
        expected = [update.output(update.output_norm(track + own)) for track, own in zip(tracks, start, strict=False)]
        torch.testing.assert_close(update(tokens)[0], torch.stack(expected, dim=1))

    def test_changes_are_full_precision_under_autocast(self) -> None:
        update = Tracker(CONFIG).update
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert update(torch.randn(1, 3, 4, 28)).dtype == torch.float32


class TestTracker:
    def test_a_fresh_tracker_stays_where_the_query_was_and_can_learn_to_move(self) -> None:
        tracker, features, queries = Tracker(CONFIG), random_features().float(), random_queries().float()
        tracked = tracker(features, queries, 1)
        assert torch.equal(tracked.stages, queries[:, None, None].expand(-1, 3, 4, -1, -1))
        assert (tracked.visibility == 0.5).all()
        assert (tracked.confidence == 0.5).all()
        (tracked.pixels - 3).abs().sum().backward()
        gradient = tracker.update.output.weight.grad
        assert gradient is not None
        assert gradient[:2].abs().max() > 0.1
        # Equal virtual tracks would stay equal, and count as one.
        assert (tracker.update.virtual_tracks[0, 0] - tracker.update.virtual_tracks[0, 1]).abs().max() > 0.1

    def test_the_query_frame_is_pinned_at_every_refinement_and_others_are_not(self) -> None:
        queries = random_queries()
        tracked = awake_tracker()(random_features(), queries, 2)
        assert torch.equal(tracked.stages[:, :, 2], queries[:, None].expand(-1, 3, -1, -1))
        moved = (tracked.stages - queries[:, None, None]).norm(dim=-1)[:, :, [0, 1, 3]]
        assert moved.min() > 0
        assert 0.1 < moved[:, 0].mean() < moved[:, -1].mean() < 20
        assert torch.equal(tracked.pixels, tracked.stages[:, -1])

    @pytest.mark.parametrize("frame", [1, 3])
    def test_a_query_in_any_frame_is_that_frame_put_first(self, frame: int) -> None:
        tracker, features, queries = awake_tracker(), random_features(), random_queries()
        order = [frame, *(t for t in range(4) if t != frame)]
        back = [order.index(t) for t in range(4)]
        assert_same(tracker(features, queries, frame), tracker(features[:, order], queries, 0).frames(back))

    def test_each_clip_may_be_asked_in_a_frame_of_its_own(self) -> None:
        tracker, features, queries = awake_tracker(), random_features(2), random_queries(2)
        together = tracker(features, queries, torch.tensor([2, 0]))
        assert_same(together[:1], tracker(features[:1], queries[:1], 2))
        assert_same(together[1:], tracker(features[1:], queries[1:], 0))

    def test_other_frames_are_a_set(self) -> None:
        tracker, features, queries = awake_tracker(), random_features(), random_queries()
        order = [0, 3, 1, 2]
        assert_same(tracker(features[:, order], queries), tracker(features, queries).frames(order))

    def test_a_batch_is_its_clips(self) -> None:
        tracker, features, queries = awake_tracker(), random_features(2), random_queries(2)
        together = tracker(features, queries, 1)
        for one in range(2):
            assert_same(together[one : one + 1], tracker(features[one : one + 1], queries[one : one + 1], 1))

    def test_tracks_help_each_other_and_their_order_does_not_matter(self) -> None:
        tracker, features, queries = awake_tracker(), random_features(), random_queries()
        together = tracker(features, queries)
        turned = tracker(features, queries.flip(1))
        torch.testing.assert_close(turned.pixels.flip(2), together.pixels)
        alone = tracker(features, queries[:, :1])
        assert (alone.pixels - together.pixels[:, :, :1]).abs().max() > 1e-4

    def test_the_first_pixel_is_the_first_cell(self) -> None:
        seen: list[Tensor] = []

        def first_window(config: TrackerConfig, query: list[float]) -> Tensor:
            tracker = awake_tracker(config)
            tracker.correlation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            maps = tracker.map_norm(random_features().movedim(2, -1)).movedim(-1, 2)
            tracker(random_features(), torch.tensor([[query]], dtype=torch.float64))
            return maps[0]

        # VGGT's whole pixels (0, 0) and (6, 4) are ours plus a half; a cell of stride 2 begins at every second.
        for query, column, row in (([0.5, 0.5], 0, 0), ([6.5, 4.5], 3, 2)):
            seen.clear()
            maps = first_window(CONFIG, query)
            middle = seen[0][:, 0, 12]
            own = (maps[0, :, row, column] * maps[:, :, row, column]).sum(dim=-1) / 8**0.5
            torch.testing.assert_close(middle, own)
        # Cells that tile the picture: the second cell of 4 pixels has its center at 6.
        seen.clear()
        tiled = replace(CONFIG, stride=4, first_centre=2.0)
        maps = first_window(tiled, [6.0, 10.0])
        torch.testing.assert_close(seen[0][:, 0, 12], (maps[0, :, 2, 1] * maps[:, :, 2, 1]).sum(dim=-1) / 8**0.5)

    @pytest.mark.parametrize("stride", [2, 5])
    def test_pixels_are_strides_of_the_steps(self, stride: int) -> None:
        tracker = awake_tracker(replace(CONFIG, stride=stride))
        nn.init.zeros_(tracker.update.output.weight)
        with torch.no_grad():
            tracker.update.output.bias[:2] = torch.tensor([0.25, -0.5], dtype=torch.float64)
        queries = random_queries()
        tracked = tracker(random_features(), queries)
        for stage in range(3):
            step = stride * torch.tensor([0.25, -0.5], dtype=torch.float64) * (stage + 1)
            torch.testing.assert_close(tracked.stages[:, stage, 1:], (queries + step)[:, None].expand(-1, 3, -1, -1))

    def test_what_the_transformer_is_told_and_what_is_made_of_its_answer(self) -> None:
        """The order inside a token, and the signs, are what published weights rely on."""
        tracker, queries = awake_tracker(), random_queries()
        heard: list[tuple[Tensor, Tensor]] = []
        compared: list[Tensor] = []
        tracker.update.register_forward_hook(lambda _, inputs, answer: heard.append((inputs[0], answer)))
        tracker.correlation.register_forward_hook(lambda _, inputs, answer: compared.append(answer[None]))
        tracker(random_features(), queries, 1)

        cells = (queries - 0.5) / 2
        maps = tracker.map_norm(random_features()[:, 1].movedim(1, -1)).movedim(-1, 1)
        track = read_maps(maps, cells[:, None], "border")[:, :, 0].transpose(1, 2)[:, None].expand(-1, 4, -1, -1)
        flow = torch.zeros(1, 4, 5, 2, dtype=torch.float64)
        kind = tracker.frame_tokens[0, [1, 0, 1, 1]][:, None]
        place = position_embedding(cells, (HEIGHT, WIDTH), 28)[:, None]
        for (token, answer), correlations in zip(heard, compared, strict=True):
            parts = [flow_embedding(flow, 8), flow / 518, flow / 518, correlations, track]
            torch.testing.assert_close(token, torch.cat(parts, dim=-1) + kind + place)
            flow = flow + answer[..., :2] * torch.tensor([1.0, 0.0, 1.0, 1.0]).double()[:, None, None]
            track = track + F.gelu(tracker.feature_update(tracker.feature_norm(answer[..., 2:])))

    def test_each_refinement_compares_where_the_last_one_ended_and_with_the_feature_it_left(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[Tensor, Tensor]] = []

        def listen(pyramid: Sequence[Tensor], features: Tensor, cells: Tensor, radius: int) -> Tensor:
            calls.append((features, cells))
            return local_correlation(pyramid, features, cells, radius)

        monkeypatch.setattr("recon4d.heads.vggt.tracker.local_correlation", listen)
        tracker, queries = awake_tracker(), random_queries()
        tracked = tracker(random_features(), queries)
        starts = [queries[:, None].expand(-1, 4, -1, -1), *tracked.stages.unbind(1)]
        for (features, cells), start in zip(calls, starts[:-1], strict=True):
            torch.testing.assert_close(cells, (start[0] - 0.5) / 2)
            assert not cells.requires_grad
            assert features.requires_grad
        assert (calls[1][0] - calls[0][0]).abs().min() > 0

    def test_the_map_at_the_query_says_what_is_followed(self) -> None:
        tracker, features, queries = awake_tracker(), random_features(), random_queries()
        before = tracker(features, queries, 1).pixels
        changed = features.clone()
        changed[:, 1] = changed[:, 1].flip(1)
        assert (tracker(changed, queries, 1).pixels - before)[:, 0].abs().min() > 1e-5

    def test_gradients_are_finite_and_reach_everything(self) -> None:
        tracker, features = awake_tracker(), random_features().requires_grad_()
        tracked = tracker(features, random_queries(), 1)
        (tracked.stages.square().mean() + tracked.visibility.mean() + tracked.confidence.square().mean()).backward()
        for name, value in [*tracker.named_parameters(), ("features", features)]:
            assert value.grad is not None, name
            assert torch.isfinite(value.grad).all(), name
            assert value.grad.abs().max() > 0, name

    def test_under_autocast_positions_stay_full_precision(self) -> None:
        tracker, features, queries = awake_tracker().float(), random_features().float(), random_queries().float()
        expected = tracker(features, queries, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = tracker(features.bfloat16(), queries, 1)
        assert given.stages.dtype == given.visibility_logits.dtype == given.confidence_logits.dtype == torch.float32
        assert torch.equal(given.pixels[:, 1], queries)
        assert (given.stages - expected.stages)[:, 0].abs().max() < 0.05

    def test_its_configuration_can_be_written_and_its_defaults_are_vggts(self) -> None:
        assert config_from_json(TrackerConfig, config_to_json(CONFIG)) == CONFIG
        with torch.device("meta"):
            tracker = Tracker(TrackerConfig())
        assert sum(parameter.numel() for parameter in tracker.parameters()) == 43107348
        assert tracker.frame_tokens.shape == (1, 2, 388)
        assert tracker.correlation[0].weight.shape == (384, 567)
        assert tracker.update.output.weight.shape == (130, 384)


def moving_clips(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of smooth features that shift by whole cells from frame to frame, queries, and where these go."""
    textures = F.avg_pool2d(torch.randn(4, 8, 20, 24, generator=generator), 3, 1, 1)
    shifts = torch.randint(-2, 3, (4, 3, 2), generator=generator)
    shifts[:, 0] = 0
    frames = [
        torch.stack([texture.roll((int(y), int(x)), (1, 2)) for x, y in per_frame])
        for texture, per_frame in zip(textures, shifts, strict=True)
    ]
    queries = torch.rand(4, 16, 2, generator=generator) * torch.tensor([24.0, 16.0]) + 12
    return torch.stack(frames), queries, queries[:, None] + 2 * shifts[:, :, None]


@pytest.mark.end_to_end
def test_it_learns_to_follow_and_follows_what_it_has_not_seen() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    sizes = {"width": 64, "heads": 2, "mlp_width": 128, "depth": 1, "virtual_tracks": 2, "iterations": 2}
    tracker = Tracker(TrackerConfig(channels=8, levels=2, radius=3, flow_scale=4.0, **sizes))
    optimizer = torch.optim.AdamW(tracker.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=120, pct_start=0.2)

    def errors() -> Tensor:
        """Pixels off an axis after each refinement, in new clips each time."""
        features, queries, truth = moving_clips(generator)
        return (tracker(features, queries).stages - truth[:, None])[:, :, 1:].abs().mean(dim=(0, 2, 3, 4))

    with torch.no_grad():
        staying = torch.stack([errors() for _ in range(10)]).mean(dim=0)
    for _ in range(120):
        optimizer.zero_grad()
        errors().sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        following = torch.stack([errors() for _ in range(10)]).mean(dim=0)
    assert 2 < staying[-1] < 3
    assert following[-1] < 0.3 * staying[-1]
    assert following[-1] < 0.8 * following[0]


class TestWrongInputs:
    def test_queries_outside_the_image(self) -> None:
        check_queries(torch.tensor([[[0.0, 0.0], [28.0, 18.0]]]), (18, 28))
        for bad in ([28.1, 3.0], [-0.1, 3.0], [3.0, 18.1], [3.0, -0.1], [float("nan"), 3.0]):
            with pytest.raises(
                ValueError, match=r"1 of 2 queries are outside the image.*x from 0 to 28 and y from 0 to 18"
            ):
                check_queries(torch.tensor([[1.0, 1.0], bad]), (18, 28))

    @pytest.mark.parametrize("frame", [-1, 4])
    def test_a_frame_that_is_not_there(self, frame: int) -> None:
        with pytest.raises(ValueError, match=f"query frame is {frame}; wanted 0 to 3"):
            Tracker(CONFIG)(random_features(), random_queries(), frame)

    def test_shapes(self) -> None:
        tracker = Tracker(CONFIG)
        with pytest.raises(ValueError, match=r"features of shape \(1, 4, 12, 9, 14\); wanted \(batch, time, 8"):
            tracker(random_features(channels=12), random_queries())
        # Not by calling it, where the annotations, which are checked in tests only, speak first.
        good = random_queries()
        for bad in (random_queries(2), good[:, :0], good[..., :1], good[0], good[..., None]):
            with pytest.raises(ValueError, match=r"queries of shape .*; wanted \(1, query, 2\)"):
                tracker._check(random_features(), bad, 0)
        with pytest.raises(ValueError, match=r"features of shape \(1, 9, 8, 14\)"):
            tracker._check(random_features()[:, 0].transpose(1, 2), good, 0)
        with pytest.raises(ValueError, match=r"3 levels of feature maps of \(3, 14\).*at least 4 cells"):
            tracker(random_features()[..., :3, :], random_queries())

    def test_configurations(self) -> None:
        with pytest.raises(ValueError, match="multiple of 4"):
            TrackerConfig(channels=6)
        with pytest.raises(ValueError, match="at least 1"):
            TrackerConfig(levels=0)
