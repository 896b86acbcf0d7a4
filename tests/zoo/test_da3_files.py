"""Weights of Depth Anything 3 from files and state dicts: presets, names, licenses and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from da3_weights import any_view_shapes, count, mono_shapes, tiny_config, tiny_mono_config, tiny_state_dict
from huggingface_hub.errors import LocalEntryNotFoundError
from named_weights import read_shapes
from safetensors.torch import save_file
from torch import Tensor

from recon4d.errors import UserError
from recon4d.models import Model, ModelConfig, MonoModel, MonoModelConfig, NestedModel
from recon4d.zoo import LicenseWarning, create_model, from_da3, load_model, model_config, model_entry, save_model

pytestmark = pytest.mark.filterwarnings("ignore::recon4d.zoo.LicenseWarning")
NONCOMMERCIAL = ("da3_large", "da3_giant", "da3_nested_giant_large")
NAMES = ("da3_small", "da3_base", "da3_mono_large", "da3_metric_large", *NONCOMMERCIAL)
SHARED = "model.head.scratch.output_conv2_aux.{}.2.{}"
"""LayerNorm that the levels of the ray head share."""


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    return tiny_state_dict()


@pytest.fixture(scope="module")
def mono_state_dict() -> dict[str, Tensor]:
    return tiny_state_dict("mono")


def without(state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    assert name in state_dict
    return {other: value for other, value in state_dict.items() if other != name}


def predict(model: Model | MonoModel | NestedModel) -> Tensor:
    with torch.no_grad():
        return model(torch.rand(1, 3, 3, 28, 42, generator=torch.Generator().manual_seed(0))).depths


class TestPresets:
    def test_the_small_names_are_the_published_ones(self) -> None:
        config = model_config("da3_small")
        assert isinstance(config, ModelConfig)
        names = {f"model.{name}": shape for name, shape in any_view_shapes(config).items()}
        assert names == read_shapes("da3_small")
        mono = model_config("da3_mono_large")
        assert isinstance(mono, MonoModelConfig)
        assert {f"model.{name}": shape for name, shape in mono_shapes(mono).items()} == read_shapes("da3mono_large")

    def test_sizes_are_the_published_ones(self) -> None:
        published = {"small": 34_299_463, "base": 135_366_599, "large": 410_941_767}
        published["giant"] = 1_355_674_125 - 35_628_486  # without the head for Gaussians
        for preset, total in published.items():
            config = model_config(f"da3_{preset}")
            assert isinstance(config, ModelConfig)
            assert count(any_view_shapes(config)) == total
        assert model_entry("da3_metric_large").num_parameters() == 334_171_394

    @pytest.mark.parametrize("name", ["da3_small", "da3_base", "da3_large", "da3_giant"])
    def test_shapes_tell_the_preset(self, name: str) -> None:
        config = model_config(name)
        assert isinstance(config, ModelConfig)
        nothing = {f"model.{key}": torch.empty(shape, device="meta") for key, shape in any_view_shapes(config).items()}
        assert from_da3(nothing).config == config
        preset = name.removeprefix("da3_")
        assert from_da3(nothing, preset).config == config  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=rf"the preset is (base|small), but .* the preset {preset}$"):
            from_da3(nothing, "base" if preset == "small" else "small")

    def test_blocks_across_frames_are_the_odd_ones(self) -> None:
        large, giant = model_config("da3_large"), model_config("da3_giant")
        assert isinstance(large, ModelConfig)
        assert isinstance(giant, ModelConfig)
        assert (large.aggregator.depth, large.aggregator.out_indices) == (8, (1, 3, 5, 7))
        assert not large.aggregator.leading_global_block
        assert (giant.aggregator.depth, giant.aggregator.out_indices) == (13, (2, 6, 9, 12))
        assert giant.aggregator.leading_global_block

    def test_nested_tells_itself(self) -> None:
        model = from_da3(tiny_state_dict("nested"))
        assert isinstance(model, NestedModel)
        assert model.config.metric.metric
        with pytest.raises(UserError, match="the preset is giant, but this state dict is of a nested model"):
            from_da3(tiny_state_dict("nested"), "giant")

    def test_mono_and_metric_must_be_told(self, mono_state_dict: dict[str, Tensor]) -> None:
        with pytest.raises(UserError, match=r"give preset='mono' or preset='metric'"):
            from_da3(mono_state_dict)
        for preset in ("mono", "metric"):
            model = from_da3(mono_state_dict, preset)
            assert isinstance(model, MonoModel)
            assert model.config.metric == (preset == "metric")
        with pytest.raises(UserError, match="the preset is small, but this state dict is of a monocular model"):
            from_da3(mono_state_dict, "small")

    def test_unknown_presets_and_options(
        self, state_dict: dict[str, Tensor], mono_state_dict: dict[str, Tensor]
    ) -> None:
        with pytest.raises(UserError, match="unknown preset 'huge' of Depth Anything 3; wanted one of small, base"):
            from_da3(state_dict, "huge")
        with pytest.raises(UserError, match="unknown reference view 'last'; wanted one of first, middle"):
            from_da3(state_dict, reference_view="last")  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match="unknown camera source 'sun'; wanted decoder or rays"):
            from_da3(state_dict, camera_source="sun")  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match="the preset mono predicts no cameras"):
            from_da3(mono_state_dict, "mono", camera_source="rays")


class TestNames:
    def test_the_shared_norm_may_be_there_for_all_levels(self, state_dict: dict[str, Tensor]) -> None:
        complete = dict(state_dict)
        for level in (1, 2, 3):
            for kind in ("weight", "bias"):
                complete[SHARED.format(level, kind)] = state_dict[SHARED.format(0, kind)]
        first, second = from_da3(state_dict), from_da3(complete)
        norm = first.dense_heads[0].rays.norm  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
        assert torch.equal(norm.weight, state_dict[SHARED.format(0, "weight")])
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())

    def test_the_prefix_is_optional(self, state_dict: dict[str, Tensor]) -> None:
        bare = {name.removeprefix("model."): value for name, value in state_dict.items()}
        assert torch.equal(predict(from_da3(bare)), predict(from_da3(state_dict)))

    def test_gaussians_are_ignored(self, state_dict: dict[str, Tensor]) -> None:
        from_da3({**state_dict, "model.gs_head.projects.0.weight": torch.zeros(2)})

    @pytest.mark.parametrize(
        "name",
        [
            "backbone.pretrained.cls_token",
            "backbone.pretrained.camera_token",
            "backbone.pretrained.norm.weight",
            "backbone.pretrained.blocks.4.attn.k_norm.bias",
            "cam_dec.fc_qvec.bias",
            "cam_enc.token_norm.weight",
            "head.scratch.refinenet2_aux.out_conv.weight",
            "head.scratch.output_conv2_aux.0.2.weight",
            "head.scratch.output_conv1_aux.1.4.weight",
        ],
    )
    def test_each_other_name_is_missed(self, state_dict: dict[str, Tensor], name: str) -> None:
        with pytest.raises(UserError, match=rf"(lacks|has no) model\.{name}"):
            from_da3(without(state_dict, f"model.{name}"))

    def test_wrong_shapes_and_unknown_names(self, state_dict: dict[str, Tensor]) -> None:
        wrong = {**state_dict, "model.cam_dec.fc_t.bias": torch.zeros(5), "model.extra": torch.zeros(2)}
        wanted = r"has model.cam_dec.fc_t.bias of shape \(5,\), wanted \(3,\); has the unknown model.extra"
        with pytest.raises(UserError, match=wanted):
            from_da3(wrong)
        with pytest.raises(UserError, match="has the unknown optimizer"):
            from_da3({**state_dict, "optimizer": torch.zeros(2)})

    def test_truncated_and_foreign(self, state_dict: dict[str, Tensor]) -> None:
        early = {name: value for name, value in state_dict.items() if ".blocks.11." not in name}
        with pytest.raises(UserError, match=r"has 11 blocks, so this state dict is truncated .* wanted 12, 24, 40"):
            from_da3(early)
        with pytest.raises(
            UserError, match=r"no state dict of Depth Anything 3: it has no backbone.pretrained.cls_tok"
        ):
            from_da3({"conv.weight": torch.zeros(3)})

    def test_half_precision_becomes_float32(self, state_dict: dict[str, Tensor]) -> None:
        model = from_da3({name: value.bfloat16() for name, value in state_dict.items()})
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class TestFiles:
    @pytest.mark.parametrize("kind", ["even", "odd", "nested"])
    def test_published_files_are_recognized(self, tmp_path: Path, kind: str) -> None:
        state_dict = tiny_state_dict(kind)  # pyright: ignore[reportArgumentType]
        torch.save(state_dict, tmp_path / "mine.pt")
        save_file(state_dict, tmp_path / "model.safetensors", {"format": "pt"})
        expected = predict(from_da3(state_dict))  # pyright: ignore[reportArgumentType]
        for name in ("mine.pt", "model.safetensors"):
            model = load_model(tmp_path / name)
            assert model.name == Path(name).stem
            assert torch.equal(predict(model), expected)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(("kind", "said"), [("even", "Apache-2.0"), ("nested", "CC BY-NC 4.0, .* not for comm")])
    def test_files_come_under_their_license(self, tmp_path: Path, kind: str, said: str) -> None:
        torch.save(tiny_state_dict(kind), tmp_path / "mine.pt")  # pyright: ignore[reportArgumentType]
        with pytest.warns(LicenseWarning, match=rf"mine\.pt comes under .* {said}"):
            load_model(tmp_path / "mine.pt")

    def test_reference_view(self, tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
        torch.save(state_dict, tmp_path / "mine.pt")
        model = load_model(tmp_path / "mine.pt")
        assert isinstance(model, Model)
        assert model.reference_view == "saddle_balanced"
        middle = load_model(tmp_path / "mine.pt", reference_view="middle")
        assert isinstance(middle, Model)
        assert middle.reference_view == "middle"
        save_model(middle, tmp_path / "kept.safetensors")
        kept = load_model(tmp_path / "kept.safetensors")
        assert kept.config.reference_view == "middle"
        with pytest.raises(UserError, match="unknown reference view 'last'"):
            load_model(tmp_path / "mine.pt", reference_view="last")  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("config", [tiny_config("odd"), tiny_mono_config(True)])
    def test_converted_models_are_checkpoints(self, tmp_path: Path, config: ModelConfig | MonoModelConfig) -> None:
        kind = "odd" if isinstance(config, ModelConfig) else "mono"
        model = from_da3(tiny_state_dict(kind), None if kind == "odd" else "metric")
        assert model.config == config
        save_model(model, tmp_path / "kept.safetensors")
        kept = load_model(tmp_path / "kept.safetensors")
        assert kept.config == config
        assert torch.equal(predict(kept), predict(model))  # pyright: ignore[reportArgumentType]

    def test_nested_models_are_checkpoints(self, tmp_path: Path) -> None:
        model = from_da3(tiny_state_dict("nested"))
        save_model(model, tmp_path / "kept.safetensors")
        kept = load_model(tmp_path / "kept.safetensors")
        assert kept.config == model.config
        assert torch.equal(predict(kept), predict(model))  # pyright: ignore[reportArgumentType]

    def test_truncated_files(self, tmp_path: Path, state_dict: dict[str, Tensor]) -> None:
        save_file(state_dict, tmp_path / "whole.safetensors")
        data = (tmp_path / "whole.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(data[:-1000])
        with pytest.raises(UserError, match=r"cut\.safetensors is damaged or not a safetensors file"):
            load_model(tmp_path / "cut.safetensors")
        torch.save(without(state_dict, "model.cam_dec.fc_t.bias"), tmp_path / "short.pt")
        with pytest.raises(
            UserError, match=r"short\.pt: this state dict does not fit .* lacks model.cam_dec.fc_t.bias"
        ):
            load_model(tmp_path / "short.pt")


class TestMonoFiles:
    @pytest.mark.parametrize(
        ("place", "is_metric"),
        [
            ("my-metric.pt", True),
            ("DA3MONO-LARGE.pt", False),
            ("DA3METRIC-LARGE/model.pt", True),
            ("models--depth-anything--DA3MONO-LARGE/snapshots/0123/model.pt", False),
        ],
    )
    def test_names_tell(self, tmp_path: Path, mono_state_dict: dict[str, Tensor], place: str, is_metric: bool) -> None:
        path = tmp_path / "weights" / "of" / "several" / "kinds" / place
        path.parent.mkdir(parents=True)
        torch.save(mono_state_dict, path)
        assert load_model(path).config.metric == is_metric

    def test_the_configuration_beside_the_file_tells(self, tmp_path: Path, mono_state_dict: dict[str, Tensor]) -> None:
        path = tmp_path / "a" / "b" / "c" / "d" / "model.pt"
        path.parent.mkdir(parents=True)
        torch.save(mono_state_dict, path)
        (path.parent / "config.json").write_text(json.dumps({"model_name": "da3metric-large"}))
        assert load_model(path).config.metric
        for unusable in ("{", "[]", json.dumps({"model_name": 3})):
            (path.parent / "config.json").write_text(unusable)
            with pytest.raises(UserError, match="preset='mono' or preset='metric'"):
                load_model(path)
        assert not load_model(path, preset="mono").config.metric

    def test_names_that_say_both_do_not_tell(self, tmp_path: Path, mono_state_dict: dict[str, Tensor]) -> None:
        torch.save(mono_state_dict, tmp_path / "mono_or_metric.pt")
        with pytest.raises(UserError, match=r"mono_or_metric\.pt: .* give preset='mono' or preset='metric'"):
            load_model(tmp_path / "mono_or_metric.pt")

    def test_monocular_models_have_no_reference_frame(self, tmp_path: Path, mono_state_dict: dict[str, Tensor]) -> None:
        torch.save(mono_state_dict, tmp_path / "mono.pt")
        with pytest.raises(UserError, match="mono is monocular and has no reference frame"):
            load_model(tmp_path / "mono.pt", reference_view="first")


class TestDownloads:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("RECON4D_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.mark.parametrize("name", NAMES)
    def test_without_network_the_file_and_its_place_are_named(
        self, name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(*_: str) -> str:
            raise LocalEntryNotFoundError("the hub cannot be reached")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        with pytest.raises(UserError) as refusal:
            create_model(name)
        message = str(refusal.value)
        assert "\n" not in message
        assert "/resolve/main/model.safetensors" in message
        assert str(cache / name / "model.safetensors") in message

    @pytest.mark.parametrize("name", NAMES)
    def test_the_license_is_said_at_every_use(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recon4d.zoo.hub._read_tensors", lambda path: {})
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: "nowhere")
        said = "CC BY-NC 4.0, by ByteDance: not for commercial use" if name in NONCOMMERCIAL else "Apache-2.0"
        with pytest.warns(LicenseWarning, match=f"{name} comes under .* {said}"), pytest.raises(UserError):
            create_model(name)

    def test_a_file_that_was_put_into_its_place_is_used(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*_: str) -> str:
            raise AssertionError("nothing is to be downloaded")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        (cache / "da3_small").mkdir(parents=True)
        save_file({"model.backbone.pretrained.cls_token": torch.zeros(1)}, cache / "da3_small" / "model.safetensors")
        with pytest.raises(UserError, match="the preset is small, but this state dict is of a monocular model"):
            create_model("da3_small")

    def test_weights_may_be_given_by_path(self, tmp_path: Path, mono_state_dict: dict[str, Tensor]) -> None:
        torch.save(mono_state_dict, tmp_path / "unnamed.pt")
        with pytest.raises(UserError, match="contains a model with another configuration than da3_metric_large"):
            create_model("da3_metric_large", checkpoint=tmp_path / "unnamed.pt")
