"""Names follow the standard terms of the field: no module, class, function, parameter or field carries a coined one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import recon4d

PACKAGE = Path(recon4d.__path__[0])

FORBIDDEN = {
    "seen": "visibility",
    "unseen": "visibility",
    "visible": "visibility",
    "moving": "dynamic",
    "still": "static",
    "honour": "apply_priors",
    "honouring": "apply_priors",
    "taps": "out_indices, features",
    "tapped": "out_indices, features",
    "no_match": "dustbin",
    "narrow": "cast_to_bfloat16",
    "trainee": "TrainModule",
    "worlds": "synthetic scenes",
    "house": "package",
    "room": "subpackage",
    "floor": "layer",
    "door": "optional dependency",
    "following": "corner_tracking",
    "patches": "patch_tokens, lucas_kanade",
    "likeness": "ncc",
    "bending": "depth_alignment",
    "bent": "depth_alignment",
    "proving": "multiview_consistency",
    "proven": "verified",
    "turning": "rotation_only",
    "turns": "rotation_only",
    "carrying": "track_transfer",
    "carried": "track_transfer",
    "chains": "track_stitching",
    "judges": "held_out",
    "judge": "held_out",
    "usable": "track_selection",
    "epipolar": "two_view_filter",
    "choosing": "model_selection",
    "candidates": "hypotheses",
    "joints": "window_alignment",
    "joint": "window_alignment",
    "running": "pipeline",
    "spans": "layout",
    "spread": "standard_deviation",
}
"""Coined word inside a name -> the standard term to use."""
FORBIDDEN_CLASSES = {
    "Known",
    "KnownEncoder",
    "Trainee",
    "Share",
    "Sequences",
    "Part",
    "Candidate",
    "Evidence",
    "Outcome",
}
FORBIDDEN_MODULES = {"words", "patches", "usable", "grey", "known"}
ALLOWED = {
    # Options of the command line and keys of configuration files.
    "still": "DataConfig",
    "moving": "LossWeights",
    "worlds_weight": "DataConfig",
    "no_match": "LossWeights",
    "epipolar_width": "MatchingConfig",
    # Arguments of the public API that convert published weights.
    "taps": "from_vggt",
    # The benchmark of that name.
    "worlds_v1": "module",
    "_worlds_v1": "function",
}
"""Names that stay because people type them or files contain them, and where."""


def names_of_the_package() -> Iterator[tuple[str, str, str]]:
    """Yield (place, owner, name) of every module, class, function, parameter and dataclass field."""
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        yield place, "module", file.parent.name if file.name == "__init__.py" else file.stem
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield place, "class", node.name
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield place, node.name, field.target.id
            elif isinstance(node, ast.FunctionDef):
                yield place, "function", node.name
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                yield from ((place, node.name, argument.arg) for argument in arguments)


def words_of(name: str) -> set[str]:
    """Split snake_case and CamelCase into lower-case words; `no_match` counts as one word."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return {*snake.split("_"), *(["no_match"] if "no_match" in snake else [])}


def is_allowed(owner: str, name: str) -> bool:
    """Whether the name is an option, a file key or an argument of the public API."""
    return name in ALLOWED and ALLOWED[name] in owner


def test_no_name_carries_a_coined_word() -> None:
    found = [
        f"{place}: {owner}.{name} (use {FORBIDDEN[word]})"
        for place, owner, name in names_of_the_package()
        for word in words_of(name) & FORBIDDEN.keys()
        if not is_allowed(owner, name)
    ]
    assert not found, "\n".join(found)


def test_no_class_or_module_has_a_coined_name() -> None:
    for place, owner, name in names_of_the_package():
        assert not (owner == "class" and name in FORBIDDEN_CLASSES), f"{place}: {name}"
        assert not (owner == "module" and name in FORBIDDEN_MODULES), place
