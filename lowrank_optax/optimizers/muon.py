"""Muon and NorMuon, on the same engine as the low-rank methods: the baseline at r = n."""

from typing import Any

from lowrank_optax.linalg.newton_schulz import MUON
from lowrank_optax.optimizers._build import Recipe, optimizer
from lowrank_optax.optimizers.tandem import tandem


@optimizer
def muon(
    *,
    momentum: Any = 0.95,
    nesterov: bool = True,
    neuron_decay: Any = None,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
    shape_scale: str = "muon",
    mu_dtype: Any = None,
) -> Recipe:
    """Muon: the momentum of the whole matrix, orthonormalised.

    M ← μ M + G; W ← (1 − η λ) W − η · scale · NewtonSchulz(μ M + G). This is `tandem` at r = n, so
    that the two differ in one argument.

    Args:
      {learning_rate}
      momentum, nesterov, neuron_decay, ns_steps, ns_coeffs, shape_scale: as for `tandem`.
      mu_dtype: of M: "int8", "int4", "int2", "sign", a floating dtype, a `storage`; None for the
        parameters', but at least float32.
      {shared}

    Cost:
      m n numbers of state for an m × n matrix, n the smaller side. A step takes 2 m n² + 17 n³
      multiplications for five Newton–Schulz iterations (10 m n² + 5 n³ for m < 1.5 n); all else is
      a few passes over the matrix.

    Reference:
      Jordan et al. (2024), "Muon".
      Differs from `optax.contrib.muon` in Nesterov's sum, which there has bias corrections.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.muon(0.02, mu_dtype="int8")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    if momentum is None and mu_dtype is not None:
        raise ValueError(f"mu_dtype={mu_dtype!r} stores a momentum, but momentum=None keeps none.")
    return tandem.recipe(
        1.0,
        rest="none",
        momentum=momentum,
        nesterov=nesterov,
        neuron_decay=neuron_decay,
        ns_steps=ns_steps,
        ns_coeffs=ns_coeffs,
        shape_scale=shape_scale,
        mu_dtype=mu_dtype,
    )


@optimizer
def normuon(
    *,
    momentum: Any = 0.95,
    nesterov: bool = True,
    neuron_decay: Any = 0.95,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
    shape_scale: str = "rms",
    mu_dtype: Any = None,
) -> Recipe:
    """NorMuon: Muon with each output neuron's step divided by the root mean square of its history.

    Args:
      {learning_rate}
      momentum, nesterov, neuron_decay, ns_steps, ns_coeffs, shape_scale, mu_dtype: as for `muon`.
      {shared}

    Cost:
      m n numbers of state for an m × n matrix, and a number per output neuron; without a momentum
      those alone. A step takes what one of `muon` takes.

    Reference:
      arXiv 2510.05491.
      Differs as `normalize_neurons` does, and in Nesterov's form of the momentum.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.normuon(1e-3)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return muon.recipe(
        momentum=momentum,
        nesterov=nesterov,
        neuron_decay=neuron_decay,
        ns_steps=ns_steps,
        ns_coeffs=ns_coeffs,
        shape_scale=shape_scale,
        mu_dtype=mu_dtype,
    )
