"""vDSO images are read as they are, patched where there is room, and never beyond it."""

from __future__ import annotations

import struct

import pytest
from arch_elf import PAGE, Function, build
from arch_emulator import CODE, DATA, Machine
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock_arch
from sandlock_arch import Architecture
from sandlock_arch.errors import ArchError, VdsoError
from sandlock_arch.stub import ClockGettime, ForceSyscall, Gettimeofday, StubOperation, forced, shifted_time
from sandlock_arch.vdso import MAX_IMAGE, read_image
from sandlock_arch.vdso_patch import VdsoPatch, plan
from sandlock_testkit.profiles import examples

SECOND = 1_000_000_000  # ns


def functions(architecture: Architecture, size: int, code: bytes = b"") -> list[Function]:
    return [Function(symbol, size, code) for symbol in architecture.vdso_stubs.ENTRIES.values()]


def assert_only_allowed_bytes_change(architecture: Architecture, image: bytes, patch: VdsoPatch) -> None:
    """Assert that every changed byte belongs to a patched function or was slack."""
    known = read_image(image, architecture.elf_machine)
    allowed = set(known.slack)
    for symbol in known.symbols.values():
        if symbol.name in architecture.vdso_stubs.ENTRIES.values():
            allowed |= set(range(symbol.offset, symbol.offset + symbol.room))
    patched = patch.applied_to(image)
    assert len(patched) == len(image)
    assert {at for at in range(len(image)) if image[at] != patched[at]} <= allowed


def test_symbols_and_slack_are_found(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, [Function("one", 100), Function("two", 33)], pages=2, gap=7)
    known = read_image(image, architecture.elf_machine)
    one, two = known.symbols["one"], known.symbols["two"]
    assert image[one.offset : one.offset + 100] == b"\xee" * 100
    assert (one.room, two.room, two.offset) == (100, 33, one.offset + 107)
    assert known.slack.stop == 2 * PAGE
    assert not any(image[known.slack.start :])
    # The slack starts behind the section headers, which stand last: nothing of them is given away, zero or not.
    headers_end = struct.unpack_from("<Q", image, 40)[0] + 2 * 64
    assert known.slack.start == (headers_end + 15) // 16 * 16


def test_zeros_inside_a_section_are_not_slack(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, [Function("one", 100), Function("zeros", 2000)], filler=b"\0")
    known = read_image(image, architecture.elf_machine)
    assert known.slack.start >= known.symbols["zeros"].offset + 2000


def test_bytes_behind_the_last_claim_are_not_slack(architecture: Architecture) -> None:
    image = bytearray(build(architecture.elf_machine, [Function("one", 100)]))
    image[3000] = 1
    assert read_image(bytes(image), architecture.elf_machine).slack == range(3008, PAGE)
    image[PAGE - 1] = 1
    assert len(read_image(bytes(image), architecture.elf_machine).slack) == 0


