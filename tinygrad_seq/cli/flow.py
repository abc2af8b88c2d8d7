"""`tinygrad-seq flow NETWORK ...`: the norm of dL/dh_t by layer and time, networks side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import HELP, LIST, YOUR_OWN, Networks, given_sizes, write_and_print

EXAMPLES = """\
examples:
  tinygrad-seq flow rnn lstm gru --steps 50 -o flow.png
  tinygrad-seq flow rnn rnn-relu --hidden 32 --layers 3 --heat -o flow.pdf
  tinygrad-seq flow model:loss"""


def add(commands: Any, networks: Networks) -> None:
    """Make the command known."""
    parser = commands.add_parser(
        "flow",
        help="how large the gradient of each state is, step by step back in time",
        description=f"Show the norm of dL/dh_t by layer and time, networks side by side on one scale.\n\n{LIST}",
        epilog=f"{YOUR_OWN}\nIt returns the loss.\n\n{EXAMPLES}",
        formatter_class=HELP,
    )
    networks.add(parser, several=True, steps=30, hidden=16, loss="last")
    parser.add_argument("--heat", action="store_true", help="a heat map in place of lines")
    parser.add_argument("-o", "--out", metavar="FILE", help="the figure: .png, .svg or .pdf")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record, follow, print, write."""
    from ..bptt import flow
    from .networks import recorded

    names: list[str] = list(dict.fromkeys(arguments.networks))
    sizes = given_sizes(arguments)
    built_in = any(":" not in name for name in names)  # the sizes are theirs; a function beside them has its own
    flows = {name: flow(recorded(name, arguments.sizes, {} if ":" in name and built_in else sizes).loss) for name in names}
    shown = "\n\n".join(f"{name}: {found.table()}" for name, found in flows.items())

    def write(path: str) -> Path:
        from ..plot import flow

        return flow(flows if len(flows) > 1 else flows[names[0]], heat=arguments.heat).save(path)

    write_and_print(arguments.out, write, shown)
    return 0
