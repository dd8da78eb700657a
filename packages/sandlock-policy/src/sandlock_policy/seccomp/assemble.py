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
    marks = 0
    for item in reversed(items):
        if not isinstance(item, tuple):
            marks += 1
            ahead[item] = len(words)
            continue
        code, k, true, false = item
        here = len(words)
        if code & _CODE_CLASS != _CLASS_JMP:
            words.append(code | k << 32)
            continue
        try:
            jump_true = 0 if true is None else here - ahead[true]
            jump_false = 0 if false is None else here - ahead[false]
        except KeyError as error:
            raise AssemblyError(f"label {error.args[0]!r} is not defined ahead of its use") from None
        if code == JMP_JA:
            words.append(code | jump_true << 32)
        elif jump_true <= MAX_JUMP and jump_false <= MAX_JUMP:
            words.append(code | jump_true << 16 | jump_false << 24 | k << 32)
        else:
            words.append(_far_branch(words, ahead, item))
    _check(words, ahead, marks)
    words.reverse()
    return struct.pack(f"<{len(words)}Q", *words)


def _far_branch(words: list[int], ahead: dict[Label, int], instruction: Instruction) -> int:
    """Return the encoded conditional jump, after putting the trampolines it needs into `words`."""
    code, k, true, false = instruction
    following = len(words)
    while True:
        here = len(words)
        position_true = following if true is None else ahead[true]
        position_false = following if false is None else ahead[false]
        if true is not None and here - position_true > MAX_JUMP:
            ahead[true] = _trampoline(words, position_true)
        elif false is not None and here - position_false > MAX_JUMP:
            ahead[false] = _trampoline(words, position_false)
        else:
            return code | (here - position_true) << 16 | (here - position_false) << 24 | k << 32


def _trampoline(words: list[int], position: int) -> int:
    """Append a way to the instruction at `position`, and return where it is.

    The jump that will stand in front of it has two explicit targets, so nothing falls into it.
    """
    target = words[position - 1]
    words.append(target if target & 0xFF == RET_K else JMP_JA | (len(words) - position) << 32)
    return len(words)


def _check(words: list[int], ahead: dict[Label, int], marks: int) -> None:
    """Raise `AssemblyError` for what the kernel would refuse, and for labels that cannot be meant."""
    if not 0 < len(words) <= MAX_INSTRUCTIONS:
        raise AssemblyError(f"{len(words)} instructions; the kernel takes 1 to {MAX_INSTRUCTIONS}")
    if words[0] & 0xFF != RET_K:
        raise AssemblyError("the last instruction does not return")
    if marks != len(ahead):
        raise AssemblyError(f"{marks - len(ahead)} labels are defined twice")
    if 0 in ahead.values():
        raise AssemblyError("a label stands behind the last instruction")
