"""How near published outputs a converted model comes, in float32 and in bfloat16: ``python -m benchmarks.parity``.

Weights are functions of their names, and what the published code computes from them lies in tests/goldens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from tests.named_weights import named_state_dict, read_golden, read_shapes, relative_error
from torch import Tensor

from recon4d.models import Model, cast_to_bfloat16
from recon4d.records import Scene
from recon4d.zoo.vggt import from_vggt, from_vggt_omega

EVERY_THIRD = np.s_[:, ::3, ::3]


@dataclass(frozen=True)
class Arguments:
    """Print relative errors against goldens."""

    golden: tuple[Literal["vggt_small", "vggt_1b", "vggt_omega_1b"], ...] = ("vggt_small",)
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: Arguments) -> None:
    for name in arguments.golden:
        golden = read_golden(name)
        print(f"{name}: norm of the difference over the norm")
        model = _model(name, golden).to(arguments.device)
        exact = _errors(model, golden, is_narrow=False)
        narrow = _errors(cast_to_bfloat16(model), golden, is_narrow=True)
        print(f"  {'output':20s} float32   bfloat16")
        for output in exact:
            print(f"  {output:20s} {exact[output]:.1e}   {narrow[output]:.1e}")


def _model(name: str, golden: Mapping[str, np.ndarray]) -> Model:
    state_dict = named_state_dict(read_shapes(name), int(golden["salt"]))
    if name == "vggt_omega_1b":
        return from_vggt_omega(state_dict)
    return from_vggt(state_dict, taps=(0, 1, 2, 3)) if name == "vggt_small" else from_vggt(state_dict)


@torch.inference_mode()
def _errors(model: Model, golden: Mapping[str, np.ndarray], is_narrow: bool) -> dict[str, float]:
    """Relative errors by the golden's own names; the field of view is compared as it is published, rectified."""
    device = next(model.parameters()).device
    images = torch.from_numpy(golden["images_uint8"])[None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=is_narrow):
        outputs = model.outputs(images, anchors=())
        found = _of_scene(outputs.scene[0].to("cpu"), outputs.camera_stages[:, 0].cpu(), golden)
        if model.track_head is not None:
            queries = torch.from_numpy(golden["query_points"])[None].to(device) + 0.5
            pixels, visibility, confidence = (one[0].float().cpu() for one in model.track(images, queries))
            found |= {"track": pixels - 0.5, "vis": visibility, "conf": confidence}
    return {name: relative_error(value, golden[name]) for name, value in found.items()}


def _of_scene(scene: Scene, stages: Tensor, golden: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    offset = 0.01 if "pose_enc" in golden else 0.0
    poses = torch.cat([stages[..., :7], stages[..., 7:].relu() + offset], dim=-1)
    found = {"pose_enc": poses[-1]} if "pose_enc" in golden else {"pose_stages": poses}
    found |= {"depth": scene.depths[EVERY_THIRD], "depth_conf": scene.depth_confidence[EVERY_THIRD]}
    if "world_points" in golden:
        found["world_points"] = scene.points[EVERY_THIRD]
        found["world_points_conf"] = scene.point_confidence[EVERY_THIRD]
    return found


if __name__ == "__main__":
    main(tyro.cli(Arguments))
