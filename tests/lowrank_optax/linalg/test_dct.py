"""The cosine transform: golden values, every method, dtype, axis and size, cost, refusals."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from drawing import draw

from lowrank_optax.linalg import dct_columns, dct_matrix, orthogonal_dct, orthogonal_idct
from lowrank_optax.linalg.dct import choose_method

GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "dct.npz"
METHODS = ["fft", "factored", "matmul"]
TRANSFORMS = [orthogonal_dct, orthogonal_idct]
# Eager calls would compile every operation.
COMPILED = [jax.jit(f, static_argnames=("axis", "method", "dtype")) for f in TRANSFORMS]
dct, idct = COMPILED


def golden_cases():
    with np.load(GOLDEN) as arrays:
        sizes = sorted(int(name[2:]) for name in arrays if name.startswith("x_"))
        return [(arrays[f"x_{n}"], arrays[f"dct_{n}"], arrays[f"idct_{n}"]) for n in sizes]


def relative_error(actual, expected):
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.max(np.abs(expected))


def golden_error(method, dtype):
    """The largest relative error over all golden sizes, forwards and backwards."""
    inputs, *golden = zip(*golden_cases(), strict=True)

    @jax.jit
    def transform_all(xs):
        return [[transform(x, method=method) for x in xs] for transform in TRANSFORMS]

    actual = transform_all([jnp.asarray(x, dtype) for x in inputs])
    return max(
        relative_error(y, reference)
        for transform, references in zip(actual, golden, strict=True)
        for y, reference in zip(transform, references, strict=True)
    )


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", METHODS)
def test_matches_golden_values_in_float32(method):
    assert golden_error(method, jnp.float32) <= 1e-5


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", METHODS)
def test_matches_golden_values_in_float64(method, float64):
    assert golden_error(method, jnp.float64) <= 1e-12


@pytest.mark.product
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1536, 1331, 499])
def test_long_odd_and_unbalanced_lengths_match_scipy(method, n):
    x = draw((2, n))
    expected = scipy.fft.dct(np.asarray(x, np.float64), norm="ortho")
    assert relative_error(dct(x, method=method), expected) <= 2e-6
    assert relative_error(idct(jnp.float32(expected), method=method), x) <= 2e-6


@pytest.mark.product
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 0.012), (jnp.float16, 0.0015)])
def test_half_precision_keeps_its_dtype_and_its_accuracy(method, dtype, tolerance):
    x = draw((4, 96), dtype=dtype)
    for transform, reference in zip(COMPILED, [scipy.fft.dct, scipy.fft.idct], strict=True):
        y = transform(x, method=method)
        assert y.dtype == dtype
        assert relative_error(y, reference(np.asarray(x, np.float64), norm="ortho")) <= tolerance


@pytest.mark.parametrize("method", METHODS)
def test_float64_stays_float64_in_every_intermediate(method, float64):
    jaxpr = str(jax.make_jaxpr(lambda x: orthogonal_dct(x, method=method))(jnp.ones((2, 12))))
    assert "f64" in jaxpr
    assert "f32" not in jaxpr


@pytest.mark.parametrize("method", METHODS)
def test_an_array_without_rows_stays_one(method):
    assert there_and_back(method, jnp.ones((0, 1))).shape == (0, 1)


@pytest.mark.product
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis_is_the_matching_axis_of_scipy(method, axis):
    x = draw((6, 5, 4))
    expected = jnp.asarray(scipy.fft.dct(np.asarray(x), norm="ortho", axis=axis))
    np.testing.assert_allclose(dct(x, axis, method), expected, atol=1e-5)
    np.testing.assert_allclose(idct(expected, axis, method), x, atol=1e-5)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 9, 15, 16, 36, 75])
def test_stacked_columns_match_scipy_in_float64(method, n, float64):
    # 75 = 15 · 5 and 9 = 3 · 3 have odd factors, which leave no middle residue.
    x = draw((2, 3, n, 4), dtype=jnp.float64)
    for transform, reference in zip(COMPILED, [scipy.fft.dct, scipy.fft.idct], strict=True):
        expected = reference(np.asarray(x), norm="ortho", axis=-2)
        np.testing.assert_allclose(transform(x, -2, method), expected, atol=1e-13)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [-1, -2])
def test_half_precision_goes_in_and_float32_comes_out_without_a_cast_before_products(method, axis):
    x = draw((96, 96), dtype=jnp.bfloat16)
    for transform, reference in zip(TRANSFORMS, [scipy.fft.dct, scipy.fft.idct], strict=True):
        y = COMPILED[TRANSFORMS.index(transform)](x, axis, method, dtype=jnp.float32)
        assert y.dtype == jnp.float32
        expected = reference(np.asarray(x, np.float64), norm="ortho", axis=axis)
        # Of float32 operands the error would be 1e-7, of an output rounded to bfloat16 0.004.
        assert relative_error(y, expected) <= (1e-6 if method == "fft" else 0.006)
        assert jnp.any(y != y.astype(jnp.bfloat16))
        # CPUs, which refuse some such products, are the exception.
        jitted = jax.jit(lambda x, f=transform: f(x, axis, method, dtype=jnp.float32))
        text = jax.export.export(jitted, platforms=["cuda"])(x).mlir_module()
        products = re.findall(r"dot_general.*: \((.*)\) -> (.*)", text)
        assert bool(products) == (method != "fft")
        for operands, result in products:
            assert operands.count("xbf16>") == 2
            assert "xf32>" in result


def test_precision_is_that_of_the_products():
    x = jnp.ones((96, 4))
    for method in ["factored", "matmul"]:
        for precision, written in [(None, "HIGHEST"), ("default", "DEFAULT"), ("high", "HIGH")]:
            text = jax.jit(
                lambda x, m=method, p=precision: orthogonal_dct(x, -2, m, precision=p)
            ).lower(x)
            found = set(re.findall(r"precision = \[(\w+), (\w+)\]", text.as_text()))
            assert found == {(written, written)}
    half = jax.jit(lambda x: orthogonal_dct(x, -2, "matmul")).lower(x.astype(jnp.bfloat16))
    assert "HIGHEST" not in half.as_text()


# Passes over the matrix: what XLA counts as bytes accessed, in multiples of the matrix.
# The XLA of JAX 0.12 transposes for the FFT in passes of their own: 8 there, 10 back.
FFT_PASSES = 6.1 if jax.__version_info__ < (0, 11) else 10.1


@pytest.mark.parametrize(
    ("method", "passes", "held"), [("fft", FFT_PASSES, 2.1), ("factored", 8.2, 2.1)]
)
def test_rows_are_read_and_written_as_seldom_as_can_be(method, passes, held):
    x = jax.ShapeDtypeStruct((512, 1024), jnp.float32)
    for transform in TRANSFORMS:
        compiled = jax.jit(lambda x, f=transform: f(x, -2, method)).lower(x).compile()
        assert compiled.cost_analysis()["bytes accessed"] <= passes * 4 * 512 * 1024
        assert compiled.memory_analysis().temp_size_in_bytes <= held * 4 * 512 * 1024


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_transform_is_its_inverse(method):
    x, cotangent = draw((3, 30)), draw((3, 30), seed=1)

    @jax.jit
    def derivatives(x, cotangent):
        pulled = [
            jax.vjp(functools.partial(f, method=method), x)[1](cotangent)[0] for f in TRANSFORMS
        ]
        return pulled, jax.jvp(lambda x: orthogonal_dct(x, method=method), (x,), (cotangent,))

    pulled, (y, tangent) = derivatives(x, cotangent)
    for found, inverse in zip(pulled, COMPILED[::-1], strict=True):
        np.testing.assert_allclose(found, inverse(cotangent), atol=1e-5)
    np.testing.assert_allclose(tangent, dct(cotangent), atol=1e-5)
    np.testing.assert_allclose(np.sum(np.square(y)), np.sum(np.square(x)), rtol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", METHODS)
def test_vmap_and_scan_agree_with_the_batched_call(method):
    x = draw((3, 2, 18))

    @jax.jit
    def all_ways(x):
        transform = functools.partial(orthogonal_dct, method=method)
        _, scanned = jax.lax.scan(lambda c, row: (c, transform(row)), None, x)
        return transform(x), jax.vmap(transform, in_axes=1, out_axes=1)(x), scanned

    whole, mapped, scanned = all_ways(x)
    np.testing.assert_allclose(mapped, whole, atol=1e-5)
    np.testing.assert_allclose(scanned, whole, atol=1e-5)


def there_and_back(method, x):
    return orthogonal_idct(orthogonal_dct(x, method=method), method=method)


def constant_sizes(compiled_text):
    """Numbers of elements of all constants in an HLO text."""
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", compiled_text)
    return [int(np.prod([int(d) for d in shape.split(",") if d])) for shape in shapes]


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        *[(functools.partial(there_and_back, method), np.ones((4, 256))) for method in METHODS],
        (functools.partial(dct_columns, 256), np.arange(256)),
        (lambda scale: scale * dct_matrix(256), np.float32(2)),
    ],
    ids=[*METHODS, "columns", "matrix"],
)
def test_no_constant_of_n_squared_elements_is_compiled_in(function, argument):
    sizes = constant_sizes(jax.jit(function).lower(argument).compile().as_text())
    assert sizes
    assert max(sizes) <= 4 * 256


def lowered_for(platform, function, *arguments):
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


def test_the_platform_compiled_for_decides_not_the_one_traced_on():
    x = jax.ShapeDtypeStruct((1018, 4), jnp.float32)  # 2 · 509 has no balanced factors
    transforms = lambda x: orthogonal_idct(orthogonal_dct(x, -2), -2)
    for platform, has_fft in {"cpu": True, "cuda": True, "rocm": True, "tpu": False}.items():
        assert ("stablehlo.fft" in lowered_for(platform, transforms, x)) == has_fft
        factored = lowered_for(platform, transforms, jax.ShapeDtypeStruct((512, 4), jnp.float32))
        assert "stablehlo.fft" not in factored


def test_auto_takes_the_form_that_is_the_fastest_on_the_platform():
    choices = {
        ("cpu", 4096): "factored",
        ("cpu", 96): "factored",
        ("cpu", 64): "matmul",
        ("cpu", 499): "matmul",
        ("cpu", 4099): "fft",
        ("gpu", 4096): "factored",
        ("gpu", 4099): "fft",
        ("tpu", 4096): "factored",
        ("tpu", 4099): "matmul",
    }
    for (backend, n), method in choices.items():
        assert choose_method(n, backend) == method
    assert choose_method(4096, "cpu", last=True) == "fft"
    assert choose_method(256, "cpu", last=True) == "matmul"
    assert choose_method(4096, "gpu", last=True) == "factored"


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_other_than_real_floating_input_is_named(dtype):
    with pytest.raises(TypeError, match=rf"not {jnp.dtype(dtype).name} of shape \(2, 3\).*astype"):
        orthogonal_dct(jnp.ones((2, 3), dtype))


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((2, 3), 2, r"axis 2 is out of range for an array of shape \(2, 3\).*-2\.\.1"),
        ((2, 3), -3, r"axis -3 is out of range.*-2\.\.1"),
        ((), -1, "a scalar has no axis"),
        ((2, 0), -1, r"axis -1 of shape \(2, 0\) is empty"),
    ],
)
def test_a_wrong_axis_is_named_with_the_choices(shape, axis, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_idct(jnp.ones(shape), axis)


def test_an_unknown_method_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'dst': choose one of auto, fft, factored, matmul"):
        orthogonal_dct(jnp.ones(4), method="dst")


def test_a_dtype_that_is_not_floating_is_named():
    with pytest.raises(TypeError, match="int32 is not a floating dtype"):
        orthogonal_dct(jnp.ones(4), dtype=jnp.int32)
