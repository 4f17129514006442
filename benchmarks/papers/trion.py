"""FFT-based Dynamic Subspace Selection for Low-Rank Adaptive Optimization of LLMs."""

from typing import Any

from benchmarks.measure import subspaces
from benchmarks.papers import columns, memory, parts
from benchmarks.papers.at_scale import UPDATES, compare, finetune, on_accelerator
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
from benchmarks.papers.methods import RANKS
from benchmarks.papers.training import FINE_TUNING
from benchmarks.timing import ratio, spread

MATCHES_SVD = "“matches the performance of costly SVD/QR-based methods” (abstract)"
PRESETS = ("350m", "800m", "1b")
LARGE = 1024
"""Columns from which a transform counts as one of a large layer."""

FINE_TUNED = {
    "adamw": ("adamw", ""),
    "trion 1/4": ("trion", "--rank 0.25 "),
    "dct_adamw": ("dct_adamw", "--rank 0.25 "),
    "frugal dct": ("frugal", "--rank 0.25 --projection dct "),
    "fira dct": ("fira", "--rank 0.25 --projection dct "),
    "ldadamw": ("ldadamw", "--rank 0.25 "),
    "galore 1/4": ("galore", "--rank 0.25 "),
}
"""Methods of Tables 7 and 8, and their options of train.py; the tables' ranks were not verified."""
WITH_DCT = ("trion 1/4", "dct_adamw", "frugal dct", "fira dct")
WITH_SVD = ("ldadamw", "galore 1/4")
"""Those of them that are said to match, and those by QR and by an SVD that they are to match."""

NEAR = 0.9
"""Share of the best subspace's energy that an approximation of it holds."""


def fft_against_matmul(results: dict[str, Any]) -> list[Outcome]:
    """Times of one transform, both directions, float32."""
    found = []
    for row in results["results"]:
        if row["n"] >= LARGE:
            for kind in ("dct", "idct"):
                faster = ratio(row["seconds"], f"{kind} matmul float32", f"{kind} fft float32")
                what = f"{kind}, n = {row['n']}: FFT faster than the product"
                found.append(decided(what, "{:.1f} times", faster, above, 1.0))
    return found


def errors(results: dict[str, Any]) -> list[Outcome]:
    """Energy of a block's gradients in the DCT's subspace by that of the best, by rank."""
    found = []
    by_matrix, best = (results["errors"]["gradient"][name] for name in ("dct", "svd"))
    for fraction, label in subspaces.TABLE_FRACTIONS.items():
        slot = results["fractions"].index(fraction)
        shares = [
            (1 - by_matrix[name][-1][slot] ** 2) / (1 - best[name][-1][slot] ** 2)
            for name in by_matrix
        ]
        what = f"r/n = {label}: energy that the DCT's columns hold of the best subspace's"
        found.append(decided(what, "{:.2f}", spread(shares), above, NEAR))
    return found


def faster(results: dict[str, Any]) -> list[Outcome]:
    """Updates' times in the same rounds."""
    found = []
    for result in results["ranks"]:
        seconds = {name: row["seconds"] for name, row in result["methods"].items()}
        for slower, quicker in (("dion", "trion"), ("ldadamw", "dct_adamw (int8)")):
            times = ratio(seconds, slower, quicker)
            what = f"rank {result['rank']}: {quicker} faster than {slower}"
            found.append(decided(what, "{:.1f} times", times, above, 1.0))
    return found


def _table_1() -> Losses:
    pairs = tuple(Comparison(f"trion {label}", f"dion {label}", MATCHES) for label in RANKS)
    return Losses(pairs, beside=("adamw",))


