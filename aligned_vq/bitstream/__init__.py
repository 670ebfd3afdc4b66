"""Serialisation of indices: fixed, range and context coding, and the `.avq` file format.

`pack` and `unpack` convert between indices and payloads, `to_frame` and `from_frame` between
payloads and files. The package needs only numpy (and uses constriction if it is installed), so that
edge devices need no tensor library.
"""

from aligned_vq.bitstream.body import CODECS, Codec, pack, unpack
from aligned_vq.bitstream.context.rules import Conditioning
from aligned_vq.bitstream.context.stage_tables import EntryClasses
from aligned_vq.bitstream.context.tables import ContextTables
from aligned_vq.bitstream.frame import BITSTREAM_VERSION, from_frame, to_frame
from aligned_vq.bitstream.layout import Layout, max_body_bytes
from aligned_vq.bitstream.tables import EntropyTables

__all__ = [
    "BITSTREAM_VERSION",
    "CODECS",
    "Codec",
    "Conditioning",
    "ContextTables",
    "EntropyTables",
    "EntryClasses",
    "Layout",
    "from_frame",
    "max_body_bytes",
    "pack",
    "to_frame",
    "unpack",
]
