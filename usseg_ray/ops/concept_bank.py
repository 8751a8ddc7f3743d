"""A bank of vectors under codes: what CAUSE's loss compares tokens with, of earlier batches."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.ops.counting import occurrences

_GROWTH = 1.5


class Keys(NamedTuple):
    """What anchors are compared with.

    Attributes:
        values: (M, J), unit length.
        codes: (M,) the code of each.
    """

    values: Float[Tensor, "M J"]
    codes: Int64[Tensor, "M"]


class ConceptBank(nn.Module):
    """Keys of earlier batches: of every code the newest few.

    Entries of a code replace each other in turn; nothing is moved or rebuilt. Memory grows with
    what is held, and a state of any size can be loaded.

    Args:
        num_codes: K.
        dim: Channels of a key.
        capacity: Entries of a code.

    Reference:
        CAUSE, arXiv 2310.07379, concept bank, as in the official code.
    """

    values: Tensor
    codes: Tensor
    slots: Tensor
    added: Tensor

    def __init__(self, num_codes: int, dim: int, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        # Unit-length keys and their codes; rows from `len(self)` on are not used yet.
        self.register_buffer("values", torch.empty(0, dim))
        self.register_buffer("codes", torch.empty(0, dtype=torch.int64))
        # The row of every entry: entry number n of a code is in slot n modulo capacity.
        self.register_buffer("slots", torch.full((num_codes, capacity), -1))
        self.register_buffer("added", torch.zeros(num_codes, dtype=torch.int64))
        # Entries, so that a GPU is not asked for what `added` says.
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def keys(self) -> Keys:
        """Returns all entries, in no particular order, without copying them."""
        size = len(self)
        return Keys(self.values[:size], self.codes[:size])

    @torch.no_grad()
    def update(
        self,
        values: Float[Tensor, "N J"],
        codes: Int64[Tensor, "N"],
        priorities: Float[Tensor, "N"],
        share: float = 0.5,
    ) -> None:
        """Adds a random share of every code's tokens, and forgets the oldest beyond capacity.

        Args:
            values: (N, J), not normalised.
            codes: (N,) the code of each.
            priorities: (N,) random numbers; those of a code with the lowest enter, in this order.
            share: Part of a code's tokens that enters, rounded down: a single token does not.
        """
        # By code, and within a code by priority: `place` is a token's rank in its code.
        order = priorities.argsort(stable=True)
        order = order[codes[order].argsort(stable=True)]
        codes = codes[order]
        counts = occurrences(codes, len(self.added))
        place = torch.arange(len(codes), device=codes.device) - (counts.cumsum(0) - counts)[codes]
        # The first `quota` enter, but for those that others of the batch would replace at once.
        quota = (share * counts).long()
        left = quota[codes] - place
        # A GPU is waited for here, for how many enter, and in `_insert`.
        keep = ((left > 0) & (left <= self.capacity)).nonzero()[:, 0]
        self._insert(values[order[keep]], codes[keep], (self.added[codes] + place)[keep])
        self.added += quota

    def clear(self) -> None:
        """Forgets everything and frees its memory."""
        self.values, self.codes = self.values[:0].clone(), self.codes[:0].clone()
        self.slots.fill_(-1)
        self.added.zero_()
        self._held = 0

    def _insert(
        self, values: Float[Tensor, "n J"], codes: Int64[Tensor, "n"], number: Int64[Tensor, "n"]
    ) -> None:
        # An entry takes over the row of the one that it replaces, or a new row at the end.
        slot = number % self.capacity
        row = self.slots[codes, slot]
        fresh, size = row < 0, len(self)
        row = torch.where(fresh, size - 1 + fresh.cumsum(0), row)
        self._held = size + int(fresh.sum())
        self._reserve(self._held)
        self.slots[codes, slot] = row
        self.values[row] = normalize(values, dim=1)
        self.codes[row] = codes

    def _reserve(self, size: int) -> None:
        if size > len(self.values):
            grown = min(self.slots.numel(), max(size, int(_GROWTH * len(self.values))))
            for name in ("values", "codes"):
                held = getattr(self, name)
                longer = held.new_zeros((grown, *held.shape[1:]))
                longer[: len(held)] = held
                setattr(self, name, longer)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Without the rows that are not used yet, which a view of the others would bring along.
        size = len(self)
        if size < len(self.values):
            for name in ("values", "codes"):
                destination[prefix + name] = destination[prefix + name][:size].clone()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,  # noqa: ANN401
    ) -> None:
        # A saved table has a length of its own.
        for name in ("values", "codes"):
            if (saved := state_dict.get(prefix + name)) is not None:
                held = getattr(self, name)
                setattr(self, name, held.new_zeros((len(saved), *held.shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._held = int(self.added.clamp(max=self.capacity).sum())
