"""One step for all of them: the compact view of a loop, in which a state comes back through a delay square z⁻¹.

Steps fold if they are the same: the same ops, of the same arguments. What the first step takes from outside is the initial state. Where a step
differs from the others, there is no compact view; the error names the step and what is different first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from ..errors import GraphError, message
from ..graph import Node, Output, node_of
from . import names
from .loops import Loops
from .picture import OPS, Box, Edge, Picture


def check_alike(loops: Loops) -> None:
    """Raise GraphError where steps differ, or where there are no two of them."""
    if len(loops.steps) < 2 or not loops.states:
        why = "no loop over time" if not loops.steps else "one step" if len(loops.steps) < 2 else "no state that its steps hand on"
        raise GraphError(
            message(
                f"draw: the graph has {why}, there is nothing to fold",
                expected="at least two steps of tg.scan, tg.steps or a module",
                do='level="cells"',
            )
        )
    steps: dict[int, dict[Any, tuple[Any, ...]]] = {time: {} for time in loops.steps}
    for node, role in loops.roles.items():
        steps[loops.times[node]][role] = _said(loops, node)
    common = Counter(tuple(step.items()) for step in steps.values()).most_common(1)[0][0]
    usual = next(time for time, step in steps.items() if tuple(step.items()) == common)
    for time, step in steps.items():
        if tuple(step.items()) != common:
            raise GraphError(
                message(
                    f"draw: step {time} is not like the others: {_difference(step, steps[usual], usual)}",
                    expected="the same ops in every step: then one of them stands for all",
                    do='level="cells", which draws every step',
                )
            )


def _said(loops: Loops, node: Node) -> tuple[Any, ...]:
    """What an op is: its name, its settings, and what each of its arguments is within the step."""
    assert node.prim is not None
    numbers = {id(state): k for k, state in enumerate(loops.states)}
    args: list[Any] = []
    for position, arg in enumerate(loops.args[node]):
        source, use = node_of(arg), (node, position)
        key = loops.sequence_key(arg)
        if use in loops.state_of:
            args.append(("the state", loops.states[numbers[id(loops.state_of[use])]].name or "Σ"))
        elif source in loops.roles:
            away = loops.times[node] - loops.times[source]
            args.append(("op" if not away else f"{away} steps before", *loops.roles[source][1:], _index(arg)))
        elif source in loops.args:
            args.append(("outside", loops.index[source], _index(arg)))
        elif key is not None and key in loops.sequence:
            args.append(("data", loops.sequence[key]))
        elif source is not None:
            view = loops.views[source].text if source in loops.views else ""
            args.append(("leaf", loops.names.of(loops.names.owner(arg)) + view, loops.names.family(loops.names.owner(arg))))
        else:
            args.append(("constant", loops.names.of(arg)))
    settings = tuple((name, _plain(value)) for name, value in sorted(node.params.items()))
    return node.prim.name, settings, tuple(args)


def _index(arg: Any) -> int:
    return arg.index if isinstance(arg, Output) else 0


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_plain, value)) + ")"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str, slice)) else type(value).__name__


def _difference(step: dict[Any, Any], usual: dict[Any, Any], when: int) -> str:
    """The first thing that one step has and the usual one has not, or that differs between the two."""
    for role, said in step.items():
        if role not in usual:
            return f"it has {_op(role)}, which step {when} has not"
        if said != usual[role]:
            for mine, other in zip(said[2], usual[role][2], strict=False):
                if mine != other:
                    return f"{_op(role)} takes {_arg(mine)}, in step {when} {_arg(other)}"
            return f"{_op(role)} has the settings {dict(said[1])}, in step {when} {dict(usual[role][1])}"
    for role in usual:
        if role not in step:
            return f"it has no {_op(role)}, which step {when} has"
    return f"its ops come in another order than in step {when}"


def _op(role: Any) -> str:
    place, name, number = role
    return f"`{name}`" + (f" (the {number + 1}.)" if number else "") + (f" of {' > '.join(place)}" if place else "")


def _arg(said: Any) -> str:
    kind, what = said[0], said[1]
    return f"{kind} {what}" if kind != "op" else f"the result of `{what}`"


# ---- The picture ------------------------------------------------------------------------------------------------------------------------


def fold(picture: Picture, loops: Loops) -> Picture:
    """The picture of one step: its boxes without their time, what is outside of the steps, and a delay for every state."""
    time, last = loops.steps[0], loops.steps[-1]
    columns = {step: [id for id, box in picture.boxes.items() if box.column == step] for step in loops.steps}
    like = {
        id: twin for ids in columns.values() for id, twin in zip(ids, columns[time], strict=False)
    }  # the same box in the one step
    outputs = {like[id]: picture.boxes[id] for id in columns[last] if picture.boxes[id].kind == "loss"}
    outside = {id: id for id, box in picture.boxes.items() if box.column is None}
    ids = {id: f"f{k}" for k, id in enumerate([*columns[time], *outside])}
    new = Picture(columns=[1], states=picture.states, remarks=picture.remarks, folded=True)
    for id, name in ids.items():
        box = outputs.get(id, picture.boxes[id])
        new.boxes[name] = replace(box, id=name, label=_timeless(box), column=None if id in outside else 1)
    like |= outside
    _delays(picture, new, {id: ids[twin] for id, twin in like.items()}, time)
    seen: set[Any] = set()
    ordinal: Counter[Any] = Counter()
    for edge in picture.edges:
        source, target = like.get(edge.source), like.get(edge.target)
        here, there = picture.boxes[edge.source].column, picture.boxes[edge.target].column
        if there == time and here not in (time, None) and edge.kind in ("state", "lane", "sum"):
            for number in dict.fromkeys(one.family for one in edge.bundle or [edge]):
                new.edges.append(Edge(f"z{number}", ids[like[edge.target]], "undelayed", number, edge.use))
        if source is None or target is None or (here != there and None not in (here, there)):
            continue
        what = source, target, edge.kind, edge.family
        ordinal[what, here, there] += 1
        key = what, ordinal[what, here, there]
        if key not in seen:
            seen.add(key)
            label = edge.label.removesuffix(names.below(here)) if here is not None else edge.label
            new.edges.append(replace(edge, source=ids[source], target=ids[target], label=label))
    new.below = [ids[id] for id in picture.below if id in ids]
    return new


def _timeless(box: Box) -> str:
    index = "" if box.column is None else names.below(box.column)
    if box.kind in ("input", "state", "constant"):
        return box.label.removesuffix(index)
    given = box.tape.notes_of(0).name if box.tape is not None else None
    return given + box.label[len(given + index) :] if given and box.label.startswith(given + index) else box.label


def _delays(picture: Picture, new: Picture, names_of: dict[str, str], time: int) -> None:
    """A delay square for every state, behind what makes the state."""
    made_by: dict[tuple[bool, Any], str] = {}
    for id, box in picture.boxes.items():
        for one in box.inside or [box]:
            if one.tape is not None and one.kind in (*OPS, "state") and (one.kind != "state" or one.column in picture.columns):
                made_by[one.kind == "state", one.tape] = id
    for number, state in enumerate(picture.states):
        producer = state.producers[time]
        maker = made_by.get((True, producer)) or made_by[False, producer]
        square = new.boxes[f"z{number}"] = Box(f"z{number}", "z⁻¹" if state.towards > 0 else "z", "delay", 1, number)
        new.edges.append(Edge(names_of[maker], square.id, "delayed", number))
