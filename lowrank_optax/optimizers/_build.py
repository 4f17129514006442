"""What all named methods share: their arguments, decay, learning rate, and the other leaves."""

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lowrank_optax.axes.projections.base import Projection
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.core.matrices import matrix_specs
from lowrank_optax.core.missing import without_none
from lowrank_optax.core.normalize_neurons import normalize_neurons
from lowrank_optax.core.patterns import is_pairs, mask_of
from lowrank_optax.linalg.arguments import refuse_renamed, require_kind
from lowrank_optax.linalg.precision import at_least_float32
from lowrank_optax.sharding.synchronise import average_gradients
from lowrank_optax.sharding.zero import zero
from lowrank_optax.transforms import add_cautious_decay

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs
T = TypeVar("T")

LEARNING_RATE = "  learning_rate: η, a number or a schedule."
SHARED = """\
  weight_decay: λ, decoupled, multiplied by the learning rate.
  cautious: decay only entries that the step moves towards zero as well.
  mask: where to apply weight decay: a tree or function of booleans, or (regex, boolean) pairs over
    the "/"-joined paths, of which no two may match one leaf.
  dimension_numbers: which leaves are matrices, as for `matrix_specs`.
  fallback: optimizer of all other leaves; None for `optax.adamw` with the same weight decay and
    mask, and moments in at least float32.
  fallback_learning_rate: of that AdamW; None for the same learning rate. Embeddings and heads
    want AdamW's rate, which is not that of a method with orthonormal steps.
  compress: side of the matrices to compress, as for `matrix_specs`.
  zero_axis: mesh axis, or several, over which all state is split where parameters are not
    (ZeRO-1), as for `scale_by_low_rank` and, for the fallback, `zero`.
  seed: of the random key in the state, from which all that is random is drawn; a number or a key
    (one of `jax.random.key` is what flax cannot write to bytes; a number or a `PRNGKey` it can).

Raises:
  TypeError, ValueError: naming the argument, or the parameter with its shape."""
PLACING = ("dimension_numbers", "compress", "zero_axis", "seed", "step_dtype")


class Recipe(NamedTuple):
    """A method: how its matrices' directions are made.

    Attributes:
      scale_by: of the keywords dimension_numbers, compress, zero_axis, seed and step_dtype, as for
        `scale_by_low_rank`; returns the transformation of the matrices.
      sync_axis: axis of `jax.shard_map` over which the other leaves' gradients are averaged, if
        they come as every device's own.
    """

    scale_by: Callable[..., optax.GradientTransformation]
    sync_axis: str | None = None


def in_subspace(
    inner: optax.GradientTransformation,
    projection: Projection,
    *,
    then: optax.GradientTransformation | None = None,
    **axes: Any,
) -> Recipe:
    """The recipe of `scale_by_low_rank` with these arguments, followed by `then`."""
    inside = functools.partial(scale_by_low_rank, inner, projection, **axes)
    if then is None:
        return Recipe(inside)
    return Recipe(lambda **placing: optax.chain(inside(**placing), then))


def with_neurons(recipe: Recipe, b2: Any) -> Recipe:
    """The recipe with its neurons normalised by `normalize_neurons`; for b2 None the recipe."""
    if b2 is None:
        return recipe

    def scale_by(**placing: Any) -> optax.GradientTransformation:
        neurons = normalize_neurons(b2, dimension_numbers=placing["dimension_numbers"])
        return optax.chain(recipe.scale_by(**placing), neurons)

    return recipe._replace(scale_by=scale_by)


