"""Which runs' network namespaces serve again: those that nothing can leave but bytes."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from runtime_lab import box

from sandlock_policy.features import features_of_abi
from sandlock_runtime import override
from sandlock_sys import kept_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("mount_namespace")


@pytest.fixture(autouse=True)
def _none_kept() -> Iterator[None]:
    kept_network._kept.clear()
    yield
    kept_network._kept.clear()


def network_of(fds: tuple[int, ...] = (), *, own: bool = True, **fields: Any) -> str:
    fields["fs_readable"] = ["/proc", *fields.get("fs_readable", ())]
    result = box(**fields).run(["readlink", "/proc/self/ns/net"], pass_fds=fds, timeout=60)
    assert result.success, result
    name = result.stdout.decode().strip()
    assert re.fullmatch(r"net:\[\d+\]", name)
    assert (name != os.readlink("/proc/self/ns/net")) == own
    return name


@pytest.mark.needs("landlock", level=5)  # else devices are not known to pass no fd, and none is kept
def test_it_serves_again_for_another_policy_too() -> None:
    first = network_of()
    assert len(kept_network._kept) == 1
    assert network_of(fs_writable=["/dev/null"]) == first


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"fs_writable": ["/dev"]}, id="a driver that passes fds on may be below"),
        pytest.param({"fs_writable": ["-/dev/binder"]}, id="its node"),
        pytest.param({"extra_allow_syscalls": ["msgsnd"]}, id="what is allowed besides"),
        pytest.param({"max_processes": 50}, id="its supervisor may hold one"),
    ],
)
def test_a_policy_under_which_an_fd_may_get_out_leaves_none(fields: dict[str, Any]) -> None:
    own = "extra_allow_syscalls" not in fields  # else /proc/net is the host's, as ever
    network_of(own=own, **fields)
    assert not kept_network._kept


@pytest.mark.needs("landlock", level=5)  # else devices are not known to pass no fd, and none is kept
def test_a_run_that_was_given_a_socket_neither_takes_nor_leaves_one() -> None:
    first = network_of()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert network_of((theirs.fileno(),)) != first
    reader, writer = os.pipe()
    assert network_of((writer,)) == first, "control: a pipe passes bytes only"
    os.close(reader)
    os.close(writer)


def test_before_landlock_knows_devices_none_is_kept() -> None:
    with override(features_of_abi(4)):
        network_of()
    assert not kept_network._kept
