"""Parity of converted models with published code, in float32 and bfloat16: ``python -m benchmarks.parity``.

The weights are deterministic functions of their names. The outputs of the published code for these weights are stored
in tests/goldens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from recon4d.models import Model, Outputs, SceneModel, cast_to_bfloat16
from recon4d.records import Scene
from recon4d.zoo.da3 import from_da3
from recon4d.zoo.vggt import from_vggt, from_vggt_omega
from tests.helpers.named_weights import (
    golden_state_dict,
    named_state_dict,
    read_golden,
    read_shapes,
    relative_error,
)

Golden = Literal["vggt_small", "vggt_1b", "vggt_omega_1b", "da3_small", "da3_base", "da3mono_large", "da3nested_small"]
"""Names of goldens."""
EVERY_THIRD = np.s_[:, ::3, ::3]
"""Frames, rows and columns of the dense maps that the goldens contain."""


@dataclass(frozen=True)
class Arguments:
    """Print the relative errors of model outputs against goldens."""

    golden: tuple[Golden, ...] = ("vggt_small", "da3_small")
    """Goldens to compare with."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device of the model."""


def main(arguments: Arguments) -> None:
    """Compare the models of all goldens and print a table for each."""
    for name in arguments.golden:
        golden = read_golden(name)
        print(f"{name}: norm of the difference divided by the norm of the golden")
        model = _model(name, golden).to(arguments.device)
        float32 = _relative_errors(model, golden, in_bfloat16=False)
        bfloat16 = _relative_errors(cast_to_bfloat16(model), golden, in_bfloat16=True)
        print(f"  {'output':20s} float32   bfloat16")
        for output in float32:
            print(f"  {output:20s} {float32[output]:.1e}   {bfloat16[output]:.1e}")


def _model(name: str, golden: Mapping[str, np.ndarray]) -> SceneModel:
    if name.startswith("da3"):
        return from_da3(golden_state_dict(name), "mono" if "mono" in name else None)
    state_dict = named_state_dict(read_shapes(name), int(golden["salt"]))
    if name == "vggt_omega_1b":
        return from_vggt_omega(state_dict)
    return from_vggt(state_dict, taps=(0, 1, 2, 3)) if name == "vggt_small" else from_vggt(state_dict)


@torch.inference_mode()
def _relative_errors(model: SceneModel, golden: Mapping[str, np.ndarray], in_bfloat16: bool) -> dict[str, float]:
    """Return the relative error of each array of the golden; fields of view are compared after the published ReLU."""
    device = next(model.parameters()).device
    images = torch.from_numpy(golden["images_uint8"])[None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
        outputs = model.outputs(images, anchors=())
        if "added_to" in golden:  # a golden of Depth Anything 3
            return _da3_errors(outputs, golden)
        assert isinstance(model, Model)
        found = _scene_outputs(outputs.scene[0].to("cpu"), outputs.camera_stages[:, 0].cpu(), golden)
        if model.track_head is not None:
            queries = torch.from_numpy(golden["query_points"])[None].to(device) + 0.5
            pixels, visibility, confidence = (output[0].float().cpu() for output in model.track(images, queries))
            found |= {"track": pixels - 0.5, "vis": visibility, "conf": confidence}
    return {name: relative_error(value, golden[name]) for name, value in found.items()}


def _da3_errors(outputs: Outputs, golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the relative error of the scene of a model of Depth Anything 3, whose goldens contain no stages."""
    scene = outputs.scene[0].to("cpu")
    found = {"depth": scene.depths[EVERY_THIRD]}
    if "extrinsics" in golden:
        found["extrinsics"] = scene.cameras.cam_from_world[:, :3]
        found["intrinsics"] = scene.cameras.intrinsics
        found["depth_conf"] = scene.depth_confidence[EVERY_THIRD]
    if outputs.sky is not None:
        found["sky" if "sky" in golden else "metric_sky"] = outputs.sky[0].cpu()[EVERY_THIRD]
    return {name: relative_error(value, golden[name]) for name, value in found.items()}


def _scene_outputs(scene: Scene, stages: Tensor, golden: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Convert a scene and its camera encodings to the format of the published outputs."""
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
