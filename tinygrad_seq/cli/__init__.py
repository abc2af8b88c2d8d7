"""The command line, `tinygrad-seq COMMAND`: a command per file; each imports what it works with when it is run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TinygradError
from . import demonstrate, doctor, draw, flow, ledger
from .options import HELP, Networks


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeded, 1 after an error that was explained, 2 after wrong arguments."""
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
        do = "make its folder, or choose another --out" if isinstance(error, FileNotFoundError) else "choose another --out"
        print(f"\ntinygrad-seq: {error.filename}: {error.strerror}\n  do: {do}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ntinygrad-seq: stopped", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinygrad-seq",
        description="Sequence models whose computational graph has time in it.",
        epilog="tinygrad-seq COMMAND --help tells more, with an example.",
        formatter_class=HELP,
    )
    parser.add_argument("--version", action="version", version=f"tinygrad_seq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    networks = Networks()
    demonstrate.add(commands)
    draw.add(commands, networks)
    ledger.add(commands, networks)
    flow.add(commands, networks)
    doctor.add(commands)
    return parser
