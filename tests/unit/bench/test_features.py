from usseg_ray.bench.features import BAR_MB_S, reading_bars


def test_reading_stands_beside_a_copy_and_the_bar() -> None:
    ordered, mixed, bar, write = reading_bars(shards=1, rounds=2)
    assert (bar.value, bar.reference_value) == (mixed.value, BAR_MB_S)
    assert ordered.reference_value == mixed.reference_value
    # A mapped file is not faster than memory but for luck; how much slower is no test's matter.
    assert 0 < (mixed.ratio or 0) < 3
    assert 0 < (write.ratio or 0) < 3
    assert (bar.limit, bar.more_is_better) == (1.0, True)
