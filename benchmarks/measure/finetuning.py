"""How well do low-rank optimizers fine-tune, beside their memory and time? Table 7 of the paper.

Run from the repository's root: ``python -m benchmarks.measure.finetuning``. In place of Llama-2 7B
and GSM-8k: a small Llama that has read the generated problems' questions, but never an answer, and
the problems of ``train.py problems``. Every optimizer's learning rate is tuned at every rank, by
validation loss, until the best is better than both its neighbours on the grid of
`benchmarks.recipes`; the test problems take no part in that. Finished runs, in runs/finetuning, are
reused. Prints a table and writes benchmarks/results/finetuning.json.

On a machine with few cores put NPROC=8 before the command: jaxlib 0.10's batched SVD, which GaLore
takes, waits for threads of the very pool that it runs on, and two of them at a time can wait for
ever where there are two threads.

Reference: FFT-based Dynamic Subspace Selection for Low-Rank Adaptive Optimization of LLMs
(arXiv 2505.17967), Table 7.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
from rich.console import Console
from rich.filesize import decimal

from benchmarks.measure.loop import BareSteps
from benchmarks.recipes.search import Numbers, tune
from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from benchmarks.timing import ROUNDS, median, ratio
from training.checkpoints.pretrained import open_model
from training.commands.evaluate import EvaluateConfig, evaluate
from training.commands.finetune import compile_for, finetune, resolve_for
from training.commands.pretrain import pretrain
from training.commands.problems import ProblemsConfig, write_problems
from training.config.finetuning import FinetuneConfig, QuestionOptions
from training.config.options import with_options
from training.config.pretraining import PretrainConfig
from training.data.bpe import train_bpe
from training.data.questions import read_examples
from training.data.questions_corpus import load_finetune_data
from training.data.tokenizers import Tokenizer
from training.steps.mesh import make_mesh

PROBLEMS = {"train": 20_000, "test": 500, "max_steps": 2, "largest_number": 15}  # the defaults
VOCABULARY = 512
NUM_TEXTS = 4000  # problems whose questions the base model reads
BASE = {"num_layers": 2, "steps": 30, "seq_len": 64, "batch_size": 16, "optimizer": "adamw"}
SHARED = {
    "template": "{question}\n",
    "packing": True,
    "seq_len": 128,
    "batch_size": 8,
    "steps": 1600,
    "validation_fraction": 0.01,
    "fallback_learning_rate": 0.003,
    "eval_every": 400,
    "checkpoint_every": 0,
}
MAX_NEW_TOKENS = 64
RANKS = (16, 64)
SAMPLE_STEPS = 200  # of the times: GaLore's, FRUGAL's and Fira's interval

# Row of the table -> optimizer, hyperparameters, learning rate from which the search starts.
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "AdamW": ("adamw", {}, 0.0025),
    "Trion": ("trion", {}, 0.01),
    "DCT-AdamW": ("dct_adamw", {}, 0.0025),
    "FRUGAL (DCT)": ("frugal", {"projection": "dct"}, 0.00125),
    "Fira (DCT)": ("fira", {"projection": "dct"}, 0.01),
    "LDAdamW": ("ldadamw", {}, 0.0025),
    "GaLore": ("galore", {}, 0.01),
    "Tandem": ("tandem", {}, 0.01),
}


@dataclasses.dataclass(frozen=True)
class Rank:
    """What a learning rate is tuned for, beside the method; None for AdamW's whole matrices."""

    rank: int | None

    @property
    def name(self) -> str:
        """For messages."""
        return f"fine-tuning at rank {self.rank}"


