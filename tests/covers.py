"""Cases that say of a product of parameters nearly as much as all of it."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any


def in_turn(
    longest: Iterable[Any], *others: Iterable[Any], times: int = 1
) -> Sequence[tuple[Any, ...]]:
    """Every value of the first beside combinations of the others, which take turns.

    Args:
        longest: usually the methods, of which none may be left out.
        others: further axes; the last one changes the fastest.
        times: how many combinations each value of the first has.
    """
    turns = itertools.cycle(itertools.product(*others))
    return [(value, *next(turns)) for value in longest for _ in range(times)]
