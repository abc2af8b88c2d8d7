"""Einstein's sum convention: a product of several arrays, its axes named by letters.

    y[output] = sum over the letters that are not in the output of  a[...] b[...] ...

Every specification is first brought into a plain form (no ellipsis, each letter once per operand, each at least twice in all). The
gradient of an operand is then again an einsum: of the incoming gradient and the other operands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_letters
from typing import Any, NoReturn

from ..errors import ShapeError, message
from ..primitives import backward_of, primitive
from .joining import as_array
from .reduction import sum
from .shaping import diagonal, squeeze, transpose


def einsum(subscripts: str, *operands: Any) -> Any:
    """The sum of products that the subscripts name: "bnk,bkm->bnm" is a stack of matrix products.

    A letter in the output is an axis of it, any other is summed over. Without `->` the output has the letters that occur once, in
    alphabetical order. `...` stands for further axes, which broadcast. A letter that one operand has twice reads its diagonal.
    More than two operands are multiplied from left to right.
    """
    operands = tuple(map(as_array, operands))
    terms, output = _parse(subscripts, operands)
    size = _sizes(subscripts, terms, operands)
    pairs = [_each_letter_once(letters, x, size) for letters, x in zip(terms, operands, strict=True)]
    for i, (letters, x) in enumerate(pairs):
        elsewhere = {*output, *(letter for j, (others, _) in enumerate(pairs) if j != i for letter in others)}
        alone = tuple(axis for axis, letter in enumerate(letters) if letter not in elsewhere)
        if alone:
            pairs[i] = "".join(letter for letter in letters if letter in elsewhere), sum(x, axis=alone)
    inputs, plain = zip(*pairs, strict=True)
    if len(plain) == 1:
        return transpose(plain[0], tuple(inputs[0].index(letter) for letter in output))
    return _einsum(*plain, inputs=inputs, output=output)


def _each_letter_once(letters: str, x: Any, size: Mapping[str, int]) -> tuple[str, Any]:
    """The operand without the axes along which it is stretched, and with diagonals in place of repeated letters."""
    stretched = tuple(axis for axis, letter in enumerate(letters) if x.shape[axis] != size[letter])
    if stretched:
        x = squeeze(x, stretched)
        letters = "".join(letter for axis, letter in enumerate(letters) if axis not in stretched)
    for letter in sorted(set(letters)):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            x = diagonal(x, 0, first, second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + letter
    return letters, x


@primitive
def _einsum(*operands: Any, inputs: tuple[str, ...], output: str) -> Any:
    y, letters = operands[0], inputs[0]
    for i in range(1, len(operands)):
        y, letters = _multiply(y, letters, operands[i], inputs[i], {*output, *"".join(inputs[i + 1 :])})
    return y.transpose([letters.index(letter) for letter in output])


@backward_of(_einsum)
def _(g: Any, y: Any, *operands: Any, inputs: tuple[str, ...], output: str) -> Any:
    gradients = []
    for i, letters in enumerate(inputs):
        others = [*operands[:i], *operands[i + 1 :]]
        gradients.append(_einsum(g, *others, inputs=(output, *inputs[:i], *inputs[i + 1 :]), output=letters))
    return gradients


def _multiply(a: Any, in_a: str, b: Any, in_b: str, keep: Iterable[str]) -> tuple[Any, str]:
    """Two operands as a stack of matrix products, and the letters of its axes; summed over what both have and nobody keeps."""
    stack = "".join(letter for letter in in_a if letter in in_b and letter in keep)
    summed = "".join(letter for letter in in_a if letter in in_b and letter not in keep)
    rows = "".join(letter for letter in in_a if letter not in in_b)
    columns = "".join(letter for letter in in_b if letter not in in_a)
    size = dict(zip(in_a + in_b, (*a.shape, *b.shape), strict=False))

    def lay(x: Any, letters: str, *groups: str) -> Any:
        x = x.transpose([letters.index(letter) for group in (stack, *groups) for letter in group])
        x = x.reshape([size[letter] for letter in stack] + [math.prod(size[letter] for letter in group) for group in groups])
        return x if x.itemsize in x.strides[-2:] else x.copy()  # BLAS wants rows or columns that are contiguous

    left, right = lay(a, in_a, rows, summed), lay(b, in_b, summed, columns)
    letters = stack + rows + columns
    return (left @ right if summed else left * right).reshape([size[letter] for letter in letters]), letters


def _parse(subscripts: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The letters of each operand's axes and of the output's, ellipses spelled out."""
    if not isinstance(subscripts, str):
        _refuse(subscripts, operands, "the subscripts come first, as a str")
    given, arrow, output = subscripts.replace(" ", "").partition("->")
    inputs = given.split(",")
    if len(inputs) != len(operands):
        _refuse(subscripts, operands, f"subscripts for {len(inputs)} operands, but {len(operands)} came")
    for term in (*inputs, output):
        letters = term.replace("...", "", 1)
        if not all(letter in ascii_letters for letter in letters):
            _refuse(subscripts, operands, f"{term!r} is not made of letters and one '...'")
    free = [letter for letter in reversed(ascii_letters) if letter not in subscripts]
    widest = ""
    for i, (term, x) in enumerate(zip(inputs, operands, strict=True)):
        extra = x.ndim - len(term.replace("...", "", 1))
        if extra < 0 or (extra and "..." not in term):
            _refuse(subscripts, operands, f"{term!r} does not name the {x.ndim} axes of operand {i}")
        letters = "".join(reversed(free[:extra])) if "..." in term else ""
        widest = max(widest, letters, key=len)
        inputs[i] = term.replace("...", letters)
    if not arrow:
        everything = "".join(inputs)
        return inputs, widest + "".join(sorted(c for c in set(given) if c in ascii_letters and everything.count(c) == 1))
    if widest and "..." not in output:
        _refuse(subscripts, operands, "the axes of '...' are missing in the output")
    output = output.replace("...", widest)
    if len(set(output)) < len(output) or not set(output) <= set("".join(inputs)):
        _refuse(subscripts, operands, f"the output {output!r} repeats a letter, or has one that no operand has")
    return inputs, output


def _sizes(subscripts: str, terms: Sequence[str], operands: Sequence[Any]) -> dict[str, int]:
    """How long the axis of each letter is; an operand may have 1 there instead."""
    size: dict[str, int] = {}
    for letters, x in zip(terms, operands, strict=True):
        own: dict[str, int] = {}
        for letter, n in zip(letters, x.shape, strict=True):
            if own.setdefault(letter, n) != n or (1 != n != size.get(letter, 1) != 1):
                _refuse(subscripts, operands, f"the letter {letter!r} names axes of different sizes")
            if size.get(letter, 1) == 1:
                size[letter] = n
    return size


def _refuse(subscripts: Any, operands: Sequence[Any], why: str) -> NoReturn:
    shapes = ", ".join(str(tuple(x.shape)) for x in operands)
    raise ShapeError(message(f"einsum: {why}", expected='for example "bnk,km->bnm"', got=f"{subscripts!r} for shapes {shapes}"))
