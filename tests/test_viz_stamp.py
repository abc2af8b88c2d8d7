"""Long drawings: few columns are laid out and copied, and the picture is the one that dot would have drawn."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
import svg_checks
from test_viz import data, elman, gru, lstm, parameter, plain_loop, rng, stacked

import tinygrad_seq as tg
from tinygrad_seq.viz import draw
from tinygrad_seq.viz.dot import dot_text
from tinygrad_seq.viz.render import render
from tinygrad_seq.viz.stamp import KEPT, WORTH, placed
from tinygrad_seq.viz.unfold import read

pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")


def layout(picture):
    return render(dot_text(picture, numbered=True), "json0").decode()


def placed_by(picture):
    """The places of a picture, and how many columns dot was given at a time."""
    given = []

    def counted(short):
        given.append(len(short.columns))
        return layout(short)

    return placed(picture, counted), given


def offsets(nodes, columns, picture):
    """For every column where its boxes stand, from its left end, and how wide it is."""
    found = {}
    for column, (left, _, right, _) in columns.items():
        boxes = [id for id, box in picture.boxes.items() if box.column == column and id in nodes]
        found[column] = [(round(nodes[id][0] - left), round(nodes[id][1])) for id in boxes], round(right - left)
    return found


def by_dot(picture):
    """The same, all columns laid out by dot."""
    objects = json.loads(layout(picture))["objects"]
    nodes = {o["name"]: tuple(map(float, o["pos"].split(","))) for o in objects if "pos" in o}
    columns = {int(o["name"].split("_")[1]): tuple(map(float, o["bb"].split(","))) for o in objects if "bb" in o}
    return offsets(nodes, columns, picture)


def two_sizes(T):
    """A loop in which every other step has an op more."""
    draws = rng()
    w, h = parameter(draws, "w", 4), tg.zeros((4,))
    for t, x in enumerate(tg.steps(data(draws, T, 4))):
        h = tg.tanh(w * h + (tg.exp(x * w) if t % 2 else x * w))
    return h.sum()


def skipping(T):
    """A loop that reads the state before the last one, too."""
    draws = rng()
    w, hs = parameter(draws, "w", 4), [tg.zeros((4,)), tg.zeros((4,))]
    for x in tg.steps(data(draws, T, 4)):
        hs.append(tg.tanh(w * hs[-1] + w * hs[-2] + x))
    return hs[-1].sum()


def one_step_differs(T):
    draws = rng()
    w, h = parameter(draws, "w", 4), tg.zeros((4,))
    for t, x in enumerate(tg.steps(data(draws, T, 4)), 1):
        h = tg.tanh(w * h + (tg.sin(x * w) if t == T // 2 else x * w))
    return h.sum()


def layers(T):
    hs, _ = tg.nn.LSTM(3, 4, num_layers=2, rng=0)(data(rng(), T, 2, 3))
    return (hs**2).mean()


GRAPHS = [lstm, elman, plain_loop, one_step_differs, layers]


@pytest.mark.parametrize("graph", [lstm, elman, plain_loop])
def test_the_columns_stand_as_dot_places_them(graph):
    picture = read([graph(20)], full=True)
    mine, theirs = placed_by(picture)[0], by_dot(picture)
    found = offsets(mine.nodes, {c: bb for c, (bb, _) in mine.columns.items()}, picture)
    same = [close(found[column], theirs[column]) for column in theirs]
    assert sum(same) >= 17  # dot swaps two boxes of a step here and there, or lets the columns in the middle lean the other way


def close(one, other):
    (a, width), (b, other_width) = one, other
    return abs(width - other_width) <= 1 and all(abs(x - u) <= 2 and abs(y - v) <= 1 for (x, y), (u, v) in zip(a, b, strict=True))


@pytest.mark.parametrize("graph", GRAPHS)
def test_nothing_is_lost_and_nothing_overlaps(graph):
    drawing = draw(graph(24), full=True)
    seen = svg_checks.read(drawing.svg)
    assert svg_checks.complaints(drawing.svg) == [] and svg_checks.through_boxes(seen) == []
    plain = svg_checks.read(render(drawing.dot, "svg").decode())
    assert {node.title for node in seen.nodes} == {node.title for node in plain.nodes}
    assert Counter(edge.title for edge in seen.edges) == Counter(edge.title for edge in plain.edges)
    assert sorted(seen.columns()) == sorted(plain.columns()) == [*range(25)]
    assert sorted(x.text for n in seen.nodes for x in n.labels) == sorted(x.text for n in plain.nodes for x in n.labels)


@pytest.mark.parametrize("overlay", [{"gradients": True}, {"shapes": True}, {"values": True}, {"gates": True}])
def test_what_is_written_on_a_long_picture_fits_its_boxes(overlay):
    assert svg_checks.complaints(draw(lstm(24), full=True, **overlay).svg) == []


@pytest.mark.parametrize("T", [64, 256])
def test_dot_lays_out_no_more_columns_for_a_longer_sequence(T):
    places, given = placed_by(read([lstm(T)], full=True))
    assert given == [KEPT + 4] and len(places.columns) == T + 1  # the run, the initial states, the first two steps and the last


@pytest.mark.parametrize("graph", [two_sizes, skipping])
def test_columns_that_differ_are_laid_out_by_dot(graph):
    picture = read([graph(20)], full=True)
    places, given = placed_by(picture)
    assert given in ([21], []) and (places is None or len(places.columns) == 21)
    assert svg_checks.out_of_order(svg_checks.read(draw(graph(20), full=True).svg)) == []


def test_a_step_that_differs_stands_between_two_runs():
    picture = read([one_step_differs(60)], full=True)
    places, given = placed_by(picture)
    (more,) = (id for id, box in picture.boxes.items() if box.label == "sin")
    left, _, right, _ = places.columns[30][0]
    assert given[0] <= 2 * (KEPT + 4) and left < places.nodes[more][0] < right


@pytest.mark.parametrize("graph", [gru, stacked])
def test_short_pictures_are_not_copied(graph):
    picture = read([graph()], full=True)
    assert len(picture.columns) <= WORTH
    _, given = placed_by(picture)
    assert given in ([], [len(picture.columns)])


def test_a_rail_has_one_curve_between_two_steps():
    curves = Counter()
    for edge in svg_checks.read(draw(lstm(20), full=True).svg).edges:
        curves[sum(len(shape) > 4 or len(shape) == 4 for shape in edge.shapes[:-1])] += 1
    assert [*curves] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("T", [64, 256])
def test_an_lstm_is_drawn_op_by_op_within_a_second(T):
    loss, taken = lstm(T), []
    for _ in range(5):
        before = os.times()
        assert len(draw(loss, full=True).svg) > 10_000 * T
        taken.append(sum(os.times()[:4]) - sum(before[:4]))  # of this process and of Graphviz, whatever else the machine does
    assert min(taken) < 1


@pytest.mark.slow
def test_a_picture_too_wide_for_png_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"too wide for png.*\.svg and \.pdf"):
        draw(elman(160), full=True).save(tmp_path / "wide.png")
