"""Chance, closed forms, intervals and tests, against draws, enumeration and SciPy."""

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from mindreel.scoring import statistics as s

FIXTURE = Path(__file__).parents[2] / "data" / "n_way_top_k_acc" / "data.npz"


@pytest.mark.parametrize("case", range(9))
def test_released_sampling_is_what_the_closed_form_averages(case):
    """The released function's draws, judged by `beating`, give its accuracy; the closed form is their expectation."""
    with np.load(FIXTURE) as data:
        p, ids, args, picks, accuracy = (data[f"c{case}/{k}"] for k in ("p", "ids", "args", "picks", "acc"))
        ties_win = data[f"c{case}/ties_win"]
    ways, trials, top_k, _ = args
    best = p[ids].max()
    released = ((p[picks] >= best).sum(1) < top_k).mean()  # ties count against the true classes
    assert released == accuracy
    beaten_by = s.beating(p[None], ids[None])
    candidates = len(p) - len(ids)
    assert beaten_by[0] == sum(p[c] >= best for c in range(len(p)) if c not in ids)
    expected = s.nway_accuracy(beaten_by, candidates, ways, top_k)[0]
    assert binomtest(round(float(accuracy) * trials), trials, min(1, max(0, expected))).pvalue > 0.001
    if case in (6, 7):  # heavily tied: ties in favour would be far off
        assert binomtest(round(float(ties_win) * trials), trials, expected).pvalue < 1e-6


def test_closed_form_against_every_possible_draw():
    logits = np.array([[0.3, 2.0, 1.0, 1.5, 1.5, -1.0, 4.0]], np.float32)
    true = np.array([[0, 3]])  # best 1.5; of the candidates 1, 2, 4, 5, 6 those with 2.0, 1.5 (a tie) and 4.0 beat it
    beaten_by = s.beating(logits, true)
    assert beaten_by.tolist() == [3]
    for ways in range(2, 6):
        for top_k in range(1, ways):
            draws = list(combinations([1, 2, 4, 5, 6], ways - 1))
            expected = np.mean([sum(logits[0, c] >= 1.5 for c in draw) < top_k for draw in draws])
            np.testing.assert_allclose(s.nway_accuracy(beaten_by, 5, ways, top_k), [expected], rtol=1e-12, atol=1e-12)


def random_cases(rng):
    """100 kinds of case with 100 rows each; most logits are rounded to few values, so that they tie."""
    for _ in range(100):
        classes, true_classes = int(rng.integers(10, 80)), int(rng.integers(1, 4))
        ways = int(rng.integers(2, classes - true_classes))
        top_k = int(rng.integers(1, min(ways, 5)))
        logits = np.round(rng.standard_normal((100, classes)), int(rng.integers(0, 3))).astype(np.float32)
        true = np.argsort(rng.random((100, classes)), 1)[:, :true_classes]
        yield logits, true, classes - true_classes, ways, top_k


def test_sampled_accuracy_lies_within_its_error_of_the_closed_form_in_10000_cases():
    rng, trials, deviations, tied = np.random.default_rng(0), 100, [], 0
    for logits, true, candidates, ways, top_k in random_cases(rng):
        beaten_by = s.beating(logits, true)
        tied += sum(len(np.unique(row)) < len(row) for row in logits)
        exact = s.nway_accuracy(beaten_by, candidates, ways, top_k)
        sampled = s.nway_sampled(beaten_by, candidates, ways, top_k, trials, rng)
        error = s.sampling_error(exact, trials)
        certain = error < 1e-6
        np.testing.assert_allclose(sampled[certain], exact[certain], atol=1e-6)
        deviations.append((sampled - exact) / np.where(certain, np.inf, error))
    deviations = np.concatenate(deviations)
    assert deviations.size == 10_000 and tied > 5_000
    varying = deviations[deviations != 0]
    assert abs(varying.mean()) < 4 / np.sqrt(varying.size)
    assert varying.std() == pytest.approx(1, abs=0.05)
    assert (np.abs(deviations) > 2).mean() < 0.06


