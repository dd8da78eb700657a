"""maps and smaps: written as the kernel writes them, read back the same; real files with nasty names."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_sys import proc
from sandlock_sys.errors import ProcParseError

U64 = st.integers(0, 2**64 - 1)
# What d_path can yield, but for the two forms that are the same for the kernel itself (its own escape, " (deleted)").
PATHS = (
    st.binary(max_size=60).filter(lambda name: b"\0" not in name and b"\\" not in name).map(lambda name: b"/" + name)
)
NAMES = st.one_of(
    st.just(b""), st.sampled_from([b"[heap]", b"[stack]", b"[vdso]", b"[anon:a b]", b"anon_inode:[io_uring]"]), PATHS
)


@st.composite
def mappings(draw: st.DrawFn) -> proc.Mapping:
    start, end = sorted(draw(st.tuples(U64, U64).filter(lambda pair: pair[0] != pair[1])))
    name = draw(NAMES.filter(lambda name: not name.endswith(b" (deleted)")))
    real = name.startswith(b"/")
    return proc.Mapping(
        start,
        end,
        *draw(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans())),
        offset=draw(U64),
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1))),
        inode=draw(st.integers(1, 2**64 - 1)) if real else 0,
        name=name,
        deleted=draw(st.booleans()) if real else False,
    )


def written(mapping: proc.Mapping) -> bytes:
    """As show_map_vma() of the kernel does it."""
    flags = "".join(
        letter if having else "-"
        for letter, having in zip("rwx", (mapping.readable, mapping.writable, mapping.executable), strict=True)
    )
    line = b"%08x-%08x %s%s %08x %02x:%02x %d " % (
        mapping.start,
        mapping.end,
        flags.encode(),
        b"s" if mapping.shared else b"p",
        mapping.offset,
        *mapping.device,
        mapping.inode,
    )
    if mapping.name:
        name = mapping.name.replace(b"\n", b"\\012") + (b" (deleted)" if mapping.deleted else b"")
        line = line.ljust(73) + name
    return line + b"\n"


@given(st.lists(mappings(), max_size=5))
def test_what_the_kernel_writes_is_read_back(expected: list[proc.Mapping]) -> None:
    assert proc.parse_maps(b"".join(map(written, expected))) == tuple(expected)


@given(st.lists(mappings(), max_size=3), st.data())
def test_a_damaged_file_is_an_error_or_reads_differently_but_never_crashes(
    lines: list[proc.Mapping], data: st.DataObject
) -> None:
    text = bytearray(b"".join(map(written, lines)))
    if text:
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProcParseError):
        assert len(proc.parse_maps(bytes(text))) <= len(lines) + 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"00400000-00452000 r-xp 00000000 08:02 ",
        b"00400000-00452000 r-xq 00000000 08:02 173521",
        b"00400000 r-xp 00000000 08:02 173521",
        b"00400000-00452000 r-xp 0000000g 08:02 173521",
        b"00452000-00400000 r-xp 00000000 08:02 173521",
        b"-00400000-00452000 r-xp 00000000 08:02 173521",
    ],
)
def test_a_malformed_line_is_named_with_its_place(line: bytes) -> None:
    good = b"00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon\n"
    with pytest.raises(ProcParseError) as caught:
        proc.parse_maps(good + line + b"\n" + good, "/proc/17/maps")
    assert (caught.value.file, caught.value.line, caught.value.text) == ("/proc/17/maps", 2, line)


def test_a_file_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(ProcParseError, match="cut off"):
        proc.parse_maps(b"00400000-00452000 r-xp 00000000 08:02 173521")
    assert proc.parse_maps(b"") == ()


@pytest.mark.parametrize(
    "name", [b"plain", b"sp ace", b"new\nline", b"tab\tand\rreturn", b"(deleted)", b" lead", b"\xff\xfe", b"[heap]"]
)
def test_a_mapped_file_with_a_nasty_name_is_found(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as written_file:
        written_file.write(bytes(mmap.PAGESIZE * 2))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as _area:
        found = [mapping for mapping in proc.read_maps(os.getpid()) if mapping.name == path]
        assert [(m.size, m.shared, m.deleted, m.inode) for m in found] == [
            (mmap.PAGESIZE, True, False, os.stat(path).st_ino)
        ]
        os.unlink(path)
        found = [mapping for mapping in proc.read_maps(os.getpid()) if mapping.name == path]
        assert [(m.size, m.deleted) for m in found] == [(mmap.PAGESIZE, True)]


def test_smaps_agree_with_maps_and_count_what_was_touched() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE * 64, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as area:
        for page in range(10):
            area[page * mmap.PAGESIZE] = 1
        detailed = proc.read_smaps(os.getpid())
        shared = [use for use in detailed if use.mapping.size == mmap.PAGESIZE * 64 and use.mapping.shared]
        assert any(use.values["Rss"] == mmap.PAGESIZE * 10 for use in shared)
        assert all({"rd", "wr", "sh"} <= use.flags for use in shared)
    assert all(use.values["Size"] == use.mapping.size for use in detailed)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"Rss: 4 kB\n", 1),
        (b"00400000-00452000 r-xp 00000000 08:02 17 /x\nRss: -4 kB\n", 2),
        (b"00400000-00452000 r-xp 00000000 08:02 17 /x\nRss: 4 kB\nVmFlags: r\n", 3),
        (b"00400000-00452000 r-xp 00000000 08:02\n", 1),
        (b"00400000-00452000 r-xp 00000000 08:02 17 /x\nRss: 4 k", 2),
    ],
)
def test_malformed_smaps_are_errors(data: bytes, line: int) -> None:
    with pytest.raises(ProcParseError) as caught:
        proc.parse_smaps(data)
    assert caught.value.line == line
