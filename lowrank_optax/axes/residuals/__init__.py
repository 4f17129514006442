"""The residual axis: what happens to the part of the gradient outside the subspace."""

from lowrank_optax.axes.residuals.base import Projected, Residual, Step, discard
from lowrank_optax.axes.residuals.descent import sgd, sign_descent
from lowrank_optax.axes.residuals.feedback import error_feedback, momentum
from lowrank_optax.axes.residuals.scaling import column_scaling, gradient_scaling, norm_scaling
from lowrank_optax.axes.residuals.state_free import orthonormal, sinkhorn

__all__ = [
    "Projected",
    "Residual",
    "Step",
    "column_scaling",
    "discard",
    "error_feedback",
    "gradient_scaling",
    "momentum",
    "norm_scaling",
    "orthonormal",
    "sgd",
    "sign_descent",
    "sinkhorn",
]
