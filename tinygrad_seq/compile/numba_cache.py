"""Compiled loops that outlive the process: source text goes to a file, is imported from there, and Numba keeps the machine code beside it.

The file's name is a hash of the text and of all that the code also depends on and Numba does not look at: the modules that it calls,
written into it when it is compiled, and Numba's version. (Processor and Python version are part of Numba's own key.) So nothing stale
is ever found; old files are never touched again and may be deleted at any time.

Files are written under another name and then renamed, so processes that compile the same at once do not disturb each other.
The code should give its functions' signatures: then they are compiled, or read, here and not at some later call, and what is damaged
is deleted and compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

CALLED = ("numba_math", "numba_products", "numba_loops")  # modules whose code ends up in the compiled


def load(source: str) -> ModuleType:
    """The module of this text, its functions compiled if they are `cache=True` and have signatures."""
    name = f"loops_{fingerprint(source)}"
    if name not in sys.modules:
        path = directory() / f"{name}.py"
        try:
            return imported(name, path, source)
        except Exception:
            forget(path)
            return imported(name, path, source)  # once more from the text alone: an error now is the text's
    return sys.modules[name]


def imported(name: str, path: Path, source: str) -> ModuleType:
    """Import a file that holds the source, written anew where it does not."""
    if not (path.exists() and path.read_bytes() == source.encode()):
        write(path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(
        spec
    )  # there before its functions: Numba looks for them by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def write(path: Path, source: str) -> None:
    """All of the text or nothing, whoever reads at the same time."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.encode())
    os.replace(temporary, path)


def forget(path: Path) -> None:
    """Delete a file and the machine code that Numba keeps of it."""
    for file in (path, *path.parent.glob(f"__pycache__/{path.stem}*")):
        with contextlib.suppress(OSError):
            file.unlink()


def fingerprint(source: str) -> str:
    """A name for the text with all that it depends on."""
    import numba

    parts = [source.encode(), numba.__version__.encode()]
    parts += [path.read_bytes() for path in (Path(__file__).with_name(f"{module}.py") for module in CALLED) if path.exists()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def directory() -> Path:
    """TINYGRAD_SEQ_CACHE, or the user's cache directory, or a temporary one where these cannot be written."""
    for place in (os.environ.get("TINYGRAD_SEQ_CACHE"), user_directory()):
        if place:
            with contextlib.suppress(OSError):
                path = Path(place)
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path):
                    return path
    return temporary_directory()


def user_directory() -> Path:
    """Where the platform keeps what can be made again."""
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser())
    elif sys.platform == "darwin":
        parent = Path("~/Library/Caches").expanduser()
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return parent / "tinygrad_seq"


def temporary_directory() -> Path:
    """One for this process."""
    global _temporary
    if _temporary is None:
        _temporary = tempfile.TemporaryDirectory(prefix="tinygrad_seq_", ignore_cleanup_errors=True)
    return Path(_temporary.name)


_temporary: tempfile.TemporaryDirectory[str] | None = None
