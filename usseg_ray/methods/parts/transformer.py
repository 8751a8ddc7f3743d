"""Transformer parts for small heads: vectors that look at an image's tokens and at each other.

Weights are drawn from a generator that is handed in, never from the global one, so that a head
starts equal on every worker.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from usseg_ray.ops.unset import unset
from usseg_ray.settings.acseg import Activation, Norm


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Makes a linear layer with Xavier weights and zero bias.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        generator: Draws the weights.

    Returns:
        The layer.
    """
    layer = unset(nn.Linear(inputs, outputs, device="meta"))
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MultiHeadAttention(nn.Module):
    """Attention of queries to keys, which are also the values unless those are given.

    Args:
        dim: Channels of queries, keys and outputs.
        num_heads: A divisor of `dim`.
        generator: Draws the weights.

    Reference:
        Vaswani et al., Attention Is All You Need, 2017, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = linear(dim, dim, generator)
        self.key = linear(dim, dim, generator)
        self.value = linear(dim, dim, generator)
        self.out = linear(dim, dim, generator)

    def maps(
        self, queries: Float[Tensor, "B K D"], keys: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B heads K N"]:
        """Computes where each query looks.

        Args:
            queries: (B, K, D).
            keys: (B, N, D).

        Returns:
            (B, heads, K, N), a softmax over the keys.
        """
        query, key = self._split(self.query(queries)), self._split(self.key(keys))
        weights: Tensor = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        return weights

    def forward(
        self,
        queries: Float[Tensor, "B K D"],
        keys: Float[Tensor, "B N D"],
        values: Float[Tensor, "B N D"] | None = None,
        mask: Float[Tensor, "B #heads K N"] | None = None,
    ) -> Float[Tensor, "B K D"]:
        """Gathers from the keys what the queries look at.

        Args:
            queries: (B, K, D).
            keys: (B, N, D).
            values: (B, N, D), what is gathered; the keys themselves if unset.
            mask: (B, heads, K, N), multiplies the maps: dropout of attention.

        Returns:
            (B, K, D).
        """
        maps = self.maps(queries, keys)
        maps = maps if mask is None else maps * mask
        gathered = maps @ self._split(self.value(keys if values is None else values))
        joined: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return joined

    def _split(self, rows: Float[Tensor, "B n D"]) -> Float[Tensor, "B heads n d"]:
        size, count, dim = rows.shape
        return rows.view(size, count, self.num_heads, dim // self.num_heads).transpose(1, 2)


class DecoderBlock(nn.Module):
    """One update of a set of vectors: look at the tokens, at each other, then a feed-forward step.

    Args:
        dim: Channels of vectors and tokens.
        num_heads: A divisor of `dim`.
        ffn_ratio: Width of the feed-forward layer over `dim`.
        norm: Layer norm of each sublayer's sum (`post`) or of its input (`pre`).
        activation: Of the feed-forward step.
        generator: Draws the weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        ffn_ratio: int,
        norm: Norm,
        activation: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.pre_norm = norm == "pre"
        self.cross_attention = MultiHeadAttention(dim, num_heads, generator)
        self.self_attention = MultiHeadAttention(dim, num_heads, generator)
        self.ffn = nn.Sequential(
            linear(dim, ffn_ratio * dim, generator),
            nn.ReLU() if activation == "relu" else nn.GELU(),
            linear(ffn_ratio * dim, dim, generator),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(
        self, vectors: Float[Tensor, "B K D"], tokens: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B K D"]:
        """Updates the vectors.

        Args:
            vectors: (B, K, D).
            tokens: (B, N, D), not normalised by the block.

        Returns:
            (B, K, D).
        """
        vectors = self._sublayer(0, vectors, lambda x: self.cross_attention(x, tokens))
        vectors = self._sublayer(1, vectors, lambda x: self.self_attention(x, x))
        return self._sublayer(2, vectors, self.ffn)

    def _sublayer(
        self, index: int, vectors: Float[Tensor, "B K D"], update: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B K D"]:
        norm = self.norms[index]
        if self.pre_norm:
            return vectors + update(norm(vectors))
        normed: Tensor = norm(vectors + update(vectors))
        return normed


class ResidualBlock(nn.Module):
    """A transformer block on patch tokens that leaves them as they are at first.

    Pre-norm attention of one head and a feed-forward step of four times the width, both ending in
    zeros.

    Args:
        dim: Channels of a token.
        generator: Draws the other weights.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, 1, generator)
        self.hidden, self.out = linear(dim, 4 * dim, generator), linear(4 * dim, dim, generator)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        for last in (self.attention.out, self.out):
            nn.init.zeros_(last.weight)

    def forward(self, tokens: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """Computes tokens from tokens."""
        rows = tokens.flatten(2).mT
        normed = self.norms[0](rows)
        rows = rows + self.attention(normed, normed)
        rows = rows + self.out(gelu(self.hidden(self.norms[1](rows))))
        maps: Tensor = rows.mT.unflatten(2, tokens.shape[2:])
        return maps
