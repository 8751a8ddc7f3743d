from usseg_ray.bench.eval import LIMIT, evaluation_bars


def test_an_evaluation_stands_beside_its_prediction() -> None:
    (bar,) = evaluation_bars(1)
    assert bar.limit == LIMIT
    assert bar.unit == "s/image"
    assert 0 < (bar.reference_value or 0) < 10
    # It includes the prediction, so it cannot be much cheaper; how much dearer is no test's matter.
    assert (bar.ratio or 0) > 0.7
