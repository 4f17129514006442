"""Every array of a state belongs to its parameter, whatever the structure of the parameters."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro
from lowrank_optax.sharding.owners import state_owners


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    weight: jax.Array
    bias: jax.Array


class Pair(NamedTuple):
    weight: jax.Array
    bias: jax.Array


W, V, b = (8, 16), (16, 8), (16,)


def struct(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# Parameters of every structure, each array of another number of entries.
PARAMS = {
    "array": struct(W),
    "list": [struct(W), struct(b)],
    "list of one": [struct(W)],
    "tuple": (struct(W), struct(b)),
    "named tuple": Pair(struct(W), struct(b)),
    "dataclass": Module(struct(W), struct(b)),
    "nested lists": [[struct(W), struct(b)], [[struct((8, 24))], struct((24,))]],
    "nested tuples": ((struct(W), struct(b)), (struct((8, 24)), struct((24,)))),
    "digits": {"0": struct(W), "1": {"0": struct((8, 24)), "1": struct((24,))}},
    "names of a state": {"mu": struct(W), "count": {"mu": struct((8, 24))}, "inner": struct(b)},
    "repeating": {"x": {"x": {"x": struct(W), "y": struct(b)}, "y": struct((8, 24))}},
    "none": {"x": None, "y": [struct(W), None, struct(b)]},
}


def by_rank(params):
    """Two optimizers, with labels for either kind of parameter."""
    transforms = {"W": optax.sgd(0.1, 0.9), "b": optax.scale_by_adam()}
    labels = jax.tree.map(lambda leaf: "W" if len(leaf.shape) == 2 else "b", params)
    return optax.partition(transforms, labels)


# Optimizers, and how many entries of state a parameter of a shape has in each; None: not its own.
ADAM = {2: lambda m, n: 2 * m * n, 1: lambda n: 2 * n}
MOMENTUM = {2: lambda m, n: m * n, 1: lambda n: n}
RANK = 2
TRION = {2: lambda m, n: m * n + RANK, 1: ADAM[1]}
DCT_ADAMW = {2: lambda m, n: 2 * max(m, n) * RANK + RANK, 1: ADAM[1]}
CHAIN = optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1)))
TRANSFORMS = {
    "adam in a chain": (CHAIN, ADAM),
    "a chain of counts": (
        optax.chain(*[optax.scale_by_schedule(lambda count: count)] * 2),
        {2: lambda m, n: 0, 1: lambda n: 0},
    ),
    "named chain": (optax.named_chain(("0", CHAIN), ("1", optax.scale(2.0))), ADAM),
    "partition": (by_rank, {2: MOMENTUM[2], 1: ADAM[1]}),
    "masked": (
        lambda params: optax.masked(CHAIN, jax.tree.map(lambda x: len(x.shape) == 2, params)),
        {2: ADAM[2], 1: lambda n: 0},
    ),
    "MultiSteps": (
        optax.MultiSteps(CHAIN, 2).gradient_transformation(),
        {2: lambda m, n: 3 * m * n, 1: lambda n: 3 * n},
    ),
    "inject_hyperparams": (optax.inject_hyperparams(optax.adam)(0.1), ADAM),
    "adafactor": (
        optax.adafactor(0.1, min_dim_size_to_factor=4),
        {2: lambda m, n: m + n + 1, 1: lambda n: n + 2},
    ),
    "sm3": (optax.sm3(0.1), {2: lambda m, n: m + n + m * n, 1: lambda n: n + n}),
    "lbfgs": (
        optax.lbfgs(memory_size=3, linesearch=None),
        {2: lambda m, n: 8 * m * n, 1: lambda n: 8 * n},
    ),
    "adam8bit": (
        lro.scale_by_adam8bit(min_size=1, block_size=8),
        # Codes of a byte, and a scale per block, of either moment.
        {2: lambda m, n: 2 * (m * n + m * n // 8), 1: lambda n: 2 * (n + n // 8)},
    ),
    "trion": (lro.trion(0.1, RANK), TRION),
    "dct_adamw": (lro.dct_adamw(0.1, RANK, error_feedback=None), DCT_ADAMW),
    "a chain inside": (
        lro.scale_by_low_rank(CHAIN, lro.projections.dct(RANK)),
        {2: DCT_ADAMW[2], 1: lambda n: 0},
    ),
    "trion in a chain": (
        optax.chain(optax.clip_by_global_norm(1.0), lro.trion(0.1, RANK)),
        TRION,
    ),
    "trion in everything": (
        lambda params: optax.inject_hyperparams(
            lambda learning_rate: optax.MultiSteps(
                optax.masked(lro.trion(learning_rate, RANK), jax.tree.map(lambda _: True, params)),
                every_k_schedule=2,
            ).gradient_transformation()
        )(0.1),
        {2: lambda m, n: 2 * m * n + RANK, 1: lambda n: 3 * n},
    ),
}


def owned(tx, params):
    """Entries of state per parameter, and which shapes belong to none."""
    state = jax.eval_shape(tx.init, params)
    sizes, shared = [0] * len(jax.tree.leaves(params)), []
    for leaf, owner in zip(
        jax.tree.leaves(state), state_owners(tx.init, params, state), strict=True
    ):
        if owner is None:
            shared.append(leaf.shape)
        else:
            sizes[owner] += leaf.size
    return sizes, shared


@pytest.mark.product(every=5)
@pytest.mark.parametrize("structure", PARAMS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_parameter_has_the_state_that_its_shape_asks_for(name, structure):
    (tx, entries), params = TRANSFORMS[name], PARAMS[structure]
    tx = tx if hasattr(tx, "init") else tx(params)
    sizes, shared = owned(tx, params)
    assert sizes == [entries[len(x.shape)](*x.shape) for x in jax.tree.leaves(params)]
    # Counts, keys, and of L-BFGS a weight per step that it remembers.
    assert set(shared) <= {(), (2,), (3,)}


def test_a_basis_learned_by_an_optimizer_belongs_to_its_matrix_with_its_count():
    tx = lro.online_subspace_descent(0.1, RANK, projection_optimizer=optax.adam(0.1))
    sizes, shared = owned(tx, [struct(W), struct(b)])
    basis, moments = 3 * 8 * RANK + 1, 2 * 16 * RANK
    assert sizes == [basis + moments, 2 * 16]
    assert set(shared) <= {(), (2,)}


def test_a_key_belongs_to_nobody():
    numbers = MuonDimensionNumbers(0, 1)
    tx = lro.golore(0.1, RANK, random_after=2, dimension_numbers=numbers)
    _, shared = owned(tx, struct(W))
    assert [shape for shape in shared if shape] == [(2,)]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_a_chain_inside_is_split_as_each_parameter_of_a_list_is(kind):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    params = [struct((8, 16)), struct((16, 8))]  # both have 16 rows, and 8 columns to compress
    places = [NamedSharding(mesh, P(None, "a")), NamedSharding(mesh, P("b", None))]
    inner = optax.chain(optax.clip(1.0), optax.scale_by_adam())
    tx = lro.scale_by_low_rank(inner, lro.projections.dct(RANK))
    adam = lro.state_shardings(tx, params, places).inner[1]
    assert [[axis for axis in place.spec if axis] for place in adam.mu] == [["a"], ["b"]]
    assert adam.count.spec == P()


def test_an_init_that_looks_at_its_parameters_is_told_by_structure():
    def init(params):
        return (jnp.zeros(()), {"w": jnp.zeros_like(params["w"]), "b": {"of": params["b"]}})

    tx = optax.GradientTransformation(init, lambda updates, state, params: (updates, state))
    params = {"w": struct(W), "b": struct(b)}
    assert owned(optax.chain(tx, optax.scale_by_adam()), params) == ([16 * 3, 128 * 3], [(), ()])


def test_no_array_is_made():
    def init(params):
        return jax.tree.map(lambda x: jnp.zeros((1 << 40, *x.shape)), params)

    tx = optax.GradientTransformation(init, lambda updates, state, params: (updates, state))
    assert owned(tx, [struct(b)]) == ([16 << 40], [])
