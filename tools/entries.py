"""A page of pictures: entries of text and code, and what the last line of each makes."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One picture: its file, its heading, what it shows, and the code, the last line of which makes it."""

    name: str
    title: str
    text: str
    code: str


def made(entry: Entry, scope: dict[str, Any]) -> Any:
    """Run the code of an entry; what its last line makes."""
    tree = ast.parse(entry.code)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, entry.name, "exec"), scope)
    return eval(compile(ast.Expression(last.value), entry.name, "eval"), scope)


def page(head: str, setup: str, entries: list[Entry], file: str) -> str:
    """The text of the page; `file` is the place of a picture, with {} for its name."""
    parts = [head, "```python", setup, "```", ""]
    for entry in entries:
        parts += [f"## {entry.title}", ""] + ([entry.text, ""] if entry.text else [])
        parts += ["```python", entry.code, "```", "", f"![{entry.title}]({file.format(entry.name)})", ""]
    return "\n".join(parts)
