"""`Policy`: what one sandbox may do, as plain, checked, frozen data."""

from __future__ import annotations

from sandlock_policy.fields import FIELDS
from sandlock_policy.record import FrozenDict, record
from sandlock_policy.validate import check_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, Unpack

    from sandlock_policy.inputs import PolicyInputs

__all__ = ["Policy"]

_set = object.__setattr__


@record(frozen=True, slots=True, init=False)
class Policy:
    """What a sandbox may do. A policy that says nothing allows nothing.

    Takes the fields of the reference (`docs/reference/policy-fields.md`) as keywords, in any spelling that their
    grammar has, and keeps them in one canonical form: sizes are bytes, times are seconds or UTC, lists are tuples.
    Raises PolicyError with every fault at once. Compared by value.
    """

    fs_readable: tuple[str, ...]
    fs_writable: tuple[str, ...]
    fs_denied: tuple[str, ...]
    chroot: str | None
    fs_mount: FrozenDict[str, str]
    fs_mount_ro: FrozenDict[str, str]
    workdir: str | None
    fs_storage: str | None
    on_exit: str
    on_error: str
    private_tmp: bool
    net_allow: tuple[str, ...]
    net_deny: tuple[str, ...]
    net_allow_bind: tuple[int | str, ...]
    net_deny_bind: tuple[int | str, ...]
    net_refresh: bool
    unix_allow: tuple[str, ...]
    port_remap: bool
    http_allow: tuple[str, ...]
    http_deny: tuple[str, ...]
    http_ports: tuple[int, ...]
    http_ca: str | None
    http_key: str | None
    http_inject_ca: tuple[str, ...]
    http_ca_out: str | None
    credentials: FrozenDict[str, str]
    http_auth: tuple[str, ...]
    max_memory: int | None
    max_processes: int | None
    max_open_files: int | None
    max_cpu: int | None
    cpu_cores: tuple[int, ...]
    num_cpus: int | None
    gpu_devices: str | tuple[int, ...] | None
    max_disk: int | None
    timeout: float | None
    grace: float
    policy_timeout_s: float
    random_seed: int | None
    time_start: str | None
    deterministic_dirs: bool
    no_randomize_memory: bool
    no_huge_pages: bool
    cwd: str | None
    clean_env: bool
    env: FrozenDict[str, str | None]
    uid: int | None
    gid: int | None
    no_coredump: bool
    extra_deny_syscalls: tuple[str, ...]
    extra_allow_syscalls: tuple[str, ...]
    namespaces: str
    supervisor: bool
    allow_degraded: tuple[str, ...]
    disable: tuple[str, ...]
    name: str | None
    image: str | None

    def __init__(self, **fields: Unpack[PolicyInputs]) -> None:
        """Check `fields` and take the defaults for the others."""
        values = check_fields(fields)
        for field in FIELDS:
            _set(self, field.name, values.get(field.name, field.default))

    def __repr__(self) -> str:
        """Show only the fields that are not at their default."""
        shown = [f"{name}={value!r}" for name, value in self.given().items()]
        return f"Policy({', '.join(shown)})"

    def given(self) -> dict[str, object]:
        """Return the fields that are not at their default, by Python name, in the order of the table."""
        pairs = [(field.name, getattr(self, field.name), field.default) for field in FIELDS]
        return {name: value for name, value, default in pairs if value != default}

    def replace(self, **fields: Unpack[PolicyInputs]) -> Self:
        """Return a policy with `fields` instead of its own; None puts a field back to its default."""
        return type(self)(**self.given() | fields)  # type: ignore[arg-type]  # names and types are checked at run time

    def merge(self, other: Policy) -> Policy:
        """Return what this policy and `other` say together; see `sandlock_policy.profile.merge`."""
        from sandlock_policy.profile.merge import merge  # lazy: a launch with one policy never merges

        return merge(self, other)

    @classmethod
    def from_toml(cls, text: str, folder: str | None = None) -> Policy:
        """Read a profile; see `sandlock_policy.profile.read.read_profile`."""
        from sandlock_policy.profile.read import read_profile  # lazy: tomllib takes longer than a launch

        return read_profile(text, folder)

    def to_toml(self) -> str:
        """Write the policy as a profile; see `sandlock_policy.profile.write.write_profile`."""
        from sandlock_policy.profile.write import write_profile  # lazy: launches never write profiles

        return write_profile(self)
