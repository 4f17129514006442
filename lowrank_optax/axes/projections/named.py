"""Projections by name, for recipes and command lines."""

from collections.abc import Callable

from lowrank_optax.axes.projections.base import Projection
from lowrank_optax.axes.projections.dct import dct, random_orthogonal
from lowrank_optax.axes.projections.fixed import identity
from lowrank_optax.axes.projections.hadamard import hadamard
from lowrank_optax.axes.projections.online_pca import online_pca
from lowrank_optax.axes.projections.power_iteration import power_iteration
from lowrank_optax.axes.projections.random import random
from lowrank_optax.axes.projections.svd import svd
from lowrank_optax.axes.selection import Selection

SELECTING = (dct, svd, identity, hadamard, random_orthogonal)
BUILDERS: dict[str, Callable[..., Projection]] = {
    build.__name__: build for build in (*SELECTING, random, power_iteration, online_pca)
}


def by_name(
    projection: str | Projection, rank: int | float, select: str | Selection | None = None
) -> Projection:
    """A projection from its name, or the projection itself.

    Args:
      projection: "dct", "svd", "identity", "hadamard", "random_orthogonal", "random",
        "power_iteration", "online_pca"; or a `Projection`, returned as it is.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: how it selects columns or singular vectors; None for its default.

    Raises:
      ValueError: for an unknown name, or a selection where nothing is selected.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.by_name("dct", 4) == lro.projections.dct(4)
      True
    """
    if isinstance(projection, Projection):
        if select is not None:
            raise ValueError(
                f"select={select!r} has no effect on a projection that is already built; give it "
                "to the projection's constructor."
            )
        return projection
    if projection not in BUILDERS:
        raise ValueError(
            f"projection={projection!r} is unknown; use one of {tuple(BUILDERS)} or a projection "
            "from lowrank_optax.projections."
        )
    build = BUILDERS[projection]
    if select is None:
        return build(rank)
    if build not in SELECTING:
        raise ValueError(
            f"projection={projection!r} selects nothing, so select={select!r} has no effect; "
            f"leave it out, or use one of {tuple(build.__name__ for build in SELECTING)}."
        )
    return build(rank, select)
