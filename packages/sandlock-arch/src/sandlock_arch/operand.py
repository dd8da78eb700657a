"""Check the operands of instructions: a value that does not fit is an error, never cut off."""

from __future__ import annotations

from collections.abc import Mapping

from sandlock_arch.errors import EncodeError

__all__ = ["number_of", "signed", "unsigned", "word64"]


def signed(value: int, bits: int, scale: int = 1) -> int:
    """Return `value / scale` as a two's complement field of `bits` bits; raise `EncodeError` if it does not fit."""
    units, rest = divmod(value, scale)
    if rest:
        raise EncodeError(f"{value:#x} is not a multiple of {scale}")
    if not -(1 << bits - 1) <= units < 1 << bits - 1:
        raise EncodeError(f"{value:#x} does not fit a signed field of {bits} bits in steps of {scale}")
    return units & (1 << bits) - 1


def unsigned(value: int, bits: int, scale: int = 1) -> int:
    """Return `value / scale` as an unsigned field of `bits` bits; raise `EncodeError` if it does not fit."""
    units, rest = divmod(value, scale)
    if rest or not 0 <= units < 1 << bits:
        raise EncodeError(f"{value:#x} does not fit an unsigned field of {bits} bits in steps of {scale}")
    return units


def word64(value: int) -> int:
    """Return a 64-bit value, given signed or unsigned, as unsigned; raise `EncodeError` if it has more bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise EncodeError(f"{value:#x} does not fit 64 bits")
    return value & (1 << 64) - 1


def number_of(numbers: Mapping[str, int], register: str) -> int:
    """Return the number of a register in instructions; raise `EncodeError` for a name that is none."""
    try:
        return numbers[register]
    except KeyError:
        raise EncodeError(f"no general register {register!r}") from None
