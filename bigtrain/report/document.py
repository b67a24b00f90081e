"""A report as a list of blocks, written as Markdown and as one self-contained HTML file.

The text of a block is shown literally: markup in labels and generated text is escaped, control characters are made
visible. The HTML has no scripts and loads nothing; its Content-Security-Policy forbids both.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigtrain.errors import printable
from bigtrain.storage import durable
from bigtrain.tracking.tensorboard import fenced


@dataclass(frozen=True)
class Heading:
    """Of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """One or more sentences."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Points; with `code`, commands or settings."""

    items: Sequence[str]
    code: bool = False


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers, unless `text` says otherwise."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: bool = False


@dataclass(frozen=True)
class Verbatim:
    """Text with its own lines: generated samples, logs."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG. `name`: of its file beside the Markdown, "curves.png"."""

    name: str
    png: bytes
    caption: str


Block = Heading | Paragraph | Listing | Table | Verbatim | Picture


def write_document(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> None:
    """<name>.md with its pictures, and <name>.html, each replaced atomically. Raises MachineError."""
    with durable.disk_errors(folder):
        for block in blocks:
            if isinstance(block, Picture):
                durable.replace(folder / block.name, block.png)
        durable.replace(folder / f"{name}.md", markdown(title, blocks))
        durable.replace(folder / f"{name}.html", html_page(title, blocks))


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """GitHub's Markdown."""
    return "\n\n".join([f"# {_plain(title)}", *(_markdown(block) for block in blocks)]) + "\n"


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """One self-contained page."""
    body = "\n".join([f"<h1>{_escaped(title)}</h1>", *(_html(block) for block in blocks)])
    before, middle, after = _PAGE.split("@@")
    return f"{before}{_escaped(title)}{middle}{body}{after}"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_plain(block.text)}"
    if isinstance(block, Paragraph):
        return _plain(block.text)
    if isinstance(block, Listing):
        return "\n".join(f"- {_code(item) if block.code else _plain(item)}" for item in block.items)
    if isinstance(block, Verbatim):
        return fenced(printable(block.text.strip("\n")), "text")
    if isinstance(block, Picture):
        return f"![{_plain(block.caption)}]({block.name})"
    rule = ["---"] + ["---" if block.text else "---:"] * (len(block.header) - 1)
    rows = [[_plain(cell) for cell in row] for row in (block.header, *block.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _plain(text: str) -> str:
    """One line, escaped so that Markdown shows it literally."""
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*|[]~":
        text = text.replace(sign, f"\\{sign}")
    return text


def _code(text: str) -> str:
    fence = "`"
    text = " ".join(printable(text).split())
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{_escaped(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{_escaped(block.text)}</p>"
    if isinstance(block, Listing):
        wrap = ("<code>", "</code>") if block.code else ("", "")
        return f"<ul>{''.join(f'<li>{wrap[0]}{_escaped(item)}{wrap[1]}</li>' for item in block.items)}</ul>"
    if isinstance(block, Verbatim):
        return f"<pre>{_escaped(block.text.strip(chr(10)))}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode("ascii")
        return f'<img alt="{_escaped(block.caption)}" src="data:image/png;base64,{data}">'
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in block.header)
    rows = "".join(f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in row)}</tr>" for row in block.rows)
    kind = ' class="text"' if block.text else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1f2328; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #d1d9e0; }
table { border-collapse: collapse; } th, td { padding: .2em .8em; border-bottom: 1px solid #d1d9e0; text-align: right; }
th:first-child, td:first-child, table.text th, table.text td { text-align: left; }
pre, code { font: 13px/1.4 ui-monospace, monospace; background: #f6f8fa; } pre { padding: .8em; white-space: pre-wrap; }
img { max-width: 100%; }
</style>
</head>
<body>
@@
</body>
</html>
"""
