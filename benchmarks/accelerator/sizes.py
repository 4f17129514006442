"""How large everything is: as on an accelerator, or small enough to try it all on a CPU."""

import dataclasses

from benchmarks.methods import EVERY_STEP, METHODS
from models.configs import LlamaConfig, get_config


@dataclasses.dataclass(frozen=True)
class Size:
    """What the parts measure.

    Attributes:
        transformed: shapes of the matrices that are transformed.
        factorised: (m, n) of the matrices whose right singular vectors are sought, m ≥ n.
        models: name -> the model whose matrices are updated.
        trained: the model that is trained.
        batch, time: of a training batch.
        updated: the optimizers whose updates are timed alone, in order of interest.
        optimizers: those that train, likewise.
        rank_fraction: r over the width.
    """

    transformed: tuple[tuple[int, int], ...]
    factorised: tuple[tuple[int, int], ...]
    models: dict[str, LlamaConfig]
    trained: LlamaConfig
    batch: int
    time: int
    updated: tuple[str, ...]
    optimizers: tuple[str, ...]
    rank_fraction: float = 1 / 4


FULL = Size(
    # Of the table of arXiv 2505.17967.
    transformed=((4096, 4096), (25600, 5120), (5120, 25600)),
    factorised=((1024, 1024), (2736, 1024), (5461, 2048)),
    models={"350m": get_config("350m"), "1b": get_config("1b")},
    trained=get_config("130m"),
    batch=64,
    time=256,
    updated=(*METHODS, *EVERY_STEP),
    # optax's GaLore takes no stacked layers.
    optimizers=tuple(name for name in METHODS if name != "optax.contrib.galore"),
)

_TINY = LlamaConfig(64, 32, 48, num_layers=1, num_heads=2)

SMOKE = Size(
    transformed=((64, 96),),
    factorised=((48, 32),),
    models={"350m": _TINY, "1b": _TINY},
    trained=_TINY,
    batch=2,
    time=8,
    updated=("trion", "optax.contrib.galore"),
    optimizers=("trion", "optax.contrib.muon"),
)
"""Every part, not every method: tests/benchmarks/measure/test_passes.py has those with a mark."""
