"""`tinygrad-seq demo --out DIR`."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import replace
from typing import Any

from .options import HELP, natural_number


def add(commands: Any) -> None:
    """Make the command known."""
    parser = commands.add_parser(
        "demo",
        help="train a character network, draw it, explain a gradient",
        description=textwrap.dedent("""\
            Train a recurrent network on the source of this Python's standard library, from nothing, in about a minute.

            Then compare it with counted n-grams on held-out text, let it write, draw its graph unfolded in time, and show
            one gradient as the sum over time that back-propagation through time is. Nothing is downloaded."""),
        epilog=textwrap.dedent("""\
            It writes into DIR:
              sample.txt                       text that the network wrote
              graph.svg, graph.dot             its graph for a short text, one column for each moment
              bptt_terms.txt, bptt_terms.csv   the terms of dL/dW_hh by time step

            example:
              tinygrad-seq demo --out demo --seed 1"""),
        formatter_class=HELP,
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder to write to; made if it is not there")
    parser.add_argument("--seed", type=natural_number, default=0, metavar="N", help="another seed, another network (default: 0)")
    parser.add_argument("--steps", type=natural_number, metavar="N", help="steps of the optimizer: more of them, a better network")
    parser.add_argument("--quick", action="store_true", help="a tiny network on a little text, in seconds")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from ..demo import QUICK, Settings, demo

    settings = replace(QUICK if arguments.quick else Settings(), seed=arguments.seed)
    demo(arguments.out, settings if arguments.steps is None else replace(settings, steps=arguments.steps))
    return 0
