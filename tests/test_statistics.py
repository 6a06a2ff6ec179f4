"""Statistics: cases worked out by hand, and intervals that cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmguard import statistics


def test_wilson_as_worked_out_by_hand() -> None:
    # 7 of 10, z = 1.959964: (0.7 + 0.19207 ± 1.959964·√(0.021 + 0.0096036)) / 1.3841459
    found = statistics.wilson(7, 10)
    assert found.value == 0.7
    assert found.low == pytest.approx(0.396778, abs=1e-5)
    assert found.high == pytest.approx(0.892209, abs=1e-5)


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.277533), (10, 0.722467, 1.0)])
def test_wilson_at_the_ends(hits: int, low: float, high: float) -> None:
    found = statistics.wilson(hits, 10)
    assert found.low == pytest.approx(low, abs=1e-5)
    assert found.high == pytest.approx(high, abs=1e-5)


def test_no_rows_have_no_share() -> None:
    found = statistics.wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0, 1, 0)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 1 lost and 9 gained of 10 that changed: 2·(C(10,0) + C(10,1)) / 2^10 = 22/1024
    assert statistics.mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert statistics.mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert statistics.mcnemar(5, 5) == 1.0
    assert statistics.mcnemar(0, 0) == 1.0


def test_holm_as_worked_out_by_hand() -> None:
    # sorted 0.01·4 = 0.04, 0.02·3 = 0.06, 0.03·2 = 0.06, 0.5·1 = 0.5; never smaller than the one before
    assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert statistics.holm([]) == []
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_kappa_as_worked_out_by_hand() -> None:
    # 20 both yes, 15 both no, 5 and 10 apart: 0.7 observed, 0.5·0.6 + 0.5·0.4 = 0.5 by chance: κ = 0.4
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert statistics.kappa(first, second) == pytest.approx(0.4)
    assert statistics.kappa([True, False], [True, False]) == 1.0
    assert math.isnan(statistics.kappa([True, True], [True, True]))
    assert math.isnan(statistics.kappa([], []))


def test_detectable_difference_as_worked_out_by_hand() -> None:
    # (1.959964 + 0.841621)·0.5/√167
    assert statistics.detectable(0.5, 167) == pytest.approx(0.108396, abs=1e-5)
    assert statistics.detectable(0.5, 1) == math.inf


def test_a_group_counts_once_however_many_rows_it_has() -> None:
    rows = [1.0, 0.0] * 20
    alone = statistics.mean(rows, [str(number) for number in range(40)])
    tenfold = statistics.mean(rows * 10, [str(number) for number in range(40)] * 10)
    assert tenfold.value == alone.value == 0.5
    assert (tenfold.n, tenfold.groups) == (400, 40)
    assert tenfold.high - tenfold.low == pytest.approx(alone.high - alone.low, rel=0.02)


def test_shares_of_groups_are_not_narrower_than_their_groups_allow() -> None:
    found = statistics.share([True] * 100, [str(number // 10) for number in range(100)])
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.722467, abs=1e-5)  # ten groups, not a hundred rows


def test_what_is_all_alike_has_no_interval_and_the_p_of_a_sign_test() -> None:
    found = statistics.mean([3.0] * 12, [str(number) for number in range(12)])
    assert found.value == 3.0
    assert math.isnan(found.low)
    keys = [str(number) for number in range(12)]
    moved = statistics.compare_means(dict.fromkeys(keys, 1.0), dict.fromkeys(keys, 2.0), {key: key for key in keys})
    assert moved is not None
    assert moved.p == pytest.approx(2 / 2**12)


def test_paired_differences() -> None:
    keys = [str(number) for number in range(40)]
    groups = {key: key for key in keys}
    before = {key: number < 10 for number, key in enumerate(keys)}
    after = {key: number < 25 for number, key in enumerate(keys)}
    found = statistics.compare_shares(before, after, groups)
    assert found is not None
    assert found.value == pytest.approx(15 / 40)
    assert found.p == pytest.approx(2 / 2**15)
    assert found.test == "McNemar, exact"
    assert found.low < 15 / 40 < found.high


def test_only_samples_that_both_have_are_compared() -> None:
    found = statistics.compare_means({"a": 1, "b": 2, "c": 9}, {"a": 2, "b": 3, "d": 0}, {key: key for key in "abcd"})
    assert found is not None
    assert (found.value, found.n) == (1.0, 2)
    assert statistics.compare_means({"a": 1}, {"b": 1}, {"a": "a", "b": "b"}) is None


def test_grouped_shares_are_compared_by_group() -> None:
    keys = [str(number) for number in range(40)]
    groups = {key: str(number // 20) for number, key in enumerate(keys)}
    found = statistics.compare_shares(dict.fromkeys(keys, False), dict.fromkeys(keys, True), groups)
    assert found is not None
    assert found.test == "paired bootstrap over groups"


def test_headline_in_both_readings() -> None:
    before = {"weak": {"a": 2.0, "b": 2.0}, "strong": {"a": 8.0, "b": 8.0}}
    after = {"weak": {"a": 4.0, "b": 4.0}, "strong": {"a": 8.0, "b": 8.0}}
    found = statistics.headline(before, after, {"a": "a", "b": "b"})
    assert found is not None
    assert found.ratio_of_means.value == pytest.approx(0.2)  # 6 / 5
    assert found.mean_of_ratios.value == pytest.approx(0.5)  # (2 + 1) / 2
    assert {target: each.value for target, each in found.per_target.items()} == pytest.approx(
        {"weak": 1.0, "strong": 0.0}
    )


def test_no_headline_of_nothing() -> None:
    assert statistics.headline({"t": {"a": 0.0, "b": 0.0}}, {"t": {"a": 1.0, "b": 1.0}}, {"a": "a", "b": "b"}) is None
    assert statistics.headline({"t": {"a": 1.0}}, {"t": {"a": 1.0}}, {"a": "a"}) is None


@pytest.mark.parametrize(("groups", "size"), [(30, 1), (167, 1), (60, 3)])
def test_intervals_of_means_cover(groups: int, size: int) -> None:
    """Of 400 worlds whose mean we know, about 95 % of the intervals hold it: rows of a group share most of what they are."""
    rng = np.random.default_rng(7)
    labels = [str(number) for number in range(groups) for _ in range(size)]
    held = 0
    for world in range(400):
        shared = np.repeat(rng.beta(2, 1, groups), size)  # mean 2/3, skewed as safety scores are
        rows = 10 * (0.8 * shared + 0.2 * rng.beta(2, 1, groups * size))
        found = statistics.mean(list(rows), labels, seed=world)
        held += found.low <= 20 / 3 <= found.high
    # 400 draws at 95 % stray by 1.1 %: 92 % is 2.7 standard errors below, 98 % as many above
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize("true", [0.05, 0.5, 0.93])
def test_wilson_covers(true: float) -> None:
    rng = np.random.default_rng(3)
    hits = rng.binomial(167, true, size=2_000)
    held = np.mean([(found := statistics.wilson(int(hit), 167)).low <= true <= found.high for hit in hits])
    assert 0.935 <= held <= 0.975


def test_tests_of_nothing_find_nothing_too_often() -> None:
    """Two defences that are alike differ "significantly" in about 5 % of worlds."""
    rng = np.random.default_rng(11)
    keys = [str(number) for number in range(60)]
    groups = {key: str(number // 2) for number, key in enumerate(keys)}
    false_alarms = 0
    for world in range(400):
        before = dict(zip(keys, rng.beta(2, 1, 60), strict=True))
        after = dict(zip(keys, rng.beta(2, 1, 60), strict=True))
        found = statistics.compare_means(before, after, groups, seed=world)
        assert found is not None
        false_alarms += found.p < 0.05
    assert false_alarms / 400 <= 0.085


def test_clustered_shares_stay_within_0_and_1() -> None:
    found = statistics.share([True] * 19 + [False], [str(number // 4) for number in range(20)])
    assert (found.value, found.n, found.groups, found.method) == (0.95, 20, 5, "Wilson, clustered")
    assert 0 <= found.low < 0.95 < found.high <= 1
    alone = statistics.share([True, False, True], ["one"] * 3)
    assert math.isnan(alone.low)


@pytest.mark.parametrize(("true", "groups"), [(0.5, 30), (0.9, 30), (0.1, 12)])
def test_clustered_shares_cover(true: float, groups: int) -> None:
    """Groups of three whose rows share much of what they are: about 95 % of the intervals hold the share, also near the ends."""
    rng = np.random.default_rng(5)
    labels = [str(number) for number in range(groups) for _ in range(3)]
    held = 0
    for _ in range(1_000):
        own = np.repeat(rng.beta(2 * true, 2 * (1 - true), groups), 3)
        found = statistics.share([bool(hit) for hit in rng.random(3 * groups) < own], labels)
        held += found.low <= true <= found.high
    assert held / 1_000 >= 0.93


def test_a_headline_of_one_group_has_no_interval() -> None:
    found = statistics.headline({"t": {"a": 1.0, "b": 1.0}}, {"t": {"a": 2.0, "b": 1.0}}, {"a": "g", "b": "g"})
    assert found is not None
    assert found.ratio_of_means.value == pytest.approx(0.5)
    assert math.isnan(found.ratio_of_means.low)


def test_a_target_at_0_has_no_ratio_and_hides_no_other() -> None:
    before = {"zero": {"a": 0.0, "b": 0.0}, "some": {"a": 1.0, "b": 1.0, "c": 1.0}}
    after = {"zero": {"a": 1.0, "b": 1.0}, "some": {"a": 1.0, "b": 2.0}}
    found = statistics.headline(before, after, {key: key for key in "abc"})
    assert found is not None
    assert found.without_ratio == ("zero",)
    assert found.ratio_of_means.value == pytest.approx(1.5)  # 5 / 2
    assert found.mean_of_ratios.value == pytest.approx(0.5)
    assert (found.ratio_of_means.n, found.asked) == (2, 3)


def test_nothing_that_changed_does_not_make_everything_detectable() -> None:
    keys = [str(number) for number in range(40)]
    alike = dict.fromkeys(keys, True)
    found = statistics.compare_shares(alike, alike, {key: key for key in keys})
    assert found is not None
    # Wilson's upper end of 0 of 40 is 0.087625: 2.801585·√0.087625/√40
    assert found.detectable == pytest.approx(0.13113, abs=1e-4)
    scores = statistics.compare_means(dict.fromkeys(keys, 5.0), dict.fromkeys(keys, 5.0), {key: key for key in keys})
    assert scores is not None
    assert scores.detectable == math.inf
