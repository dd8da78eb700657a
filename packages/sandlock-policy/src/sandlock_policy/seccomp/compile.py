"""From rules to a classic BPF program. LEAN.

The program is: the architecture, killed if foreign; a binary search tree over the system call numbers, whose leaves
are verdicts or blocks; the blocks, which test arguments; the verdicts. A call that is simply allowed is decided by
number and architecture alone, so that the kernel (5.11) finds it in its bitmap and does not run the program at all.

Labels of the assembler: an int is the instruction that returns this value, a str is a place in the program.
"""

from __future__ import annotations

from sandlock_policy.seccomp.assemble import assemble
from sandlock_policy.seccomp.opcodes import (
    ALU_AND_K,
    ARGUMENT_OFFSET,
    ARGUMENT_STRIDE,
    DATA_ARCH,
    DATA_NR,
    JMP_JEQ_K,
    JMP_JGE_K,
    JMP_JGT_K,
    JMP_JSET_K,
    LD_W_ABS,
    RET_K,
    RET_KILL_PROCESS,
)
from sandlock_policy.seccomp.rules import ANY_BIT, BETWEEN, ONE_OF, Condition, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from sandlock_arch import Architecture
    from sandlock_policy.seccomp.assemble import Item, Label
    from sandlock_policy.seccomp.rules import FilterSpec

    Segment: TypeAlias = tuple[int, Label]

__all__ = ["compile_spec"]

_LOW = 0xFFFFFFFF


def compile_spec(arch: Architecture, spec: FilterSpec) -> bytes:
    """Return the program for `spec` on `arch` as an array of struct sock_filter, little endian.

    Raises `AssemblyError` if it has more than 4,096 instructions.
    """
    by_call: dict[str, list[Rule]] = {}
    for rule in spec.rules:
        rules = by_call.setdefault(rule.syscall, [])
        if not rules or rules[-1].conditions:  # behind a rule without conditions nothing is reached
            rules.append(rule)
    targets: dict[int, Label] = {}
    labels: dict[tuple[object, ...], str] = {}  # calls with the same rules share a block
    blocks: list[Item] = []
    for call, rules in by_call.items():
        number = arch.syscalls.get(call)
        if number is None:
            continue
        if not rules[0].conditions:
            targets[number] = rules[0].action
            continue
        merged = _merged(rules)
        key = tuple([(rule.conditions, rule.action) for rule in merged])
        label = labels.get(key)
        if label is None:
            label = labels[key] = call
            _emit_block(blocks, call, merged, spec.default)
        targets[number] = label
    items: list[Item] = [
        (LD_W_ABS, DATA_ARCH, None, None),
        (JMP_JEQ_K, arch.audit_arch, None, RET_KILL_PROCESS),
        (LD_W_ABS, DATA_NR, None, None),
    ]
    _emit_tree(items, _units(_segments(arch, spec, targets)))
    items += blocks
    actions = {spec.default, spec.unreviewed, RET_KILL_PROCESS}
    actions.update([rule.action for rule in spec.rules])
    for action in sorted(actions):
        items += (action, (RET_K, action, None, None))
    return assemble(items)


def _segments(arch: Architecture, spec: FilterSpec, targets: dict[int, Label]) -> list[Segment]:
    """Return (first number, target), ascending; each reaches up to the next, the last one to 2^32."""
    segments: list[Segment] = []
    previous: Label | None = None
    expected = 0
    for number in sorted(arch.syscalls.values()):
        if number > expected and previous != spec.unreviewed:
            previous = spec.unreviewed
            segments.append((expected, previous))
        target = targets.get(number, spec.default)
        if target != previous:
            previous = target
            segments.append((number, target))
        expected = number + 1
    segments.append((expected, spec.unreviewed))
    if arch.foreign_bit:
        segments.append((arch.foreign_bit, RET_KILL_PROCESS))
    return segments


def _units(segments: list[Segment]) -> list[tuple[int, Label, int | None, Label | None]]:
    """Fold each single number that lies between two segments of one target into them, as an exception.

    Returns (first number, target, exception or None, target of the exception): one JEQ is less than two JGE.
    """
    units: list[tuple[int, Label, int | None, Label | None]] = []
    index = 0
    count = len(segments)
    while index < count:
        start, target = segments[index]
        if index + 2 < count and segments[index + 2] == (segments[index + 1][0] + 1, target):
            exception, other = segments[index + 1]
            units.append((start, target, exception, other))
            index += 3
        else:
            units.append((start, target, None, None))
            index += 1
    return units


def _emit_tree(items: list[Item], units: list[tuple[int, Label, int | None, Label | None]]) -> None:
    """Append the search for the unit that the number in A belongs to. It needs no load but that of the number."""
    if len(units) == 1:
        _, target, exception, other = units[0]
        # A leaf without exception is met only where the whole tree is one: its parent jumps to the target itself.
        items.append((JMP_JEQ_K, 0 if exception is None else exception, other or target, target))
        return
    middle = len(units) // 2
    low, high = units[:middle], units[middle:]
    low_target = low[0][1] if len(low) == 1 and low[0][2] is None else None
    high_target = high[0][1] if len(high) == 1 and high[0][2] is None else None
    start = high[0][0]
    if high_target is None:
        items.append((JMP_JGE_K, start, f"from {start}" if low_target is None else None, low_target))
    else:
        items.append((JMP_JGE_K, start, high_target, low_target))
    if low_target is None:
        _emit_tree(items, low)
    if high_target is None:
        if low_target is None:
            items.append(f"from {start}")
        _emit_tree(items, high)


