"""README.md and docs/ as what they are made of: blocks, spans of code, links, headings, tables."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """The text of a page without its fenced blocks."""
    return FENCED.sub("", read(page))


def languages(page):
    return {block[1] for block in FENCED.finditer(read(page))}


def blocks(language):
    """Every fenced block in a language, as parameters named by page and line."""
    found = [(page, block) for page in PAGES for block in FENCED.finditer(read(page))]
    return [
        pytest.param(block[2], id=f"{page.stem}:{block.string.count(chr(10), 0, block.start(2)) + 1}")
        for page, block in found
        if block[1] == language
    ]


def spans(pattern):
    """Every span of code in a sentence that matches, as parameters, once per page."""
    found = [(page, " ".join(span.split())) for page in PAGES for span in re.findall(r"`([^`]+)`", prose(page))]
    matching = [(page, span) for page, span in dict.fromkeys(found) if re.fullmatch(pattern, span)]
    return [pytest.param(span, id=f"{page.stem}: {span}") for page, span in matching]


def links():
    """Every link and image to a file of the repository or to a heading, as parameters: page, target."""
    found = dict.fromkeys((page, target) for page in PAGES for target in LINK.findall(prose(page)))
    return [pytest.param(*link, id=f"{link[0].stem}: {link[1]}") for link in found if "://" not in link[1]]


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_rows(page):
    """The cells of every row of a page's tables, heads left out."""
    lines = prose(page).splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not re.match(r"\|[ :|-]+$", line) and not re.match(r"\|[ :|-]+$", following):
            yield [cell.strip() for cell in line.strip("|").split("|")]
