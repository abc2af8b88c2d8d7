"""models/depth.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import depth
from models.experiment import perform


def test_sigmoids_lose_the_gradient_in_depth() -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    report = perform(depth.depth, depth.Depth(layers=8, width=64, batch=32))
    assert report["sigmoid: decades that the gradient loses in a layer"] > 0.4
    assert abs(report["ReLU: decades that the gradient loses in a layer"]) < 0.2


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    assert perform(depth.depth, quick=True, out=tmp_path).met
