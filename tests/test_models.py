"""What all systems in models/ share: experiments and their command line, the table of all of them, and the rules of the house."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import killing
import numpy as np
import pytest

from models import __main__ as command
from models import experiment as shared
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment, perform
from tinygrad_seq import errors, nn, optim
from tinygrad_seq.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("__init__", "__main__", "command_line", "experiment", "digits", "dates")
SYSTEMS = sorted(path.stem for path in (ROOT / "models").glob("*.py") if path.stem not in SHARED)
each_system = pytest.mark.parametrize("name", SYSTEMS)


# ---- Two experiments that take no time ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Settings of every kind."""

    steps: int = 20
    rate: float = 0.1
    name: str = "line"
    noisy: bool = True
    sizes: tuple[int, ...] = (1, 2)


@experiment("T1", "A line by fit", rows="A1", quick=Line(steps=10), full=Line(), seconds=(0, 0))
def fitted(run: Run, config: Line) -> None:
    """y = 2 x."""
    model = nn.Linear(1, 1, rng=run.rng("model"))

    def drawn(rng):
        xs = rng.normal(size=(4, 1)).astype("float32")
        return xs, 2 * xs

    history = run.fit(
        "line", model, loss, optim.Adam(model.parameters(), lr=config.rate), Drawn(drawn, run.rng("xs")), steps=config.steps
    )
    run.result("loss", history.losses[-1], at_most=1e3, quick=1e4)
    run.result("baseline", 1.0)
    run.note("it is a line")
    run.write("line.txt", "y = 2 x")


@experiment("T2b", "A line by loop", rows="A1, A2", quick=Line(steps=10), full=Line(), seconds=(0, 0))
def looped(run: Run, config: Line) -> None:
    """The same, every step written out; dropout draws from the default generator."""
    rng, model = run.rng("model"), nn.Linear(1, 1, rng=run.rng("model"))
    adam = optim.Adam(model.parameters(), lr=config.rate)

    def step(n):
        xs = rng.normal(size=(4, 1)).astype("float32")
        adam.zero_grad()
        value = loss(model, (F.dropout(xs, 0.5), 2 * xs))
        value.backward()
        adam.step()
        return {"loss": value.item(), **({"even": n} if n % 2 == 0 else {})}

    rows = run.loop("line", step, steps=config.steps, model=model, adam=adam, rng=rng)
    assert len(rows) == config.steps
    run.result("loss", rows[-1]["loss"], at_most=-1.0, quick=False)
    run.result("last even", rows[-2]["even"])


