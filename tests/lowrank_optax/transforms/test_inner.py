"""Inner optimizers: names, the published forms of Adam and Lion, any tree."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lowrank_optax import transforms as inner

B1, B2, EPS = 0.8, 0.95, 1e-3


def gradients(shape=(5, 3), steps=4):
    rng = np.random.default_rng(0)
    return [np.asarray(rng.normal(size=shape), np.float32) for _ in range(steps)]


def run(tx, grads):
    state = tx.init(jnp.asarray(grads[0]))
    for g in grads:
        u, state = tx.update(jnp.asarray(g), state)
        yield np.asarray(u), state


def test_published_adam_adds_eps_to_the_uncorrected_moment():
    grads, m, v = gradients(), 0.0, 0.0
    for t, (u, state) in enumerate(run(inner.scale_by_published_adam(B1, B2, EPS), grads), 1):
        m = B1 * m + (1 - B1) * grads[t - 1]
        v = B2 * v + (1 - B2) * grads[t - 1] ** 2
        correction = np.sqrt(1 - B2**t) / (1 - B1**t)
        np.testing.assert_allclose(u, correction * m / (np.sqrt(v) + EPS), rtol=1e-5)
        assert isinstance(state, optax.ScaleByAdamState)
        assert state.count == t


def test_uncorrected_adam_then_the_correction_is_published_adam():
    grads = gradients()
    parts = optax.chain(
        inner.scale_by_uncorrected_adam(B1, B2, EPS), inner.scale_by_adam_bias_correction(B1, B2)
    )
    published = inner.scale_by_published_adam(B1, B2, EPS)
    for (u, state), (w, _) in zip(run(parts, grads), run(published, grads), strict=True):
        np.testing.assert_allclose(u, w, rtol=1e-6)
        assert isinstance(state[0], optax.ScaleByAdamState)


def test_uncorrected_adam_does_not_correct():
    u, state = next(run(inner.scale_by_uncorrected_adam(B1, B2, EPS), gradients()))
    np.testing.assert_allclose(u, state.mu / (np.sqrt(state.nu) + EPS), rtol=1e-6)


def test_the_bias_correction_counts_from_one_and_keeps_only_a_count():
    tx = inner.scale_by_adam_bias_correction(B1, B2)
    for t, (u, state) in enumerate(run(tx, [np.float32([2.0])] * 3), 1):
        np.testing.assert_allclose(u, 2 * np.sqrt(1 - B2**t) / (1 - B1**t), rtol=1e-6)
        assert len(jax.tree.leaves(state)) == 1
        assert state.count == t


def test_the_sign_of_unsigned_lion_is_lion():
    grads = gradients()
    unsigned, lion = inner.scale_by_unsigned_lion(B1, B2), optax.scale_by_lion(B1, B2)
    for (u, state), (w, expected) in zip(run(unsigned, grads), run(lion, grads), strict=True):
        np.testing.assert_array_equal(np.sign(u), w)
        chex.assert_trees_all_close(state, expected, rtol=1e-6)
    assert np.unique(np.abs(u)).size > 1


def test_names_give_the_optimizers_that_they_say():
    grads = gradients()
    expected = {
        "adam": optax.scale_by_adam(B1, B2, EPS),
        "adam8bit": inner.scale_by_adam8bit(B1, B2, EPS),
        "adam_mini": inner.scale_by_adam_mini(B1, B2, EPS),
        "lion": optax.scale_by_lion(B1, B2),
        "sgd": optax.trace(B1),
    }
    assert set(inner.CHOICES) == {*expected, "adafactor"}
    for name, tx in expected.items():
        resolved = inner.resolve(name, b1=B1, b2=B2, eps=EPS)
        for (u, state), (w, other) in zip(run(resolved, grads), run(tx, grads), strict=True):
            chex.assert_trees_all_equal((u, state), (w, other))


def test_any_transformation_is_taken_as_it_is():
    tx = optax.scale(2.0)
    assert inner.resolve(tx) is tx


def test_wrong_names_are_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"inner='adamw' is unknown; use one of \('adam', "):
        inner.resolve("adamw")
    with pytest.raises(TypeError, match="inner=3 must be one of"):
        inner.resolve(3)
    with pytest.raises(ValueError, match=r"b2=99 must lie in \[0, 1\]"):
        inner.resolve("lion", b2=99)
    with pytest.raises(TypeError, match=r"steps must .* static_args=\('steps', ...\), and .* rank"):
        inner.orthonormalize(jnp.array(5))
    with pytest.raises(ValueError, match=r"b2 is 1 as bfloat16, .* hyperparam_dtype=jnp.float32"):
        inner.resolve("adam", b2=jnp.array(0.999, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"b1=7 must lie in \[0, 1\]"):
        inner.scale_by_published_adam(b1=7)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (2, 3, 6)])
def test_orthonormalize_takes_either_orientation(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    tx = inner.orthonormalize(12, (1.5, -0.5, 0.0))
    u, _ = tx.update(x, tx.init(x))
    side = min(shape[-2:])
    gram = u.mT @ u if shape[-1] == side else u @ u.mT
    np.testing.assert_allclose(gram, jnp.broadcast_to(jnp.eye(side), gram.shape), atol=0.02)
    flipped, _ = tx.update(x.mT, tx.init(x))
    np.testing.assert_allclose(flipped.mT, u, atol=1e-5)


EACH = {
    **{name: inner.resolve(name) for name in inner.CHOICES},
    "published_adam": inner.scale_by_published_adam(),
    "uncorrected_adam": inner.scale_by_uncorrected_adam(),
    "bias_correction": inner.scale_by_adam_bias_correction(),
    "unsigned_lion": inner.scale_by_unsigned_lion(),
    "orthonormalize": inner.orthonormalize(),
}


@pytest.mark.product(every=3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", EACH)
def test_every_inner_optimizer_keeps_shapes_and_dtypes_and_survives_zeros(name, dtype):
    tx = EACH[name]
    params = {
        "stack": jnp.ones((2, 5, 3), dtype),
        "row": jnp.ones((4, 1), dtype),
        "masked": optax.MaskedNode(),
        "nothing": None,
    }
    state = tx.init(params)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)
    update = jax.jit(tx.update)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for grads in (zeros, params):
        updates, new_state = update(grads, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_tree_all_finite((updates, new_state))
        state = new_state
