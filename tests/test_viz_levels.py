"""Levels of a drawing: cells with their weights, folded loops, scopes opened and closed, directions, attention; and where it all stands."""

from __future__ import annotations

import html
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from svg_checks import complaints, through_boxes
from svg_checks import read as svg_read

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, GraphError
from tinygrad_seq.fusion import opened
from tinygrad_seq.scan import time_loop
from tinygrad_seq.viz import draw, render
from tinygrad_seq.viz.cells import collapse, expand
from tinygrad_seq.viz.grid import grid
from tinygrad_seq.viz.per_step import per_step
from tinygrad_seq.viz.unfold import read


def data(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).normal(size=shape).astype("f4"))


class Tagger(nn.Module):
    """A loss at every step of a network."""

    def __init__(self, net, width):
        self.net, self.read = net, nn.Linear(width, 2, rng=1)

    def forward(self, xs, **options):
        losses = []
        for h in tg.steps(self.net(xs, **options)[0]):
            losses.append((self.read(h) ** 2).mean())
        return sum(losses)


class Translator(nn.Module):
    """A decoder that looks back at its encoder."""

    def __init__(self):
        self.encoder, self.decoder = nn.GRU(3, 4, rng=0), nn.GRUCell(3, 4, rng=1)
        self.attention, self.read = nn.BilinearAttention(4, 4, rng=2), nn.Linear(8, 2, rng=3)
        self.weights = []

    def forward(self, xs, ys):
        memory, last = self.encoder(xs)
        h, losses = last[0], []
        for y in tg.steps(ys):
            h = self.decoder(y, h)
            context, weights = self.attention(h, memory)
            self.weights.append(weights.numpy())
            losses.append((self.read(tg.concatenate([h, context], axis=-1)) ** 2).mean())
        return sum(losses)


class Mine(nn.Module):
    def __init__(self, D):
        self.hidden_size, self.w, self.u = 4, nn.Linear(D, 4, rng=0), nn.Linear(4, 4, bias=False, rng=1)

    def forward(self, x, h):
        return tg.tanh(self.w(x) + self.u(h))


class Bahdanau(nn.Module):
    """Its decoder looks at both directions of the encoder before every step."""

    def __init__(self):
        self.encoder, self.decoder = nn.GRU(3, 4, bidirectional=True, rng=0), nn.GRUCell(11, 4, rng=1)
        self.attention = nn.AdditiveAttention(4, 8, 5, rng=2)

    def forward(self, xs, ys):
        memory, _ = self.encoder(xs)
        h, losses = tg.zeros((2, 4)), []
        for y in tg.steps(ys, start=len(xs) + 1):
            context, _ = self.attention(h, memory)
            h = self.decoder(tg.concatenate([y, context], axis=-1), h)
            losses.append((h**2).mean())
        return sum(losses)


class Language(nn.Module):
    def __init__(self):
        self.embed, self.rnn, self.out = nn.Embedding(7, 3, rng=0), nn.LSTM(3, 4, rng=1), nn.Linear(4, 7, rng=2)

    def forward(self, ids):
        hs, _ = self.rnn(self.embed(ids))
        return nn.functional.cross_entropy(self.out(hs), np.roll(ids, -1, 0))


def elman(T=3):
    rng = np.random.default_rng(0)
    w_x, w_h, b, w_y = (
        tg.Tensor(rng.normal(size=s).astype("f4"), requires_grad=True, name=name)
        for name, s in (("W_x", (3, 4)), ("W_h", (4, 4)), ("b", (4,)), ("W_y", (4, 2)))
    )
    h, losses = tg.zeros((2, 4)), []
    for x in tg.steps(data(T, 2, 3)):
        h = tg.tanh(x @ w_x + h @ w_h + b)
        losses.append(((h @ w_y) ** 2).mean())
    return sum(losses)


def tagger(kind, T=3, **options):
    width = 4 * (1 + options.get("bidirectional", False))
    return Tagger(kind(3, 4, rng=0, **options), width)(data(T, 2, 3))


