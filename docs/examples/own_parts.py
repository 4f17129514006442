"""A projection and a residual from outside the package: Haar wavelets, and a rest of steady length.

Nothing here is imported from a private module, and nothing is registered: the engine takes whatever
keeps the contracts.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lowrank_optax as lro

STATIC = dict(static=True)
"""A field that fixes the program; all others are data, which may be traced."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Haar(lro.projections.FixedBasis):
    """r columns of the orthonormal Haar basis of n coordinates, n a power of two.

    Like any fixed basis it keeps r column indices a matrix. Its transform takes O(n) operations.
    """

    rank: int | float = dataclasses.field(metadata=STATIC)
    select: lro.selection.Selection = dataclasses.field(default=lro.selection.Top("l2"))

    def init(self, shape, rank, dtype, key):
        """Refuses, with the remedy, what the transform cannot do; else the first r columns."""
        n = shape[-2]
        if n & (n - 1):
            raise ValueError(f"Haar needs a compressed dimension that is a power of two, not {n}.")
        return super().init(shape, rank, dtype, key)

    def analyze(self, G, dtype):
        """Qᵀ G: sums of pairs become the next level, their differences are coefficients."""
        sums, levels = G.astype(dtype), []
        while sums.shape[-2] > 1:
            even, odd = sums[..., ::2, :], sums[..., 1::2, :]
            levels.append((even - odd) / math.sqrt(2))
            sums = (even + odd) / math.sqrt(2)
        return jnp.concatenate([sums, *levels[::-1]], axis=-2)

    def synthesize(self, S):
        """Q S, the way back."""
        sums = S[..., :1, :]
        while (k := sums.shape[-2]) < S.shape[-2]:
            differences = S[..., k : 2 * k, :]
            pairs = jnp.stack([sums + differences, sums - differences], axis=-2) / math.sqrt(2)
            sums = pairs.reshape(*S.shape[:-2], 2 * k, S.shape[-1])
        return sums

    def columns(self, indices, n, dtype):
        """The chosen columns of Q, made from their indices."""
        return self.synthesize(jax.nn.one_hot(indices, n, dtype=dtype, axis=-2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steady(lro.residuals.Residual):
    """A step along the rest R = G − P a too, divided by the running mean of its length.

    The step is scale · (P u + weight · ‖u‖ R / length), where length ← β length + (1 − β) ‖R‖ with
    the bias corrected as Adam does. So the rest counts as its share of the gradient does, but a
    gradient that is suddenly long takes no longer step.

    State: the mean and the weight that it has gathered so far, two numbers a matrix.
    """

    weight: Any = 0.1
    beta: Any = 0.9

    def init(self, shape, dtype):
        """Nothing seen yet."""
        return {"mean": jnp.zeros(shape[:-2]), "gathered": jnp.zeros(shape[:-2])}

    def finish(self, step, state):
        """The step in weight space, and what is stored."""
        rest = step.outside()
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1)))
        average = lambda old, new: self.beta * old + (1 - self.beta) * new
        state = {
            "mean": average(state["mean"], norm(rest)),
            "gathered": average(state["gathered"], 1.0),
        }
        length = state["mean"] / state["gathered"]
        share = self.weight * norm(step.direction) / jnp.where(length > 0, length, 1.0)
        return step.with_rest(rest, share[..., None, None]), state


def steady_haar(learning_rate: Any, rank: int | float = 0.25) -> optax.GradientTransformation:
    """Adam on r Haar columns, and a steady rest outside of them, for matrices."""
    return optax.chain(
        lro.scale_by_low_rank(
            optax.scale_by_adam(),
            Haar(rank),
            update_interval=10,
            transport="rotate",
            residual=Steady(),
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
