"""The command line: `tinygrad-seq demo --out DIR`."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from . import __version__
from .errors import TinygradError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeded, 1 after an error that was explained."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except TinygradError as error:
        print(f"\ntinygrad-seq: {error}", file=sys.stderr)
    except BrokenPipeError:  # who read the output has seen enough: `tinygrad-seq demo --out demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"\ntinygrad-seq: {error.filename}: {error.strerror}\n  do: choose another --out", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ntinygrad-seq: stopped", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinygrad-seq",
        description="Sequence models whose computational graph has time in it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tinygrad_seq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--out", metavar="DIR", required=True, help="the folder to write to; made if it is not there")
    demo.add_argument("--seed", type=natural_number, default=0, metavar="N", help="another seed, another network (default: 0)")
    demo.add_argument("--steps", type=natural_number, metavar="N", help="steps of the optimizer: more of them, a better network")
    demo.add_argument("--quick", action="store_true", help="a tiny network on a little text, in seconds")
    demo.set_defaults(run=_demo)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import QUICK, Settings, demo

    settings = replace(QUICK if arguments.quick else Settings(), seed=arguments.seed)
    demo(arguments.out, settings if arguments.steps is None else replace(settings, steps=arguments.steps))
    return 0


def natural_number(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 0, 1, 2")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