def test_image_without_section_headers_is_read(architecture: Architecture) -> None:
    image = bytearray(build(architecture.elf_machine, [Function("one", 100)]))
    struct.pack_into("<Q", image, 40, 0)  # e_shoff
    struct.pack_into("<HHH", image, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    assert read_image(bytes(image), architecture.elf_machine).symbols["one"].room == 100


def test_room_ends_where_the_next_symbol_begins(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, [Function("one", 32, claims=100), Function("two", 32)])
    assert read_image(image, architecture.elf_machine).symbols["one"].room == 32


def test_large_functions_are_replaced_in_place(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, functions(architecture, 160))
    entries = architecture.vdso_stubs.ENTRIES
    operations = {**forced(entries), **shifted_time(entries, -5)}
    patch = plan(architecture, image, operations)
    known = read_image(image, architecture.elf_machine)
    assert patch.absent == ()
    assert {write.offset for write in patch.writes} == {known.symbols[name].offset for name in entries.values()}
    assert_only_allowed_bytes_change(architecture, image, patch)


@pytest.mark.parametrize("gap", [0, 8])
def test_small_functions_jump_into_the_slack_and_work(machine: Machine, gap: int) -> None:
    architecture = machine.architecture
    entries = architecture.vdso_stubs.ENTRIES
    image = build(architecture.elf_machine, functions(architecture, 8), gap=gap)
    operations = {**forced(entries), **shifted_time(entries, 3 * SECOND)}
    patch = plan(architecture, image, operations)
    assert_only_allowed_bytes_change(architecture, image, patch)
    patched = patch.applied_to(image)
    symbols = read_image(image, architecture.elf_machine).symbols

    entry = CODE + symbols[entries["clock_gettime"]].offset
    outcome = machine.call(patched, 0, DATA, entry=entry)
    assert outcome.result == 0
    assert machine.read_words(DATA, 2) == (machine.kernel.now[0] + 3, machine.kernel.now[1])
    assert not outcome.changed & set(architecture.abi.callee_saved)

    machine.kernel.calls.clear()
    machine.call(patched, 1, DATA, entry=CODE + symbols[entries["clock_getres"]].offset)
    assert machine.kernel.calls[0][0] == architecture.syscalls["clock_getres"]


def test_code_behind_a_jump_is_written_before_the_jump(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, functions(architecture, 8))
    patch = plan(architecture, image, shifted_time(architecture.vdso_stubs.ENTRIES, 1))
    slack = read_image(image, architecture.elf_machine).slack
    places = [write.offset in slack for write in patch.writes]
    assert places == sorted(places, reverse=True)
    assert any(places)
    assert not all(places)


def test_function_too_small_for_a_jump_is_an_error(architecture: Architecture) -> None:
    size = len(architecture.encode.jump(0, 0)) - 1
    image = build(architecture.elf_machine, functions(architecture, size), gap=64 - size)
    with pytest.raises(VdsoError, match="too few even for a jump") as caught:
        plan(architecture, image, {"clock_getres": ForceSyscall("clock_getres")})
    assert caught.value.entry == "clock_getres"


def test_full_mapping_is_an_error(architecture: Architecture) -> None:
    names = [Function("__filler", 3000), *functions(architecture, 8)]
    free = len(read_image(build(architecture.elf_machine, names), architecture.elf_machine).slack)
    names[0] = Function("__filler", 3000 + free - 64)
    image = build(architecture.elf_machine, names)
    assert len(read_image(image, architecture.elf_machine).slack) in range(48, 80)
    operations: dict[str, StubOperation] = {"clock_gettime": ClockGettime(1 << 60)}
    with pytest.raises(VdsoError, match="are needed behind the code and") as caught:
        plan(architecture, image, operations)
    assert caught.value.entry == "clock_gettime"
    # The control: one page more, and it fits.
    assert plan(architecture, build(architecture.elf_machine, names, pages=2), operations).writes


def test_absent_functions_are_reported(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, [Function(architecture.vdso_stubs.ENTRIES["clock_gettime"], 200)])
    patch = plan(architecture, image, forced(["clock_gettime", "getrandom"]))
    assert patch.absent == ("getrandom",)
    assert len(patch.writes) == 1


def test_unknown_entry_is_an_error(architecture: Architecture) -> None:
    image = build(architecture.elf_machine, functions(architecture, 8))
    with pytest.raises(VdsoError, match="no such vDSO function"):
        plan(architecture, image, {"clock_getime": ForceSyscall("clock_gettime")})


def test_patched_image_can_be_patched_anew(machine: Machine) -> None:
    architecture = machine.architecture
    image = build(architecture.elf_machine, functions(architecture, 12), pages=2)
    entry = (
        CODE
        + read_image(image, architecture.elf_machine).symbols[architecture.vdso_stubs.ENTRIES["gettimeofday"]].offset
    )
    for offset_s in (5, -9, 0):
        operations: dict[str, StubOperation] = {"gettimeofday": Gettimeofday(offset_s * SECOND)}
        image = plan(architecture, image, operations).applied_to(image)
        machine.call(image, DATA, 0, entry=entry)
        assert machine.read_words(DATA, 1) == (machine.kernel.now[0] + offset_s,)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("x86_64", "f30f1efa", "f30f1efa"),
        ("x86_64", "554889e5", ""),
        ("aarch64", "5f2403d5", "5f2403d5"),  # bti c
        ("aarch64", "3f2303d5", "5f2403d5"),  # paciasp lands too; its pair, autiasp, goes with the body
        ("aarch64", "fd7bbfa9", ""),
        ("riscv64", "17000000", "17000000"),  # lpad 0
        ("riscv64", "17500000", "17500000"),  # lpad 5
        ("riscv64", "17030000", ""),  # auipc t1: no landing pad
    ],
)
@pytest.mark.parametrize("size", [16, 200])
def test_landing_pads_stay_first(name: str, before: str, after: str, size: int) -> None:
    architecture = sandlock_arch.get(name)
    image = build(architecture.elf_machine, functions(architecture, size, bytes.fromhex(before)))
    patch = plan(architecture, image, {"clock_gettime": ClockGettime(SECOND)})
    symbol = read_image(image, architecture.elf_machine).symbols[architecture.vdso_stubs.ENTRIES["clock_gettime"]]
    (entry,) = (write.data for write in patch.writes if write.offset == symbol.offset)
    body = entry[len(after) // 2 :]
    assert entry.hex().startswith(after)
    assert body == architecture.vdso_stubs.lower(ClockGettime(SECOND)) if size == 200 else len(body) <= 8


def test_two_entries_with_one_address_are_an_error() -> None:
    architecture = sandlock_arch.get("x86_64")
    image = build(62, [Function("__vdso_getcpu", 0, claims=64), Function("__vdso_time", 64)])
    with pytest.raises(VdsoError, match="shares its code"):
        plan(architecture, image, forced(["getcpu", "time"]))


def test_image_of_another_machine_is_refused() -> None:
    with pytest.raises(VdsoError, match="made for ELF machine 183, not 62"):
        read_image(build(183, [Function("one", 8)]), 62)


@pytest.mark.parametrize("image", [b"", b"\x7fELF", bytes(4096), b"\x7fELF\x01\x01\x01" + bytes(4096)])
def test_what_is_no_image_is_refused(image: bytes) -> None:
    with pytest.raises(VdsoError):
        read_image(image, 62)


def test_large_image_is_refused_unread() -> None:
    with pytest.raises(VdsoError, match="larger than any vDSO"):
        read_image(bytes(MAX_IMAGE + 1), 62)


def test_symbol_outside_the_image_is_refused() -> None:
    with pytest.raises(VdsoError, match="lies outside"):
        read_image(build(62, [Function("one", 8, claims=1 << 40)]), 62)


@pytest.mark.parametrize(
    ("at", "form", "values"),
    [
        (40, "<Q", (64,)),  # e_shoff with e_shnum 0: section 0 counts the sections
        (56, "<H", (0xFFFF,)),  # e_phnum: section 0 counts the segments
        (58, "<H", (0,)),  # e_shentsize: sections that never end
        (60, "<H", (300,)),  # e_shnum
    ],
)
def test_headers_that_would_count_without_end_are_refused(
    architecture: Architecture, at: int, form: str, values: tuple[int, ...]
) -> None:
    image = bytearray(build(architecture.elf_machine, functions(architecture, 8)))
    if at == 40:
        struct.pack_into("<H", image, 60, 0)
    struct.pack_into(form, image, at, *values)
    with pytest.raises(VdsoError):
        read_image(bytes(image), architecture.elf_machine)


def test_dynamic_segment_without_end_is_refused(architecture: Architecture) -> None:
    image = bytearray(build(architecture.elf_machine, functions(architecture, 8)))
    size_at = 64 + 56 + 32  # p_filesz of the second segment
    (size,) = struct.unpack_from("<Q", image, size_at)
    struct.pack_into("<Q", image, size_at, size - 16)
    with pytest.raises(VdsoError, match="without an end"):
        read_image(bytes(image), architecture.elf_machine)


def test_image_linked_at_an_address_is_read(architecture: Architecture) -> None:
    plain = build(architecture.elf_machine, [Function("one", 100)])
    high = build(architecture.elf_machine, [Function("one", 100)], linked_at=0xFFFF_FFFF_FF70_0000)
    expected = read_image(plain, architecture.elf_machine)
    assert read_image(high, architecture.elf_machine) == expected


@settings(max_examples=examples(500), deadline=None)
@given(data=st.data())
def test_hostile_image_costs_an_error_and_no_more(data: st.DataObject) -> None:
    architecture = sandlock_arch.get(data.draw(st.sampled_from(sandlock_arch.names())))
    image = bytearray(build(architecture.elf_machine, functions(architecture, 8), pages=2))
    end = len(image.rstrip(b"\0"))
    for _ in range(data.draw(st.integers(1, 6))):
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        at = data.draw(st.integers(16, end - 8)) // width * width
        value = data.draw(
            st.one_of(st.integers(0, (1 << 8 * width) - 1), st.sampled_from([0, 1, 255, (1 << 8 * width) - 1]))
        )
        image[at : at + width] = value.to_bytes(width, "little")
    hostile = bytes(image)
    operations = forced(architecture.vdso_stubs.ENTRIES)
    try:
        patch = plan(architecture, hostile, operations)
    except ArchError:
        return
    for write in patch.writes:
        assert 0 <= write.offset <= write.offset + len(write.data) <= len(hostile)
    assert_only_allowed_bytes_change(architecture, hostile, patch)
