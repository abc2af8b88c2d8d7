"""Run the Python blocks of a document from top to bottom and write what each prints into the text block beneath it.

    python tools/printed.py docs/compiler.md            # writes the document anew
    python tools/printed.py docs/compiler.md --check    # only says which blocks print something else

The blocks share their names, as cells of a notebook do. A ```text block that follows a ```python block is what that one prints; one that prints
something and has none beneath it gets one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import linecache
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?P<printed>\n*```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def refreshed(text: str) -> str:
    """The document with what its blocks print now. Each block counts its own lines, so that what is printed does not move them."""
    known: dict[str, Any] = {"__name__": "__main__"}
    count = itertools.count(1)

    def run(block: re.Match[str]) -> str:
        name, lines = f"example{next(count)}.py", block["code"].splitlines(keepends=True)
        linecache.cache[name] = len(block["code"]), None, lines, name
        code = compile(block["code"], name, "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, known)
        said = "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{said}\n```\n" if said else "")

    return BLOCK.sub(run, text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write what the Python blocks of documents print beneath them.")
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a block prints something else")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    stale = []
    for path in options.documents:
        text = path.read_text(encoding="utf-8")
        now = refreshed(text)
        if now != text:
            stale.append(str(path))
            if not options.check:
                path.write_text(now, encoding="utf-8")
    print(("stale: " if options.check else "written: ") + ", ".join(stale) if stale else "all as printed")
    if stale and options.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
