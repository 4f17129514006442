"""Answers to many prompts of different lengths, generated in batches of few shapes, and GSM-8k's
own score of them: the number after "####", compared as text.

Reference: grade_school_math/dataset.py of github.com/openai/grade-school-math (arXiv 2110.14168).
"""

import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from models.llama import Llama
from training.data.tokenizers import Tokenizer
from training.inference.generate import continue_prompts
from training.steps.mesh import batch_sharding

SHORTEST_WIDTH = 32
_NUMBER = re.compile(r"#### (\-?[0-9\.\,]+)")


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of the prompts of every batch: those of about the same length, the shortest first."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded_width(length: int, longest: int) -> int:
    """The width that a batch is padded to: a power of two, so that few programs are compiled, or
    the longest that the model takes.

    >>> [padded_width(length, 100) for length in (5, 33, 64, 65)]
    [32, 64, 64, 100]
    """
    return min(max(SHORTEST_WIDTH, 1 << (length - 1).bit_length()), longest)


def answers(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[np.ndarray],
    *,
    batch_size: int,
    max_new_tokens: int,
    mesh: Mesh,
) -> Iterator[tuple[int, str]]:
    """Yields (index of a prompt, the model's most likely continuation of it, up to its end of
    text), those of about the same length together.

    Args:
        model: its parameters are on the mesh.
        prompts: of int32 (tokens,).
        batch_size: a multiple of the number of parts that the mesh splits a batch into.
        mesh: of one process.
    """
    longest = model.config.max_position - max_new_tokens + 1
    for indices in plan_batches([len(prompt) for prompt in prompts], batch_size):
        width = padded_width(len(prompts[indices[-1]]), longest)
        tokens, mask = np.zeros((2, batch_size, width), np.int32)
        # Filled up with the last prompt, so that all batches of a width share one program.
        for row, i in enumerate(indices + indices[-1:] * (batch_size - len(indices))):
            length = len(prompts[i])
            tokens[row, :length], mask[row, :length] = prompts[i], 1
        generated = continue_prompts(
            model,
            jax.device_put(tokens, batch_sharding(mesh)),
            max_new_tokens,
            mask=mask,
            eos_id=tokenizer.eos_id,
        )
        for i, row in zip(indices, np.asarray(generated), strict=False):
            yield i, text_of(row, tokenizer)


def text_of(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    """The text before the end; a model's vocabulary may have ids that stand for no text."""
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    text = tokens[: ends[0]] if ends.size else tokens
    return tokenizer.decode(text[text < tokenizer.vocab_size])


def final_number(text: str) -> str | None:
    """The number after the first "#### " of a text, without commas; None if there is none.

    >>> final_number("48+24 = <<48+24=72>>72 clips.\\n#### -1,072")
    '-1072'
    """
    match = _NUMBER.search(text)
    return None if match is None else match.group(1).replace(",", "")
