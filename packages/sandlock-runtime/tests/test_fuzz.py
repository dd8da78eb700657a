"""Whatever a worker, an archive or a configuration of an image says: it is read, or refused by its own error."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sandlock_runtime.images.errors import OciImageError
from sandlock_runtime.images.manifest import config_of
from sandlock_runtime.images.members import members
from sandlock_runtime.plain import PlainError, decode, encode

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
damage = st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), max_size=4)


def damaged(content: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for at, byte in places:
        if changed:
            changed[at % len(changed)] = byte
    return bytes(changed)


@given(st.binary())
@example(b"")
@example(encode([]) * 3)
@example(encode({1: [2]})[:-1])
def test_any_answer_of_a_worker_is_plain_or_refused(answer: bytes) -> None:
    with suppress(PlainError):
        decode(answer)


@given(plain, damage)
def test_a_damaged_answer_is_plain_or_refused(value: Any, places: list[tuple[int, int]]) -> None:
    with suppress(PlainError):
        decode(damaged(encode(value), places))


def archive(names: list[str], shape: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=shape) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = number * 300
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return made.getvalue()


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), max_size=4),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    damage,
)
@example(["a", "b" * 200], tarfile.PAX_FORMAT, [(512, 255)])
@example(["a"], tarfile.GNU_FORMAT, [(124, 0x80), (125, 0xFF)])
def test_a_damaged_archive_ends_or_is_refused(names: list[str], shape: int, places: list[tuple[int, int]]) -> None:
    try:
        content = archive(names, shape)
    except (ValueError, UnicodeError):  # a name that this format has no room for
        return
    with suppress(OciImageError):
        source: Any = io.BytesIO(damaged(content, places))  # its `seek` names its argument otherwise
        assert len(list(members(source))) <= 2 * len(content) // 512


@given(
    json_values
    | st.fixed_dictionaries({}, optional=dict.fromkeys(("Env", "WorkingDir", "User", "Entrypoint", "Cmd"), json_values))
)
@example({"Env": ["=x"]})
@example({"WorkingDir": "${HOME}"})
def test_any_configuration_of_an_image_is_read_or_refused(raw: object) -> None:
    with suppress(OciImageError):
        config = config_of(raw)
        assert config.cwd[:1] == "/"
        assert all(isinstance(word, str) for word in (*config.entrypoint, *config.command, *config.env.values()))
