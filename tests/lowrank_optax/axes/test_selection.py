"""Selection takes the columns that the theory says are best, or samples them as it says."""

import itertools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import subspaces
from drawing import draw

import lowrank_optax as lro
from lowrank_optax import selection

DRAWS = 20_000
RANDOM = {
    "importance": selection.importance(),
    "importance among 4": selection.importance("l2", candidates=4),
    "hybrid": selection.hybrid(),
    "hybrid(1)": selection.hybrid(1, "l2", candidates=6),
    "uniform": selection.uniform(),
}


def sample(select, scores, rank, draws=DRAWS):
    """`draws` independent selections, shape (draws, rank)."""

    @jax.jit
    def drawn(key, scores):
        keys = jax.random.split(key, draws)
        return jax.vmap(lambda key: select(scores, rank, key))(keys)

    return np.asarray(drawn(jax.random.key(0), scores))


def frequencies(samples, members):
    """How often each set of `members` was drawn; every sample must be one of them."""
    counts = {tuple(member): 0 for member in np.asarray(members).tolist()}
    for drawn in samples.tolist():
        counts[tuple(drawn)] += 1
    return np.array(list(counts.values()))


def set_probabilities(weights, rank):
    """Every set of `rank` columns, and its probability under successive weighted draws."""
    weights = np.asarray(weights, np.float64)
    members = list(itertools.combinations(range(len(weights)), rank))
    probabilities = []
    for member in members:
        total = 0.0
        for order in itertools.permutations(member):
            before = np.cumsum([0.0, *weights[list(order[:-1])]])
            total += np.prod(weights[list(order)] / (weights.sum() - before))
        probabilities.append(total)
    return members, np.array(probabilities)


@pytest.mark.parametrize(("n", "m", "rank"), [(1, 4, 1), (7, 1, 3), (7, 6, 4)])
def test_top_by_l2_is_the_best_subset_of_columns(n, m, rank):
    top = jax.jit(lambda S: selection.Top("l2")(selection.column_scores(S, "l2"), rank, None))
    for seed in range(10):
        S = draw((n, m), seed)
        energy = np.sum(np.asarray(S, np.float64) ** 2, axis=1)
        best = max(sum(energy[list(c)]) for c in itertools.combinations(range(n), rank))
        np.testing.assert_allclose(energy[np.asarray(top(S))].sum(), best, rtol=1e-5)


@pytest.mark.parametrize(("n", "rank"), [(2, 1), (7, 7), (50, 20)])
def test_indices_are_ascending_distinct_int32_and_batched(n, rank):
    top = jax.jit(lambda scores: selection.Top()(scores, rank, None))
    for seed in range(10):
        scores = np.random.default_rng(seed).integers(0, 3, size=(2, 3, n)).astype(np.float32)
        indices = np.asarray(top(scores))
        assert indices.shape == (2, 3, rank)
        assert indices.dtype == np.int32
        assert rank == 1 or np.diff(indices).min() > 0
        kept = np.take_along_axis(scores, indices, -1)
        np.testing.assert_array_equal(np.sort(kept), np.sort(scores)[..., n - rank :])


def test_l1_and_l2_rank_differently_where_they_should():
    S = jnp.array([[1.0, 1.0], [1.5, 0.0]])
    assert selection.Top("l1")(selection.column_scores(S, "l1"), 1, None).tolist() == [0]
    assert selection.Top("l2")(selection.column_scores(S, "l2"), 1, None).tolist() == [1]


def test_an_unknown_selection_or_norm_is_explained():
    with pytest.raises(ValueError, match="select='best' is unknown; use one of"):
        selection.resolve("best")
    with pytest.raises(ValueError, match="norm='l3' is unknown; use one of"):
        selection.Top("l3")


