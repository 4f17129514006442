"""Spikes are left out whole: neither parameters nor optimizer state change, and it is counted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_folders import curve

import lowrank_optax as lro
from training.config.groups import SpikeOptions
from training.config.model import preset_model
from training.data.corpus import load_corpus
from training.errors import TrainingFailedError
from training.steps.compiled import compile_steps
from training.steps.mesh import make_mesh
from training.steps.objective import next_token
from training.steps.spikes import (
    FIRST_UPDATES,
    MOST_NONFINITE,
    SpikeStatistics,
    skip_spikes,
    spike_metrics,
    without_spikes,
)

PARAMS = {"embedding": jnp.ones((5, 4)), "kernel": jnp.ones((6, 4))}
OPTIMIZERS = {
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "trion": lambda: lro.trion(0.1, 2, weight_decay=0.1),
    "galore": lambda: lro.galore(0.1, 2, update_interval=2),
    "adam8bit": lambda: lro.scale_by_adam8bit(),
}


def gradient(key, scale=1.0):
    keys = jax.random.split(jax.random.key(key), len(PARAMS))
    return {
        name: scale * jax.random.normal(k, PARAMS[name].shape)
        for name, k in zip(PARAMS, keys, strict=True)
    }


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def stepper(optimizer):
    @jax.jit
    def step(params, state, gradient, loss):
        updates, state = optimizer.update(gradient, state, params, loss=loss)
        return optax.apply_updates(params, updates), state

    return step


def run(optimizer, gradients, losses=None):
    """All (params, state), one more than gradients."""
    step = stepper(optimizer)
    history = [(PARAMS, optimizer.init(PARAMS))]
    for i, each in enumerate(gradients):
        loss = 1.0 if losses is None else losses[i]
        history.append(step(*history[-1], each, jnp.float32(loss)))
    return history


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_spikes_left_out_is_the_run_without_them(name):
    good = [gradient(i) for i in range(5)]
    nan = {**gradient(9), "kernel": gradient(9)["kernel"].at[2, 1].set(jnp.nan)}
    inf = {**gradient(9), "embedding": gradient(9)["embedding"].at[0, 0].set(-jnp.inf)}
    guarded = skip_spikes(OPTIMIZERS[name](), None)
    history = run(guarded, [good[0], nan, good[1], good[2], inf, good[3], good[4]])
    params, state = history[-1]
    expected, expected_state = run(skip_spikes(OPTIMIZERS[name](), None), good)[-1]
    assert equal(params, expected)
    assert equal(state.optimizer.inner_state, expected_state.optimizer.inner_state)
    assert equal(history[2][0], history[1][0])
    assert not equal(history[1][0], history[0][0])
    skipped = [int(state.statistics.skipped) for _, state in history]
    assert skipped == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_loss_that_is_not_finite_is_a_spike_too():
    history = run(skip_spikes(optax.sgd(0.1), None), [gradient(0)] * 3, [1.0, np.nan, np.inf])
    assert [int(state.statistics.skipped) for _, state in history] == [0, 0, 1, 2]
    assert [int(state.statistics.nonfinite_in_a_row) for _, state in history] == [0, 0, 1, 2]


def norms(values, outlier_factor):
    """The statistics after gradients of these norms."""
    optimizer = skip_spikes(optax.sgd(0.1), outlier_factor)
    one = {"kernel": jnp.zeros((2, 2)).at[0, 0].set(1.0)}
    step = jax.jit(
        lambda state, norm: optimizer.update(
            jax.tree.map(lambda x: x * norm, one), state, one, loss=jnp.float32(1)
        )[1]
    )
    state, found = optimizer.init(one), []
    for value in values:
        state = step(state, jnp.float32(value))
        found.append(jax.device_get(state.statistics))
    return found


def test_outliers_are_left_out_once_the_mean_is_known():
    values = [100.0, *[1.0] * (FIRST_UPDATES - 1), 60.0, 4.0, 29.0, 31.0]
    statistics = norms(values, outlier_factor=5.0)
    mean = (100 + FIRST_UPDATES - 1) / FIRST_UPDATES  # 5.95, so that the bound is 29.75
    np.testing.assert_allclose(statistics[FIRST_UPDATES - 1].mean_norm, mean, rtol=1e-6)
    assert [int(s.skipped) for s in statistics[-4:]] == [1, 1, 1, 1]
    assert [int(s.skipped) for s in norms(values, None)[-4:]] == [0, 0, 0, 0]


def test_the_mean_is_the_documented_one():
    values = np.random.default_rng(0).uniform(0.5, 1.5, 150)
    values[[50, 120]] = 1000.0
    expected = 0.0
    for count, value in enumerate(values):
        bound = np.inf if count < FIRST_UPDATES else 3 * expected
        expected += (min(value, bound) - expected) / min(count + 1, 100)
    last = norms(values, 3.0)[-1]
    np.testing.assert_allclose(last.mean_norm, expected, rtol=1e-5)
    assert (int(last.skipped), int(last.num_norms)) == (2, 150)


def test_a_lasting_change_of_scale_is_followed_in_the_end():
    statistics = norms([1.0] * FIRST_UPDATES + [20.0] * 100, 5.0)
    skipped = [int(s.skipped) for s in statistics]
    assert skipped[FIRST_UPDATES] == 1
    assert skipped[-1] == skipped[-20] < 60
    assert [int(s.nonfinite_in_a_row) for s in statistics] == [0] * len(statistics)


def test_norms_that_are_not_finite_leave_the_mean_alone():
    first, second = norms([2.0, np.inf], 5.0)
    assert (first.num_norms, first.mean_norm) == (second.num_norms, second.mean_norm) == (1, 2.0)


def test_the_optimizer_runs_in_a_branch():
    optimizer = skip_spikes(optax.adamw(0.1), 5.0)
    jaxpr = jax.make_jaxpr(lambda g, s: optimizer.update(g, s, PARAMS, loss=jnp.float32(1)))(
        gradient(0), optimizer.init(PARAMS)
    )
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert names.count("cond") == 1
    assert "sqrt" in str(jaxpr.eqns[names.index("cond")])


def test_nothing_is_added_when_nothing_is_left_out():
    optimizer = optax.adamw(0.1)
    assert without_spikes(optimizer, SpikeOptions()) is optimizer
    assert spike_metrics(optimizer.init(PARAMS)) == {}


def test_statistics_are_scalars_that_never_change_type():
    optimizer = skip_spikes(optax.sgd(0.1), 5.0)
    state = optimizer.init(PARAMS)
    assert isinstance(state.statistics, SpikeStatistics)
    after = jax.eval_shape(
        lambda: optimizer.update(gradient(0), state, PARAMS, loss=jnp.float32(1))[1]
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


def harmless(config):
    """A remainder of the sum of a batch's tokens by 3 that no validation batch has."""
    corpus = load_corpus(config.options.corpus)
    batches = corpus.validation_batches(config.steps.batch)["val_loss"]
    return min({0, 1, 2} - {int(batch.sum()) % 3 for batch in batches})


