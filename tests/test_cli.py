"""The command line: what it draws, prints and writes, what it says of mistakes, and with which code it leaves."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import backend, cli
from tinygrad_seq.cli import doctor
from tinygrad_seq.cli.networks import recorded
from tinygrad_seq.cli.options import NAMES
from tinygrad_seq.errors import DeviceError, MissingDependencyError

SIZES = {"steps": 3, "layers": 1, "inputs": 2, "hidden": 3, "batch": 2, "seed": 0, "loss": "every"}
MODEL = """
import numpy as np
import tinygrad_seq as tg

W = tg.tensor(np.eye(3) * 0.5, requires_grad=True)
V = tg.tensor(np.ones((2, 3)), requires_grad=True)
W.name, V.name = "W_h", "W_x"

def losses(T=3):
    h, found = tg.zeros((1, 3)), []
    for x in tg.steps(np.ones((T, 1, 2))):
        h = tg.tanh(h @ W + x @ V)
        found.append((h**2).mean())
    return found

def loss():
    return sum(losses())

def by_name():
    return {"L": loss()}

def single():
    return (W**2).sum()

def needs(first, second=1): ...
def nothing(): ...
def constant(): return tg.zeros(3)
def arrays(): return [np.zeros(3)]
def states(): return tg.stack(losses())
def fails(): return tg.tanh(W @ np.ones((4, 4)))
already = loss()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the command is called: a folder with a model in it."""
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "torn.py").write_text("x = 1 / 0\n")
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    (tmp_path / "garbled.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "torn", "needy", "garbled"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("mine", "torn", "needy", "garbled"):
        sys.modules.pop(name, None)


@pytest.fixture
def figures():
    """What writes figures is there."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'tinygrad_seq[viz]'")


def told(capsys: Any, *arguments: str) -> str:
    """What a command that fails with code 1 says on stderr."""
    assert cli.main(list(arguments)) == 1
    return capsys.readouterr().err


# ---- Networks --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["every", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_network_has_losses_and_a_weight_to_look_at(name: str, loss: str) -> None:
    graph = recorded(name, SIZES, {"loss": loss})
    assert len(graph.outputs) == (3 if loss == "every" else 1)
    led = tg.bptt.ledger(graph.loss, graph.weight_called(None), losses=graph.losses)
    assert [t for t in led.steps if t is not None] == [1, 2, 3] and led.check() < 1e-12
    assert len(tg.bptt.flow(graph.loss)) >= 1


def test_the_loss_of_every_step_ends_in_the_loss_of_the_last() -> None:
    for name in NAMES:
        every, last = (recorded(name, SIZES, {"loss": loss}) for loss in ("every", "last"))
        assert every.outputs[-1].item() == pytest.approx(last.loss.item(), rel=1e-12)
        assert every.loss.item() == pytest.approx(sum(value.item() for value in every.outputs), rel=1e-12)


# ---- draw ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_draw_writes_what_tg_draw_draws(name: str, capsys: Any) -> None:
    assert cli.main(["draw", name, "--steps", "2", "--hidden", "3", "-o", "-"]) == 0
    shown = capsys.readouterr().out
    graph = recorded(name, {**SIZES, "inputs": 3}, {"steps": 2})
    assert shown == tg.draw(graph.loss, level="cells").dot


def test_the_options_of_draw_reach_the_picture(capsys: Any) -> None:
    def dot(*arguments: str) -> str:
        assert cli.main(["draw", "lstm", *arguments, "-o", "-"]) == 0
        return capsys.readouterr().out

    plain = dot()
    changed = {
        arguments: dot(*arguments.split())
        for arguments in (
            "--steps 3", "--layers 2", "--hidden 5 --values", "--shapes", "--dtypes", "--values", "--gradients", "--gates", "--level ops",
            "--level folded", "--light weight_hh_l0", "--sensitivity 1", "--truncate 2", "--truncate 1,2", "--loss last", "--title hello",
            "--open LSTM", "--batch 3 --values", "--seed 1 --values",
        )
    }  # fmt: skip
    assert plain not in changed.values() and len(set(changed.values())) == len(changed)
    assert "hello" in changed["--title hello"] and "float64" in changed["--dtypes"]
    assert dot("--steps", "30") != dot("--steps", "30", "--full")