PAPER = Paper(
    "trion",
    (
        Claim(
            "trion_against_dion",
            "Table 1",
            "Trion's loss is that of Dion or lower, at r/n = 1/8, 1/4 and 1/2",
            MATCHES_SVD,
            _table_1(),
            AtScale(
                PRESETS,
                tuple(
                    compare("trion,dion", f"trion-{{preset}}-{rank:g}", f"--rank {rank:g}")
                    for rank in RANKS.values()
                ),
            ),
        ),
        Claim(
            "dct_adamw_against_ldadamw",
            "Table 2",
            "DCT-AdamW's loss is that of LDAdamW or lower, at r/n = 1/4",
            MATCHES_SVD,
            Losses((Comparison("dct_adamw", "ldadamw", MATCHES),), beside=("adamw",)),
            AtScale(
                PRESETS,
                (compare("adamw,ldadamw,dct_adamw", "dct_adamw-{preset}", "--rank 0.25"),),
            ),
            note="A likely reason: at r/n = 1/4 the DCT's columns hold about half of the energy "
            "that the best subspace holds of these gradients (projection_errors). With its "
            "published b2 of 0.999 its loss is lower, and still above LDAdamW's here (recipes.md).",
        ),
        Claim(
            "fft_against_matmul",
            "Tables 4 and 5",
            f"the FFT is faster than the product with the DCT matrix, from n = {LARGE} on",
            "O(n² log n) against O(n³) “for large layers” (abstract)",
            Figures("dct", fft_against_matmul, command="python -m benchmarks.measure.dct"),
            AtScale((), (on_accelerator("transforms"),), then="Of matrices of the tables' sizes."),
            note="On two CPU cores; no accelerator was measured.",
        ),
        Claim(
            "dct_in_frugal_and_fira",
            "Table 6",
            "FRUGAL and Fira lose nothing by the DCT in place of the SVD",
            MATCHES_SVD,
            Losses(
                (
                    Comparison("frugal dct", "frugal svd", MATCHES),
                    Comparison("fira dct", "fira svd", MATCHES),
                ),
                beside=("frugal randperm", "frugal random"),
            ),
            AtScale(
                PRESETS,
                tuple(
                    compare(
                        "frugal,fira" if name in ("svd", "dct") else "frugal",
                        f"{name}-{{preset}}",
                        f"--rank 0.25 --projection {projection}",
                    )
                    for name, projection in (
                        ("svd", "svd"),
                        ("dct", "dct"),
                        ("randperm", "identity --select uniform"),
                        ("random", "random"),
                    )
                ),
            ),
        ),
        Claim(
            "fine_tuning_loss",
            "Tables 7 and 8",
            "methods with the DCT fine-tune to the loss of those with an SVD or QR, or lower, at "
            "r/n = 1/4",
            MATCHES_SVD,
            Losses(
                tuple(Comparison(name, other, MATCHES) for name in WITH_DCT for other in WITH_SVD),
                beside=("adamw",),
                scales=(FINE_TUNING,),
            ),
            AtScale(
                ("7b",),
                tuple(line for options in FINE_TUNED.values() for line in finetune(*options)),
                then="Of Llama-2 7B and GSM-8k's JSON lines; the exact match is in what evaluate "
                "prints. Rates and more seeds by --learning-rate and --seed.",
            ),
            note="From one model that AdamW trained on the library for 1000 steps, 300 steps on "
            "generated problems; seeds are of their order. The 0.02 are a hundredth of other "
            "claims' losses and a twentieth of these: with 0.004, DCT-AdamW against LDAdamW would "
            "not be decided, and all else would hold. The share of problems that are solved "
            "([`training.md`](training.md)) decides nothing: it is of one seed, and 99 % or more "
            "for every method.",
        ),
        Claim(
            "projection_errors",
            "Figure 1",
            f"the DCT's best columns hold {NEAR:.0%} of what the best subspace holds",
            "“approximate SVD/QR-based gradient projections” (abstract)",
            Figures("subspaces", errors, command="python -m benchmarks.measure.subspaces"),
            note=(
                "Seven matrices of one block at width 128; quartiles are over them; the limit is "
                "ours. The gradients are almost of low rank here, in directions of their own, over "
                "which the columns of a fixed basis are spread."
            ),
        ),
        Claim(
            "column_norms",
            "Figure 1",
            "few columns of the DCT hold most of a gradient: fewer than of other orthogonal bases",
            "columns chosen by “their alignment with the gradient of each layer” (abstract)",
            Figures("papers/columns", columns.concentration, columns.measure),
            note="The effective share of columns is exp(entropy of their energies) / n.",
        ),
        Claim(
            "rank_independence",
            "abstract",
            f"to r = n/2 the time of Trion's and DCT-AdamW's updates grows less than "
            f"{parts.GROWTH:g} times from r = n/8, Dion's and LDAdamW's more",
            "“rank-independent running time” (abstract)",
            Figures("papers/ranks", parts.growth, parts.measure_ranks),
            UPDATES,
            note="The limit is ours. The seven matrices of a layer of width 512. Only the choice "
            "of the subspace is independent of the rank: Trion also orthonormalises m × r numbers, "
            "in some m r² operations.",
        ),
        Claim(
            "faster_updates",
            "abstract",
            "Trion's update is faster than Dion's, DCT-AdamW's faster than LDAdamW's",
            "“faster runtime” (abstract)",
            Figures("optimizers", faster, command="python -m benchmarks.measure.optimizers"),
            UPDATES,
        ),
        Claim(
            "memory",
            "abstract",
            "Trion keeps less than Dion, DCT-AdamW with 8-bit feedback less than LDAdamW",
            "memory reduced “by up to 25 %” (abstract), of what a device holds in training",
            Figures(
                "papers/memory",
                lambda results: memory.smaller(
                    results,
                    {f"trion {label}": f"dion {label}" for label in RANKS}
                    | {f"dct_adamw {label}, feedback int8": f"ldadamw {label}" for label in RANKS},
                ),
                memory.measure,
                minutes=2,
            ),
            UPDATES,
            note="Exact, from shapes; activations are not in it.",
        ),
    ),
)
