"""What is lost when a matrix is cut into blocks before it is orthonormalised?

Run from the repository's root: ``python -m benchmarks.measure.blocks``. Orthonormalises gradients
and momenta of one block of a small Llama, those of `benchmarks.measure.subspaces`, whole and in
blocks of rows. Prints a table and writes benchmarks/results/blocks.json.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.measure.subspaces import STEPS, Matrices, train
from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table

BLOCKS = (2, 4, 8)
"""Numbers of blocks; `lro.tandem` has 4."""


def orthonormal(matrix: Float[np.ndarray, "*batch n m"]) -> Float[np.ndarray, "*batch n m"]:
    """U Vᵀ of the singular value decomposition U S Vᵀ."""
    U, _, Vt = np.linalg.svd(matrix, full_matrices=False)
    return U @ Vt


def in_blocks(matrix: Float[np.ndarray, "n m"], blocks: int) -> Float[np.ndarray, "n m"]:
    """The rows in so many blocks of equal size, each orthonormalised by itself."""
    n, m = matrix.shape
    return orthonormal(matrix.reshape(blocks, n // blocks, m)).reshape(n, m)


def shared(matrix: Float[np.ndarray, "n m"], blocks: int) -> dict[str, float]:
    """How far blocks that are orthonormalised by themselves are from a step that is orthonormal.

    Args:
        matrix: n ≤ m.
        blocks: of n / blocks rows.

    Returns:
        "largest": the square of the blocks' largest singular value together, 1 where they step in
        different directions, `blocks` where all step in the same. "directions": (Σ σ²)² / Σ σ⁴,
        the number of directions in which the step goes, over n. "cosine": to the whole matrix
        orthonormalised.
    """
    step = in_blocks(matrix, blocks)
    energy = np.linalg.svd(step, compute_uv=False) ** 2
    n = matrix.shape[0]
    return {
        "largest": float(energy[0]),
        "directions": float(energy.sum() ** 2 / (energy**2).sum() / n),
        "cosine": float((step * orthonormal(matrix)).sum() / n),
    }


def measure(kept: dict[str, dict[int, Matrices]], step: int) -> dict[str, Any]:
    """Kind to number of blocks to matrix to what `shared` finds at a step."""
    return {
        kind: {
            str(blocks): {
                name: shared(np.asarray(matrix), blocks) for name, matrix in found.items()
            }
            for blocks in BLOCKS
        }
        for kind, found in ((kind, steps[step]) for kind, steps in kept.items())
    }


def table(results: dict[str, Any]) -> str:
    """Means over the matrices, as Markdown: a row for each number of blocks of each kind."""
    rows = []
    for kind, by_blocks in results["shared"].items():
        for blocks, by_matrix in by_blocks.items():
            means = [
                sum(found[name] for found in by_matrix.values()) / len(by_matrix)
                for name in ("largest", "directions", "cosine")
            ]
            rows.append((kind, blocks, *(f"{mean:.2f}" for mean in means)))
    header = ("of a", "blocks", "largest σ²", "directions / n", "cosine to the whole")
    return markdown_table(header, rows)


def main() -> None:
    """Trains, measures, prints and writes."""
    arguments = begin(command_line(__doc__, "blocks", rounds=None))
    kept, _ = train()
    results = {"step": STEPS[-1], "shared": measure(kept, STEPS[-1])}
    print(table(results))
    write_json(arguments.out, results, arguments.commit)


if __name__ == "__main__":
    main()
