"""The whole network: backbone, aggregator, matching and heads, from images to a Scene in one forward pass."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from recon4d.geometry import transform_points, unproject_map
from recon4d.heads import (
    CAMERA_HEADS,
    DENSE_FIELDS,
    DENSE_HEADS,
    MOTION_CHANNELS,
    START_CHANNELS,
    ConfidentValues,
    MotionHead,
    TrackHead,
    check_queries,
    decode_depth,
    decode_points,
)
from recon4d.layers import Block, Matches, Matching, initialize_linear_layers, shrink_residual_outputs
from recon4d.models.aggregator import Aggregator, AggregatorState
from recon4d.models.backbones import create_backbone
from recon4d.models.backbones.base import BackboneFeatures
from recon4d.models.backbones.convolutional import ConvolutionalBackbone
from recon4d.models.config import ModelConfig
from recon4d.models.dense_tracks import dense_tracks
from recon4d.models.outputs import Outputs
from recon4d.models.point_tracks import point_tracks
from recon4d.models.priors import PriorEncoder
from recon4d.models.tokens import Tokens
from recon4d.records import (
    Calibration,
    Cameras,
    Priors,
    Scene,
    Tracks,
    full_precision,
)

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
    calibration: Calibration | None = None
    """What its confidences mean, where that was measured (`recon4d calibrate`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config.backbone)
        self.patch_size = self.backbone.patch_size
        width = config.aggregator.block.width
        quarter, eighth = self.backbone.quarter_channels, self.backbone.eighth_channels
        tap_widths = [2 * width] * len(config.aggregator.out_indices)

        self.embed = nn.Identity() if self.backbone.width == width else nn.Linear(self.backbone.width, width)
        self.known = PriorEncoder(width, self.patch_size) if config.prior_inputs else None
        self.aggregator = Aggregator(config.aggregator)
        self.matching = None
        if config.matching is not None:
            self.matching = Matching(config.matching, width, self.patch_size, eighth)
        self.camera_head = CAMERA_HEADS[type(config.camera)](config.camera, tap_widths[-1])

        create_dense = DENSE_HEADS[type(config.dense)]
        biases = [sum((DENSE_FIELDS[field] for field in group), ()) for group in config.dense_groups]
        self.dense_heads = nn.ModuleList(
            [create_dense(config.dense, tap_widths, self.patch_size, quarter, len(bias)) for bias in biases]
        )
        self.motion_head = None
        if config.motion is not None:
            motion_taps = [config.motion.block.width] * (config.motion.blocks + 1)
            motion_dense = create_dense(
                config.dense, motion_taps, self.patch_size, quarter + START_CHANNELS, MOTION_CHANNELS
            )
            self.motion_head = MotionHead(config.motion, tap_widths, motion_dense)
        self.track_head = None if config.track is None else TrackHead(config.track, tap_widths, self.patch_size)
        self._initialize(biases)

    def forward(
        self, images: Images, times: Float[Tensor, "batch time"] | None = None, known: Priors | None = None
    ) -> Scene:
        """The Scene of a batch of clips, with tracks of every pixel of the first frame."""
        return self.outputs(images, times, known=known).scene

    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        known: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Outputs:
        """The Scene and what training needs beside it.

        `images` are uint8, or floats in [0, 1]. `times` are seconds; None or NaN for photos without an order.
        `anchors` are the frames whose pixels are tracked; cameras and depth do not depend on them. `frame_chunk`
        bounds memory: backbone and dense heads take so many frames at once, with the same result. A `key_stride`
        above 1 approximates attention across frames (`Aggregator.begin`).
        """
        images, times, anchors = self._checked(images, times, anchors)
        size = (images.shape[-2], images.shape[-1])
        tokens = self.tokens(images, times, known, frame_chunk, key_stride)
        state = tokens.state

        assert state.special is not None
        camera_stages = self.camera_head(state.special, size)
        raw = self._dense_maps(tokens)
        moving_logits = raw["moving"].squeeze(-3) if "moving" in raw else None
        scene = _scene(self.camera_head.decode(camera_stages[-1], size), raw, moving_logits)
        tracks, visible_logits, anchor_matches = self._tracks(tokens, scene, anchors)
        return Outputs(
            scene=replace(scene, tracks=tracks),
            camera_stages=camera_stages,
            matches=tokens.matches,
            anchor_matches=anchor_matches,
            cell_features=tokens.cells,
            dynamic_logits=moving_logits,
            visibility_logits=visible_logits,
            features=state.features,
        )

    def tokens(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        known: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Tokens:
        """Backbone and all blocks, with matching between them where there is any: all that the heads see."""
        images, times, _ = self._checked(images, times, ())
        batch, time, _, height, width = images.shape
        grid = (height // self.patch_size, width // self.patch_size)
        chunk = frame_chunk or batch * time
        features = self._backbone_features(images.flatten(0, 1), chunk)
        state = self.aggregator.begin(self.embed(features.tokens).unflatten(0, (batch, time)), grid, key_stride)
        state = self._tell_known(state, known, (height, width))
        pairs = self.config.aggregator.depth
        if self.matching is None:
            return Tokens(self.aggregator(state, 0, pairs), grid, features.quarter, None, None, chunk)

        after_pair = self.matching.after_pair
        state = self.aggregator(state, 0, after_pair)
        cells = self.matching.features(state.patches.flatten(0, 1), features.eighth, grid)
        cells = cells.unflatten(0, (batch, time))
        matches = self.matching.match_neighbors(cells, times, grid)
        state = state.add_to_patches(self.matching.tell_tokens(matches, grid))
        return Tokens(self.aggregator(state, after_pair, pairs), grid, features.quarter, cells, matches, chunk)

    def track(
        self,
        images: Images,
        query_pixels: Float[Tensor, "batch query 2"],
        query_frame: int = 0,
        frame_chunk: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where chosen pixels (x, y) of one frame are in every frame, whether they are seen, and how sure that is.

        A plain tuple: pixels (batch, time, query, 2), visibility and confidence (batch, time, query) in [0, 1]; the
        first pixel's center is .5. Raises ``ValueError`` where this model has no tracker, and for queries outside the
        picture.
        """
        if self.track_head is None:
            raise ValueError(f"{self.name} has no point tracker; its tracks are those of `model(images)`")
        size = (images.shape[-2], images.shape[-1])
        check_queries(query_pixels, size)
        tokens = self.tokens(images, frame_chunk=frame_chunk)
        tracked = self.track_head(
            self.track_features(tokens.state.features, size, tokens.chunk), query_pixels, query_frame
        )
        return tracked.pixels, tracked.visibility, tracked.confidence

    def track_features(
        self, features: Sequence[Float[Tensor, "batch time tokens _"]], size: tuple[int, int], frame_chunk: int
    ) -> Float[Tensor, "batch time channels half_height half_width"]:
        """What the track head follows points through, from the taps of `outputs` on pictures of `size`."""
        assert self.track_head is not None
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        layers = (layer[:, :, self.aggregator.num_special :].flatten(0, 1) for layer in features)
        parts = zip(*(layer.split(frame_chunk) for layer in layers), strict=True)
        maps = torch.cat([self.track_head.features(part, grid) for part in parts])
        return maps.unflatten(0, features[0].shape[:2])

    def shift_dynamic_logits(self, amount: float) -> None:
        """Add `amount` to the logits of what moves, from now on. Raises ``ValueError`` where the model has none."""
        for head, group in zip(self.dense_heads, self.config.dense_groups, strict=True):
            if "moving" in group:
                before = group[: group.index("moving")]
                head.shift(sum(len(DENSE_FIELDS[field]) for field in before), amount)  # pyright: ignore[reportCallIssue]
                return
        raise ValueError(f"{self.name} does not say what moves")

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

    def _tell_known(self, state: AggregatorState, known: Priors | None, size: tuple[int, int]) -> AggregatorState:
        if known is None or self.known is None:
            return state
        for_cameras, for_patches = self.known(known, size)
        state = state.add_to_cameras(for_cameras)
        return state if for_patches is None else state.add_to_patches(for_patches)

    def _dense_maps(self, tokens: Tokens) -> dict[str, Float[Tensor, "batch time channels height width"]]:
        """Raw maps of every dense field by its name."""
        over_frames = tokens.state.tokens.shape[:2]
        patches, quarter = tokens.patch_features(), tokens.quarter
        maps = {}
        for head, group in zip(self.dense_heads, self.config.dense_groups, strict=True):
            parts = [
                head([tap[frames] for tap in patches], tokens.grid, None if quarter is None else quarter[frames])
                for frames in tokens.frame_chunks()
            ]
            channels = [len(DENSE_FIELDS[field]) for field in group]
            fields = torch.cat(parts).unflatten(0, over_frames).split(channels, dim=2)
            maps.update(zip(group, fields, strict=True))
        return maps

    def _tracks(
        self, tokens: Tokens, scene: Scene, anchors: Tensor
    ) -> tuple[Tracks | None, Tensor | None, Matches | None]:
        """Tracks from the anchors, the logits of their visibility, and the matches that they started from."""
        if not anchors.shape[1]:
            return None, None, None
        if self.motion_head is not None:
            assert self.matching is not None
            assert tokens.cells is not None
            matches = self.matching.match_anchors(tokens.cells, anchors, tokens.grid)
            flow = self.matching.flow_features(matches, tokens.grid)
            tracks, logits = dense_tracks(self.motion_head, tokens, scene.points, matches, flow)
            return tracks, logits, matches
        if self.track_head is not None:
            features = self.track_features(tokens.state.features, scene.size, tokens.chunk)
            return point_tracks(self.track_head, features, scene.points, scene.point_confidence, anchors), None, None
        return None, None, None

    def _initialize(self, biases: list[tuple[float, ...]]) -> None:
        """Weights as they were shown to learn; a DINO backbone keeps timm's own."""
        for part in self.children():
            if part is not self.backbone or isinstance(part, ConvolutionalBackbone):
                initialize_linear_layers(part)
        blocks = list(self._residual_blocks())
        shrink_residual_outputs(blocks, std=0.02 / math.sqrt(2 * len(blocks)))
        if self.aggregator.positions is not None:
            self.aggregator.positions.reset_parameters()
        for part in (self.known, self.matching, self.camera_head, self.motion_head, self.track_head):
            if part is not None:
                part.reset_parameters()
        for head, bias in zip(self.dense_heads, biases, strict=True):
            head.initialize(torch.tensor(bias))  # pyright: ignore[reportCallIssue]
        if self.motion_head is not None:
            self.motion_head.dense.initialize(torch.zeros(MOTION_CHANNELS))

    def _residual_blocks(self) -> Iterator[Block]:
        for part in (self.backbone, self.aggregator):
            yield from (module for module in part.modules() if isinstance(module, Block))


def _scene(cameras: Cameras, raw: dict[str, Tensor], moving_logits: Tensor | None) -> Scene:
    """The scene of raw dense maps, without tracks; points follow from depth and cameras where no head answers them."""
    depth = decode_depth(raw["depth"])
    if "points" in raw:
        points = decode_points(raw["points"])
    else:
        in_camera = unproject_map(depth.values, cameras.intrinsics)
        points = ConfidentValues(transform_points(cameras.world_from_cam, in_camera), depth.confidence)
    return Scene(
        cameras=cameras,
        depths=depth.values,
        depth_confidence=depth.confidence,
        points=points.values,
        point_confidence=points.confidence,
        dynamic=torch.full_like(depth.values, torch.nan) if moving_logits is None else torch.sigmoid(moving_logits),
        metres_per_unit=depth.values.new_full(depth.values.shape[:1], torch.nan),
    )
