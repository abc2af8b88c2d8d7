"""What several commands take: which network, how large, and a file to write to."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELP = argparse.RawDescriptionHelpFormatter
OWN = "module:function"
NAMES = {
    "rnn": "tanh(W_ih x + b + W_hh h)",
    "rnn-relu": "the same with max(0, ·)",
    "lstm": "gates i f o and a cell",
    "peephole": "an LSTM whose gates see the cell",
    "gru": "gates r z",
    "bidirectional": "an RNN from left to right, one from right to left",
    "seq2seq": "a GRU that reads, a GRU that writes and attends to all that was read",
}
LIST = "networks:\n" + "\n".join(f"  {name:<16} {what}" for name, what in [*NAMES.items(), (OWN, "your own: see below")])
YOUR_OWN = f"""\
{OWN} names a function of yours without arguments: it computes something and returns a Tensor, or several.
The module is looked for where you are; path/to/file.py:function works too."""
SIZES = {
    "steps": "steps of time",
    "layers": "layers, one above the other",
    "inputs": "numbers in an input",
    "hidden": "numbers in a state",
    "batch": "rows of the batch",
    "seed": "another seed, other weights",
}


class Networks:
    """The arguments that say which network: its name and, of one that is built in, its sizes."""

    def add(self, parser: argparse.ArgumentParser, several: bool = False, **defaults: Any) -> None:
        """Give a command these arguments. defaults: its own sizes, and which losses there are."""
        parser.set_defaults(sizes={"steps": 4, "layers": 1, "inputs": 3, "hidden": 4, "batch": 2, "seed": 0, **defaults})
        parser.add_argument(
            "networks" if several else "network",
            type=network,
            nargs="+" if several else None,
            metavar="NETWORK",
            help=f"{', '.join(NAMES)}, or {OWN}",
        )
        known = parser.get_default("sizes")
        group = parser.add_argument_group("sizes of the networks that are built in")
        for name, what in SIZES.items():
            kind = natural_number if name == "seed" else positive_number
            group.add_argument(f"--{name}", type=kind, metavar="N", help=f"{what} (default: {known[name]})")
        group.add_argument(
            "--loss", choices=("every", "last"), help=f"a loss at every step, or at the last alone (default: {known['loss']})"
        )


def given_sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sizes that were given, and no defaults."""
    return {name: x for name in (*SIZES, "loss") if (x := getattr(arguments, name)) is not None}


def network(text: str) -> str:
    """The name of a network that is built in, or of a function."""
    if text in NAMES or ":" in text:
        return text
    near = difflib.get_close_matches(text.lower(), NAMES, 1, 0.6)
    hint = f"did you mean {near[0]!r}? There are" if near else "there are"
    raise argparse.ArgumentTypeError(f"{text!r} is no network; {hint} {', '.join(NAMES)}, and {OWN} for your own")


def natural_number(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 0, 1, 2")
    return int(text)


def positive_number(text: str) -> int:
    """An argument that counts something of which there is at least one."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 1, 2, 3")
    return int(text)


def two_numbers(text: str) -> list[int]:
    """An argument such as 2 or 2,4."""
    found = [positive_number(part) for part in text.split(",")]
    if len(found) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 2, or two such as 2,4")
    return found


def write_and_print(out: str | None, write: Callable[[str], Path], text: str) -> None:
    """Write to the file that was asked for, then print: a pipe that closes early loses no file, and a file that fails no text."""
    written = ""
    try:
        written = "" if out is None else f"\n\n{write(out)}"
    finally:
        print(text + written)
