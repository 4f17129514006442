"""Newton–Schulz: the Gram form equals the plain iteration, and nothing makes it non-finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lowrank_optax as lro
from benchmarks.collectives import collectives
from lowrank_optax.linalg import newton_schulz

MUON = (3.4445, -4.7750, 2.0315)
CONVERGENT = (1.875, -1.25, 0.375)
VARYING = (MUON, (2.5, -2.5, 0.8), CONVERGENT)


def plain_iteration(x, triples, eps=1e-7):
    """The definition, step by step, in numpy's float64."""
    x = np.asarray(x, np.float64)
    tall = x.shape[-2] > x.shape[-1]
    x = np.swapaxes(x, -1, -2) if tall else x
    x = x / (np.linalg.norm(x, axis=(-2, -1), keepdims=True) + eps)
    for a, b, c in triples:
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return np.swapaxes(x, -1, -2) if tall else x


@pytest.mark.product(every=2)
@pytest.mark.parametrize("shape", [(64, 8), (8, 64), (16, 16), (20, 16), (2, 3, 40, 4), (5, 1)])
def test_float32_matches_the_plain_iteration(shape):
    x = draw(shape)
    np.testing.assert_allclose(newton_schulz(x), plain_iteration(x, [MUON] * 5), atol=1e-5)


@pytest.mark.product
@pytest.mark.parametrize("shape", [(24, 4), (4, 24), (16, 16)])
@pytest.mark.parametrize("steps", [0, 1, 5, 12])
def test_float64_stays_float64_and_matches_to_the_last_digits(shape, steps, float64):
    x = draw(shape, dtype=jnp.float64)
    y = newton_schulz(x, steps=steps)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, plain_iteration(x, [MUON] * steps), atol=1e-10)


@pytest.mark.parametrize("shape", [(48, 6), (6, 6)])
def test_any_coefficients_one_triple_or_one_per_step(shape):
    x = draw(shape)
    one = newton_schulz(x, steps=8, coefficients=CONVERGENT)
    np.testing.assert_allclose(one, plain_iteration(x, [CONVERGENT] * 8), atol=1e-5)
    each = newton_schulz(x, steps=3, coefficients=VARYING)
    np.testing.assert_allclose(each, plain_iteration(x, VARYING), atol=1e-5)
    lists = newton_schulz(x, steps=3, coefficients=[list(triple) for triple in VARYING])
    np.testing.assert_array_equal(each, lists)


def test_eps_is_added_to_the_norm_of_tiny_input():
    x = 1e-7 * draw((24, 4))
    expected = plain_iteration(x, [MUON] * 5)
    np.testing.assert_allclose(newton_schulz(x), expected, atol=1e-5)
    without = plain_iteration(x, [MUON] * 5, eps=0)
    assert np.max(np.abs(expected - without)) > 1e-3
    np.testing.assert_allclose(newton_schulz(x, eps=0.0), without, atol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("shape", [(256, 32), (32, 256), (96, 64), (64, 96)])
def test_singular_values_land_near_one(shape):
    values = jnp.linalg.svd(newton_schulz(draw(shape)), compute_uv=False)
    assert 0.6 < values.min() < values.max() < 1.3


def with_singular_values(values, m):
    """A matrix (m, r) with these singular values, whose squares add up to 1."""
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(m, len(values))))
    right, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(values),) * 2))
    return jnp.asarray(left * values @ right)


# The best that any such composition reaches from [0.001, 1], with 1 % of room at the lower end.
@pytest.mark.parametrize(
    ("steps", "least", "most"),
    [(1, 0.0082, 2), (3, 0.130, 1.866), (5, 0.846, 1.124), (8, 1 - 1e-9, 1 + 1e-9)],
)
def test_polar_express_brings_singular_values_into_the_band_of_its_theorem(
    steps, least, most, float64
):
    values = np.geomspace(1e-3, 0.5, 24)
    values[-1] = np.sqrt(1 - np.sum(values[:-1] ** 2))
    for x in [with_singular_values(values, 60), with_singular_values(values, 24)]:
        y = newton_schulz(x, steps=steps, coefficients="polar_express", eps=0.0)
        reached = np.linalg.svd(y, compute_uv=False)
        assert least <= reached.min()
        assert reached.max() <= most


def test_polar_express_is_nearer_to_one_than_muon_and_repeats_its_last_step():
    x = draw((64, 16))
    error = lambda **options: jnp.max(
        jnp.abs(jnp.linalg.svd(newton_schulz(x, **options), compute_uv=False) - 1)
    )
    assert error(steps=6, coefficients="polar_express") < 0.01 < 0.1 < error(steps=6)
    assert error(steps=12, coefficients="polar_express") < 1e-5


def test_muon_by_name_is_its_triple():
    x = draw((64, 16))
    named = newton_schulz(x, coefficients="muon")
    np.testing.assert_array_equal(named, newton_schulz(x, coefficients=MUON))


