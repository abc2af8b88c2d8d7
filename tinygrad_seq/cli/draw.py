"""`tinygrad-seq draw NETWORK`: a graph unfolded in time, as a picture."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .options import HELP, LIST, YOUR_OWN, Networks, given_sizes, positive_number, two_numbers

EXAMPLES = """\
examples:
  tinygrad-seq draw lstm --steps 4 --layers 2 -o lstm.svg
  tinygrad-seq draw rnn --level ops --gradients -o rnn.pdf
  tinygrad-seq draw gru --steps 200 --level cells -o long.svg
  tinygrad-seq draw model:loss --shapes -o mine.svg"""
WRITTEN = {
    "values": "the numbers on every box",
    "shapes": "the shapes",
    "dtypes": "the dtypes",
    "gradients": "edges as wide and dark as the gradient that flows back along them",
    "gates": "which gates are open, ○, and which are closed, —",
}


def add(commands: Any, networks: Networks) -> None:
    """Make the command known."""
    parser = commands.add_parser(
        "draw",
        help="draw a network unfolded in time: a built-in one or your own",
        description=f"Draw the graph of a network: a column for each step of time, a copy of a weight for each use.\n\n{LIST}",
        epilog=f"{YOUR_OWN}\n\n{EXAMPLES}",
        formatter_class=HELP,
    )
    networks.add(parser, loss="every")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help=".svg, .png, .pdf or .dot; - prints the DOT text (default: NETWORK.svg)"
    )
    parser.add_argument("--level", choices=("ops", "cells", "folded"), default="cells", help="every op, cells as boxes, or one step for all (default: cells)")  # fmt: skip
    for name, what in (("open", "draw this open after all"), ("collapse", "draw this as one box")):
        parser.add_argument(f"--{name}", metavar="PATTERN", action="append", default=[], help=f"{what}: a class, a path or a place; again for more")  # fmt: skip
    parser.add_argument("--full", action="store_true", help="all steps of a long sequence")
    for name, what in WRITTEN.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument("--light", metavar="WEIGHT", help="one weight: its copies, their terms and the sum")
    parser.add_argument(
        "--sensitivity", metavar="STEP", type=positive_number, help="the states in grey, as they depend on the input of that step"
    )
    parser.add_argument(
        "--truncate", metavar="K[,K2]", type=two_numbers, help="scissors: every K steps the gradient goes back K, or K2, steps"
    )
    parser.add_argument("--title", help="a heading")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record, draw, write."""
    from ..viz import draw
    from .networks import recorded

    graph = recorded(arguments.network, arguments.sizes, given_sizes(arguments))
    extra: dict[str, Any] = {}
    outputs: list[Any] = graph.outputs
    if arguments.light is not None:
        extra["light"] = graph.weight_called(arguments.light, "--light")
    if len(outputs) > 1 and all(value.shape == () for value in outputs):
        outputs = [graph.loss]  # the losses of the steps, and their sum
    if arguments.truncate is not None:
        from ..bptt import truncate

        extra["truncation"] = truncate(graph.loss if len(outputs) > 1 else outputs[0], *arguments.truncate)
    drawing = draw(
        outputs,
        level=arguments.level,
        open=arguments.open,
        collapse=arguments.collapse,
        full=arguments.full,
        title=arguments.title,
        sensitivity=arguments.sensitivity,
        **{name: getattr(arguments, name) for name in WRITTEN},
        **extra,
    )
    if arguments.out == "-":
        sys.stdout.write(drawing.dot)
        return 0
    path = drawing.save(arguments.out or f"{arguments.network.rpartition(':')[2]}.svg")
    print(f"{path}: {drawing!r}")
    return 0
