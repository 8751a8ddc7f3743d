"""CAUSE's heads beside torch's own decoder layer; official vectors are in tests/numerics."""

import pytest
import torch
from torch import Tensor, nn

from usseg_ray.methods.parts.concept_head import ConceptHead, ConceptMasks, ConceptNetwork
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead

DIM, CODES, GRID, FFN = 8, 5, (3, 3), 16
IDS = ("a", "b")


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_head(seed: int = 0) -> ConceptHead:
    return ConceptHead(DIM, CODES, 9, FFN, torch.Generator().manual_seed(seed))


@torch.no_grad()
def as_torch_layer(head: ConceptHead) -> nn.TransformerDecoderLayer:
    layer = nn.TransformerDecoderLayer(DIM, 1, FFN, dropout=0, batch_first=True)
    pairs = (
        (layer.self_attn, head.self_attention),
        (layer.multihead_attn, head.cross_attention),
    )
    for theirs, ours in pairs:
        packed = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in packed]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in packed]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    layer.linear1.load_state_dict(head.widen.state_dict())
    layer.linear2.load_state_dict(head.narrow.state_dict())
    for norm, ours_norm in zip((layer.norm1, layer.norm2, layer.norm3), head.norms, strict=True):
        norm.load_state_dict(ours_norm.state_dict())
    return layer


def test_without_positions_it_is_a_decoder_layer_beside_the_tokens() -> None:
    head = make_head()
    memory, target = draw(2, 9, DIM), draw(2, 9, DIM, seed=3)
    with torch.no_grad():
        head.position.zero_()
    expected = memory + as_torch_layer(head)(target, memory)
    torch.testing.assert_close(head.decode(memory, target), expected)


def test_positions_alone_tell_where_a_token_is() -> None:
    head, tokens = make_head(), draw(1, DIM, *GRID)
    queries = draw(1, DIM, *GRID, seed=3)

    def mirrored() -> Tensor:
        codes: Tensor = head(tokens.flip(3), queries.flip(3))
        return codes.flip(3)

    assert not torch.allclose(mirrored(), head(tokens, queries), atol=1e-3)
    with torch.no_grad():
        head.position.zero_()
    torch.testing.assert_close(mirrored(), head(tokens, queries))


def test_initial_weights_are_spread_as_in_torch() -> None:
    head = ConceptHead(64, CODES, 9, 128, torch.Generator().manual_seed(0))
    layer = nn.TransformerDecoderLayer(64, 1, 128)
    for ours, theirs in (
        (head.self_attention.query.weight, layer.self_attn.in_proj_weight),
        (head.cross_attention.value.weight, layer.multihead_attn.in_proj_weight),
        (head.cross_attention.out.weight, layer.multihead_attn.out_proj.weight),
        (head.widen.weight, layer.linear1.weight),
        (head.narrow.weight, layer.linear2.weight),
    ):
        assert float(ours.detach().abs().max()) == pytest.approx(
            float(theirs.detach().abs().max()), rel=0.05
        )
    for attention in (head.self_attention, head.cross_attention):
        for part in (attention.query, attention.key, attention.value, attention.out):
            assert not part.bias.any()
    assert float(head.position.detach().std()) == pytest.approx(1, abs=0.1)


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = make_head(), make_head(), make_head(seed=1)
    ConceptNetwork(first, CODES, 4, torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not torch.equal(first.position, other.position)


def test_masks_of_an_image_depend_on_its_id_alone() -> None:
    head = make_head()
    forward = head.draw_masks(IDS, GRID, 0.3, "step", 1)
    backward = head.draw_masks(IDS[::-1], GRID, 0.3, "step", 1)
    later = head.draw_masks(IDS, GRID, 0.3, "step", 2)
    assert torch.equal(forward.hidden, backward.hidden.flip(0))
    assert torch.equal(forward.head.nonlinear, backward.head.nonlinear.flip(0))
    assert not torch.equal(forward.hidden, later.hidden)
    assert not torch.equal(forward.self_maps, forward.cross_maps)
    assert not torch.equal(forward.head.linear, forward.head.nonlinear)


@pytest.mark.parametrize("kind", ["mlp", "tr"])
def test_masks_drop_the_given_share_and_keep_the_mean(kind: str) -> None:
    head = make_head() if kind == "tr" else SegmentationHead(DIM, CODES, torch.Generator())
    network = ConceptNetwork(head, CODES, 4, torch.Generator())
    masks = network.draw_masks([str(number) for number in range(100)], GRID, 0.1, "key")
    assert isinstance(masks, ConceptMasks if kind == "tr" else HeadMasks)
    flat = [*masks[:-1], *masks.head] if isinstance(masks, ConceptMasks) else list(masks)
    for mask in flat:
        assert mask.unique().tolist() == pytest.approx([0, 1 / 0.9])
        assert float(mask.mean()) == pytest.approx(1, abs=0.03)
    queries = torch.rand(100, DIM, *GRID) if kind == "tr" else None
    assert network.codes(torch.rand(100, DIM, *GRID), queries, masks).isfinite().all()
    assert network.draw_masks(IDS, GRID, 0.0, "key") is None


def test_every_mask_of_the_decoder_counts() -> None:
    head, tokens = make_head(), draw(2, DIM, *GRID)
    masks = head.draw_masks(IDS, GRID, 0.3, "key")
    plain = head(tokens, tokens, masks)
    for name in masks._fields[:-1]:
        others = masks._asdict() | {name: torch.ones_like(getattr(masks, name))}
        assert not torch.allclose(head(tokens, tokens, ConceptMasks(**others)), plain)
