"""--init-from: another run's parameters, and what two optimizers' states have in common."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import lowrank_optax as lro
from training.checkpoints.init_from import shared_arrays
from training.checkpoints.manager import Checkpoints
from training.checkpoints.pretrained import check_tokenizer
from training.checkpoints.trees import by_path
from training.commands.pretrain import pretrain
from training.config.groups import CheckpointOptions
from training.config.options import with_options
from training.config.pretraining import PretrainConfig
from training.data.tokenizers import stored_tokenizer
from training.errors import UserError
from training.steps.spikes import skip_spikes


@pytest.fixture(scope="module")
def source(trainer, tmp_path_factory):
    """The folder of a run of AdamW, with checkpoints at 4 and 6, and its states at both."""
    folder = tmp_path_factory.mktemp("source") / "run"
    config = trainer.config(folder)
    trainer(config)
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointOptions())
    abstract = trainer.steps(config).abstract_state
    states = {step: checkpoints.read(step, abstract)[0] for step in (4, 6)}
    checkpoints.close()
    return folder, states


def begin(trainer, config):
    """Trains; returns the state before the first step, and what was printed."""
    steps, seen = trainer.steps(config), {}

    def spy(state, batch, arguments):
        seen.setdefault("state", jax.device_get(state))
        return steps.train(state, batch, arguments)

    _, printed = trainer(config, dataclasses.replace(steps, train=spy))
    return seen["state"], " ".join(printed.split())


@pytest.mark.product(every=2)
@pytest.mark.parametrize(("where", "step"), [("", 6), ("checkpoints/4", 4)])
def test_a_new_run_begins_with_the_parameters_and_is_of_one_configuration(
    trainer, source, tmp_path, where, step
):
    folder, states = source
    config = trainer.config(tmp_path / "new", init_from=folder / where)
    state, printed = begin(trainer, config)
    assert f"parameters of {folder}/checkpoints/{step}; " in printed
    for path, array in by_path(state.params).items():
        np.testing.assert_array_equal(array, by_path(states[step].params)[path])
    assert state.step == 0
    assert not any(np.any(x) for x in jax.tree.leaves(state.optimizer_state))
    written = json.loads((tmp_path / "new/config.json").read_text())
    assert written["init_from"] == f"{folder}/checkpoints/{step}"
    # The same command goes on, whatever has become of the other run; so does one that leaves it out
    for changes in ({"resume": True}, {"resume": True, "init_from": None}):
        trainer(trainer.changed(config, **changes))
        assert json.loads((tmp_path / "new/config.json").read_text()) == written | {"resume": True}
    with pytest.raises(UserError, match=r"init_from: .*/checkpoints/\d' before, 'elsewhere' now"):
        trainer(trainer.changed(config, resume=True, init_from="elsewhere"))


def test_what_is_shared_is_kept_and_said(trainer, source, tmp_path):
    """Without clipping, AdamW's state is elsewhere in the optimizer's, and complete."""
    folder, states = source
    config = trainer.config(
        tmp_path / "new", clip_norm=0.0, weight_decay=0.1, init_from=folder, init_state="shared"
    )
    state, printed = begin(trainer, config)
    arrays = jax.tree.leaves(state.optimizer_state)
    assert f"of the optimizer's state {len(arrays)} arrays (" in printed
    assert "are those of that run, 0 (0 bytes) are new" in printed
    for kept, moment in zip(arrays, jax.tree.leaves(states[6].optimizer_state), strict=True):
        np.testing.assert_array_equal(kept, moment)


def test_no_checkpoint_a_damaged_one_or_another_model_is_named_and_nothing_written(
    trainer, source, tmp_path
):
    folder, _ = source
    with pytest.raises(UserError, match=r"none: there is no complete checkpoint\. Give the"):
        trainer(trainer.config(tmp_path / "new", init_from=tmp_path / "none"))
    config = trainer.config(tmp_path / "new", num_layers=2, init_from=folder)
    with pytest.raises(
        UserError, match=r"checkpoints/6 is of another model(?s:.*)k_proj/kernel: float32"
    ):
        trainer(config)
    (folder / "checkpoints/7/state").mkdir(parents=True)
    try:
        with pytest.raises(UserError, match=r"checkpoints/7 cannot be read: files.json is missing"):
            trainer(trainer.config(tmp_path / "new", init_from=folder))
    finally:
        os.removedirs(folder / "checkpoints/7/state")
    assert not (tmp_path / "new").exists()


def test_another_tokenizer_of_the_same_size_is_refused(source, tmp_path, corpus_folder):
    """A run of bytes, whose tokenizer.json then has another end of text."""
    folder = shutil.copytree(source[0], tmp_path / "source")
    config = json.loads((folder / "config.json").read_text()) | {"tokenizer": "bpe:257"}
    (folder / "config.json").write_text(json.dumps(config))
    options = {"data": (str(corpus_folder),), "init_from": folder, "out": tmp_path / "new"}
    begun = with_options(PretrainConfig(), **options, validation_fraction=0.2, mesh="data=1")
    check_tokenizer(folder, stored_tokenizer(folder, "bytes"))
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "</s>"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(UserError, match=r"its tokenizer \(bpe:257\) is another than this run's"):
        pretrain(begun, Console(quiet=True))
    assert not (tmp_path / "new").exists()


PARAMS = {
    "embedding": jnp.ones((10, 4)),
    "kernel": jnp.ones((6, 4)),
    "other": {"kernel": jnp.ones((4, 6))},
}


def low_rank(build, rank=2, **options):
    return build(0.1, rank, dimension_numbers=None, **options)


def kept(old, new, same_method=False):
    saved = by_path(jax.eval_shape(old.init, PARAMS))
    state = jax.eval_shape(new.init, PARAMS)
    found = shared_arrays(saved, state, same_method=same_method)
    assert found.keys() <= by_path(state).keys()
    assert set(found.values()) <= saved.keys()
    assert len(set(found.values())) == len(found)
    return found, by_path(state).keys() - found.keys()


def test_another_rank_keeps_the_embeddings_moments_with_their_count():
    found, new = kept(low_rank(lro.dct_adamw, 2), low_rank(lro.dct_adamw, 3), same_method=True)
    assert {path.rsplit("/", 1)[1] for path in found} == {"count", "embedding"}
    assert all(path == place for path, place in found.items())
    assert {path.split("/")[1] for path in new} == {"matrices"}


def test_another_low_rank_method_keeps_them_too_but_no_subspaces():
    for old, new in ((lro.frugal, lro.galore), (lro.trion, lro.dct_adamw)):
        found, begun = kept(low_rank(old), low_rank(new))
        assert {path.split("/")[1] for path in found} == {"other"}
        assert {path.split("/")[1] for path in begun} == {"matrices"}


def test_the_same_method_with_another_decay_keeps_everything():
    old, new = low_rank(lro.dct_adamw), low_rank(lro.dct_adamw, b1=0.5, weight_decay=0.1)
    _, begun = kept(old, new, same_method=True)
    assert not begun
    assert kept(old, new)[1]  # but not if its columns mean something else


def test_adamw_gives_its_moments_of_embeddings_to_a_low_rank_method():
    found, begun = kept(optax.adamw(0.1), low_rank(lro.trion))
    assert {path.split("/")[1] for path in found} == {"other"}
    assert set(found.values()) == {"0/count", "0/mu/embedding", "0/nu/embedding"}
    assert {path.split("/")[1] for path in begun} == {"matrices"}


def test_a_low_rank_methods_moments_are_not_enough_for_adamw():
    assert not kept(low_rank(lro.trion), optax.adamw(0.1))[0]


def test_moments_of_another_kind_are_not_taken():
    assert not kept(optax.adamw(0.1), optax.lion(0.1))[0]
    assert not kept(optax.adamw(0.1), optax.adamw(0.1, mu_dtype=jnp.bfloat16))[0]
    assert not kept(optax.sgd(0.1, momentum=0.9), optax.adamw(0.1))[0]


def test_leaving_out_spikes_may_be_switched_on_and_off():
    plain = optax.chain(optax.clip_by_global_norm(1.0), low_rank(lro.trion))
    guarded = skip_spikes(plain, 5.0)
    _, begun = kept(plain, guarded, same_method=True)
    assert begun == {
        "optimizer/step",
        *(
            f"statistics/{name}"
            for name in ("skipped", "nonfinite_in_a_row", "num_norms", "mean_norm")
        ),
    }
    assert not kept(guarded, plain, same_method=True)[1]
    assert not kept(guarded, guarded, same_method=True)[1]
