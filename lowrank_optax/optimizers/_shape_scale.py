"""How long orthonormal steps are, by the shape of their matrices."""

import math
from collections.abc import Callable

from lowrank_optax.axes.residuals import Residual
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
    "sqrt": lambda spec: math.sqrt(min(spec.m, spec.n) / min(spec.m, spec.rank)),
}


def step_scale(
    shape_scale: str, rank_scale: str = "none", residual: Residual | None = None
) -> Scale:
    """The factor that makes steps of matrices of different shapes and ranks comparable.

    With "rms" a step of full rank has a root mean square of 0.2; with "sqrt" r orthonormal columns
    become as long as all n. A `residual` that adds the other n − r to the step leaves nothing to do
    for "sqrt", which would multiply these too.
    """
    for name, value, known in (
        ("shape_scale", shape_scale, SHAPE_SCALES),
        ("rank_scale", rank_scale, RANK_SCALES),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; use one of {tuple(known)}.")
    if residual is not None and residual.steps_outside:
        rank_scale = "none"
    return lambda spec: SHAPE_SCALES[shape_scale](spec) * RANK_SCALES[rank_scale](spec)
