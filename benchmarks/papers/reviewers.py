"""What reviewers of 2505.17967 asked for."""

from typing import Any

from benchmarks.measure.subspaces import TABLE_FRACTIONS
from benchmarks.papers import columns, memory, parts
from benchmarks.papers.at_scale import compare
from benchmarks.papers.claims import (
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
from benchmarks.papers.methods import RANKS
from benchmarks.papers.trion import PRESETS
from benchmarks.timing import spread

SKETCHES = ("hadamard", "random_orthogonal", "identity", "random")
ASKED = "a question; no figure"


def sketches(results: dict[str, Any]) -> list[Outcome]:
    """Energy of a block's gradients in the DCT's subspace by that in others of the same rank."""
    found = []
    errors = results["errors"]["gradient"]
    for fraction, label in TABLE_FRACTIONS.items():
        slot = results["fractions"].index(fraction)
        for other in SKETCHES:
            shares = [
                (1 - errors["dct"][name][-1][slot] ** 2) / (1 - rows[-1][slot] ** 2)
                for name, rows in errors[other].items()
            ]
            what = f"r/n = {label}: energy in the DCT's columns > {other}"
            found.append(decided(what, "{:.2f} times", spread(shares), above, 1.0))
    return found


PAPER = Paper(
    "reviewers",
    (
        Claim(
            "time_at_8k_and_16k",
            "time by part",
            "at n = 8k and 16k the DCT's parts take less time than a power iteration with QR",
            ASKED,
            Figures("papers/parts", parts.large, parts.measure, minutes=15),
            note=f"{parts.COLUMNS} columns, r = {parts.RANK}.",
        ),
        Claim(
            "sketches_at_matched_rank",
            "Hadamard and random sketches",
            "the DCT's columns hold more of a gradient than other bases' of the same rank",
            ASKED,
            Figures("subspaces", sketches, command="python -m benchmarks.measure.subspaces"),
            note="“random” selects nothing; the others take their columns of largest ℓ1 norm.",
        ),
        Claim(
            "apollo_and_i3s",
            "APOLLO and I3S beside it",
            "DCT-AdamW has a lower loss than APOLLO and than GaLore with I3S, at r/n = 1/4",
            ASKED,
            Losses(
                (
                    Comparison("dct_adamw", "apollo 1/4"),
                    Comparison("dct_adamw", "galore 1/4, importance"),
                ),
                beside=("trion 1/4", "adamw"),
            ),
            AtScale(
                PRESETS,
                (
                    compare("adamw,dct_adamw,apollo,trion", "apollo-{preset}", "--rank 0.25"),
                    compare("galore", "i3s-{preset}", "--rank 0.25 --select importance"),
                ),
            ),
            note="A likely reason, of APOLLO: its step is the whole gradient, whose channels are "
            "scaled by what a subspace says, while DCT-AdamW's lies in its columns. FRUGAL and "
            "Fira, which step outside the same columns too, are 0.11 and 0.14 below DCT-AdamW "
            "(dct_in_frugal_and_fira). It is not that the columns hold half of the best subspace's "
            "energy: APOLLO's random ones hold a quarter (sketches_at_matched_rank). Adam's b2 is "
            "another: with its published 0.999 DCT-AdamW's loss is 2.183 "
            "([`recipes.md`](recipes.md)), which three seeds do not tell from APOLLO's at 0.95.",
        ),
        Claim(
            "principal_angles",
            "principal angles over training",
            "the DCT's subspace shares more with the best one than a random subspace does",
            ASKED,
            Figures("papers/columns", columns.angles, columns.measure),
            note="Seven matrices of one block at width 128; quartiles are over them.",
        ),
        Claim(
            "newton_schulz_share",
            "Newton–Schulz' share of the step",
            "Newton–Schulz is less of Trion's update than of Muon's",
            ASKED,
            Figures("papers/share", parts.share, parts.measure_share, minutes=2),
            note=f"One matrix of {parts.HIDDEN} × {parts.INTERMEDIATE}. Newton–Schulz is timed as "
            "a program of its own, of the same products but with buffers of its own, where the "
            "update reuses those that it is given. So a share can exceed 100 %: of Muon's update "
            "it is nearly all.",
        ),
        Claim(
            "beside_zero",
            "does ZeRO make compression needless?",
            f"with ZeRO over {memory.DEVICES} devices low-rank methods still keep and send less "
            "than AdamW",
            ASKED,
            Figures("papers/zero", memory.beside_zero, memory.measure_zero, minutes=3),
            note=(
                "Exact, from shapes and the formulas that docs/sharding.md checks; what is sent is "
                "apart from the gradients' average. A learned basis "
                "(Dion, LDAdamW) is whole on every device. The 1b preset's MLP is 5461 wide, which "
                "8 does not divide: there a low-rank method's state stays whole and nothing is "
                "sent, while AdamW's is split along another axis."
            ),
        ),
        Claim(
            "feedback_memory",
            "the feedback's memory at 8 and 4 bits",
            "with 8 or 4-bit feedback DCT-AdamW keeps less than AdamW, at every rank",
            ASKED,
            Figures(
                "papers/memory",
                lambda results: memory.smaller(
                    results,
                    {
                        f"dct_adamw {label}, feedback {bits}": "adamw"
                        for bits in memory.FEEDBACK
                        for label in RANKS
                    },
                ),
                memory.measure,
                minutes=2,
            ),
            note="Exact, from shapes.",
        ),
    ),
)
