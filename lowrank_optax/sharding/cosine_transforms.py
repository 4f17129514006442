"""`lro.orthogonal_dct` and its inverse for arrays in any place, along any axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Shaped

from lowrank_optax.linalg import dct
from lowrank_optax.linalg.devices import on_several_devices
from lowrank_optax.sharding.transforms import Transform, transform_columns


def _anywhere(
    transform: Callable[..., Array], inverse: Callable[..., Array]
) -> Callable[..., Array]:
    """The transform of any axis, which for arrays on several devices is split over them."""

    @functools.wraps(transform)
    def along(
        x: Shaped[Array, "*shape"],
        axis: int = -1,
        method: str = "auto",
        *,
        dtype: DTypeLike | None = None,
        precision: Any = None,
    ) -> Float[Array, "*shape"]:
        x = jnp.asarray(x)
        if not on_several_devices(x) or not -x.ndim <= axis < x.ndim:
            return transform(x, axis, method, dtype=dtype, precision=precision)
        columns = x[:, None] if x.ndim == 1 else jnp.moveaxis(x, axis, -2)
        options: Any = (method, dtype, precision)
        of_columns = _of_columns(transform, *options), _of_columns(inverse, *options)
        y = transform_columns(*of_columns, columns)
        return y[:, 0] if x.ndim == 1 else jnp.moveaxis(y, -2, axis)

    return along


@functools.cache
def _of_columns(
    transform: Callable[..., Array], method: str, dtype: Any, precision: Any
) -> Transform:
    """The same object for the same options, so that a shape is traced once."""
    return functools.partial(transform, axis=-2, method=method, dtype=dtype, precision=precision)


orthogonal_dct = _anywhere(dct.orthogonal_dct, dct.orthogonal_idct)
orthogonal_idct = _anywhere(dct.orthogonal_idct, dct.orthogonal_dct)
