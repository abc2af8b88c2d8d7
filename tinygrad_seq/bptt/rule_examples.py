"""Small examples on which `rules` shows an op, and the few texts that are written by hand. A shape stands for an array of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

EXAMPLES: dict[str, tuple[list[Any], dict[str, Any]]] = {}
WRITTEN: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {}
