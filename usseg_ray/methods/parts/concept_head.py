"""CAUSE's student and teacher, and the head of CAUSE-TR: tokens ask what their code means here.

The query of a token is the raw clusterbook row of its nearest code, at a learnt position; one
transformer decoder layer lets queries look at each other and at the image's tokens, and a
`SegmentationHead` makes codes of the result. Positions are learnt one by one, so training crops
and evaluation frames must have the same tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from usseg_ray.core.keys import key_seed
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead, initialise_like_torch
from usseg_ray.methods.parts.transformer import MultiHeadAttention, linear
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.ops.unset import unset


class ConceptMasks(NamedTuple):
    """Dropout of a concept head, in the order of its layers.

    Attributes:
        self_maps: (B, 1, N, N) of the self-attention.
        self_out: (B, N, D) of what it gathers.
        cross_maps: (B, 1, N, N) of the cross-attention.
        cross_out: (B, N, D) of what it gathers.
        hidden: (B, N, F) inside the feed-forward step.
        ffn_out: (B, N, D) of its result.
        head: Of the segmentation head's input.
    """

    self_maps: Float[Tensor, "B 1 N N"]
    self_out: Float[Tensor, "B N D"]
    cross_maps: Float[Tensor, "B 1 N N"]
    cross_out: Float[Tensor, "B N D"]
    hidden: Float[Tensor, "B N F"]
    ffn_out: Float[Tensor, "B N D"]
    head: HeadMasks


class ConceptHead(nn.Module):
    """A decoder layer with one attention head over clusterbook queries, and a segmentation head.

    Args:
        dim: Channels of tokens and clusterbook rows.
        out_dim: Channels of a code.
        num_tokens: Tokens of an image.
        ffn_dim: Channels inside the feed-forward step.
        generator: Draws the initial weights; equal on all workers.

    Reference:
        CAUSE, arXiv 2310.07379, CAUSE-TR, as in the official code: layer norm after every
        sublayer, positions added to queries and self-attention keys only, tokens added to the
        decoder's result.
    """

    def __init__(
        self, dim: int, out_dim: int, num_tokens: int, ffn_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(num_tokens, dim).normal_(generator=generator))
        self.self_attention = MultiHeadAttention(dim, 1, generator)
        self.cross_attention = MultiHeadAttention(dim, 1, generator)
        self.widen = linear(dim, ffn_dim, generator)
        self.narrow = linear(ffn_dim, dim, generator)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.head = SegmentationHead(dim, out_dim, generator)
        for layer in (self.widen, self.narrow):
            initialise_like_torch(layer, generator)
        for attention in (self.self_attention, self.cross_attention):
            _initialise_attention(attention, generator)

    def forward(
        self,
        tokens: Float[Tensor, "B D h w"],
        queries: Float[Tensor, "B D h w"],
        masks: ConceptMasks | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Computes codes.

        Args:
            tokens: (B, D, h, w).
            queries: (B, D, h, w), the clusterbook row of every token's nearest code.
            masks: Dropout; none in evaluation.

        Returns:
            (B, C, h, w) codes, not normalised.
        """
        target = self.decode(tokens.flatten(2).mT, queries.flatten(2).mT, masks)
        codes: Tensor = self.head(
            target.mT.reshape(tokens.shape), None if masks is None else masks.head
        )
        return codes

    def decode(
        self,
        memory: Float[Tensor, "B N D"],
        target: Float[Tensor, "B N D"],
        masks: ConceptMasks | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Runs the decoder layer.

        Args:
            memory: (B, N, D) tokens.
            target: (B, N, D) queries.
            masks: Dropout; none in evaluation.

        Returns:
            (B, N, D) decoded queries plus tokens, the segmentation head's input.
        """
        drop = masks._asdict() if masks is not None else {}
        asked = target + self.position
        seen = self.self_attention(asked, asked, target, drop.get("self_maps"))
        target = self.norms[0](target + _dropped(seen, drop.get("self_out")))
        asked = target + self.position
        seen = self.cross_attention(asked, memory, mask=drop.get("cross_maps"))
        target = self.norms[1](target + _dropped(seen, drop.get("cross_out")))
        hidden = _dropped(relu(self.widen(target)), drop.get("hidden"))
        target = self.norms[2](target + _dropped(self.narrow(hidden), drop.get("ffn_out")))
        return memory + target

    def draw_masks(
        self,
        ids: Sequence[str],
        grid: tuple[int, int],
        probability: float,
        *key: int | str,
    ) -> ConceptMasks:
        """Draws dropout of every layer, for each image from its own key.

        Millions of numbers an image, so they are drawn where the head lies: another kind of
        device draws other ones.

        Args:
            ids: One name per image.
            grid: Height and width of the images' token grid.
            probability: Share of entries to drop.
            key: What the masks are for.

        Returns:
            The masks, on the head's device.
        """
        count, dim = self.position.shape
        maps, rows, columns = (1, count, count), (count, dim), (2, dim, *grid)
        wide = (count, self.widen.out_features)
        shapes = (maps, rows, maps, rows, wide, rows, columns)
        device = self.position.device
        drawn = []
        for name in ids:
            random = torch.Generator(device).manual_seed(key_seed(*key, name))
            drawn.append([torch.rand(s, generator=random, device=device) for s in shapes])
        self_maps, self_out, cross_maps, cross_out, hidden, ffn_out, head = (
            dropout_mask(torch.stack(draws), probability) for draws in zip(*drawn, strict=True)
        )
        return ConceptMasks(
            self_maps,
            self_out,
            cross_maps,
            cross_out,
            hidden,
            ffn_out,
            HeadMasks(*head.unbind(1)),
        )


Masks = HeadMasks | ConceptMasks


class ConceptNetwork(nn.Module):
    """A head of either kind and a projection of its codes: CAUSE's student and its teacher.

    Args:
        head: Makes codes of tokens.
        code_dim: Channels of a code.
        projection_dim: Channels of a projection.
        generator: Draws the projection's initial weights.
    """

    def __init__(
        self,
        head: SegmentationHead | ConceptHead,
        code_dim: int,
        projection_dim: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.head = head
        self.projection = unset(nn.Conv2d(code_dim, projection_dim, 1, device="meta"))
        initialise_like_torch(self.projection, generator)

    def codes(
        self,
        tokens: Float[Tensor, "B D h w"],
        queries: Float[Tensor, "B D h w"] | None = None,
        masks: Masks | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Computes codes.

        Args:
            tokens: (B, D, h, w).
            queries: (B, D, h, w) clusterbook rows; for a `ConceptHead`.
            masks: Dropout of the head's kind; none in evaluation.

        Returns:
            (B, C, h, w) codes, not normalised.
        """
        inputs = (tokens,) if queries is None else (tokens, queries)
        codes: Tensor = self.head(*inputs, masks)
        return codes

    def forward(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B J h w"]:
        """Projects codes to where they are contrasted."""
        projected: Tensor = self.projection(codes)
        return projected

    def draw_masks(
        self, ids: Sequence[str], grid: tuple[int, int], probability: float, *key: int | str
    ) -> Masks | None:
        """Draws dropout for the head.

        Args:
            ids: One name per image.
            grid: Height and width, tokens.
            probability: Share of entries to drop.
            key: What the masks are for.

        Returns:
            Masks of the head's kind; `None` where nothing is dropped.
        """
        if probability == 0:
            return None
        if isinstance(self.head, ConceptHead):
            return self.head.draw_masks(ids, grid, probability, *key)
        shape = (2, self.head.hidden.in_channels, *grid)
        draws = uniforms(ids, shape, *key, device=self.head.hidden.weight.device)
        return HeadMasks(*dropout_mask(draws, probability).unbind(1))


def build_network(
    dim: int,
    code_dim: int,
    projection_dim: int,
    num_tokens: int | None,
    ffn_dim: int,
    generator: torch.Generator,
) -> ConceptNetwork:
    """Builds a student or a teacher.

    Args:
        dim: Channels of tokens.
        code_dim: Channels of a code.
        projection_dim: Channels of a projection.
        num_tokens: Tokens of an image, for a `ConceptHead`; a `SegmentationHead` if unset.
        ffn_dim: Channels inside a `ConceptHead`'s feed-forward step.
        generator: Draws the initial weights, the head's first.
    """
    head = (
        SegmentationHead(dim, code_dim, generator)
        if num_tokens is None
        else ConceptHead(dim, code_dim, num_tokens, ffn_dim, generator)
    )
    return ConceptNetwork(head, code_dim, projection_dim, generator)


def _dropped(
    rows: Float[Tensor, "B N C"], mask: Float[Tensor, "B N C"] | None
) -> Float[Tensor, "B N C"]:
    return rows if mask is None else rows * mask


@torch.no_grad()
def _initialise_attention(attention: MultiHeadAttention, generator: torch.Generator) -> None:
    """Draws weights as torch's attention does: Xavier over query, key and value as one matrix."""
    bound = (6 / (4 * attention.query.in_features)) ** 0.5
    for part in (attention.query, attention.key, attention.value):
        part.weight.uniform_(-bound, bound, generator=generator)
    initialise_like_torch(attention.out, generator)
    nn.init.zeros_(attention.out.bias)
