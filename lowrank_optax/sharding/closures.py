"""Values that an optimizer closed over, in another mesh context than they were traced in."""

import dataclasses
import functools
import types
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

T = TypeVar("T")


def in_this_context(value: T) -> T:
    """A function, or a structure of functions, with what it closed over typed as here.

    `optax.inject_hyperparams` builds an optimizer anew in every traced step, around traced scalars.
    Their types name the mesh with the kind of axes of the caller, and JAX refuses to combine them
    with arrays under another kind, as inside `run_in_auto`. JAX has no way to name the values that
    a function closed over; so the function is rebuilt around replaced ones.

    Args:
      value: looked through for closures, defaults, `functools.partial`, bound methods, dataclasses,
        tuples, lists and dictionaries. A function that `jax.jit` wraps is left as it is.

    Returns:
      The same value where nothing has to be replaced.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lowrank_optax.sharding.closures import in_this_context
      >>> make = lambda rate: lambda x: rate * x
      >>> jax.jit(lambda rate, x: in_this_context(make(rate))(x))(2.0, 3.0).item()
      6.0
    """
    return _Rebuilder().rebuild(value)


class _Rebuilder:
    """Remembers what it has rebuilt: functions share cells, and may refer to themselves."""

    def __init__(self) -> None:
        self.rebuilt: dict[int, tuple[Any, Any]] = {}

    def rebuild(self, value: Any) -> Any:
        if isinstance(value, jax.core.Tracer):
            return _retyped(value)
        if id(value) not in self.rebuilt:
            # The value itself is kept too, so that its id stays its own.
            self.rebuilt[id(value)] = value, value
            self.rebuilt[id(value)] = value, self._copy(value)
        return self.rebuilt[id(value)][1]

    def _copy(self, value: Any) -> Any:
        match value:
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return self._if_new(value, (value.__self__,), value.__func__.__get__)
            case functools.partial():
                return self._if_new(value, (value.func, value.args, value.keywords), _partial)
            case tuple():
                make = type(value) if hasattr(value, "_fields") else lambda *items: items
                return self._if_new(value, value, make)
            case list():
                return self._if_new(value, value, lambda *items: list(items))
            case dict():
                with_items = lambda *items: dict(zip(value, items, strict=True))
                return self._if_new(value, value.values(), with_items)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return self._dataclass(value)
        return value

    def _dataclass(self, value: Any) -> Any:
        names = [field.name for field in dataclasses.fields(value) if field.init]
        replace = lambda *items: dataclasses.replace(value, **dict(zip(names, items, strict=True)))
        return self._if_new(value, [getattr(value, name) for name in names], replace)

    def _if_new(self, value: Any, parts: Any, make: Any) -> Any:
        before = list(parts)
        after = [self.rebuild(part) for part in before]
        same = all(new is old for new, old in zip(after, before, strict=True))
        return value if same else make(*after)

    def _function(self, function: types.FunctionType) -> Any:
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        parts = (*cells, function.__defaults__, function.__kwdefaults__)

        def make(*after: Any) -> Any:
            *contents, defaults, keyword_defaults = after
            filled = iter(contents)
            closure = tuple(
                types.CellType(next(filled)) if _is_filled(cell) else cell
                for cell in function.__closure__ or ()
            )
            copy = types.FunctionType(
                function.__code__, function.__globals__, function.__name__, defaults, closure
            )
            copy.__kwdefaults__ = keyword_defaults
            copy.__dict__.update(function.__dict__)
            return copy

        return self._if_new(function, parts, make)


def _partial(func: Any, args: Any, keywords: Any) -> Any:
    return functools.partial(func, *args, **keywords)


def _is_filled(cell: Any) -> bool:
    """Whether a variable of an enclosing function has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _retyped(x: Any) -> Any:
    mesh, context = jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()
    if mesh.empty or context.empty or mesh.axis_types == context.axis_types:
        return x
    return jax.sharding.reshard(x, PartitionSpec())
