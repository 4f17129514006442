"""What is compared: every named method, and what optax itself offers, by the name in the tables."""

from collections.abc import Callable
from typing import Any

import optax

import lowrank_optax as lro

LEARNING_RATE = 1e-2

Build = Callable[..., optax.GradientTransformation]
"""(rank, weight_decay=0.0, dimension_numbers=None) -> optimizer.

The last is for leaves that are batches of matrices, as `optax.contrib.muon` takes it; by default
every array of two axes is one matrix.
"""


def _ours(method: Callable[..., Any], /, **options: Any) -> Build:
    def build(rank, weight_decay=0.0, dimension_numbers=None):
        return method(
            LEARNING_RATE,
            rank,
            weight_decay=weight_decay,
            dimension_numbers=dimension_numbers,
            **options,
        )

    return build


def _adamw(rank, weight_decay=0.0, dimension_numbers=None):
    del rank, dimension_numbers
    return optax.adamw(LEARNING_RATE, weight_decay=weight_decay)


def _muon(rank, weight_decay=0.0, dimension_numbers=None):
    del rank
    return optax.contrib.muon(
        LEARNING_RATE,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=dimension_numbers,
    )


def _contrib_galore(rank, weight_decay=0.0, dimension_numbers=None, **options):
    if dimension_numbers is not None:
        raise ValueError("optax.contrib.galore takes no batches of matrices: give it single ones")
    return optax.contrib.galore(LEARNING_RATE, rank=rank, weight_decay=weight_decay, **options)


def contrib_galore(**options: Any) -> Build:
    """optax.contrib.galore with options of its own."""
    return lambda *arguments, **keywords: _contrib_galore(*arguments, **keywords, **options)


FOREIGN: dict[str, Build] = {
    "optax.adamw": _adamw,
    "optax.contrib.muon": _muon,
    "optax.contrib.galore": contrib_galore(),
}


def _at_its_own_rank(method: Callable[..., Any], /, **options: Any) -> Build:
    def build(rank, weight_decay=0.0, dimension_numbers=None):
        del rank
        return method(
            LEARNING_RATE,
            weight_decay=weight_decay,
            dimension_numbers=dimension_numbers,
            **options,
        )

    return build


OURS: dict[str, Build] = {
    "tandem (n/2, int4)": _at_its_own_rank(lro.tandem),
    "tandem (int4)": _ours(lro.tandem),
    "tandem (int8)": _ours(lro.tandem, mu_dtype="int8"),
    "muon": _at_its_own_rank(lro.muon),
    "normuon (int8)": _at_its_own_rank(lro.normuon, mu_dtype="int8"),
    "normuon (int2)": _at_its_own_rank(lro.normuon, mu_dtype="int2"),
    "normuon (int2, 3 iterations)": _at_its_own_rank(lro.normuon, mu_dtype="int2", ns_steps=3),
    "normuon (no momentum)": _at_its_own_rank(lro.normuon, momentum=None),
    "trion": _ours(lro.trion),
    "dct_adamw (no feedback)": _ours(lro.dct_adamw, error_feedback=None),
    "dct_adamw (int8)": _ours(lro.dct_adamw, error_feedback="int8"),
    "dct_adamw (int4)": _ours(lro.dct_adamw, error_feedback="int4"),
    "frugal (dct)": _ours(lro.frugal, projection="dct"),
    "fira (dct)": _ours(lro.fira, projection="dct"),
    "ldadamw": _ours(lro.ldadamw),
    "dion": _ours(lro.dion),
    "galore": _ours(lro.galore),
    "golore": _ours(lro.golore),
    "online_subspace_descent": _ours(lro.online_subspace_descent),
}
"""All at the intervals at which they are published: GaLore's is 200 steps, DCT-AdamW's is 1."""

METHODS = FOREIGN | OURS

EVERY_STEP: dict[str, Build] = {
    "optax.contrib.galore, every step": contrib_galore(update_proj_gap=1),
    "galore (gram), every step": _ours(lro.galore, update_interval=1, method="gram"),
    "frugal (dct), every step": _ours(lro.frugal, projection="dct", update_interval=1),
    "fira (dct), every step": _ours(lro.fira, projection="dct", update_interval=1),
}
"""Those of a longer interval, with a new subspace at every step."""
