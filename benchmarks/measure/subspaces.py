"""How much of a real gradient does each subspace leave out, beside the best one of its rank?

Run from the repository's root: ``python -m benchmarks.measure.subspaces``. Trains the small Llama
with AdamW on the standard library's source, keeps gradients and momenta of one block's seven
matrices, and measures the relative error of their projections: figure 1 of arXiv 2505.17967 for
every matrix of a block, with more projections. Prints tables and writes
benchmarks/results/subspaces.json and docs/subspaces.png.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import lowrank_optax as lro
from benchmarks.record import ROOT, begin, command_line, write_json
from benchmarks.tables import markdown_table
from lowrank_optax.axes.projections.base import Choice, Projection
from lowrank_optax.tools.diagnostics import projection_error
from models.configs import get_config
from models.llama import Llama, matrix_dimension_numbers
from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.corpus import load_corpus
from training.reports.plots import COLOURS
from training.steps.objective import next_token_loss

PRESET, LAYER = "small", 2
BATCH, TIME = 8, 128
LEARNING_RATE, WARMUP = 3e-3, 15
MOMENTUM = 0.95
STEPS = (2, 50, 150)
"""Steps, counted from 1, whose gradients are kept; each has one before it for the warm start."""

FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
TABLE_FRACTIONS = {1 / 16: "1/16", 1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2"}

OPTIMUM, WARM_STARTED = "svd", "power_iteration"
PROJECTIONS: dict[str, Callable[[int], Projection]] = {
    OPTIMUM: lro.projections.svd,
    WARM_STARTED: lro.projections.power_iteration,
    "dct": lro.projections.dct,
    "dct (l2)": functools.partial(lro.projections.dct, select="l2"),
    "random_orthogonal": lro.projections.random_orthogonal,
    "hadamard": lro.projections.hadamard,
    "identity": lro.projections.identity,
    "random": lro.projections.random,
}

# Label, colour and line of every projection that is drawn.
STYLES = {
    OPTIMUM: ("SVD (the optimum)", COLOURS[6], "-"),
    WARM_STARTED: ("power iteration", COLOURS[4], "--"),
    "dct": ("DCT", COLOURS[0], "-"),
    "random_orthogonal": ("random orthogonal", COLOURS[5], "--"),
    "hadamard": ("Hadamard", COLOURS[2], "-."),
    "identity": ("identity", COLOURS[3], "-"),
    "random": ("random, not selected", COLOURS[1], ":"),
}

ORDER = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]

Matrices = dict[str, jax.Array]


def subspace_errors(
    matrix: Float[Array, "*batch n m"], previous: Float[Array, "*batch n m"], rank: int
) -> dict[str, Float[Array, "*batch"]]:
    """Relative error ‖A − P Pᵀ A‖ / ‖A‖ of every projection at one rank.

    Args:
        matrix: A, with the compressed axis n first.
        previous: the same matrix one step earlier. Its leading singular subspace is where the
            power iteration starts.
        rank: r, less than n.

    Returns:
        Name to errors in [0, 1]; a basis that n does not admit is left out.
    """
    names = [name for name in PROJECTIONS if name != "hadamard" or _is_power_of_two(matrix)]
    projections = {name: PROJECTIONS[name](rank) for name in names}
    return {
        name: projection_error(
            matrix,
            projection,
            _warm_start(matrix, previous, projection, rank) if name == WARM_STARTED else None,
        )
        for name, projection in projections.items()
    }


def _is_power_of_two(matrix: Float[Array, "*batch n m"]) -> bool:
    return matrix.shape[-2].bit_count() == 1


def _warm_start(
    matrix: Float[Array, "*batch n m"],
    previous: Float[Array, "*batch n m"],
    projection: Projection,
    rank: int,
) -> Float[Array, "*batch n r"]:
    """One refresh on A from the previous matrix's subspace, which a first refresh takes exactly."""
    key, count = jax.random.key(0), jnp.int32(0)
    nothing = projection.init(matrix.shape, rank, matrix.dtype, key)
    start = projection.refresh(Choice(previous, nothing, rank, key, count))
    return projection.refresh(Choice(matrix, start, rank, key, count + 1))


