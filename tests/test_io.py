"""Saving: what comes back, what a kill leaves, what a damaged file does."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays_of

import tinygrad_seq as tg
from tinygrad_seq import io, nn
from tinygrad_seq.errors import ArgumentError, FileError, ShapeError

ROOT = Path(__file__).resolve().parent.parent


def same(a, b) -> bool:
    """Equal to the bit, types included; an array of another library and a Tensor count as their NumPy array."""
    a = tg.graph.raw(a) if isinstance(a, tg.Tensor) else a
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return type(b) is float and struct.pack("d", a) == struct.pack("d", b)
    return type(a) is type(b) and a == b


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def there_and_back(state, path: Path):
    tg.save(state, path)
    return tg.load(path)


def example() -> dict:
    """One of everything."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4)).astype(np.float32)
    return {
        "model": {"encoder.weight": w, "decoder.weight": w, "bias": np.zeros(3)},
        "optimizer": {"groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1]}], "state": [{"m": w * 2, "steps": 7}]},
        "random": rng.bit_generator.state,
        "loader": [1, [2, None], True, "grüße"],
    }


# ---- What comes back ---------------------------------------------------------------------------------------------------------------


def test_everything_comes_back_as_it_was(path):
    state = example()
    loaded = there_and_back(state, path)
    assert same(loaded, state) and loaded["model"]["bias"].flags.writeable
    assert list(path.parent.iterdir()) == [path]


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["$array", "$$", "a/b", "a.b", "__metadata__", ""]
)
dtypes = st.sampled_from([np.dtype(name) for name in io.DTYPES.values()])
arrays = dtypes.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=3)))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(), keys, arrays)
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(nested)
def test_any_structure_comes_back_as_it_was(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    assert same(there_and_back(state, path), state)


@pytest.mark.parametrize(
    "number",
    [0, -1, 2**63, -(2**63), 16**5000, 0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan],
    ids=lambda x: f"{x:.3g}" if isinstance(x, float) else f"{x.bit_length()} bits",
)
def test_numbers_keep_their_bits(path, number):
    assert same(there_and_back([number], path), [number])


def test_a_nan_keeps_its_payload(path):
    [payload] = struct.unpack(">d", bytes.fromhex("fff80000deadbeef"))
    assert struct.pack(">d", there_and_back(payload, path)).hex() == "fff80000deadbeef"


@pytest.mark.parametrize("scalar", [np.float32(0.1), np.float64(0.1), np.int8(-3), np.bool_(True), np.float16(np.nan)])
def test_numpys_scalars_keep_their_type(path, scalar):
    assert same(there_and_back({"x": scalar}, path)["x"], scalar)


def test_arrays_of_every_memory_layout(path):
    a = np.arange(24.0).reshape(2, 3, 4)
    state = [a.T, a[:, ::2], a[::-1], np.broadcast_to(a[0], (5, 3, 4)), a.astype(">f8"), a[:0], np.array(2.0), np.asfortranarray(a)]
    for x, y in zip(state, there_and_back(state, path), strict=True):
        assert y.dtype == np.float64 and y.flags.c_contiguous
        np.testing.assert_array_equal(x, y)


def test_mappings_of_any_kind_and_subclasses_of_arrays_come_back_plain(path):
    loaded = there_and_back(OrderedDict(a=np.memmap(path.parent / "raw", np.float32, "w+", shape=3)), path)
    assert type(loaded) is dict and type(loaded["a"]) is np.ndarray


def test_arrays_of_a_device_are_saved_as_numpys(path, xp):
    state = {"array": xp.asarray([1.0, 2.0]), "tensor": tg.tensor(xp.asarray([3.0]))}
    state["again"] = state["array"]
    loaded = there_and_back(state, path)
    assert same(loaded, {"array": np.array([1.0, 2.0]), "tensor": np.array([3.0]), "again": np.array([1.0, 2.0])})
    assert loaded["array"] is loaded["again"]


def test_a_plain_state_dict_keeps_its_names(path):
    state = nn.RNN(2, 3).state_dict()
    tg.save(state, path)
    assert sorted(safetensors.numpy.load_file(path)) == sorted(state)
    assert list(tg.load(path)) == list(state)


def test_nested_arrays_are_named_by_their_path(path):
    tg.save({"model": {"rnn.weight": np.zeros(1)}, "state": [{"m": np.ones(1)}], "epoch": 3}, path)
    assert sorted(safetensors.numpy.load_file(path)) == ["model/rnn.weight", "state/0/m"]


def test_names_that_collide_are_told_apart(path):
    state = {"a": {"b": np.zeros(1)}, "a/b": np.ones(1), "__metadata__": np.full(1, 2.0), "": np.full(1, 3.0)}
    assert same(there_and_back(state, path), state)


class Tied(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(50, 20)
        self.out = nn.Linear(20, 50)
        self.out.weight = self.embedding.weight


def test_tied_weights_are_stored_once_and_come_back_under_both_names(path):
    model = Tied()
    tg.save({"model": model.state_dict()}, path)
    assert len(safetensors.numpy.load_file(path)) == 2
    loaded = tg.load(path)["model"]
    assert sorted(loaded) == ["embedding.weight", "out.bias", "out.weight"] and loaded["out.weight"] is loaded["embedding.weight"]
    other = Tied()
    other.load_state_dict(loaded)
    assert other.out.weight is other.embedding.weight and same(other.state_dict(), model.state_dict())


def test_equal_arrays_that_are_not_the_same_stay_two(path):
    loaded = there_and_back({"a": np.zeros(3), "b": np.zeros(3)}, path)
    loaded["a"][0] = 1
    assert loaded["b"][0] == 0 and len(safetensors.numpy.load_file(path)) == 2


def test_metadata_of_the_user_stands_beside_the_state(path):
    tg.save({"x": 1}, path, metadata={"author": "me", "format": "pt"})
    assert io.metadata(path) == {"author": "me", "format": "pt"} and tg.load(path) == {"x": 1}


def test_the_same_state_gives_the_same_bytes(path):
    """The library that writes the header has no order for its metadata."""
    written = set()
    for _ in range(8):
        tg.save({"layer": {"é": np.arange(3.0), "b": np.ones((2, 2), np.float32)}, "step": 3}, path, metadata={"k": "v", "ä": "ü"})
        written.add(path.read_bytes())
    assert len(written) == 1
    data = written.pop()
    assert int.from_bytes(data[:8], "little") % 8 == 0  # the arrays are aligned


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": {1: 2}}, "a key of a is 1"),
        ({"f": test_metadata_of_the_user_stands_beside_the_state}, "f is function"),
        ({"a": [b"bytes"]}, r"a/0 is b'bytes'[\s\S]*np.frombuffer\(data, np.uint8\)"),
        ({"a": np.array(["text"])}, r"a is <U4 \(1,\)"),
        ({"a": np.zeros(2, np.complex128)}, r"a is complex128 \(2,\)[\s\S]*float64"),
        ({"a": np.ma.masked_array([1.0], [True])}, r"x\.filled\(value\)"),
        ({"a": {1, 2}}, r"a is \{1, 2\}"),
        ({"a": 1j}, "a is 1j"),
        ({"a": "\ud800"}, r"a has '\\ud800', which is no Unicode"),
        ({"m": nn.Linear(2, 2)}, r"m is a Linear\n[\s\S]*state_dict\(\)"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_no_file(path, state, says):
    with pytest.raises(ArgumentError, match=says):
        tg.save(state, path)
    assert not list(path.parent.iterdir())


def test_a_state_that_contains_itself_is_refused(path):
    state: dict = {}
    state["a"] = [state]
    with pytest.raises(ArgumentError, match="contains itself"):
        tg.save(state, path)


def test_what_no_reader_would_take_is_not_written(path, monkeypatch):
    monkeypatch.setattr(io, "LONGEST_HEADER", 1000)
    with pytest.raises(ShapeError, match="characters of what is no array[\\s\\S]*np.array"):
        tg.save({"order": list(range(1000))}, path)
    assert not path.exists()


@pytest.mark.slow
def test_the_limit_is_that_of_the_library(path):
    tg.save({"order": "x" * (io.LONGEST_HEADER - 300)}, path)
    assert len(tg.load(path)["order"]) == io.LONGEST_HEADER - 300
    with pytest.raises(ShapeError, match="np.array"):
        tg.save({"order": "x" * io.LONGEST_HEADER}, path)


@pytest.mark.parametrize(
    ("metadata", "says"), [({"epoch": 3}, "'epoch': 3"), ({"sha256": ""}, "written by save"), ({1: "a"}, "strings")]
)
def test_metadata_are_strings_with_names_of_their_own(path, metadata, says):
    with pytest.raises(ArgumentError, match=says):
        tg.save({}, path, metadata=metadata)


# ---- Writing: whole or not at all ---------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    tg.save({"x": 1}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left[\\s\\S]*nothing was changed"):
        tg.save({"x": 2}, path)
    assert tg.load(path) == {"x": 1} and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="looks into /dev/fd")
def test_the_bytes_reach_the_disk_before_the_name_and_the_folder_after_it(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (order.append("folder" if os.path.isdir(f"/dev/fd/{d}") else "file"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    tg.save({"x": np.ones(3)}, path)
    assert order == ["file", "replace", "folder"]


def test_threads_that_save_to_one_file_leave_one_of_their_states(path):
    states = [{"a": np.full(5000, i), "step": i, "list": [i, {"b": np.full(3, float(i))}]} for i in range(40)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda state: tg.save(state, path), states))
    assert is_one_state(tg.load(path)) and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_or_device_is_not_replaced_by_a_file(path):
    os.mkfifo(path)
    with pytest.raises(FileError, match="no regular file"):
        tg.save({}, path)
    assert path.is_fifo()


@pytest.mark.skipif(
    os.name != "posix", reason="elsewhere nobody tells whether a process runs; an open file cannot be removed there"
)
def test_leftovers_of_a_killed_writer_are_cleared_by_the_next_save_and_those_of_a_living_one_are_not(path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = (path.with_name(f".{path.name}.{pid}-0123abcd.saving") for pid in (gone.pid, os.getppid()))
    other = path.with_name(f".other.safetensors.{gone.pid}-0123abcd.saving")
    for leftover in (dead, alive, other):
        leftover.write_bytes(b"half")
    tg.save({"x": 1}, path)
    assert sorted(path.parent.iterdir()) == sorted([path, alive, other])


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions and seldom allows links")
def test_a_link_goes_on_pointing_and_permissions_stay(path):
    target = path.with_name("target")
    tg.save({"x": 1}, target)
    target.chmod(0o600)
    path.symlink_to(target)
    tg.save({"x": 2}, path)
    assert path.is_symlink() and tg.load(target) == {"x": 2} and target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("where", "says"), [("missing/file", "makedirs"), (".", "no regular file"), ("a\0b", "null"), ("x" * 300, "too long")]
)
def test_a_place_that_cannot_be_written_is_one_kind_of_error(tmp_path, where, says):
    with pytest.raises(FileError, match=says):
        tg.save({}, tmp_path / where)


WRITER = """
import sys, numpy as np, tinygrad_seq as tg
path, step = sys.argv[1], int(sys.argv[2])
while True:
    step += 1
    tg.save({"a": np.full(30_000, step), "step": step, "list": [step, {"b": np.full((3, 5), float(step))}]}, path)
    print(step, flush=True)
"""


def is_one_state(state: dict) -> bool:
    step = state["step"]
    return bool((state["a"] == step).all() and (state["list"][1]["b"] == step).all() and state["list"][0] == step)


@pytest.mark.skipif(os.name != "posix", reason="kills a process with SIGKILL")
@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_while_saving_loses_nothing_that_was_reported_and_mixes_nothing(path, kills):
    chance = random.Random(kills)
    saved = 0
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(saved)], stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        assert writer.stdout is not None
        reported = int(writer.stdout.readline())
        time.sleep(chance.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0]
        whole = rest[: rest.rfind("\n") + 1].split()  # the last line may be cut off by the kill
        reported = int(whole[-1]) if whole else reported
        state = tg.load(path)
        assert is_one_state(state) and state["step"] in (reported, reported + 1)
        saved = state["step"]
    tg.save({}, path)
    assert list(path.parent.iterdir()) == [path]


# ---- Files of others ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "np"}])
def test_files_of_other_libraries_are_dicts_of_their_arrays(path, metadata):
    theirs = {"b": np.arange(3), "a.weight": np.ones((2, 2), np.float16)}
    safetensors.numpy.save_file(theirs, path, metadata=metadata)
    loaded = tg.load(path)
    assert list(loaded) == ["a.weight", "b"] and all(same(loaded[name], theirs[name]) for name in theirs)
    assert io.metadata(path) == (metadata or {})


def test_metadata_of_nobody_known_is_refused_with_a_way_out(path):
    safetensors.numpy.save_file({"a": np.ones(1)}, path, metadata={"who": "knows"})
    with pytest.raises(FileError, match=r"neither ours[\s\S]*safetensors.numpy.load_file"):
        tg.load(path)


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def header_of(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: dict, data: bytes) -> bytes:
    return file_of(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(), data)


def test_bfloat16_arrives_exactly_as_float32(path):
    values = np.array([1.0, -2.5, 3.140625, np.inf, 2.0**-133], np.float32)  # the last one is subnormal
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path.write_bytes(with_header({"w": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}, bits))
    assert same(tg.load(path)["w"], values)


def test_a_dtype_that_numpy_does_not_have_is_named(path):
    path.write_bytes(with_header({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab"))
    with pytest.raises(FileError, match="w is of dtype F8_E4M3[\\s\\S]*convert"):
        tg.load(path)


def test_booleans_are_true_or_false_whatever_byte_they_are(path):
    path.write_bytes(with_header({"w": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\x00\x01\x02"))
    assert same(tg.load(path)["w"], np.array([False, True, True])) and tg.load(path)["w"].sum() == 2


# ---- Damaged files ----------------------------------------------------------------------------------------------------------------------

NO_FILES = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "no header": struct.pack("<Q", 0),
    "text": b"What a fine file this is, and no safetensors file at all.",
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    "zip, as PyTorch saves": b"PK\x03\x04" + bytes(100),
    "header of 8 exabytes": struct.pack("<Q", 2**63) + b"{}",
    "header longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "header of 2 GB": struct.pack("<Q", 2**31) + b"{}",
    "no JSON": file_of(b"{nothing}"),
    "a list": file_of(b"[1, 2, 3]"),
    "a deep list": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a huge shape": file_of(
        b'{"a":{"dtype":"F64","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,8]}}', bytes(8)
    ),
    "a shape of 100 axes": with_header({"a": {"dtype": "U8", "shape": [1] * 100, "data_offsets": [0, 1]}}, bytes(1)),
    "a huge shape of nothing": with_header({"a": {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""),
    "a negative shape": file_of(b'{"a":{"dtype":"F64","shape":[-1],"data_offsets":[0,8]}}', bytes(8)),
    "offsets beyond": file_of(b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}', bytes(8)),
    "offsets that overlap": file_of(
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', bytes(8)
    ),
    "bytes that belong to nothing": file_of(b"{}", bytes(8)),
    "metadata that is no text": file_of(b'{"__metadata__":{"a":1}}'),
}


@pytest.mark.parametrize("content", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_safetensors_file_is_one_kind_of_error(path, content):
    path.write_bytes(content)
    for read in (tg.load, io.metadata):
        with pytest.raises(FileError, match="was not loaded[\\s\\S]*do: "):
            read(path)


def test_a_missing_file_a_folder_and_a_pipe_are_too(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file 'nowhere.safetensors' in the folder") as caught:
        tg.load("nowhere.safetensors")
    assert isinstance(caught.value, FileError)
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path in [tmp_path, *tmp_path.iterdir(), Path(os.devnull)]:
        with pytest.raises(FileError, match="no regular file"):
            tg.load(path)
    with pytest.raises(ArgumentError, match="load: 3 is no path"):
        tg.load(3)


def forged(path: Path, structure: str, arrays: dict | None = None, version: str = "1") -> Path:
    """A file with a right checksum and a wrong structure, as someone could make it on purpose."""
    entries = {"tinygrad_seq": version, "structure": structure}
    arrays = arrays or {}
    tensors = [(name, "F64", a.shape, a.tobytes()) for name, a in sorted(arrays.items())]
    safetensors.numpy.save_file(arrays, path, metadata={**entries, "sha256": io._checksum(entries, tensors)})
    return path


@pytest.mark.parametrize(
    "structure",
    ["", "{", "[" * 100_000, '{"$array": "nothing"}', '{"$array": []}', '{"$int": "zz"}', '{"$int": 3}', '{"$float": "00"}',
     '{"$float": null}', '{"$tuple": 3}', '{"$scalar": "a"}', "9" * 5000, '{"$scalar": "nothing"}'],
)  # fmt: skip
def test_a_forged_structure_is_one_kind_of_error(path, structure):
    with pytest.raises(FileError, match="makes no sense"):
        tg.load(forged(path, structure))


def test_a_file_of_a_newer_version_says_so(path):
    with pytest.raises(FileError, match="newer version[\\s\\S]*--upgrade"):
        tg.load(forged(path, "{}", version="2"))


def edits(header: dict) -> dict[str, dict]:
    """Edits of a header of ours that leave it a valid one."""

    def edited(change) -> dict:
        copy = json.loads(json.dumps(header))
        change(copy)
        return copy

    def swap(h: dict) -> None:
        h["a"]["data_offsets"], h["b"]["data_offsets"] = h["b"]["data_offsets"], h["a"]["data_offsets"]

    def rename(h: dict) -> None:
        h["c"] = h.pop("a")

    found = {
        "swapped arrays": edited(swap),
        "renamed array": edited(rename),
        "another dtype": edited(lambda h: h["a"].update(dtype="I64")),
        "another shape": edited(lambda h: h["a"].update(shape=[3, 2])),
        "a format added": edited(lambda h: h["__metadata__"].update(format="pt")),
        "another structure": edited(lambda h: h["__metadata__"].update(structure='{"a": 1}')),
        "another checksum": edited(lambda h: h["__metadata__"].update(sha256="0" * 64)),
        "an empty checksum": edited(lambda h: h["__metadata__"].update(sha256="")),
    }
    for key in ("sha256", "structure", "tinygrad_seq"):
        found[f"without {key}"] = edited(lambda h, key=key: h["__metadata__"].pop(key))
        found[f"only {key}"] = edited(lambda h, key=key: h.update(__metadata__={key: h["__metadata__"][key]}))
        found[f"{key} renamed"] = edited(lambda h, key=key: h["__metadata__"].update({key + "x": h["__metadata__"].pop(key)}))
    return found


def test_an_edited_header_is_noticed(path):
    tg.save({"a": np.arange(6.0).reshape(2, 3), "b": np.arange(6.0, 12.0).reshape(2, 3)}, path)
    header, data = header_of(path.read_bytes())
    for what, edited in edits(header).items():
        path.write_bytes(with_header(edited, data))
        with pytest.raises(FileError):
            pytest.fail(f"{what}: loaded {tg.load(path)}")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with one to three random damages."""
    length = int.from_bytes(content[:8], "little")
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(content) or 1)
        if chance.random() < 0.5:  # half of them in the header, where more can go wrong
            at = min(at, chance.randrange(8 + length))
        end = min(len(content), at + chance.choice([1, 2, 8, 64]))
        match chance.randrange(7):
            case 0:  # flip a bit
                content = content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :] if content else content
            case 1:  # truncate
                content = content[:at]
            case 2:  # insert
                content = content[:at] + chance.randbytes(end - at) + content[at:]
            case 3:  # duplicate
                content = content[:end] + content[at:end] + content[end:]
            case 4:  # leave out
                content = content[:at] + content[end:]
            case 5:  # zeros
                content = content[:at] + bytes(end - at) + content[end:]
            case 6:  # another header length
                content = (
                    struct.pack("<Q", chance.choice([0, 1, length - 1, length + 1, 2 * length, 2**31, 2**63, 2**64 - 1]))
                    + content[8:]
                )
    return content


def flipped_text(content: bytes, chance: random.Random) -> bytes:
    """The file with characters of its header exchanged by others of the same header: often valid JSON with another meaning."""
    length = int.from_bytes(content[:8], "little")
    header = bytearray(content[8 : 8 + length])
    for _ in range(chance.choice([1, 2])):
        a, b = chance.randrange(length), chance.randrange(length)
        header[a] = header[b]
    return content[:8] + bytes(header) + content[8 + length :]


def originals(path: Path) -> tuple[list[bytes], list[bytes]]:
    """Files of ours, and files of others without a checksum."""
    ours, theirs = [], []
    for state in (example(), nn.Linear(3, 2).state_dict(), {"epoch": 3, "nothing": []}):
        tg.save(state, path)
        ours.append(path.read_bytes())
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file(nn.RNN(2, 3).state_dict(), path, metadata=metadata)
        theirs.append(path.read_bytes())
    return ours, theirs


def test_randomly_damaged_files_are_one_kind_of_error_unless_they_still_say_the_same(path):
    chance, number = random.Random(0), 3000
    ours, theirs = originals(path)
    right = {}
    for original in ours:
        path.write_bytes(original)
        right[original] = tg.load(path)
    refused = 0
    for i in range(number + number // 2):
        original = chance.choice(ours if i < number else theirs)
        path.unlink(missing_ok=True)  # a file that is written over waits for the disk
        path.write_bytes(chance.choice([damaged, damaged, flipped_text])(original, chance))
        start = time.perf_counter()
        try:
            loaded = tg.load(path)
        except FileError:
            refused += i < number
        else:  # bytes exchanged for equal ones; what has no checksum may differ, but is arrays
            assert same(loaded, right[original]) if i < number else all(type(array) is np.ndarray for array in loaded.values())
        assert time.perf_counter() - start < 5
    assert refused > 0.95 * number


# ---- PyTorch ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_state_dict_goes_to_pytorch_and_back_by_name(path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from safetensors.torch import load_file, save_file

    theirs, ours = torch.nn.RNN(3, 4, num_layers=2), nn.RNN(3, 4, num_layers=2)
    save_file(theirs.state_dict(), path)
    ours.load_state_dict(tg.load(path))
    assert all(same(array, theirs.state_dict()[name].numpy()) for name, array in ours.state_dict().items())
    tg.save(nn.RNN(3, 4, num_layers=2).state_dict(), path)
    theirs.load_state_dict(load_file(path))
    assert all(same(array, theirs.state_dict()[name].numpy()) for name, array in tg.load(path).items())


@pytest.mark.torch
def test_tied_weights_that_pytorch_saved_come_back_under_both_names(path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from safetensors.torch import save_model

    theirs = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(50, 20), "out": torch.nn.Linear(20, 50)})
    theirs["out"].weight = theirs["embedding"].weight
    save_model(theirs, str(path))
    loaded, model = tg.load(path), Tied()
    assert sorted(loaded) == ["embedding.weight", "out.bias", "out.weight"]
    model.load_state_dict(loaded)
    assert same(model.out.weight.numpy(), theirs["out"].weight.detach().numpy())


@pytest.mark.torch
def test_an_lstm_goes_both_ways(path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from safetensors.torch import load_file, save_file

    theirs = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    ours = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    xs = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    save_file(theirs.state_dict(), path)
    ours.load_state_dict(tg.load(path))
    np.testing.assert_allclose(ours(tg.tensor(xs))[0].numpy(), theirs(torch.tensor(xs))[0].detach().numpy(), atol=1e-6)
    tg.save(nn.LSTM(3, 4, num_layers=2, bidirectional=True).state_dict(), path)
    theirs.load_state_dict(load_file(path))
    assert all(same(array, theirs.state_dict()[name].numpy()) for name, array in tg.load(path).items())


# ---- The document -----------------------------------------------------------------------------------------------------------------------


def blocks(info: str) -> list[str]:
    document = (ROOT / "docs" / "saving.md").read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{info}$\n(.*?)^```$", document)


def test_the_document_saves_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [example] = blocks("python")
    known: dict = {}
    exec(example, known)
    assert known["state"]["epoch"] == 3 and [f.name for f in tmp_path.iterdir()] == ["run.safetensors"]


@pytest.mark.torch
def test_the_recipes_of_the_document_bring_pytorchs_files_here(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    monkeypatch.chdir(tmp_path)
    exchange, recipe = blocks("python torch")
    exec(exchange, {"torch": torch, "tg": tg})
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    theirs[1].weight = theirs[0].weight  # tied, which save_file alone refuses
    state = theirs.state_dict()
    state["0.weight"] = state["0.weight"].T  # of another memory layout, which it refuses too
    for content in (state, {"epoch": 3, "state_dict": state}):
        torch.save(content, "model.pt")
        exec(recipe, {})
        loaded = tg.load("model.safetensors")
        assert sorted(loaded) == sorted(state) and all(same(loaded[name], state[name].contiguous().numpy()) for name in state)


def test_a_file_of_torch_save_says_how_to_convert_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(FileError, match=r"(?s)such as torch.save writes.*safetensors.torch.save_file\(torch.load\(.*model.pt"):
        tg.load(tmp_path / "model.pt")