NETS = {
    "elman": elman,
    "rnn": lambda T=3: tagger(nn.RNN, T),
    "lstm": lambda T=3: tagger(nn.LSTM, T),
    "gru": lambda T=3: tagger(nn.GRU, T),
    "two layers": lambda T=3: tagger(nn.LSTM, T, num_layers=2),
    "two directions": lambda T=3: tagger(nn.LSTM, T, bidirectional=True),
    "two layers, two directions": lambda T=3: tagger(nn.RNN, T, num_layers=2, bidirectional=True),
    "of one's own": lambda T=3: Tagger(nn.Recurrent(Mine, 3, num_layers=2), 4)(data(T, 2, 3)),
}
OTHERS = {
    "lengths": lambda: Tagger(nn.RNN(3, 4, num_layers=2, bidirectional=True, rng=0), 8)(data(3, 2, 3), lengths=[3, 2]),
    "attention": lambda: Translator()(data(4, 2, 3), data(3, 2, 3, seed=1)),
    "attention before the cell": lambda: Bahdanau()(data(4, 2, 3), data(3, 2, 3, seed=1)),
    "language": lambda: Language()(np.arange(8).reshape(4, 2) % 7),
    "the last state": lambda: (nn.LSTM(3, 4, rng=0)(data(3, 2, 3))[1][0] ** 2).mean(),
    "all states": lambda: (nn.RNN(3, 4, bidirectional=True, rng=0)(data(3, 2, 3))[0] ** 2).mean(),
}
ALL = NETS | OTHERS


def tape(loss):
    return per_step(opened([loss], time_loop, checked=False))


def edges_of(picture):
    return Counter((e.source, e.target, e.kind, e.family, e.use) for e in picture.all_edges())


def cells_of(picture):
    return [box for box in picture.boxes.values() if box.kind == "cell"]


# ---- Collapse and expand --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(ALL)), st.data())
def test_collapsing_any_boxes_and_expanding_them_keeps_every_edge(name, choose):
    picture = read(tape(ALL[name]()))
    ops = [box for box in picture.boxes.values() if box.kind in ("op", "term", "loss")]
    number = choose.draw(st.lists(st.integers(0, 3), min_size=len(ops), max_size=len(ops)))
    groups = {box.id: (f"cell{box.column}_{k}", f"{k}") for box, k in zip(ops, number, strict=True) if k}
    before = edges_of(picture)
    closed = collapse(picture, groups)
    assert {box.id for box in cells_of(closed)} == {cell for cell, _ in groups.values()}
    assert not set(groups) & set(closed.boxes)
    assert edges_of(closed) == before
    again = expand(closed)
    assert edges_of(again) == before and set(again.boxes) == set(picture.boxes) - {"floor"}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wishes", [{"cells": True}, {"collapse": "Linear"}, {"cells": True, "open": "*"}, {"collapse": "*"}])
def test_every_level_hides_edges_and_loses_none(name, wishes):
    if wishes == {"collapse": "Linear"} and name in ("elman", "attention before the cell", "the last state", "all states"):
        pytest.skip("no Linear in it")
    values = tape(ALL[name]())
    whole, closed = read(values), read(values, **wishes)
    uses = Counter((e.use, e.source, e.target) for e in whole.all_edges())
    assert Counter((e.use, e.source, e.target) for e in closed.all_edges()) == uses
    assert Counter((e.use, e.source, e.target) for e in expand(closed).edges) == uses


def test_what_is_computed_between_loops_is_the_same_step_by_step():
    net = Tagger(nn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0), 8)
    loss = net(data(4, 3, 3), lengths=[4, 2, 3])
    (again,) = per_step(opened([loss], time_loop))
    parameters = list(net.parameters())
    np.testing.assert_allclose(again.numpy(), loss.numpy(), rtol=1e-6)
    for a, b in zip(tg.grad(loss, parameters), tg.grad(again, parameters), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-7)
    names = Counter(node.prim.name for node in tg.toposort([again]) if node.prim and node.frame.time is None)
    assert names["concatenate"] == 0 and names["where"] == 0


# ---- Cells ------------------------------------------------------------------------------------------------------------------------------


def test_a_cell_is_a_box_for_every_layer_and_step_with_its_weights_inside():
    picture = read(tape(NETS["two layers"](T=4)), cells=True)
    assert Counter((box.label, box.column) for box in cells_of(picture)) == Counter(
        {(label, t): 1 for label in ("LSTM ₁", "LSTM ₂", "Linear") for t in (1, 2, 3, 4)}
    )
    for box in cells_of(picture):
        weights = [one.label for one in box.inside if one.kind == "weight"]
        layer = {"LSTM ₁": "_l0", "LSTM ₂": "_l1"}.get(box.label)
        assert sorted(weights) == (
            sorted(f"{name}{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")) if layer else ["bias", "weight"]
        )


