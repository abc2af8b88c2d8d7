"""What all tests share: the back-ends as the fixtures `xp` and `device_xp`, and hypothesis without chance, clocks or files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest

import tinygrad_seq as tg

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

DEVICES = ["strict", pytest.param("cupy", marks=pytest.mark.gpu)]


@contextlib.contextmanager
def array_library(name: str) -> Iterator[Any]:
    if name == "numpy":
        yield np
    elif name == "strict":
        import strict_cupy

        with strict_cupy.installed():
            yield strict_cupy.xp
    else:
        cupy = pytest.importorskip("cupy")
        if not cupy.cuda.is_available():
            pytest.skip("CuPy finds no device")
        yield cupy


@pytest.fixture(autouse=True, scope="session")
def loops_for_numpy() -> Iterator[None]:
    """Time loops are compiled for NumPy, in milliseconds, where a test does not ask for Numba, which takes seconds; an error of the compiler
    is an error, and no reason to run a loop step by step.
    """
    from tinygrad_seq.compile import loop

    loop.strict = True
    with tg.scan_target("numpy"):
        yield


@pytest.fixture(params=["numpy", *DEVICES])
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The array library of a back-end: NumPy, the strict double of CuPy, and CuPy itself with `-m gpu`."""
    with array_library(request.param) as module:
        yield module


@pytest.fixture(params=DEVICES)
def device_xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The back-ends that are not NumPy."""
    with array_library(request.param) as module:
        yield module
