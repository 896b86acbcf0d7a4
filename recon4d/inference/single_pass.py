"""Reconstruction of a clip in a single forward pass: processing size, precision, memory and checks."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.geometry import pixel_indices, robust_path_scale
from recon4d.heads import TrackHead
from recon4d.heads.camera_base import PRIOR_FIELD_OF_VIEW
from recon4d.inference.camera_alignment import similarity_scale_to_cameras
from recon4d.inference.priors import CameraScale, apply_priors
from recon4d.inference.rigs import apply_rig
from recon4d.io.clips import ClipInput, names_files, read_clip
from recon4d.io.long_clips import LongClip
from recon4d.layers import attention_kernel, set_attention_kernel
from recon4d.models import (
    Model,
    MonoModel,
    Outputs,
    SceneModel,
    check_cameras,
    has_all_cameras,
    is_bfloat16,
    is_ground,
    match_feature_tracks,
    predicts_dense_tracks,
)
from recon4d.records import (
    Clip,
    FeatureTracks,
    Priors,
    Scene,
)

if TYPE_CHECKING:
    from tqdm import tqdm

Precision = Literal["auto", "float32", "bfloat16"]
"""Precision of matrix products. ``auto`` is bfloat16 on CUDA and on CPUs with bfloat16 instructions, otherwise
float32."""

MAX_FRAMES = 512
"""Largest number of frames of a pass. Networks of this kind are trained with 24 frames and published for up to 200
(VGGT), so a larger number is most likely a mistake. Memory is linear and time quadratic in the number of frames."""
MIN_SIDE = 32
"""Smallest side of an image in pixels. Hand-tuned."""
GUIDE_MODEL = "recon4d_mini"
"""Model of the zoo whose matches are used for models without matches of their own. Its weights are in the package."""


@dataclass(frozen=True)
class ReconstructConfig:
    """How a clip is processed in a single pass."""

    anchors: tuple[int, ...] = (0,)
    """Frames whose pixels are tracked to every time; empty for no tracks."""
    processing_size: int | None = None
    """Side in pixels of a square with the area at which the clip is processed; None for the size of the model."""
    precision: Precision = "auto"
    """Precision of matrix products, see `Precision`."""
    frame_chunk: int = 4
    """Number of frames that the backbone and the dense heads process at once. A lower number needs less memory; the
    result is the same."""
    key_stride: int = 1
    """Attention across frames uses keys of every `key_stride`-th row and column of patch tokens; above 1 it is faster
    and less accurate."""
    progress: bool = False
    """Whether to show a progress bar on stderr."""
    on_progress: Callable[[float], None] | None = None
    """Called during the pass with the fraction that is done, from 0 to 1; None reports nothing."""
    on_rig: Callable[[str], None] | None = None
    """Called with a line that tells what of a rig was fixed; None reports nothing."""


def reconstruct(  # noqa: PLR0913
    model: SceneModel | str | Path,
    clip: Clip | ClipInput,
    *,
    refine: bool = False,
    anchors: Sequence[int] = (0,),
    processing_size: int | None = None,
    precision: Precision = "auto",
    frame_chunk: int = 4,
    key_stride: int = 1,
    progress: bool = False,
) -> Scene:
    """Reconstruct a clip in a single forward pass on the device of the model. The result is deterministic.

    The whole image is used: each axis is resized to a multiple of the model's patch size. Priors of the clip are passed
    to the network if it accepts them, and hold in the result in any case (`apply_priors`). Confidence is 0 at pixels of
    ``clip.priors.ignore``.

    Args:
        model: The network; or the name of a model or a checkpoint file, which is loaded, to the GPU if there is one.
        clip: A clip of at most `MAX_FRAMES` frames, without batch axes; or a path, which
            `recon4d.read_clip` reads with its default number of frames; or images in memory, such as an array of shape
            (time, height, width, 3), as `recon4d.Clip.from_images` takes them.
        refine: Whether to refine cameras and depth with the images (`recon4d.refine_clip`). The scene stays as
            predicted if the images do not improve it. Refined maps have a longer side of 512 pixels, or the clip's size
            if that is smaller. If lens distortion is found, the scene is that of undistorted
            images (`Scene.distortion`); `reconstruct_and_match` and `refine_clip` return these as well.
        anchors: Frames whose pixels are tracked to every time; empty for no tracks.
        processing_size: Side in pixels of a square with the area at which the clip is processed; None for the size of
            the model.
        precision: Precision of matrix products, see `Precision`.
        frame_chunk: Number of frames that the backbone and the dense heads process at once. A lower number needs less
            memory; the result is the same.
        key_stride: Attention across frames uses keys of every `key_stride`-th row and column of patch tokens; above 1
            it is faster and less accurate.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The scene, on the CPU. Its world is the camera of the first frame, and its maps have the processing size;
        ``scene.resized(*clip.size)`` converts maps and intrinsics to the size of the clip.

    Raises:
        UserError: If the clip is too long or too small, an option does not fit it, memory is exhausted, or the priors
            of the clip do not allow refinement. The message says what to change.
        ValueError: If the clip has batch axes.
    """
    config = ReconstructConfig(
        anchors=tuple(anchors),
        processing_size=processing_size,
        precision=precision,
        frame_chunk=frame_chunk,
        key_stride=key_stride,
        progress=progress,
    )
    if not refine:
        return predict_scene(model, clip, config)
    from recon4d.refine import MAP_SIDE, RefineConfig, has_camera_priors, refine_clip

    model, clip = as_model(model), as_clip(clip)
    has_camera_priors(clip)  # raises before the pass if the priors do not allow refinement
    scene, matches = reconstruct_and_match(model, clip, config)
    return refine_clip(clip, scene, matches, RefineConfig(map_side=MAP_SIDE)).scene


def predict_scene(
    model: SceneModel | str | Path, clip: Clip | ClipInput, config: ReconstructConfig = ReconstructConfig()
) -> Scene:
    """Run a single forward pass with a configuration: `reconstruct` without refinement.

    Args:
        model: A model, as for `reconstruct`.
        clip: A clip, a path or images in memory, such as an array of shape (time, height, width, 3), as for
            `reconstruct`.
        config: How the clip is processed.

    Returns:
        The scene of `reconstruct`.

    Raises:
        UserError: As for `reconstruct`.
        ValueError: As for `reconstruct`.
    """
    model, clip = as_model(model), as_clip(clip)
    if config.anchors and not predicts_dense_tracks(model):
        _check_tracker_size(model, clip, config)
    return _run(model, clip, config, lambda outputs: None)[0]


def reconstruct_and_match(
    model: SceneModel | str | Path, clip: Clip | ClipInput, config: ReconstructConfig = ReconstructConfig()
) -> tuple[Scene, FeatureTracks]:
    """Reconstruct a clip and return feature matches of static points as well, which `recon4d.refine` needs.

    If the model cannot match (no matching layer, and no track head that fits the processing size), the matches are
    those of `GUIDE_MODEL`, which runs on the same clip.

    Args:
        model: A model, as for `reconstruct`.
        clip: A clip, a path or images in memory, such as an array of shape (time, height, width, 3), as for
            `reconstruct`.
        config: How the clip is processed.

    Returns:
        The scene of `reconstruct`, and feature tracks in pixels of its maps.

    Raises:
        UserError: As for `reconstruct`.
        ValueError: As for `reconstruct`.
    """
    model, clip = as_model(model), as_clip(clip)
    if config.anchors and not predicts_dense_tracks(model):
        _check_tracker_size(model, clip, config)
    if not _can_match(model, clip, config):
        scene = _run(model, clip, config, lambda outputs: None)[0]
        return scene, _guide_matches(model, clip, scene, config)
    assert isinstance(model, Model)
    scene, tracks = _run(model, clip, config, lambda outputs: match_feature_tracks(model, outputs))
    assert tracks is not None
    return scene, tracks


def as_model(model: SceneModel | str | Path) -> SceneModel:
    """Load a model that is given by its name or file."""
    if isinstance(model, str | Path):
        from recon4d.zoo import find_model

        return find_model(model).to("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, SceneModel):
        raise UserError(f"model is a {type(model).__name__}; wanted a Model, the name of one or a checkpoint file")
    return model


def as_clip(clip: Clip | ClipInput) -> Clip:
    """Read a clip that is given by its path, or create it from images."""
    if isinstance(clip, Clip):
        return clip
    return read_clip(clip) if names_files(clip) else Clip.from_images(clip)


def _can_match(model: SceneModel, clip: Clip, config: ReconstructConfig) -> bool:
    """Check whether a model matches points between the frames of a clip at the processing size."""
    if not isinstance(model, Model):
        return False
    return model.matching is not None or (model.track_head is not None and _tracker_fits(model, clip, config))


def _guide_matches(model: SceneModel, clip: Clip, scene: Scene, config: ReconstructConfig) -> FeatureTracks:
    """Match points with `GUIDE_MODEL` on the device of a model; return tracks in pixels of the maps of a scene."""
    from recon4d.zoo import create_model

    guide = create_model(GUIDE_MODEL).to(model.device)
    set_attention_kernel(guide, attention_kernel(model))
    guide_config = ReconstructConfig(anchors=(), precision=config.precision, frame_chunk=config.frame_chunk)
    guide_scene, tracks = reconstruct_and_match(guide, clip, guide_config)
    (height, width), (guide_height, guide_width) = scene.size, guide_scene.size
    scale = tracks.pixels.new_tensor([width / guide_width, height / guide_height])
    return replace(tracks, pixels=tracks.pixels * scale)


def _run(
    model: SceneModel, clip: Clip, config: ReconstructConfig, match: Callable[[Outputs], FeatureTracks | None]
) -> tuple[Scene, FeatureTracks | None]:
    """Run one forward pass, and `match` on its outputs before they are released."""
    _check(clip, config)
    _check_priors(model, clip)
    device = model.device
    if is_bfloat16(model) and not runs_in_bfloat16(config.precision, device):
        raise UserError(
            f"{model.name} has bfloat16 weights and cannot run with precision {config.precision!r}; load it again, or "
            "use precision 'bfloat16'"
        )
    height, width = _size_of_pass(model, clip, config)
    was_training = model.training
    model.eval()
    try:
        resized = clip.resized(height, width)
        batch = Clip.stack([replace(resized, times=_times_of_cameras(clip), source=None, rig=None)]).to(device)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=runs_in_bfloat16(config.precision, device)),
            _progress_bar(model, clip.num_frames, config),
        ):
            outputs = model.outputs(
                batch.images, batch.times, config.anchors, batch.priors, config.frame_chunk, config.key_stride
            )
            tracks = match(outputs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory with {clip.num_frames} frames of {width} x {height} pixels on {device}: use fewer frames, "
            "a smaller processing size or fewer anchors, or reconstruct the clip in windows (recon4d.inference.windows)"
        ) from error
    finally:
        model.train(was_training)
    # clone(): tensors created in inference mode could not be used in training.
    scene = outputs.scene[0].to("cpu").map(Tensor.clone).in_frame(0)
    if tracks is not None:
        tracks = tracks[0].to("cpu").map(Tensor.clone)
        tracks = replace(tracks, visibility=tracks.visibility * _not_ignored(tracks.pixels, resized.priors))
    if resized.priors is not None and resized.priors.ignore is not None:
        scene = scene.with_unknown(resized.priors.ignore)
    if outputs.sky is not None:
        scene = scene.with_unknown(~is_ground(outputs.sky[0].to("cpu")))
    _warn_about_assumptions(model, clip)
    scene = apply_priors(scene, resized.priors, _camera_scale(model, clip))
    fixed = apply_rig(scene, resized)
    if config.on_rig is not None and fixed.report:
        config.on_rig(fixed.report)
    return fixed.scene, tracks


def assumptions(model: SceneModel, clip: Clip | LongClip) -> tuple[str, ...]:
    """Describe what a scene assumes because the network does not predict it.

    Args:
        model: The network.
        clip: The clip with its priors.

    Returns:
        One phrase for each assumption; none for networks that predict cameras.
    """
    if not isinstance(model, MonoModel):
        return ()
    priors = Priors.unknown(clip.num_frames) if clip.priors is None else clip.priors
    has_intrinsics, has_camera = (
        values.isfinite().all(dim=(1, 2)) for values in (priors.intrinsics, priors.world_from_cam)
    )
    found = []
    if clip.num_frames > 1 and not has_camera.all():
        found.append("a camera that stands still")
    if not has_intrinsics.all():
        degrees = math.degrees(PRIOR_FIELD_OF_VIEW)
        found.append(f"a field of view of {degrees:.0f} degrees (over the geometric mean of width and height)")
    return tuple(found)


def _warn_about_assumptions(model: SceneModel, clip: Clip) -> None:
    if found := assumptions(model, clip):
        warnings.warn(f"{model.name} predicts no cameras: the scene assumes {' and '.join(found)}", stacklevel=4)


def _times_of_cameras(clip: Clip) -> Float[Tensor, " time"]:
    """Times by which the network matches neighbors. Cameras of a rig follow each other, each with its own frames."""
    if clip.rig is None:
        return clip.times
    times = clip.times
    if not times.isfinite().all():
        if clip.rig.rig_from_cam is not None:
            return times  # single panoramas without an order
        times = torch.tensor(clip.rig.moments).to(times)
    return torch.tensor(clip.rig.cameras) * (times.max() - times.min() + 1) + times


def _camera_scale(model: SceneModel, clip: Clip) -> CameraScale:
    """Return how the scale follows from given cameras: networks that encode all of them have a rule of their own."""
    is_encoded = model.encodes_all_cameras and clip.priors is not None and bool(has_all_cameras(clip.priors))
    return similarity_scale_to_cameras if is_encoded else robust_path_scale


def _check_priors(model: SceneModel, clip: Clip) -> None:
    """Check the given cameras of a clip for a network that encodes them."""
    if clip.priors is None or not model.encodes_all_cameras:
        return
    check_cameras(clip.priors)
    if clip.num_frames == 1 and clip.priors.world_from_cam.isfinite().all():
        raise UserError(
            f"the camera pose of a single frame is given, which does not determine the scale of {model.name}; give at "
            "least 2 frames, or only intrinsics"
        )


def processing_size(size: tuple[int, int], side: int, patch_size: int) -> tuple[int, int]:
    """Compute the size at which an image is processed.

    Args:
        size: Height and width of the image in pixels.
        side: Side of a square with the desired area, in pixels.
        patch_size: Side of a patch in pixels.

    Returns:
        Height and width in pixels: multiples of `patch_size` with about the aspect ratio of `size` and the area of
        `side` squared.
    """
    height, width = size
    scale = side / math.sqrt(height * width)

    def to_multiple(pixels: int) -> int:
        return max(1, round(pixels * scale / patch_size)) * patch_size

    return to_multiple(height), to_multiple(width)


def _size_of_pass(model: SceneModel, clip: Clip, config: ReconstructConfig) -> tuple[int, int]:
    return processing_size(clip.size, config.processing_size or model.config.processing_size, model.patch_size)


def _tracker_fits(model: SceneModel, clip: Clip, config: ReconstructConfig) -> bool:
    """Check whether the processing size suffices for the feature pyramid of the point tracker, if there is one."""
    if not isinstance(model, Model) or model.track_head is None or clip.batch_shape or min(clip.size) < MIN_SIDE:
        return True
    return min(_size_of_pass(model, clip, config)) >= _min_tracker_side(model.track_head)


def _min_tracker_side(head: TrackHead) -> int:
    return head.tracker.config.stride * 2 ** (head.tracker.config.levels - 1)


def _check_tracker_size(model: SceneModel, clip: Clip, config: ReconstructConfig) -> None:
    """Check that the processing size suffices for the point tracker, if the model has one."""
    if not isinstance(model, Model) or model.track_head is None or _tracker_fits(model, clip, config):
        return
    needed = _min_tracker_side(model.track_head)
    height, width = _size_of_pass(model, clip, config)
    side = next(
        side for side in itertools.count(needed) if min(processing_size(clip.size, side, model.patch_size)) >= needed
    )
    raise UserError(
        f"{model.name} tracks points in images of at least {needed} pixels along each axis, and the processing size is "
        f"{width} x {height}; use a processing size of at least {side}, or no anchors"
    )


def _check(clip: Clip, config: ReconstructConfig) -> None:
    if clip.batch_shape:
        raise ValueError(f"reconstruct expects one clip, got a batch of shape {tuple(clip.batch_shape)}")
    if not 1 <= clip.num_frames <= MAX_FRAMES:
        raise UserError(
            f"the clip has {clip.num_frames} frames, and a single pass supports 1 to {MAX_FRAMES}; read it with a "
            "smaller num_frames or fps or a shorter range (start, stop), or reconstruct it in windows "
            "(recon4d.inference.windows)"
        )
    height, width = clip.size
    if min(height, width) < MIN_SIDE:
        raise UserError(f"the images have {width} x {height} pixels; each side needs at least {MIN_SIDE}")
    if any(anchor not in range(clip.num_frames) for anchor in config.anchors):
        raise UserError(f"anchors are {list(config.anchors)}; they must be frames from 0 to {clip.num_frames - 1}")
    if min(config.frame_chunk, config.key_stride) < 1:
        raise UserError(
            f"frame_chunk is {config.frame_chunk} and key_stride is {config.key_stride}; both must be at least 1"
        )
    if config.processing_size is not None and config.processing_size < MIN_SIDE:
        raise UserError(f"the processing size is {config.processing_size} pixels; it must be at least {MIN_SIDE}")


def runs_in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Return whether matrix products run in bfloat16; `cast_to_bfloat16` then saves memory without changing results.

    Args:
        precision: The requested precision.
        device: Device of the model.

    Returns:
        True for bfloat16, False for float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and _cpu_has_bfloat16_instructions()


def _cpu_has_bfloat16_instructions() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices natively; otherwise autocast makes it slower."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the memory of a device or of the system is exhausted.

    Args:
        error: An exception that PyTorch or Python raised.

    Returns:
        True for `MemoryError` and for PyTorch's out-of-memory errors on any device.
    """
    is_memory_error = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    # PyTorch's CPU allocator raises a plain RuntimeError.
    return is_memory_error or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _not_ignored(pixels: Float[Tensor, "time track 2"], priors: Priors | None) -> Float[Tensor, "time track"]:
    """Return 0 for pixels in the ignore mask of the clip and 1 for all others."""
    if priors is None or priors.ignore is None:
        return torch.ones_like(pixels[..., 0])
    row, column = pixel_indices(pixels, (priors.ignore.shape[-2], priors.ignore.shape[-1]))
    return (~priors.ignore[torch.arange(len(pixels))[:, None], row, column]).to(pixels.dtype)


