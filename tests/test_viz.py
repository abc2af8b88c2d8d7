"""Drawings: the picture is the tape, the DOT text is safe and repeatable, and what Graphviz makes of it is in the order of time."""

from __future__ import annotations

import builtins
import html
import json
import os
import re
import shutil
import time
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, GraphError, MissingDependencyError
from tinygrad_seq.graph import node_of
from tinygrad_seq.viz import draw, render
from tinygrad_seq.viz.times import times_of
from tinygrad_seq.viz.unfold import read

HOSTILE = [
    'a "quoted" name', "<b>bold</b>", "back\\slash", "ends with \\", "two\nlines", "\\N", "\\l\\r\\G", "重み", "隠れ 状態 ₁", "digraph", "node", "edge",
    "subgraph { a -> b }", "&lt; &amp; &#65;", "a;b,c=[d]", "// no comment", "]]>--><script>",
]  # fmt: skip


def rng():
    return np.random.default_rng(0)


def parameter(draws, name, *shape):
    return tg.Tensor(draws.normal(size=shape).astype("f4") * 0.5, requires_grad=True, name=name)


def data(draws, *shape):
    return tg.Tensor(draws.normal(size=shape).astype("f4"))


def elman(T=4, names=("W_x", "W_h", "b", "W_y"), steps=tg.steps):
    draws = rng()
    shapes = (3, 5), (5, 5), (5,), (5, 2)
    w_x, w_h, b, w_y = (parameter(draws, name, *shape) for name, shape in zip(names, shapes, strict=True))
    h, losses = tg.zeros((2, 5)), []
    for x in steps(data(draws, T, 2, 3)):
        h = tg.tanh(x @ w_x + h @ w_h + b)
        losses.append(((h @ w_y) ** 2).sum())
    return sum(losses)


def lstm(T=3, H=4):
    draws = rng()
    w_x, w_h, b = (parameter(draws, name, *shape) for name, shape in (("W_x", (3, 4 * H)), ("W_h", (H, 4 * H)), ("b", (4 * H,))))
    h, c, loss = tg.zeros((2, H)), tg.zeros((2, H)), 0.0
    for x in tg.steps(data(draws, T, 2, 3)):
        z = x @ w_x + h @ w_h + b
        i, f, g, o = (z[:, k * H : (k + 1) * H] for k in range(4))
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        loss = loss + (h**2).mean()
    return loss


class Cell(tg.nn.Module):
    def __init__(self):
        self.i, self.h = tg.nn.Linear(3, 4, rng=0), tg.nn.Linear(4, 4, rng=1)

    def forward(self, x, h):
        return tg.tanh(self.i(x) + self.h(h))


def plain_loop(T=4):
    cell, h, loss = Cell(), tg.zeros((2, 4)), 0.0
    for x in data(rng(), T, 2, 3):
        h = cell(x, h)
        loss = loss + (h**2).mean()
    return loss


def stacked():
    hs, _ = tg.nn.RNN(3, 4, num_layers=2, rng=0)(data(rng(), 4, 2, 3))
    return (hs**2).mean()


def gru():
    draws = rng()
    w = {name: parameter(draws, f"W_{name}", 3 if name[0] == "x" else 4, 4) for name in ("xr", "xz", "xn", "hr", "hz", "hn")}
    h = tg.zeros((2, 4))
    for x in tg.steps(data(draws, 3, 2, 3)):
        r, z = tg.sigmoid(x @ w["xr"] + h @ w["hr"]), tg.sigmoid(x @ w["xz"] + h @ w["hz"])
        h = (1 - z) * tg.tanh(x @ w["xn"] + r * (h @ w["hn"])) + z * h
    return h.sum()


