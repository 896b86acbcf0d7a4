"""What commands have in common: models and devices by the words a person gives, clips and results in words for them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from recon4d.models import Model
    from recon4d.records import Clip, Priors, Scene


def find_model(name_or_file: str) -> "Model":
    """The model of a name in the zoo, or of a checkpoint file."""
    from recon4d.zoo import create_model, load_model

    is_file = Path(name_or_file).suffix in (".safetensors", ".pt", ".pth", ".bin") or Path(name_or_file).is_file()
    return load_model(name_or_file) if is_file else create_model(name_or_file)


def find_device(name: str) -> "torch.device":
    """The device of a name; "auto" is the GPU where there is one. Raises ``ValueError`` where it cannot be used."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def describe_clip(source: Path, clip: "Clip", fps: float | None) -> str:
    """What was taken of a video or folder, in one line; `fps` is the rate that was asked for."""
    height, width = clip.size
    count = f"{clip.num_frames} frame{'s' if clip.num_frames > 1 else ''} of {width} x {height} pixels"
    if clip.times.isnan().all():
        return f"{source}: {count}, without times"
    how = "spread evenly" if fps is None else f"at {fps:g} a second"
    return f"{source}: {count}, {how} from {clip.times.min():.2f} s to {clip.times.max():.2f} s"


def describe_known(known: "Priors") -> str:
    """What is known of a clip beforehand, in one line."""
    num_frames = len(known.intrinsics)
    parts = []
    for what, values in (("intrinsics", known.intrinsics), ("cameras", known.world_from_cam)):
        if count := int(values.isfinite().all(dim=(1, 2)).sum()):
            parts.append(f"{what} of {count} of {num_frames} frames")
    if known.depths is not None:
        parts.append(f"depth at {_percent(known.depths.isfinite().float().mean().item())} of the pixels")
    if known.ignore is not None:
        parts.append(f"{_percent(known.ignore.float().mean().item())} of the pixels to be ignored")
    return f"known: {', '.join(parts) or 'nothing'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def describe_results(out: Path, scene: "Scene") -> str:
    """What was written, in one line."""
    angle = scene.cameras.field_of_view(*scene.size)[:, 0].mean().rad2deg()
    written = ", ".join(sorted(f"{path.name}/" if path.is_dir() else path.name for path in out.iterdir()))
    return f"{out}: {written} (field of view {angle:.0f} degrees)"
