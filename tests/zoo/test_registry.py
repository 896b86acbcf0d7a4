"""The zoo: every name, its promises, and checkpoints that are loaded strictly or not at all."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import assert_scenes_close, random_images
from safetensors.torch import load_file, save_file

from recon4d.errors import UserError
from recon4d.models import Model
from recon4d.models.backbones import (
    ConvolutionalBackbone,
    DinoBackbone,
    DinoBackboneConfig,
    PlainVit,
    RotaryBackbone,
)
from recon4d.zoo import (
    DEFAULT_MODEL,
    HeadKind,
    UntrainedWarning,
    create_model,
    empty_model,
    find_model,
    list_models,
    load_model,
    model_config,
    model_entry,
    save_model,
)


@pytest.fixture
def tiny() -> Model:
    return create_model("recon4d_tiny", pretrained=False)


class TestNames:
    def test_all_that_were_promised(self) -> None:
        sizes = ("small", "base", "large")
        dino = [f"recon4d_{family}_{size}" for family in ("dinov2", "dinov3") for size in sizes]
        da3 = ["small", "base", "large", "giant", "mono_large", "metric_large", "nested_giant_large"]
        published = [*(f"da3_{name}" for name in da3), "vggt_1b", "vggt_1b_commercial", "vggt_omega_1b"]
        with_motion = ["da3_tiny", *(f"recon4d_da3_{size}" for size in ("tiny", *sizes))]
        da3_first = [*published[: len(da3)], *with_motion, *published[len(da3) :]]
        assert list_models() == ["recon4d_tiny", "recon4d_mini", "recon4d_small", *dino, *da3_first]
        assert DEFAULT_MODEL == "recon4d_mini"

    @pytest.mark.end_to_end
    @pytest.mark.parametrize("heads", ["linear", "dpt"])
    def test_each_can_be_built_on_what_its_name_says(self, heads: HeadKind) -> None:
        for name in list_models():
            if heads == "dpt" and model_config(name, heads) == model_config(name):
                continue  # published models keep their own heads
            model = empty_model(model_config(name, heads))
            if name.removeprefix("recon4d_").startswith("da3"):
                assert any(isinstance(trunk, PlainVit) for trunk in model.trunks)
                continue
            assert isinstance(model, Model)
            if "dino" in name:
                assert isinstance(model.backbone, DinoBackbone)
                assert name.split("_")[1] in model.backbone.name
                assert name.split("_")[2] in model.backbone.name
            elif name.startswith("vggt_1b"):
                assert isinstance(model.backbone, DinoBackbone)
            elif name.startswith("vggt_omega"):
                assert isinstance(model.backbone, RotaryBackbone)
            else:
                assert isinstance(model.backbone, ConvolutionalBackbone)

    def test_sizes_are_as_promised(self) -> None:
        assert 0.5e6 < model_entry("recon4d_tiny").num_parameters() < 1.5e6
        assert 25e6 < model_entry("recon4d_small").num_parameters() <= 30e6
        # Published counts, without what only training needs: a mask token, the position of the class token (it is in
        # the token), and for VGGT-Omega masks of biases.
        assert model_entry("vggt_1b").num_parameters() == 1_256_536_492 - 1024
        assert model_entry("vggt_omega_1b").num_parameters() == 1_143_813_161

    def test_dino_backed_models_run(self) -> None:
        for name in ("recon4d_dinov2_small", "recon4d_dinov3_small"):
            config = model_config(name)
            assert isinstance(config.backbone, DinoBackboneConfig)
            short = replace(
                config,
                backbone=replace(config.backbone, blocks=1),
                aggregator=replace(config.aggregator, depth=2, out_indices=(0, 1)),
            )
            model = Model(short).eval()
            side = 2 * model.patch_size
            with torch.no_grad():
                scene = model(random_images(1, 2, size=(side, side)).float())
            assert scene.size == (side, side)
            assert scene.points.isfinite().all()

    def test_unknown_name_lists_what_there_is(self) -> None:
        with pytest.raises(UserError, match="unknown model 'vggt'; wanted one of recon4d_tiny, recon4d_mini,"):
            create_model("vggt")


class TestCreate:
    def test_missing_weights_are_an_error_unless_random_ones_are_allowed(self) -> None:
        with pytest.raises(UserError, match=r"recon4d_tiny has no trained weights yet; .* pretrained=False"):
            create_model("recon4d_tiny")
        with pytest.raises(UserError, match="recon4d_mini has no trained weights for dpt heads"):
            create_model("recon4d_mini", heads="dpt")
        with pytest.raises(UserError, match="recon4d_tiny has no trained weights yet"):
            find_model("recon4d_tiny")
        with pytest.warns(UntrainedWarning, match="recon4d_tiny has no trained weights yet"):
            model = find_model("recon4d_tiny", allow_untrained=True)
        assert not model.trained
        assert not model.training

    def test_asking_for_random_weights_is_not_warned_about(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            create_model("recon4d_tiny", pretrained=False)

    def test_same_seed_same_weights_and_the_callers_randomness_is_left_alone(self, tiny: Model) -> None:
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        again = create_model("recon4d_tiny", pretrained=False)
        assert torch.equal(torch.rand(1), expected)
        assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), again.parameters(), strict=True))
        other = create_model("recon4d_tiny", pretrained=False, seed=1).aggregator
        assert not torch.equal(other.special_tokens, tiny.aggregator.special_tokens)

    def test_backbone_weights_are_for_dino_backbones(self) -> None:
        with pytest.raises(UserError, match="recon4d_tiny has no DINO backbone"):
            create_model("recon4d_tiny", pretrained=False, backbone_weights="pretrained")

    def test_weights_of_another_configuration_are_refused(self, tiny: Model, tmp_path: Path) -> None:
        save_model(tiny, tmp_path / "tiny.safetensors")
        create_model("recon4d_tiny", checkpoint=tmp_path / "tiny.safetensors")
        with pytest.raises(UserError, match="another configuration than recon4d_tiny with dpt heads"):
            create_model("recon4d_tiny", checkpoint=tmp_path / "tiny.safetensors", heads="dpt")


class TestCheckpoints:
    def test_round_trip_is_bit_for_bit(self, tiny: Model, tmp_path: Path) -> None:
        tiny.trained = True
        file = tmp_path / "tiny.safetensors"
        save_model(tiny, file)
        loaded = load_model(file)
        assert loaded.config == tiny.config
        assert (loaded.name, loaded.trained) == ("recon4d_tiny", True)
        images = random_images(1, 2).float()
        with torch.no_grad():
            assert_scenes_close(loaded(images), tiny(images), tolerance=0)
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert not loaded.training
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]

    @pytest.mark.parametrize(("storage", "step"), [("bfloat16", 2**-8), ("int8", 1 / 254)])
    def test_short_storage_is_small_and_its_error_bounded(
        self, tiny: Model, tmp_path: Path, storage: str, step: float
    ) -> None:
        save_model(tiny, tmp_path / "whole.safetensors")
        save_model(tiny, tmp_path / "short.safetensors", storage)  # pyright: ignore[reportArgumentType]
        sizes = [(tmp_path / name).stat().st_size for name in ("short.safetensors", "whole.safetensors")]
        assert sizes[0] < 0.55 * sizes[1]
        loaded = load_model(tmp_path / "short.safetensors")
        for before, after in zip(tiny.parameters(), loaded.parameters(), strict=True):
            assert after.dtype == torch.float32
            largest = before.flatten(1).abs().amax(dim=1) if before.ndim > 1 else before.abs()
            error = (after - before).abs()
            assert ((error.flatten(1).amax(dim=1) if before.ndim > 1 else error) <= 1.01 * step * largest).all()

    def test_the_default_model_fits_into_its_40_megabytes(self, tmp_path: Path) -> None:
        save_model(create_model(DEFAULT_MODEL, pretrained=False), tmp_path / "small.safetensors", "int8")
        assert (tmp_path / "small.safetensors").stat().st_size < 40e6

    def test_missing_damaged_and_foreign_files(self, tiny: Model, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            load_model(tmp_path / "none.safetensors")
        text = tmp_path / "text.safetensors"
        text.write_text("not weights")
        with pytest.raises(UserError, match="is damaged or not a safetensors file"):
            load_model(text)
        whole = tmp_path / "whole.safetensors"
        save_model(tiny, whole)
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(whole.read_bytes()[:-1000])
        with pytest.raises(UserError, match="is damaged or not a safetensors file"):
            load_model(cut)
        foreign = tmp_path / "foreign.safetensors"
        save_file({"weight": torch.zeros(3)}, foreign)
        with pytest.raises(
            UserError, match="is no checkpoint of recon4d, VGGT, VGGT-Omega or Depth Anything 3: it contains weight"
        ):
            load_model(foreign)
        save_file({"weight": torch.zeros(3)}, foreign, {"format": "pt"})  # as the Hugging Face libraries write it
        with pytest.raises(
            UserError, match="is no checkpoint of recon4d, VGGT, VGGT-Omega or Depth Anything 3: it contains weight"
        ):
            load_model(foreign)
        save_file(load_file(whole), foreign, {**_metadata(whole), "format": "recon4d-checkpoint-2"})
        with pytest.raises(UserError, match="its format is recon4d-checkpoint-2, wanted recon4d-checkpoint-1"):
            load_model(foreign)

    def test_names_and_shapes_must_fit_the_configuration_inside(self, tiny: Model, tmp_path: Path) -> None:
        file = tmp_path / "tiny.safetensors"
        save_model(tiny, file)
        state, metadata = load_file(file), _metadata(file)
        missing = dict(list(state.items())[1:])
        save_file({**missing, "surplus": torch.zeros(1)}, file, metadata)
        with pytest.raises(UserError, match=rf"lacks {next(iter(state))}, has unknown surplus"):
            load_model(file)
        save_file({**state, "matching.no_match": torch.zeros(2)}, file, metadata)
        with pytest.raises(UserError, match=r"has matching.no_match of shape \(2,\), wanted \(\)"):
            load_model(file)
        # The first three in order, and how many more.
        more = {f"surplus.{number}": torch.zeros(1) for number in range(9)}
        save_file({**state, **more}, file, metadata)
        with pytest.raises(UserError, match=r"has unknown surplus.0, surplus.1, surplus.2 and 6 more$"):
            load_model(file)
        first, second, third, *others = sorted(state)
        save_file({name: state[name] for name in others[3:]}, file, metadata)
        with pytest.raises(UserError, match=f"lacks {first}, {second}, {third} and 3 more$"):
            load_model(file)
        cut = {name: value[:1] if value.ndim and len(value) > 1 else value for name, value in state.items()}
        save_file({name: value.contiguous() for name, value in cut.items()}, file, metadata)
        with pytest.raises(UserError, match=r"wanted .*") as refusal:
            load_model(file)
        assert str(refusal.value).count("wanted") == 3

    def test_a_configuration_of_another_version_is_named(self, tiny: Model, tmp_path: Path) -> None:
        file = tmp_path / "tiny.safetensors"
        save_model(tiny, file)
        metadata = _metadata(file)
        config = json.loads(metadata["config"])
        config["future"] = 1
        save_file(load_file(file), file, {**metadata, "config": json.dumps(config)})
        with pytest.raises(UserError, match=r"config that this version cannot read: .*future"):
            load_model(file)

    def test_a_failed_save_leaves_the_old_file(self, tiny: Model, tmp_path: Path, monkeypatch) -> None:
        file = tmp_path / "tiny.safetensors"
        save_model(tiny, file)
        before = file.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="No space"):
            save_model(tiny, file, "int8")
        assert file.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.metadata()