def attention():
    encoder, decoder, h, memory, losses = Cell(), Cell(), tg.zeros((2, 4)), [], []
    for x in tg.steps(data(rng(), 3, 2, 3)):
        h = encoder(x, h)
        memory.append(h)
    hs = tg.stack(memory)
    for x in tg.steps(data(rng(), 3, 2, 3)):
        scores = tg.exp((hs * h).sum(axis=-1, keepdims=True))
        h = decoder(x, h + (scores * hs).sum(axis=0) / scores.sum(axis=0))
        losses.append((h**2).mean())
    return sum(losses)


def columns_of(dot):
    return [int(n) for n in re.findall(r'subgraph "cluster_(-?\d+)"', dot)]


def visible_edges(dot):
    return re.findall(r'^  "([^"]+)" -> "([^"]+)"(?! \[style=invis)', dot, re.M)


# ---- The picture is the tape ------------------------------------------------------------------------------------------------------


def test_every_argument_of_every_op_is_one_edge():
    loss = elman()
    tape = {node for node in tg.toposort([loss]) if node.prim is not None}
    inside = {node for node in tape if node.frame is not None}  # the sum of the losses, outside the loop, is one box
    expected = Counter((node, i) for node in inside for i in range(len(node.args)) if node.args[i] is not None)
    del_numbers = {(node, 1) for node in inside if node.prim.name == "power"}
    picture = read([loss])
    drawn = Counter(edge.use for edge in picture.edges if edge.use is not None and edge.use[0] in inside)
    assert drawn == Counter({use: n for use, n in expected.items() if use not in del_numbers})
    for edge in picture.edges:
        if edge.use is not None:
            node, position = edge.use
            source = node_of(node.args[position])
            assert source is None or picture.boxes[edge.source].tape is source
    assert len(visible_edges(draw(loss).dot)) == len(picture.edges)


def test_the_sum_of_the_losses_has_one_edge_per_step():
    picture = read([elman(T=5)])
    (total,) = (box for box in picture.boxes.values() if box.kind == "loss")
    assert total.label == "loss = Σ"
    assert [picture.boxes[e.source].column for e in picture.edges if e.target == total.id] == [1, 2, 3, 4, 5]


def test_every_use_of_a_weight_is_a_copy_of_its_own_in_one_colour():
    loss = elman(T=4)
    uses = Counter(
        n.notes_of(0).name for node in tg.toposort([loss]) for n in map(node_of, node.args) if n is not None and n.prim is None
    )
    boxes = [box for box in read([loss]).boxes.values() if box.kind == "weight"]
    assert Counter(box.label for box in boxes) == uses == Counter(W_x=4, W_h=4, b=4, W_y=4)
    fills = {
        (label, fill) for label, fill in re.findall(r'label=(<W<FONT[^>]*>[xhy]</FONT>>|"b") fillcolor="(#\w{6})"', draw(loss).dot)
    }
    assert len(fills) == len({fill for _, fill in fills}) == 4


def test_a_square_written_as_a_product_has_two_edges():
    x = tg.tensor(2.0, requires_grad=True)
    assert Counter(e.target for e in read([x * x]).edges) == {"n1": 2}
    y = tg.exp(x)
    assert Counter((e.source, e.target) for e in read([y * y]).edges)["n1", "n2"] == 2


def test_a_graph_without_time_has_no_columns_and_shows_a_leaf_once():
    x = tg.tensor(2.0, requires_grad=True, name="x")
    loss = tg.sin(x * x) + 3 * x
    picture = read([loss])
    assert columns_of(draw(loss).dot) == [] and picture.counts()["weight"] == 1 and len(picture.edges) == 6


# ---- Time ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [elman, plain_loop, stacked])
def test_one_column_per_step_with_the_initial_state_before_them(graph):
    assert columns_of(draw(graph()).dot) == [0, 1, 2, 3, 4]


def test_calls_of_one_module_in_a_plain_loop_are_its_steps():
    times = times_of(tg.toposort([plain_loop(T=3)]))
    assert Counter((node.prim.name, t) for node, t in times.items() if node.prim.name in ("tanh", "mean")) == Counter(
        {(name, t): 1 for name in ("tanh", "mean") for t in (1, 2, 3)}
    )


