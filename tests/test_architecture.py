"""The house rules that a machine can check: import arrows, light imports, short files, docstrings, rules without NumPy, no pickles,
honest skips.

Every check is a function from source text to a list of complaints, so that the second half of this file can plant faults and see
them found. The arrows are read from docs/design.md.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

NAME = "tinygrad_seq"
TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / NAME

# Who may import whom: everything to the left, in the same line or in one that begins where another ends. Commas: side by side, they
# do not import each other. The document is the rule.
ARROWS = re.findall(r"(?ms)^```$\n(errors <.*?)^```$", (TESTS.parent / "docs" / "design.md").read_text(encoding="utf-8"))[0]
# Imports against the arrows, inside a function, each with its reason.
AGAINST = {
    ("tensor", "interop"): "NumPy asks the Tensor (__array_ufunc__), interop answers",
}
HEAVY = set("cupy cupyx pygraphviz matplotlib scipy tqdm numba safetensors hypothesis torch IPython llvmlite".split())
FOR_NUMBA = ("numba_math", "numba_products", "numba_loops")  # in compile: what Numba compiles, imported by compiled loops alone
UNPICKLING = set("pickle _pickle marshal shelve dill cloudpickle joblib yaml".split())
INHERITED = {"forward", "extra_repr", "update", "rate", "rates", "sum_of"}  # of Module, Optimizer, LRScheduler and Deferred
LONGEST = 310  # code lines of a file of the core (all that `scan` stands on): no blank lines, comments and docstrings


# ---- What a file imports ------------------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One import: the module in full, the line, and whether importing the file runs it."""

    module: str
    line: int
    at_once: bool


def imports(source: str, module: str, modules: Iterable[str] = (), package: bool = False) -> Iterator[Import]:
    """Every import of a file, with relative names resolved; `from a import b` is a.b where that is one of the modules."""
    tree = ast.parse(source)
    scopes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or for_types(node)]
    later = {inner for scope in scopes for inner in ast.walk(scope)}
    known = set(modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node not in later)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + package]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in known else base, node.lineno, node not in later)


