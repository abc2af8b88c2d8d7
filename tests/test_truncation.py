"""Truncated BPTT in a graph that is there: against PyTorch with detach(), training on windows, and graphs recorded anew."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import training
from tinygrad_seq.errors import ShapeError
from tinygrad_seq.testing import check_grads

# ---- cut: the rows of a state --------------------------------------------------------------------------------------------------------


def test_cut_stops_the_gradient_of_the_rows_that_begin_anew_and_of_no_other():
    h = tg.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    c = tg.ones(3, requires_grad=True)
    state = training.cut((h, {"c": c}), rows=[True, False, True])
    assert state[0].tolist() == h.tolist() and state[1]["c"].tolist() == c.tolist()
    ((state[0] ** 2).sum() + 3 * state[1]["c"].sum()).backward()
    assert h.grad.tolist() == [[0, 0], [6, 8], [0, 0]] and c.grad.tolist() == [0, 3, 0]
    gradient = tg.grad((training.cut(h, rows=np.array([True, False, True])) ** 3).sum(), h, create_graph=True)
    assert tg.grad(gradient.sum(), h).tolist() == [[0, 0], [18, 24], [0, 0]]  # second derivatives of the row that goes on
    check_grads(lambda x: training.cut(x, rows=[False, False]) ** 2, [np.ones((2, 3))])


def test_cut_says_which_rows_it_wants():
    with pytest.raises(ShapeError, match="booleans"):
        training.cut(tg.ones(3), rows=[0, 2])
    with pytest.raises(ShapeError, match=r"no 2 rows"):
        training.cut(tg.ones((3, 2)), rows=[True, False])