def test_a_module_without_parameters_called_twice_is_no_loop():
    class Halve(tg.nn.Module):
        def forward(self, x):
            return x * 0.5

    halve, x = Halve(), tg.tensor([1.0], requires_grad=True)
    assert times_of(tg.toposort([halve(tg.exp(halve(tg.exp(x))))])) == {}


def test_a_decoder_that_starts_from_the_encoders_state_runs_on_in_time():
    encoder, decoder, h = Cell(), Cell(), tg.zeros((2, 4))
    xs = data(rng(), 3, 2, 3)
    for cell in (encoder, decoder):
        for x in xs:
            h = cell(x, h)
    assert columns_of(draw(h.sum()).dot) == [0, 1, 2, 3, 4, 5, 6]


def test_states_are_found_and_the_rails_connect_neighbouring_steps():
    picture = read([lstm()])
    assert sorted((state.kind, state.name) for state in picture.states) == [("c", "c"), ("h", "h"), ("sum", "")]
    states = [box.label for box in picture.boxes.values() if box.kind == "state"]
    assert sorted(states) == sorted(["h₀", "h₁", "h₂", "h₃", "c₀", "c₁", "c₂", "c₃", "0"])
    for edge in picture.edges:
        if edge.kind in ("state", "sum"):
            assert picture.boxes[edge.target].column - picture.boxes[edge.source].column == 1


def test_a_loop_backwards_in_time_hands_its_state_to_the_step_before():
    with tg.unfolded():
        hs, _ = tg.nn.RNN(3, 4, bidirectional=True, rng=0)(data(rng(), 3, 2, 3))
    picture = read([hs.sum()])
    assert picture.initial == [0, 4] and sorted(state.towards for state in picture.states) == [-1, 1]
    moves = Counter(picture.boxes[e.target].column - picture.boxes[e.source].column for e in picture.edges if e.kind == "state")
    assert moves == {1: 3, -1: 3}


@pytest.mark.parametrize("slicing", ["unstack", "index", "leaf"])
def test_the_element_of_a_sequence_is_an_input_of_its_step(slicing):
    xs = data(rng(), 3, 4)
    xs = tg.Tensor(xs.numpy(), requires_grad=True, name="xs") if slicing == "leaf" else xs
    w, h = parameter(rng(), "w", 4), tg.zeros((4,))
    for t, x in enumerate(tg.steps(xs if slicing == "unstack" else range(3))):
        h = tg.tanh((x if slicing == "unstack" else xs[t]) * w + h)
    inputs = [(box.label, box.column) for box in read([h.sum()]).boxes.values() if box.kind == "input"]
    assert inputs == [("x₁", 1), ("x₂", 2), ("x₃", 3)]


def test_user_names_are_shown():
    w, h = parameter(rng(), "cell.weight", 4, 4), tg.zeros((2, 4))
    for _ in tg.steps(range(2)):
        h = tg.tanh(h @ w + 1)
        h.name = "memory"
    h = h.sum()
    h.name = "score"
    labels = [box.label for box in read([h]).boxes.values()]
    assert {"memory₀", "memory₁", "memory₂", "score = Σ", "weight", "+ 1"} <= set(labels)


def test_a_long_loop_shows_its_ends_and_all_on_demand():
    loss = elman(T=13)
    assert columns_of(draw(loss).dot) == [0, 1, 2, 3, 4, 12, 13]
    assert 'label="t = 4 … 11"' in draw(loss).dot
    assert columns_of(draw(loss, full=True).dot) == list(range(14))
    assert columns_of(draw(elman(T=12)).dot) == list(range(13))


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_five_thousand_steps_are_drawn_without_recursion(full):
    drawing = draw(elman(T=5000), full=full)
    assert "in 5000 steps" in repr(drawing)
    assert len(columns_of(drawing.dot)) == (5001 if full else 7)


