"""What a state and a key promise, whatever the axes."""

import jax
import jax.numpy as jnp
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

PARAMS = {"b": jnp.ones(6), "w": draw((8, 6))}


@pytest.mark.parametrize(
    ("tx", "other", "message"),
    [
        (
            lro.galore(0.1, 2),
            lro.galore(0.1, 4),
            r"basis/w is of shape \(6, 4\) and must be .*6, 2",
        ),
        (lro.trion(0.1, 2), lro.galore(0.1, 2), r"is of shape .* and must be of shape"),
        (lro.dion(0.1, 2), lro.trion(0.1, 2), r"basis/w is of shape \(2,\) and must be .*6, 2"),
        (
            lro.dion(0.1, 2, mu_dtype="int4"),
            lro.dion(0.1, 2),
            r"residual/w/codes is absent and must be .* another method, rank, mu_dty",
        ),
        (lro.galore(0.1, 2), lro.trion(0.1, 2), r"basis/w is of shape \(2,\) and must be"),
        (
            lro.muon(0.1, mu_dtype="int8"),
            lro.muon(0.1),
            r"and must be .* another method, rank, mu_dty",
        ),
    ],
)
def test_the_state_of_another_optimizer_is_named_with_what_differs(tx, other, message):
    with pytest.raises(ValueError, match=message):
        tx.update(PARAMS, other.init(PARAMS), PARAMS)


@pytest.mark.product(every=6)
@pytest.mark.parametrize(
    "name", ["trion", "dion", "dion2", "tandem", "galore", "golore", "apollo", "frugal"]
)
def test_the_state_of_another_rank_is_refused_also_where_a_step_could_be_taken(name):
    make = getattr(lro, name)
    state = make(0.1, 2).init(PARAMS)
    for update in (make(0.1, 4).update, jax.jit(make(0.1, 4).update)):
        with pytest.raises(ValueError, match=r"basis/w is of shape .*2\D* and must be .*4.* rank"):
            update(PARAMS, state, PARAMS)


def test_the_state_of_other_parameters_is_named_with_the_shapes():
    tx = lro.ldadamw(0.1, 2)
    others = PARAMS | {"w": draw((8, 7))}
    with pytest.raises(ValueError, match=r"w is of shape \(\S+, \S+\) and must be of shape"):
        tx.update(others, tx.init(PARAMS), others)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_step_that_is_given_the_state_s_buffers_leaves_the_user_s_key(make):
    key = make(1)
    tx = lro.golore(0.1, 2, seed=key)
    state = tx.init(PARAMS)
    jax.jit(tx.update, donate_argnums=1)(PARAMS, state, PARAMS)
    jax.random.normal(key)
    tx.init(PARAMS)


@pytest.mark.parametrize(
    "tx",
    [
        lro.scale_by_trion(2),
        lro.frugal(0.1, 2),
        lro.scale_by_low_rank(
            optax.scale_by_adam(), lro.projections.dct(2), transport="reset", update_interval=3
        ),
    ],
)
def test_float32_gradients_of_float64_parameters_keep_every_type(tx, float64):
    del float64
    params = {"w": draw((8, 6)).astype("float64")}
    gradients = {"w": draw((8, 6), 1).astype("float32")}
    state = tx.init(params)
    _, after = jax.eval_shape(tx.update, gradients, state, params)
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: lro.scale_by_low_rank("adam", lro.projections.dct(2)),
            "inner='adam' must be a Gra",
        ),
        (
            lambda: lro.scale_by_low_rank(optax.sgd(1.0), "dct"),
            "projection='dct' must be a Projecti",
        ),
        (
            lambda: lro.scale_by_low_rank(
                optax.sgd(1.0), lro.projections.dct(2), residual="discard"
            ),
            r"residual='discard' must be a Residual, such as lro.residuals.discard\(\)",
        ),
        (lambda: lro.muon(0.1, fallback="adamw"), r"fallback='adamw' .* such as optax.adamw"),
        (
            lambda: lro.online_subspace_descent(0.1, 2, projection_optimizer="sgd"),
            r"optimizer='sgd' .* such as optax.sgd",
        ),
    ],
)
def test_parts_of_another_kind_are_refused_as_they_are_given(make, message):
    with pytest.raises(TypeError, match=message):
        make()
