"""The command line of a system, `python -m models.NAME`: which experiments, with which settings and seed, from the start or where they were stopped."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.experiment import Experiment, perform, results_table
from tinygrad_seq import errors


def run_experiments(document: str | None, experiments: Sequence[Experiment], argv: Sequence[str] | None = None) -> int:
    """The `main` of a system: run its experiments, print their results.

    0 if all was reached, 1 if not, 2 where a package is missing or what was asked for cannot be, 130 after Ctrl-C.
    """
    module = _module_of(experiments)
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=document,
        epilog="experiments:\n" + "\n".join(
            f"  {kind.task:<5} {kind.title} (about {kind.seconds[0]:g} s quick, {kind.seconds[1]:g} s full)" for kind in experiments
        )
        + "\n\nsettings (--set; full, and quick where it is another):\n" + "\n".join(f"  {kind.task:<5} {_settings_of(kind)}" for kind in experiments)
        + "\n\nexit status: 0 if all was reached, 1 if not, 2 where something is missing or wrong, 130 after Ctrl-C",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_options(parser)
    parser.add_argument("--only", metavar="TASKS", help="one of the experiments below, or several, separated by commas")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a setting of the experiments that have it; as often as you like",
    )
    options = parser.parse_args(argv)
    try:
        wanted = tasks(options.only, [kind.task for kind in experiments])
        chosen = [kind for kind in experiments if kind.task in wanted]
        configs = _changed([kind.quick if options.quick else kind.full for kind in chosen], options.set)
        options.out.mkdir(parents=True, exist_ok=True)
    except ValueError as wrong:
        parser.error(str(wrong))
    except OSError as wrong:
        parser.error(f"--out {options.out}: expected a folder that can be written; {wrong.strerror}")
    reports, missing = [], []
    for kind, config in zip(chosen, configs, strict=True):
        out = options.out / module.rpartition(".")[2] / kind.name
        try:
            report = perform(
                kind, config, seed=options.seed, out=out, quick=options.quick, resume=options.resume, progress=not options.silent
            )
        except errors.MissingDependencyError as package:  # the others may not need it
            missing.append(f"{kind.task}: {package}")
        except errors.TinygradError as wrong:
            if str(wrong).startswith("--resume"):
                parser.error(str(wrong))
            if options.resume and isinstance(wrong, errors.FileError):
                parser.error(f"{kind.task} with --resume: {wrong}\n  or:  begin anew, without --resume")
            if options.set:  # a value that a layer or an optimizer does not take
                parser.error(f"{kind.task} with --set {shlex.join(options.set)}: {wrong}")
            raise
        except KeyboardInterrupt:
            given = [arg for arg in (sys.argv[1:] if argv is None else argv) if arg != "--resume"]
            print(f"\n{kind.task}: stopped. To go on:  {shlex.join(['python', '-m', module, *given, '--resume'])}", file=sys.stderr)
            return 130
        else:
            reports.append(report.to_dict())
    if reports:
        print(results_table(reports))
    for message in missing:
        print(message, file=sys.stderr)
    return 2 if missing else 0 if all(report["met"] for report in reports) else 1


def tasks(text: str | None, known: Sequence[str]) -> list[str]:
    """The tasks that a user names, separated by commas; all where nothing is named. ValueError for those that there are not."""
    if text is None:
        return list(known)
    named = {task.casefold(): task for task in known}
    given = [task.strip() for task in text.split(",") if task.strip()]
    unknown = [task for task in given or [repr(text)] if task.casefold() not in named]
    if unknown:
        raise ValueError(f"--only {text}: no experiment {', '.join(unknown)}; there are {', '.join(named.values())}")
    return [named[task.casefold()] for task in given]


def _settings_of(kind: Experiment) -> str:
    """The settings of an experiment in one line."""
    pairs = (
        (field.name, repr(getattr(kind.full, field.name)), repr(getattr(kind.quick, field.name)))
        for field in dataclasses.fields(kind.full)
    )
    return "  ".join(f"{name}={full}" + (f" ({quick})" if quick != full else "") for name, full, quick in pairs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    setting = parser.add_mutually_exclusive_group()
    setting.add_argument("--quick", action="store_true", help="a smaller problem or fewer steps: seconds")
    setting.add_argument(
        "--full", action="store_false", dest="quick", help="the problem of the table in docs/models.md (the default)"
    )
    parser.add_argument("--seed", type=seed_of, default=0, help="of everything that is drawn (default 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of figures, samples, results and checkpoints (default runs)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoints there, to the same bits as if it had never stopped"
    )
    parser.add_argument("--silent", action="store_true", help="no progress: the table alone")


def seed_of(text: str) -> int:
    """A seed as a user writes it."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; expected a whole number from 0 on")
    return int(text)


def _module_of(experiments: Sequence[Experiment]) -> str:
    """The name of the module that they stand in, also where it runs as a program."""
    function = experiments[0].function
    return function.__module__ if function.__module__ != "__main__" else f"models.{Path(function.__code__.co_filename).stem}"


def _changed(configs: Sequence[Any], changes: Sequence[str]) -> list[Any]:
    """The settings with each NAME=VALUE put in, in the type that it has."""
    configs = list(configs)
    for change in changes:
        name, is_one, text = change.partition("=")
        having = [k for k, config in enumerate(configs) if is_one and name in {field.name for field in dataclasses.fields(config)}]
        if not having:
            names = sorted({field.name for config in configs for field in dataclasses.fields(config)})
            raise ValueError(f"--set {change}: expected NAME=VALUE with one of {', '.join(names)}")
        for k in having:
            now = getattr(configs[k], name)
            configs[k] = dataclasses.replace(configs[k], **{name: _like(now, text, change)})
    return configs


def _like(now: Any, text: str, change: str) -> Any:
    """A text as a value of the kind that a setting has now."""
    if isinstance(now, bool):
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in words:
            raise ValueError(f"--set {change}: expected yes or no")
        return words[text.lower()]
    if not isinstance(now, (int, float, str)):
        raise ValueError(f"--set {change}: {now!r} is changed in the file, not from the command line")
    try:
        return type(now)(text)
    except ValueError:
        raise ValueError(
            f"--set {change}: expected {'a whole number' if isinstance(now, int) else 'a number'} like {now}"
        ) from None
