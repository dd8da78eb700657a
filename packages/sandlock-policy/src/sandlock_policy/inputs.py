"""The types that `Policy` accepts for its fields, for the type checker; what it holds is in `model`."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from typing import TypedDict

__all__ = ["PathInput", "PolicyInputs"]

PathInput = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class PolicyInputs(TypedDict, total=False):
    """Keyword arguments of `Policy`; None means that a field is not set."""

    fs_readable: Iterable[PathInput] | None
    fs_writable: Iterable[PathInput] | None
    fs_denied: Iterable[PathInput] | None
    chroot: PathInput | None
    fs_mount: Mapping[str, PathInput] | Iterable[str] | None
    fs_mount_ro: Mapping[str, PathInput] | Iterable[str] | None
    workdir: PathInput | None
    fs_storage: PathInput | None
    on_exit: str | None
    on_error: str | None
    private_tmp: bool | None
    net_allow: Iterable[str] | None
    net_deny: Iterable[str] | None
    net_allow_bind: Iterable[int | str] | None
    net_deny_bind: Iterable[int | str] | None
    net_refresh: bool | None
    unix_allow: Iterable[PathInput] | None
    port_remap: bool | None
    http_allow: Iterable[str] | None
    http_deny: Iterable[str] | None
    http_ports: Iterable[int | str] | None
    http_ca: PathInput | None
    http_key: PathInput | None
    http_inject_ca: Iterable[PathInput] | None
    http_ca_out: PathInput | None
    credentials: Mapping[str, str] | Iterable[str] | None
    http_auth: Iterable[str] | None
    max_memory: int | str | None
    max_processes: int | str | None
    max_open_files: int | str | None
    max_cpu: int | str | None
    cpu_cores: Iterable[int] | str | int | None
    num_cpus: int | str | None
    gpu_devices: Iterable[int] | str | int | None
    max_disk: int | str | None
    timeout: float | str | None
    grace: float | str | None
    policy_timeout_s: float | str | None
    random_seed: int | str | None
    time_start: dt.datetime | str | None
    deterministic_dirs: bool | None
    no_randomize_memory: bool | None
    no_huge_pages: bool | None
    cwd: PathInput | None
    clean_env: bool | None
    env: Mapping[str, str | None] | Iterable[str] | None
    uid: int | str | None
    gid: int | str | None
    no_coredump: bool | None
    extra_deny_syscalls: Iterable[str] | None
    extra_allow_syscalls: Iterable[str] | None
    namespaces: str | None
    supervisor: bool | None
    allow_degraded: Iterable[str] | None
    disable: Iterable[str] | None
    name: str | None
    image: str | None
