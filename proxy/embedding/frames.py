"""The frames between the proxy and the worker that holds the models: one byte of kind, a body.

On the pipe each frame is preceded by its length (u32, little endian, kind included). Bodies are
JSON, but for vectors: u32 count, u32 dim, count ids (u64), count * dim float32.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Literal

LENGTH = struct.Struct("<I")
FRAME_BYTES_MAX = 1 << 30

_SHAPE = struct.Struct("<II")


class NoVector(Exception):
    """A text has no vector: the model gave none, or one that is not a direction."""


class Kind(IntEnum):
    """What a frame says."""

    START = 1
    """To the worker: which models, how."""
    READY = 2
    """From the worker: the models are loaded; their dimensions."""
    FAILED = 3
    """From the worker: a model cannot be loaded; it ends after this."""
    EMBED = 4
    """To the worker: texts."""
    VECTORS = 5
    """From the worker: vectors of some of the texts."""
    REFUSED = 6
    """From the worker: some texts have no vector, and why."""
    CANCEL = 7
    """To the worker: texts that nobody waits for any more; it refuses those it has not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the worker loads.

    Attributes:
        locations: folder or name by model.
        lanes: threads that each compute a chunk of texts.
        lane_threads: threads within one computation.
    """

    locations: Mapping[str, str]
    backend: Literal["torch", "onnx"]
    lanes: int
    lane_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Texts to be embedded; those of a search are urgent."""

    model: str
    urgent: bool
    ids: Sequence[int]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Texts that need not be computed."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Texts without a vector.

    Attributes:
        text: the text itself is at fault: the model will never have a vector for it.
    """

    ids: Sequence[int]
    message: str
    text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A model that cannot be loaded."""

    model: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Packed vectors (float32, little endian, 4 * dim bytes each) by text id."""

    dim: int
    by_id: Mapping[int, bytes]


def encode(
    kind: Kind, body: Start | Embed | Cancel | Refused | Failed | Mapping[str, int]
) -> bytes:
    """Return the frame of a JSON body, with its length in front."""
    data = body if isinstance(body, Mapping) else asdict(body)
    return _framed(kind, json.dumps(data).encode("ascii"))


def encode_vectors(ids: Sequence[int], dim: int, packed: bytes) -> bytes:
    """Return a VECTORS frame; `packed` holds len(ids) * dim float32, little endian."""
    if len(packed) != len(ids) * dim * 4:
        raise ValueError(f"{len(packed)} bytes are not {len(ids)} vectors of {dim} float32")
    head = _SHAPE.pack(len(ids), dim) + struct.pack(f"<{len(ids)}Q", *ids)
    return _framed(Kind.VECTORS, head + packed)


def decode_vectors(body: bytes) -> Vectors:
    """Return the vectors of a VECTORS body.

    Raises:
        ValueError: the body's length is not what its head says.
    """
    count, dim = _SHAPE.unpack_from(body)
    start = _SHAPE.size + 8 * count
    width = 4 * dim
    if len(body) != start + count * width:
        raise ValueError(f"{len(body)} bytes are not {count} vectors of {dim} float32")
    ids = struct.unpack_from(f"<{count}Q", body, _SHAPE.size)
    found = {
        text_id: body[start + at * width : start + (at + 1) * width]
        for at, text_id in enumerate(ids)
    }
    return Vectors(dim=dim, by_id=found)


def decode(body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body."""
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("a frame's body must be an object")
    return found


def _framed(kind: Kind, body: bytes) -> bytes:
    return LENGTH.pack(len(body) + 1) + bytes((kind,)) + body
