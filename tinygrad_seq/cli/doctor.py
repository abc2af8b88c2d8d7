"""`tinygrad-seq doctor`: what is installed, what of it works, and what to do about the rest."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import platform
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__, backend
from ..errors import DeviceError, TinygradError
from .options import HELP

OK, ABSENT, BROKEN = "ok", "not there", "BROKEN"
NEEDED = ("numpy", "scipy", "safetensors", "tqdm")
OLDEST = (3, 11)


class Finding(NamedTuple):
    """One thing that was looked at: which, how it is, what was found, and what to do about it."""

    what: str
    state: str
    told: str
    do: str = ""


def add(commands: Any) -> None:
    """Make the command known."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed, what works, what to do about what is missing",
        description=textwrap.dedent("""\
            Look at Python, the packages, Graphviz, the kernels of NumPy's matrix products, Numba and the GPU, and try each.

            What is not there is optional, and its line says how to get it. The exit code is 1 where something that is needed, or
            that is installed, does not work."""),
        epilog="example:\n  tinygrad-seq doctor",
        formatter_class=HELP,
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look, print; 1 where something is broken."""
    found = list(findings())
    width = max(len(finding.what) for finding in found)
    for finding in found:
        print(f"{finding.state:<9}  {finding.what:<{width}}  {finding.told}".rstrip())
        if finding.do:
            print(f"{'':<9}  {'':<{width}}  do: {finding.do}")
    broken = [finding.what for finding in found if finding.state == BROKEN]
    missing = [finding.what for finding in found if finding.state == ABSENT]
    print()
    if broken:
        print(f"Does not work: {', '.join(broken)}.")
    else:
        print("Everything that is needed works." + (f" Optional, and not there: {', '.join(missing)}." if missing else ""))
    return int(bool(broken))


def findings() -> Iterator[Finding]:
    """Everything, in the order in which it is needed."""
    yield _python()
    yield Finding("tinygrad_seq", OK, f"{__version__}, {Path(__file__).resolve().parent.parent}")
    for name in NEEDED:
        yield _package(name, "pip install --upgrade tinygrad_seq", needed=True)
    yield _blas()
    yield _graphviz()
    yield _package("pygraphviz", "pip install 'tinygrad_seq[viz]', if dot is not to be installed: it brings its own Graphviz")
    yield _package("matplotlib", "pip install 'tinygrad_seq[viz]', for tg.plot and the figures of ledger and flow")
    yield _package("numba", "pip install 'tinygrad_seq[fast]', and time loops become machine code")
    yield _cupy()


def _python() -> Finding:
    told = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, {sys.executable}"
    if sys.version_info < OLDEST:
        return Finding("Python", BROKEN, told, f"install Python {'.'.join(map(str, OLDEST))} or later")
    return Finding("Python", OK, told)


def version(package: str) -> str | None:
    """The version of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, do: str, needed: bool = False) -> Finding:
    """Whether a package is there and can be imported."""
    found = version(name)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return Finding(name, BROKEN if needed else ABSENT, "", do)
        return Finding(name, BROKEN, f"{found}: it needs {error.name}, which is not installed", f"pip install {error.name}")
    except Exception as error:  # what an import of compiled code can raise has no end
        first = (str(error).splitlines() or [""])[0]
        return Finding(name, BROKEN, f"{found}: {type(error).__name__}: {first}", f"pip install --force-reinstall {name}")
    return Finding(name, OK, found or "")


# ---- Graphviz ------------------------------------------------------------------------------------------------------------------------


def _graphviz() -> Finding:
    """The program `dot`, tried."""
    program = shutil.which("dot")
    if program is None:
        other = version("pygraphviz") is not None
        do = "apt install graphviz, brew install graphviz or winget install graphviz"
        return Finding("dot", ABSENT, "pygraphviz draws in its place" if other else "nothing draws: tg.draw(...).dot is text", "" if other else f"pip install 'tinygrad_seq[viz]', or {do}")  # fmt: skip
    told = _output([program, "-V"])
    name = f"{told.removeprefix('dot - ') or 'Graphviz'}, {program}"
    try:
        from ..viz.render import render

        works = b"<svg" in render("digraph { a -> b }", "svg")
    except TinygradError as error:
        return Finding("dot", BROKEN, f"{name}: {str(error).splitlines()[-1].strip()}", "install graphviz anew; dot -c as administrator tells it its plugins")  # fmt: skip
    return Finding("dot", OK if works else BROKEN, name, "" if works else "install graphviz anew")


