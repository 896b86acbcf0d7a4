"""One forward pass for people: sizes, precision, memory and progress are chosen here, not by the network."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.geometry import rows_and_columns
from recon4d.inference.priors import apply_priors
from recon4d.models import (
    Model,
    Outputs,
    is_bfloat16,
    match_feature_tracks,
)
from recon4d.records import (
    Clip,
    FeatureTracks,
    Priors,
    Scene,
)

Precision = Literal["auto", "float32", "bfloat16"]

MAX_FRAMES = 512
"""Frames of one pass: far beyond the clips that networks of this kind are trained on (24 frames) and published with
(VGGT: 200), so that more of them is a mistake and not a wish. Memory grows with frames only (`plan_memory`) and says by
itself where it ends; time grows with their square."""
MIN_SIDE = 32
"""Pixels; smaller pictures say too little."""


@dataclass(frozen=True)
class ReconstructConfig:
    """How a clip is processed."""

    anchors: tuple[int, ...] = (0,)
    """Frames whose every pixel is tracked to every time; () for none."""
    processing_size: int | None = None
    """Process at about the area of a square of this side, in pixels; None for the model's own."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on CUDA and on CPUs with bfloat16 instructions, else float32."""
    frame_chunk: int = 4
    """Backbone and dense heads take so many frames at once: lower needs less memory, the result is the same."""
    key_stride: int = 1
    """Above 1, attention across frames sees every so many rows and columns of patches only: faster, and less exact."""
    progress: bool = False
    """Show a progress bar on stderr."""


def reconstruct(model: Model, clip: Clip, config: ReconstructConfig = ReconstructConfig()) -> Scene:
    """The scene of one clip, on the CPU: its world is the first frame's camera, its maps are at the processing size.

    Nothing is cropped away: each axis is resized to a multiple of the model's patch, and
    ``scene.resized(*clip.size)`` takes maps and intrinsics to the original pixels. The result is deterministic.
    Confidence is 0 where ``clip.known.ignore`` says so. What else ``clip.known`` holds is told to the network where
    that can be told, and true in the answer (see `honor`). Runs on the model's device.

    Raises ``ValueError`` for clips that are too long, too small or batched, and ``MemoryError`` with what to lower.
    """
    if config.anchors and model.motion_head is None:
        _check_tracker(model, clip, config)
    return _run(model, clip, config, lambda outputs: None)[0]


def reconstruct_and_match(
    model: Model, clip: Clip, config: ReconstructConfig = ReconstructConfig()
) -> tuple[Scene, FeatureTracks]:
    """The scene, and where the network matched still points in the pictures: what `recon4d.refine` needs.

    Pixels are those of the scene's maps. Everything else is as for `reconstruct`.
    """
    if model.matching is None or (config.anchors and model.motion_head is None):
        _check_tracker(model, clip, config)
    scene, tracks = _run(model, clip, config, lambda outputs: match_feature_tracks(model, outputs))
    assert tracks is not None
    return scene, tracks


def _run(
    model: Model, clip: Clip, config: ReconstructConfig, also: Callable[[Outputs], FeatureTracks | None]
) -> tuple[Scene, FeatureTracks | None]:
    """The scene of one forward pass, and whatever `also` makes of its outputs while they are there."""
    _check(clip, config)
    device = next(model.parameters()).device
    if is_bfloat16(model) and not runs_in_bfloat16(config.precision, device):
        raise ValueError(f"{model.name} has bfloat16 weights (narrow_weights) and cannot run in {config.precision}")
    height, width = _size_of_pass(model, clip, config)
    resized = clip.resized(height, width)
    batch = Clip.stack([replace(resized, source=None)]).to(device)

    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=runs_in_bfloat16(config.precision, device)),
            _progress_bar(model, clip.num_frames, config),
        ):
            outputs = model.outputs(
                batch.images, batch.times, config.anchors, batch.priors, config.frame_chunk, config.key_stride
            )
            tracks = also(outputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory with {clip.num_frames} frames of {width} x {height} pixels on {device}: "
            "lower --num-frames, --processing-size or the number of --anchors, or take it in windows with --window 16"
        ) from error
    finally:
        model.train(was_training)
    # clone(): tensors made in inference mode could not be used in a user's own training.
    scene = outputs.scene[0].to("cpu").map(Tensor.clone).in_frame(0)
    if tracks is not None:
        tracks = tracks[0].to("cpu").map(Tensor.clone)
        tracks = replace(tracks, visibility=tracks.visibility * _kept_at(tracks.pixels, resized.priors))
    if resized.priors is not None and resized.priors.ignore is not None:
        scene = scene.ignoring(resized.priors.ignore)
    return apply_priors(scene, resized.priors), tracks