@contextmanager
def _progress_bar(model: SceneModel, num_frames: int, config: ReconstructConfig) -> Iterator[None]:
    """Report progress after every block and head through forward hooks, with a bar if `config` requests one."""
    if not config.progress and config.on_progress is None:
        yield
        return
    modules, total = _steps(model, num_frames, config)
    done = itertools.count(1)
    with _bar(total) if config.progress else nullcontext() as bar:

        def advance(*_: object) -> None:
            if bar is not None:
                bar.update()
            if config.on_progress is not None:
                config.on_progress(min(1.0, next(done) / total))

        hooks = [module.register_forward_hook(advance) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _bar(total: int) -> "tqdm":
    from tqdm import tqdm

    return tqdm(total=total, desc="reconstructing", unit="step", leave=False)


def _steps(model: SceneModel, num_frames: int, config: ReconstructConfig) -> tuple[list[nn.Module], int]:
    """Return the modules whose calls are the steps of a pass, and the number of calls."""
    modules = model.pass_modules
    chunks, anchors = math.ceil(num_frames / config.frame_chunk), len(config.anchors)
    calls = (
        (modules.once, 1),
        (modules.per_chunk, chunks),
        (modules.per_anchor_chunk, math.ceil(num_frames * anchors / config.frame_chunk)),
        (modules.per_anchor, anchors),
    )
    return [module for group, _ in calls for module in group], sum(len(group) * count for group, count in calls)