def _output(command: list[str]) -> str:
    """What a program says, on either stream; nothing where it fails."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        return (done.stdout + done.stderr).strip()
    return ""


# ---- Matrix products -----------------------------------------------------------------------------------------------------------------


def _blas() -> Finding:
    """The library behind NumPy's matrix products, with the kernels that it chose for this processor, and its threads."""
    import numpy as np

    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    kernels, threads = openblas(Path(np.__file__).parent)
    if kernels is None:
        return Finding("BLAS", OK, f"{name}, as NumPy was built; it does not tell its kernels")
    told = f"{name}, kernels {kernels}, {threads} thread{'s' * (threads != 1)}"
    busy = threads > 1 and "OPENBLAS_NUM_THREADS" not in os.environ
    return Finding("BLAS", OK, told, "OPENBLAS_NUM_THREADS=1, where other programs keep the cores busy" if busy else "")


def openblas(numpy: Path) -> tuple[str | None, int]:
    """The kernels and the threads of the OpenBLAS that came with NumPy; (None, 0) where there is none."""
    for folder in (numpy.parent / "numpy.libs", numpy / ".dylibs", numpy / ".libs"):
        for file in sorted(folder.glob("*openblas*")):
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(file))
                for pattern in ("scipy_openblas_get_{}64_", "scipy_openblas_get_{}", "openblas_get_{}64_", "openblas_get_{}"):
                    core = getattr(library, pattern.format("corename"), None)
                    if core is not None:
                        core.restype = ctypes.c_char_p
                        count = getattr(library, pattern.format("num_threads"), None)
                        return core().decode(), count() if count is not None else 1
    return None, 0


# ---- GPU -----------------------------------------------------------------------------------------------------------------------------


def _cupy() -> Finding:
    """CuPy and its devices, tried with a matrix product."""
    driver = shutil.which("nvidia-smi") is not None
    found = next((v for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if (v := version(name))), None)
    install = "pip install 'tinygrad_seq[cuda13]', or [cuda12] for a driver of CUDA 12: nvidia-smi tells which"
    if found is None:
        told = "an NVIDIA driver is there, CuPy is not" if driver else "nor is an NVIDIA driver (nvidia-smi): all runs on the CPU"
        return Finding("CuPy", ABSENT, told, install if driver else "")
    try:
        cupy = backend.module_of_device("cuda")
        one = cupy.ones((64, 64), dtype="float32")
        if float(cupy.tanh(one @ one).sum()) != 64 * 64:
            return Finding("CuPy", BROKEN, f"{found}: a matrix product is wrong", "install a CuPy that fits the driver")
        runtime = cupy.cuda.runtime
        names = [runtime.getDeviceProperties(k)["name"].decode() for k in range(runtime.getDeviceCount())]
    except DeviceError as error:
        told = f"{found}: {str(error).splitlines()[0].partition(': ')[2]}"
        if driver:
            return Finding(
                "CuPy", BROKEN, told, "nvidia-smi tells whether the driver sees the device; CUDA_VISIBLE_DEVICES may hide it"
            )
        return Finding("CuPy", ABSENT, f"{told}; there is no NVIDIA driver (nvidia-smi): all runs on the CPU")
    except Exception as error:  # a driver, a library of CUDA, a compiler may be missing; each says so in its own way
        lines = str(error).splitlines() or [type(error).__name__]
        return Finding(
            "CuPy", BROKEN, f"{found}: {lines[0]}", install if driver else "install the NVIDIA driver, or pip uninstall CuPy"
        )
    devices = ", ".join(f"cuda:{k} {name}" for k, name in enumerate(names))
    return Finding("CuPy", OK, f"{found}, CUDA {runtime.runtimeGetVersion() // 1000}: {devices}")
