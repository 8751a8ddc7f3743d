from dataclasses import replace

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.k.trials import (
    beyond,
    curve,
    k_trials,
    more_samples,
    of_method,
    past_the_edge,
    pictured,
    recommend,
)
from usseg_ray.sweeps.space import Distribution, SearchSpace
from usseg_ray.trials.trial import Status, Trial

EMPTY = SearchSpace({}, {}, "a file")


def space(kind: str, *values: int) -> SearchSpace:
    return SearchSpace({}, {"num_clusters": Distribution(kind, values)}, "a file")


def trial(k: int, seed: int, miou: float, status: Status = "FINISHED") -> Trial:
    settings = {"num_clusters": k, "seed": seed}
    return Trial(100 * k + seed, "acseg", {}, settings, 1, status, {"unsup_miou": miou})


def counts(space: SearchSpace, classes: int = 0, count: int = 6) -> list[int]:
    _, samples = k_trials(space, {}, classes, count, range(1))
    return [sample["num_clusters"] for sample in samples]


def test_where_k_is_looked_for() -> None:
    assert counts(EMPTY, classes=10) == [5, 7, 9, 11, 15, 20]
    assert counts(EMPTY) == [4, 6, 9, 14, 21, 32]
    assert counts(EMPTY, classes=3, count=9) == [2, 3, 4, 5, 6]
    assert counts(space("choice", 9, 3, 9)) == [3, 9]
    assert counts(space("randint", 3, 12), count=3) == [3, 6, 12]


def test_every_k_has_every_seed() -> None:
    found, samples = k_trials(space("choice", 3, 4), {"seed": 5}, 10, 6, range(5, 7))
    assert [tuple(sample.values()) for sample in samples] == [(3, 5), (4, 5), (3, 6), (4, 6)]
    assert {key: d.values for key, d in found.space.items()} == {
        "num_clusters": (3, 4),
        "seed": (5, 6),
    }


def test_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="leave --set num_clusters out"):
        k_trials(EMPTY, {"num_clusters": 4}, 10, 6, range(3))
    with pytest.raises(UserError, match="--num-samples 2 or more"):
        k_trials(EMPTY, {}, 10, 1, range(3))


def test_the_curve() -> None:
    rows = [trial(4, 0, 30.0), trial(4, 1, 34.0), trial(3, 0, 20.0), trial(9, 0, 90.0, "FAILED")]
    three, four = curve(rows, ["unsup_miou", "label_free.stability"])
    assert (three.k, three.seeds, three.means, three.deviations) == (3, 1, {"unsup_miou": 20}, {})
    assert (four.k, four.seeds, four.means) == (4, 2, {"unsup_miou": 32})
    assert four.deviations["unsup_miou"] == pytest.approx(8**0.5)