def for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`"""
    return isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def allowed(arrows: str = ARROWS) -> dict[str, set[str]]:
    """For every room the rooms that it may import."""
    below: dict[str, set[str]] = {}
    for line in arrows.strip().splitlines():
        left: list[str] = []
        for group in line.split("<"):
            rooms = [room.strip() for room in group.split(",")]
            for room in rooms:
                below.setdefault(room, set()).update(left)
            left = rooms
    for _ in below:  # what stands left of the left, as often as there are rooms
        for rooms in below.values():
            rooms.update(*(below[room] for room in rooms))
    return below


def room_of(module: str, rooms: Iterable[str]) -> str:
    """The room of a module of the package: the longest one that its name begins with."""
    inner = module.removeprefix(NAME).lstrip(".") or "__init__"
    fitting = [room for room in rooms if inner == room or inner.startswith(f"{room}.")]
    return max(fitting, key=len, default=inner)


def against_the_arrows(source: str, module: str, modules: Iterable[str], package: bool = False) -> list[str]:
    """Imports within the package that its arrows forbid."""
    below = allowed()
    here = room_of(module, below)
    if here not in below:
        return [f"{module}: this room has no place in ARROWS"]
    found = []
    for target, line, at_once in imports(source, module, modules, package):
        if target.partition(".")[0] != NAME:
            continue
        there = room_of(target, below)
        lazily = not at_once and (here, there) in AGAINST
        if there != here and there not in below[here] and not lazily:
            found.append(f"{module}:{line} imports {target}: {here} may not import {there}")
        if here == "__init__" and at_once and there in ("bptt", "viz"):
            found.append(f"{module}:{line} imports {target} at once: readers are imported when first asked for")
    return found


def foreign_imports(source: str, module: str) -> list[str]:
    """cupy outside backend, and what makes `import tinygrad_seq` slow."""
    found = []
    for target, line, at_once in imports(source, module):
        root = target.partition(".")[0]
        if root in ("cupy", "cupyx") and module != f"{NAME}.backend":
            found.append(f"{module}:{line} imports {target}: only backend does")
        elif root in ("numba", "llvmlite") and module in {f"{NAME}.compile.{name}" for name in FOR_NUMBA}:
            continue
        elif root in HEAVY and at_once:
            found.append(f"{module}:{line} imports {target} at once: import it in the function that needs it")
        elif root in ("torch", "hypothesis", "pytest"):
            found.append(f"{module}:{line} imports {target}: that is for tests")
    return found


# ---- How a file reads ---------------------------------------------------------------------------------------------------------------


def code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings, and no aligned tables (between fmt: off and fmt: on)."""
    source = re.sub(r"(?ms)^ *# fmt: off$.*?^ *# fmt: on$", "", source)
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def star_imports(source: str, where: str) -> list[str]:
    """`from a import *`."""
    stars = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and any(a.name == "*" for a in n.names)]
    return [f"{where}:{node.lineno} imports *" for node in stars]


def code_out_of_data(source: str, where: str) -> list[str]:
    """What could run code that comes in a file: pickles in any wrapping."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{where}:{node.lineno} import {name}" for name in names if name.partition(".")[0] in UNPICKLING]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "torch.load"):
            found.append(f"{where}:{node.lineno} {ast.unparse(node)}")
    return found


def undocumented(source: str, where: str) -> list[str]:
    """Public functions, classes and methods without a docstring.

    INHERITED methods are documented where they are declared; an op documents the method that only calls it.
    """
    found = []

    def visit(scope: ast.Module | ast.ClassDef, prefix: str) -> None:
        for node in scope.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if node.name.startswith("_") or "overload" in decorators(node):
                continue
            if ast.get_docstring(node) is None and not (isinstance(scope, ast.ClassDef) and excused(node)):
                found.append(f"{where}:{node.lineno} {prefix}{node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                visit(node, f"{prefix}{node.name}.")

    def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
        return {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}

    def excused(node: ast.AST) -> bool:
        if not isinstance(node, ast.FunctionDef):
            return False
        body = node.body[0] if len(node.body) == 1 else None
        call = body.value if isinstance(body, ast.Return) else None
        f = call.func if isinstance(call, ast.Call) else None
        calls_op = isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "ops"
        return bool(decorators(node) & {"setter", "deleter"}) or calls_op or node.name in INHERITED

    visit(ast.parse(source), "")
    return found


def numpy_in_rules(source: str, where: str) -> list[str]:
    """`np.` in a derivative rule, which must serve Tensors as well as arrays. (A helper may use it, on positions and shapes.)"""
    tree = ast.parse(source)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    rules: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "defvjp":
            rules += [functions.get(row.id, row) if isinstance(row, ast.Name) else row for row in node.args[1:]]
        elif isinstance(node, ast.FunctionDef):
            makers = [d.func for d in node.decorator_list if isinstance(d, ast.Call)]
            if any(isinstance(maker, ast.Name) and maker.id == "backward_of" for maker in makers):
                rules.append(node)
        elif isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id == "Deferred" for base in node.bases):
            rules += [f for f in node.body if isinstance(f, ast.FunctionDef)]
    return [
        f"{where}:{node.lineno} a derivative rule uses np.{node.attr}: Tensors do not pass through it"
        for rule in rules
        for node in ast.walk(rule)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy")
    ]


def silent_skips(source: str, where: str) -> list[str]:
    """Tests that are skipped, or expected to fail, without a word why; and expected failures that may pass unnoticed."""
    found = []
    tree = ast.parse(source)
    calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "xfail", "importorskip", "skipTest")):
            continue
        if not ast.unparse(node).startswith(("pytest.", "mark.", "unittest.", "self.")):
            continue
        call = calls.get(id(node))
        words = {k.arg: k.value for k in call.keywords} if call else {}
        reason = words.get("reason")
        if reason is None and call and call.args and node.attr in ("skip", "skipTest"):
            reason = call.args[0]
        if reason is None and node.attr == "importorskip":
            continue  # pytest says which import failed
        if reason is None or (isinstance(reason, ast.Constant) and not str(reason.value or "").strip()):
            found.append(f"{where}:{node.lineno} {ast.unparse(node)} without a reason")
        if node.attr == "xfail" and not (isinstance(words.get("strict"), ast.Constant) and words["strict"].value is True):  # type: ignore[attr-defined]
            found.append(f"{where}:{node.lineno} {ast.unparse(node)} without strict=True")
    return found


# ---- The package obeys ------------------------------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = [NAME, *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {module: path.read_text(encoding="utf-8") for module, path in FILES.items()}
each_file = pytest.mark.parametrize("module", FILES)


@each_file
def test_imports_follow_the_arrows(module: str) -> None:
    assert against_the_arrows(SOURCES[module], module, FILES, FILES[module].name == "__init__.py") == []


@each_file
def test_cupy_is_imported_by_backend_alone_and_nothing_heavy_at_once(module: str) -> None:
    assert foreign_imports(SOURCES[module], module) == []


@each_file
def test_public_names_have_docstrings(module: str) -> None:
    assert undocumented(SOURCES[module], module) == []


@each_file
def test_derivative_rules_never_call_numpy(module: str) -> None:
    assert numpy_in_rules(SOURCES[module], module) == []


@each_file
def test_no_star_imports(module: str) -> None:
    assert star_imports(SOURCES[module], module) == []


@each_file
def test_no_file_is_believed_to_be_code(module: str) -> None:
    assert code_out_of_data(SOURCES[module], module) == []


def test_rules_are_found_at_all() -> None:
    assert sum(source.count("defvjp(") for source in SOURCES.values()) > 50


def test_no_utils() -> None:
    assert [str(path) for path in FILES.values() if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_a_file_of_the_core_reads_in_one_sitting(record_property: Callable[[str, object], None]) -> None:
    rooms = allowed()
    core = rooms["scan"] | {"scan"}
    lengths = {module: code_lines(source) for module, source in SOURCES.items() if room_of(module, rooms) in core}
    longest = max(lengths, key=lambda module: lengths[module])
    record_property("longest", f"{longest}: {lengths[longest]} code lines")
    assert lengths[longest] <= LONGEST, sorted(lengths.items(), key=lambda item: -item[1])[:5]


def test_import_loads_neither_readers_nor_heavy_packages() -> None:
    program = f"import sys, {NAME}; print(*(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    unwanted = HEAVY | {f"{NAME}.viz", f"{NAME}.bptt", f"{NAME}.cli"}
    assert sorted(m for m in loaded if m in unwanted or m.partition(".")[0] in HEAVY) == []


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_is_skipped_silently(path: Path) -> None:
    assert silent_skips(path.read_text(encoding="utf-8"), path.name) == []


# ---- The checks catch what they are for -----------------------------------------------------------------------------------------------


KNOWN = [f"{NAME}.{module}" for module in "errors graph ops ops.linalg tensor interop nn nn.functional viz bptt".split()]


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [
        ("from .tensor import Tensor", "graph", False),
        ("from . import ops", "graph", False),
        ("from ..tensor import Tensor", "ops.linalg", False),
        ("from ..tensor import Tensor", "ops", True),
        ("import tinygrad_seq.tensor", "errors", False),
        ("from tinygrad_seq import tensor", "errors", False),
        ("import tinygrad_seq", "tensor", False),
        ("from .nn import functional", "tensor", False),
        ("def f():\n    from .viz import draw", "tensor", False),
        ("from .interop import call_ufunc", "tensor", False),
        ("from .. import linear", "nn.functional.cells", False),
        ("from .bptt import ledger", "training", False),
        ("from .nn import Module", "bptt", False),
        ("x = 1", "attic", False),
    ],
)
def test_a_wrong_import_is_found(source: str, module: str, package: bool) -> None:
    assert against_the_arrows(source, f"{NAME}.{module}", KNOWN, package)


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [
        ("from . import errors", "graph", False),
        ("import numpy as np", "errors", False),
        ("from ..primitives import primitive", "ops.linalg", False),
        ("from .linalg import matmul", "ops", True),
        ("def f():\n    from .interop import call_ufunc", "tensor", False),
        ("from .functional import softmax", "nn.linear", False),
        ("from ..nn.functional import softmax", "bptt.ledger", False),
        ("from .. import bptt", "viz.draw", False),
    ],
)
def test_a_right_import_passes(source: str, module: str, package: bool) -> None:
    assert against_the_arrows(source, f"{NAME}.{module}", KNOWN, package) == []


def test_readers_imported_at_once_are_found() -> None:
    assert against_the_arrows("from .viz import draw", NAME, KNOWN, package=True)
    for lazily in ("def __getattr__(name):", "if TYPE_CHECKING:"):
        assert against_the_arrows(f"{lazily}\n    from .viz import draw", NAME, KNOWN, package=True) == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import cupy", "ops.linalg"),
        ("def f():\n    import cupyx.scipy.special", "ops.linalg"),
        ("import cupy", "backend"),
        ("from scipy.special import erf", "ops.elementwise"),
        ("class A:\n    import tqdm", "training"),
        ("def f():\n    import torch", "testing"),
    ],
)
def test_a_heavy_import_is_found(source: str, module: str) -> None:
    assert foreign_imports(source, f"{NAME}.{module}")


def test_lazy_imports_pass() -> None:
    assert foreign_imports("def f():\n    import cupy\n    import scipy.special", f"{NAME}.backend") == []


@pytest.mark.parametrize(
    "source",
    [
        "defvjp(tanh, lambda g, y, x: g * np.cosh(x))",
        "defvjp(tanh, None, lambda g, y, x: g * numpy.cosh(x))",
        "def row(g, y, x):\n    return np.sum(g)\n\ndefvjp(f, row)",
        "@backward_of(stack)\ndef _(g, y, *xs):\n    return [np.take(g, i) for i in range(3)]",
        "class Slice(Deferred):\n    @staticmethod\n    def sum_of(parts, like):\n        return np.zeros(3)",
    ],
)
def test_numpy_in_a_rule_is_found(source: str) -> None:
    assert numpy_in_rules(source, "planted")


def test_numpy_in_a_formula_passes() -> None:
    formula = "@elementwise\ndef tanh(x):\n    return np.tanh(x)\n\n"
    assert numpy_in_rules(formula + "defvjp(tanh, lambda g, y, x: g * (1 - tanh(x) * y))", "planted") == []


def test_code_lines_count_code_alone() -> None:
    source = '"""Of three\n\nlines."""\n\n# why\ndef f(x):\n    """What."""\n    return (\n        x  # what\n    )\n\n\ntext = """a\nb"""\n'
    assert code_lines(source) == 6
    assert code_lines("# fmt: off\nx = 1\n# fmt: on\ny = 2\n") == 1


@pytest.mark.parametrize(
    "source",
    ["def f(): ...", "async def f(): ...", "class A:\n    pass", 'class A:\n    """A."""\n\n    def f(self): ...'],
)
def test_a_missing_docstring_is_found(source: str) -> None:
    assert undocumented(source, "planted")


def test_documented_and_private_names_pass() -> None:
    source = 'class A:\n    """A."""\n\n    def sum(self): return ops.sum(self)\n    def _f(self): ...\n\ndef _g(): ...'
    assert undocumented(source, "planted") == []


@pytest.mark.parametrize("source", ["import pickle", "def f():\n    from shelve import open", "x = np.load(path)"])
def test_code_out_of_data_is_found(source: str) -> None:
    assert code_out_of_data(source, "planted")


def test_a_star_import_is_found() -> None:
    assert star_imports("from numpy import *", "planted")


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip\ndef test(): ...",
        "@pytest.mark.skip()\ndef test(): ...",
        "@pytest.mark.skipif(True)\ndef test(): ...",
        "@pytest.mark.skipif(True, reason='')\ndef test(): ...",
        "@pytest.mark.xfail(reason='later')\ndef test(): ...",
        "def test():\n    pytest.skip()",
        "pytest.importorskip('torch', reason='')",
    ],
)
def test_a_silent_skip_is_found(source: str) -> None:
    assert silent_skips(source, "planted")


def test_a_skip_with_its_reason_passes() -> None:
    reasons = "pytest.importorskip('torch')\npytest.skip('no device')\n"
    assert silent_skips(reasons + "@pytest.mark.skipif(True, reason='no device')\ndef test(): ...", "planted") == []