def prepare(out: pathlib.Path, console: Console) -> pathlib.Path:
    """Problems and a base model, unless they are there; returns the model's folder."""
    problems, base = out / "problems", out / "base"
    if not (problems / "train.jsonl").exists():
        write_problems(ProblemsConfig(out=problems, **PROBLEMS), console)
    if (base / "summary.json").exists():
        return base
    examples = read_examples(problems / "train.jsonl")[:NUM_TEXTS]
    texts, tokenizer = out / "questions", out / "tokenizer"
    texts.mkdir(exist_ok=True)
    tokenizer.mkdir(exist_ok=True)
    for i in range(20):
        own = (example.question + "\n" for example in examples[i::20])
        (texts / f"{i}.txt").write_text("".join(own), "utf-8")
    # The tokenizer knows the answers' signs, as those of real models do; the model has seen none.
    solved = (f"{example.question}\n{example.answer}" for example in examples)
    Tokenizer(train_bpe(solved, VOCABULARY), "base").save(tokenizer)
    options = BASE | {"out": base, "data": (str(texts),), "tokenizer": str(tokenizer)}
    pretrain(with_options(PretrainConfig(), **options), console)
    return base


def exact_match(model: pathlib.Path, out: pathlib.Path, console: Console) -> dict[str, Any]:
    """Summary of the evaluation on the test problems, made now or earlier."""
    folder = out / "evaluations" / model.name
    if not (folder / "summary.json").exists():
        config = EvaluateConfig(
            model=model,
            data=out / "problems" / "test.jsonl",
            out=folder,
            template=SHARED["template"],
            batch_size=50,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        evaluate(config, console)
    return json.loads((folder / "summary.json").read_text())


def run_config(
    method: str, rate: float, rank: int | None, base: pathlib.Path, out: pathlib.Path
) -> FinetuneConfig:
    """The configuration of one run."""
    optimizer, hyperparameters, _ = METHODS[method]
    folder = out / "runs" / f"{optimizer}-rank{rank}-lr{rate:g}"
    questions = QuestionOptions(data=str(out / "problems" / "train.jsonl"))
    return with_options(
        FinetuneConfig(model=base, questions=questions),
        optimizer=optimizer,
        learning_rate=rate,
        rank=rank,
        out=folder,
        resume=(folder / "config.json").exists(),
        **hyperparameters,
        **(SHARED if rank else SHARED | {"fallback_learning_rate": None}),
    )


def measure(
    method: str, rate: float, rank: int | None, base: pathlib.Path, out: pathlib.Path
) -> dict[str, Any]:
    """One run: its summary and exact match."""
    console = Console(soft_wrap=True)
    config = run_config(method, rate, rank, base, out)
    folder = config.out
    if not (folder / "model").exists():
        finetune(config, console)
    summary = json.loads((folder / "summary.json").read_text())
    score = exact_match(folder, out, console)
    return {
        "method": method,
        "rank": rank,
        **summary,
        "accuracy": score["accuracy"],
        "examples": score["examples"],
        "without_number": score["without_number"],
    }


def step_times(
    chosen: list[dict[str, Any]], base: pathlib.Path, out: pathlib.Path
) -> dict[str, list[float]]:
    """Milliseconds per step of the chosen runs' steps, side by side: one number a round.

    A sample has as many steps as pass from one choice of a subspace to the next at most, so that
    everybody's choices are in it. The runs' own times are not comparable on a machine that others
    use at times.
    """
    source, mesh = open_model(base), make_mesh({"data": jax.device_count()})
    bare = {}
    for run in chosen:
        config = run_config(run["method"], run["learning_rate"], run["rank"], base, out)
        config = with_options(config, resume=False)
        longest = source.config.max_position
        data = load_finetune_data(config.questions, source.tokenizer, source.prompt, longest)
        resolved = resolve_for(config, data)
        compiled = compile_for(config, resolved, source, mesh)
        bare[_label(run)] = BareSteps(resolved, compiled, data)
        bare[_label(run)].seconds(1)
    samples: dict[str, list[float]] = {name: [] for name in bare}
    for _ in range(ROUNDS):
        for name, steps in bare.items():
            samples[name].append(1e3 * steps.seconds(SAMPLE_STEPS))
    return samples


def _label(run: dict[str, Any]) -> str:
    return f"{run['method']}, rank {run['rank']}"


def measure_base(base: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """Exact match of the model before it is fine-tuned."""
    score = exact_match(base, out, Console(soft_wrap=True))
    return {name: score[name] for name in ("accuracy", "examples", "without_number")}


class Finetunings:
    """Runs, made when `tune` first asks for their losses.

    Args:
        base: folder of the model that they start from.
        out: folder of everything.
    """

    def __init__(self, base: pathlib.Path, out: pathlib.Path):
        self.base, self.out = base, out
        self.records: dict[tuple[str, int | None, float], dict[str, Any]] = {}

    def losses(
        self, method: str, setting: Rank, points: Iterable[Numbers], seeds: Any, part: str
    ) -> list[float]:
        """Validation losses at some learning rates; there is one seed, and one part."""
        del seeds, part
        return [self._run(method, setting.rank, point["learning_rate"]) for point in points]

    def _run(self, method: str, rank: int | None, rate: float) -> float:
        key = method, rank, rate
        if key not in self.records:
            self.records[key] = measure(method, rate, rank, self.base, self.out)
        return self.records[key]["val_loss"]


def measure_all(base: pathlib.Path, out: pathlib.Path, ranks: list[int]) -> list[dict[str, Any]]:
    """All runs: those of the search at every rank, the best of which are chosen."""
    runs, chosen = Finetunings(base, out), []
    for method, (optimizer, _, start) in METHODS.items():
        numbers = {"learning_rate": start}
        for rank in [None] if optimizer == "adamw" else ranks:
            numbers = tune(runs, method, Rank(rank), numbers, None)
            chosen.append((method, rank, numbers["learning_rate"]))
    return [run | {"chosen": key in chosen} for key, run in runs.records.items()]


def table(results: dict[str, Any]) -> str:
    """The runs at the chosen learning rates, as Markdown."""
    header = (
        *("optimizer", "rank", "learning rate", "train loss", "exact match"),
        *("optimizer state", "of AdamW's", "ms per step", "AdamW's / this"),
    )
    times = results["milliseconds_per_step"]
    chosen = [run for run in results["runs"] if run["chosen"]]
    adamw = next(_label(run) for run in chosen if run["rank"] is None)
    rows = [
        (
            run["method"],
            run["rank"] or "–",
            f"{run['learning_rate']:g}",
            f"{run['train_loss']:.4f}",
            f"{run['accuracy']:.1%}",
            decimal(run["optimizer_state_bytes"], precision=2),
            f"{run['optimizer_state_bytes'] / run['adamw_state_bytes']:.0%}",
            f"{median(times[_label(run)]):.1f}",
            f"{ratio(times, adamw, _label(run)):.2f}",
        )
        for run in chosen
    ]
    before = results["before"]
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"Before fine-tuning: {before['accuracy']:.1%} exact match. {before['examples']} held-out "
        "problems, one seed; learning rates by validation loss; train loss in nats per answer "
        "token, over the last tenth of the steps."
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = command_line(__doc__, "finetuning", rounds=None)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/finetuning"))
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    arguments = begin(parser)
    folder = arguments.runs
    folder.mkdir(parents=True, exist_ok=True)
    base = prepare(folder, Console(soft_wrap=True))
    runs = measure_all(base, folder, arguments.ranks)
    chosen = [run for run in runs if run["chosen"]]
    results = {
        "problems": PROBLEMS,
        "base": BASE | {"preset": "small", "vocabulary": VOCABULARY},
        "shared": SHARED,
        "before": measure_base(base, folder),
        "runs": runs,
        "milliseconds_per_step": step_times(chosen, base, folder),
    }
    print(table(results), flush=True)
    write_json(arguments.out, results, arguments.commit)


if __name__ == "__main__":
    main()
