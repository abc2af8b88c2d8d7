"""What is written on drawings: numbers that are those of the tape, and of equations derived by hand; and nothing changes the structure."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
import svg_checks
from test_viz import HOSTILE, Cell, data, elman, gru, lstm, plain_loop, rng, visible_edges

import tinygrad_seq as tg
from tinygrad_seq.bptt.norms import norm_of
from tinygrad_seq.errors import ArgumentError, GraphError
from tinygrad_seq.graph import node_of
from tinygrad_seq.viz import draw, gates
from tinygrad_seq.viz.gradients import flow_of
from tinygrad_seq.viz.norms import number
from tinygrad_seq.viz.unfold import read

X = [0.9, -0.4, 0.7, 0.3, -0.6, 0.5]


def scalar_rnn(xs=X, w_x=1.1, w_h=0.85, w_y=1.4):
    """h_t = tanh(w_x x_t + w_h h_(t-1)), C = (w_y h_T - 1)²/2: C, its weights, and the states."""
    weights = {k: tg.tensor(v, "float64", requires_grad=True, name=k) for k, v in {"w_x": w_x, "w_h": w_h, "w_y": w_y}.items()}
    h, hs = tg.zeros((), dtype="f8"), []
    for x in tg.steps(xs):
        h = tg.tanh(weights["w_x"] * x + weights["w_h"] * h)
        hs.append(h)
    C = 0.5 * (weights["w_y"] * h - 1) ** 2
    C.name = "C"
    return C, weights, hs


def by_hand(xs=X, w_x=1.1, w_h=0.85, w_y=1.4):
    """The terms of dC/dw_x and of dC/dw_h, by the recursion of the lecture notes."""
    h = [0.0]
    for x in xs:
        h.append(math.tanh(w_x * x + w_h * h[-1]))
    g, of_x, of_h = (w_y * h[-1] - 1) * w_y, [], []
    for t in range(len(xs), 0, -1):
        delta = g * (1 - h[t] ** 2)
        of_x.append(delta * xs[t - 1])
        of_h.append(delta * h[t - 1])
        g = delta * w_h
    return of_x[::-1], of_h[::-1]


def notes_of(drawing, label):
    """The lines beneath a label, for every box that shows it."""
    return [box.notes for box in drawing._picture.all_boxes() if box.label == label]


def looks_of(drawing):
    return {(e.source, e.target): e.look for e in drawing._picture.edges}


def read_back(text):
    return float(text.replace("−", "-").replace("Σ ", ""))


# ---- Values, shapes, dtypes ---------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_tape():
    C, _, hs = scalar_rnn()
    drawing = draw(C, values=True, dtypes=True)
    for t, h in enumerate(hs, 1):
        (told,) = notes_of(drawing, "h" + "₀₁₂₃₄₅₆"[t])
        assert told[0] == "float64" and read_back(told[1]) == pytest.approx(float(h.numpy()), rel=5e-3)
    assert notes_of(drawing, "w_x") == [["float64", "1.1"]] * 6


def test_of_many_numbers_the_smallest_and_the_largest_are_told():
    w = tg.tensor([[-2.0, 0.5], [3.0, 1.0]], requires_grad=True, name="w")
    assert notes_of(draw(tg.exp(w), values=True, shapes=True), "w") == [["2×2", "−2 … 3"]]
    assert notes_of(draw(tg.exp(w[0]), values=True), "w[0]") == [["−2 0.5"]]
    assert notes_of(draw(tg.exp(w * 0 + 7), values=True), "+ 7") == [["all 7"]]


@pytest.mark.parametrize(("x", "text"), [(0.0, "0"), (-0.0, "0"), (0.01234, "0.012"), (1.234e-5, "1.2e−5"), (3.2e12, "3.2e12"), (-math.inf, "−∞"), (math.nan, "NaN")])  # fmt: skip
def test_numbers_are_short(x, text):
    assert number(x) == text


# ---- Gradients ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_norm_neither_overflows_nor_underflows(dtype, scale):
    x = (np.array([3.0, 4.0]) * scale).astype(dtype)
    assert norm_of(x) == pytest.approx(5 * scale, rel=1e-6)


def test_zero_infinite_and_missing_gradients_look_different_in_grey_too():
    u, w = (tg.tensor(x, "float64", requires_grad=True, name=n) for n, x in (("u", 0.0), ("w", 2.0)))
    root, product = tg.sqrt(u), w * 0.0
    nothing = tg.sqrt(product)  # infinity times zero
    drawing = draw(root + product.sum() + nothing, gradients=True)
    at = {
        (e.use[0].prim.name, box.label): e.look
        for e in drawing._picture.edges
        if (box := drawing._picture.boxes[e.source]) and e.use
    }
    assert notes_of(drawing, "u") == [["∞"]] and notes_of(drawing, "w") == [["NaN"]]
    infinite, undefined = at["sqrt", "u"], at["multiply", "w"]
    assert (infinite["style"], undefined["style"]) == ("solid", "dotted")
    assert infinite["color"] != undefined["color"]
    assert "violet: infinite" in drawing._picture.remarks[0] and "dotted: not a number" in drawing._picture.remarks[0]


def test_the_first_copy_of_the_recurrent_weight_gets_a_dashed_zero():
    C, _, _ = scalar_rnn()
    drawing = draw(C, gradients=True)
    copies = [e for e in drawing._picture.edges if drawing._picture.boxes[e.source].label == "w_h"]
    assert [e.look["style"] == "dashed" for e in copies if "style" in e.look] == [True]
    assert notes_of(drawing, "w_h")[0] == ["0"] and "dashed: zero" in drawing._picture.remarks[0]


@pytest.mark.parametrize("level", ["ops", "cells"])
def test_hidden_steps_show_the_norm_of_the_sum_of_their_terms(level):
    cell, h, losses = Cell(), tg.zeros((2, 4)), []
    for x in tg.steps(data(rng(), 30, 2, 3)):
        h = cell(x, h)
        losses.append((h**2).mean())
    loss, weight = sum(losses), cell.h.weight
    weight.name = "W"
    hidden = [t.value for t in tg.bptt.terms(loss, weight)[weight.node] if 4 <= t.time <= 28]
    drawing = draw(loss, gradients=True, level=level)
    (told,) = [notes for notes in notes_of(drawing, "W") if notes[-1].startswith("Σ")]
    assert len(hidden) == 25 and told[-1] == f"Σ {number(np.linalg.norm(sum(hidden)))}"


def test_attention_sends_every_state_its_own_part_of_the_gradient():
    encoder, attention, h, states = Cell(), tg.nn.BilinearAttention(4, 4, rng=2), tg.zeros((2, 4)), []
    for x in tg.steps(data(rng(), 3, 2, 3)):
        h = encoder(x, h)
        states.append(h)
    memory = tg.stack(states)
    for y in tg.steps(data(rng(), 2, 2, 4)):
        context, _ = attention(h + y, memory)
        h = h + context
    loss = (h**2).sum()
    picture = read([loss], cells=True)
    flow, parts = flow_of([loss], picture), tg.grad(loss, memory).numpy()
    by_reader = {}
    for edge in picture.edges:
        if edge.kind == "attend":
            by_reader.setdefault(edge.target, []).append(flow.edge(edge, picture.boxes[edge.source], picture.boxes[edge.target]))
    assert [len(norms) for norms in by_reader.values()] == [3, 3]
    upper, lower = np.sum([*by_reader.values()], axis=0), np.abs(np.subtract(*by_reader.values()))
    norms = np.linalg.norm(parts.reshape(3, -1), axis=1)
    assert (norms <= upper * (1 + 1e-6)).all() and (norms >= lower * (1 - 1e-6)).all()  # two parts of one sum


def test_one_reader_sends_back_the_whole_gradient_of_what_it_attends_to():
    encoder, attention, h, states = Cell(), tg.nn.BilinearAttention(4, 4, rng=2), tg.zeros((2, 4)), []
    for x in tg.steps(data(rng(), 3, 2, 3)):
        h = encoder(x, h)
        states.append(h)
    memory = tg.stack(states)
    for y in tg.steps(data(rng(), 1, 2, 4)):
        context, _ = attention(tg.tanh(h + y), memory)
    loss = (context**2).sum()
    picture = read([loss], cells=True)
    flow = flow_of([loss], picture)
    found = [flow.edge(e, picture.boxes[e.source], picture.boxes[e.target]) for e in picture.edges if e.kind == "attend"]
    assert found == pytest.approx(np.linalg.norm(tg.grad(loss, memory).numpy().reshape(3, -1), axis=1), rel=1e-5)


# ---- One weight -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_the_lit_copies_tell_the_terms_that_are_derived_by_hand(which):
    C, weights, _ = scalar_rnn()
    name, terms = ["w_x", "w_h"][which], by_hand()[which]
    drawing = draw(C, light=weights[name])
    told = [read_back(notes[0]) for notes in notes_of(drawing, name)]
    assert told == pytest.approx(terms, rel=1e-3, abs=1e-12)
    picture = drawing._picture
    formula = "δₜ xₜ" if name == "w_x" else "δₜ hₜ₋₁"
    assert picture.title == f"∂C/∂{name} = Σₜ {formula} = {number(sum(terms), 4)}"
    assert "the sum is the gradient of one backward pass" in picture.remarks[1]


def test_the_lit_weight_is_compared_with_its_grad():
    C, weights, _ = scalar_rnn()
    assert ".grad" not in draw(C, light=weights["w_x"])._picture.remarks[1]
    C.backward()
    assert "w_x.grad is the same" in draw(C, light=weights["w_x"])._picture.remarks[1]
    C.backward()
    assert "w_x.grad holds other numbers" in draw(C, light=weights["w_x"])._picture.remarks[1]


def test_lit_and_hidden_terms_add_up_to_the_gradient():
    xs = list(rng().normal(size=40))
    C, weights, _ = scalar_rnn(xs, w_h=1.5)
    told = [read_back(notes[-1]) for notes in notes_of(draw(C, light=weights["w_h"]), "w_h")]
    assert len(told) == 6
    assert sum(told) == pytest.approx(sum(by_hand(xs, w_h=1.5)[1]), rel=5e-3)


def test_the_copies_of_a_matrix_tell_norms_on_the_chips_of_cells():
    model = tg.nn.LSTM(3, 4, rng=0)
    hs, _ = model(data(rng(), 4, 2, 3))
    loss, weight = (hs**2).mean(), model.weight_hh_l0
    drawing = draw(loss, light=weight, level="cells")
    terms = tg.bptt.terms(loss, weight)[weight.node]
    assert [notes[0] for notes in notes_of(drawing, "weight_hh_l0")] == [number(norm_of(t.value), 3) for t in terms]
    assert drawing.dot.count('BGCOLOR="#ff') >= 2  # the largest terms, in deep yellow


def test_a_weight_that_the_loss_does_not_depend_on_is_refused():
    with pytest.raises(GraphError, match="not computed from"):
        draw(elman(), light=tg.tensor(1.0, requires_grad=True, name="w"))


# ---- Paths ------------------------------------------------------------------------------------------------------------------------------


def test_a_path_lights_what_lies_between():
    C, _, hs = scalar_rnn()
    picture = draw(C, path=(hs[1], C))._picture
    tape = tg.toposort([C])
    after, before = {hs[1].node}, {C.node}
    for node in tape:
        if any(n in after for n in map(node_of, node.args)):
            after.add(node)
    for node in reversed(tape):
        if node in before:
            before |= {n for n in map(node_of, node.args) if n is not None}
    lit = {box.tape for box in picture.boxes.values() if box.look.get("penwidth") == 2.4}
    assert lit == after & before and len(lit) == 17


def test_where_no_path_leads_the_error_says_so():
    C, weights, hs = scalar_rnn()
    with pytest.raises(GraphError, match="no path leads from C to w_x"):
        draw(C, path=(C, weights["w_x"]))
    with pytest.raises(GraphError, match="is not in the picture"):
        draw(C, path=(tg.exp(hs[0]), C))


def test_numbers_are_refused_where_one_step_stands_for_all():
    model = tg.nn.RNN(3, 4, rng=0)
    hs, _ = model(data(rng(), 3, 2, 3))
    for overlay in ({"gradients": True}, {"values": True}, {"light": model.weight_hh_l0}, {"sensitivity": 1}):
        with pytest.raises(ArgumentError, match="of which step"):
            draw((hs**2).sum(), level="folded", **overlay)


def test_a_path_is_found_in_a_compiled_loop():
    model = tg.nn.RNN(3, 4, rng=0)
    hs, _ = model(data(rng(), 3, 2, 3))
    picture = draw((hs**2).sum(), path=(model.weight_ih_l0, hs))._picture
    lit = Counter(box.label for box in picture.boxes.values() if box.look.get("penwidth") == 2.4)
    assert lit["weight_ih_l0"] == 3 and lit["stack"] == 1 and lit["weight_hh_l0"] == 0


# ---- Truncation -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [elman, lstm, gru, plain_loop])
def test_scissors_are_where_the_truncation_cuts(graph):
    loss = graph()
    cut = tg.bptt.truncate(loss, at=[2])
    picture = draw(loss, truncation=cut)._picture
    assert {e.use for e in picture.edges if e.note == "✂"} == {(c.node, c.position) for c in cut.cuts}
    assert {picture.boxes[e.target].column for e in picture.edges if e.note} == {3}
    assert svg_checks.complaints(draw(loss, truncation=cut).svg) == []


def test_cells_are_cut_between_each_other():
    hs, _ = tg.nn.LSTM(3, 4, num_layers=2, rng=0)(data(rng(), 6, 2, 3))
    loss = (hs**2).mean()
    drawing = draw(loss, truncation=tg.bptt.truncate(loss, 2), level="cells")
    noted = [drawing._picture.boxes[e.target].column for e in drawing._picture.edges if e.note]
    assert sorted(noted) == [3, 3, 5, 5] and drawing.svg.count("✂") == 5


@pytest.mark.parametrize(("level", "lanes"), [("ops", 8), ("cells", 4)])
def test_cuts_are_found_where_the_tape_is_written_anew(level, lanes):
    hs, _ = tg.nn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0)(data(rng(), 4, 2, 3))
    loss = (hs**2).mean()
    cut = tg.bptt.truncate(loss, 2)
    picture = draw(loss, truncation=cut, level=level)._picture
    assert len(cut.cuts) == 8 and sum(bool(edge.note) for edge in picture.edges) == lanes
    assert "left out" not in picture.remarks[0]


def test_a_sliding_window_tells_which_loss_is_stopped_and_rows_are_named():
    loss = elman(6)
    sliding = draw(loss, truncation=tg.bptt.truncate(loss, 1, 2))
    assert [e.note for e in sliding._picture.edges if e.note] == ["✂₃", "✂₄", "✂₅", "✂₆"]
    rows = draw(loss, truncation=tg.bptt.truncate(loss, 3, rows=[1]))
    assert "one edge cut in row 1" in rows._picture.remarks[0]


def test_cuts_in_steps_left_out_are_counted():
    loss = elman(40)
    picture = draw(loss, truncation=tg.bptt.truncate(loss, 3))._picture
    assert "13 edges cut" in picture.remarks[0] and "in the steps left out" in picture.remarks[0]
    (entering,) = [e for e in picture.edges if e.note and picture.boxes[e.target].kind == "more"]
    assert picture.boxes[entering.source].label == "h₃"


def test_a_truncation_of_another_loss_is_refused():
    with pytest.raises(GraphError, match="another loss"):
        draw(elman(4), truncation=tg.bptt.truncate(elman(4), 2))
    with pytest.raises(GraphError, match="none of 1 cuts"):
        draw(elman(4), truncation=[(tg.exp(tg.tensor(1.0, requires_grad=True)).node, 0)])


# ---- Gates and sensitivity -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["ops", "cells"])
def test_gates_that_are_forced_are_told_as_open_and_closed(level):
    model = tg.nn.LSTM(3, 4, rng=0)
    with tg.no_grad():
        bias = model.bias_ih_l0
        bias[...] = np.repeat([-100.0, 100.0, 0.0, -100.0], 4)  # i, f, g, o
    hs, _ = model(data(rng(), 3, 2, 3))
    drawing = draw((hs**2).sum(), gates=True, level=level)
    told = [box.notes[-1] for box in drawing._picture.all_boxes() if gates.is_gate(box)]
    assert Counter(told) == {"— 0.00": 6, "○ 1.00": 3}
    if level == "cells":
        assert "i — 0.00   f ○ 1.00   o — 0.00" in drawing.dot


def test_a_network_without_gates_says_so():
    with pytest.raises(GraphError, match="no gates"):
        draw(elman(), gates=True)


def test_sensitivity_to_the_first_input_decays_as_the_product_of_derivatives():
    C, _, hs = scalar_rnn(w_h=0.8)
    drawing = draw(C, sensitivity=1)
    expected = 1.1
    for t, h in enumerate(hs, 1):
        expected *= (1 - float(h.numpy()) ** 2) * (0.8 if t > 1 else 1)
        (told,) = notes_of(drawing, "h" + "₀₁₂₃₄₅₆"[t])
        assert told == [number(expected)]


def test_sensitivity_of_a_vector_is_the_norm_of_its_jacobian():
    draws = rng()
    w_x, w_h, xs = draws.normal(size=(2, 3)), draws.normal(size=(3, 3)), draws.normal(size=(4, 1, 2))

    def states(xs):
        h, found = np.zeros((1, 3)), []
        for x in xs:
            h = np.tanh(x @ w_x + h @ w_h)
            found.append(h)
        return found

    step = 1e-6 * np.eye(2)
    columns = [(np.array(states([xs[0] + d, *xs[1:]])) - np.array(states([xs[0] - d, *xs[1:]]))) / 2e-6 for d in step]
    norms = np.sqrt(sum((c**2).sum(axis=(1, 2)) for c in columns))
    weights = [tg.tensor(w, "float64", requires_grad=True) for w in (w_x, w_h)]
    h = tg.zeros((1, 3), dtype="f8")
    for x in tg.steps(tg.tensor(xs, "float64")):
        h = tg.tanh(x @ weights[0] + h @ weights[1])
    drawing = draw(h.sum(), sensitivity=1)
    assert [notes_of(drawing, f"h{i}")[0] for i in "₁₂₃₄"] == [[number(n)] for n in norms]


def test_a_memory_keeps_its_sensitivity_while_it_forgets_nothing():
    """Graves (2012), figure 4.3: the input gate opens at t = 1, the forget gate stays open until t = 6."""
    k, c = tg.tensor(1.0, "float64", requires_grad=True, name="k"), tg.zeros((), dtype="f8")
    for i, f, x in tg.steps(zip([1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0], rng().normal(size=7), strict=True)):
        c = c * tg.sigmoid(k * (2000 * f - 1000)) + tg.sigmoid(k * (2000 * i - 1000)) * tg.tensor([x], "float64")
    drawing = draw(c.sum(), sensitivity=1)
    told = [box.notes[-1] for box in drawing._picture.boxes.values() if box.kind == "state" and box.column > 0]
    assert told == ["1"] * 6 + ["0"]


def test_a_large_jacobian_is_estimated_from_random_directions():
    draws = rng()
    w, h = tg.tensor(draws.normal(size=(100, 100)) / 10, "float64", requires_grad=True), tg.zeros((1, 100), dtype="f8")
    for x in tg.steps(tg.tensor(draws.normal(size=(2, 1, 100)), "float64")):
        h = tg.tanh(x @ w + h @ w)
    drawing = draw(h.sum(), sensitivity=1)
    assert "estimated from 64 random directions" in drawing._picture.remarks[0]


def test_sensitivity_to_what_is_not_drawn_is_refused():
    with pytest.raises(GraphError, match="not in the picture"):
        draw(elman(4), sensitivity=9)
    w, h = tg.tensor(np.ones(2), requires_grad=True), tg.zeros(2)
    for x in tg.steps(np.array([[1, 2], [3, 4]])):
        h = tg.tanh(w * x + h)
    with pytest.raises(GraphError, match="x₁ is int64, nothing can be differentiated by it"):
        draw(h.sum(), sensitivity=1)


# ---- Masks --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["ops", "cells"])
def test_columns_tell_how_many_rows_still_run(level):
    hs, _ = tg.nn.LSTM(3, 4, rng=0)(data(rng(), 4, 3, 3), lengths=[4, 2, 1])
    picture = draw(hs.sum(), level=level)._picture
    assert picture.heads == {2: "2 of 3", 3: "1 of 3", 4: "1 of 3"}
    assert picture.fills[3] == picture.fills[4] != picture.fills[2]


# ---- The text ------------------------------------------------------------------------------------------------------------------------------

ALL = {"values": True, "shapes": True, "dtypes": True, "gradients": True, "sensitivity": 1}


@pytest.mark.parametrize("graph", [elman, lstm, gru])
@pytest.mark.parametrize("overlay", [{}, ALL, {"full": True}])
def test_the_same_graph_gives_the_same_text_byte_for_byte(graph, overlay):
    loss = graph()
    assert draw(loss, **overlay).dot == draw(graph(), **overlay).dot == draw(loss, **overlay).dot


@pytest.mark.parametrize("overlay", ["values", "shapes", "dtypes", "gradients"])
def test_no_overlay_changes_the_structure(overlay):
    assert visible_edges(draw(lstm(), **{overlay: True}).dot) == visible_edges(draw(lstm()).dot)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_changes_the_structure_whatever_is_written(name):
    pygraphviz = pytest.importorskip("pygraphviz", reason="pygraphviz reads the text back")
    drawings = []
    for names in (("W_x", "W_h", "b", "W_y"), (name, "W_h", "b", "W_y")):
        loss = elman(2, names=names)
        loss.name = names[0]
        weight = next(n for n in tg.toposort([loss]) if n.prim is None and n.notes_of(0).name == names[0])
        drawings.append(draw(loss, title=names[0], light=tg.graph.box(weight.out, weight), **ALL))
    graphs = [pygraphviz.AGraph(string=drawing.dot) for drawing in drawings]
    assert graphs[0].nodes() == graphs[1].nodes() and sorted(graphs[0].edges()) == sorted(graphs[1].edges())
    assert [g.name for g in graphs[0].subgraphs()] == [g.name for g in graphs[1].subgraphs()]
    seen = svg_checks.read(drawings[1].svg)
    texts = [label.text.strip() for label in [*seen.captions, *(x for node in seen.nodes for x in node.labels)]]
    assert all(any(line.strip() in text for text in texts) for line in name.split("\n"))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_changes_the_structure_of_cells(name):
    pygraphviz = pytest.importorskip("pygraphviz", reason="pygraphviz reads the text back")
    graphs = []
    for given in ("W_h", name):
        cell, h = Cell(), tg.zeros((2, 4))
        cell.h.weight.name = given
        for x in tg.steps(data(rng(), 2, 2, 3)):
            h = cell(x, h)
        drawing = draw((h**2).mean(), level="cells", gradients=True, light=cell.h.weight)
        graphs.append(pygraphviz.AGraph(string=drawing.dot))
    assert graphs[0].nodes() == graphs[1].nodes() and sorted(graphs[0].edges()) == sorted(graphs[1].edges())
    assert [g.name for g in graphs[0].subgraphs()] == [g.name for g in graphs[1].subgraphs()]
    seen = svg_checks.read(drawing.svg)
    texts = [label.text for label in [*seen.captions, *(x for node in seen.nodes for x in node.labels)]]
    assert all(sum(line.strip() in text for text in texts) >= 3 for line in name.split("\n"))  # two chips and the heading


@pytest.mark.parametrize(
    "overlay", [{"values": True}, {"shapes": True, "dtypes": True}, {"gradients": True}, {"sensitivity": 1}, {"gates": True}]
)
@pytest.mark.parametrize("graph", [lstm, gru])
def test_what_is_written_fits(graph, overlay):
    pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")
    svg = draw(graph(), **overlay).svg
    assert svg_checks.complaints(svg) == [] and svg_checks.through_boxes(svg_checks.read(svg)) == []


def test_indices_in_a_heading_are_small():
    C, weights, _ = scalar_rnn()
    assert re.search(r'∂C/∂w<FONT POINT-SIZE="9">x</FONT> = Σₜ', draw(C, light=weights["w_x"]).dot)


def test_an_overlay_that_is_given_something_else_says_what_it_wants():
    loss = (tg.nn.RNN(2, 3, rng=0)(np.ones((3, 1, 2), "float32"))[0] ** 2).sum()
    for given, told in [
        ({"light": "weight_hh_l0"}, r"(?s)light='weight_hh_l0' is no Tensor.*the parameter itself"),
        ({"path": loss}, r"(?s)two ends.*path=\(a, b\)"),
        ({"path": (loss,)}, "two ends"),
        ({"truncation": 3}, r"(?s)truncation=3 says not of which loss.*tg\.bptt\.truncate\(loss, 3\)"),
    ]:
        with pytest.raises(ArgumentError, match=told):
            tg.draw(loss, **given)
