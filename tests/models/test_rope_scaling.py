"""Rotary frequencies are rescaled as the published formulas say."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_folders import forward, random_model

from models.attention import rotary_tables
from models.configs import LlamaConfig
from models.rope_scaling import LinearRopeScaling, Llama3RopeScaling

LLAMA_3_1 = Llama3RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
)
HEAD_DIM, THETA = 128, 500_000.0
CONFIG = LlamaConfig(32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2)


def frequencies():
    return 1.0 / THETA ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)


def published_llama3(frequencies, scaling):
    """Meta's ``apply_scaling``, one frequency at a time in float64."""
    scaled = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < scaling.original_max_position / scaling.high_freq_factor:
            scaled.append(frequency)
        elif wavelength > scaling.original_max_position / scaling.low_freq_factor:
            scaled.append(frequency / scaling.factor)
        else:
            smooth = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            scaled.append((1 - smooth) * frequency / scaling.factor + smooth * frequency)
    return np.array(scaled)


@pytest.mark.parametrize(
    "scaling", [LLAMA_3_1, Llama3RopeScaling(32.0, 1.0, 4.0, 8192)], ids=["3.1", "3.2"]
)
def test_llama3_scaling_is_the_published_formula(scaling):
    expected = published_llama3(frequencies(), scaling)
    scaled = scaling.scale(jnp.asarray(frequencies(), jnp.float32))
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)
    ratios = expected / frequencies()
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(1 / scaling.factor)
    assert np.any((ratios < 0.99) & (ratios > 1.01 / scaling.factor)), "the mixed part is met"


def test_tables_turn_by_the_scaled_frequencies():
    positions = np.array([0, 1, 7, 300])
    angles = positions[:, None] * published_llama3(frequencies(), LLAMA_3_1)
    cosines, sines = rotary_tables(jnp.asarray(positions), HEAD_DIM, THETA, LLAMA_3_1)
    np.testing.assert_allclose(cosines, np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(sines, np.sin(angles), atol=1e-4)


def test_linear_scaling_is_the_table_of_divided_positions():
    scaled = rotary_tables(jnp.array([0, 4, 12]), HEAD_DIM, THETA, LinearRopeScaling(4.0))
    plain = rotary_tables(jnp.array([0, 1, 3]), HEAD_DIM, THETA)
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_a_model_reads_its_scaling():
    tokens = jnp.arange(20)[None]
    scaled_config = dataclasses.replace(CONFIG, rope_scaling=LinearRopeScaling(4.0))
    plain, scaled = (forward(random_model(config), tokens) for config in (CONFIG, scaled_config))
    np.testing.assert_allclose(scaled[:, 0], plain[:, 0], rtol=1e-5)
    assert float(jnp.abs(scaled - plain).max()) > 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRopeScaling(0.5), "factor=0.5 must be at least 1 and finite"),
        (lambda: LinearRopeScaling(math.nan), "factor=nan must be at least 1 and finite"),
        (
            lambda: dataclasses.replace(LLAMA_3_1, low_freq_factor=4.0),
            "low_freq_factor=4.0 must be positive and below high_freq_factor=4.0; Llama 3.1 has",
        ),
        (
            lambda: dataclasses.replace(LLAMA_3_1, original_max_position=0),
            "original_max_position=0 must be positive; Llama 3.1 has 8192",
        ),
    ],
)
def test_impossible_scalings_are_refused_by_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()
