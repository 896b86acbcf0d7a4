"""Builds the API reference and the pages beside it: ``python -m docs.api --out site/``.

pdoc (the extra `docs`) reads the docstrings; this file says which modules are meant for others, and renders
README and docs with it.
"""

import importlib
import inspect
import os
import pkgutil
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import ModuleType

import tyro

import recon4d

ROOT = Path(__file__).parents[1]
FIRST = [ROOT / "README.md", ROOT / "docs" / "getting_started.md"]
PAGES = [*FIRST, *sorted(set((ROOT / "docs").glob("*.md")) - set(FIRST))]
DEEPER = (
    "recon4d.datasets.worlds",
    "recon4d.eval.baselines.static",
    "recon4d.io.long_archive",
    "recon4d.io.long_clips",
)
"""Modules inside a room that pages and examples import from."""
LAYOUT = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 54em; margin: 2em auto; padding: 0 1em; color: #222 }}
code, pre {{ background: #f1f1f1; border-radius: 4px }} code {{ padding: 0 .2em }} pre code {{ padding: 0 }}
pre {{ padding: .7em; overflow-x: auto }}
td, th {{ border-bottom: 1px solid #ddd; padding: .2em .8em .2em 0; text-align: left; vertical-align: top }}
img {{ max-width: 100% }} {highlighting}</style></head><body><p>{links}</p>{body}</body></html>"""


@dataclass(frozen=True)
class Arguments:
    """Write the reference and the pages as HTML."""

    out: Path
    """Folder to write to; what is there already is replaced file by file."""


def main(arguments: Arguments) -> None:
    import pdoc

    modules = public_modules()
    for name in modules:
        resolve_lazy_names(importlib.import_module(name))
    recon4d.__doc__ = f"{recon4d.__doc__}\n{overview(modules)}"
    pdoc.render.configure(docformat="markdown", footer_text=f"recon4d {recon4d.__version__}")
    pdoc.pdoc("recon4d", *DEEPER, output_directory=arguments.out)
    write_pages(arguments.out)
    print(f"{arguments.out}: the reference of {len(modules)} modules and {len(PAGES)} pages; begin at index.html")


def public_modules() -> list[str]:
    """The package, its rooms, and what else pages import from, by name."""
    rooms = [f"recon4d.{found.name}" for found in pkgutil.iter_modules(recon4d.__path__)]
    return ["recon4d", *rooms, *DEEPER]


def resolve_lazy_names(module: ModuleType) -> None:
    """Names that a room imports when they are first used are imported now, or pdoc would not see them."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


def overview(modules: list[str]) -> str:
    """Markdown for the first page: the guide, what the package's own name offers, and the rooms in a sentence each."""
    guide = [f"- [{title_of(page)}]({html_name(page)})" for page in PAGES]
    names = [f"- `recon4d.{name}` is `{home}.{name}`" for name, home in sorted(recon4d._MODULE_OF.items())]
    rooms = [f"- `{name}`: {first_sentence(name)}" for name in modules[1:]]
    return "\n".join(["\n# Guide\n", *guide, "\n# In the package itself\n", *names, "\n# Rooms\n", *rooms])


def first_sentence(module: str) -> str:
    return (inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0].replace("\n", " ")


def write_pages(out: Path) -> None:
    """README and docs as HTML, their links to each other leading on within `out`, their pictures beside them."""
    from pdoc.render_helpers import formatter, to_html

    highlighting = formatter.get_style_defs(".pdoc-code")
    links = [f'<a href="{html_name(page)}">{escape(title_of(page))}</a>' for page in PAGES]
    links = " · ".join(['<a href="recon4d.html">All functions</a>', *links])
    for page in PAGES:
        # A fence's further words are for the tests, not for the highlighter.
        markdown = re.sub(r"^( *```\w+) [^\n]*$", r"\1", page.read_text(), flags=re.MULTILINE)
        body = lead_on(to_html(markdown), page.parent, out)
        text = LAYOUT.format(title=escape(title_of(page)), highlighting=highlighting, links=links, body=body)
        (out / html_name(page)).write_text(text)
    (out / "images").mkdir(exist_ok=True)
    for picture in (ROOT / "docs" / "images").iterdir():
        (out / "images" / picture.name).write_bytes(picture.read_bytes())


def lead_on(html: str, folder: Path, out: Path) -> str:
    """Links of a page in `folder` to another page, to a picture, or else to the file in the repository."""

    def led_on(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target in PAGES:
            return f'{link[1]}="{html_name(target)}'
        if target.parent == ROOT / "docs" / "images":
            return f'{link[1]}="images/{target.name}'
        return f'{link[1]}="{os.path.relpath(target, out.resolve())}'

    return re.sub(r'(href|src)="([^":#]+)(?!:)(?=["#])', led_on, html)


def html_name(page: Path) -> str:
    """Apart from pdoc's own files, none of which has a dash."""
    return f"page-{page.stem.lower()}.html"


def title_of(page: Path) -> str:
    return page.read_text().split("\n", 1)[0].removeprefix("# ")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
