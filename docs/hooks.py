"""Hooks of mkdocs: pages of the repository's root, tutorials, links and lists as on GitHub, formulas as MathML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Files of the root, which GitHub and package indexes look for there, as pages of the site.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "reporting.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Renders blocks marked `math` as MathML: browsers draw it without a script."""
    fence = {"name": "math", "class": "math", "format": _math}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the root."""
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the text with links to the root's pages, and a blank line in front of each list, which GitHub adds."""
    for name, page in ROOT_PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{name}\b", f"]({page}", markdown)
    return _with_blank_lines(_TUTORIAL.sub(_tutorial, markdown))


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Returns the page with `spec 4.6`, as docstrings cite paragraphs, linked to the paragraph."""
    if page.file.src_uri != "api.md":
        return html
    return re.sub(r"\bspec (\d+(?:\.\d+)?)", r'<a href="specification.html#spec-\1">spec \1</a>', html)


def _math(source: str, *_: Any, **__: Any) -> str:
    return "".join(convert(line, display="block") for line in source.splitlines() if line)


def _tutorial(link: re.Match[str]) -> str:
    """Returns the code behind a line that is a link to a tutorial."""
    code = (ROOT / "sample" / "tutorials" / link["name"]).read_text(encoding="utf-8")
    return f'```python title="sample/tutorials/{link["name"]}"\n{code}```'


def _with_blank_lines(markdown: str) -> str:
    lines: list[str] = []
    in_code = False
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        if not in_code and _LIST.match(line) and before.strip() and not _GOES_ON.match(before):
            lines.append("")
        in_code ^= line.lstrip().startswith("```")
        lines.append(line)
    return "\n".join(lines)


_TUTORIAL = re.compile(r"^\[(?P<name>\w+\.py)\]\(\.\./sample/tutorials/(?P=name)\)$", re.MULTILINE)
_LIST = re.compile(r"(?:- |\d+\. |\|)")
_GOES_ON = re.compile(r"(?:- |\d+\. |\s|\|)")  # a list, a line of one of its items, a table
