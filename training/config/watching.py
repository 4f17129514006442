"""Options of what is written about a run while it trains, beside metrics.jsonl."""

import dataclasses

from training.config.resuming import CHANGEABLE
from training.errors import UserError
from training.runs.writers import check_writers


@dataclasses.dataclass(frozen=True)
class WatchingOptions:
    """Where else the metrics go, and what is measured of the matrices. None of it changes a run."""

    log: str = dataclasses.field(default="", metadata=CHANGEABLE)
    """Where metrics go besides RUN/metrics.jsonl, comma-separated: tensorboard (event files in
    RUN/tensorboard) and wandb (Weights & Biases, which its WANDB_... variables set up, e.g.
    WANDB_MODE=offline)."""
    diagnostics_every: int = dataclasses.field(default=0, metadata=CHANGEABLE)
    """Steps between looks at every matrix: energy that its subspace captures, overlap with its
    subspaces before, size of its update; written to RUN/diagnostics.jsonl and drawn in
    RUN/diagnostics.png. 0: none."""


def check_watching(options: WatchingOptions) -> None:
    """Checks the options, and that the packages that they need are installed.

    Raises:
        UserError: naming the option, and what to change or to install.
    """
    if options.diagnostics_every < 0:
        raise UserError(
            f"--diagnostics-every is {options.diagnostics_every}, but must be 0 (none) or more"
        )
    check_writers(options.log)
