"""The whole network: backbone, aggregator, prior encoder, matching and heads; images to a `Scene` in one pass."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.heads import (
    CAMERA_HEADS,
    DENSE_FIELDS,
    DENSE_HEADS,
    DualDptHead,
    Rays,
    TrackHead,
    cameras_from_rays,
    check_queries,
    decode_rays,
)
from recon4d.layers import (
    Block,
    Matches,
    TwoViewFilter,
    initialize_linear_layers,
    initialize_residual_outputs,
)
from recon4d.models.aggregator import Aggregator, AggregatorState
from recon4d.models.backbones import create_backbone
from recon4d.models.backbones.base import BackboneFeatures
from recon4d.models.backbones.convolutional import ConvolutionalBackbone
from recon4d.models.camera_encoder import CameraEncoder, check_cameras
from recon4d.models.config import CameraSource, ModelConfig
from recon4d.models.decoding import decode_scene
from recon4d.models.dense_tracks import dense_tracks
from recon4d.models.matched_aggregation import aggregate_and_match, known_cameras
from recon4d.models.outputs import Outputs
from recon4d.models.parts import create_matching, create_motion_head
from recon4d.models.point_tracks import point_tracks
from recon4d.models.priors import PriorEncoder
from recon4d.models.reference_view import ReferenceView, is_reference_frame
from recon4d.models.scene_model import Images, PassModules, SceneModel
from recon4d.models.side_network import SideNetwork
from recon4d.models.tokens import Tokens, frame_slices
from recon4d.records import (
    Cameras,
    Priors,
    Scene,
    Tracks,
    full_precision,
)


class Model(SceneModel):
    """Network with an aggregator: frames of a clip see each other.

    The predicted world frame is the camera of the first frame, up to prediction errors (`recon4d.reconstruct` makes it
    exact), or that of the chosen reference frame (`reference_view`). The unit is about the mean distance of the scene
    points.

    Args:
        config: Configuration of all parts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config: ModelConfig = config
        self.backbone = create_backbone(config.backbone)
        self.patch_size = self.backbone.patch_size
        width = config.aggregator.block.width
        quarter = self.backbone.quarter_channels
        feature_widths = [2 * width] * len(config.aggregator.out_indices)

        self.embed = nn.Identity() if self.backbone.width == width else nn.Linear(self.backbone.width, width)
        # The attribute name `known` is a key of checkpoints.
        self.known = PriorEncoder(width, self.patch_size) if config.prior_inputs else None
        self.aggregator = Aggregator(config.aggregator)
        self.side = None if config.side is None else SideNetwork(config.side, feature_widths, self.patch_size)
        self.matching = create_matching(config, self.patch_size, self.backbone.eighth_channels)
        self.camera_head = CAMERA_HEADS[type(config.camera)](config.camera, feature_widths[-1])

        create_dense = DENSE_HEADS[type(config.dense)]
        biases = [sum((DENSE_FIELDS[field] for field in group), ()) for group in config.dense_groups]
        self.dense_heads = nn.ModuleList(
            [create_dense(config.dense, feature_widths, self.patch_size, quarter, len(bias)) for bias in biases]
        )
        self.motion_head = create_motion_head(config, self.patch_size, quarter)
        self.track_head = None if config.track is None else TrackHead(config.track, feature_widths, self.patch_size)
        self.camera_encoder = None if config.camera_encoder is None else CameraEncoder(config.camera_encoder)
        self._check_reference_view(config.reference_view)
        self._initialize(biases)

    @property
    def reference_view(self) -> ReferenceView:
        """How the reference frame is chosen; it can be set, and is part of the configuration.

        Raises:
            UserError: If it is set to an unknown strategy, or to another than "first" without class tokens.
        """
        return self.config.reference_view

    @reference_view.setter
    def reference_view(self, strategy: ReferenceView) -> None:
        config = replace(self.config, reference_view=strategy)
        self._check_reference_view(strategy)
        self.config = config

    @property
    def camera_source(self) -> CameraSource:
        """Where cameras come from; it can be set, and is part of the configuration.

        Raises:
            UserError: If it is set to "rays" and no head predicts rays.
        """
        return self.config.camera_source

    @camera_source.setter
    def camera_source(self, source: CameraSource) -> None:
        self.config = replace(self.config, camera_source=source)

    def outputs(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        anchors: Sequence[int] | Int[Tensor, "batch anchor"] = (0,),
        priors: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Outputs:
        """See `SceneModel.outputs`."""
        images, times, anchors = self._prepare_inputs(images, times, anchors)
        size = (images.shape[-2], images.shape[-1])
        tokens = self.tokens(images, times, priors, frame_chunk, key_stride)
        return self.with_tracks(tokens, self.scene_outputs(tokens, size, priors), anchors)

    def scene_outputs(self, tokens: Tokens, size: tuple[int, int], priors: Priors | None = None) -> Outputs:
        """Run the camera head and the dense heads.

        Args:
            tokens: Result of `tokens`.
            size: Height and width of the images in pixels.
            priors: Known intrinsics and cameras, for the epipolar filter of matches; None if nothing is known.

        Returns:
            The outputs without tracks.
        """
        state = tokens.state
        assert state.special_features is not None
        camera_stages = self.camera_head(state.special_features, size)
        raw = self._dense_maps(tokens)
        rays = decode_rays(raw["rays"]) if "rays" in raw else None
        dynamic_logits = raw["moving"].squeeze(-3) if "moving" in raw else None
        scene = decode_scene(self._cameras(camera_stages[-1], rays, size), raw, dynamic_logits)
        two_view = None
        if self.matching is not None:
            two_view = self.matching.two_view_filter(known_cameras(priors), scene.cameras, scene.dynamic)
        return Outputs(
            scene=scene,
            camera_stages=camera_stages,
            matches=tokens.tracking.matches,
            anchor_matches=None,
            cell_features=tokens.tracking.cell_features,
            dynamic_logits=dynamic_logits,
            visibility_logits=None,
            features=state.features,
            two_view=two_view,
            rays=rays,
        )

    def with_tracks(self, tokens: Tokens, outputs: Outputs, anchors: Int[Tensor, "batch anchor"]) -> Outputs:
        """Run the motion head or the point tracker, if the model has one.

        Args:
            tokens: Result of `tokens`.
            outputs: Result of `scene_outputs`.
            anchors: Indices of the frames whose pixels are tracked.

        Returns:
            The outputs with tracks.
        """
        tracks, visibility_logits, anchor_matches = self._tracks(tokens, outputs.scene, anchors, outputs.two_view)
        scene = replace(outputs.scene, tracks=tracks)
        return replace(outputs, scene=scene, anchor_matches=anchor_matches, visibility_logits=visibility_logits)

    def tokens(
        self,
        images: Images,
        times: Float[Tensor, "batch time"] | None = None,
        priors: Priors | None = None,
        frame_chunk: int | None = None,
        key_stride: int = 1,
    ) -> Tokens:
        """Run backbone, prior encoder, aggregator and matching.

        Args:
            images: RGB images, uint8 or floating point in [0, 1].
            times: Times in seconds; None or NaN for photos without an order.
            priors: Known intrinsics, cameras and depth; None if nothing is known.
            frame_chunk: Number of frames that the backbone processes at once; None for all.
            key_stride: See `outputs`.

        Returns:
            The input of the heads.
        """
        images, times, _ = self._prepare_inputs(images, times, ())
        batch, time, _, height, width = images.shape
        grid = (height // self.patch_size, width // self.patch_size)
        features = self._backbone_features(images.flatten(0, 1), frame_chunk)
        patch_tokens = self.embed(features.tokens).unflatten(0, (batch, time))
        is_reference = self._is_reference(features, (batch, time))
        state = self.aggregator.initial_state(patch_tokens, grid, key_stride, is_reference)
        state = self._add_priors(state, priors, (height, width))
        tokens = Tokens(state, grid, features.quarter, None, None, frame_chunk)
        if self.side is None and self.matching is not None:
            return aggregate_and_match(self.aggregator, self.matching, tokens, features.eighth, times, priors)
        tokens = replace(tokens, state=self.aggregator(state, 0, self.config.aggregator.depth))
        if self.side is None:
            return tokens
        assert self.matching is not None
        quarter, eighth = self.side.stem_features(images.flatten(0, 1), frame_chunk)
        side = replace(
            tokens, state=self.side.initial_state(tokens.state, grid, key_stride, is_reference), quarter=quarter
        )
        side = aggregate_and_match(self.side.aggregator, self.matching, side, eighth, times, priors)
        return replace(tokens, side=side)

    def track(
        self,
        images: Images,
        query_pixels: Float[Tensor, "batch query 2"],
        query_frame: int = 0,
        frame_chunk: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Track query pixels of one frame through the images.

        Args:
            images: RGB images, uint8 or floating point in [0, 1].
            query_pixels: Pixel coordinates (x, y) of the queries; the center of the first pixel is (0.5, 0.5).
            query_frame: Index of the frame of the queries.
            frame_chunk: Number of frames processed at once; None for all.

        Returns:
            Pixel coordinates (batch, time, query, 2), and visibility and confidence (batch, time, query) in [0, 1].

        Raises:
            UserError: If the model has no track head.
            ValueError: If a query is outside the image.
        """
        if self.track_head is None:
            raise UserError(f"model {self.name} has no track head; `model(images)` returns its dense tracks")
        size = (images.shape[-2], images.shape[-1])
        check_queries(query_pixels, size)
        tokens = self.tokens(images, frame_chunk=frame_chunk)
        tracked = self.track_head(
            self.track_features(tokens.state.features, size, tokens.frame_chunk), query_pixels, query_frame
        )
        return tracked.pixels, tracked.visibility, tracked.confidence

    def track_features(
        self, features: Sequence[Float[Tensor, "batch time tokens _"]], size: tuple[int, int], frame_chunk: int | None
    ) -> Float[Tensor, "batch time channels half_height half_width"]:
        """Compute the feature maps in which the track head searches points.

        Args:
            features: Outputs of the aggregator (`Outputs.features`).
            size: Height and width of the images in pixels.
            frame_chunk: Number of frames processed at once; None for all.

        Returns:
            Feature maps of all frames at half the image size.
        """
        assert self.track_head is not None
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        layers = [layer[:, :, self.aggregator.num_special :].flatten(0, 1) for layer in features]
        slices = frame_slices(layers[0], frame_chunk)
        maps = torch.cat([self.track_head.features([layer[part] for layer in layers], grid) for part in slices])
        return maps.unflatten(0, features[0].shape[:2])

    def shift_dynamic_logits(self, amount: float) -> None:
        """Add a constant to the logits of the dynamic probability, in place.

        Args:
            amount: Value to add.

        Raises:
            ValueError: If the model does not predict the dynamic probability.
        """
        for head, group in zip(self.dense_heads, self.config.dense_groups, strict=True):
            if "moving" in group:
                before = group[: group.index("moving")]
                head.shift(sum(len(DENSE_FIELDS[field]) for field in before), amount)  # pyright: ignore[reportCallIssue]
                return
        if self.side is not None:
            self.side.dynamic_head.shift(0, amount)
            return
        raise ValueError(f"model {self.name} does not predict the dynamic probability")

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the activations of all blocks in the backward pass: a third more time, but far less memory.

        Args:
            enabled: Whether to recompute activations.
        """
        self.backbone.set_activation_checkpointing(enabled)
        self.aggregator.checkpointing = enabled
        if self.side is not None:
            self.side.aggregator.checkpointing = enabled

    @property
    def frozen_modules(self) -> tuple[nn.Module, ...]:
        """Modules that are not trained because there is a side network; empty without one."""
        if self.side is None:
            return ()
        trained = (self.side, self.matching, self.motion_head)
        return tuple(module for module in self.children() if all(module is not part for part in trained))

    def train(self, mode: bool = True) -> "Model":
        """Set training or evaluation mode; `frozen_modules` stay in evaluation mode.

        Args:
            mode: Whether to set training mode.

        Returns:
            The model itself.
        """
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self

    @property
    def encodes_all_cameras(self) -> bool:
        """See `SceneModel.encodes_all_cameras`."""
        return self.camera_encoder is not None

    @property
    def trunks(self) -> tuple[nn.Module, ...]:
        """See `SceneModel.trunks`."""
        side = () if self.side is None else (self.side.aggregator,)
        return self.backbone, self.aggregator, *side

    @property
    def pass_modules(self) -> PassModules:
        """See `SceneModel.pass_modules`."""
        aggregators = [self.aggregator] if self.side is None else [self.aggregator, self.side.aggregator]
        outputs: list[Any] = [head.out for head in self.dense_heads]
        if self.side is not None:
            outputs += [self.side.stem, self.side.dynamic_head]
        return PassModules(
            once=[block for one in aggregators for block in (*one.frame_blocks, *one.global_blocks)],
            per_chunk=[self.backbone, *outputs],
            per_anchor_chunk=[] if self.motion_head is None else [self.motion_head],
            per_anchor=[] if self.track_head is None or self.motion_head is not None else [self.track_head],
        )

    def _prepare_inputs(
        self, images: Tensor, times: Tensor | None, anchors: Sequence[int] | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Validate the inputs; return floating-point images, times (NaN if missing) and anchors (batch, anchor)."""
        if not isinstance(images, Tensor) or images.ndim != 5 or images.shape[2] != 3:
            given = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
            raise ValueError(f"images are {given}; wanted a tensor of shape (batch, time, 3, height, width)")
        if times is not None and tuple(times.shape) != tuple(images.shape[:2]):
            raise ValueError(f"times have shape {tuple(times.shape)}; wanted (batch, time) = {tuple(images.shape[:2])}")
        images = self.floating_images(images)
        num_frames = images.shape[1]
        if not isinstance(anchors, Tensor):
            if any(anchor not in range(num_frames) for anchor in anchors):
                raise ValueError(f"anchors {list(anchors)} must be frame indices from 0 to {num_frames - 1}")
            anchors = torch.tensor(list(anchors), dtype=torch.long, device=images.device).expand(images.shape[0], -1)
        if times is None:
            times = images.new_full(images.shape[:2], torch.nan, dtype=torch.float32)
        return images, times, anchors

    def _backbone_features(self, images: Tensor, chunk: int | None) -> BackboneFeatures:
        parts: list[BackboneFeatures] = [self.backbone(images[part]) for part in frame_slices(images, chunk)]

        def concatenate(get: Callable[[BackboneFeatures], Tensor | None]) -> Tensor | None:
            values = [value for value in map(get, parts) if value is not None]
            return torch.cat(values) if values else None

        # The residual stream stays in full precision; autocast casts inside the blocks.
        tokens = full_precision(torch.cat([part.tokens for part in parts]))
        return BackboneFeatures(
            tokens,
            concatenate(lambda part: part.quarter),
            concatenate(lambda part: part.eighth),
            concatenate(lambda part: part.class_tokens),
        )

    def _check_reference_view(self, strategy: ReferenceView) -> None:
        if strategy != "first" and not self.backbone.has_class_tokens:
            raise UserError(
                f"model {self.name} has the first frame as reference, not {strategy!r}: its backbone has no class "
                "tokens to choose by"
            )

    def _is_reference(self, features: BackboneFeatures, over_frames: tuple[int, int]) -> Tensor | None:
        """Mark the reference frame of each clip; None if it is the first."""
        if self.reference_view == "first":
            return None
        assert features.class_tokens is not None
        return is_reference_frame(features.class_tokens.unflatten(0, over_frames), self.reference_view)

    def _cameras(self, encoding: Tensor, rays: Rays | None, size: tuple[int, int]) -> Cameras:
        """Return the cameras from the source that the configuration names."""
        return self.camera_head.decode(encoding, size) if rays is None else cameras_from_rays(rays, size)

    def _add_priors(self, state: AggregatorState, priors: Priors | None, size: tuple[int, int]) -> AggregatorState:
        if priors is not None and self.camera_encoder is not None:
            if not self.training:
                check_cameras(priors)
            state = state.replace_camera_tokens(*self.camera_encoder(priors, size))
        if priors is None or self.known is None:
            return state
        for_camera_tokens, for_patch_tokens = self.known(priors, size)
        state = state.add_to_camera_tokens(for_camera_tokens)
        return state if for_patch_tokens is None else state.add_to_patch_tokens(for_patch_tokens)

    def _dense_maps(self, tokens: Tokens) -> dict[str, Float[Tensor, "batch time channels height width"]]:
        """Run the dense heads; return the raw maps of every field by its name, and "rays" if cameras come from them."""
        over_frames = tokens.state.tokens.shape[:2]
        features, quarter = tokens.patch_features(), tokens.quarter
        maps: dict[str, Tensor] = {}
        for head, group in zip(self.dense_heads, self.config.dense_groups, strict=True):
            with_rays = self.camera_source == "rays" and isinstance(head, DualDptHead) and "depth" in group
            predict: Any = head.forward_with_rays if with_rays else head
            parts = [
                predict(
                    [layer[frames] for layer in features], tokens.grid, None if quarter is None else quarter[frames]
                )
                for frames in tokens.frame_chunks()
            ]
            if with_rays:
                maps["rays"] = torch.cat([rays for _, rays in parts]).unflatten(0, over_frames)
                parts = [depth for depth, _ in parts]
            channels = [len(DENSE_FIELDS[field]) for field in group]
            fields = torch.cat(parts).unflatten(0, over_frames).split(channels, dim=2)
            maps.update(zip(group, fields, strict=True))
        if self.side is not None and tokens.side is not None:
            maps["moving"] = self.side.dynamic_maps(tokens.side)
        return maps

    def _tracks(
        self, tokens: Tokens, scene: Scene, anchors: Tensor, two_view: TwoViewFilter | None
    ) -> tuple[Tracks | None, Tensor | None, Matches | None]:
        """Predict the tracks of the anchor frames, the logits of their visibility, and the matches they start from."""
        if not anchors.shape[1]:
            return None, None, None
        if self.motion_head is not None:
            assert self.matching is not None
            tokens = tokens.tracking
            assert tokens.cell_features is not None
            matches = self.matching.match_anchors(tokens.cell_features, anchors, tokens.grid, two_view)
            flow = self.matching.flow_features(matches, tokens.grid)
            tracks, logits = dense_tracks(self.motion_head, tokens, scene, matches, flow)
            return tracks, logits, matches
        if self.track_head is not None:
            features = self.track_features(tokens.state.features, scene.size, tokens.frame_chunk)
            return point_tracks(self.track_head, features, scene.points, scene.point_confidence, anchors), None, None
        return None, None, None

    def _initialize(self, biases: list[tuple[float, ...]]) -> None:
        """Initialize all weights; a DINO backbone keeps the initialization of timm."""
        for part in self.children():
            if part is not self.backbone or isinstance(part, ConvolutionalBackbone):
                initialize_linear_layers(part)
        blocks = list(self._residual_blocks())
        initialize_residual_outputs(blocks, std=0.02 / math.sqrt(2 * len(blocks)))
        for trunk in self.trunks:
            if isinstance(trunk, Aggregator) and trunk.positions is not None:
                trunk.positions.reset_parameters()
        for part in (self.known, self.matching, self.camera_head, self.motion_head, self.track_head):
            if part is not None:
                part.reset_parameters()
        for head, bias in zip(self.dense_heads, biases, strict=True):
            head.initialize(torch.tensor(bias))  # pyright: ignore[reportCallIssue]
        if self.side is not None:
            self.side.dynamic_head.initialize(torch.tensor(DENSE_FIELDS["moving"]))
        if self.motion_head is not None:
            self.motion_head.dense.initialize(torch.zeros(self.motion_head.config.channels))

    def _residual_blocks(self) -> Iterator[Block]:
        for part in self.trunks:
            yield from (module for module in part.modules() if isinstance(module, Block))
