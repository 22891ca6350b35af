"""Messages between host and guest: a JSON header and raw arrays behind it, on one byte stream.

    4 bytes  length of the header, big-endian
    header   JSON object; its key "arrays" lists {"dtype", "shape"} of what follows
    arrays   raw little-endian bytes, in that order

The host treats everything it receives as hostile: every length is checked before it is read.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

DTYPES = frozenset({"uint8", "int32", "int64", "float32"})
MAX_HEADER_BYTES = 4 << 20
MAX_ARRAYS = 16
MAX_DIMENSIONS = 5


class WireError(Exception):
    """The other side sent something that is not a message, or more than it may."""


@dataclass(frozen=True)
class Message:
    """One message in either direction."""

    header: Mapping[str, object]
    arrays: Sequence[Array] = field(default=())


def encode(message: Message) -> list[bytes | memoryview]:
    """The message as chunks, ready to be written in order without copying its arrays."""
    arrays = [np.ascontiguousarray(array) for array in message.arrays]
    described = [{"dtype": a.dtype.name, "shape": list(a.shape)} for a in arrays]
    header = json.dumps({**message.header, "arrays": described}).encode()
    return [
        struct.pack(">I", len(header)),
        header,
        *(a.reshape(-1).view(np.uint8).data for a in arrays),
    ]


def receive(read: Callable[[int], bytes | bytearray], *, max_array_bytes: int) -> Message:
    """Read one message; ``read(n)`` returns exactly n bytes or raises ``EOFError``.

    Raises:
        WireError: a length, shape or type is outside its bounds, or the header is not JSON.
    """
    (length,) = struct.unpack(">I", read(4))
    if length > MAX_HEADER_BYTES:
        raise WireError(f"a header of {length} bytes")
    try:
        header = json.loads(read(length))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WireError("a header that is not an object")
    described = header.pop("arrays", [])
    if not isinstance(described, list) or len(described) > MAX_ARRAYS:
        raise WireError("a bad list of arrays")
    left = max_array_bytes
    arrays: list[Array] = []
    for entry in described:
        dtype, shape, size = _described(entry)
        left -= size
        if left < 0:
            raise WireError(f"more than {max_array_bytes} bytes of arrays")
        arrays.append(np.frombuffer(read(size), dtype=dtype).reshape(shape))
    return Message(header, arrays)


def _described(entry: object) -> tuple[np.dtype[np.generic], list[int], int]:
    if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
        raise WireError(f"an array of unknown type: {str(entry)[:80]}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"an array of bad shape: {str(shape)[:80]}")
    if not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise WireError(f"an array of bad shape: {str(shape)[:80]}")
    dtype: np.dtype[np.generic] = np.dtype(entry["dtype"])
    return dtype, shape, math.prod(shape) * dtype.itemsize
