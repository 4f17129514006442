"""The competitors, and where the search for the numbers of each starts."""

import functools
from collections.abc import Callable
from typing import Any

import optax

import lowrank_optax as lro
from benchmarks.recipes.builders import Method, at_one_rate, ours, whole
from benchmarks.recipes.rests import Mixed, Remembering

ORTHONORMAL = {"learning_rate": 0.02, "momentum": 0.9}
ADAM = {"learning_rate": 0.005, "b2": 0.95}
QUARTER = 0.25
INTERVAL = 50
"""Steps between two subspaces where the papers take 200, of runs thirty times as long."""


def _every(make: Callable[..., Any], rate: float, **options: Any) -> Method:
    """A quarter of the columns, chosen anew every `INTERVAL` steps."""
    start = ADAM | {"learning_rate": rate}
    return ours(make, start, rank=QUARTER, update_interval=INTERVAL, **options)


_tandem = functools.partial(ours, lro.tandem, ORTHONORMAL | {"learning_rate": 0.04})
_normuon = functools.partial(ours, lro.normuon, ORTHONORMAL, shape_scale="dion")

METHODS: dict[str, Method] = {
    # What others have.
    "adamw": whole(optax.scale_by_adam, ADAM),
    "adam8bit": whole(lro.scale_by_adam8bit, ADAM),
    "lion": whole(optax.scale_by_lion, {"learning_rate": 0.000625, "b2": 0.98}),
    "trion 1/4": ours(lro.trion, {"learning_rate": 0.08, "momentum": 0.5}, rank=QUARTER),
    "dct_adamw": ours(lro.dct_adamw, ADAM, rank=QUARTER),
    "ldadamw": ours(lro.ldadamw, ADAM, rank=QUARTER),
    "frugal dct": _every(lro.frugal, 0.0025, projection="dct"),
    "fira dct": _every(lro.fira, 0.02, projection="dct"),
    "galore 1/4": _every(lro.galore, 0.02, method="gram"),
    "dion3": ours(lro.dion3, ORTHONORMAL, rank=QUARTER),
    "alice0": _every(lro.alice0, 0.02, method="gram"),
    "apollo 1/4": _every(lro.apollo, 0.01),
    "apollo_mini": ours(lro.apollo_mini, ADAM | {"learning_rate": 0.01}, update_interval=INTERVAL),
    # Muon and NorMuon, stored in more or fewer bits.
    "muon": ours(lro.muon, ORTHONORMAL, shape_scale="dion"),
    "muon int8": ours(lro.muon, ORTHONORMAL, shape_scale="dion", mu_dtype="int8"),
    "muon int4": ours(lro.muon, ORTHONORMAL, shape_scale="dion", mu_dtype="int4"),
    "normuon": _normuon(),
    "normuon int8": _normuon(mu_dtype="int8"),
    "normuon int4": _normuon(mu_dtype="int4"),
    "normuon int2": _normuon(mu_dtype="int2"),
    "normuon sign": _normuon(mu_dtype="sign"),
    "normuon, no memory": ours(
        lro.normuon, {"learning_rate": 0.04}, shape_scale="dion", momentum=None
    ),
    # Tandem by budget.
    "tandem n/2 int8": _tandem(rank=1 / 2, mu_dtype="int8"),
    "tandem n/2 int4": _tandem(rank=1 / 2, mu_dtype="int4"),
    "tandem n/4": _tandem(rank=QUARTER, mu_dtype=None),
    "tandem n/4 int8": _tandem(rank=QUARTER, mu_dtype="int8"),
    "tandem n/16 int8": _tandem(rank=1 / 16, mu_dtype="int8"),
    "sinkhorn": _tandem(rank=1, rest="sinkhorn", mu_dtype=None),
}

CHANGES: dict[str, dict[str, Any]] = {
    "no neurons": {"neuron_decay": None},
    "no nesterov": {"nesterov": False},
    "rest none": {"rest": "none", "rank_scale": "sqrt"},
    "rest sinkhorn": {"rest": "sinkhorn"},
    "rest half": {"rest": lro.residuals.orthonormal(4, 0.5)},
    "blocks 1": {"blocks": 1},
    "blocks 2": {"blocks": 2},
    "blocks 8": {"blocks": 8},
    "select l2": {"select": "l2"},
    "dct": {"projection": "dct"},
    "hadamard": {"projection": "hadamard"},
    "power iteration": {"projection": "power_iteration"},
    "svd": {"projection": lro.projections.svd(QUARTER, method="gram")},
    "every 50": {"update_interval": 50},
    "uniform, every 50": {"select": "uniform", "update_interval": 50},
}
"""One change at a time from `tandem n/4`."""

COMPETITORS = (
    "dion3",
    "sinkhorn",
    "normuon",
    "normuon int8",
    "muon int8",
    "lion",
    "adam8bit",
    "trion 1/4",
    "dct_adamw",
    "ldadamw",
    "frugal dct",
    "fira dct",
    "galore 1/4",
    "apollo 1/4",
    "apollo_mini",
    "alice0",
)
"""What others have, and our Muons in float32 and 8 bits."""

METHODS |= {
    f"tandem n/2 int4, blocks {blocks}": _tandem(rank=1 / 2, mu_dtype="int4", blocks=blocks)
    for blocks in (1, 2)
}

METHODS["tandem n/2 sign, blocks 1"] = _tandem(rank=1 / 2, mu_dtype="sign", blocks=1)

_one_rate = functools.partial(at_one_rate, start=ORTHONORMAL)
_forgetful = {"start": {"learning_rate": 0.04}, "momentum": None}
_few_bits = {"start": {"learning_rate": 0.02, "momentum": 0.8}, "mu_dtype": "int2"}

