"""Memory-Efficient LLM Training with Online Subspace Descent."""

from typing import Any

from benchmarks.papers.at_scale import compare
from benchmarks.papers.claims import (
    MATCHES,
    AtScale,
    Claim,
    Comparison,
    Figures,
    Losses,
    Outcome,
    Paper,
    above,
    decided,
)
from benchmarks.papers.methods import DESCENT_INNER, PENALTY, PROJECTION_OPTIMIZERS, RANKS
from benchmarks.timing import ratio

LOWER = "“lower perplexity than state-of-the-art low-rank training methods” (abstract)"
PRESETS = ("60m", "350m", "1b", "7b")
MUCH = 2.0
"""Times that a decomposition takes of what replaces it, where that is said to be far cheaper."""

DECOMPOSED = ("optax.contrib.galore, every step", "galore (gram), every step")


def cost(results: dict[str, Any]) -> list[Outcome]:
    """Updates whose subspace moves at every step: by the SVD, and by online PCA."""
    found = []
    for result in results["ranks"]:
        seconds = {name: row["seconds"] for name, row in result["methods"].items()}
        for slower in DECOMPOSED:
            times = ratio(seconds, slower, "online_subspace_descent")
            what = f"rank {result['rank']}: {slower} > {MUCH:g} × online_subspace_descent"
            found.append(decided(what, "{:.1f} times", times, above, MUCH))
    return found


PAPER = Paper(
    "online_subspace_descent",
    (
        Claim(
            "descent_by_rank",
            "pretraining by rank",
            "Online Subspace Descent has a lower loss than GaLore at every rank",
            LOWER,
            Losses(tuple(Comparison(f"osd {label}", f"galore {label}") for label in RANKS)),
            AtScale(
                PRESETS,
                tuple(
                    compare(
                        "online_subspace_descent,galore",
                        f"osd-{{preset}}-{rank:g}",
                        f"--rank {rank:g}",
                    )
                    for rank in RANKS.values()
                ),
            ),
        ),
        Claim(
            "descent_by_inner_optimizer",
            "pretraining by the weights' optimizer",
            "so it has with Lion, Adafactor and 8-bit Adam inside",
            f"{LOWER}, “across different settings”",
            Losses(
                tuple(Comparison(f"osd {inner}", f"galore {inner}") for inner in DESCENT_INNER),
                beside=("osd 1/4", "galore 1/4"),
            ),
            AtScale(
                PRESETS,
                tuple(
                    compare(
                        "online_subspace_descent,galore",
                        f"osd-{{preset}}-{inner}",
                        f"--rank 0.25 --inner {inner}",
                    )
                    for inner in DESCENT_INNER
                ),
            ),
        ),
        Claim(
            "descent_by_projection_optimizer",
            "pretraining by the projection's optimizer",
            "whatever moves the basis, the loss is that of AdamW moving it, or lower",
            "converges under “arbitrary update rules of projection matrix” (abstract)",
            Losses(
                tuple(
                    Comparison(f"osd, basis by {name}", "osd 1/4", MATCHES)
                    for name in PROJECTION_OPTIMIZERS
                )
            ),
            AtScale(
                PRESETS,
                tuple(
                    compare(
                        "online_subspace_descent",
                        f"osd-{{preset}}-basis-{name}",
                        f"--rank 0.25{option}",
                    )
                    for name, option in (
                        ("adamw", ""),
                        *(
                            (name, f" --projection-optimizer {name}")
                            for name in PROJECTION_OPTIMIZERS
                        ),
                    )
                ),
            ),
            note="The basis' own rate is the published 1/200 for all, not tuned.",
        ),
        Claim(
            "descent_penalty",
            "auxiliary loss",
            f"a penalty of {PENALTY:g} on the basis' departure from orthogonality costs no loss",
            "part of the method; no figure could be verified",
            Losses((Comparison("osd, penalty", "osd 1/4", MATCHES),)),
            AtScale(
                PRESETS,
                (
                    compare(
                        "online_subspace_descent",
                        "osd-{preset}-penalty",
                        f"--rank 0.25 --penalty {PENALTY:g}",
                    ),
                ),
            ),
        ),
        Claim(
            "descent_cost",
            "overhead",
            f"a step of online PCA is far cheaper than an SVD: at least {MUCH:g} times, per update",
            "“only minimum overhead”; “way lower overhead than computing PCA” (abstract, README)",
            Figures("optimizers", cost, command="python -m benchmarks.measure.optimizers"),
            note=(
                "Subspaces that change at every step; the limit is ours. GaLore's between two "
                "changes has no SVD to pay for."
            ),
        ),
    ),
)
