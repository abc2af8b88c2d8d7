"""Products of a step with weights that many steps share: the weights are packed once, in the order in which they will be read. Needs numba.

out += x w^T for x (B, K), w (M, K), out (B, M). BLAS packs w (or reads it where it lies, column far from column) in every call; where w
is large and B small, as in a time loop, that costs as much as the arithmetic. Here w comes as panels of PANEL rows, (K, PANEL) each,
and a tile of `out`, up to WIDE rows by one panel, stays in registers while k runs (Goto & van de Geijn 2008, the innermost loop alone):
for each k two vectors of w, and one number of x for each row. While one panel is in use the next is fetched from far memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

INTEGER, SHORT, BIT, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.IntType(8)
VECTORS = 2  # of a panel's row
BLOCK = 132  # rows of x that go through all panels together: more would not stay in the cache


def registers() -> tuple[int, int]:
    """The bytes of a vector register of this processor, and the rows of a tile that fit with two vectors each into its registers."""
    has = binding.get_host_cpu_features()
    if has.get("avx512f"):
        return 64, 12
    if has.get("avx2"):
        return 32, 6
    return 16, 12 if has.get("neon") else 6


BYTES, WIDE = registers()


@intrinsic(prefer_literal=True)
def tile(typing_context: Any, rows: Any, w: Any, panel: Any, ahead: Any, x: Any, row: Any, out: Any, column: Any, K: Any) -> Any:
    """out[row : row + rows, column : column + PANEL] += x[row : row + rows] times a panel of w; `ahead` is the place to be fetched."""
    count, place = rows.literal_value, types.intp
    kind = types.void(rows, w, place, place, x, place, out, place, place)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b, number = builder, context.get_value_type(w.dtype)
        size = w.dtype.bitwidth // 8
        lanes = BYTES // size
        vector, mask = ir.VectorType(number, lanes), ir.VectorType(BIT, lanes)
        suffix = f"v{lanes}f{8 * size}"
        _, w_, panel_, ahead_, x_, row_, out_, column_, K_ = args
        w_, x_, out_ = (cgutils.create_struct_proxy(t)(context, b, value=v) for t, v in ((w, w_), (x, x_), (out, out_)))

        def intrinsic_of(name: str, result: Any, *arguments: Any) -> Any:
            return cgutils.get_or_insert_function(b.module, ir.FunctionType(result, arguments), name)

        def spread(value: Any) -> Any:
            one = b.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, SHORT(0))
            return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(SHORT, lanes), [0] * lanes))

        def stride(array: Any, axis: int) -> Any:
            return b.sdiv(cgutils.unpack_tuple(b, array.strides)[axis], INTEGER(size))

        pointer, far = vector.as_pointer(), BYTE.as_pointer()
        load = intrinsic_of(f"llvm.masked.load.{suffix}.p0{suffix}", vector, pointer, SHORT, mask, vector)
        store = intrinsic_of(f"llvm.masked.store.{suffix}.p0{suffix}", ir.VoidType(), vector, pointer, SHORT, mask)
        fetch = intrinsic_of("llvm.prefetch.p0i8", ir.VoidType(), far, SHORT, SHORT, SHORT)
        fused = intrinsic_of(f"llvm.fmuladd.{suffix}", vector, vector, vector, vector)
        left = b.sub(cgutils.unpack_tuple(b, out_.shape)[1], column_)  # columns of out from here on: the last panel may be wider
        lane = [ir.Constant(ir.VectorType(INTEGER, lanes), list(range(v * lanes, (v + 1) * lanes))) for v in range(VECTORS)]
        inside = [b.icmp_signed("<", numbers, spread(left)) for numbers in lane]
        x_row, x_step, out_row = stride(x_, 0), stride(x_, 1), stride(out_, 0)
        seen, places = [], []
        for n in range(count):
            r = b.add(row_, INTEGER(n))
            seen.append(b.gep(x_.data, [b.mul(r, x_row)]))
            start = b.gep(out_.data, [b.add(b.mul(r, out_row), column_)])
            places += [b.bitcast(b.gep(start, [INTEGER(v * lanes)]), pointer) for v in range(VECTORS)]
        masks = inside * count
        before = [b.call(load, [p, SHORT(size), m, ir.Constant(vector, None)]) for p, m in zip(places, masks)]

        entry, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed(">", K_, INTEGER(0)), loop, done)
        b.position_at_end(loop)
        k = b.phi(INTEGER)
        k.add_incoming(INTEGER(0), entry)
        sums = [b.phi(vector) for _ in before]
        at, x_at = b.mul(k, INTEGER(VECTORS * lanes)), b.mul(k, x_step)
        b.call(fetch, [b.bitcast(b.gep(w_.data, [b.add(ahead_, at)]), far), SHORT(0), SHORT(2), SHORT(1)])
        weights = []
        for v in range(VECTORS):
            weights.append(b.load(b.bitcast(b.gep(w_.data, [b.add(panel_, b.add(at, INTEGER(v * lanes)))]), pointer)))
            weights[-1].align = size
        after = []
        for n in range(count):
            value = spread(b.load(b.gep(seen[n], [x_at])))
            after += [b.call(fused, [weights[v], value, sums[n * VECTORS + v]]) for v in range(VECTORS)]
        following = b.add(k, INTEGER(1))
        k.add_incoming(following, loop)
        for total, first, later in zip(sums, before, after):
            total.add_incoming(first, entry)
            total.add_incoming(later, loop)
        b.cbranch(b.icmp_signed("<", following, K_), loop, done)
        b.position_at_end(done)
        totals = []
        for first, later in zip(before, after):
            totals.append(b.phi(vector))
            totals[-1].add_incoming(first, entry)
            totals[-1].add_incoming(later, loop)
        for total, p, m in zip(totals, places, masks):
            b.call(store, [total, p, SHORT(size), m])
        return context.get_dummy_value()

    return kind, build


@njit(boundscheck=False, error_model="numpy", cache=True)
def product(panels: Any, x: Any, out: Any) -> None:
    """out += x w^T, w packed: x (B, K) with any strides, out (B, M) with its rows in one piece."""
    P, K, PANEL = panels.shape
    B = len(x)
    for top in range(0, B, BLOCK):
        bottom = min(B, top + BLOCK)
        for p in range(P):
            here, column = p * K * PANEL, p * PANEL
            ahead, half = (
                min(p + 1, P - 1) * K * PANEL,
                0,
            )  # a row of a panel is two lines of the cache: one tile fetches one of them
            b = top
            while bottom - b >= WIDE:
                tile(WIDE, panels, here, ahead + half, x, b, out, column, K)
                b += WIDE
                half = PANEL // 2 - half
            if WIDE > 8 and bottom - b >= 8:
                tile(8, panels, here, ahead + half, x, b, out, column, K)
                b += 8
                half = PANEL // 2 - half
            if bottom - b >= 4:
                tile(4, panels, here, ahead + half, x, b, out, column, K)
                b += 4
                half = PANEL // 2 - half
            if bottom - b == 3:
                tile(3, panels, here, ahead + half, x, b, out, column, K)
            elif bottom - b == 2:
                tile(2, panels, here, ahead + half, x, b, out, column, K)
            elif bottom - b == 1:
                tile(1, panels, here, ahead + half, x, b, out, column, K)


def pack(w: Any) -> Any:
    """w (M, K), with any strides -> its panels (⌈M / PANEL⌉, K, PANEL), filled up with zeros."""
    M, K = w.shape
    width = VECTORS * BYTES // w.itemsize
    panels = np.empty((-(-M // width), K, width), w.dtype)  # from NumPy: large arrays get large pages
    fill(w, panels)
    return panels


@njit(boundscheck=False, error_model="numpy", cache=True)
def fill(w: Any, panels: Any) -> None:
    """Write the panels of w, eight columns at a time: those of a line of the cache, whichever axis of w is in one piece."""
    P, K, width = panels.shape
    for p in range(P):
        rows = min(width, len(w) - p * width)
        panels[p, :, rows:] = 0
        for k in range(0, K, 8):
            for m in range(rows):
                for j in range(k, min(k + 8, K)):
                    panels[p, j, m] = w[p * width + m, j]
