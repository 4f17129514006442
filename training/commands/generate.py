"""`train.py generate`: a model's continuation of a text."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from training.checkpoints.pretrained import PretrainedModel, Weights, open_model
from training.config.options import UNSET, Folder
from training.config.ranges import check_ranges
from training.data.prompts import CHAT, Prompt
from training.data.questions import Example
from training.errors import UserError
from training.inference.answers import text_of
from training.inference.generate import continue_prompts
from training.steps.mesh import make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Continue a text with a trained model."""

    model: Folder
    """Hugging Face folder of a Llama or Qwen2, or the folder of a run of train.py."""
    weights: Weights = "last"
    """Of a run: the last ones, or their running average (--ema-decay)."""
    prompt: str = ""
    """The text to continue; without one, a text from its beginning."""
    chat: bool = False
    """The prompt is a message to the model: put it by the tokenizer's chat template."""
    max_new_tokens: int = 200
    """Longest continuation; the end of text ends one sooner."""
    temperature: float = 0.0
    """0: the most likely token each time. Above 0 tokens are drawn, by probabilities that are
    sharper below 1 and flatter above."""
    top_p: float = 1.0
    """Draw from the fewest most likely tokens that have this probability together."""
    samples: int = 1
    """Continuations of the same text."""
    seed: int = 0
    """Of the draws."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, UNSET] = None
    """Type of the computation (default: the model's own)."""


def generate(config: GenerateConfig, console: Console) -> list[str]:
    """Prints continuations, after their prompt if that is not a message, and returns them alone."""
    check_ranges(vars(config))
    if config.temperature == 0 and (config.samples > 1 or config.top_p < 1):
        raise UserError("--samples and --top-p are for draws: give a --temperature above 0 too")
    source = open_model(config.model, config.weights)
    prompt = _prompt_tokens(config, source)
    model = source.load(make_mesh({"data": 1}), config.dtype)
    rows = jnp.tile(prompt, (config.samples, 1))
    tokens = continue_prompts(
        model,
        rows,
        config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        eos_id=source.tokenizer.eos_id,
    )
    texts = [text_of(row, source.tokenizer) for row in np.asarray(tokens)]
    for text in texts:
        console.out(text if config.chat else config.prompt + text, highlight=False)
    return texts


def _prompt_tokens(config: GenerateConfig, source: PretrainedModel) -> np.ndarray:
    """int32 (tokens,): what the model expects before a text, and the text."""
    tokenizer = source.tokenizer
    if config.chat:
        question = Example(config.prompt, answer="", where="--chat")
        (tokens,) = Prompt(CHAT).encode([question], tokenizer)
    else:
        tokens = np.concatenate([source.prompt.prefix_ids, tokenizer.encode(config.prompt)])
    if not tokens.size:  # texts of pretraining begin after the end of another one
        tokens = np.array([tokenizer.eos_id])
    most = source.config.max_position - len(tokens) + 1
    if config.max_new_tokens > most:
        raise UserError(
            f"a prompt of {len(tokens)} tokens and --max-new-tokens {config.max_new_tokens} exceed "
            f"the {source.config.max_position} tokens that {config.model} takes: "
            + (f"give at most --max-new-tokens {most}" if most > 0 else "shorten the prompt")
        )
    return tokens.astype(np.int32)
