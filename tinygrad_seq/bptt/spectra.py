"""What follows from the Jacobians of every step: products over ranges, norms, spectra, Lyapunov exponents, the share of the gates.

Arrays in named fields, nothing of the tape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, message
from ..nn.functional.dynamics import carousel_gradient
from .measures import finite_only, frobenius, largest, lines_of, short, spectral, svd

NORMS = ("frobenius", "spectral")


@dataclass(frozen=True, eq=False, repr=False)
class TemporalJacobians:
    """The Jacobians of a recurrence from step to step, of the whole state and so of any part of it.

    place: the loop. times (T+1,): of the states, in the order of the loop; one that runs backward has them falling. parts: where each part of the
    state stands among its S numbers; the first is the output h, an LSTM's second the cell c. steps (T, B, S, S): steps[k] is the Jacobian of the
    state at times[k+1] by that at times[k], rows by columns, for each row of the batch. gates: for each part that a step hands on times a
    gate, that gate (T, B, H): of an LSTM {"c": f}, of a GRU {"h": z}; empty for a plain network.

    Where a question has `of` and `by`, they name the parts: J.between(t, s, "h", "c") = dh_t/dc_s; by is the same as of where it is left
    out, of is the first part, and "state" is all of it. dh_t/dh_s counts all paths from h_s, those through later cells too; so it is a block of
    the product of whole Jacobians, not a product of blocks. The other parts at time s are held fixed: dh_t/dc_s leaves out what c_s does
    through its own h_s, which is dh_t/dh_s dh_s/dc_s more, and which `flow` counts.
    """

    place: str
    times: Any
    parts: dict[str, slice]
    steps: Any
    gates: dict[str, Any]

    # ---- Matrices ----------------------------------------------------------------------------------------------------------------

    def step(self, t: int, of: str | None = None, by: str | None = None) -> Any:
        """dh_t/dh_(t-1) (B, H, H): one step, from the state before it in the loop."""
        k = self._at(t)
        if k == 0:
            raise ArgumentError(
                message(f"step: nothing comes before t = {t}", expected=f"t after {self.times[0]}", do="see J.times")
            )
        rows, columns = self._blocks(of, by)
        return self.steps[k - 1][:, rows, columns]

    def between(self, t: int, s: int, of: str | None = None, by: str | None = None) -> Any:
        """dh_t/dh_s = J_t J_(t-1) ... J_(s+1), (B, H, H): the identity for t = s, zero where s comes after t in the loop."""
        rows, columns = self._blocks(of, by)
        k, first = self._at(t), self._at(s)
        if first > k:
            return np.zeros_like(self.steps[0][:, rows, columns])
        *_, product = self._products(rows, k, first)
        return product[..., columns]

    def _products(self, rows: slice, k: int, first: int = 0) -> Iterator[Any]:
        """The rows of J_k J_(k-1) ... J_(j+1) for j = k, k-1, ..., first, in double precision.

        The exponent goes its own way: what is too large for a number in between is infinite in the end, and not 0 times infinity.
        """
        _, B, S, _ = self.steps.shape
        product = np.broadcast_to(np.eye(S)[rows], (B, len(range(S)[rows]), S))
        exponent = np.zeros((B, 1, 1), dtype=np.int64)
        yield product
        for j in range(k - 1, first - 1, -1):
            product = product @ self.steps[j]
            _, shift = np.frexp(np.abs(product).max(axis=(-2, -1), keepdims=True))
            shift = np.where(np.abs(shift) > 256, shift, 0)
            product, exponent = np.ldexp(product, -shift), exponent + shift
            with np.errstate(over="ignore", under="ignore"):
                yield np.ldexp(product, np.clip(exponent, -5000, 5000))

    def _to(self, t: int | None, of: str | None, by: str | None, f: Callable[[Any], Any]) -> Any:
        """f(dh_t/dh_s) for every s in `times`; t None: the last."""
        rows, columns = self._blocks(of, by)
        k = len(self.times) - 1 if t is None else self._at(t)
        found = [f(product[..., columns]) for product in self._products(rows, k)]
        later = [np.zeros_like(found[0])] * (len(self.times) - 1 - k)  # they do not act on h_t
        return np.stack([*found[::-1], *later])

    # ---- Sizes -------------------------------------------------------------------------------------------------------------------

    def norms(self, t: int | None = None, of: str | None = None, by: str | None = None, kind: str = "frobenius") -> Any:
        """The norm of dh_t/dh_s for every s in `times`, (T+1, B): how far back h_t feels; t None: the last. kind: "frobenius" or "spectral"."""
        if kind not in NORMS:
            raise ArgumentError(message(f"norms: kind {kind!r} is not known", expected=" or ".join(map(repr, NORMS))))
        return self._to(t, of, by, frobenius if kind == "frobenius" else spectral)

    def step_norms(self, of: str | None = None, by: str | None = None, kind: str = "spectral") -> Any:
        """The norm of every J_t = dh_t/dh_(t-1), (T, B)."""
        rows, columns = self._blocks(of, by)
        return (frobenius if kind == "frobenius" else spectral)(self.steps[:, :, rows, columns])

    def singular_values(self, t: int | None = None, s: int | None = None, of: str | None = None, by: str | None = None) -> Any:
        """The singular values, the largest first: of every J_t (T, B, H), or, with t and s, of dh_t/dh_s (B, H)."""
        if (t is None) != (s is None):
            raise ArgumentError(message("singular_values: one time", expected="both, of dh_t/dh_s, or none, of every step"))
        rows, columns = self._blocks(of, by)
        return svd(self.steps[:, :, rows, columns] if t is None or s is None else self.between(t, s, of, by))

    def eigenvalues(self, of: str | None = "state") -> Any:
        """The eigenvalues of every J_t, the largest first, (T, B, S), complex. of: "state", the whole of it, unless told."""
        rows, _ = self._blocks(of, of)
        found = finite_only(np.linalg.eigvals, self.steps[:, :, rows, rows], self.steps.shape[:2]).astype(complex)
        return np.take_along_axis(found, np.argsort(-np.abs(found), axis=-1, kind="stable"), axis=-1)

    def spectral_radius(self, of: str | None = "state") -> Any:
        """The largest modulus among the eigenvalues of every J_t, (T, B)."""
        return np.abs(self.eigenvalues(of)[..., 0])

    def lyapunov_exponents(self, skip: int = 0, *, running: bool = False) -> Any:
        """The Lyapunov exponents of the whole state, estimated along this sequence, the largest first, (B, S), in nats per step.

            λ_i = 1/n Σ_t log abs(R_t)_ii             J_t Q_(t-1) = Q_t R_t

        the QR method (Benettin et al. 1980): the rates at which small changes of the state grow or shrink. All below 0: what is started
        differently ends alike, and gradients vanish; the first above 0: chaos, and gradients explode. skip: steps at the beginning in which the
        directions settle. running: the estimate after every step (T - skip, B, S), to see whether it has settled.
        """
        T, B, S, _ = self.steps.shape
        if not 0 <= skip < T:
            raise ArgumentError(message(f"lyapunov_exponents: skip={skip}", expected=f"0 <= skip < {T}, the number of steps"))
        q = np.broadcast_to(np.eye(S), (B, S, S))
        logs = []
        for k, step in enumerate(self.steps):
            q, r = np.linalg.qr(step @ q)
            if k >= skip:
                with np.errstate(divide="ignore"):
                    logs.append(np.log(np.abs(np.diagonal(r, axis1=-2, axis2=-1))))
        means = np.cumsum(logs, axis=0) / np.arange(1, len(logs) + 1)[:, None, None]
        sorted_ = -np.sort(-means, axis=-1)
        return sorted_ if running else sorted_[-1]

    # ---- Gates -------------------------------------------------------------------------------------------------------------------

    def gated_path(self, t: int | None = None, part: str | None = None) -> GatedPath:
        """What of dc_t/dc_s goes through the gates alone, and what takes other paths; t None: the last.

        part: c of an LSTM, h of a GRU, and in general the part of the state that a step hands on times a gate, if there is but one.
        """
        if not self.gates or part not in (None, *self.gates):
            raise ArgumentError(
                message(
                    f"gated_path: no part of the state {'called ' + repr(part) + ' ' if part else ''}is handed on times a gate",
                    expected=f"one of {list(self.gates)}"
                    if self.gates
                    else "a step such as c_t = f ⊙ c_(t-1) + ..., as in an LSTM or a GRU",
                )
            )
        if part is None and len(self.gates) > 1:
            raise ArgumentError(message("gated_path: several parts have gates", expected=f"part= one of {list(self.gates)}"))
        part = part or next(iter(self.gates))
        gates = self.gates[part]
        k = len(self.times) - 1 if t is None else self._at(t)
        product = np.zeros((len(self.times), *gates.shape[1:]))
        product[: k + 1] = carousel_gradient(gates[:k].astype(np.float64)) if k else 1
        totals = self._to(t, part, part, lambda m: m)
        rest = totals.copy()
        H = rest.shape[-1]
        rest[..., np.arange(H), np.arange(H)] -= product
        return GatedPath(
            part,
            int(self.times[k]),
            self.times,
            gates,
            product,
            frobenius(totals),
            np.linalg.norm(product, axis=-1),
            frobenius(rest),
        )

    # ---- Text --------------------------------------------------------------------------------------------------------------------

    def table(self, row: int | None = None, most: int = 24) -> str:
        """A line for every time: the size of J_t, and how much of the state at that time the last one still feels.

        row: of the batch; None: the largest number among all rows. most: so many lines, those between are left out.
        """
        h = next(iter(self.parts))

        def pick(x: Any) -> Any:
            return largest(x) if row is None else x[:, row]

        first = np.full((1, self.steps.shape[1]), np.nan)
        last = self.times[-1]
        columns = {
            f"norm(d{h}_t/d{h}_(t-1))": pick(np.concatenate([first, self.step_norms()])),
            "spectral radius" + ", state" * (len(self.parts) > 1): pick(np.concatenate([first, self.spectral_radius()])),
            f"norm(d{h}_{last}/d{h}_t)": pick(self.norms(kind="spectral")),
        }
        shown = {name: [short(x) for x in values] for name, values in columns.items()}
        for name in list(shown)[:2]:
            shown[name][0] = ""
        B = self.steps.shape[1]
        which = "" if B == 1 else f"; the largest of {B} rows" if row is None else f"; row {row}"
        return "\n".join([f"{self.place or 'states'}: spectral norms{which}", *lines_of("t", self.times, shown, most)])

    def __repr__(self) -> str:
        T, B, S, _ = self.steps.shape
        state = ", ".join(f"{name} {part.stop - part.start}" for name, part in self.parts.items())
        return f"TemporalJacobians({self.place or 'states'!r}, t = {self.times[0]} ... {self.times[-1]}, state ({state}), steps ({T}, {B}, {S}, {S}))"

    # ---- Names and times ---------------------------------------------------------------------------------------------------------

    def _at(self, t: int) -> int:
        found = np.flatnonzero(self.times == t)
        if not len(found):
            raise ArgumentError(
                message(
                    f"TemporalJacobians: no state at t = {t}",
                    expected=f"a time from {min(self.times)} to {max(self.times)}",
                    do="see J.times",
                )
            )
        return int(found[0])

    def _blocks(self, of: str | None, by: str | None) -> tuple[slice, slice]:
        of = next(iter(self.parts)) if of is None else of
        by = of if by is None else by
        for name in (of, by):
            if name != "state" and name not in self.parts:
                raise ArgumentError(
                    message(
                        f"TemporalJacobians: {name!r} is no part of the state",
                        expected=" or ".join(map(repr, [*self.parts, "state"])),
                    )
                )
        return tuple(slice(None) if name == "state" else self.parts[name] for name in (of, by))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False, repr=False)
class GatedPath:
    """dc_t/dc_s for every s, taken apart into the path through the gates alone and all others.

        dc_t/dc_s = diag(f_t ⊙ f_(t-1) ⊙ ... ⊙ f_(s+1)) + rest          the rest goes through h and the weights at least once

    h_s is held fixed, so that of a single step an LSTM without peepholes has no rest.

    part: c of an LSTM, h of a GRU (its gate is z, or 1 - z where z weighs the new value). t: the time looked back from. times (T+1,): every s.
    gates (T, B, H): f at times[1:]. product (T+1, B, H): of the gates after s. total, gated, rest (T+1, B): Frobenius norms of the
    whole, of the diagonal, of what is left without it.
    """

    part: str
    t: int
    times: Any
    gates: Any
    product: Any
    total: Any
    gated: Any
    rest: Any

    @property
    def share(self) -> Any:
        """gated / (gated + rest), (T+1, B): 1 where nothing but the gates carries the gradient; NaN where nothing arrives at all."""
        with np.errstate(invalid="ignore"):
            return self.gated / (self.gated + self.rest)

    def table(self, row: int = 0, most: int = 24) -> str:
        """A line for every s, of one row of the batch."""
        c = self.part
        columns = {
            "total": self.total, "gates alone": self.gated, "other paths": self.rest, "share of the gates": self.share,
        }  # fmt: skip
        shown = {name: [short(x) for x in values[:, row]] for name, values in columns.items()}
        shown["share of the gates"] = ["nan" if math.isnan(x) else f"{x:.1%}" for x in self.share[:, row]]
        return "\n".join([f"d{c}_{self.t}/d{c}_s, Frobenius norms, row {row}", *lines_of("s", self.times, shown, most)])

    def __repr__(self) -> str:
        first = self.share[0]
        return f"GatedPath(d{self.part}_{self.t}/d{self.part}_s, s = {self.times[0]} ... {self.times[-1]}, share at s = {self.times[0]}: {np.array2string(first, precision=3)})"
