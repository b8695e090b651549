"""MkDocs hook that builds the site from the repository's Markdown files, with unchanged paths.

Links therefore work on the site, in an editor and on the code host, and `make docs` fails on broken links.
Other linked files, such as images, become part of the site.
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
    """Keep the theme's files, and add the repository's files."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({*pages(), *linked(), STYLE})
    return Files([*theme, *(File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in paths)])


def on_post_page(output: str, **_: object) -> str:
    """Label the theme's search for screen readers."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def pages() -> list[str]:
    """Return the paths of all pages, relative to the repository's root."""
    return [path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)]


def linked() -> list[str]:
    """Return the paths of other files that pages link to."""
    targets = {
        (ROOT / page).parent.joinpath(target).resolve()
        for page in pages()
        for target in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    }
    return [path.relative_to(ROOT).as_posix() for path in targets if path.is_file() and path.suffix != ".md"]
