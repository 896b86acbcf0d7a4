"""Builds the API reference and the documentation pages as HTML: ``python -m docs.api --out site/``.

pdoc (the extra `docs`) renders the docstrings; this module lists the public modules and renders README and docs too.
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
    "recon4d.datasets.synthetic",
    "recon4d.eval.baselines.static",
    "recon4d.io.long_archive",
    "recon4d.io.long_clips",
)
"""Modules inside subpackages that the documentation and the examples import from."""
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
    """Folder to write to; existing files of the same names are replaced."""


def main(arguments: Arguments) -> None:
    """Render the reference and the pages."""
    import pdoc

    modules = public_modules()
    for name in modules:
        resolve_lazy_names(importlib.import_module(name))
    recon4d.__doc__ = f"{recon4d.__doc__}\n{overview(modules)}"
    pdoc.render.configure(docformat="markdown", footer_text=f"recon4d {recon4d.__version__}")
    pdoc.pdoc("recon4d", *DEEPER, output_directory=arguments.out)
    write_pages(arguments.out)
    print(f"{arguments.out}: the reference of {len(modules)} modules and {len(PAGES)} pages; start at index.html")


def public_modules() -> list[str]:
    """Return the names of the package, its subpackages and the modules in `DEEPER`."""
    subpackages = [f"recon4d.{found.name}" for found in pkgutil.iter_modules(recon4d.__path__)]
    return ["recon4d", *subpackages, *DEEPER]


def resolve_lazy_names(module: ModuleType) -> None:
    """Import names that a module resolves lazily, so that pdoc sees them."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


def overview(modules: list[str]) -> str:
    """Return Markdown for the first page: the guide, the names of the package, and one sentence per subpackage."""
    guide = [f"- [{title_of(page)}]({html_name(page)})" for page in PAGES]
    names = [f"- `recon4d.{name}` is `{home}.{name}`" for name, home in sorted(recon4d._MODULE_OF.items())]
    subpackages = [f"- `{name}`: {first_sentence(name)}" for name in modules[1:]]
    return "\n".join(["\n# Guide\n", *guide, "\n# Names of the package\n", *names, "\n# Subpackages\n", *subpackages])


def first_sentence(module: str) -> str:
    """Return the first paragraph of a module's docstring in one line."""
    return (inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0].replace("\n", " ")


def write_pages(out: Path) -> None:
    """Write README and docs as HTML with links between the pages, and copy their pictures."""
    from pdoc.render_helpers import formatter, to_html

    highlighting = formatter.get_style_defs(".pdoc-code")
    links = [f'<a href="{html_name(page)}">{escape(title_of(page))}</a>' for page in PAGES]
    links = " · ".join(['<a href="recon4d.html">All functions</a>', *links])
    for page in PAGES:
        # Words after the language of a code fence are for the tests, not for the highlighter.
        markdown = re.sub(r"^( *```\w+) [^\n]*$", r"\1", page.read_text(), flags=re.MULTILINE)
        body = rewrite_links(to_html(markdown), page.parent, out)
        text = LAYOUT.format(title=escape(title_of(page)), highlighting=highlighting, links=links, body=body)
        (out / html_name(page)).write_text(text)
    (out / "images").mkdir(exist_ok=True)
    for picture in (ROOT / "docs" / "images").iterdir():
        (out / "images" / picture.name).write_bytes(picture.read_bytes())


def rewrite_links(html: str, folder: Path, out: Path) -> str:
    """Point the links of a page to the rendered pages and pictures, or else to the file in the repository."""

    def rewritten(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target in PAGES:
            return f'{link[1]}="{html_name(target)}'
        if target.parent == ROOT / "docs" / "images":
            return f'{link[1]}="images/{target.name}'
        return f'{link[1]}="{os.path.relpath(target, out.resolve())}'

    return re.sub(r'(href|src)="([^":#]+)(?!:)(?=["#])', rewritten, html)


def html_name(page: Path) -> str:
    """Return the file name of a page; the dash distinguishes it from pdoc's own files."""
    return f"page-{page.stem.lower()}.html"


def title_of(page: Path) -> str:
    """Return the title of a page, its first line."""
    return page.read_text().split("\n", 1)[0].removeprefix("# ")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
