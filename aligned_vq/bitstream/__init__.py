"""Indices to bytes and back: fixed-width packing, range and context coding, and the file frame.

`pack` and `unpack` are the two verbs; `to_frame` and `from_frame` wrap a payload into a file.
Numpy only, and constriction where it is installed, so that an edge device can use it without a
tensor library.
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
