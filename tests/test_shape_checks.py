"""That shapes are checked where CI asks for it."""

import os

import jax.numpy as jnp
import jaxtyping
import pytest

from lowrank_optax.linalg.orthogonalize import canonical_signs


@pytest.mark.skipif("CHECK_SHAPES" not in os.environ, reason="CHECK_SHAPES is not set")
def test_an_array_of_another_shape_than_the_signature_says_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="canonical_signs"):
        canonical_signs(jnp.ones(3))