def test_the_same_colour_is_the_same_parameter():
    dot = draw(NETS["two layers"](), level="cells").dot
    chips = re.findall(r'BGCOLOR="(#\w{6})"[^>]*><FONT POINT-SIZE="9"[^>]*>', dot)
    assert len(chips) == 3 * 10 and set(Counter(chips).values()) == {3}


def test_the_cell_of_a_step_is_what_makes_its_state_and_no_more():
    picture = read(tape(elman()), cells=True)
    assert Counter(box.label for box in cells_of(picture)) == {"cell": 3}
    assert {one.tape.prim.name for box in cells_of(picture) for one in box.inside if one.kind == "op"} == {"matmul", "add", "tanh"}
    outside = Counter(box.label for box in picture.boxes.values() if box.kind in ("op", "weight"))
    assert outside == {"@": 3, "^ 2": 3, "W_y": 3}


def test_padding_is_masked_inside_the_cells():
    picture = read(tape(OTHERS["lengths"]()), cells=True)
    labels = Counter(box.label.split(" ")[0] for box in picture.boxes.values() if box.column is not None)
    assert labels["where"] == 0 and labels["RNN"] == 12 and labels["concat"] == 6


def test_a_sequence_is_embedded_in_the_column_of_every_step():
    picture = read(tape(OTHERS["language"]()), cells=True)
    assert Counter((box.label, box.column) for box in cells_of(picture)) == Counter(
        {**{(label, t): 1 for label in ("Embedding", "LSTM") for t in (1, 2, 3, 4)}, ("Linear", None): 1}
    )


def test_without_time_the_innermost_modules_are_cells_and_what_is_between_them_stays_open():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, rng=0)
    picture = read(tape((layer(data(3, 2, 8)) ** 2).mean()), cells=True)
    labels = {box.label for box in cells_of(picture)}
    assert labels == {"MultiheadAttention", "LayerNorm norm1", "LayerNorm norm2", "Linear linear1", "Linear linear2"}


def test_a_state_runs_from_cell_to_cell_once_for_every_step():
    picture = read(tape(NETS["two layers, two directions"](T=4)), cells=True)
    moves = Counter(picture.boxes[e.target].column - picture.boxes[e.source].column for e in picture.edges if e.kind == "lane")
    assert moves == {1: 8, -1: 8} and len(picture.lanes) == 4
    for lane in picture.lanes:
        columns = [picture.boxes[id].column for id in lane]
        assert columns == sorted(columns) and len(columns) == 5


# ---- Scopes -----------------------------------------------------------------------------------------------------------------------------


def test_a_scope_is_named_by_its_module_its_class_its_path_or_its_place():
    model = Translator()
    values = tape(model(data(2, 2, 3), data(2, 2, 3)))
    expected = read(values, collapse=model.decoder)
    assert Counter(box.label for box in cells_of(expected)) == {"GRUCell": 2}
    for wish in ("GRUCell", "decoder", "*Cell", "Translator > GRUCell", [model.decoder]):
        assert edges_of(read(values, collapse=wish)) == edges_of(expected)
        assert set(read(values, collapse=wish).boxes) == set(expected.boxes)


def test_a_frame_of_ones_own_is_a_scope():
    w = tg.tensor(np.ones((4, 4), "f4"), requires_grad=True, name="w")
    with tg.frame("twice") as mine:
        y = tg.tanh(w @ w) @ w
    loss = (y**2).sum()
    for wish in ("twice", mine):
        (cell,) = cells_of(read([loss], collapse=wish))
        assert cell.label == "twice" and Counter(one.kind for one in cell.inside) == {"op": 3, "weight": 1}


def test_what_is_opened_is_drawn_op_by_op_and_the_rest_stays_closed():
    values = tape(NETS["two layers"]())
    picture = read(values, cells=True, open="layer 0")
    assert Counter(box.label for box in cells_of(picture)) == {"LSTM ₂": 3, "Linear": 3}
    assert sum(box.label == "split" for box in picture.boxes.values()) == 3
    inside = read(values, cells=True, open="Tagger", collapse="Linear")
    assert Counter(box.label for box in cells_of(inside)) == {"Linear": 3}


def test_everything_opened_is_the_picture_of_the_ops():
    values = tape(NETS["of one's own"]())
    assert edges_of(read(values, cells=True, open="*")) == edges_of(read(values))


def test_a_wish_that_names_nothing_is_refused_with_the_scopes_there_are():
    with pytest.raises(ArgumentError, match=r"(?s)'LTSM' names no scope.*Tagger > LSTM > layer 0"):
        draw(NETS["two layers"](), collapse="LTSM")
    with pytest.raises(ArgumentError, match=r"(?s)no level 'cell'.*'ops', 'cells' or 'folded'"):
        draw(NETS["rnn"](), level="cell")


