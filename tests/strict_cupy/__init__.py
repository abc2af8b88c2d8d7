"""A strict test double of CuPy: NumPy inside, the names and refusals of CuPy 14 outside. It needs neither CuPy nor a device.

    import strict_cupy
    with strict_cupy.installed():           # device "strict" joins the back-ends
        x = tg.tensor([1.0, 2.0], device="strict")

It refuses what CuPy refuses (implicit conversion, host arrays among device arrays, absent names and parameters), passes NumPy's
functions on to their twins where CuPy does, and counts every wait for the device in `syncs`. Where CuPy is silent but wrong code would be
the reason, it raises: an index outside the array, an element assigned twice. `surface.json` holds CuPy's names; tools/cupy_surface.py
writes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tinygrad_seq import backend

from . import operators as operators
from .array import StrictArray
from .functions import xp
from .rules import SURFACE, Device, no_syncs, syncs, uploads

__all__ = ["SURFACE", "Device", "StrictArray", "install", "installed", "no_syncs", "syncs", "uninstall", "uploads", "xp"]

DEVICE = "strict"


def install() -> None:
    """Make the double a back-end: device "strict"."""
    backend.register(StrictArray, xp, DEVICE)


def uninstall() -> None:
    """Take it out again."""
    backend.forget(DEVICE)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """The double as a back-end for the length of a `with` block."""
    known = DEVICE in backend.devices()
    install()
    try:
        yield
    finally:
        if not known:
            uninstall()