def processing_size(size: tuple[int, int], side: int, patch_size: int) -> tuple[int, int]:
    """Height and width, multiples of `patch_size`, of about the aspect of `size` and the area of `side` squared."""
    height, width = size
    scale = side / math.sqrt(height * width)

    def to_patches(pixels: int) -> int:
        return max(1, round(pixels * scale / patch_size)) * patch_size

    return to_patches(height), to_patches(width)


def _size_of_pass(model: Model, clip: Clip, config: ReconstructConfig) -> tuple[int, int]:
    return processing_size(clip.size, config.processing_size or model.config.processing_size, model.patch_size)


def _check_tracker(model: Model, clip: Clip, config: ReconstructConfig) -> None:
    """Refuse pictures too small for the pyramid of the model's point tracker, and say which size would do."""
    if model.track_head is None or clip.batch_shape or min(clip.size) < MIN_SIDE:
        return
    tracker = model.track_head.tracker.config
    needed = tracker.stride * 2 ** (tracker.levels - 1)
    height, width = _size_of_pass(model, clip, config)
    if min(height, width) >= needed:
        return
    side = next(
        side for side in itertools.count(needed) if min(processing_size(clip.size, side, model.patch_size)) >= needed
    )
    raise ValueError(
        f"{model.name} follows points in pictures of {needed} pixels or more each way, and would see {width} x "
        f"{height}: give --processing-size {side} or more, or ask for neither tracks (--anchors without a number) nor "
        "--refine"
    )


def _check(clip: Clip, config: ReconstructConfig) -> None:
    if clip.batch_shape:
        raise ValueError(f"reconstruct takes one clip, not a batch of shape {tuple(clip.batch_shape)}")
    if not 1 <= clip.num_frames <= MAX_FRAMES:
        raise ValueError(
            f"the clip has {clip.num_frames} frames and one pass takes 1 to {MAX_FRAMES}: take it in windows with "
            f"--window 16 (recon4d.inference.windows), or choose fewer with --num-frames {MAX_FRAMES}, a lower --fps, or --start "
            "and --stop"
        )
    height, width = clip.size
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"the pictures are {width} x {height} pixels; at least {MIN_SIDE} on each side are needed")
    if any(anchor not in range(clip.num_frames) for anchor in config.anchors):
        raise ValueError(f"anchors {list(config.anchors)} must be frames from 0 to {clip.num_frames - 1}")
    if min(config.frame_chunk, config.key_stride) < 1:
        raise ValueError(
            f"frame_chunk is {config.frame_chunk} and key_stride {config.key_stride}; at least 1 is needed"
        )
    if config.processing_size is not None and config.processing_size < MIN_SIDE:
        raise ValueError(f"the processing size is {config.processing_size} pixels; at least {MIN_SIDE} are needed")
    if clip.priors is not None:
        _check_known_cameras(clip.priors)


def _check_known_cameras(known: Priors) -> None:
    is_known = torch.isfinite(known.world_from_cam).flatten(-2).all(dim=-1)
    if is_known.any() and not is_known[0]:
        raise ValueError("cameras are known for some frames but not for the first, which all others are relative to")


def runs_in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether matrices are multiplied in bfloat16: then `narrow_weights` saves memory at the same answer."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and _cpu_is_faster_with_bfloat16()


def _cpu_is_faster_with_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; without that, autocast only costs time."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the system, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _kept_at(pixels: Float[Tensor, "time track 2"], known: Priors | None) -> Float[Tensor, "time track"]:
    """1 where the clip's mask lets pixels count, 0 where they are to be ignored."""
    if known is None or known.ignore is None:
        return torch.ones_like(pixels[..., 0])
    row, column = rows_and_columns(pixels, (known.ignore.shape[-2], known.ignore.shape[-1]))
    return (~known.ignore[torch.arange(len(pixels))[:, None], row, column]).to(pixels.dtype)


@contextmanager
def _progress_bar(model: Model, num_frames: int, config: ReconstructConfig) -> Iterator[None]:
    """A bar that moves with every block and head that has run, watched from outside the network."""
    if not config.progress:
        yield
        return
    from tqdm import tqdm

    chunks = math.ceil(num_frames / config.frame_chunk)
    blocks = [*model.aggregator.frame_blocks, *model.aggregator.global_blocks]
    total = len(blocks) + chunks * (1 + len(model.dense_heads))
    watched: list[nn.Module] = [model.backbone, *blocks, *model.dense_heads]
    if model.motion_head is not None:
        watched.append(model.motion_head)
        total += math.ceil(num_frames * len(config.anchors) / config.frame_chunk)
    elif model.track_head is not None:
        watched.append(model.track_head)
        total += len(config.anchors)
    with tqdm(total=total, desc="reconstructing", unit="step", leave=False) as bar:
        hooks = [module.register_forward_hook(lambda *_: bar.update() and None) for module in watched]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