# ---- Folded -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_folded_loop_does_not_tell_how_long_it_is(name):
    short, long = draw(NETS[name](2), level="folded"), draw(NETS[name](7), level="folded")
    assert short.dot == long.dot
    assert draw(NETS[name](2), level="folded", open="*").dot == draw(NETS[name](7), level="folded", open="*").dot


def test_every_state_has_one_delay_through_which_it_comes_back():
    picture = read(tape(NETS["two layers"](T=5)), cells=True, folded=True)
    delays = [box.id for box in picture.boxes.values() if box.kind == "delay"]
    assert len(delays) == 4 == len(picture.states)
    into = Counter(e.target for e in picture.edges if e.kind == "delayed")
    out = Counter(e.source for e in picture.edges if e.kind == "undelayed")
    assert into == out == Counter(delays)


def test_a_loop_backwards_in_time_comes_back_through_an_advance():
    picture = read(tape(NETS["two directions"]()), cells=True, folded=True)
    assert Counter(box.label for box in picture.boxes.values() if box.kind == "delay") == {"z⁻¹": 2, "z": 2}


def skipping(at=None, weight=None):
    w, v = (tg.Tensor(np.eye(3, dtype="f4"), requires_grad=True, name=name) for name in "wv")
    h = tg.zeros((3,))
    for t, x in enumerate(tg.steps(data(5, 3)), 1):
        h = tg.tanh(h @ (v if t == weight else w) + x)
        if t == at:
            h = h * 2
    return h.sum()


def test_a_net_that_differs_at_one_step_is_refused_by_the_step_and_the_difference():
    assert "z⁻¹" in draw(skipping(), level="folded").dot
    with pytest.raises(GraphError, match=r"step 3 is not like the others: it has `multiply`"):
        draw(skipping(at=3), level="folded")
    with pytest.raises(GraphError, match=r"step 4 .*`matmul`.* takes leaf v, in step \d leaf w"):
        draw(skipping(weight=4), level="folded")
    with pytest.raises(GraphError, match=r"step 3 is not like the others: it has `where`"):
        draw(OTHERS["lengths"](), level="folded")


@pytest.mark.parametrize("overlay", [{"gradients": True}, {"values": True}, {"gates": True}, {"sensitivity": 1}])
def test_what_is_of_one_step_is_not_written_on_the_picture_of_all(overlay):
    with pytest.raises(ArgumentError, match=f"(?s){next(iter(overlay))}.*folded.*level='cells'"):
        draw(NETS["rnn"](), level="folded", **overlay)


def test_there_must_be_something_to_fold():
    x = tg.tensor(2.0, requires_grad=True)
    with pytest.raises(GraphError, match="no loop over time"):
        draw(x * x, level="folded")
    with pytest.raises(GraphError, match="one step"):
        draw(elman(1), level="folded")


# ---- Attention ----------------------------------------------------------------------------------------------------------------------------


def test_attention_runs_from_every_state_to_every_reader_as_wide_as_its_weight():
    model = Translator()
    loss = model(data(4, 2, 3), data(3, 2, 3, seed=1))
    picture = read(tape(loss), cells=True)
    edges = [e for e in picture.edges if e.kind == "attend"]
    widths = np.zeros((3, 4))
    for edge in edges:
        source, target = picture.boxes[edge.source], picture.boxes[edge.target]
        assert target.label == "BilinearAttention" and source.label == "GRU"
        widths[target.column - 5, source.column - 1] = float(edge.look["penwidth"])
    expected = np.stack([w.mean(axis=0) for w in model.weights])
    np.testing.assert_allclose(widths, 0.4 + 5 * expected, atol=0.006)
    assert len(edges) == 12 and f"at most {expected.max():.2f}" in picture.remarks[0]


def test_attention_before_the_cell_reads_the_state_of_the_step_before_and_both_directions():
    picture = read(tape(OTHERS["attention before the cell"]()), cells=True)
    lanes = [{picture.boxes[id].label for id in lane if picture.boxes[id].kind == "cell"} for lane in picture.lanes]
    assert lanes == [{"GRU →"}, {"GRU ←"}, {"GRUCell"}]
    across = [(picture.boxes[e.source].label, picture.boxes[e.target].label) for e in picture.edges if e.kind == "across"]
    assert across == [("GRUCell", "AdditiveAttention")] * 2
    attended = Counter(picture.boxes[e.source].label for e in picture.edges if e.kind == "attend")
    assert attended == {"GRU →": 12, "GRU ←": 12}


