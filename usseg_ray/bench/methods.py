"""What the methods' losses cost, held to the bars of their design: CPU time and peak memory.

Off an image's path. The measure of time is a product of matrices, which every machine does about as
well as it can: eight N x N x 512 products took the machine on which the official code was timed
15.6 CPU seconds, and eight times what one takes here scales its record to this machine. Where our
rewrite of the official form, timed in the same run, stays within 1.3 times the scaled record in
either direction, the rewrite is the reference; else the scaled record is, and the table says how
far off the rewrite was.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from usseg_ray.bench import works
from usseg_ray.bench.meter import (
    Measure,
    Work,
    apart,
    cpu_seconds,
    peak_above_inputs,
    return_what_is_freed,
)
from usseg_ray.bench.works import ConceptSteps, Forms, Sizes

_PRODUCTS, _PRODUCTS_RECORD = 8, 15.6
_CONTRASTIVE_RECORD = 35.9
_CLUSTERBOOK_RECORD = 6.6
_STEGO_RECORD = 0.276
_CLUSTERING_RECORD = 0.050 + 0.029
_LABELLING_RECORD = 0.054
# Rebuilding a bank of 20,480 entries, by the entries five times what 4,096 take; loss and gradient;
# update.
_CONCEPTS_RECORD = 5 * 27 + 7.9 + 3.4 + 0.38
_TOLERANCE = 1.3

_REBUILT_ENTRIES = 2
_FULL_ENTRIES = 100
_LONG_IMAGE = 1600
_LARGE_BATCH = 64
_TIMED_ANCHORS = 2
_FORM_ROUNDS = 7


def method_bars(sizes: Sizes, *, full: bool) -> Iterator[Measure]:
    """Measures the methods' losses, in processes of their own.

    Args:
        sizes: How large inputs are; the bars are meant for the default sizes.
        full: Whether to time the longest works twice, and to add what takes minutes: HP at 64
            images and CAUSE's full bank.

    Yields:
        A figure with its bar, as soon as it is measured.
    """
    rounds = 2 if full else 1
    (products, loss, official, propagation, weights), peak = apart(_hp, sizes, rounds)
    scale = products / _PRODUCTS_RECORD
    reference = _official(official, scale * _CONTRASTIVE_RECORD)
    of_loss = ("HP contrastive loss", loss)
    yield _seconds("HP contrastive loss", loss, ("8 products N x N x 512", products), 1.5)
    yield _seconds("HP contrastive loss", loss, reference, 1 / 2.7)
    yield _memory("HP contrastive loss", peak, 1.0)
    yield _seconds("HP local propagation", propagation, of_loss, 0.02)
    yield _seconds("HP weights of neighbours", weights, of_loss, None)
    yield from _clusterbook_bars(sizes, scale)
    yield _concept_bar(sizes, scale * _CONCEPTS_RECORD, rounds)
    forms = (
        ("PiCIE assignment + update", works.clustering, _CLUSTERING_RECORD, 1 / 3),
        ("PiCIE labelling", works.labelling, _LABELLING_RECORD, 1 / 3),
        ("STEGO correspondence loss", works.correspondence, _STEGO_RECORD, 1 / 1.3),
    )
    timed = apart(_form_seconds, [make for _, make, _, _ in forms], sizes)
    for (what, _, record, limit), (ours, rewrite) in zip(forms, timed, strict=True):
        yield _seconds(what, ours, _official(rewrite, scale * record), limit)
    matrices = 2 * 4 * sizes.graphs * sizes.patches**2 / 1e9
    yield _memory("ACSeg loss", apart(_peak, works.modularity, sizes), matrices)
    if full:
        yield from _full_bars(sizes)


def _seconds(what: str, value: float, reference: tuple[str, float], limit: float | None) -> Measure:
    return Measure("methods", what, value, "CPU s", *reference, limit)


def _memory(what: str, value: float, most: float) -> Measure:
    return Measure("methods", what, value, "GB", "at most, above inputs", most, 1.0)


def _official(rewrite: float, record: float) -> tuple[str, float]:
    """Chooses between our rewrite of an official form and the scaled record of the official code.

    Args:
        rewrite: CPU seconds of the rewrite.
        record: CPU seconds of the official code, scaled to this machine.

    Returns:
        The reference, in words and CPU seconds.
    """
    share = rewrite / record
    if 1 / _TOLERANCE <= share <= _TOLERANCE:
        return f"official form, rewritten ({share:.2f} of its record)", rewrite
    return f"official record, scaled (rewrite: {share:.2f} of it)", record


def _clusterbook_bars(sizes: Sizes, scale: float) -> Iterator[Measure]:
    what, record = "CAUSE clusterbook loss", scale * _CLUSTERBOOK_RECORD
    (ours, rewrite), peak = apart(_clusterbook, sizes)
    yield _seconds(what, ours, ("official record, scaled", record), 1 / 25)
    yield _seconds(what, ours, _official(rewrite, record), None)
    yield _memory(what, peak, 0.3)
    long = replace(sizes, images=1, tokens=_LONG_IMAGE)
    yield _memory(f"{what}, {_LONG_IMAGE} tokens", apart(_peak, _our_clusterbook, long), 0.3)


def _concept_bar(sizes: Sizes, record: float, rounds: int) -> Measure:
    ours, official, rebuilding = apart(_concept_seconds, sizes, rounds)
    entries = f"{sizes.entries * sizes.codes:,} entries"
    reference = _official(official + rebuilding, record)
    return _seconds(f"CAUSE concept loss + bank, {entries}", ours, reference, 1 / 20)


def _full_bars(sizes: Sizes) -> Iterator[Measure]:
    large = replace(sizes, images=_LARGE_BATCH)
    peak = apart(_peak, _contrastive_with_inputs, large)
    what = f"HP contrastive loss, {_LARGE_BATCH} images"
    yield Measure("methods", what, peak, "GB", "at most, with inputs", 16.0, 1.0)
    full = replace(sizes, entries=_FULL_ENTRIES)
    upkeep, copying, step = apart(_full_bank_seconds, full)
    what = f"{_FULL_ENTRIES * sizes.codes:,} entries"
    yield _seconds(f"CAUSE bank upkeep, {what}", upkeep, ("copying the bank once", copying), 0.1)
    yield _seconds(f"CAUSE concept loss + bank, {what}", step, ("copying it once", copying), None)


def _hp(sizes: Sizes, rounds: int) -> tuple[list[float], float]:
    """Measures CPU seconds of HP's works, and the GB of its loss.

    Returns:
        Eight products, the loss, its official form by a part of its images, and the smaller works.
    """
    anchors = min(_TIMED_ANCHORS, sizes.images)
    work, official = works.contrastive(sizes, anchors)
    first, peak = _first_of(work)
    loss = min(first, *cpu_seconds(work, rounds=rounds - 1))
    (product,) = cpu_seconds(works.code_product(sizes), rounds=2)
    (part,) = cpu_seconds(official, rounds=rounds)
    small = cpu_seconds(works.propagation(sizes), works.neighbour_weights(sizes), rounds=5)
    return [_PRODUCTS * product, loss, sizes.images / anchors * part, *small], peak


def _first_of(work: Work) -> tuple[float, float]:
    """Measures CPU seconds and GB of the first run of a work in this process."""
    seconds = list[float]()
    peak = peak_above_inputs(lambda: seconds.extend(cpu_seconds(work, rounds=1)))
    return seconds[0], peak


def _form_seconds(makes: list[Callable[[Sizes], Forms]], sizes: Sizes) -> list[list[float]]:
    return [cpu_seconds(*make(sizes), rounds=_FORM_ROUNDS) for make in makes]


def _clusterbook(sizes: Sizes) -> tuple[list[float], float]:
    """Measures CPU seconds of both forms, and the GB that ours takes."""
    forms = works.clusterbook(sizes)
    _, peak = _first_of(forms.ours)
    return cpu_seconds(forms.ours, rounds=10) + cpu_seconds(forms.official, rounds=1), peak


def _concept_seconds(sizes: Sizes, rounds: int) -> list[float]:
    """Measures a step of ours and of the official form, and its rebuilding by that of a part."""
    steps = ConceptSteps(sizes)
    official = partial(steps.official, steps.lists(), steps.joined())
    seconds = cpu_seconds(steps.ours, official, rounds=rounds)
    part = ConceptSteps(replace(sizes, entries=_REBUILT_ENTRIES))
    (rebuilding,) = cpu_seconds(part.lists().rebuild, rounds=1)
    return [*seconds, sizes.entries / _REBUILT_ENTRIES * rebuilding]


def _full_bank_seconds(sizes: Sizes) -> list[float]:
    steps = ConceptSteps(sizes)
    small = cpu_seconds(steps.upkeep, steps.bank.values.clone, rounds=5)
    return small + cpu_seconds(steps.ours, rounds=1)


def _our_clusterbook(sizes: Sizes) -> Work:
    return works.clusterbook(sizes).ours


def _contrastive_with_inputs(sizes: Sizes) -> Work:
    def work() -> object:
        return works.contrastive(sizes).ours()

    return work


def _peak(make: Callable[[Sizes], Work], sizes: Sizes) -> float:
    return_what_is_freed()
    return peak_above_inputs(make(sizes))