# ---- The text -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [elman, lstm, plain_loop, stacked, gru])
def test_the_same_graph_gives_the_same_text(graph):
    first, second = graph(), graph()
    assert draw(first, shapes=True).dot == draw(second, shapes=True).dot
    assert draw(first, gradients=True).dot == draw(first, gradients=True).dot


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_changes_the_structure_and_every_name_is_readable(name):
    pygraphviz = pytest.importorskip("pygraphviz", reason="pygraphviz reads the text back")
    plain, named = draw(elman(2)), draw(elman(2, names=(name, "W_h", "b", "W_y")))
    graphs = [pygraphviz.AGraph(string=drawing.dot) for drawing in (plain, named)]
    assert graphs[0].nodes() == graphs[1].nodes() and sorted(graphs[0].edges()) == sorted(graphs[1].edges())
    assert [g.name for g in graphs[0].subgraphs()] == [g.name for g in graphs[1].subgraphs()]
    texts = [html.unescape(text).replace("\xa0", " ") for text in re.findall(r"<text[^>]*>(.*?)</text>", svg_of(named.dot))]
    for line in name.split("\n"):
        assert texts.count(line) == 2


def test_control_characters_are_shown_as_such():
    assert 'label="a�b"' in draw(tg.exp(tg.tensor(1.0, requires_grad=True, name="a\x00b"))).dot


def test_shapes_are_written_on_demand():
    dot = draw(elman(2), shapes=True).dot
    assert 'label=<W<FONT POINT-SIZE="8">x</FONT><BR/><FONT POINT-SIZE="9">3×5</FONT>>' in dot
    assert 'label=<tanh<BR/><FONT POINT-SIZE="9">2×5</FONT>>' in dot


def test_the_shapes_of_several_results_are_told_once():
    x = tg.tensor(np.ones((2, 6)), requires_grad=True)
    assert '<FONT POINT-SIZE="9">3 of 2×2</FONT>' in draw(sum(tg.split(x, 3, axis=1)), shapes=True).dot
    assert '<FONT POINT-SIZE="9">2×1, 2×5</FONT>' in draw([part.sum() for part in tg.split(x, [1], axis=1)], shapes=True).dot


def test_an_argument_that_was_not_given_is_not_written():
    attention = tg.nn.MultiheadAttention(4, 1, rng=0)
    x = data(rng(), 3, 2, 4)
    dot = draw(attention(x, x, x, need_weights=False)[0].sum()).dot
    assert "self_attention" in dot
    assert "None" not in dot


def test_a_constant_without_a_name_shows_its_shape_once():
    w = tg.tensor(np.ones((3, 2)), requires_grad=True)
    assert 'label="(4, 3)"' in draw(np.ones((4, 3)) @ w, shapes=True).dot


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("W_h", "<W{h}>"),
        ("b_ih", "<b{ih}>"),
        ("θ_1", "<θ{1}>"),
        ('W_h <b> & "c"', "<W{h} &lt;b&gt; &amp; &quot;c&quot;>"),
        ("W_h\nof the cell", "<W{h}<BR/>of the cell>"),
        ("weight_hh_l0", '"weight_hh_l0"'),
        ("W_hidden", '"W_hidden"'),
        ("W_h_2", '"W_h_2"'),
        ("W_", '"W_"'),
        ("_h", '"_h"'),
    ],
)
def test_the_index_of_a_symbol_is_written_small(name, label):
    label = re.sub(r"\{(\w+)\}", r'<FONT POINT-SIZE="8">\1</FONT>', label)
    drawing = draw(tg.exp(tg.tensor(1.0, requires_grad=True, name=name)))
    assert f"[label={label} " in drawing.dot
    texts = [html.unescape(text).replace("\xa0", " ") for text in re.findall(r"<text[^>]*>(.*?)</text>", svg_of(drawing.dot))]
    shown = name.replace("_", "", 1) if "FONT" in label else name
    assert shown.replace("\n", "") in "".join(texts)