def test_encoder_and_decoder_stand_side_by_side_in_one_lane():
    picture = read(tape(OTHERS["attention"]()), cells=True)
    (lane,) = picture.lanes
    assert [picture.boxes[id].label for id in lane] == ["h₀", *["GRU"] * 4, *["GRUCell"] * 3]


# ---- Where it stands ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["cells", "folded"])
@pytest.mark.parametrize("name", ALL)
def test_no_boxes_or_labels_overlap_and_columns_are_in_the_order_of_time(name, level):
    if level == "folded" and name in ("lengths", "attention", "attention before the cell"):
        pytest.skip("its steps differ")
    assert complaints(draw(ALL[name](), level=level).svg) == []


@pytest.mark.parametrize("name", OTHERS)
def test_no_boxes_overlap_op_by_op(name):
    assert complaints(draw(OTHERS[name]()).svg) == []


@pytest.mark.parametrize("options", [{"open": "layer 0"}, {"open": "Linear"}, {"title": "Two layers", "shapes": True}])
def test_nor_where_some_are_opened(options):
    assert complaints(draw(NETS["two layers"](), level="cells", **options).svg) == []


def test_every_lane_is_one_line_and_every_column_looks_alike():
    picture = read(tape(NETS["two layers, two directions"](T=4)), cells=True)
    places = grid(picture)
    heights = [{places.nodes[id][1] for id in lane} for lane in picture.lanes]
    assert all(len(height) == 1 for height in heights) and len(set.union(*heights)) == 4
    offsets = {
        t: [
            (round(places.nodes[id][0] - places.columns[t][0][0], 3), places.nodes[id][1])
            for id, box in picture.boxes.items()
            if box.column == t and id in places.nodes
        ]
        for t in (1, 2, 3, 4)
    }
    assert offsets[1] == offsets[2] == offsets[3] == offsets[4]
    for t, u in pairwise(picture.columns):
        assert places.columns[t][0][2] < places.columns[u][0][0]


def test_the_two_directions_are_chains_apart_op_by_op():
    drawing = draw(NETS["two directions"]())
    picture = read(tape(NETS["two directions"]()))
    height = {}
    for title, group in re.findall(r"<title>([^<]+)</title>(.*?)</g>", drawing.svg, re.S):
        found = re.search(r'<text[^>]* y="(-?[\d.]+)"', group)
        if found and title in picture.boxes:
            height[title] = -float(found[1])
    towards = {node: state.towards for state in picture.states for node in state.producers.values()}
    for t in (1, 2, 3):
        ops = {
            sign: [height[id] for id, box in picture.boxes.items() if box.column == t and towards.get(box.tape) == sign]
            for sign in (1, -1)
        }
        assert max(ops[1]) < min(ops[-1])


@pytest.mark.parametrize("level", ["ops", "cells", "folded"])
def test_the_same_graph_gives_the_same_text(level):
    for name in ("two layers, two directions", "of one's own"):
        assert draw(NETS[name](), level=level).dot == draw(NETS[name](), level=level).dot


def test_a_long_sequence_of_cells_shows_its_ends():
    drawing = draw(NETS["two layers"](T=300), level="cells")
    assert 'label="t = 4 … 298"' in drawing.dot and "in 300 steps" in repr(drawing)
    assert complaints(drawing.svg) == []


@pytest.mark.parametrize("name", ['a "b" <c> & d', "two\nlines", "重み", "]]>--><script>", "{}|<f0>"])
def test_hostile_names_stay_inside_their_chips(name):
    w, h = tg.Tensor(np.eye(3, dtype="f4"), requires_grad=True, name=name), tg.zeros((3,))
    for x in tg.steps(data(2, 3)):
        h = tg.tanh(h @ w + x)
    plain, named = draw(skipping(), level="cells"), draw(h.sum(), level="cells")
    assert name.split("\n")[0] in html.unescape(named.svg).replace("\xa0", " ")
    assert re.findall(r"<title>(cell\d+)</title>", named.svg) == re.findall(r"<title>(cell\d+)</title>", plain.svg)[:2]
    assert complaints(named.svg) == []


