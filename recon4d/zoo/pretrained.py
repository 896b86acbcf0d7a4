"""Pretrained models by name, folder, file or repository of the Hugging Face hub; folders with a model card."""

import json
from pathlib import Path

from recon4d.errors import UserError
from recon4d.models import SceneModel
from recon4d.records import config_to_json
from recon4d.zoo.checkpoints import save_model
from recon4d.zoo.hub import CONFIG_FILE, WEIGHTS_FILES, HubPlace, choose_reference_view, download_weights
from recon4d.zoo.model_card import model_card
from recon4d.zoo.registry import HeadKind, create_model, list_models, load_model, model_entry


def load_pretrained(  # noqa: PLR0913
    name_or_path: str | Path,
    *,
    heads: HeadKind = "linear",
    reference_view: str | None = None,
    preset: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> SceneModel:
    """Load a model with trained weights, from wherever they are.

    Args:
        name_or_path: A name that `list_models` returns; a checkpoint or a file of published weights (`load_model`); a
            folder that `save_pretrained` wrote; or a repository of the hub such as "someone/model", also one of those
            that `list_models` knows.
        heads: Kind of the dense heads of a named model.
        reference_view: How the reference frame is chosen; None for the choice of the weights.
        preset: Preset of published weights of Depth Anything 3 that do not tell it.
        revision: Branch, tag or commit of the repository; None for its main branch.
        cache_dir: Folder of downloads; None for that of huggingface_hub.
        force_download: Whether to download the files of a repository even if they are cached.
        local_files_only: Whether to use only files that are cached.
        token: Access token of the hub; None for that of `hf auth login`.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        UserError: If there is no such model, it has no trained weights, or they cannot be downloaded or read.
    """
    path = Path(name_or_path)
    name = _name_in_zoo(str(name_or_path)) if revision is None and not path.exists() else None
    if name is not None:
        model = create_model(name, heads=heads)
    else:
        file = _local_file(path)
        if file is None:
            if str(name_or_path).count("/") != 1 or path.suffix in (".safetensors", ".pt"):
                raise UserError(
                    f"there is no model {str(name_or_path)!r}: wanted one of {', '.join(list_models())}, a file, a "
                    "folder, or a repository of the hub such as 'someone/model'"
                )
            place = HubPlace(str(name_or_path), revision, cache_dir, force_download, local_files_only, token)
            file = download_weights(place)
        model = load_model(file, preset=preset)
    if reference_view is not None:
        choose_reference_view(model, reference_view)
    return model


def write_pretrained(model: SceneModel, folder: Path) -> None:
    """Write weights, configuration and model card of a model to an existing folder.

    Args:
        model: The model.
        folder: Folder for ``model.safetensors`` (a checkpoint of this package), ``config.json`` and ``README.md``. A
            README.md that exists is kept.

    Raises:
        UserError: If a file cannot be written.
    """
    save_model(model, folder / WEIGHTS_FILES[0])
    (folder / CONFIG_FILE).write_text(json.dumps(config_to_json(model.config), indent=2, sort_keys=True) + "\n")
    card = folder / "README.md"
    if not card.exists():
        entry = model_entry(model.name) if model.name in list_models() else None
        card.write_text(model_card(model, entry))


def _name_in_zoo(name: str) -> str | None:
    """Return the name of the model of the zoo that a name or a repository of the hub stands for."""
    if name in list_models():
        return name
    for known in list_models():
        source = model_entry(known).published
        if source is not None and source.repository == name:
            return known
    return None


def _local_file(path: Path) -> Path | None:
    """Return the file of weights at a path, if there is one."""
    if not path.is_dir():
        return path if path.is_file() else None
    for name in WEIGHTS_FILES:
        if (path / name).is_file():
            return path / name
    raise UserError(f"folder {path} has none of {', '.join(WEIGHTS_FILES)}")