def test_importance_sampling_matches_exact_enumeration():
    _, arrays = golden.load("i3s_sampling")
    scores = jnp.asarray(arrays["s"], jnp.float32)
    members, expected = arrays["set_members"], arrays["set_prob"].astype(np.float64)
    for select, given_scores in (
        (selection.importance(), scores[:8]),
        (selection.importance(candidates=8), scores),
    ):
        samples = sample(select, given_scores, 4)
        observed = frequencies(samples, np.sort(members, axis=-1))
        assert scipy.stats.chisquare(observed, DRAWS * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(("count", "field"), [(8, "inclusion_prob"), (16, "inclusion_prob_all")])
def test_importance_sampling_includes_each_singular_vector_as_often_as_it_should(count, field):
    _, arrays = golden.load("i3s_sampling")
    samples = sample(selection.importance(), jnp.asarray(arrays["s"][:count], jnp.float32), 4)
    observed = np.bincount(samples.ravel(), minlength=count)
    # Each count is binomial.
    for successes, probability in zip(observed, arrays[field].astype(np.float64), strict=True):
        assert scipy.stats.binomtest(int(successes), DRAWS, probability).pvalue > 1e-3


@pytest.mark.product(every=9)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_importance_sampling_of_dct_columns_is_in_proportion_to_their_norms(norm):
    G = draw((6, 9), 1) * jnp.array([1.0, 1, 4, 1, 1, 9])[:, None]
    projection = lro.projections.dct(3, selection.importance(norm))
    S = projection.analyze(G, G.dtype)
    select = lambda S, rank, key: subspaces.chosen(projection, S, rank, key)
    samples = sample(select, S, 3)
    norms = np.linalg.norm(np.asarray(S, np.float64), ord={"l1": 1, "l2": 2}[norm], axis=1)
    members, expected = set_probabilities(norms, 3)
    assert scipy.stats.chisquare(frequencies(samples, members), DRAWS * expected).pvalue > 1e-3
    members, wrong = set_probabilities(norms**2, 3)
    assert scipy.stats.chisquare(frequencies(samples, members), DRAWS * wrong).pvalue < 1e-3


def test_uniform_draws_every_set_equally_often():
    members = list(itertools.combinations(range(6), 3))
    observed = frequencies(sample(selection.uniform(), jnp.arange(6.0), 3), members)
    assert scipy.stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize(
    ("select", "others"),
    [
        (selection.hybrid(2), 5),
        (selection.hybrid(), 5),
        (selection.hybrid(0.3), 5),
        (selection.hybrid(2, candidates=4), 2),
    ],
)
def test_hybrid_takes_the_best_and_the_rest_uniformly(select, others):
    scores = jnp.array([0.0, 9.0, 3.0, 1.0, 8.0, 2.0, 0.5])
    samples = sample(select, scores, 4)
    assert ((samples == 1).any(-1) & (samples == 4).any(-1)).all()
    rest = np.array([2, 5, 3, 6, 0])[:others]
    counts = np.bincount(samples.ravel(), minlength=7)
    assert counts[rest].sum() == 2 * DRAWS
    # For every column the chance is 2 of the others.
    for count in counts[rest]:
        p = 2 / others
        assert (count == DRAWS) if p == 1 else scipy.stats.binomtest(count, DRAWS, p).pvalue > 1e-3


@pytest.mark.parametrize(("r0", "best"), [(0.07, 7), (0.55, 55), (np.int64(3), 3)])
def test_a_fraction_of_the_best_is_rounded_as_it_is_written(r0, best):
    scores = jnp.arange(1000.0)
    chosen = selection.hybrid(r0, candidates=1000)(scores, 100, jax.random.key(0))
    top = np.asarray(chosen) >= 1000 - best
    assert top.sum() == best
    assert (np.asarray(chosen) < 1000 - best).sum() == 100 - best
    assert 1000 - best - 1 not in np.asarray(chosen)


def test_hybrid_of_nothing_but_the_best_is_top_and_rank_one_takes_the_best():
    scores = jnp.array([0.5, 3.0, 9.0, 1.0])
    for r0 in (3, 7, 1.0):
        assert selection.hybrid(r0)(scores, 3, jax.random.key(0)).tolist() == [1, 2, 3]
    assert selection.hybrid()(scores, 1, jax.random.key(0)).tolist() == [2]


@pytest.mark.parametrize("rank", [1, 3, 5, 7])
def test_columns_of_score_zero_are_drawn_only_when_no_other_is_left(rank):
    scores = jnp.array([0.0, 1e-30, 5.0, 0.0, 1e30, 1.0, 0.0])
    samples = sample(selection.importance(), scores, rank, draws=200)
    positive = np.isin(samples, [1, 2, 4, 5]).sum(-1)
    assert (positive == min(rank, 4)).all()
    if rank == 5:
        assert set(samples.ravel()) == set(range(7))  # and then each of them may be
    assert (np.diff(samples) > 0).all()


@pytest.mark.product(every=9)
@pytest.mark.parametrize("name", RANDOM)
def test_random_selections_are_ascending_distinct_and_in_range_whatever_the_scores(name):
    select = jax.jit(RANDOM[name], static_argnums=1)
    for rank, bad in itertools.product((1, 3, 7), (0.0, np.nan, np.inf)):
        scores = np.abs(np.random.default_rng(1).normal(size=(2, 3, 7))).astype(np.float32)
        scores[0] = bad
        indices = np.asarray(select(scores, rank, jax.random.key(2)))
        assert (indices.shape, indices.dtype) == ((2, 3, rank), np.int32)
        assert (np.diff(indices) > 0).all()
        assert indices.min() >= 0
        assert indices.max() < 7


@pytest.mark.parametrize("name", RANDOM)
def test_random_selections_follow_their_key_and_batches_are_independent(name):
    scores = jnp.ones((50, 7))
    select = jax.jit(lambda key: RANDOM[name](scores, 2, key))
    first, same, other = (np.asarray(select(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) > 3


def test_a_learned_basis_is_asked_for_as_many_columns_as_the_selection_needs():
    assert selection.Top().candidates(3, 8) == 3
    assert selection.Top().candidates(9, 8) == 9
    assert selection.uniform().candidates(3, 8) == 8
    assert selection.importance().candidates(9, 8) == 9
    assert selection.importance(candidates=5).candidates(3, 8) == 5
    assert selection.hybrid(candidates=5).candidates(3, 4) == 4
    assert selection.hybrid(candidates=2).candidates(3, 8) == 3


def test_names_stand_for_selections():
    assert selection.resolve("l2") == selection.Top("l2")
    assert selection.resolve("importance") == selection.importance("l1")
    assert selection.resolve("hybrid") == selection.hybrid(0.5)
    assert selection.resolve("uniform") == selection.uniform()
    assert selection.resolve(selection.hybrid(3)) == selection.hybrid(3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: selection.importance("l3"), "norm='l3' is unknown; use one of"),
        (lambda: selection.importance(candidates=0), "candidates=0 must be at least 1"),
        (lambda: selection.hybrid(1, candidates=2.5), "candidates=2.5 must be an int"),
        (lambda: selection.hybrid(-1), "r0=-1 must be the number of best columns"),
        (lambda: selection.hybrid(1.5), "r0=1.5 must be .* or a fraction in"),
        (
            lambda: selection.uniform()(jnp.ones(3), 1, None),
            "select='uniform' draws at random: pass a key",
        ),
    ],
)
def test_bad_arguments_of_random_selections_are_explained(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()