@pytest.mark.product(every=3)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("shape", "spec", "reduced"),
    [
        ((64, 8), ("a", None), (8, 8)),
        ((64, 8), (None, "a"), None),
        ((64, 8), ("a", "b"), None),
        ((8, 64), (None, "a"), (8, 8)),
        ((16, 16), ("a", None), None),
        ((4, 64, 8), ("a", None, None), ()),
        ((2, 64, 8), ("b", "a", None), (1, 8, 8)),
    ],
)
def test_any_sharding_is_kept_and_split_rows_add_up_gram_matrices_only(
    axis_type, shape, spec, reduced
):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type, axis_type))
    x = draw(shape)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    compiled = jax.jit(newton_schulz).lower(sharded).compile()
    y = compiled(sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    np.testing.assert_allclose(y, newton_schulz(x), atol=1e-5)
    if reduced is not None:
        found = collectives(compiled.as_text())
        assert {each.kind for each in found} <= {"all-reduce"}
        largest = max((math.prod(s) for each in found for s in each.shapes), default=1)
        assert largest == math.prod(reduced)
    with jax.set_mesh(mesh):
        outside = newton_schulz(sharded)
    assert outside.sharding.is_equivalent_to(sharded.sharding, x.ndim)


@pytest.mark.parametrize("shape", [(3, 32, 4), (4, 32), (8, 8)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zero_stays_zero(shape, dtype):
    y = newton_schulz(jnp.zeros(shape, dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, jnp.zeros(shape, dtype))


@pytest.mark.product
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-7, 1.0, 1e20, 1e38])
@pytest.mark.parametrize("steps", [5, 30])
@pytest.mark.parametrize("shape", [(64, 8), (9, 8)])
def test_rank_one_input_of_any_scale_stays_finite_and_bounded(scale, steps, shape):
    m, n = shape
    x = draw((m, 1)) * draw((1, n), seed=1)
    x = scale * (x / jnp.max(jnp.abs(x)))
    y = newton_schulz(x, steps=steps)
    assert jnp.isfinite(y).all()
    assert (0.6 if scale > 1e-6 else 0) <= jnp.linalg.norm(y, ord=2) < 1.3


def test_many_steps_on_ill_conditioned_long_input_do_not_diverge():
    left, _ = jnp.linalg.qr(draw((128, 16)))
    right, _ = jnp.linalg.qr(draw((16, 16), seed=1))
    x = left * jnp.logspace(0, -9, 16) @ right
    for steps in (5, 10, 40):
        y = newton_schulz(x, steps=steps)
        assert jnp.isfinite(y).all()
        assert jnp.linalg.norm(y, ord=2) < 1.3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = draw((64, 8), dtype=dtype)
    y = newton_schulz(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, newton_schulz(x.astype(jnp.float32)).astype(dtype))


def test_zero_stays_zero_without_eps_and_no_rows_give_no_rows():
    np.testing.assert_array_equal(newton_schulz(jnp.zeros((6, 2)), eps=0.0), jnp.zeros((6, 2)))
    assert newton_schulz(jnp.zeros((0, 3))).shape == (0, 3)
    assert newton_schulz(jnp.zeros((0, 5, 3))).shape == (0, 5, 3)


def test_batched_equals_mapped_equals_looped():
    x = draw((3, 24, 4))
    whole = newton_schulz(x)
    np.testing.assert_allclose(jax.vmap(newton_schulz)(x), whole, atol=1e-6)
    np.testing.assert_allclose(jnp.stack([newton_schulz(y) for y in x]), whole, atol=1e-6)


def flops(function, *shape):
    cost = jax.jit(function).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
    return cost.cost_analysis()["flops"]


def plain_in_jax(x):
    x = jnp.swapaxes(x, -1, -2) if x.shape[-2] > x.shape[-1] else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for a, b, c in [MUON] * 5:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.product(every=2)
@pytest.mark.parametrize(("m", "n", "most"), [(1024, 64, 0.35), (256, 64, 0.6), (100, 64, 1.0)])
def test_the_gram_form_costs_fewer_flops_on_long_input(m, n, most):
    for shape in [(m, n), (n, m)]:
        assert flops(newton_schulz, *shape) < most * flops(plain_in_jax, *shape)


def test_a_square_matrix_costs_no_more_than_the_plain_form():
    # Five more operations per entry scale it safely, next to about 30 n for the products.
    assert flops(newton_schulz, 64, 64) < 1.01 * flops(plain_in_jax, 64, 64)


def test_products_are_asked_for_in_full_precision():
    text = jax.jit(newton_schulz).lower(jnp.ones((64, 8))).as_text()
    assert "dot_general" in text
    assert text.count("dot_general") == text.count("precision = [HIGHEST, HIGHEST]")


@pytest.mark.parametrize(
    ("coefficients", "steps", "message"),
    [
        (VARYING, 5, r"for each of the 5 steps; got \(\(3\.4445"),
        ((1.0, 2.0), 5, r"three numbers \(a, b, c\).*got \(1\.0, 2\.0\)"),
        (((1.0, 2.0),) * 5, 5, "three numbers"),
        (MUON, -1, "must not be negative: -1"),
        ("polar", 5, "named 'polar' are unknown; use muon or polar_express"),
    ],
)
def test_wrong_coefficients_or_steps_are_named(coefficients, steps, message):
    with pytest.raises(ValueError, match=message):
        newton_schulz(jnp.ones((4, 2)), steps=steps, coefficients=coefficients)
    for make in (lro.trion, lro.tandem, lro.muon):
        with pytest.raises(ValueError, match=message):
            make(0.1, ns_steps=steps, ns_coeffs=coefficients)


def test_a_fraction_of_a_step_is_refused():
    with pytest.raises(TypeError, match=r"steps must be an int: 2\.5"):
        lro.residuals.orthonormal(ns_steps=2.5)
