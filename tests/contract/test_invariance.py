"""What is calibrated, and what comes of it, depends on how tokens lie to each other alone.

Channels may come in any order and all tokens be longer by one factor; where tokens are centred or
standardised, one vector may be added to all of them.
"""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.contract.cases import (
    DIM,
    FEATURES,
    GRID,
    SMALL,
    Given,
    look,
    make_batch,
    optimizer,
    random_of,
    with_tokens,
)
from usseg_ray.core.calibration import Facts
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.types import Step
from usseg_ray.features.calibration import measure_channels, measure_tokens
from usseg_ray.features.normalisation import TokenNormalisation
from usseg_ray.methods import get
from usseg_ray.methods.base import Method
from usseg_ray.scoring.partitions import adjusted_rand_index

IMAGES, STEPS, PARTS = 24, 30, 4
TOKENS = torch.stack([look(image)[0] for image in range(IMAGES)])
LABELS = torch.stack(
    [torch.randint(0, PARTS, GRID, generator=random_of("image", i)) for i in range(IMAGES)]
)
ORDER = torch.randperm(DIM, generator=random_of("order"))
VECTOR = 3 * torch.randn(DIM, 1, 1, generator=random_of("vector"))

How = Literal["raw", "centred", "standardised"]
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "permuted": lambda tokens: tokens[:, ORDER],
    "longer": lambda tokens: 7 * tokens,
    "moved": lambda tokens: tokens + VECTOR,
}
ALLOWED: list[tuple[str, How]] = [
    (change, how)
    for change in CHANGES
    for how in ("raw", "centred", "standardised")
    if (change, how) != ("moved", "raw")
]
LEARNT = ["stego", "smooseg", "hp", "cause", "acseg", "primaps", "equss", "ppap"]
NOISE = 0.1


def seen(tokens: Tensor, how: How) -> Tensor:
    """Normalises tokens as a backbone does whose tokens were measured."""
    mean, std = measure_channels(tokens)
    config = BackboneConfig(normalise=how, token_mean=mean, token_std=std)
    normalised: Tensor = TokenNormalisation(config, DIM)(tokens)
    return normalised


def calibrated(method: str, tokens: Tensor) -> dict[str, Any]:
    facts = Facts(
        images=300,
        steps=240,
        batch_size=16,
        grid=GRID[0],
        statistics=measure_tokens(tokens),
        has_attention=False,
    )
    return {one.key: one.value for one in get(method).calibrated(facts)}


@pytest.mark.parametrize("method", LEARNT)
@pytest.mark.parametrize(("change", "how"), ALLOWED)
def test_calibrated_settings_stay(method: str, change: str, how: How) -> None:
    before = calibrated(method, seen(TOKENS, how))
    found = calibrated(method, seen(CHANGES[change](TOKENS), how))
    assert found.keys() == before.keys()
    for key, value in found.items():
        same = before[key]
        assert value == (pytest.approx(same, abs=2e-4) if isinstance(value, float) else same)


def test_a_vector_added_to_raw_tokens_moves_thresholds() -> None:
    key = "method.shift_intra"
    before, found = (calibrated("stego", one) for one in (TOKENS, CHANGES["moved"](TOKENS)))
    assert abs(before[key] - found[key]) > 0.01


def score(method: str, tokens: Tensor) -> float:
    """Trains a method on tokens with what was calibrated to them, and compares with the truth."""
    found = calibrated(method, tokens).items()
    settings = SMALL.get(method, {}) | {key.removeprefix("method."): v for key, v in found}
    cls = get(method)
    built: Method = cls(cls.Config.model_validate(settings), FEATURES, PARTS, 0)
    optimiser = optimizer(built, "train") if cls.stages else None
    for index in range(STEPS if cls.stages else 0):
        images = [(index * 8 + i) % IMAGES for i in range(8)]
        batch = with_tokens(make_batch(images, index), tokens[images])
        assert batch.step == Step(index, 20, index)
        assert optimiser is not None
        built.loss(batch, "train").loss.backward()
        optimiser.step()
        built.after_step()
    whole = with_tokens(make_batch(range(IMAGES)), tokens)
    built.eval().fit_clusters(Given(whole))
    return adjusted_rand_index(built.predict(whole).argmax(1).flatten(), LABELS.flatten())


@pytest.mark.parametrize("method", ["kmeans", "stego", "smooseg"])
def test_scores_stay_within_noise(method: str) -> None:
    plain = {how: score(method, seen(TOKENS, how)) for how in ("raw", "centred", "standardised")}
    assert min(plain.values()) > 0.5
    for change, how in ALLOWED:
        found = score(method, seen(CHANGES[change](TOKENS), how))
        assert found == pytest.approx(plain[how], abs=NOISE), (change, how)
