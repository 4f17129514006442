"""The losses of a model's next tokens, without all of their logits in memory at once."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped

from models.attention import at_least_float32
from models.llama import Llama

LOGITS_AT_ONCE = 2**26
"""Over all devices; a quarter of a GiB in float32."""


def next_token_losses(
    model: Llama,
    tokens: Int[Array, "batch time_and_one"],
    segments: Int[Array, "batch time"] | None = None,
    *,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Array, "batch time"]:
    """Cross entropies, in nats, of tokens[:, 1:] given what precedes each.

    Where a batch has more logits than ``logits_at_once``, they are made for some positions of all
    rows at a time, and again in the backward pass: a vocabulary of 152k then costs no more memory
    than one of a few thousand, and one more product with the head.

    Args:
      model: whose logits.
      tokens: token ids.
      segments: as the model takes them, of tokens[:, :-1].
      logits_at_once: most numbers in memory at once; a single position of all rows always fits.

    Example:
      >>> from flax import nnx
      >>> from models.configs import get_config
      >>> model = Llama(get_config("small", num_layers=1), rngs=nnx.Rngs(0))
      >>> next_token_losses(model, jax.numpy.zeros((2, 5), int)).shape
      (2, 4)
    """
    targets = tokens[:, 1:]
    x = model.norm(model.last_layer(tokens[:, :-1], segments))
    head = model.head()
    rows, time = targets.shape
    parts = min(time, -(-targets.size * model.config.vocab_size // logits_at_once))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    if parts <= 1:
        return cross_entropy(model.project(x, head), targets)
    # The gradients of all chunks are summed in the type of what they share.
    head = head.astype(at_least_float32(head.dtype))
    length = -(-time // parts)
    padded = [_with_length(y, parts * length) for y in (x, targets)]
    chunks = [y.reshape(rows, parts, length, *y.shape[2:]).swapaxes(0, 1) for y in padded]
    losses = jax.lax.map(
        jax.checkpoint(lambda chunk: cross_entropy(model.project(chunk[0], head), chunk[1])),
        tuple(chunks),
    )
    return losses.swapaxes(0, 1).reshape(rows, parts * length)[:, :time]


def _with_length(y: Shaped[Array, "batch time ..."], length: int) -> Shaped[Array, "..."]:
    """Zeros after the positions, up to a length."""
    return jnp.pad(y, [(0, 0), (0, length - y.shape[1])] + [(0, 0)] * (y.ndim - 2))
