"""AnyUp beside a plain form of it in PyTorch's own modules, and what its windows promise."""

import pytest
import torch
from torch import Tensor, nn

from tests.anyup import random_weights
from usseg_ray.ops.anyup import FILTER, HEADS, LAYOUT, REACH, WIDTH, AnyUp


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        halves = [
            (nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 1, bias=False))
            for _ in range(2)
        ]
        self.block = nn.Sequential(*halves[0], *halves[1])

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = maps + self.block(maps)
        return found


class Filters(nn.Module):
    """Every channel through every filter, as a convolution of groups; the answers re-laid."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(WIDTH, 1, FILTER, FILTER))

    def forward(self, maps: Tensor) -> Tensor:
        depth, border = maps.shape[1], FILTER // 2
        inside = nn.functional.avg_pool2d(
            torch.ones_like(maps[:1, :1]), FILTER, 1, border, divisor_override=1
        )
        kernels = torch.cat([self.basis] * depth)
        answers = nn.functional.conv2d(maps, kernels, padding=border, groups=depth) / inside
        found: Tensor = answers.unflatten(1, (WIDTH, depth)).softmax(1).mean(2)
        return found


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_q, self.norm_k = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)


class Decode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cross_attn = Attention()
        self.conv2d = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)


class Rope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.zeros(2, WIDTH))


class Plain(nn.Module):
    """All pixels see all patches, and a mask hides those outside of their window."""

    def __init__(self) -> None:
        super().__init__()

        def encoder(first: nn.Module) -> nn.Sequential:
            return nn.Sequential(first, Block(), Block())

        def convolution(inputs: int, side: int) -> nn.Conv2d:
            return nn.Conv2d(
                inputs, WIDTH, side, padding=side // 2, padding_mode="reflect", bias=False
            )

        self.image_encoder = encoder(convolution(3, 1))
        self.query_encoder = encoder(convolution(WIDTH, 1))
        self.key_encoder = encoder(convolution(WIDTH, 1))
        self.key_features_encoder = encoder(Filters())
        self.aggregation = encoder(convolution(2 * WIDTH, 3))
        self.cross_decode, self.rope = Decode(), Rope()

    def forward(self, pixels: Tensor, features: Tensor, values: Tensor) -> Tensor:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(pixels)
        seen = self.image_encoder((pixels - mean[:, None, None]) / std[:, None, None])
        height, width = seen.shape[2:]
        place = torch.cartesian_prod(torch.linspace(0, 1, height), torch.linspace(0, 1, width))
        angle = (place.to(seen) @ self.rope.freqs).T.reshape(WIDTH, height, width)
        half = WIDTH // 2
        turned = torch.cat([-seen[:, half:], seen[:, :half]], 1)
        seen = seen * angle.cos() + turned * angle.sin()
        few, many = features.shape[2:], seen.shape[2:]
        near = nn.functional.adaptive_avg_pool2d(self.key_encoder(seen), (few[0], few[1]))
        alike = self.key_features_encoder(features / features.norm(dim=1, keepdim=True))
        keys = self.aggregation(torch.cat([near, alike], 1)).flatten(2).mT
        queries = self.cross_decode.conv2d(self.query_encoder(seen)).flatten(2).mT
        hidden = torch.tensor(
            [
                not all(
                    low <= patch < high
                    for patch, (low, high) in zip(
                        (key // few[1], key % few[1]),
                        (
                            window(query // many[1], many[0], few[0]),
                            window(query % many[1], many[1], few[1]),
                        ),
                        strict=True,
                    )
                )
                for query in range(many[0] * many[1])
                for key in range(few[0] * few[1])
            ]
        ).view(many[0] * many[1], few[0] * few[1])
        cross = self.cross_decode.cross_attn
        _, weights = cross.attention(
            cross.norm_q(queries), cross.norm_k(keys), keys, attn_mask=hidden
        )
        found: Tensor = (weights @ values.flatten(2).mT).mT.unflatten(2, tuple(many))
        return found


def window(at: int, pixels: int, patches: int) -> tuple[float, float]:
    centre = (at + 0.5) / pixels
    low, high = max(0.0, centre - REACH) * patches, min(1.0, centre + REACH) * patches
    return int(low), -(-high // 1)


def test_the_layout_is_that_of_the_modules() -> None:
    assert {name: tuple(one.shape) for name, one in Plain().state_dict().items()} == LAYOUT


@pytest.mark.parametrize("sizes", [((24, 36), (6, 9)), ((28, 28), (2, 2)), ((33, 26), (11, 7))])
def test_it_is_the_plain_form(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    image, grid = sizes
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, *image, generator=generator)
    features = torch.randn(2, 20, *grid, generator=generator)
    values = torch.randn(2, 5, *grid, generator=generator)
    plain = Plain().double()
    plain.load_state_dict({name: one.double() for name, one in random_weights().items()})
    expected = plain(pixels.double(), features.double(), values.double())
    found = AnyUp(random_weights())(pixels, features, values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    uniform = torch.nn.functional.interpolate(values, size=image)
    assert (found - uniform).abs().max() > 0.1


def test_a_pixel_is_a_mean_of_patches_near_it() -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(1, 3, 40, 40, generator=generator)
    features = torch.randn(1, 8, 20, 20, generator=generator)
    values = torch.zeros(1, 2, 20, 20)
    values[:, 0], values[:, 1, :, 10:] = 3.0, 1.0
    found = AnyUp(random_weights())(pixels, features, values)
    torch.testing.assert_close(found[:, 0], torch.full((1, 40, 40), 3.0))
    assert not found[0, 1, :, :15].any()
    torch.testing.assert_close(found[0, 1, :, 25:], torch.ones(40, 15))
