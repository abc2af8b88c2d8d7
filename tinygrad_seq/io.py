"""Saving: nested dicts and lists of arrays, numbers and strings as one safetensors file. Nothing in it is code, nothing is pickled.

    tg.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, "run.safetensors")
    state = tg.load("run.safetensors")

Arrays become tensors, named by their path ("model/rnn.weight_ih_l0"; a plain state dict keeps its names, so PyTorch reads it too).
How they were nested, and everything that is no array, stands as JSON in the file's metadata, beside a checksum over all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import backend
from .errors import ArgumentError, FileError, MissingFileError, ShapeError, describe, message
from .graph import raw

# The names that a safetensors file has for the dtypes that a Tensor can have. BF16, which NumPy has not, is read as float32.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip
CODES = {np.dtype(name): code for code, name in DTYPES.items()}

ZIP = b"PK\x03\x04"  # how the files of torch.save begin
LONGEST_HEADER = 100_000_000  # the limit of every reader of safetensors files

VERSION = "tinygrad_seq"  # our entries in the metadata of a file: the version of this layout,
STRUCTURE = "structure"  # how the arrays were nested and all that is no array,
CHECKSUM = "sha256"  # and the checksum over names, dtypes, shapes, bytes and the other metadata
FOREIGN_FORMATS = ("pt", "np", "tf", "flax", "mlx")  # what other libraries write as their "format"


def save(state: Any, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a nested structure to one safetensors file, whole or not at all.

    state: dicts with strings as keys, lists, tuples, arrays (also Tensors), Python and NumPy numbers, strings and None, nested as
    you like. An array that stands in it twice is stored once. metadata: strings of your own, which `metadata(path)` reads.

    Whenever the program is killed, the file is the old one or the new one; when `save` has returned, it is the new one, on the disk. The same
    state gives the same bytes.
    """
    import safetensors
    import safetensors.numpy

    target = _checked_path("save", path)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    structure = _encode(state, arrays)
    entries = {**_checked_metadata(metadata), VERSION: "1", STRUCTURE: structure}
    entries[CHECKSUM] = _checksum(entries, ((name, CODES[a.dtype], a.shape, _bytes(a)) for name, a in sorted(arrays.items())))
    try:
        content = safetensors.numpy.save(arrays, metadata=entries)
    except safetensors.SafetensorError:  # newer versions of the library look themselves
        content = b""
    if not 0 < int.from_bytes(content[:8], "little") <= LONGEST_HEADER:
        raise ShapeError(
            message(
                f"save: {len(structure):,} characters of what is no array, and {len(arrays):,} arrays",
                expected=f"together less than {LONGEST_HEADER:,} bytes, or no reader of safetensors files would take it",
                do="make arrays of long lists of numbers: np.array(numbers)",
            )
        )
    _replace(target, _in_order(content))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes them in any order, and the same state is to give the same bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays stay aligned
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def load(path: str | os.PathLike[str]) -> Any:
    """What `save` was given: the same structure, numbers and bits, with NumPy arrays. The checksum is verified first.

    A safetensors file of another library is a dict of its arrays; bfloat16 arrives as float32, which holds it exactly.
    Raises `errors.FileError` for everything that is no such file, or a damaged one.
    """
    return _read(_checked_path("load", path))[0]


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings that stand beside the state in a file: what `save` was given as `metadata`, or another library wrote."""
    return _read(_checked_path("metadata", path))[1]


# ---- A structure as JSON, the arrays taken out --------------------------------------------------------------------------------------
#
# JSON has no arrays, tuples and NaNs. They become an object with one key that begins with "$"; a "$" that a dict's own key begins with
# is doubled.


def _encode(state: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    """The structure as JSON text; its arrays are added to `arrays` by the names that stand in the text."""
    names: dict[Any, str] = {}  # by what tells that two arrays are one
    taken = {"__metadata__"}  # no tensor of a safetensors file may be called so
    alive: list[Any] = []  # so that no memory is used again while it names an array

    def encode(x: Any, path: str) -> Any:
        x = raw(x)
        if isinstance(x, np.generic):
            return {"$scalar": store(np.asarray(x), path)}
        if x is None or isinstance(x, bool):
            return x
        if isinstance(x, str):
            return _checked_text(x, path)
        if isinstance(x, int):
            return int(x) if abs(x) < 2**63 else {"$int": hex(x)}
        if isinstance(x, float):
            return float(x) if math.isfinite(x) else {"$float": struct.pack(">d", x).hex()}
        if backend.is_array(x):
            return {"$array": store(x, path)}
        if isinstance(x, Mapping):
            return {_encoded_key(key, path): encode(value, f"{path}/{key}" if path else key) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            items = [encode(item, f"{path}/{i}" if path else str(i)) for i, item in enumerate(x)]
            return {"$tuple": items} if isinstance(x, tuple) else items
        raise _refused(x, path)

    def store(x: Any, path: str) -> str:
        which = _identity(x)
        if which not in names:
            name = path or "array"
            while name in taken:  # {"a": {"b": x}, "a/b": y}
                name += "_"
            taken.add(name)
            alive.append(x)
            names[which] = name
            arrays[name] = _storable(x, path)
        return names[which]

    try:
        return json.dumps(encode(state, ""), allow_nan=False)
    except RecursionError:
        raise ArgumentError(message("save: the state is nested too deeply, or contains itself")) from None


def _decode(text: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """The structure that the JSON text describes."""

    def decode(x: Any) -> Any:
        if isinstance(x, list):
            return [decode(item) for item in x]
        if not isinstance(x, dict):
            return x
        match x:
            case {"$array": name}:
                return arrays[name]
            case {"$scalar": name}:
                return arrays[name][()]
            case {"$tuple": items}:
                return tuple(decode(item) for item in items)
            case {"$int": digits}:
                return int(digits, 16)
            case {"$float": bits}:
                return struct.unpack(">d", bytes.fromhex(bits))[0]
        return {key.removeprefix("$"): decode(value) for key, value in x.items()}

    return decode(json.loads(text))


def _encoded_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ArgumentError(
            message(
                f"save: a key of {path or 'the state'} is {describe(key)}",
                expected="strings as keys, so that the file says the same to every reader",
                do="{str(key): value for key, value in d.items()}, and the way back after load",
            )
        )
    _checked_text(key, path)
    return f"${key}" if key.startswith("$") else key


def _checked_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(
            message(
                f"save: {path or 'the state'} has {text!a}, which is no Unicode text",
                expected="text without single surrogates",
                do="text.encode(errors='surrogateescape') as an array: np.frombuffer(..., np.uint8)",
            )
        ) from None
    return text


def _identity(x: Any) -> Any:
    """What two arrays have in common only if they are the same numbers in the same memory."""
    if isinstance(x, np.ndarray) and x.size:
        return x.ctypes.data, x.shape, x.strides, x.dtype.str
    return id(x)


def _storable(x: Any, path: str) -> np.ndarray[Any, Any]:
    array = backend.to_numpy(x)
    if array.dtype.newbyteorder("=") not in CODES or hasattr(x, "mask"):
        raise _refused(x, path)
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _refused(x: Any, path: str) -> ArgumentError:
    what, advice = describe(x), "save what it was made from: names, numbers, arrays"
    if hasattr(x, "state_dict"):
        what, advice = f"a {type(x).__name__}", "save its state_dict(); load_state_dict puts it back"
    elif isinstance(x, bytes):
        advice = "np.frombuffer(data, np.uint8)"
    elif hasattr(x, "__array__"):
        advice = "give a plain array of numbers: np.asarray(x), x.astype(dtype), x.filled(value)"
    return ArgumentError(
        message(
            f"save: {path or 'the state'} is {what}",
            expected=f"dicts, lists, tuples, numbers, strings, None, and arrays of {', '.join(sorted(DTYPES.values()))}",
            do=advice,
        )
    )


def _checked_path(who: str, path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(message(f"{who}: {describe(path)} is no path", expected="a string or a pathlib.Path"))
    return Path(path)


def _checked_metadata(given: Mapping[str, str] | None) -> dict[str, str]:
    entries = dict(given or {})
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ArgumentError(
                message(
                    f"save: metadata {key!r}: {describe(value)}", expected="strings", do="put the number into the state, or str(x)"
                )
            )
        if key in (VERSION, STRUCTURE, CHECKSUM):
            raise ArgumentError(message(f"save: the metadata entry {key!r} is written by save itself", do="call yours otherwise"))
        _checked_text(key, "metadata")
        _checked_text(value, f"metadata {key!r}")
    return entries


def _checksum(entries: Mapping[str, str], tensors: Iterable[tuple[str, str, Iterable[int], Any]]) -> str:
    """SHA-256 over the metadata (but the checksum itself) and each tensor, ordered by name: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    described = {key: value for key, value in entries.items() if key != CHECKSUM}
    digest.update(json.dumps(described, sort_keys=True).encode() + b"\n")
    for name, code, shape, data in tensors:
        digest.update(json.dumps([name, code, list(shape)]).encode() + b"\n")
        digest.update(data)
    return digest.hexdigest()


