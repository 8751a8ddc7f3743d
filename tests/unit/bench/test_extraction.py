"""Extraction stands beside a bare loop and a product; how fast is no matter of a test."""

from usseg_ray.bench.extraction import FORWARD_SHARE, extraction_bars


def test_extraction_stands_beside_a_loop_and_the_peak() -> None:
    rows, flops, *_ = extraction_bars(4, "test_vit")
    assert (rows.unit, rows.limit) == ("rows/s", FORWARD_SHARE)
    assert (flops.unit, flops.limit) == ("TFLOP/s", None)
    assert rows.reference_value
    # It includes the forward pass, so luck alone makes it faster.
    assert 0 < rows.value < 2 * rows.reference_value
    assert 0 < (flops.ratio or 0) < 1
