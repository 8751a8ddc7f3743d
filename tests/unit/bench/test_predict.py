from usseg_ray.bench.predict import LIMIT, prediction_bars


def test_a_worker_stands_beside_a_bare_loop() -> None:
    (bar,) = prediction_bars(2)
    assert (bar.benchmark, bar.unit, bar.limit) == ("predict", "images/s", LIMIT)
    assert bar.reference_value is not None
    assert 0 < bar.value < float("inf")
    assert 0 < bar.reference_value < float("inf")
