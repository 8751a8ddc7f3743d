"""Randomness by key: every draw depends on what it is for, and on nothing that ran before it.

Apart from `core.distributed`, because the tasks that read images draw their crops without torch.
"""

import hashlib


def key_seed(*key: int | str) -> int:
    """Hashes a key to a 63-bit seed; unlike `hash`, the same in every process and on every machine.

    Args:
        key: For example `(seed, stage, step, image_id)`.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
