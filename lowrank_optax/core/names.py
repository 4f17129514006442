"""What a parameter's name says it is: an embedding or head, a norm, a bias or scale."""

import re

# Names of modules and parameters in Flax, Haiku, Equinox, Hugging Face, MaxText and Levanter
# models, each matched whole. "embed", "norm" and "ln" count as the last word of a name, with or
# without a number, and as the first word only where that is how such a module is called: an
# `embedding_projection` and a `PreNormBlock_0` hold matrices.
_EMBEDDING = (
    r"(?:\w*_)?[a-z]*emb(?:s|ed|eds|edding|eddings|edder)?\d*(?:_\d+)?"
    r"|(?:\w+_)?embed(?:dings?)?_(?:tok(?:en)?s?|pos|positions?|types?|words?|in|out|table|matrix"
    r"|weights?)(?:_\w+)?"
    r"|wte|wpe|(?:cls|class|mask|register)_tokens?"
)
# A bare `head` has no number: `head_0` is as often one of several attention heads.
_HEAD = (
    r"head|lm_?heads?(?:_\d+)?"
    r"|(?:mlm|nsp|mtp|cls|out|output|class|classification|classifier|pred|prediction|policy|reward"
    r"|value|token|vocab|final)_?head(?:_\d+)?"
    r"|(?:\w+_)?logits\w*|classifier(?:_\d+)?|decoder|vocab_proj(?:ector)?|output_layer|qa_outputs"
)
_NORM = (
    r"(?:\w+_)?[a-z]*norms?\d*(?:_\d+)?|(?:layer_?|rms_?|batch_?|group_?)?norm\d*(?:_\w+)?"
    r"|(?:\w+_)?ln\d*(?:_\d+)?|ln\d*_\w+"
)
# Two-dimensional where layers are stacked, or where a bias has one axis for heads.
_VECTOR = r"(?:\w+_)?bias(?:es)?(?:_table)?|scales?|gamma|beta|offset"

DEFAULT_EXCLUDE = (
    rf"(?i)(?P<embedding>{_EMBEDDING})|(?P<head>{_HEAD})|(?P<norm>{_NORM})|(?P<vector>{_VECTOR})"
)

_REASONS = {
    "embedding": "named as an embedding or head",
    "head": "named as an embedding or head",
    "norm": "named as a norm",
    "vector": "named as a bias or scale",
}


def module_name(path: str) -> str:
    """The component of a path that says what a parameter is for.

    That is the last one, but for what every layer calls its own: a trailing `value` (of a Flax
    variable; `array` of a named one), then `kernel`, `weight` or `w`, then numbers of a list.

    So of `wte/embedding/value` it is `embedding`, and of `norms/3/weight` it is `norms`.
    """
    left = path.split("/")
    if len(left) > 1 and left[-1] in ("value", "raw_value", "array"):
        left.pop()
    if len(left) > 1 and left[-1] in ("kernel", "weight", "w"):
        left.pop()
    while len(left) > 1 and left[-1].isdecimal():
        left.pop()
    return left[-1]


def why_excluded(path: str, exclude: re.Pattern[str]) -> str:
    """Why a name is not one of a matrix, or "" if it may be.

    `exclude` is matched whole against `module_name(path)`, but searched in the path if it contains
    "/".
    """
    searched = "/" in exclude.pattern
    match = exclude.search(path) if searched else exclude.fullmatch(module_name(path))
    if match is None:
        return ""
    return _REASONS.get(match.lastgroup or "", "matched by exclude")
