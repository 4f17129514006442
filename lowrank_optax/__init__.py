"""Low-rank optimizers for large models, as composable optax gradient transformations."""

from lowrank_optax import transforms
from lowrank_optax.axes import projections, refresh, residuals, selection, transports
from lowrank_optax.axes.refresh import adaptive
from lowrank_optax.core.axes import LowRankState
from lowrank_optax.core.dimension_numbers import matrix_dimension_numbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.core.matrices import MatrixSpec, matrix_specs
from lowrank_optax.core.normalize_neurons import normalize_neurons
from lowrank_optax.core.per_head import per_head
from lowrank_optax.core.spec_table import SpecTable
from lowrank_optax.core.split_kernels import split_kernels
from lowrank_optax.linalg.dct import dct_columns, dct_matrix
from lowrank_optax.linalg.newton_schulz import newton_schulz
from lowrank_optax.linalg.storage import storage
from lowrank_optax.optimizers import (
    alice0,
    apollo,
    apollo_mini,
    dct_adamw,
    dion,
    dion2,
    dion3,
    fira,
    frugal,
    galore,
    golore,
    ldadamw,
    low_rank,
    muon,
    normuon,
    online_subspace_descent,
    scale_by_dion,
    scale_by_trion,
    tandem,
    trion,
)
from lowrank_optax.sharding.cosine_transforms import orthogonal_dct, orthogonal_idct
from lowrank_optax.sharding.sides import unsharded_sides
from lowrank_optax.sharding.state import state_shardings, with_shardings
from lowrank_optax.sharding.synchronise import local_state_specs
from lowrank_optax.sharding.zero import zero
from lowrank_optax.tools import diagnostics
from lowrank_optax.tools.matrix_state import matrix_states
from lowrank_optax.tools.memory_report import MemoryReport, memory_report
from lowrank_optax.tools.stochastic_rounding import apply_updates_stochastic, stochastic_round
from lowrank_optax.transforms.adam8bit import scale_by_adam8bit
from lowrank_optax.transforms.adam_mini import scale_by_adam_mini

__all__ = [
    # Named optimizers
    "alice0",
    "apollo",
    "apollo_mini",
    "dct_adamw",
    "dion",
    "dion2",
    "dion3",
    "fira",
    "frugal",
    "galore",
    "golore",
    "ldadamw",
    "low_rank",
    "muon",
    "normuon",
    "online_subspace_descent",
    "tandem",
    "trion",
    # Building blocks for optax.chain
    "normalize_neurons",
    "scale_by_adam8bit",
    "scale_by_adam_mini",
    "scale_by_dion",
    "scale_by_low_rank",
    "scale_by_trion",
    # Parameters in bfloat16
    "apply_updates_stochastic",
    "stochastic_round",
    # How moments are stored
    "storage",
    # The axes
    "adaptive",
    "projections",
    "refresh",
    "residuals",
    "selection",
    "transforms",
    "transports",
    # Which leaves are matrices, and what they cost
    "LowRankState",
    "MatrixSpec",
    "MemoryReport",
    "SpecTable",
    "matrix_dimension_numbers",
    "matrix_specs",
    "matrix_states",
    "memory_report",
    "per_head",
    "split_kernels",
    # Several devices
    "local_state_specs",
    "state_shardings",
    "unsharded_sides",
    "with_shardings",
    "zero",
    # Mathematics and measurements
    "dct_columns",
    "dct_matrix",
    "diagnostics",
    "newton_schulz",
    "orthogonal_dct",
    "orthogonal_idct",
]