ONE_RATE = {
    "muon at one rate": _one_rate(lro.muon),
    "normuon int4 at one rate": _one_rate(lro.normuon, mu_dtype="int4"),
    "tandem at one rate": _one_rate(lro.tandem),
    "normuon int2 at one rate": _one_rate(lro.normuon, **_few_bits),
    "tandem n/4 int8 at one rate": _one_rate(lro.tandem, rank=QUARTER, mu_dtype="int8"),
    "normuon at one rate, no memory": _one_rate(lro.normuon, **_forgetful),
    "tandem n/16 int8 at one rate": _one_rate(lro.tandem, rank=1 / 16, mu_dtype="int8"),
    "trion at one rate": _one_rate(lro.trion, rank=QUARTER, rank_scale="sqrt"),
}

_by_hand = functools.partial(_one_rate, lro.muon, **_few_bits)

CHANGES_AT_ONE_RATE = {
    "normuon int2 at one rate": ONE_RATE["normuon int2 at one rate"],
    "normuon int2 at one rate, no neurons": _by_hand(),
    "normuon int2 at one rate, no nesterov": _by_hand(neuron_decay=0.95, nesterov=False),
    "normuon int2 at one rate, polar express": _by_hand(
        neuron_decay=0.95, ns_coeffs="polar_express"
    ),
    "normuon int2 at one rate, 3 iterations": _by_hand(neuron_decay=0.95, ns_steps=3),
    "normuon int2 at one rate, 2 iterations": _by_hand(neuron_decay=0.95, ns_steps=2),
    "normuon at one rate, no memory": ONE_RATE["normuon at one rate, no memory"],
    "normuon at one rate, no memory, no neurons": _one_rate(lro.muon, **_forgetful),
    "normuon at one rate, no memory, blocks 2": _one_rate(
        lro.tandem, rank=1, blocks=2, **_forgetful
    ),
    "normuon at one rate, no memory, blocks 4": _one_rate(
        lro.tandem, rank=1, blocks=4, **_forgetful
    ),
}
"""What wins at one rate, and one change at a time from it."""


def _two_rates(name: str, **numbers: float) -> dict[str, Method]:
    """A method whose embeddings, head and norms have a tuned rate too; the other numbers given."""
    return {f"{name}, two rates": Method(METHODS[name].build, {"embedding_rate": 0.01} | numbers)}


TWO_RATES = (
    _two_rates("adamw", learning_rate=0.005, b2=0.95)
    | _two_rates("muon", learning_rate=0.04, momentum=0.8)
    | _two_rates("tandem n/2 int4", learning_rate=0.04, momentum=0.9)
)
"""With the momenta and b2 that were best with embeddings at 0.003."""

IN_THE_README = {
    "normuon int2, embeddings at 0.003": ours(
        lro.normuon, {"learning_rate": 0.02}, momentum=0.8, mu_dtype="int2"
    ),
    "tandem as it stands": _one_rate(lro.tandem, start={"learning_rate": 0.04}, shape_scale="dion"),
    "muon at one rate, dion": _one_rate(
        lro.muon, start={"learning_rate": 0.04}, shape_scale="dion", momentum=0.8
    ),
    "normuon int2 at one rate, dion": _one_rate(
        lro.normuon,
        start={"learning_rate": 0.04},
        shape_scale="dion",
        momentum=0.8,
        mu_dtype="int2",
    ),
}
"""Its first example, `lro.tandem` with a rate and nothing else, and others scaled like that."""

_small = functools.partial(
    _one_rate, lro.tandem, rank=QUARTER, mu_dtype="int8", start={"learning_rate": 0.02}
)
ATTEMPTS = {"tandem n/4 int8 at one rate": ONE_RATE["tandem n/4 int8 at one rate"]} | {
    f"tandem n/4 int8 at one rate, {name}": _small(momentum=0.9, **options)
    for name, options in {
        "mixed blocks": {"rest": Mixed()},
        "rest with momentum 0.5": {"rest": Remembering(0.5)},
        "rest with momentum 0.9": {"rest": Remembering(0.9)},
        "rest with momentum 0.5 in int2": {"rest": Remembering(0.5, "int2")},
        "blocks 1": {"blocks": 1},
        "rest with momentum 0.9, blocks 1": {"rest": Remembering(0.9, blocks=1)},
        "every 50": {"update_interval": 50},
        "no neurons": {"neuron_decay": None},
    }.items()
}
"""To bring a quarter of the columns nearer to Muon."""

_trion = functools.partial(ours, lro.trion, {"learning_rate": 0.08}, rank=QUARTER)
_dct_adamw = functools.partial(ours, lro.dct_adamw, {"learning_rate": 0.005}, rank=QUARTER)

ARGUMENTS = {
    "trion 1/4 as published": _trion(),
    **{
        f"trion 1/4, nesterov, momentum and residual_decay {decay}": _trion(
            momentum=decay, residual_decay=decay, nesterov=True
        )
        for decay in (0.95, 0.8)
    },
    "dct_adamw as published": _dct_adamw(),
    "dct_adamw": METHODS["dct_adamw"],
    "dct_adamw, b2 0.95, no feedback": _dct_adamw(b2=0.95, error_feedback=None),
}
"""What helps the methods whose defaults are their papers'."""

METHODS |= ONE_RATE | CHANGES_AT_ONE_RATE | TWO_RATES | IN_THE_README | ATTEMPTS | ARGUMENTS

METHODS |= {
    f"tandem n/4, {name}": _tandem(**({"rank": QUARTER, "mu_dtype": None} | options))
    for name, options in CHANGES.items()
}