def _merged(rules: list[Rule]) -> list[Rule]:
    """Join neighbours that differ only in the values their last condition looks for: one load, then a JEQ for each."""
    merged: list[Rule] = []
    index = 0
    while index < len(rules):
        rule = rules[index]
        end = index + 1
        values: list[int] = []
        while end < len(rules) and _differ_in_values(rule, rules[end]):
            values += rules[end].conditions[-1].values
            end += 1
        if values:
            last = rule.conditions[-1]
            joined = Condition(last.argument, ONE_OF, last.mask, (*last.values, *values), last.wide, negate=False)
            rule = Rule(rule.syscall, (*rule.conditions[:-1], joined), rule.action, rule.reason)
        merged.append(rule)
        index = end
    return merged


def _differ_in_values(one: Rule, other: Rule) -> bool:
    if one.action != other.action or not one.conditions or len(one.conditions) != len(other.conditions):
        return False
    last, others_last = one.conditions[-1], other.conditions[-1]
    return (
        last.kind == others_last.kind == ONE_OF
        and last.argument == others_last.argument
        and last.mask == others_last.mask
        and last.wide == others_last.wide
        and not (last.negate or others_last.negate)
        and one.conditions[:-1] == other.conditions[:-1]
    )


def _emit_block(items: list[Item], name: str, rules: list[Rule], default: int) -> None:
    """Append the rules of one call. Every path ends in a jump to a verdict, so nothing falls out of the end."""
    items.append(name)
    loaded: int | None = None  # which low word is in A here, whichever way one came
    for index, rule in enumerate(rules):
        following = rules[index + 1] if index + 1 < len(rules) else None
        if following is None:
            otherwise: Label = default
        elif not following.conditions:
            otherwise = following.action
        else:
            otherwise = f"{name} rule {index + 1}"
        left: set[int | None] = set()
        for position, condition in enumerate(rule.conditions):
            if position + 1 == len(rule.conditions):
                loaded = _emit_condition(items, condition, rule.action, otherwise, loaded)
            else:
                holds = f"{name} rule {index} condition {position + 1}"
                loaded = _emit_condition(items, condition, holds, otherwise, loaded)
                items.append(holds)
            left.add(loaded)
        if following is None or not following.conditions:
            return
        items.append(otherwise)
        loaded = left.pop() if len(left) == 1 else None


def _emit_condition(
    items: list[Item], condition: Condition, true: Label, false: Label, loaded: int | None
) -> int | None:
    """Append one test; return the argument whose low word is in A behind it on every way out, or None."""
    if condition.negate:
        true, false = false, true
    if condition.wide:
        _emit_wide(items, condition, true, false)
        return None
    argument = condition.argument
    if loaded != argument:
        items.append((LD_W_ABS, ARGUMENT_OFFSET + ARGUMENT_STRIDE * argument, None, None))
    if condition.kind == BETWEEN:
        low, high = condition.values
        items.append((JMP_JGE_K, low, None, false))
        items.append((JMP_JGT_K, high, false, true))
        return argument
    if condition.kind == ANY_BIT:
        items.append((JMP_JSET_K, condition.mask & _LOW, true, false))
        return argument
    masked = condition.mask & _LOW != _LOW
    if masked:
        items.append((ALU_AND_K, condition.mask & _LOW, None, None))
    _emit_one_of(items, condition.values, true, false)
    return None if masked else argument


def _emit_one_of(items: list[Item], values: tuple[int, ...], true: Label, false: Label) -> None:
    """Append the comparison of A with each of `values`."""
    items += [(JMP_JEQ_K, value & _LOW, true, None) for value in values[:-1]]
    items.append((JMP_JEQ_K, values[-1] & _LOW, true, false))


def _emit_wide(items: list[Item], condition: Condition, true: Label, false: Label) -> None:
    """Append a test of all 64 bits, high word first."""
    low_offset = ARGUMENT_OFFSET + ARGUMENT_STRIDE * condition.argument
    load_low = (LD_W_ABS, low_offset, None, None)
    load_high = (LD_W_ABS, low_offset + 4, None, None)
    place = f"place {len(items)} for"  # the items of all blocks are in one list, so this is unique
    items.append(load_high)
    if condition.kind == ANY_BIT:
        items.append((JMP_JSET_K, condition.mask >> 32, true, None))
        items.append(load_low)
        items.append((JMP_JSET_K, condition.mask & _LOW, true, false))
        return
    if condition.kind == BETWEEN:
        low, high = condition.values
        at_least = f"{place} the upper bound"
        items.append((JMP_JGT_K, low >> 32, at_least, None))
        items.append((JMP_JEQ_K, low >> 32, None, false))
        items.append(load_low)
        items.append((JMP_JGE_K, low & _LOW, None, false))
        items.append(at_least)
        items.append(load_high)
        items.append((JMP_JGT_K, high >> 32, false, None))
        items.append((JMP_JEQ_K, high >> 32, None, true))
        items.append(load_low)
        items.append((JMP_JGT_K, high & _LOW, false, true))
        return
    if condition.mask >> 32 != _LOW:
        items.append((ALU_AND_K, condition.mask >> 32, None, None))
    by_high: dict[int, list[int]] = {}
    for value in condition.values:
        by_high.setdefault(value >> 32, []).append(value & _LOW)
    highs = list(by_high)
    items += [(JMP_JEQ_K, high, f"{place} {high}", None) for high in highs[:-1]]
    items.append((JMP_JEQ_K, highs[-1], f"{place} {highs[-1]}", false))
    for high, lows in by_high.items():
        items.append(f"{place} {high}")
        items.append(load_low)
        if condition.mask & _LOW != _LOW:
            items.append((ALU_AND_K, condition.mask & _LOW, None, None))
        _emit_one_of(items, tuple(lows), true, false)
