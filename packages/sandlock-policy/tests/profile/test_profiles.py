"""Profiles read, write and merge without losing or inventing anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy import Policy, PolicyError

WHOLE = """
[filesystem]
read = ["/usr", "~/x", "data", "-/opt"]
write = ["out"]
mount = ["/v:host", "/w:/abs:ro"]
workdir = "."

[network]
allow = ["tcp://:443"]
allow_bind = [80, "8000-8010"]
port_remap = true

[http]
allow = ["GET a.org/*"]
credentials = ["T=env:TOKEN"]

[limits]
memory = "512M"
disk = 4096
timeout = 90
cpu_cores = [0, 1]
gpu_devices = "all"

[determinism]
random_seed = 7
time_start = 2030-01-01T00:00:00+01:00
no_huge_pages = true

[program]
clean_env = false
env = ["A=1", "B"]
disable = ["ioctl_dev"]
"""


def test_a_profile_sets_the_fields_it_names() -> None:
    assert Policy.from_toml(WHOLE) == Policy(
        fs_readable=["/usr", "~/x", "data", "-/opt"],
        fs_writable=["out"],
        fs_mount={"/v": "host"},
        fs_mount_ro={"/w": "/abs"},
        workdir=".",
        net_allow=["tcp://:443"],
        net_allow_bind=[80, "8000-8010"],
        port_remap=True,
        http_allow=["GET a.org/*"],
        credentials={"T": "env:TOKEN"},
        max_memory=512 << 20,
        max_disk=4096,
        timeout=90,
        cpu_cores=[0, 1],
        gpu_devices="all",
        random_seed=7,
        time_start="2029-12-31T23:00:00Z",
        no_huge_pages=True,
        clean_env=False,
        env={"A": "1", "B": None},
        disable=["fs_ioctl_dev"],
    )


def test_relative_paths_start_at_the_folder_of_the_profile() -> None:
    policy = Policy.from_toml(WHOLE, folder="/etc/profiles/")
    assert policy.fs_readable == ("/usr", "~/x", "/etc/profiles/data", "-/opt")
    assert policy.fs_writable == ("/etc/profiles/out",)
    assert policy.fs_mount == {"/v": "/etc/profiles/host"}
    assert policy.fs_mount_ro == {"/w": "/abs"}
    assert policy.workdir == "/etc/profiles/."


def test_an_empty_profile_is_the_default_policy() -> None:
    assert Policy.from_toml("") == Policy.from_toml("[filesystem]\n") == Policy()
    assert Policy().to_toml() == ""


@pytest.mark.parametrize(
    ("text", "field", "reason", "remedy"),
    [
        ("[limit]\n", "limit", "no such table", "did you mean 'limits'?"),
        ("memory = 1\n", "memory", "no such table", "write limits.memory"),
        ("filesystem = 3\n", "filesystem", "filesystem is a table", "write [filesystem]"),
        ("[limits]\nmemroy = 1\n", "limits.memroy", "no such key", "did you mean 'limits.memory'?"),
        ("[limits]\nmax_memory = 1\n", "limits.max_memory", "no such key", "write limits.memory"),
        ("[program]\nmemory = 1\n", "program.memory", "no such key", "write limits.memory"),
        ("[filesystem]\nfs_readable = []\n", "filesystem.fs_readable", "no such key", "write filesystem.read"),
        ("[program]\nname = 'x'\n", "program.name", "no such key", None),
        ("[limits]\nmemory = '1Q'\n", "limits.memory", "'Q' is not a unit", None),
        ("[limits]\nmemory = -1\n", "limits.memory", "not a size from 1", None),
        ("[limits]\nmemory = 1.5\n", "limits.memory", "is not a size", None),
        ("[filesystem]\nread = '/usr'\n", "filesystem.read", "is not a list", "write ['/usr']"),
        ("[filesystem]\nread = [1]\n", "filesystem.read[0]", "is not a path", None),
        ("[filesystem]\nmount = ['/a']\n", "filesystem.mount[0]", "is not a mount", None),
        ("[filesystem]\nmount = ['/a:/b:rw']\n", "filesystem.mount[0]", "is not an option of a mount", None),
        ("[program.env.A]\nb = 1\n", "program.env.A", "the value of A is a dict", None),
        ("[determinism]\ntime_start = 2030-01-01T00:00:00\n", "determinism.time_start", "has no offset", None),
        ("[determinism]\ntime_start = 2030-01-01\n", "determinism.time_start", "is not a time", None),
    ],
)
def test_what_a_profile_does_not_know_is_an_error(text: str, field: str, reason: str, remedy: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_toml(text)
    [problem] = caught.value.problems
    assert problem.field == field
    assert reason in problem.reason
    assert remedy is None or problem.remedy == remedy


def test_all_faults_of_a_profile_are_reported_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_toml("[limits]\nmemory = '1Q'\nmemroy = 1\n[nothing]\n[filesystem]\nread = ['']\n")
    assert {p.field for p in caught.value.problems} == {
        "limits.memory",
        "limits.memroy",
        "nothing",
        "filesystem.read[0]",
    }


def test_text_that_is_not_toml_is_a_policy_error() -> None:
    with pytest.raises(PolicyError, match=r"the profile is not TOML: .*line 2"):
        Policy.from_toml("[limits]\nread = x\n")


def test_written_profiles_are_for_people() -> None:
    policy = Policy(fs_readable=["/usr"], fs_mount_ro=["/a:/b"], max_memory=512 << 20, timeout=1.5, env=['A=b\n"c"'])
    assert policy.to_toml() == (
        '[filesystem]\nread = ["/usr"]\nmount = ["/a:/b:ro"]\n\n'
        '[limits]\nmemory = "512M"\ntimeout = 1.5\n\n'
        '[program]\nenv = ["A=b\\n\\"c\\""]\n'
    )


def test_name_and_image_belong_to_one_sandbox_and_are_not_written() -> None:
    assert Policy(name="x", image="oci:/i", timeout=1).to_toml() == "[limits]\ntimeout = 1\n"


def test_a_path_that_toml_cannot_hold_is_an_error_that_names_it() -> None:
    with pytest.raises(PolicyError, match=r"filesystem\.read.*UTF-8") as caught:
        Policy(fs_readable=["/a\udcff"]).to_toml()
    assert caught.value.problems[0].value == "'/a\\udcff'"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
paths = texts.map(lambda text: "/" + text.replace("${", "")).filter(lambda path: "${" not in path)
sizes = st.integers(1, 2**63 - 1)
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,8}\Z")
some_fields: dict[str, st.SearchStrategy[Any]] = {
    "fs_readable": st.lists(paths, max_size=4),
    "fs_writable": st.lists(paths.map(lambda path: f"-{path}"), max_size=4),
    "unix_allow": st.lists(paths, max_size=2),
    "cwd": paths,
    "max_memory": sizes,
    "max_processes": st.integers(1, 1000),
    "max_open_files": st.integers(1, 2**31 - 1),
    "max_cpu": st.integers(1, 1000),
    "cpu_cores": st.lists(st.integers(0, 100)),
    "gpu_devices": st.one_of(st.just("all"), st.lists(st.integers(0, 9))),
    "timeout": st.floats(0.001, 1e6, allow_nan=False),
    "grace": st.one_of(st.integers(0, 100), st.floats(0, 1e6, allow_nan=False)),
    "random_seed": st.integers(0, 2**64 - 1),
    "time_start": st.sampled_from(["2030-01-01T00:00:00.123456789Z", "1999-12-31T23:59:59+02:00"]),
    "net_allow": st.lists(st.sampled_from(["tcp://:443", "a.org", "*.b.org:1-5", "[::1]:22", "10.0.0.0/8"])),
    "net_allow_bind": st.lists(st.one_of(st.integers(0, 65535), st.just("8000-8010,9000"))),
    "http_allow": st.lists(st.sampled_from(["GET a.org/*", "* *:8080/x"])),
    "env": st.dictionaries(names, st.one_of(st.none(), texts)),
    "credentials": st.dictionaries(
        names.map(lambda name: name.replace("_", "x")), st.just("env:The_secret")
    ),  # longer than any of `names`
    "clean_env": st.booleans(),
    "no_coredump": st.booleans(),
    "supervisor": st.booleans(),
    "namespaces": st.sampled_from(["auto", "off", "require"]),
    "allow_degraded": st.lists(st.sampled_from(["fs_refer", "net_tcp"])),
    "disable": st.lists(st.sampled_from(["fs_truncate", "unix_sockets"])),
    "fs_mount": st.dictionaries(st.sampled_from(["/v", "/w x"]), st.sampled_from(["/h", "rel"])),
    "fs_mount_ro": st.dictionaries(st.sampled_from(["/r", "/s"]), st.sampled_from(["/h", "rel"])),
}
policies = st.fixed_dictionaries({}, optional=some_fields).map(lambda fields: Policy(**fields))


@given(policies)
def test_a_written_profile_reads_back_as_the_same_policy(policy: Policy) -> None:
    assert Policy.from_toml(policy.to_toml()) == policy


@given(policies)
def test_writing_is_stable(policy: Policy) -> None:
    assert Policy.from_toml(policy.to_toml()).to_toml() == policy.to_toml()


def test_merging_adds_up_lists_and_mappings_and_the_second_wins() -> None:
    first = Policy(fs_readable=["/a", "/b"], env={"A": "1", "B": "1"}, timeout=1, max_memory="1G", clean_env=False)
    second = Policy(fs_readable=["/b", "/c"], env={"B": "2", "C": None}, timeout=2, net_allow=["tcp://:443"])
    assert first.merge(second) == Policy(
        fs_readable=["/a", "/b", "/c"],
        env={"A": "1", "B": "2", "C": None},
        timeout=2,
        max_memory="1G",
        clean_env=False,
        net_allow=["tcp://:443"],
    )


@given(policies)
def test_merging_with_nothing_and_with_itself_changes_nothing(policy: Policy) -> None:
    assert policy.merge(Policy()) == Policy().merge(policy) == policy.merge(policy) == policy


def test_a_merge_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(PolicyError, match="both denied and granted"):
        Policy(fs_readable=["/a"]).merge(Policy(fs_denied=["/a"]))