def test_sampled_accuracy_is_that_of_drawn_classes():
    """The plain loop of published code: draw classes, look whether a true one is among the first K."""
    rng, hits, expected = np.random.default_rng(1), 0, 0.0
    for logits, true, candidates, ways, top_k in list(random_cases(rng))[:20]:
        expected += s.nway_accuracy(s.beating(logits[:5], true[:5]), candidates, ways, top_k).sum()
        for row, own in zip(logits[:5], true[:5], strict=True):
            others = np.setdiff1d(np.arange(len(row)), own)
            for _ in range(40):
                drawn = rng.choice(others, ways - 1, replace=False)
                hits += (row[drawn] >= row[own].max()).sum() < top_k
    assert hits / 4000 == pytest.approx(expected / 100, abs=4 * 0.5 / np.sqrt(4000))


def test_half_precision_is_not_needed_to_rank():
    logits = np.array([[10.0, 10.0001, 0.0]], np.float32)
    assert s.beating(logits, np.array([[1]])).tolist() == [0]
    assert s.beating(logits.astype(np.float16), np.array([[1]])).tolist() == [1]  # the tie that float32 avoids


def test_chance_is_what_random_logits_reach():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((60_000, 60)).astype(np.float32)
    true = np.broadcast_to([3, 4, 50], (len(logits), 3))
    for count in (1, 3):
        beaten_by = s.beating(logits, true[:, :count])
        for ways, top_k in ((2, 1), (50, 1), (50, 5)):
            reached = s.nway_accuracy(beaten_by, 60 - count, ways, top_k).mean()
            assert reached == pytest.approx(s.nway_chance(count, ways, top_k), abs=0.004)
    assert s.nway_chance(3, 2, 1) == pytest.approx(0.75)
    assert s.nway_chance(3, 50, 1) == pytest.approx(3 / 52)
    assert s.nway_chance(1, 50, 5) == pytest.approx(5 / 50)


def test_sampling_error_is_apart_from_the_spread_over_clips():
    """The variance of sampled accuracies over clips is that of the expected ones plus the trials' own."""
    rng = np.random.default_rng(0)
    beaten_by = rng.integers(0, 98, 20_000)
    exact = s.nway_accuracy(beaten_by, 97, 10, 1)
    sampled = s.nway_sampled(beaten_by, 97, 10, 1, 5, rng)
    noise = (s.sampling_error(exact, 5) ** 2).mean()
    assert sampled.var() == pytest.approx(exact.var() + noise, rel=0.03)
    assert sampled.var() > 1.1 * exact.var()


def test_identification_ranks_by_correlation_and_ties_count_against():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((7, 12))
    assert s.identification_ranks(3 * true + 5, true).tolist() == [1] * 7  # scale and offset do not matter
    made = rng.standard_normal((7, 12))
    similarity = np.corrcoef(made, true)[:7, 7:]
    expected = [1 + sum(row > row[n]) for n, row in enumerate(similarity)]
    assert s.identification_ranks(made, true).tolist() == expected
    twins = np.repeat(true[:3], 2, 0)
    assert s.identification_ranks(twins, twins).tolist() == [2] * 6
    assert s.identification_ranks(np.zeros((4, 12)), true[:4]).tolist() == [4] * 4  # says nothing


def test_identification_chance_is_what_noise_reaches():
    rng = np.random.default_rng(0)
    ranks = np.concatenate(
        [s.identification_ranks(*rng.standard_normal((2, 40, 60))) for _ in range(200)]  # 8,000 clips
    )
    for first in (1, 5):
        assert (ranks <= first).mean() == pytest.approx(s.identification_chance(40, first), abs=0.012)
    assert np.median(ranks) == pytest.approx(s.rank_chance(40), abs=1)
    assert s.identification_chance(3, 5) == 1


