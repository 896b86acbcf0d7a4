"""The whole network: backbone, aggregator, matching and heads, from images to a Scene in one forward pass."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from recon4d.aggregator import Aggregator, AggregatorState
from recon4d.attention import Block, initialise_linear_layers, shrink_residual_outputs
from recon4d.backbone import BackboneFeatures, ConvolutionalBackbone, create_backbone
from recon4d.geometry import pixel_grid
from recon4d.heads import (
    DENSE_FIELDS,
    DENSE_HEADS,
    MOTION_CHANNELS,
    START_CHANNELS,
    CameraHead,
    MotionFrames,
    MotionHead,
    MotionPairs,
    decode_cameras,
    decode_depth,
    decode_displacement,
    decode_points,
)
from recon4d.known import KnownEncoder
from recon4d.matching import Matches, Matching, temporal_neighbours
from recon4d.model.config import ModelConfig
from recon4d.model.outputs import Outputs
from recon4d.records import Known, Scene, Tracks
from recon4d.tensors import full_precision

Images = UInt8[Tensor, "batch time 3 height width"] | Float[Tensor, "batch time 3 height width"]


class Model(nn.Module):
    """A clip of any number of frames, of any size that is a multiple of `patch_size`, to a Scene.

    The world is the first frame's camera, up to what the network gets wrong (`reconstruct` makes it exact), in units
    of the mean distance of the scene. ``model(images, times)`` is the bare differentiable network.
    """

    name: str = "custom"
    """What this model is called in the zoo and in what it writes."""
    trained: bool = False
    """Whether its weights have learned anything; an untrained model's answers are meaningless."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config.backbone)
        self.patch_size = self.backbone.patch_size
        width = config.aggregator.block.width
        quarter, eighth = self.backbone.quarter_channels, self.backbone.eighth_channels
        tap_widths = [2 * width] * len(config.aggregator.taps)

        self.embed = nn.Identity() if self.backbone.width == width else nn.Linear(self.backbone.width, width)
        self.known = KnownEncoder(width, self.patch_size)
        self.aggregator = Aggregator(config.aggregator)
        self.matching = Matching(config.matching, width, self.patch_size, eighth)
        self.camera_head = CameraHead(config.camera, tap_widths[-1])

        create_dense = DENSE_HEADS[type(config.dense)]
        biases = [sum((DENSE_FIELDS[field] for field in group), ()) for group in config.dense_groups]
        self.dense_heads = nn.ModuleList(
            [create_dense(config.dense, tap_widths, self.patch_size, quarter, len(bias)) for bias in biases]
        )
        motion_taps = [config.motion.block.width] * (config.motion.blocks + 1)
        motion_dense = create_dense(
            config.dense, motion_taps, self.patch_size, quarter + START_CHANNELS, MOTION_CHANNELS
        )
        self.motion_head = MotionHead(config.motion, tap_widths, motion_dense)
        self._initialise(biases)

    def forward(
        self, images: Images, times: Float[Tensor, "batch time"] | None = None, known: Known | None = None
    ) -> Scene:
        """The Scene of a batch of clips, with tracks of every pixel of the first frame."""
        return self.outputs(images, times, known=known).scene

    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        known: Known | None = None,
        frame_chunk: int | None = None,
    ) -> Outputs:
        """The Scene and what training needs beside it.

        `images` are uint8, or floats in [0, 1]. `times` are seconds; None or NaN for photos without an order.
        `anchors` are the frames whose pixels are tracked; cameras and depth do not depend on them. `frame_chunk`
        bounds memory: backbone and dense heads take so many frames at once, with the same result.
        """
        images, times, anchors = self._checked(images, times, anchors)
        batch, time = images.shape[:2]
        size = (images.shape[-2], images.shape[-1])
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        chunk = frame_chunk or batch * time

        features = self._backbone_features(images.flatten(0, 1), chunk)
        state = self.aggregator.begin(self.embed(features.tokens).unflatten(0, (batch, time)), grid)
        state = self._tell_known(state, known, size)
        after_pair = self.config.matching.after_pair
        state = self.aggregator(state, 0, after_pair)

        cells = self.matching.features(state.patches.flatten(0, 1), features.eighth, grid)
        cells = cells.unflatten(0, (batch, time))
        matches = self._match_neighbours(cells, times, grid)
        state = state.add_to_patches(self.matching.tell_tokens(matches, grid))
        state = self.aggregator(state, after_pair, self.config.aggregator.pairs)

        camera_stages = self.camera_head(state.taps[-1][:, :, 0], size)
        raw = self._dense_maps(state, features.quarter, grid, chunk)
        depth, points = decode_depth(raw["depth"]), decode_points(raw["points"])
        moving_logits = raw["moving"].squeeze(-3)

        tracks = anchor_matches = visible_logits = None
        if anchors.shape[1]:
            anchor_matches = self._match_anchors(cells, anchors, grid)
            tracks, visible_logits = self._tracks(
                state, points.values, features.quarter, grid, anchors, anchor_matches, chunk
            )
        scene = Scene(
            cameras=decode_cameras(camera_stages[-1], size),
            depths=depth.values,
            depth_confidence=depth.confidence,
            points=points.values,
            point_confidence=points.confidence,
            moving=torch.sigmoid(moving_logits),
            metres_per_unit=depth.values.new_full((batch,), torch.nan),
            tracks=tracks,
        )
        return Outputs(scene, camera_stages, matches, anchor_matches, cells, moving_logits, visible_logits, state.taps)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the blocks' activations in the backward pass: about a third more time, far less memory."""
        self.backbone.set_activation_checkpointing(enabled)
        self.aggregator.checkpointing = enabled

    def num_parameters(self) -> int:
        """How many numbers this model learns."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _checked(
        self, images: Tensor, times: Tensor | None, anchors: Sequence[int] | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images are {width} x {height} pixels; this model needs multiples of {self.patch_size} on both sides"
            )
        num_frames = images.shape[1]
        if not isinstance(anchors, Tensor):
            if any(anchor not in range(num_frames) for anchor in anchors):
                raise ValueError(f"anchors {list(anchors)} must be frames from 0 to {num_frames - 1}")
            anchors = torch.tensor(list(anchors), dtype=torch.long, device=images.device).expand(images.shape[0], -1)
        if times is None:
            times = images.new_full(images.shape[:2], torch.nan, dtype=torch.float32)
        dtype = next(self.parameters()).dtype
        return images.to(dtype) / 255 if images.dtype == torch.uint8 else images, times, anchors

    def _backbone_features(self, images: Tensor, chunk: int) -> BackboneFeatures:
        parts: list[BackboneFeatures] = [self.backbone(part) for part in images.split(chunk)]

        def join(of: Callable[[BackboneFeatures], Tensor | None]) -> Tensor | None:
            found = [value for value in map(of, parts) if value is not None]
            return torch.cat(found) if found else None

        # The residual stream stays in full precision; blocks narrow it for themselves.
        tokens = full_precision(torch.cat([part.tokens for part in parts]))
        return BackboneFeatures(tokens, join(lambda part: part.quarter), join(lambda part: part.eighth))

    def _tell_known(self, state: AggregatorState, known: Known | None, size: tuple[int, int]) -> AggregatorState:
        if known is None:
            return state
        for_cameras, for_patches = self.known(known, size)
        state = state.add_to_cameras(for_cameras)
        return state if for_patches is None else state.add_to_patches(for_patches)

    def _match_neighbours(self, cells: Tensor, times: Tensor, grid: tuple[int, int]) -> Matches:
        targets, valid = temporal_neighbours(times)
        queries = torch.arange(times.shape[1], device=times.device)[:, None].expand_as(targets)
        return self.matching.match(cells, queries.flatten(1), targets.flatten(1), valid.flatten(1), grid)

    def _match_anchors(self, cells: Tensor, anchors: Tensor, grid: tuple[int, int]) -> Matches:
        batch, time = cells.shape[:2]
        queries = anchors[:, :, None].expand(-1, -1, time).flatten(1)
        targets = torch.arange(time, device=cells.device).expand(batch, anchors.shape[1], -1).flatten(1)
        return self.matching.match(cells, queries, targets, torch.ones_like(queries, dtype=torch.bool), grid)

    def _dense_maps(
        self, state: AggregatorState, quarter: Tensor | None, grid: tuple[int, int], chunk: int
    ) -> dict[str, Float[Tensor, "batch time channels height width"]]:
        """Raw maps of every dense field by its name."""
        batch, time = state.tokens.shape[:2]
        patches = [tap[:, :, state.num_special :].flatten(0, 1) for tap in state.taps]
        maps = {}
        for head, group in zip(self.dense_heads, self.config.dense_groups, strict=True):
            parts = [
                head([tap[frames] for tap in patches], grid, None if quarter is None else quarter[frames])
                for frames in _chunks(batch * time, chunk)
            ]
            channels = [len(DENSE_FIELDS[field]) for field in group]
            fields = torch.cat(parts).unflatten(0, (batch, time)).split(channels, dim=2)
            maps.update(zip(group, fields, strict=True))
        return maps

    def _tracks(
        self,
        state: AggregatorState,
        points: Tensor,
        quarter: Tensor | None,
        grid: tuple[int, int],
        anchors: Tensor,
        matches: Matches,
        chunk: int,
    ) -> tuple[Tracks, Tensor]:
        """Tracks of every pixel of the anchors, and the logits of their visibility."""
        batch, time, height, width, _ = points.shape
        num_anchors = anchors.shape[1]
        frames = MotionFrames(
            tokens=self.motion_head.fuse_taps([tap.flatten(0, 1) for tap in state.taps]),
            points=points.flatten(0, 1),
            skip=quarter,
            grid=grid,
            rotary=state.rotary,
            num_special=state.num_special,
        )
        first_of_clip = time * torch.arange(batch, device=points.device)[:, None]
        pairs = MotionPairs(
            anchor=(matches.query_frames + first_of_clip).flatten(),
            target=(matches.target_frames + first_of_clip).flatten(),
            flow=self.matching.flow_features(matches, grid).flatten(0, 1),
            positions=matches.positions.flatten(0, 1),
        )
        raw = torch.cat([self.motion_head(frames, part) for part in pairs.split(chunk)])
        motion, visible_logits = decode_displacement(raw)

        over_anchors = (batch, num_anchors, time)
        displacement = motion.values.flatten(1, 2).unflatten(0, over_anchors)
        logits = visible_logits.flatten(1).unflatten(0, over_anchors)
        at_anchor = (matches.query_frames == matches.target_frames).unflatten(1, (num_anchors, time))[..., None]
        start = points.flatten(2, 3)[torch.arange(batch, device=points.device)[:, None], anchors]
        pixels = pixel_grid(height, width, points.device, points.dtype).flatten(0, 1)
        tracks = Tracks(
            # Zero displacement and certain visibility at the anchor's own time are facts, not predictions.
            points=start[:, :, None] + torch.where(at_anchor[..., None], 0.0, displacement),
            visible=torch.where(at_anchor, 1.0, torch.sigmoid(logits)),
            confidence=motion.confidence.flatten(1).unflatten(0, over_anchors),
            anchors=anchors,
            pixels=pixels.expand(batch, num_anchors, -1, -1),
        )
        return tracks, logits

    def _initialise(self, biases: list[tuple[float, ...]]) -> None:
        """Weights as they were shown to learn; a DINO backbone keeps timm's own."""
        for part in self.children():
            if part is not self.backbone or isinstance(part, ConvolutionalBackbone):
                initialise_linear_layers(part)
        blocks = list(self._residual_blocks())
        shrink_residual_outputs(blocks, std=0.02 / math.sqrt(2 * len(blocks)))
        if self.aggregator.positions is not None:
            self.aggregator.positions.reset_parameters()
        for part in (self.known, self.matching, self.camera_head, self.motion_head):
            part.reset_parameters()
        for head, bias in zip(self.dense_heads, biases, strict=True):
            head.initialise(torch.tensor(bias))  # pyright: ignore[reportCallIssue]
        self.motion_head.dense.initialise(torch.zeros(MOTION_CHANNELS))

    def _residual_blocks(self) -> Iterator[Block]:
        for part in (self.backbone, self.aggregator):
            yield from (module for module in part.modules() if isinstance(module, Block))


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