def test_draw_names_its_file_after_the_network_and_tells_it(folder: Path, capsys: Any) -> None:
    assert cli.main(["draw", "rnn"]) == 0
    assert capsys.readouterr().out.startswith("rnn.svg: <Drawing of ")
    assert (folder / "rnn.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert cli.main(["draw", "rnn", "--out", "a.dot"]) == 0
    assert (folder / "a.dot").read_text(encoding="utf-8").startswith("digraph")


@pytest.mark.parametrize("target", ["mine:loss", "mine.py:loss", "mine:by_name", "mine:already", "mine:losses"])
def test_draw_draws_a_function_of_ones_own(target: str, folder: Path, capsys: Any) -> None:
    assert cli.main(["draw", target, "-o", "own.dot"]) == 0
    text = (folder / "own.dot").read_text(encoding="utf-8")
    assert text.count('"t = ') >= 3 or len(re.findall(r"t = [123]", text)) >= 3
    assert "in 3 steps" in capsys.readouterr().out


def test_several_tensors_that_are_no_losses_are_drawn_as_they_are(folder: Path, capsys: Any) -> None:
    (folder / "mine.py").write_text(MODEL + "\ndef pair(): return (W @ W, tg.tanh(V))\n")
    assert cli.main(["draw", "mine:pair", "-o", "-"]) == 0
    shown = capsys.readouterr().out
    assert "tanh" in shown and "@" in shown


MISTAKES = {
    "mine:lossy": r"mine has no 'lossy'.*one of its functions: losses, loss.*do: +mine:loss",
    "mine:needs": r"the function wants first\n.*without arguments.*def for_drawing\(\): return needs\(\.\.\.\)",
    "mine:nothing": r"mine:nothing: it returned nothing\n.*a Tensor, or a list.*return loss",
    "mine:arrays": r"it returned a list with a ndarray",
    "mine:constant": r"it returned constants: nothing was recorded.*requires_grad=True",
    "mine:": r"'mine:' names no function.*module:function",
    ":loss": r"':loss' names no function",
    "nowhere:f": r"there is no module 'nowhere'.*nowhere\.py in .*path/to/nowhere\.py:f",
    "no.where:f": r"there is no module 'no\.where'.*no/where\.py",
    "nowhere.py:f": r"there is no file nowhere\.py.*the folder is",
    "torn:f": r'File ".*torn\.py", line 1.*ZeroDivisionError.*torn:f cannot be imported: ZeroDivisionError.*the lines above say where',
    "needy:f": r"No module named 'no_such_package'.*needy:f cannot be imported: ModuleNotFoundError",
    "garbled.py:f": r"SyntaxError.*garbled\.py:f cannot be imported: SyntaxError",
    "mine:fails": r'mine\.py", line \d+, in fails.*matmul: the inner sizes differ.*mine:fails failed: ShapeError',
}


@pytest.mark.parametrize("target", MISTAKES)
def test_a_mistake_in_ones_own_network_is_told(target: str, folder: Path, capsys: Any) -> None:
    error = told(capsys, "draw", target)
    assert re.search(MISTAKES[target], error, re.DOTALL), error
    assert os.path.join("cli", "own.py") not in error and "importlib" not in error, "the frames are the user's"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["draw", "mine:loss", "--steps", "3"], r"--steps is for the networks that are built in.*leave it out"),
        (["draw", "rnn", "--light", "W"], r"no weight called 'W'.*rnn\.weight_hh_l0.*--light rnn\.weight_ih_l0"),
        (["draw", "rnn", "--gates"], r"no gates in this graph"),
        (["draw", "rnn", "-o", "a.gif"], r"'a\.gif' names no format.*\.svg, \.png, \.pdf or \.dot"),
        (["draw", "rnn", "-o", os.path.join("no", "a.svg")], r"a\.svg: No such file or directory\n  do: make its folder"),
        (["ledger", "mine:losses"], r"which weight\?.*one of W_h, W_x.*--weight W_h"),
        (["ledger", "mine:losses", "--weight", "Q"], r"no weight called 'Q'"),
        (["ledger", "mine:states", "--weight", "W_h"], r"it returned \(3,\).*a loss, which is a scalar"),
        (["flow", "mine:single"], r"flow"),
    ],
)
def test_what_cannot_be_done_leaves_with_code_1_and_a_reason(arguments: list[str], words: str, folder: Path, capsys: Any) -> None:
    error = told(capsys, *arguments)
    assert re.search(words, error, re.DOTALL) and error.lstrip().startswith("tinygrad-seq: "), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["draw"], "required: NETWORK"),
        (["draw", "lstmm"], "'lstmm' is no network; did you mean 'lstm'?"),
        (["draw", "transformer"], "there are rnn, rnn-relu, lstm"),
        (["draw", "lstm", "--steps", "0"], "'0' is no number such as 1, 2, 3"),
        (["draw", "lstm", "--truncate", "1,2,3"], "or two such as 2,4"),
        (["draw", "lstm", "--level", "deep"], "invalid choice: 'deep'"),
        (["flow"], "required: NETWORK"),
        (["ledger", "lstm", "--loss", "some"], "invalid choice: 'some'"),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
)
def test_wrong_arguments_leave_with_code_2(arguments: list[str], words: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.startswith("usage: tinygrad-seq") and words in error


@pytest.mark.parametrize("command", ["draw", "ledger", "flow", "doctor"])
def test_help_is_short_and_its_examples_run(command: str, folder: Path, figures: None, capsys: Any) -> None:
    (folder / "model.py").write_text(MODEL)
    sys.modules.pop("model", None)
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and shown.count("\n") < 75
    examples = re.findall(rf"^  tinygrad-seq ({command}.*)$", shown, re.M)
    assert examples
    for example in examples:
        if command != "doctor":
            assert cli.main(example.split()) == 0, example
            out = re.search(r"-o (\S+)", example)
            assert out is None or (folder / out[1]).stat().st_size > 100
    sys.modules.pop("model", None)


def test_the_commands_of_the_readme_run(folder: Path, figures: None, capsys: Any) -> None:
    (folder / "model.py").write_text(MODEL)
    sys.modules.pop("model", None)
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", readme.partition("## Look inside")[2].partition("\n## ")[0], re.DOTALL)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert {command[1] for command in commands} == {"draw", "ledger", "flow", "doctor"}
    for program, *arguments in commands:
        assert program == "tinygrad-seq"
        code = cli.main(arguments)
        assert code == int("BROKEN" in capsys.readouterr().out)
        if "-o" in arguments:
            assert (folder / arguments[arguments.index("-o") + 1]).stat().st_size > 1000
    sys.modules.pop("model", None)


# ---- ledger, flow ----------------------------------------------------------------------------------------------------------------------


def test_ledger_prints_the_table_and_the_formula_and_writes_what_the_ending_says(folder: Path, capsys: Any) -> None:
    graph = recorded("gru", SIZES, {})
    led = tg.bptt.ledger(graph.loss, graph.weight_called(None), losses=graph.losses)
    sizes = [f"--{name}={SIZES[name]}" for name in ("steps", "inputs", "hidden", "batch")]
    assert cli.main(["ledger", "gru", *sizes, "--formula", "-o", "a.tex"]) == 0
    assert capsys.readouterr().out == f"{led.table()}\n\n{led.text()}\n\na.tex\n"
    assert (folder / "a.tex").read_text(encoding="utf-8") == led.latex() + "\n"
    assert cli.main(["ledger", "gru", *sizes, "-o", "a.txt"]) == 0
    assert (folder / "a.txt").read_text(encoding="utf-8") == led.table() + "\n"


def test_ledger_of_ones_own_losses_is_split_by_them(folder: Path, capsys: Any) -> None:
    assert cli.main(["ledger", "mine:losses", "--weight", "W_h"]) == 0
    assert "Row t: the loss of step t" in capsys.readouterr().out
    assert cli.main(["ledger", "mine:single"]) == 0, "the only weight needs no name"
    assert "the terms of 1 use" in capsys.readouterr().out


def test_flow_compares_networks_and_functions(folder: Path, figures: None, capsys: Any) -> None:
    assert cli.main(["flow", "rnn", "mine:loss", "--steps", "5", "-o", "a.png"]) == 0
    shown = capsys.readouterr().out
    defaults = {**SIZES, "steps": 5, "inputs": 3, "hidden": 16, "loss": "last"}
    for name in ("rnn", "mine:loss"):
        assert f"{name}: {tg.bptt.flow(recorded(name, defaults, {}).loss).table()}" in shown
    assert shown.endswith("\n\na.png\n") and (folder / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_printed_before_a_figure_that_cannot_be_written(folder: Path, figures: None, capsys: Any) -> None:
    assert cli.main(["ledger", "rnn", "-o", "a.gif"]) == 1
    shown = capsys.readouterr()
    assert "Row t: the loss of step t" in shown.out and "'a.gif' names no format of a plot" in shown.err


def test_a_pipe_that_closes_early_loses_no_file(folder: Path) -> None:
    command = [sys.executable, "-m", "tinygrad_seq.cli", "ledger", "rnn", "--loss", "last", "-o", "a.txt"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert "the terms of 4 uses" in (folder / "a.txt").read_text(encoding="utf-8")


def test_without_matplotlib_the_table_is_printed_and_the_error_says_what_to_install(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"] or ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["ledger", "rnn", "-o", "a.png"]) == 1
    shown = capsys.readouterr()
    assert "Row t: the loss of step t" in shown.out and "pip install 'tinygrad_seq[viz]'" in shown.err


# ---- doctor ----------------------------------------------------------------------------------------------------------------------------


def finding(what: str) -> doctor.Finding:
    return next(found for found in doctor.findings() if found.what == what)


def test_doctor_tells_the_versions_that_are_installed(capsys: Any) -> None:
    code = cli.main(["doctor"])
    shown = capsys.readouterr().out
    for name in doctor.NEEDED:
        assert re.search(rf"^ok +{name} +{re.escape(metadata.version(name))}$", shown, re.M)
    assert re.search(rf"^ok +tinygrad_seq +{tg.__version__}, ", shown, re.M)
    assert code == int("BROKEN" in shown)
    assert ("Everything that is needed works." in shown) == (code == 0)


def test_doctor_tells_the_kernels_of_the_matrix_products() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="compares with threadpoolctl")
    (blas,) = [lib for lib in threadpoolctl.threadpool_info() if "numpy.libs" in lib["filepath"]] or [None]
    if blas is None:
        pytest.skip("NumPy brought no OpenBLAS of its own")
    assert doctor.openblas(Path(np.__file__).parent) == (blas["architecture"], blas["num_threads"])


def test_doctor_of_a_numpy_without_openblas_tells_how_it_was_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.openblas(tmp_path) == (None, 0)
    monkeypatch.setattr(doctor, "openblas", lambda _: (None, 0))
    assert "as NumPy was built" in finding("BLAS").told
    monkeypatch.setattr(doctor, "openblas", lambda _: ("Haswell", 8))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert "kernels Haswell, 8 threads" in finding("BLAS").told and "OPENBLAS_NUM_THREADS=1" in finding("BLAS").do


@pytest.mark.parametrize(
    ("name", "raised", "state", "words"),
    [
        ("numba", ModuleNotFoundError("No module named 'numba'", name="numba"), doctor.ABSENT, "pip install 'tinygrad_seq[fast]'"),
        ("numba", ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite"), doctor.BROKEN, "pip install llvmlite"),
        ("numba", ImportError("Numba needs NumPy 2.3 or less"), doctor.BROKEN, "pip install --force-reinstall numba"),
        ("matplotlib", ModuleNotFoundError("no", name="matplotlib"), doctor.ABSENT, "pip install 'tinygrad_seq[viz]'"),
        ("scipy", ModuleNotFoundError("no", name="scipy"), doctor.BROKEN, "pip install --upgrade tinygrad_seq"),
    ],
)
def test_doctor_says_what_to_do_about_a_package(
    name: str, raised: Exception, state: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = importlib.import_module

    def import_module(wanted: str, *rest: Any) -> ModuleType:
        if wanted == name:
            raise raised
        return real(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)
    found = finding(name)
    assert found.state == state and words in found.do
    monkeypatch.setattr(doctor, "findings", lambda: iter([found]))
    assert cli.main(["doctor"]) == int(state == doctor.BROKEN)
    shown = capsys.readouterr().out
    assert f"do: {found.do}" in shown and (f"not there: {name}." in shown or f"Does not work: {name}." in shown)


def test_doctor_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(doctor, "version", lambda name: None)
    found = finding("dot")
    assert found.state == doctor.ABSENT and "nothing draws" in found.told and "apt install graphviz" in found.do
    monkeypatch.setattr(doctor, "version", lambda name: "2.0")
    found = finding("dot")
    assert found.state == doctor.ABSENT and "pygraphviz draws in its place" in found.told and not found.do


def test_doctor_tries_graphviz(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'dot - graphviz version 9.9' >&2\nexit 3\n")
    program.chmod(0o755)
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = finding("dot")
    assert found.state == doctor.BROKEN and "graphviz version 9.9" in found.told and "dot -c" in found.do


class Devices:
    """The few things of CuPy that the doctor asks for, by NumPy."""

    def __init__(self) -> None:
        self.cuda = self.runtime = self

    ones, tanh = staticmethod(np.ones), staticmethod(np.tanh)

    def getDeviceCount(self) -> int:
        return 2

    def getDeviceProperties(self, k: int) -> dict[str, bytes]:
        return {"name": b"NVIDIA H%d" % k}

    def runtimeGetVersion(self) -> int:
        return 13010


@pytest.mark.parametrize(
    ("loaded", "driver", "state", "words"),
    [
        (Devices(), True, doctor.OK, "CUDA 13: cuda:0 NVIDIA H0, cuda:1 NVIDIA H1"),
        (DeviceError("device 'cuda': CuPy is installed but finds no device"), False, doctor.ABSENT, "all runs on the CPU"),
        (DeviceError("device 'cuda': CuPy is installed but finds no device"), True, doctor.BROKEN, "CUDA_VISIBLE_DEVICES"),
        (MissingDependencyError("device 'cuda': CuPy cannot be imported: libnvrtc"), True, doctor.BROKEN, "libnvrtc"),
    ],
)
def test_doctor_looks_for_a_gpu(loaded: Any, driver: bool, state: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def module_of_device(name: str) -> Any:
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(backend, "module_of_device", module_of_device)
    monkeypatch.setattr(doctor, "version", lambda name: "14.0" if "cupy" in name else None)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver and name == "nvidia-smi" else None)
    found = doctor._cupy()
    assert found.state == state and words in found.told + found.do


@pytest.mark.parametrize("driver", [True, False])
def test_doctor_without_cupy_advises_it_only_where_there_is_a_driver(driver: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    found = doctor._cupy()
    assert found.state == doctor.ABSENT and ("[cuda13]" in found.do) == driver


def test_the_command_line_imports_nothing_heavy_before_it_is_asked() -> None:
    program = "import sys, tinygrad_seq.cli as c; c._parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "matplotlib",
        "scipy",
        "pygraphviz",
        "numba",
        "cupy",
        "tinygrad_seq.nn",
        "tinygrad_seq.viz",
        "tinygrad_seq.bptt",
        "tinygrad_seq.plot",
    }
    assert heavy.isdisjoint(loaded)
