"""Every value of an axis works with every value of every other one, or says why not."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from drawing import draw
from methods import compiled
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

# Compressed sides are powers of two, as the Hadamard basis wants.
SHAPES = {"w": (8, 12), "scanned": (2, 6, 4), "vector": (5,), "scalar": ()}
NUMBERS = {
    "w": MuonDimensionNumbers(0, 1),
    "scanned": MuonDimensionNumbers(1, 2),
    "vector": None,
    "scalar": None,
}
PROJECTIONS = {
    "dct": lambda rank: lro.projections.dct(rank),
    "dct importance": lambda rank: lro.projections.dct(rank, "importance"),
    "svd": lambda rank: lro.projections.svd(rank),
    "svd hybrid": lambda rank: lro.projections.svd(rank, "hybrid", method="gram"),
    "random": lambda rank: lro.projections.random(rank),
    "identity uniform": lambda rank: lro.projections.identity(rank, "uniform"),
    "hadamard": lambda rank: lro.projections.hadamard(rank),
    "random_orthogonal": lambda rank: lro.projections.random_orthogonal(rank),
    "power_iteration": lambda rank: lro.projections.power_iteration(rank),
    "online_pca": lambda rank: lro.projections.online_pca(rank),
    "two_sided": lambda rank: lro.projections.two_sided(
        lro.projections.svd(rank), lro.projections.dct(rank)
    ),
}
TRANSPORTS = ("keep", "reset", "rotate", "rotate_first", "rotate_moments")
RESIDUALS = {
    "discard": lro.residuals.discard(),
    "sign_descent": lro.residuals.sign_descent(0.5),
    "sgd": lro.residuals.sgd(0.5),
    "norm_scaling": lro.residuals.norm_scaling(),
    "error_feedback 8": lro.residuals.error_feedback("int8"),
    "error_feedback 4 stochastic": lro.residuals.error_feedback("int4", rounding="stochastic"),
    "momentum": lro.residuals.momentum(0.9),
    "momentum 8": lro.residuals.momentum(0.9, dtype="int8"),
    "orthonormal": lro.residuals.orthonormal(3),
    "column_scaling": lro.residuals.column_scaling(),
}
INNERS = ("adam", "adam8bit", "adam_mini", "adafactor", "lion", "sgd")
MOVABLE = {
    "keep": INNERS,
    "reset": INNERS,
    "rotate": ("adam", "adam_mini", "adafactor", "lion", "sgd"),
    "rotate_first": ("adam", "adam_mini", "lion", "sgd"),
    "rotate_moments": ("adam",),
}
SCHEDULES = {"every step": 1, "interval": 2, "adaptive": lro.adaptive(1, threshold=0.1, longest=4)}
MATRICES = ("w", "scanned")  # each compiled by itself, beside what is no matrix
AXES = (tuple(PROJECTIONS), TRANSPORTS, tuple(RESIDUALS), INNERS, tuple(SCHEDULES), MATRICES)


def valid(combination):
    projection, transport, residual, inner, *_ = combination
    mixes_rows = projection == "two_sided" and residual in ("norm_scaling", "column_scaling")
    # What is kept of the rest would grow where the columns are not orthonormal.
    grows = projection == "online_pca" and residual.startswith(("error_feedback", "momentum"))
    return inner in MOVABLE[transport] and not mixes_rows and not grows


def pairwise():
    """Few combinations in which every valid pair of values of two axes occurs."""
    everything = [c for c in itertools.product(*AXES) if valid(c)]
    pairs = lambda c: set(itertools.combinations(enumerate(c), 2))
    missing = set().union(*map(pairs, everything))
    rng = np.random.default_rng(0)
    chosen = []
    while missing:
        sample = [everything[i] for i in rng.choice(len(everything), 300)]
        best = max(sample, key=lambda c: len(pairs(c) & missing))
        if pairs(best) & missing:
            chosen.append(best)
            missing -= pairs(best)
    return chosen


def build(combination, rank):
    projection, transport, residual, inner, schedule, matrix = combination
    return optax.chain(
        lro.scale_by_low_rank(
            lro.transforms.resolve(inner),
            PROJECTIONS[projection](rank),
            update_interval=SCHEDULES[schedule],
            transport=transport,
            residual=RESIDUALS[residual],
            dimension_numbers=beside(NUMBERS, matrix),
        ),
        optax.scale_by_learning_rate(0.1),
    )


def model(seed):
    return {name: draw(shape, 10 * seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


def beside(tree, matrix):
    """One of the matrices, and what is no matrix."""
    return {name: leaf for name, leaf in tree.items() if name not in MATRICES or name == matrix}


@pytest.mark.product(every=60)
@pytest.mark.parametrize("combination", pairwise(), ids=lambda c: "-".join(c).replace(" ", "_"))
def test_every_pair_of_axis_values_steps_and_keeps_its_state(combination, tmp_path):
    rank = (1, 2, 1.0)[sum(map(len, combination)) % 3]
    tx = build(combination, rank)
    gradients = [beside(model(seed), combination[-1]) for seed in range(1, 5)]
    params = beside(model(0), combination[-1])
    state = first = jax.jit(tx.init)(params)
    update = jax.jit(tx.update)
    for grads in (gradients[0], jax.tree.map(jnp.zeros_like, params), *gradients[1:3]):
        updates, state = update(grads, state, params)
        chex.assert_tree_all_finite((updates, state))
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
    assert update._cache_size() == 1
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params))
    after, expected = (update(gradients[3], each, params) for each in (restored, state))
    chex.assert_trees_all_equal(after, expected)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("inner", INNERS)
def test_a_transport_without_moments_to_move_says_what_would_work(transport, inner):
    make = lambda: lro.low_rank(0.1, 2, transport=transport, inner=inner)
    if inner in MOVABLE[transport]:
        make()
    else:
        with pytest.raises(ValueError, match=rf"{transport}.*use transport='keep' or 'reset'"):
            make()


def test_a_projection_that_needs_the_moment_says_so():
    projection = lro.projections.power_iteration(2, rho=0.9)
    with pytest.raises(
        ValueError, match=r"PowerIteration.*a stateless transformation.*scale_by_adam"
    ):
        lro.scale_by_low_rank(optax.scale_by_sign(), projection)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (optax.trace(0.9), r"the state of chain has several; .*scale_by_adam"),
        (optax.scale_by_schedule(float), r"has not one of each of \['count'\].*scale_by_adam"),
    ],
    ids=["trace", "count"],
)
def test_what_follows_the_moment_says_that_it_does_not_know_which(second, message):
    inner = optax.chain(optax.scale_by_adam(), second)
    residual = lro.residuals.error_feedback("float32", moment_decay=0.9)
    with pytest.raises(ValueError, match=message):
        lro.scale_by_low_rank(inner, lro.projections.power_iteration(2, rho=0.9))
    with pytest.raises(ValueError, match=message):
        lro.scale_by_low_rank(inner, lro.projections.svd(2), residual=residual)


def test_nesterov_s_momentum_refuses_a_basis_that_it_could_not_decay_by():
    with pytest.raises(ValueError, match=r"nesterov=True needs a fixed basis.*not Svd"):
        lro.low_rank(0.1, projection="svd", residual=lro.residuals.momentum(0.9, nesterov=True))


def test_a_residual_by_vectors_refuses_a_projection_that_compresses_both_sides():
    both = lro.projections.two_sided(lro.projections.dct(2), lro.projections.dct(2))
    with pytest.raises(ValueError, match=r"NormScaling.*TwoSided.*error_feedback"):
        lro.low_rank(0.1, projection=both, residual="norm_scaling")


def test_staggering_needs_an_interval():
    with pytest.raises(ValueError, match=r"stagger=True .* update_interval=1 is no int above 1"):
        lro.galore(0.1, 2, update_interval=1, stagger=True)


@pytest.mark.parametrize("basis", ["dct", "identity", "hadamard", "random_orthogonal"])
def test_at_full_rank_on_a_fixed_basis_adam_is_adam_in_rotated_coordinates(basis):
    projection = lro.projections.by_name(basis, 1.0)
    tx = compiled(lro.scale_by_low_rank(optax.scale_by_adam(), projection))
    adam = compiled(optax.scale_by_adam())
    turned = lambda x: projection.analyze(x, x.dtype)
    leaf = model(0)["w"]
    state, adam_state = tx.init(leaf), adam.init(leaf)
    for seed in range(3):
        grad = model(seed)["w"]
        updates, state = tx.update(grad, state)
        expected, adam_state = adam.update(turned(grad), adam_state)
        np.testing.assert_allclose(turned(updates), expected, atol=2e-5)


def test_galore_rotates_the_first_moment_for_a_hybrid_selection_however_it_is_given():
    trajectories = []
    for select in ("hybrid", lro.selection.hybrid()):
        tx = lro.galore(0.1, 2, update_interval=1, select=select, dimension_numbers=NUMBERS)
        tx = compiled(tx)
        state = tx.init(model(0))
        for seed in range(3):
            updates, state = tx.update(model(seed), state)
        trajectories.append(updates)
    chex.assert_trees_all_equal(*trajectories)