def _bytes(array: np.ndarray[Any, Any]) -> Any:
    """The memory of the array as the file holds it, least significant byte first."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)


# ---- Writing: whole or not at all -----------------------------------------------------------------------------------------------------


def _replace(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, bring it to the disk, and give it the name in one step."""
    temporary = None
    try:
        path = Path(os.path.realpath(path))  # a link goes on pointing where it points
        before = path.stat() if path.exists() else None
        if before is not None and not stat.S_ISREG(before.st_mode):
            raise OSError("what is there is no regular file")
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.saving")
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            temporary.chmod(stat.S_IMODE(before.st_mode))
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, ValueError) as cause:
        missing = isinstance(cause, FileNotFoundError) and not path.parent.exists()
        raise FileError(
            message(
                f"save: {str(path)!r} was not written: {getattr(cause, 'strerror', None) or cause}",
                do=f"os.makedirs({str(path.parent)!r})" if missing else "make room or choose another place; nothing was changed",
            )
        ) from cause
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; Windows and some network drives know no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of this file whose writer was killed, as far as we may."""
    with contextlib.suppress(OSError):
        for beside in path.parent.iterdir():
            writer, dash, _ = beside.name.removeprefix(f".{path.name}.").partition("-")
            ours = beside.name.startswith(f".{path.name}.") and beside.name.endswith(".saving") and dash and writer.isdecimal()
            if ours and not _runs(int(writer)):
                beside.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name != "posix":
        return False  # there an open file cannot be removed
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


# ---- Reading: nothing is believed -------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    """The state and the metadata of a file, or `FileError`."""
    import safetensors

    data = _content(path)
    deserialize: Any = safetensors.deserialize
    try:
        tensors = sorted((name, t["dtype"], t["shape"], t["data"]) for name, t in deserialize(data))
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, RecursionError, MemoryError) as cause:
        if data.startswith(ZIP):
            advice = f"in PyTorch: safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), new_path)"
            raise _damaged(path, "it is a zip file, such as torch.save writes", do=advice) from cause
        raise _damaged(path, f"it is no safetensors file, or a damaged one ({cause or type(cause).__name__})") from cause
    names = {name for name, *_ in tensors}
    ours = CHECKSUM in entries
    if not ours and not _is_foreign(entries, names):
        raise _damaged(path, "its metadata is neither ours nor what PyTorch and others write", unchecked=True)
    if ours and entries.get(VERSION) != "1":
        raise _damaged(path, f"it is damaged, or of a newer version of {VERSION}", do=f"pip install --upgrade {VERSION}")
    if ours and entries[CHECKSUM] != _checksum(entries, tensors):
        raise _damaged(path, "its numbers are not those that were saved: the checksum differs")
    try:
        arrays = {name: _array(path, name, code, shape, bits) for name, code, shape, bits in tensors}
    except (ValueError, MemoryError) as cause:  # a shape of a hundred axes, for example
        raise _damaged(path, f"it holds what is no array ({cause or type(cause).__name__})") from cause
    if not ours:
        tied = {name: arrays[same] for name, same in entries.items() if name != "format"}
        return {**arrays, **tied}, {name: text for name, text in entries.items() if name not in tied}
    try:
        state = _decode(entries[STRUCTURE], arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, struct.error) as cause:
        raise _damaged(path, f"what it says of its structure makes no sense ({cause!r})") from cause
    return state, {key: text for key, text in entries.items() if key not in (VERSION, STRUCTURE, CHECKSUM)}


def _content(path: Path) -> bytes:
    """The bytes of a regular file (reading anything else might never end)."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        content = path.read_bytes() if regular else b""
    except FileNotFoundError as cause:
        within = "" if path.is_absolute() else f" in the folder {os.getcwd()}"
        raise MissingFileError(message(f"load: there is no file {str(path)!r}{within}")) from cause
    except (OSError, ValueError, MemoryError) as cause:
        raise _damaged(path, f"it cannot be read: {cause or type(cause).__name__}") from cause
    if not regular:
        raise _damaged(path, "it is no regular file")
    return content


def _is_foreign(entries: Mapping[str, str], names: set[str]) -> bool:
    """Whether another library writes such metadata: nothing, its "format", and for each tied weight under which name it is stored.

    A file of ours that lost its checksum is not mistaken for one: its other entries tell.
    """
    return all(text in FOREIGN_FORMATS if key == "format" else key not in names and text in names for key, text in entries.items())


def _array(path: Path, name: str, code: str, shape: list[int], data: bytearray) -> Any:
    if code == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if code == "BOOL":
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    if code not in DTYPES:
        raise _damaged(
            path, f"{name} is of dtype {code}, which no Tensor can have", do="convert it where it was made, for example to float32"
        )
    dtype = np.dtype(DTYPES[code])
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _damaged(path: Path, problem: str, *, do: str = "", unchecked: bool = False) -> FileError:
    advice = do or "use another copy of the file, or save it again"
    if unchecked:
        advice = f"if you trust it: safetensors.numpy.load_file({str(path)!r}) reads it without a check"
    return FileError(message(f"load: {str(path)!r} was not loaded: {problem}", do=advice))
