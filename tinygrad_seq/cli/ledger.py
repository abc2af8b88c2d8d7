"""`tinygrad-seq ledger NETWORK`: what every use of a weight adds to its gradient, as a table, and as a figure or a formula in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import HELP, LIST, YOUR_OWN, Networks, given_sizes, write_and_print

EXAMPLES = """\
examples:
  tinygrad-seq ledger lstm --steps 6 -o ledger.png
  tinygrad-seq ledger gru --loss last --weight weight_ih_l0 --formula
  tinygrad-seq ledger model:losses --weight W_h -o ledger.tex"""


def add(commands: Any, networks: Networks) -> None:
    """Make the command known."""
    parser = commands.add_parser(
        "ledger",
        help="split the gradient of a weight by the steps that use it",
        description=f"Split dL/dW by the step that uses W and, where every step has a loss, by the step of the loss.\n\n{LIST}",
        epilog=f"{YOUR_OWN}\nIt returns the loss, or a list of losses, one for each step.\n\n{EXAMPLES}",
        formatter_class=HELP,
    )
    networks.add(parser, loss="every")
    parser.add_argument(
        "--weight",
        metavar="NAME",
        help="which one, by its name or the end of it (built in: the recurrent weight of the first layer)",
    )
    parser.add_argument("--formula", action="store_true", help="also the sum in the notation of the lecture notes")
    parser.add_argument("--full", action="store_true", help="all steps of a long sequence in the table")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="the heat map (.png, .svg, .pdf), the table (.txt) or the formula (.tex)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record, split, print, write."""
    from ..bptt import ledger
    from .networks import recorded

    graph = recorded(arguments.network, arguments.sizes, given_sizes(arguments))
    found = ledger(graph.loss, graph.weight_called(arguments.weight), losses=graph.losses)
    shown = found.table(arguments.full) + (f"\n\n{found.text()}" if arguments.formula else "")
    write_and_print(arguments.out, lambda path: _write(found, Path(path), arguments.full), shown)
    return 0


def _write(found: Any, path: Path, full: bool) -> Path:
    """The ledger as a figure, a table or a formula."""
    if path.suffix in (".txt", ".tex"):
        path.write_text((found.latex() if path.suffix == ".tex" else found.table(full)) + "\n", encoding="utf-8")
        return path
    from ..plot import ledger

    return ledger(found).save(path)