@pytest.fixture(scope="module")
def spoil():
    """Steps of a configuration whose loss is NaN for about a third of the batches to train on."""
    compiled = {}

    def steps(config):
        key = (config.steps.spikes, config.options.devices.mesh)
        if key not in compiled:
            remainder, objective = harmless(config), next_token()

            def loss(graphdef, params, tokens):
                factor = jnp.where(tokens.sum() % 3 == remainder, jnp.nan, 1.0)
                return next_token().loss(graphdef, params, tokens) * factor

            objective = dataclasses.replace(objective, loss=loss)
            vocab_size = load_corpus(config.options.corpus).tokenizer.vocab_size
            model = preset_model(config.options.model, config.options.numbers, vocab_size)
            mesh = make_mesh(config.mesh)
            compiled[key] = compile_steps(config.steps, model, mesh, objective)
        return compiled[key]

    return steps


def spoiled_steps(config, steps):
    corpus = load_corpus(config.options.corpus)
    batches = corpus.train_batches(config.steps.batch, config.variant.seed, 0, 1)
    remainder = harmless(config)
    return [step for step in range(1, steps + 1) if next(batches).sum() % 3 == remainder]


@pytest.mark.slow
def test_a_run_leaves_spikes_out_counts_them_and_resumes_with_the_count(trainer, tmp_path, spoil):
    config = trainer.config(
        tmp_path / "whole", steps=12, skip_updates="nonfinite", checkpoint_every=5
    )
    bad = spoiled_steps(config, 12)
    assert 1 < len(bad) < 9
    summary, _ = trainer(config, spoil(config))
    records = curve(tmp_path / "whole")
    assert [record["step"] for record in records if record["loss"] is None] == bad
    assert [record["skipped_updates"] for record in records] == [
        sum(step <= now for step in bad) for now in range(1, 13)
    ]
    for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert np.isfinite(summary["train_loss"])

    parts = trainer.changed(config, out=tmp_path / "parts", steps=12)
    steps, calls = spoil(config), []

    def crash(state, batch, arguments):
        calls.append(batch)
        if len(calls) == 9:
            raise MemoryError
        return steps.train(state, batch, arguments)

    with pytest.raises(MemoryError):
        trainer(parts, dataclasses.replace(steps, train=crash))
    assert len(curve(tmp_path / "parts")) < 12
    trainer(trainer.changed(parts, resume=True), steps)
    assert curve(tmp_path / "parts") == records


@pytest.mark.slow
def test_a_run_whose_updates_are_all_left_out_ends(trainer, tmp_path, spoil):
    config = trainer.config(tmp_path / "run", steps=60, skip_updates="nonfinite", eval_every=0)
    steps = spoil(config)

    def spoil_parameters(state, batch, arguments):
        if state.step == 40:
            state = state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
        return steps.train(state, batch, arguments)

    message = rf"{MOST_NONFINITE} updates in a row were left out, as they were not finite, at step "
    with pytest.raises(TrainingFailedError, match=f"{message}60") as failure:
        trainer(
            trainer.changed(config, checkpoint_every=0),
            dataclasses.replace(steps, train=spoil_parameters),
        )
    assert failure.value.diverged


@pytest.mark.slow
def test_spikes_are_left_out_under_zero_on_two_devices(trainer, tmp_path, spoil):
    config = trainer.config(tmp_path / "run", mesh="data=2", zero=True, skip_updates="outlier")
    trainer(config, spoil(config))
    bad = spoiled_steps(config, 6)
    assert curve(tmp_path / "run")[-1]["skipped_updates"] == len(bad) > 0