def block_matrices(tree: Any) -> Matrices:
    """The seven matrices of one block by name, each (n, m) with the compressed axis first."""
    specs = lro.matrix_specs(tree, dimension_numbers=matrix_dimension_numbers)
    return {
        spec.path.split("/")[-2]: spec.to_matrix(leaf)[LAYER]
        for leaf, spec in zip(jax.tree.leaves(tree), specs, strict=True)
        if spec is not None
    }


def train(steps: Sequence[int] = STEPS) -> tuple[dict[str, dict[int, Matrices]], list[float]]:
    """Trains the model.

    Args:
        steps: those whose matrices are kept, counted from 1; the last is where training ends.

    Returns:
        "gradient" or "momentum" to step to the block's matrices, for every step that is kept and
        the one before it; and the training losses in nats.
    """
    model = Llama(get_config(PRESET), rngs=nnx.Rngs(0))
    graphdef, parameters = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(parameters)
    # From a first step that moves, unlike a warm-up from zero: the second gradient is another one.
    schedule = optax.warmup_cosine_decay_schedule(
        LEARNING_RATE / WARMUP, LEARNING_RATE, WARMUP, max(steps)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    @jax.jit
    def step(params: Any, state: Any, momenta: Matrices, tokens: jax.Array) -> Any:
        loss, gradient = jax.value_and_grad(functools.partial(next_token_loss, graphdef))(
            params, tokens
        )
        updates, state = optimizer.update(gradient, state, params)
        gradients = block_matrices(gradient)
        momenta = jax.tree.map(lambda M, G: MOMENTUM * M + (1 - MOMENTUM) * G, momenta, gradients)
        return optax.apply_updates(params, updates), state, momenta, gradients, loss

    corpus = load_corpus(CorpusOptions())
    batches = corpus.train_batches(BatchShape(BATCH, TIME, eval_batches=1), seed=0)
    state, momenta = optimizer.init(params), jax.tree.map(jnp.zeros_like, block_matrices(params))
    kept: dict[str, dict[int, Matrices]] = {"gradient": {}, "momentum": {}}
    losses = []
    for number in range(1, max(steps) + 1):
        tokens = next(batches)
        params, state, momenta, gradients, loss = step(params, state, momenta, tokens)
        losses.append(float(loss))
        if {number, number + 1} & set(steps):
            kept["gradient"][number] = gradients
            kept["momentum"][number] = momenta
    return kept, losses


def measure(kept: dict[str, dict[int, Matrices]]) -> dict[str, Any]:
    """Errors of all matrices: kind to projection to matrix to errors, (steps, fractions)."""
    compute = jax.jit(subspace_errors, static_argnums=2)
    labels = [(kind, step) for kind in kept for step in STEPS]
    errors: dict[str, Any] = {kind: {name: {} for name in PROJECTIONS} for kind in kept}
    for matrix, example in kept["gradient"][STEPS[0]].items():
        current = jnp.stack([kept[kind][step][matrix] for kind, step in labels])
        previous = jnp.stack([kept[kind][step - 1][matrix] for kind, step in labels])
        ranks = [round(fraction * example.shape[-2]) for fraction in FRACTIONS]
        by_rank = [compute(current, previous, rank) for rank in ranks]
        for projection in by_rank[0]:
            values = np.stack([at_rank[projection] for at_rank in by_rank], axis=-1)
            for kind, rows in zip(kept, np.split(values, len(kept)), strict=True):
                errors[kind][projection][matrix] = np.round(rows.astype(float), 6).tolist()
    return errors


def table(results: dict[str, Any], kind: str) -> str:
    """Errors at the last step and their ratio to the optimum, by rank, as Markdown."""
    last = len(results["setting"]["steps"]) - 1
    columns = {
        f"r/n = {label}": (kind, last, results["fractions"].index(fraction))
        for fraction, label in TABLE_FRACTIONS.items()
    }
    return _table(results, f"{kind}, step {results['setting']['steps'][last]}", columns)


def table_of_steps(results: dict[str, Any], fraction: float = 1 / 4) -> str:
    """Errors at one rank as training goes on, and their ratio to the optimum, as Markdown."""
    slot = results["fractions"].index(fraction)
    columns = {
        f"{kind}, step {step}": (kind, i, slot)
        for kind in results["errors"]
        for i, step in enumerate(results["setting"]["steps"])
    }
    return _table(results, f"r/n = {TABLE_FRACTIONS[fraction]}", columns)


def _table(results: dict[str, Any], title: str, columns: dict[str, tuple[str, int, int]]) -> str:
    """A row per projection; columns from a heading to (kind, slot of step, slot of fraction)."""
    slots, errors = columns.values(), results["errors"]
    rows = [
        (projection, *(_cell(errors[kind], projection, i, j) for kind, i, j in slots))
        for projection in PROJECTIONS
    ]
    return markdown_table((title, *columns), rows)


def _cell(errors: dict[str, Any], projection: str, step: int, fraction: int) -> str:
    """Mean error over the matrices, and the geometric mean of its ratio to the optimum.

    Geometric, because the ratios span orders of magnitude where a matrix is almost of low rank.
    """
    by_matrix = errors[projection]
    values = np.array([rows[step][fraction] for rows in by_matrix.values()])
    optima = np.array([errors[OPTIMUM][matrix][step][fraction] for matrix in by_matrix])
    return f"{values.mean():.3f} ({np.exp(np.log(values / optima).mean()):.2f}×)"


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    """Draws the errors of the last step's gradients against r/n: a panel per matrix."""
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    *panels, last = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for panel, matrix in zip(panels, ORDER, strict=True):
        _plot_matrix(panel, matrix, results)
    last.axis("off")
    last.legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
    for panel in panels[3:]:
        panel.set_xlabel("r / n")
        panel.tick_params(labelbottom=True)
    figure.supylabel("‖G − P Pᵀ G‖ / ‖G‖", fontsize=10)
    step = results["setting"]["steps"][-1]
    figure.suptitle(f"What a rank-r subspace leaves out of a block's gradients at step {step}")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _plot_matrix(panel: Axes, matrix: str, results: dict[str, Any]) -> None:
    errors = results["errors"]["gradient"]
    for projection, (label, colour, line) in STYLES.items():
        if matrix in errors[projection]:
            last = errors[projection][matrix][-1]
            panel.plot(results["fractions"], last, line, color=colour, label=label, linewidth=1.5)
    m, n = results["shapes"][matrix]
    panel.set_title(f"{matrix}  ({m} × {n})", fontsize=10)
    panel.set_xscale("log", base=2)
    panel.set_xticks([1 / 32, *TABLE_FRACTIONS], ["1/32", *TABLE_FRACTIONS.values()], fontsize=8)
    panel.set_ylim(0, 1)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Trains, measures, prints, writes and draws."""
    parser = command_line(__doc__, "subspaces", rounds=None)
    parser.add_argument("--picture", type=pathlib.Path, default=ROOT / "docs" / "subspaces.png")
    arguments = begin(parser)
    kept, losses = train()
    setting = {
        **{"preset": PRESET, "layer": LAYER, "batch": BATCH, "time": TIME, "optimizer": "adamw"},
        **{"learning_rate": LEARNING_RATE, "warmup": WARMUP, "momentum": MOMENTUM, "steps": STEPS},
        "training_loss": {step: losses[step - 1] for step in STEPS},
    }
    shapes = {name: matrix.shape[::-1] for name, matrix in kept["gradient"][STEPS[0]].items()}
    results = {
        "setting": setting,
        "shapes": shapes,
        "fractions": FRACTIONS,
        "errors": measure(kept),
    }
    print(*(table(results, kind) for kind in kept), table_of_steps(results), sep="\n\n")
    write_json(arguments.out, results, arguments.commit)
    plot(results, arguments.picture)


if __name__ == "__main__":
    main()
