"""The checks of rendered pictures find the faults that they are for, planted here one by one."""

from __future__ import annotations

import pytest
import svg_checks

pygraphviz = pytest.importorskip("pygraphviz", reason="no renderer: pip install 'tinygrad_seq[viz]'")


def drawn(body, prog="dot"):
    text = f'digraph {{ rankdir=BT; node [shape=box fontname="Helvetica" fontsize=11]; {body} }}'
    return pygraphviz.AGraph(string=text).draw(format="svg", prog=prog).decode()


GOOD = (
    "".join(f'subgraph cluster_{t} {{ label="t = {t}"; x{t} -> h{t}; }}' for t in (0, 1, 2)) + "h0 -> h1 -> h2 [constraint=false];"
)


def test_a_sound_picture_has_no_complaints():
    svg = drawn(GOOD)
    assert svg_checks.complaints(svg) == [] and svg_checks.through_boxes(svg_checks.read(svg)) == []
    seen = svg_checks.read(svg)
    assert [*seen.columns()] == [0, 1, 2] and len(seen.nodes) == 6 and len(seen.edges) == 5
    assert {label.text for node in seen.nodes for label in node.labels} == {"x0", "h0", "x1", "h1", "x2", "h2"}


@pytest.mark.parametrize("shape", ["box", "circle", "plaintext", 'box style="rounded"'])
def test_two_boxes_on_each_other_are_found(shape):
    apart, close = (drawn(f'a [pos="0,0" shape={shape}]; b [pos="{x},5" shape={shape}];', "nop2") for x in (90, 3))
    assert svg_checks.overlapping_boxes(svg_checks.read(apart)) == []
    assert svg_checks.overlapping_boxes(svg_checks.read(close)) == ["boxes a and b overlap"]


def test_two_labels_on_each_other_and_a_label_on_a_box_are_found():
    edges = 'a [pos="0,0"]; b [pos="200,0"]; a -> b [pos="30,0 80,0 120,0 170,0" label="one" lp="{},20"]; a -> b [pos="30,9 80,9 120,9 170,9" label=two lp="{},22"];'
    assert svg_checks.complaints(drawn(edges.format(70, 130), "nop2")) == []
    (found,) = svg_checks.complaints(drawn(edges.format(100, 105), "nop2"))
    assert found.startswith("labels") and "'one'" in found and "'two'" in found
    assert svg_checks.complaints(drawn(edges.format(200, 100), "nop2")) == ["box b and label 'one' overlap"]


def test_a_label_wider_than_its_box_is_found():
    assert svg_checks.complaints(drawn("a [fixedsize=true width=1.2 label=memory];")) == []
    (found,) = svg_checks.complaints(drawn("a [fixedsize=true width=0.3 label=memory];"))
    assert found == "label 'memory' reaches beyond a"


def test_columns_out_of_time_order_are_found():
    shuffled = GOOD.replace("cluster_1", "cluster_9").replace("cluster_2", "cluster_1").replace("cluster_9", "cluster_2")
    assert svg_checks.complaints(drawn(shuffled)) == ["column t = 2 does not stand to the right of t = 1"]


def test_an_edge_through_a_box_is_found():
    line = 'a [pos="0,0"]; b [pos="100,{}"]; c [pos="200,0"]; a -> c [pos="e,173,0 27,0 60,0 120,0 163,0"];'
    below, through = (svg_checks.read(drawn(line.format(y), "nop2")) for y in (60, 0))
    assert svg_checks.through_boxes(below) == []
    assert svg_checks.through_boxes(through) == ["edge a->c runs through b"]


def test_widths_are_those_of_helvetica():
    assert svg_checks.width("tanh", 10) == pytest.approx(10 * (0.278 + 3 * 0.556))
    assert svg_checks.width("重み", 10) == 20
