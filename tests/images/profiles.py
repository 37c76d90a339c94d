"""Colour profiles made by hand, as small as the format allows."""

from __future__ import annotations

import struct


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """A minimal ICC version 2 profile."""
    tags = {b"desc": description("made by a test"), b"wtpt": xyz(0.9642, 1, 0.8249), **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    light = struct.pack(">iii", 63190, 65536, 54061)
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48s",
        *(start + len(body), b"", 0x02400000, b"mntr" if space != b"CMYK" else b"prtr", space, connection),
        *(struct.pack(">6H", 2020, 1, 1, 0, 0, 0), b"acsp", b"", light, b""),
    )
    return head + struct.pack(">I", len(tags)) + table + body


def description(text: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode() + b"\0" + b"\0" * 78


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in values))


LINEAR = b"curv\0\0\0\0\0\0\0\0"


def linear_rgb() -> bytes:
    """The primaries of sRGB with a straight tone curve."""
    primaries = {
        b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
    }
    return profile(b"RGB ", {**primaries, b"rTRC": LINEAR, b"gTRC": LINEAR, b"bTRC": LINEAR})


def black_ink_only() -> bytes:
    """A press on which only the black ink shows: lightness falls with K, and C, M and Y do nothing."""
    straight = bytes(range(256))
    grid = b"".join(bytes([0 if node & 1 else 255, 128, 128]) for node in range(16))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + straight * 4 + grid + straight * 3
    return profile(b"CMYK", {name: lut for name in (b"A2B0", b"A2B1", b"A2B2")}, b"Lab ")


def wide_rgb() -> bytes:
    """The primaries of Adobe RGB (1998), adapted to D50, with a gamma of 2.2."""
    primaries = {
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
    }
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    return profile(b"RGB ", {**primaries, b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma})