def test_parameters_of_one_module_are_named_alike():
    model = tg.nn.Module()
    model.one, model.two, model.rnn = tg.nn.Linear(3, 3), tg.nn.Linear(3, 2, bias=False), tg.nn.RNN(3, 3)
    hs, _ = model.rnn(model.one(data(rng(), 2, 1, 3)))
    for name, p in model.named_parameters():
        p.name = name
    labels = set(re.findall(r'label="([^"]*(?:weight|bias)[^"]*)"', draw(model.two(hs)).dot))
    assert labels == {"one.weight", "one.bias", "two.weight", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}


def test_what_is_no_result_is_refused():
    for given in (tg.tensor(1.0, requires_grad=True), [], [tg.nn.Parameter([1.0])]):
        with pytest.raises(GraphError, match="nothing was computed"):
            draw(given)
    with pytest.raises(ArgumentError, match="ndarray is no Tensor"):
        draw(np.ones(3))


# ---- Gradients ------------------------------------------------------------------------------------------------------------------------


def test_the_terms_on_the_copies_of_a_weight_are_those_of_its_gradient():
    draws = rng()
    w, x = tg.Tensor(0.8, dtype="f8", requires_grad=True, name="w"), draws.normal(size=3)
    h = tg.zeros((), dtype="f8")
    for value in tg.steps(x):
        h = tg.tanh(w * h + value)
    states, gs = [0.0], [0.0] * 4
    for value in x:
        states.append(np.tanh(0.8 * states[-1] + value))
    gs[3] = 1 - states[3] ** 2
    for t in (2, 1):
        gs[t] = gs[t + 1] * 0.8 * (1 - states[t] ** 2)
    terms = [f"{abs(gs[t] * states[t - 1]):.2g}" for t in (1, 2, 3)]
    assert re.findall(r'label=<w<BR/><FONT POINT-SIZE="9">([^<]+)<', draw(h, gradients=True).dot) == terms
    assert w.grad is None


def test_a_weight_that_is_drawn_once_shows_the_norm_of_its_whole_gradient():
    w = tg.tensor([0.5, -1.0], "float64", requires_grad=True, name="w")
    h = tg.zeros(2, "float64")
    for x in (1.0, 2.0, 3.0):  # a loop that tells the tape nothing about time
        h = tg.tanh(w * h + x * w)
    loss = h.sum()
    norm = np.linalg.norm(tg.grad(loss, w).numpy())
    assert re.findall(r'label=<w<BR/><FONT POINT-SIZE="9">([^<]+)<', draw(loss, gradients=True).dot) == [f"{norm:.2g}"]


def test_gradients_run_against_the_arrows_and_change_no_structure():
    loss = lstm()
    plain, backward = draw(loss).dot, draw(loss, gradients=True).dot
    assert visible_edges(plain) == visible_edges(backward)
    assert backward.count("dir=back") > plain.count("dir=back")


# ---- What Graphviz makes of it ----------------------------------------------------------------------------------------------------


def svg_of(dot, kind="svg"):
    pygraphviz = pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")
    return pygraphviz.AGraph(string=dot).draw(format=kind, prog="dot").decode()


def layout(dot):
    """The columns from left to right, the nodes as boxes (left, bottom, right, top), and the ids of visible nodes."""
    objects = json.loads(svg_of(dot, "json0"))["objects"]
    clusters = sorted(
        (float(o["bb"].split(",")[0]), float(o["bb"].split(",")[2]), int(o["name"].split("_")[1])) for o in objects if "bb" in o
    )
    boxes = {}
    for o in objects:
        if "pos" in o and o.get("style") != "invis":
            (x, y), w, h = map(float, o["pos"].split(",")), 36 * float(o["width"]), 36 * float(o["height"])
            boxes[o["name"]] = (x - w, y - h, x + w, y + h)
    return clusters, boxes


