"""Instructions with labels in, struct sock_filter[] out. LEAN.

The program is laid out from its end to its beginning. Classic BPF only jumps forward, so whatever an instruction jumps
to is already in its place, its distance is known for good, and one pass is enough. A conditional jump reaches 255
instructions (jt and jf are u8); where that is too near, a copy of the target, or a jump to it, is put just behind the
instruction, and later jumps to the same label use that one. Distances are never cut to eight bits (W-44).
"""

from __future__ import annotations

import struct

from sandlock_policy.seccomp.opcodes import JMP_JA, MAX_INSTRUCTIONS, MAX_JUMP, RET_K

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Label: TypeAlias = str | int
    Instruction: TypeAlias = tuple[int, int, Label | None, Label | None]
    Item: TypeAlias = Instruction | Label

__all__ = ["AssemblyError", "assemble"]

_CODE_CLASS = 0x07
_CLASS_JMP = 0x05


class AssemblyError(ValueError):
    """The instructions cannot become a program that the kernel would take: a fault of the caller, never of the user."""


def assemble(items: Sequence[Item]) -> bytes:
    """Return the program as an array of struct sock_filter, little endian.

    An item is an instruction `(code, k, true, false)` or a label, a bare str or int, that names the instruction behind
    it. `true` and `false` are the labels a conditional jump goes to, None for the next instruction; for BPF_JA `true`
    is the target and `k` is ignored. Raises `AssemblyError` for a label that is not ahead, is defined twice or stands
    at the end, for a last instruction that falls through, and for more than 4,096 instructions.
    """
    words: list[int] = []  # the last instruction first; each one as the little-endian u64 that struct sock_filter is
    ahead: dict[Label, int] = {}  # label -> how many instructions there are from it to the end
    marks: set[Label] = set()
    for item in reversed(items):
        if isinstance(item, tuple):
            code, k, true, _ = item
            if not words and code != RET_K:
                raise AssemblyError("the last instruction does not return")
            if code == JMP_JA:
                words.append(code | (len(words) - _position(ahead, true, len(words))) << 32)
            elif code & _CODE_CLASS == _CLASS_JMP:
                words.append(_branch(words, ahead, item))
            else:
                words.append(code | k << 32)
        elif item in marks:
            raise AssemblyError(f"label {item!r} is defined twice")
        elif not words:
            raise AssemblyError(f"label {item!r} stands behind the last instruction")
        else:
            marks.add(item)
            ahead[item] = len(words)
    if not 0 < len(words) <= MAX_INSTRUCTIONS:
        raise AssemblyError(f"{len(words)} instructions; the kernel takes 1 to {MAX_INSTRUCTIONS}")
    words.reverse()
    return struct.pack(f"<{len(words)}Q", *words)


def _branch(words: list[int], ahead: dict[Label, int], instruction: Instruction) -> int:
    """Return the encoded conditional jump, after putting the trampolines it needs into `words`."""
    code, k, true, false = instruction
    following = len(words)
    while True:
        here = len(words)
        for label in (true, false):
            position = _position(ahead, label, following)
            if label is not None and here - position > MAX_JUMP:
                # Safe to put here: the jump in front of it has two explicit targets, so nothing falls into it.
                target = words[position - 1]
                words.append(target if target & 0xFF == RET_K else JMP_JA | (here - position) << 32)
                ahead[label] = here + 1
                break
        else:
            jump_true = here - _position(ahead, true, following)
            jump_false = here - _position(ahead, false, following)
            return code | jump_true << 16 | jump_false << 24 | k << 32


def _position(ahead: dict[Label, int], label: Label | None, following: int) -> int:
    if label is None:
        return following
    position = ahead.get(label)
    if position is None:
        raise AssemblyError(f"label {label!r} is not defined ahead of its use")
    return position
