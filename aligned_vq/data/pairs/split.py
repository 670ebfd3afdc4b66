"""A validation part that shares no scene with the training part."""

from __future__ import annotations

import hashlib

from aligned_vq.data.pairs.types import PairList, PairSource
from aligned_vq.errors import ConfigError


def hold_out(source: PairSource, share: float, salt: str = "") -> tuple[PairList, PairList]:
    """Pairs for training and pairs for validation, in the source's order.

    A hash of its scene decides where a pair goes. So no scene is divided, the parts do not depend
    on order or number of pairs, and added pairs move none.

    Args:
        source: with the pairs.
        share: of the scenes that is held out, approximately; between 0 and 1.
        salt: another one gives another division.

    Raises:
        ConfigError: the share is out of range, or a part is empty.
    """
    if not 0 < share < 1:
        raise ConfigError(
            f"expected a share to hold out between 0 and 1, got {share}; 0.1 is common"
        )
    pairs = [source[index] for index in range(len(source))]
    held = [position_of(pair.scene, salt) < share for pair in pairs]
    if all(held) or not any(held):
        raise ConfigError(
            f"expected scenes of {source.name} on both sides, got {len({p.scene for p in pairs})} "
            f"scenes, all on one side at {share:g}; take more scenes or a share nearer to 0.5"
        )
    training = tuple(pair for pair, out in zip(pairs, held, strict=True) if not out)
    validation = tuple(pair for pair, out in zip(pairs, held, strict=True) if out)
    return (
        PairList(f"{source.name}, training part", source.modality, training),
        PairList(f"{source.name}, validation part", source.modality, validation),
    )


def position_of(scene: str, salt: str = "") -> float:
    """A number from 0 to below 1 for a scene: uniform over scenes, and always the same."""
    digest = hashlib.sha256(f"{salt}\0{scene}".encode()).digest()
    # 53 bits, which a float holds exactly.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