@pytest.mark.parametrize("graph", [elman, lstm, plain_loop, stacked, gru, attention, lambda: elman(40), lambda: lstm(20)])
def test_columns_stand_in_the_order_of_time_and_no_boxes_overlap(graph):
    loss = graph()
    clusters, boxes = layout(draw(loss).dot)
    order = [column for _, _, column in clusters]
    assert order == sorted(order) and len(order) > 3
    assert all(left[1] < right[0] for left, right in pairwise(clusters))
    for (a, (l1, b1, r1, t1)), (b, (l2, b2, r2, t2)) in combinations(boxes.items(), 2):
        assert r1 <= l2 or r2 <= l1 or t1 <= b2 or t2 <= b1, f"{a} and {b} overlap"
    columns = {column: (left, right) for left, right, column in clusters}
    for box in read([loss]).boxes.values():
        if box.column is not None and box.id in boxes:
            assert columns[box.column][0] <= boxes[box.id][0] and boxes[box.id][2] <= columns[box.column][1]


@pytest.mark.parametrize("graph", [lstm, lambda: lstm(20)])
def test_the_cell_state_runs_on_one_line_from_left_to_right(graph):
    picture = read([graph()])
    _, boxes = layout(draw(graph()).dot)
    assert len(picture.rails) == 2
    for rail in picture.rails:
        assert len({(boxes[id][1] + boxes[id][3]) / 2 for id in rail}) == 1
        on_the_way = [id for id in rail if picture.boxes[id].kind != "more"]
        assert all(boxes[a][2] < boxes[b][0] for a, b in pairwise(on_the_way))


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "dot"])
def test_save_writes_the_format_that_the_ending_names(tmp_path, ending):
    if ending != "dot" and shutil.which("dot") is None:
        pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")
    path = draw(elman(2)).save(tmp_path / f"loss.{ending}")
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}
    assert path.read_bytes().startswith(starts[ending])


def test_a_notebook_shows_svg():
    pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")
    drawing = draw(elman(2))
    bundle = drawing._repr_mimebundle_()
    assert bundle["image/svg+xml"] == drawing.svg and "<svg" in bundle["text/html"]
    assert bundle["text/plain"] == repr(drawing)


# ---- Errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_renderer(monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "pygraphviz":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(render.shutil, "which", lambda program: None)


def test_without_a_renderer_the_text_is_kept_and_the_error_names_both_ways(no_renderer, tmp_path):
    drawing = draw(elman(2))
    with pytest.raises(MissingDependencyError, match=r"(?s)pip install 'tinygrad_seq\[viz\]'.*system's graphviz.*loss\.dot"):
        drawing.save(tmp_path / "loss.png")
    assert (tmp_path / "loss.dot").read_bytes() == drawing.dot.encode() and not (tmp_path / "loss.png").exists()
    assert drawing._repr_mimebundle_() == {"text/plain": drawing.dot}


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for dot")
def test_a_layout_that_does_not_end_is_stopped_and_the_error_names_the_way_out(monkeypatch, tmp_path):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(render.shutil, "which", lambda name: str(program))
    monkeypatch.setattr(render, "PATIENCE", 0.2)
    drawing, start = draw(elman(2)), time.monotonic()
    with pytest.raises(GraphError, match=r"(?s)within 0\.2 seconds.*level='cells'.*full=False"):
        drawing.save(tmp_path / "loss.png")
    assert time.monotonic() - start < 10 and not (tmp_path / "loss.png").exists()


def test_an_unknown_ending_and_a_constant_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"\.svg, \.png, \.pdf or \.dot"):
        draw(elman(2)).save(tmp_path / "loss.jpg")
    with pytest.raises(GraphError, match="draw"):
        draw(tg.tensor(1.0))