def test_mismatched_partners_are_of_other_scenes_and_nobody_is_used_twice():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = np.repeat(np.arange(9), rng.integers(1, 5, 9))
        partner = s.mismatched(scene, rng)
        assert (scene[partner] != scene).all() and len(set(partner)) == len(scene)
    assert s.mismatched(np.array([0, 0, 0, 1]), rng) is None
    assert s.mismatched(np.array([0, 0, 1, 1]), rng).tolist() in (
        [2, 3, 0, 1],
        [3, 2, 1, 0],
        [2, 3, 1, 0],
        [3, 2, 0, 1],
    )


def test_pairwise_similarity_is_that_of_a_plain_loop_and_copies_of_a_scene_make_no_pairs():
    rng = np.random.default_rng(0)
    scene, vectors = np.array([4, 4, 5, 7, 7, 7]), rng.standard_normal((6, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [np.mean([unit[n] @ unit[m] for m in range(6) if scene[m] != scene[n]]) for n in range(6)]
    np.testing.assert_allclose(s.pairwise_similarity(5 * vectors, scene), expected)
    weights = np.array([[1, 1, 1], [2, 1, 0], [1, 0, 2], [3, 0, 0]])
    found = s.pairwise_means(s.between_scenes(vectors, scene), np.array([2, 1, 3]), weights)
    assert found[0] == pytest.approx(np.mean(expected)) == found[3]  # one scene alone says nothing
    for row, value in zip(weights[1:3], found[1:3], strict=True):
        drawn = np.repeat(np.arange(6), row[np.unique(scene, return_inverse=True)[1]])
        expected = [np.mean([unit[n] @ unit[m] for m in drawn if scene[m] != scene[n]]) for n in drawn]
        assert value == pytest.approx(np.mean(expected))


def test_interval_of_pairwise_similarity_knows_that_both_clips_of_a_pair_were_drawn():
    """Scenes as random vectors around a common one: the interval of the mean cosine covers its expectation."""
    rng, count = np.random.default_rng(0), 40
    many = 1 + rng.standard_normal((50_000, 30))
    truth = np.square((many / np.linalg.norm(many, axis=1, keepdims=True)).mean(0)).sum()
    scene, covered, naive = np.arange(count), 0, 0
    for _ in range(200):
        vectors, weights = 1 + rng.standard_normal((count, 30)), s.draw_blocks(scene, 200, rng)
        low, high = s.interval(s.pairwise_means(s.between_scenes(vectors, scene), np.ones(count, int), weights))
        covered += low <= truth <= high
        low, high = s.interval(s.weighted_means(s.pairwise_similarity(vectors, scene)[:, None], weights)[:, 0])
        naive += low <= truth <= high
    assert 0.89 < covered / 200 < 0.985 and naive / 200 < 0.8


def test_bootstrap_deviation_is_that_of_the_block_means():
    rng = np.random.default_rng(0)
    level = rng.standard_normal(200)
    blocks = np.repeat(np.arange(200), 5)
    values = np.stack([level[blocks], level[blocks] + 1], 1)  # clips of a block are copies
    means = s.block_bootstrap(values, blocks, 4000, rng)
    assert means.shape == (4000, 2)
    assert means[:, 0].mean() == pytest.approx(level.mean(), abs=0.01)
    assert means[:, 0].std() == pytest.approx(level.std() / np.sqrt(200), rel=0.05)  # not / sqrt(1000)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)  # columns share the draws


def test_bootstrap_weights_blocks_by_their_length():
    values, blocks = np.array([[0.0], [1.0], [1.0], [1.0]]), np.array([7, 9, 9, 9])
    means = s.block_bootstrap(values, blocks, 2000, np.random.default_rng(0))[:, 0]
    assert set(np.round(means, 6)) == {0.0, 0.75, 1.0}


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        level = rng.standard_normal(60)
        values = np.repeat(level, 3)[:, None] + 0.3 * rng.standard_normal((180, 1))
        low, high = s.interval(s.block_bootstrap(values, np.repeat(np.arange(60), 3), 200, rng))
        covered += low[0] <= 0 <= high[0]
    assert 0.89 < covered / 200 < 0.985


def test_weighted_median_is_that_of_the_repeated_values():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (9, 2)).astype(float)
    weights = rng.integers(0, 4, (20, 9)) + np.eye(20, 9, dtype=int)
    expected = [[np.median(np.repeat(column, row)) for column in values.T] for row in weights]
    np.testing.assert_array_equal(s.weighted_medians(values, weights), expected)


def test_one_sided_p_counts_what_contradicts():
    differences = np.array([[1.0, -1], [2, -1], [0, -1], [3, -1]])
    np.testing.assert_allclose(s.one_sided_p(differences), [2 / 5, 1.0])


def test_t_test_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 40), rng.normal(0, 1, 50)
    pooled = (39 * a.var(ddof=1) + 49 * b.var(ddof=1)) / 88
    t = (a.mean() - b.mean()) / np.sqrt(pooled * (1 / 40 + 1 / 50))
    found = s.two_sample_t(a, b)
    np.testing.assert_allclose(found, [t, 2 * stats.t.sf(abs(t), 88)])
    assert np.isnan(s.two_sample_t(np.ones(3), np.ones(3))).all()


