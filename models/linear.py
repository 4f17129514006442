"""Products with kernels, and linear layers of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

KERNEL_PRODUCT = "kernel_product"
"""What a policy of ``jax.checkpoint`` calls the results of ``kernel_product``."""


def kernel_product(
    x: Float[Array, "*batch in"],
    kernel: Float[Array, "in out"],
    preferred_element_type: Any = None,
) -> Float[Array, "*batch out"]:
    """x @ kernel, whose gradient by the kernel is written as xᵀ g.

    JAX's own rule makes (gᵀ x)ᵀ of it, which is the same number. On CPUs, XLA then copies g
    transposed, number by number, and does without its fast product. There are no forward-mode
    derivatives (``jax.jvp``) of this.

    Args:
      x: of one type with the kernel.
      kernel: a matrix.
      preferred_element_type: of the result, as ``jnp.matmul`` takes it.

    Example:
      >>> kernel_product(jnp.ones((2, 3, 4)), jnp.ones((4, 5))).shape
      (2, 3, 5)
    """
    return checkpoint_name(_product(preferred_element_type, x, kernel), KERNEL_PRODUCT)


class Linear(nnx.Linear):
    """``flax.nnx.Linear`` by ``kernel_product``."""

    def __call__(
        self, inputs: Float[Array, "*batch in"], out_sharding: None = None
    ) -> Float[Array, "*batch out"]:
        """The product, and the bias if there is one; XLA chooses how the result is sharded."""
        del out_sharding
        bias = None if self.bias is None else self.bias[...]
        inputs, kernel, bias = self.promote_dtype(
            (inputs, self.kernel[...], bias), dtype=self.dtype
        )
        y = kernel_product(inputs, kernel)
        return y if bias is None else y + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(preferred_element_type: Any, x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, preferred_element_type=preferred_element_type)


def _forward(
    preferred_element_type: Any, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _product(preferred_element_type, x, kernel), (x, kernel)


def _backward(
    preferred_element_type: Any, operands: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, kernel = operands
    product = functools.partial(jax.lax.dot_general, preferred_element_type=preferred_element_type)
    rows = tuple(range(x.ndim - 1))
    of_x = product(g, kernel, (((g.ndim - 1,), (1,)), ((), ())))
    of_kernel = product(x, g, ((rows, rows), ((), ())))
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)