def arguments_of(scale_by: Callable[..., Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a method the own arguments of its `scale_by`, and their documentation for "{own}"."""
    parameters = inspect.signature(scale_by).parameters.values()
    own = [parameter for parameter in parameters if parameter.name not in PLACING]
    section = (inspect.getdoc(scale_by) or "").partition("Args:\n")[2]
    text = section.partition(f"\n  {PLACING[0]}")[0]

    def take(method: Callable[..., T]) -> Callable[..., T]:
        method.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        method.__doc__ = _filled(method.__doc__, "{own}", text)
        return method

    return take


@runtime_checkable
class Method(Protocol):
    """A named optimizer, and the recipe that it is made of, for others to be made of it too."""

    recipe: Callable[..., Recipe]

    def __call__(self, *args: Any, **kwargs: Any) -> Optimizer: ...


def optimizer(method: Callable[..., Recipe]) -> Method:
    """Make an optimizer of a method's recipe: add the arguments that all methods share.

    The result takes the learning rate, then the method's own arguments, then the shared ones; its
    signature says so, and its docstring, whose lines "{learning_rate}" and "{shared}" stand for
    them. The latter also stands for what is raised.
    """
    own = inspect.signature(method).parameters
    shared = dict(inspect.signature(assemble).parameters)
    del shared["recipe"]
    rate = shared.pop("learning_rate")
    signature = inspect.Signature([rate, *own.values(), *shared.values()])

    @functools.wraps(method)
    def make(*args: Any, **kwargs: Any) -> Optimizer:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{method.__name__}() {error}") from None
        recipe = method(**{name: given[name] for name in own if name in given})
        return assemble(recipe, **{name: given[name] for name in given if name not in own})

    make.__signature__ = signature  # type: ignore[attr-defined]
    documented = _filled(make.__doc__, "{learning_rate}", LEARNING_RATE)
    make.__doc__ = _filled(documented, "{shared}", SHARED)
    made: Any = refuse_renamed(make)
    made.recipe = method
    return made


def assemble(
    recipe: Recipe,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: Any = 0.0,
    cautious: bool = False,
    mask: Any = None,
    dimension_numbers: DimensionNumbers = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: optax.ScalarOrSchedule | None = None,
    compress: Any = "smallest",
    zero_axis: Any = None,
    seed: Any = 0,
) -> Optimizer:
    """The recipe with decay and learning rate on the matrices, the fallback on all other leaves.

    The arguments are documented in `SHARED`.
    """
    if fallback is not None and fallback_learning_rate is not None:
        raise ValueError(
            "fallback_learning_rate is that of the AdamW that fallback replaces; give one of them."
        )
    if fallback is not None:
        require_kind("fallback", fallback, optax.GradientTransformation, "optax.adamw(1e-3)")
    # Without decay nothing needs the parameters, so `update(grads, state)` will do.
    decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)
    add_decay = add_cautious_decay if cautious else optax.add_decayed_weights
    where = functools.partial(mask_of, pairs=mask) if is_pairs(mask) else mask
    decay = add_decay(weight_decay, where) if decays else optax.identity()

    def descend(scale: optax.GradientTransformation, rate: Any) -> optax.GradientTransformation:
        return optax.chain(scale, decay, optax.scale_by_learning_rate(rate))

    matrices = recipe.scale_by(
        dimension_numbers=dimension_numbers,
        compress=compress,
        zero_axis=zero_axis,
        seed=seed,
        step_dtype="float32",
    )
    other_rate = learning_rate if fallback_learning_rate is None else fallback_learning_rate
    other = fallback or rounded_once(descend(optax.scale_by_adam(), other_rate), _widened)
    other = zero(other, zero_axis)
    if recipe.sync_axis is not None:
        other = optax.chain(average_gradients(recipe.sync_axis), other)

    def labels(params: Any) -> Any:
        if is_pairs(mask):
            mask_of(params, mask)  # of all parameters: what matches none of them is said here
        table = matrix_specs(params, dimension_numbers=dimension_numbers)
        return jax.tree.unflatten(
            jax.tree.structure(params),
            ["matrices" if spec is not None else "other" for spec in table],
        )

    tx = optax.partition(
        {"matrices": rounded_once(descend(matrices, learning_rate)), "other": other}, labels
    )
    return without_none(tx)


def rounded_once(tx: optax.GradientTransformation, widen: Any = lambda tree: tree) -> Optimizer:
    """Updates rounded once, of a `tx` that makes them in float32.

    They are in the gradients' dtype, or in the parameters' where that is wider, as optax's are.
    With `widen` it is given the gradients, and initialised, in float32 as well.
    """
    tx = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        wide, state = tx.update(widen(updates), state, _widened(params), **extra_args)
        like = (updates,) if params is None else (updates, params)
        return jax.tree.map(_cast, wide, *like), state

    return optax.GradientTransformationExtraArgs(lambda params: tx.init(widen(params)), update)


def _widened(tree: Any) -> Any:
    return jax.tree.map(lambda x: at_least_float32(jnp.asarray(x)), tree)


def _cast(x: Array, *like: Any) -> Array:
    """x in the type that others have together."""
    return x.astype(functools.reduce(jnp.promote_types, map(jnp.result_type, like)))


def _filled(doc: str | None, marker: str, text: str) -> str | None:
    """A docstring with a text, which is indented as sections are, in place of a line in one."""
    for line in (doc or "").splitlines():
        if doc is not None and line.strip() == marker:
            section = line[: line.index("{") - 2]
            return doc.replace(line, textwrap.indent(text, section))
    return doc
