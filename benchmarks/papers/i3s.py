"""I3S: Importance Sampling Subspace Selection for Low-Rank Optimization in LLM Pretraining."""

from benchmarks.papers import trajectories
from benchmarks.papers.at_scale import compare
from benchmarks.papers.claims import AtScale, Claim, Comparison, Figures, Losses, Paper
from benchmarks.papers.methods import SAMPLING_INNER

STOPS = "“the dominant subspace stops changing during pretraining” (abstract)"
PRESETS = ("60m", "130m", "350m", "1b")
SAMPLED = ("galore 1/4", *(f"galore {inner}" for inner in SAMPLING_INNER), "fira svd")


def looked_into(then: str) -> AtScale:
    """GaLore with leading and with sampled subspaces, each looked at when it is new."""
    commands = (
        compare(
            "galore",
            f"galore-{{preset}}-{select}-subspaces",
            f"--rank 0.25 --select {select} --update-interval 200 --diagnostics-every 200",
        )
        for select in ("top", "importance")
    )
    return AtScale(PRESETS, tuple(commands), ("galore 1/4", "galore 1/4, importance"), then)


PAPER = Paper(
    "i3s",
    (
        Claim(
            "importance_against_dominant",
            "Table 1",
            "sampled subspaces have a lower loss than leading ones, in GaLore and in Fira",
            "“significantly outperforms previous methods in LLM pretraining tasks” (abstract)",
            Losses(
                tuple(Comparison(f"{name}, importance", name) for name in SAMPLED),
                beside=("adamw",),
            ),
            AtScale(
                PRESETS,
                tuple(
                    compare(
                        optimizers,
                        f"{optimizers}-{{preset}}-{select}{option.replace(' --inner ', '-')}",
                        f"--rank 0.25 --select {select}{option}",
                    )
                    for optimizers, option in (
                        ("galore", ""),
                        *(("galore", f" --inner {inner}") for inner in SAMPLING_INNER),
                        ("fira", ""),
                    )
                    for select in ("top", "importance")
                ),
            ),
        ),
        Claim(
            "subspace_overlap",
            "Figure 2",
            "leading subspaces change less and less, and in the end less than sampled ones",
            STOPS,
            Figures("papers/trajectories", trajectories.overlaps, trajectories.measure, minutes=10),
            looked_into("Overlaps of neighbours are subspace_overlap in RUN/diagnostics.jsonl."),
            note="GaLore at width 64, 100 steps, a new subspace every 10; three seeds, at the "
            "learning rates in the table, tuned for importance_against_dominant: 300 steps and a "
            "new subspace every 50.",
        ),
        Claim(
            "spectrum_of_the_change",
            "Figure 4",
            "sampled subspaces change the weights in more directions",
            f"{STOPS}, “constraining weight updates to similar subspaces”",
            Figures("papers/trajectories", trajectories.spectra, trajectories.measure, minutes=10),
            looked_into(
                "Spectra are lro.diagnostics.update_spectrum of the last weights less the first."
            ),
            note="The same trainings; the effective rank is exp(entropy of singular values) / n. "
            "Singular values are shares of the largest, the one below 1/8 of them, and so on: "
            "means over all matrices.",
        ),
    ),
)
