"""A hook of MkDocs: the site's pages are the repository's Markdown files, under the paths that they have in it.

So each link between them is the same on the site, in an editor and where the repository is hosted, and `make docs`
fails on one that leads nowhere. What they link to beside pages, such as pictures, becomes part of the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "cluster/*.md", "infra/**/*.md", "syncclip/embedded/*.md")

STYLE = "docs/site.css"

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Of the files that MkDocs found keep those of the theme, and add the repository's."""
    own = [file for file in files if file.src_dir != config.docs_dir]
    found = sorted({*pages(), *linked(), STYLE})
    return Files([*own, *(File(one, str(ROOT), config.site_dir, config.use_directory_urls) for one in found)])


def on_post_page(output: str, **_: object) -> str:
    """Name the theme's search for those who can't see it."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def pages() -> list[str]:
    """Paths of all pages, from the repository's root."""
    return [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)]


def linked() -> list[str]:
    """Paths of the files beside pages to which pages link."""
    targets = {
        (ROOT / page).parent.joinpath(target).resolve()
        for page in pages()
        for target in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    }
    return [path.relative_to(ROOT).as_posix() for path in targets if path.is_file() and path.suffix != ".md"]
