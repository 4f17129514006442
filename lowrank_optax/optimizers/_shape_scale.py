"""How long orthonormal steps are, by the shape of their matrices."""

import math
from collections.abc import Callable

from lowrank_optax.core.matrices import MatrixSpec

Scale = Callable[[MatrixSpec], float]

SHAPE_SCALES: dict[str, Scale] = {
    "dion": lambda spec: math.sqrt(spec.fan_out / spec.fan_in),
    "muon": lambda spec: math.sqrt(max(1.0, spec.fan_out / spec.fan_in)),
    "rms": lambda spec: 0.2 * math.sqrt(max(spec.fan_out, spec.fan_in)),
    "none": lambda spec: 1.0,
}
RANK_SCALES: dict[str, Scale] = {
    "none": lambda spec: 1.0,
    "sqrt": lambda spec: math.sqrt(min(spec.m, spec.n) / spec.rank),
}


def step_scale(shape_scale: str, rank_scale: str = "none") -> Scale:
    """The factor that makes steps of matrices of different shapes and ranks comparable.

    Args:
      shape_scale: "dion" √(out/in), "muon" √max(1, out/in), "rms" 0.2 √max(out, in) (with which a
        step of full rank has a root mean square of 0.2), or "none".
      rank_scale: "sqrt" √(n/r), by which r orthonormal columns become as long as all n; or "none".

    Raises:
      ValueError: if a name is unknown.
    """
    if shape_scale not in SHAPE_SCALES:
        raise ValueError(
            f"shape_scale={shape_scale!r} is unknown; use one of {tuple(SHAPE_SCALES)}."
        )
    if rank_scale not in RANK_SCALES:
        raise ValueError(f"rank_scale={rank_scale!r} is unknown; use one of {tuple(RANK_SCALES)}.")
    return lambda spec: SHAPE_SCALES[shape_scale](spec) * RANK_SCALES[rank_scale](spec)