def test_the_page_of_pictures_is_what_its_tool_writes():
    tools = Path(__file__).resolve().parent.parent / "tools"
    scope = run_path(str(tools / "gallery.py"))
    docs = tools.parent / "docs"
    assert (docs / "gallery.md").read_text(encoding="utf-8") == scope["page"](
        scope["HEAD"], scope["SETUP"], scope["ENTRIES"], "gallery/{}.svg"
    )
    pictures = sorted(path.stem for path in (docs / "gallery").iterdir())
    assert pictures == sorted(entry.name for entry in scope["ENTRIES"])
    assert sum(path.stat().st_size for path in (docs / "gallery").iterdir()) < 1_000_000


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([1, 2, 5, 14]),
    st.booleans(),
    st.sampled_from([None, "layer 0"]),
)
def test_nothing_overlaps_whatever_the_layers_directions_and_lengths(kind, layers, bidirectional, T, ragged, opened):
    net = Tagger(kind(3, 4, num_layers=layers, bidirectional=bidirectional, rng=0), 8 if bidirectional else 4)
    loss = net(data(T, 2, 3), **({"lengths": [T, T - 1]} if ragged else {}))
    drawing = draw(loss, level="cells", open=opened or ())
    assert complaints(drawing.svg) == []


def test_an_invisible_edge_that_graphviz_loses_is_no_failure():
    if shutil.which("dot") is None:
        pytest.skip("needs the program dot")
    shown = draw(tagger(nn.GRU, 14, num_layers=2), level="cells", open="layer 0").svg
    assert shown.count('class="node"') > 100
    with pytest.raises(GraphError, match="Graphviz failed"):
        render.render("digraph g { a -> ", "svg")


@pytest.mark.parametrize("layers", [1, 2])
def test_arrows_to_what_gathers_two_directions_pass_every_box(layers):
    """They rise beside the cells above their own and enter the boxes that stand side by side from below."""
    hs, _ = nn.LSTM(3, 4, num_layers=layers, bidirectional=True, rng=0)(data(4, 1, 3))
    drawing = draw((hs * hs).sum(), level="cells")
    assert sum(box.label == "stack" for box in drawing._picture.boxes.values()) == 2
    assert complaints(drawing.svg) == [] and through_boxes(svg_read(drawing.svg)) == []


class PlainTranslator(nn.Module):
    """An encoder, and a decoder in a plain loop that starts from the encoder's last state; attention in two lines of one's own, or none."""

    def __init__(self, attends):
        self.source, self.target = nn.Embedding(6, 3, rng=0), nn.Embedding(6, 3, rng=1)
        self.encoder, self.attends = nn.RNN(3, 4, rng=2), attends
        self.decoder, self.score = nn.RNNCell(7 if attends else 3, 4, rng=3), nn.Linear(4, 6, rng=4)

    def forward(self, ids, words):
        hs, _ = self.encoder(self.source(ids))
        h, scores = hs[-1], []
        for word in words:
            y = self.target(word)
            if self.attends:
                weights = nn.functional.softmax((hs * h).sum(axis=-1), axis=0)
                y = tg.concatenate([y, (weights[..., None] * hs).sum(axis=0)], axis=-1)
            h = self.decoder(y, h)
            scores.append(self.score(h))
        return (tg.stack(scores) ** 2).mean()


@pytest.mark.parametrize("attends", [False, True])
def test_a_decoder_in_a_plain_loop_and_all_that_runs_with_it_stand_after_the_encoder(attends):
    words = np.array([[0, 1], [2, 3], [4, 5], [1, 0]])
    drawing = draw(PlainTranslator(attends)(words, words[:3]), level="cells")
    columns = {}
    for box in drawing._picture.boxes.values():
        columns.setdefault(box.label, set()).add(box.column)
    assert columns["RNN"] == columns["Embedding source"] == {1, 2, 3, 4}
    together = ["RNNCell", "Embedding target", "Linear", *(["softmax", "concat"] if attends else [])]
    assert all(columns[label] == {5, 6, 7} for label in together)
    assert complaints(drawing.svg) == []


def test_a_decoder_that_begins_with_a_reshaped_last_state_stands_after_the_encoder():
    hs, _ = nn.GRU(3, 4, rng=0)(data(4, 1, 3))
    ys, _ = nn.GRU(3, 4, rng=1)(data(3, 1, 3), hs[-1][None])
    drawing = draw((ys**2).mean(), level="cells")
    assert [box.column for box in drawing._picture.boxes.values() if box.kind == "cell"] == [1, 2, 3, 4, 5, 6, 7]
    assert complaints(drawing.svg) == []