def test_permutation_tries_every_sign_of_few_scenes():
    difference, blocks = np.array([1.0, 2.0, 0.5, -0.25]), np.array([3, 3, 5, 8])
    sums = [3.0, 0.5, -0.25]
    totals = [abs(sum(sign * x for sign, x in zip(signs, sums, strict=True))) for signs in product((-1, 1), repeat=3)]
    expected = np.mean([total >= 3.25 for total in totals])
    assert s.paired_permutation(difference, blocks, 10, np.random.default_rng(0)) == pytest.approx(expected)
    assert s.paired_permutation(np.zeros(4), blocks, 10, np.random.default_rng(0)) == 1


def test_permutation_agrees_with_scipy_and_respects_scenes():
    rng = np.random.default_rng(0)
    level = rng.normal(0.35, 1, 30)
    drawn = s.paired_permutation(level, np.arange(30), 4000, rng)
    reference = stats.permutation_test(
        (level,), np.mean, permutation_type="samples", n_resamples=4000, rng=np.random.default_rng(1)
    )
    assert drawn == pytest.approx(reference.pvalue, abs=0.03)
    copies = s.paired_permutation(np.repeat(level, 20), np.repeat(np.arange(30), 20), 4000, rng)
    assert copies == pytest.approx(drawn, abs=0.03)  # twenty copies of a clip are no more evidence than one


def test_permutation_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    p = [s.paired_permutation(rng.standard_normal(20), np.arange(20), 200, rng) for _ in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_is_its_definition_and_leaves_gaps():
    assert s.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert s.holm(np.array([0.5, 0.9])).tolist() == [1, 1]
    found = s.holm(np.array([np.nan, 0.01, 0.02]))
    assert np.isnan(found[0]) and found[1:].tolist() == pytest.approx([0.02, 0.02])
    assert s.holm(np.array([])).size == 0
    p = np.random.default_rng(0).random(12) ** 3
    sorted_p = np.sort(p)
    reference = [min(1, max((12 - j) * sorted_p[j] for j in range(k + 1))) for k in range(12)]
    np.testing.assert_allclose(np.sort(s.holm(p)), reference)


def test_errors_and_ranks_are_better_when_smaller():
    assert all(map(s.lower_is_better, ("mse", "epe_ilk", "identify_clip_rank")))
    assert not any(map(s.lower_is_better, ("psnr", "ssim_rgb_uniform7", "nway_image_2way", "identify_clip_top1")))