def test_a_clear_answer() -> None:
    rows = [trial(k, seed, 40 - abs(k - 6) + 0.1 * seed) for k in (4, 6, 8) for seed in range(3)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    assert (found.k, found.share, found.low, found.high, found.seeds) == (6, 1, 6, 6, 3)


def test_an_unclear_answer_is_a_plateau() -> None:
    scores = {4: (30, 20, 29), 6: (20, 31, 30), 8: (10, 10, 10)}
    rows = [trial(k, s, row[s]) for k, row in scores.items() for s in range(3)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    assert (found.k, found.low, found.high) == (6, 4, 6)
    # Seeds differ by +10, -11 and -1 for K = 4, whose sum is positive in 10 of 27 draws of three.
    assert found.share == pytest.approx(17 / 27, abs=0.05)


def test_a_plateau_ends_where_k_is_told_apart() -> None:
    scores = {4: (9, 12, 11), 6: (1, 2, 1), 8: (10, 12, 12), 10: (11, 11, 13), 12: (10, 13, 11)}
    rows = [trial(k, s, row[s]) for k, row in scores.items() for s in range(3)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    # K = 4 is level too, but not K = 6 between them.
    assert (found.k, found.low, found.high, found.edge) == (10, 8, 12, "")


def test_two_seeds_have_no_share() -> None:
    rows = [trial(k, seed, float(k)) for k in (4, 6) for seed in range(2)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    assert (found.k, found.share, found.tried) == (6, None, (4, 6))


def test_every_k_that_has_all_seeds_is_in_the_draw() -> None:
    rows = [trial(k, seed, float(k)) for k in (4, 6, 9) for seed in range(3)]
    found = recommend([*rows, trial(12, 0, 99.0)], "unsup_miou")
    assert found is not None
    assert (found.k, found.tried, found.left_out) == (9, (4, 6, 9), (12,))


@pytest.mark.parametrize(
    ("ended", "tried", "seeds"),
    [(5, 5, 1), (6, 5, 1), (7, 5, 1), (9, 5, 1), (11, 5, 2), (12, 5, 2), (15, 5, 3), (2, 2, 1)],
)
def test_a_sweep_that_was_cut_off_compares_all_k_that_share_seeds(
    ended: int, tried: int, seeds: int
) -> None:
    rows = [trial(k, seed, float(k + seed)) for seed in range(3) for k in (4, 6, 8, 12, 16)]
    found = recommend(rows[:ended], "unsup_miou")
    assert found is not None
    assert (len(found.tried), found.seeds, found.left_out) == (tried, seeds, ())
    assert found.k == max(found.tried)


def test_the_mean_is_over_the_seeds_that_were_compared() -> None:
    rows = [trial(4, 0, 40.0), trial(4, 1, 90.0), trial(8, 0, 30.0), trial(8, 2, 30.0)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    assert (found.k, found.seeds, found.mean, found.deviation) == (4, 1, 40.0, None)


@pytest.mark.parametrize(
    ("tried", "best", "more"),
    [
        ((4, 6, 9), 6, []),
        ((8, 16, 32), 32, [64, 128]),
        ((8, 16, 32), 8, [2, 4]),
        ((4, 6, 9), 4, [2, 3]),
        ((2, 3, 4), 2, []),
        ((3, 4, 5), 5, [6, 8]),
        ((4, 32), 32, [64, 128]),
    ],
)
def test_the_range_goes_on_past_its_edge(
    tried: tuple[int, ...], best: int, more: list[int]
) -> None:
    rows = [trial(k, seed, -abs(k - best)) for k in tried for seed in range(3)]
    found = recommend(rows, "unsup_miou")
    assert found is not None
    assert beyond(found) == more
    samples = more_samples(found, (0, 1))
    assert [(s["num_clusters"], s["seed"]) for s in samples] == [
        (k, s) for s in (0, 1) for k in more
    ]


def test_trials_past_the_edge_keep_the_names_of_an_earlier_life() -> None:
    more = [("acseg", {"num_clusters": k, "seed": 0}) for k in (16, 32)]
    assert past_the_edge(more, [], 2) == {"trial_002": more[0], "trial_003": more[1]}
    # Another edge then, so other K: their records are not those of these.
    earlier = [replace(trial(2, 0, 1.0), index=i, sample=s) for i, (_, s) in enumerate(more[1:], 2)]
    assert past_the_edge(more, earlier, 2) == {"trial_003": more[0], "trial_002": more[1]}


def test_nothing_to_recommend() -> None:
    assert recommend([], "unsup_miou") is None
    assert recommend([trial(4, 0, 1.0)], "unsup_miou") is None
    assert recommend([trial(4, 0, 1.0), trial(5, 1, 1.0)], "unsup_miou") is None
    assert recommend([trial(4, 0, 1.0), trial(5, 0, 1.0)], "label_free.stability") is None


def test_what_is_alike_for_every_k_recommends_none() -> None:
    rows = [trial(k, seed, 1.0) for k in (4, 6) for seed in range(3)]
    assert recommend(rows, "unsup_miou") is None


def test_one_seed_says_nothing_of_uncertainty() -> None:
    found = recommend([trial(4, 0, 1.0), trial(5, 0, 2.0)], "unsup_miou")
    assert found is not None
    assert (found.k, found.seeds) == (5, 1)


def test_every_k_is_pictured() -> None:
    rows = [trial(k, 0, 1.0) for k in (2, 3, 6)]
    shown = pictured([*rows, trial(3, 1, 1.0), trial(4, 0, 1.0, "FAILED")])
    assert [(k, t.settings["seed"]) for k, t in shown.items()] == [(2, 0), (3, 0), (6, 0)]
    assert of_method(rows, "acseg") == rows
    assert of_method(rows, "stego") == []
