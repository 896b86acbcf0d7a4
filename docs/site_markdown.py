"""Markdown extension of the site (mkdocs.yml): code fences of the tests, and links of pages outside of this folder."""

import re

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

AFTER_SNIPPETS = 31
"""Priority between pymdownx.snippets (32), which includes files, and pymdownx.superfences (25), which reads fences."""


class RepositoryPages(Preprocessor):
    """Rewrite lines that mean something else in the repository than on the site."""

    def run(self, lines: list[str]) -> list[str]:
        """Drop the words after the language of a fence and rewrite links of included files.

        Args:
            lines: Lines of a page, with included files.

        Returns:
            The lines. Words after the language are for the tests (``sh parsed-only: REASON``), and are unknown to the
            highlighter. Files at the root of the repository link to ``docs/page.md``; they are included by pages in
            ``docs/project``, from where this is ``../page.md``.
        """
        lines = [re.sub(r"^( *```\w+) .*$", r"\1", line) for line in lines]
        return [line.replace("](docs/", "](../") for line in lines]


class SiteMarkdown(Extension):
    """Registers `RepositoryPages`."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, the name that Python-Markdown calls
        """Register the preprocessor.

        Args:
            md: The Markdown converter.
        """
        md.preprocessors.register(RepositoryPages(md), "repository_pages", AFTER_SNIPPETS)


def makeExtension(**configs: object) -> SiteMarkdown:  # noqa: N802, the name that Python-Markdown calls
    """Create the extension.

    Args:
        configs: Options, of which there are none.

    Returns:
        The extension.
    """
    return SiteMarkdown(**configs)
