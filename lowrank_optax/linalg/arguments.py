"""Checks of arguments that several functions share."""

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

RENAMED = {"momentum_dtype": "mu_dtype", "norm": "select"}


def require_static(name: str, value: Any) -> None:
    """Raise a TypeError if an argument that fixes shapes or the program came as a JAX array."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python value because it fixes the compiled program, but it is a "
            f"JAX array; with optax.inject_hyperparams pass static_args=('{name}', ...), and so "
            "every other number of the method that is no rate, decay, scale or eps: rank, "
            "ns_steps, power_iters, blocks."
        )


def require_count(name: str, value: Any) -> None:
    """Raise unless an argument is a Python int of at least 1."""
    require_static(name, value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} must be an int.")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1.")


def check_fraction(name: str, value: Any) -> None:
    """Raise unless a Python number lies in [0, 1]; arrays, whose value is unknown, pass."""
    if value is None:
        raise ValueError(f"{name}=None must be a number in [0, 1].")
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must lie in [0, 1].")


def check_b2(b2: Any) -> None:
    """`check_fraction` of Adam's second decay, which half precision may have rounded to one."""
    check_fraction("b2", b2)
    if isinstance(b2, jax.Array) and not isinstance(b2, jax.core.Tracer) and (b2 == 1).all():
        raise ValueError(
            f"b2 is 1 as {b2.dtype}, so that second moments stay zero; with "
            "optax.inject_hyperparams pass hyperparam_dtype=jnp.float32."
        )


def require_kind(name: str, value: Any, kind: type, example: str) -> None:
    """Raise a TypeError unless an argument is of a kind, of which an example is given."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r} must be a {kind.__name__}, such as {example}.")


def check_rank(rank: Any) -> None:
    """Raise unless `rank` is a positive int or a fraction in (0, 1]."""
    require_static("rank", rank)
    if isinstance(rank, bool) or not isinstance(rank, numbers.Real):
        raise TypeError(f"rank={rank!r} must be an int or a fraction in (0, 1].")
    if isinstance(rank, numbers.Integral) and rank < 1:
        raise ValueError(f"rank={rank} must be at least 1.")
    if not isinstance(rank, numbers.Integral) and not 0 < float(rank) <= 1:
        raise ValueError(
            f"rank={rank} as a fraction of the compressed dimension must lie in (0, 1]; for a "
            "number of columns pass an int."
        )


def require_key(key: PRNGKeyArray | None, purpose: str) -> PRNGKeyArray:
    """The random key; a ValueError without one, which says for what purpose it is drawn from."""
    if key is None:
        raise ValueError(
            f"{purpose} draws at random: pass a key such as jax.random.key(0), not None."
        )
    return key


def resolve_rank(rank: int | float, n: int, most: int) -> int:
    """r of n columns: an int, or a fraction of n, at least 1; clipped to `most`.

    Halves round to even, as in the published density of FRUGAL.
    """
    whole = int(rank) if isinstance(rank, numbers.Integral) else max(1, round(rank * n))
    return min(whole, most)


def refuse_renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers an argument's name of the first edition with the present one."""
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for old, new in RENAMED.items():
            if old in kwargs and new in parameters:
                raise TypeError(f"{function.__name__}: the argument {old} is now called {new}.")
        return function(*args, **kwargs)

    return wrapped
