"""The programs that were compiled ahead are those the compiler makes from the rules of today."""

from __future__ import annotations

import subprocess
import sys
from binascii import a2b_base64

import pytest

import sandlock_arch
from sandlock_policy.data.compiled_filters import FILTERS
from sandlock_policy.seccomp.compile import compile_spec
from sandlock_policy.seccomp.default import default_spec
from sandlock_policy.seccomp.filter import compile_filter
from sandlock_policy.seccomp.options import FilterOptions


def test_every_architecture_has_all_four() -> None:
    switches = [(False, False), (False, True), (True, False), (True, True)]
    assert set(FILTERS) == {(name, *pair) for name in sandlock_arch.names() for pair in switches}


@pytest.mark.parametrize("key", FILTERS, ids=str)
def test_they_are_what_the_compiler_makes(key: tuple[str, bool, bool]) -> None:
    name, tcp, deny_metadata = key
    options = FilterOptions(tcp=tcp, deny_metadata=deny_metadata)
    arch = sandlock_arch.get(name)
    fresh = compile_spec(arch, default_spec(options))
    assert a2b_base64(FILTERS[key]) == fresh, "run tools/gen_seccomp_filters.py"
    assert compile_filter(arch, options) == fresh


@pytest.mark.parametrize(
    "options",
    [
        FilterOptions(listen=True),
        FilterOptions(unix_sockets=True),
        FilterOptions(extra_deny=("getpid",)),
        FilterOptions(extra_allow=("ptrace",)),
        FilterOptions(tcp=True, listen=True, unix_sockets=True, deny_metadata=False),
    ],
    ids=str,
)
def test_other_options_are_compiled_when_asked_for(options: FilterOptions) -> None:
    arch = sandlock_arch.native()
    program = compile_filter(arch, options)
    assert program == compile_spec(arch, default_spec(options))
    assert program not in [a2b_base64(text) for text in FILTERS.values()]
    assert compile_filter(arch, options) is program


def test_a_common_launch_loads_neither_rules_nor_compiler() -> None:
    code = (
        "import sys, sandlock_arch; from sandlock_policy.seccomp.filter import compile_filter; "
        "from sandlock_policy.seccomp.options import FilterOptions; "
        "compile_filter(sandlock_arch.native(), FilterOptions()); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sandlock_policy.seccomp.filter" in loaded
    heavy = {"sandlock_policy.seccomp.compile", "sandlock_policy.data.syscall_groups", "dataclasses", "enum", "re"}
    assert heavy.isdisjoint(loaded)