def loss(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def main(argv):
    return run_experiments("Two lines.", [fitted, looped], argv)


# ---- Results ------------------------------------------------------------------------------------------------------------------------------


def test_results_have_bounds_and_say_whether_they_are_within() -> None:
    run = Run()
    run.result("a", 0.5, at_least=0.5)
    run.result("b", 0.4, at_least=0.5)
    run.result("c", 2, at_least=1, at_most=3)
    run.result("d", float("nan"), at_most=3)
    run.result("e", float("nan"))
    assert [r.met for r in run.results] == [True, False, True, False, True]
    assert [r.acceptance for r in run.results] == ["≥ 0.5", "≥ 0.5", "1 … 3", "≤ 3", ""]
    assert shared.Result("", 1.0, 1.0, 1.0).acceptance == "= 1"


def test_the_quick_setting_may_have_another_bound_or_none() -> None:
    for quick, expected in ((True, ["≤ 2", "≥ 1", ""]), (False, ["≤ 1", "≥ 1", "≤ 1"])):
        run = Run(quick=quick)
        run.result("a", 0, at_most=1, quick=2)
        run.result("b", 0, at_least=1)
        run.result("c", 0, at_most=1, quick=False)
        assert [r.acceptance for r in run.results] == expected


@pytest.mark.parametrize(
    ("x", "text"), [(3.0, "3"), (0.123456, "0.1235"), (float("inf"), "inf"), (float("nan"), "nan"), (1e9, "1e+09")]
)
def test_figures_are_short(x: float, text: str) -> None:
    assert shared.figure(x) == text


def test_a_report_is_asked_by_name_and_written_down(tmp_path: Path) -> None:
    report = perform(fitted, out=tmp_path)
    assert report["baseline"] == 1 and report.met
    with pytest.raises(KeyError, match="no result 'x'; there are 'loss', 'baseline'"):
        report["x"]
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["task"] == "T1" and written["setting"] == "quick" and written["notes"] == ["it is a line"]
    assert [row["what"] for row in written["results"]] == ["loss", "baseline"]
    assert (tmp_path / "line.txt").read_text() == "y = 2 x"
    table = shared.results_table([written])
    assert table.splitlines()[3].split("|")[2].strip() == "baseline" and table.endswith("- T1: it is a line")


def test_bars_in_cells_do_not_cut_the_table() -> None:
    assert shared.table(["|λ|"], [["a"]]).splitlines()[0].replace("\\|", "").count("|") == 2


# ---- Randomness, and going on -------------------------------------------------------------------------------------------------------------


def test_every_part_draws_from_a_generator_of_its_own() -> None:
    run, again, other = Run(3), Run(3), Run(4)
    first = run.rng("a").random(4)
    run.rng("b").random(100)
    np.testing.assert_array_equal(first, again.rng("a").random(4))
    for rng in (run.rng("b"), other.rng("a")):
        assert not np.array_equal(first, rng.random(4))


def test_drawn_batches_go_on_where_they_were() -> None:
    def make(seed):
        return Drawn(lambda rng: rng.random(3), np.random.default_rng(seed))

    batches, other = make(0), make(1)
    iterator = iter(batches)
    next(iterator)
    state = batches.state_dict()
    expected = next(iterator)
    other.load_state_dict(state)
    np.testing.assert_array_equal(next(iter(other)), expected)


@pytest.mark.parametrize("kind", [fitted, looped], ids=["fit", "loop"])
def test_killed_and_resumed_it_goes_on_to_the_same_bits(kind: Experiment, tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(kind, Line(steps=20), tmp_path)


def test_a_run_does_not_go_on_from_another_one(tmp_path: Path) -> None:
    perform(fitted, Line(), out=tmp_path)
    before = (tmp_path / "line.safetensors").read_bytes()
    for config, seed in ((Line(rate=0.5), 0), (Line(), 1)):
        with pytest.raises(errors.ArgumentError, match="holds another run") as error:
            perform(fitted, config, seed=seed, out=tmp_path, resume=True)
        assert "do:  the same seed and settings as then" in str(error.value)
    assert (tmp_path / "line.safetensors").read_bytes() == before


def test_beginning_anew_leaves_nothing_of_an_earlier_run_to_go_on_from(tmp_path: Path) -> None:
    """Killed in its first part, it must not find the second one of the run before."""
    perform(fitted, Line(), seed=5, out=tmp_path)

    @experiment("T1", "", rows="", quick=Line(), full=Line(), seconds=(0, 0))
    def killed(run, config):
        raise killing.Killed

    with pytest.raises(killing.Killed):
        perform(killed, Line(), out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.txt", "settings.json"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("kind", [fitted, looped], ids=["fit", "loop"])
def test_ctrl_c_ends_it_after_the_step_at_hand_saved_and_says_how_to_go_on(kind, tmp_path, monkeypatch, capsys) -> None:
    whole = perform(kind, dataclasses.replace(kind.full, steps=200), out=tmp_path / "whole", quick=False)
    steps = 0

    def counted(model, batch, loss=loss):
        nonlocal steps
        steps += 1
        if steps == 33:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(model, batch)

    monkeypatch.setattr(sys.modules[__name__], "loss", counted)
    command = ["--only", kind.task, "--silent", "--set", "steps=200", "--out", str(tmp_path / "my runs")]
    assert main(command) == 130
    assert f"{kind.task}: stopped. To go on:  python -m test_models --only {kind.task} --silent" in (
        said := capsys.readouterr().err
    )
    assert said.strip().endswith(f"--out '{tmp_path / 'my runs'}' --resume")
    assert steps == 33
    main([*command, "--resume"])
    assert steps == 200
    folder = next((tmp_path / "my runs").glob(f"*/{kind.name}"))
    found = json.loads((folder / "results.json").read_text())
    assert [row["value"] for row in found["results"]] == [r.value for r in whole.results]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_system_that_is_killed_by_the_operating_system_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def start(folder, *more):
        line = [sys.executable, *"-m models.rnn --only T1 --silent --set steps=300".split(), "--out", str(folder), *more]
        return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole")
    output, said = whole.communicate(timeout=300)
    assert whole.returncode in (0, 1), said
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "rnn" / "addition").glob("*.safetensors")}
    folder = tmp_path / "killed" / "rnn" / "addition"
    for n, name in enumerate(sorted(files, reverse=True)):  # once in each training
        process = start(tmp_path / "killed", *(["--resume"] if n else []))
        while not (folder / name).exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
        assert not (folder / "results.json").exists()
    again = start(tmp_path / "killed", "--resume")
    assert again.communicate(timeout=300)[0] == output
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == files


# ---- The command line of a system ---------------------------------------------------------------------------------------------------------


def test_a_system_runs_prints_its_table_and_says_whether_all_was_reached(tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path), "--silent"]
    assert main(["--only", "T1", *out]) == 0
    assert main(["--only", " t2B ,T1", *out]) == 1
    assert main(["--quick", *out]) == 0
    table = capsys.readouterr().out
    assert "| T2b  | loss" in table and "| NO      |" in table and "it is a line" in table
    assert main(["--quick", "--only", "T1", "--set", "rate=0.5", "--set", "noisy=no", "--set", "name=x", *out]) == 0
    (settings,) = tmp_path.glob("*/fitted/settings.json")
    assert json.loads(settings.read_text())["config"] == "Line(steps=10, rate=0.5, name='x', noisy=False, sizes=(1, 2))"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--only", "T3"], "--only T3: no experiment T3; there are T1, T2b"),
        (["--only", ","], "--only ,: no experiment ','; there are T1, T2b"),
        (["--set", "steps=0"], "T1 with --set steps=0: fit: steps = 0"),
        (["--set", "step=3"], "--set step=3: expected NAME=VALUE with one of name, noisy, rate, sizes, steps"),
        (["--set", "steps"], "--set steps: expected NAME=VALUE with one of"),
        (["--set", "steps=many"], "--set steps=many: expected a whole number like 20"),
        (["--set", "rate=fast"], "--set rate=fast: expected a number like 0.1"),
        (["--set", "noisy=perhaps"], "--set noisy=perhaps: expected yes or no"),
        (["--set", "sizes=3"], "--set sizes=3: (1, 2) is changed in the file, not from the command line"),
        (["--seed", "-1"], "'-1' is no seed; expected a whole number from 0 on"),
        (["--quick", "--full"], "not allowed with argument"),
        (["--out", str(Path(__file__) / "x")], "expected a folder that can be written"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_what_cannot_be_asked_for_is_said_in_a_line(argv: list[str], says: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*argv])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_going_on_from_another_run_is_said_in_words(tmp_path: Path, capsys) -> None:
    main(["--only", "T1", "--silent", "--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["--only", "T1", "--silent", "--full", "--resume", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert "expected:  setting quick, config Line(steps=10" in said and "got:  setting full, config Line(steps=20" in said


def test_a_damaged_checkpoint_is_said_with_what_to_do(tmp_path: Path, capsys) -> None:
    argv = ["--only", "T1", "--silent", "--quick", "--out", str(tmp_path)]
    assert main(argv) == 0
    (checkpoint,) = tmp_path.glob("*/fitted/line.safetensors")
    checkpoint.write_text("no checkpoint")
    with pytest.raises(SystemExit) as stopped:
        main([*argv, "--resume"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "T1 with --resume: load: " in said and "or:  begin anew, without --resume" in said


def test_help_names_experiments_settings_and_exit_status(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for text in ("Two lines.", "T2b   A line by loop", "steps=20 (10)  rate=0.1", "130 after Ctrl-C"):
        assert text in said


def test_a_missing_package_is_said_and_the_other_experiments_run(tmp_path: Path, capsys) -> None:
    @experiment("T9", "", rows="", quick=Line(), full=Line(), seconds=(0, 0))
    def needing(run, config):
        shared.needed("no_such_module", "no-such-package", "music")

    assert run_experiments("", [needing, fitted], ["--silent", "--out", str(tmp_path)]) == 2
    found = capsys.readouterr()
    assert "| T1   | loss" in found.out
    assert found.err.splitlines() == [
        "T9: no_such_module is not installed",
        "  expected:  the package no-such-package, whose data this experiment uses",
        '  do:  pip install -e ".[music]"',
    ]


def test_every_package_that_experiments_ask_for_stands_in_the_extra_that_they_name() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [
        found
        for path in (ROOT / "models").glob("*.py")
        for found in re.findall(r"needed\((.+?)\)", path.read_text(encoding="utf-8"))
    ]
    asked = [re.findall(r'f?"([^"]+)"', found) for found in asked]
    asked = [(package, *extra) for _, package, *extra in (found for found in asked if len(found) > 1) if " of " not in package]
    assert len(asked) > 10
    for package, *extra in asked:
        (name,) = extra or ["models"]
        assert any(re.match(rf"{package}\b", line) for line in extras[name]), f"{package}: not in the extra {name}"


def test_figures_are_saved_alike_and_left_out_where_nothing_draws_them(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install -e '.[viz]'")
    from matplotlib.figure import Figure

    def draw():
        figure = Figure()
        figure.subplots().plot([1, 2])
        return figure

    def missing():
        shared.needed("no_such_module", "x")

    run = Run(out=tmp_path, progress=True)
    run.figure("a.svg", draw)
    run.figure("b.svg", draw)
    run.figure("c.svg", missing)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert not (tmp_path / "c.svg").exists() and "no c.svg: no_such_module is not installed" in capsys.readouterr().err
    Run().figure("a.svg", lambda: 1 / 0)  # without a folder nothing is drawn


# ---- The table of all systems -------------------------------------------------------------------------------------------------------------


def test_the_list_names_every_system_with_its_command_in_the_order_of_the_tasks(capsys) -> None:
    assert command.main([]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert {row[3].split()[2].removeprefix("models.") for row in rows} == set(SYSTEMS)
    assert len(rows) == sum(len(kinds) for kinds in command.systems().values())
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=command._number)
    assert all(re.search(r"\d", row[2]) for row in rows)


def test_the_list_of_some_tasks_names_these_alone(capsys) -> None:
    assert command.main(["--only", "c1,T16,"]) == 0
    assert [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]] == ["T16", "C1"]


def test_tasks_are_ordered_as_one_reads_them() -> None:
    tasks = ["T1", "T2", "T7", "T7b", "T10", "T10b", "T25a", "A1", "E9", "E10", "J1-J7", "J6", "J11"]
    assert sorted(sorted(tasks), key=command._number) == tasks


def test_all_runs_what_there_is_reports_what_failed_and_ends_with_1(tmp_path: Path, monkeypatch, capsys) -> None:
    from models.stack import stack

    broken = stack._replace(task="T99")
    monkeypatch.setattr(command, "systems", lambda: {"stack": [stack], "nothing_there": [broken]})
    assert command.main(["all", "--quick", "--only", "E10", "--out", str(tmp_path), "--silent"]) == 0
    found = capsys.readouterr()
    assert (
        "1 of 1 reach what they had to reach" in found.out
        and f"samples and results: {tmp_path / 'quick'}" in found.out
        and found.err == ""
    )
    assert command.main(["all", "--quick", "--resume", "--out", str(tmp_path)]) == 1
    found = capsys.readouterr()
    assert re.search(r"- T99: did not run: .*No module named models.nothing_there", found.out) and "1 of 2 reach" in found.out
    assert "T99 seed 0: FAILED, exit status 1" in found.err and "[2/2]" in found.err
    assert "E10   seed 0: reached" in found.err  # not run again, but read


def test_the_table_of_seeds_has_a_column_for_each_and_says_where_a_bound_was_missed() -> None:
    def report(seed, value):
        return {"task": "T1", "seed": seed, "results": [
            {"what": "a", "value": value, "acceptance": "≥ 0.5", "met": value >= 0.5}, {"what": "b", "value": 1, "acceptance": "", "met": True},
        ]}  # fmt: skip

    lines = command.seeds_table([report(7, 0.25), report(3, 0.75)]).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])] == [
        ["task", "what", "to reach", "seed 3", "seed 7"],
        ["T1", "a", "≥ 0.5", "0.75", "0.25 NO"],
    ]


def test_the_core_is_run_on_seeds_that_nobody_picked_or_on_those_that_are_named(monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(command, "run_all", lambda wanted, seeds, options: asked.append((wanted, seeds)) or [])
    assert command.main(["seeds"]) == command.main(["seeds", "--seeds", "4,5", "--only", "t1"]) == 0
    (wanted, drawn), named = asked
    assert set(wanted) == set(command.CORE) & {kind.task for kinds in command.systems().values() for kind in kinds}
    assert len(set(drawn)) == 3 and named == (["T1"], [4, 5])
    capsys.readouterr()


@pytest.mark.parametrize(
    "argv", [["all", "--only", "T99"], ["seeds", "--seeds", "1,x"], ["all", "--jobs", "0"], ["some"]], ids=" ".join
)
def test_what_the_table_cannot_do_is_said(argv: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert (
        (stopped.value.code == 2 and "expected" in (said := capsys.readouterr().err))
        or "there are" in said
        or "choose from" in said
    )


# ---- The rules of the house ---------------------------------------------------------------------------------------------------------------


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / "models" / f"{name}.py").read_text(encoding="utf-8"))


def imports_of(tree: ast.AST) -> list[str]:
    """The full names of what is imported: "models.digits", "tinygrad_seq.nn.LSTM"."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports, so that a file can be moved"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@each_system
def test_a_system_says_its_tasks_and_sources_and_has_a_main(name: str) -> None:
    module = importlib.import_module(f"models.{name}")
    assert re.search(r"\b(19|20)\d\d\b", module.__doc__), "its docstring names its sources, with their years"
    assert module.EXPERIMENTS and callable(module.main)
    held = [x for x in vars(module).values() if isinstance(x, Experiment)]
    assert {id(kind) for kind in held} == {id(kind) for kind in module.EXPERIMENTS}, "EXPERIMENTS are all that it has"
    for kind in module.EXPERIMENTS:
        assert kind.task in module.__doc__, f"its docstring tells what {kind.task} asks"
        assert kind.function.__doc__ and kind.title and kind.rows
        assert type(kind.quick) is type(kind.full) and dataclasses.is_dataclass(kind.full)
        assert type(kind.full).__dataclass_params__.frozen
        assert 0 <= kind.seconds[0] <= 10 and kind.seconds[0] <= kind.seconds[1] <= 240
    assert len({kind.name for kind in module.EXPERIMENTS}) == len(module.EXPERIMENTS)
    last = tree_of(name).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"


@each_system
def test_a_system_stands_alone_on_public_names(name: str) -> None:
    tree = tree_of(name)
    for imported in imports_of(tree):
        package, _, rest = imported.partition(".")
        assert package != "models" or rest.split(".")[0] in SHARED, f"{imported}: it imports another system"
        assert not any(part.startswith("_") and part != "__future__" for part in imported.split(".")), f"{imported} is not public"
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            ours = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", *own)
            assert ours or node.attr in ("_replace", "_asdict"), f"line {node.lineno}: {ast.unparse(node)} is not public"


@each_system
def test_importing_a_system_needs_numpy_alone(name: str) -> None:
    """Data and pictures of other packages are asked for where they are used."""
    for node in tree_of(name).body:
        for imported in imports_of(node) if isinstance(node, (ast.Import, ast.ImportFrom, ast.If)) else ():
            package = imported.split(".")[0]
            assert package in {"numpy", "models", "tinygrad_seq", *sys.stdlib_module_names}, imported


def test_every_task_has_one_system() -> None:
    tasks = [kind.task for kinds in command.systems().values() for kind in kinds]
    assert len(tasks) == len(set(tasks)), "two experiments of one name"
    numbers = {int(match[1]) for task in tasks if (match := re.match(r"T(\d+)", task))}
    assert numbers == set(range(1, 31))
    assert set(command.CORE) <= set(tasks)


def test_the_document_has_the_list_and_a_result_of_every_experiment(capsys) -> None:
    document = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert command.main([]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row not in document] == []
    reached = document.partition("## What they reach")[2].partition("## On seeds")[0]
    told = re.findall(r"(?m)^\| ([A-Z][\w-]*) +\| .*\|$", reached)
    assert sorted(told) == sorted(kind.task for kinds in command.systems().values() for kind in kinds)
    assert "| NO" not in document
