"""Policy and host become a plan: nothing is silently weaker than asked."""

from __future__ import annotations

from typing import Any

import pytest

from sandlock_policy import Context, HostFeatures, LayerMissingError, Plan, Policy, PolicyError, resolve
from sandlock_policy.data import landlock
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.features import features_of_abi
from sandlock_policy.fields import FIELDS, SERVED
from sandlock_policy.view import NAMESPACED

ENV = {"PATH": "/bin", "HOME": "/home/me", "USER": "me", "LANG": "C", "SECRET": "x", "V": "/v"}
HERE = Context("/work", "/home/me", ENV, 1000, 1000, "/opt/tool/bin/x", ("/opt/tool",))
NEW = features_of_abi(7, mount_namespace=False)
ALL_FS = (1 << 16) - 1
SERVED_NAMES = tuple(field.name for field in FIELDS if field.enforced == SERVED)
WRITE = ALL_FS & ~landlock.NEVER  # what a write grant gives


def plan_of(features: HostFeatures = NEW, context: Context = HERE, **fields: Any) -> Plan:
    return resolve(Policy(**fields), features, context)


def states(plan: Plan) -> dict[str, str]:
    return {protection.name: protection.state for protection in plan.protections}


def test_a_policy_that_says_nothing_grants_nothing() -> None:
    plan = plan_of()
    assert plan.fs_rules == ()
    assert plan.port_rules == ()
    assert plan.handled_fs == ALL_FS
    assert plan.handled_net == 3
    assert plan.scoped == 3
    assert not plan.filter.tcp
    assert not plan.filter.listen
    assert not plan.filter.unix_sockets
    assert plan.filter.deny_metadata
    assert plan.writable_mounts is None
    assert set(states(plan).values()) == {"active"}
    assert list(states(plan)) == list(PROTECTIONS)


def test_read_and_write_grants_become_rules() -> None:
    plan = plan_of(fs_readable=["/usr/", "-/opt", "src", "~/x", "${V}/y"], fs_writable=["/out", "/usr"])
    assert plan.fs_rules == (
        ("/usr", WRITE, True),
        ("/opt", landlock.READ, False),
        ("/work/src", landlock.READ, True),
        ("/home/me/x", landlock.READ, True),
        ("/v/y", landlock.READ, True),
        ("/out", WRITE, True),
    )


def test_a_path_that_is_once_required_stays_required() -> None:
    assert plan_of(fs_readable=["-/a", "/a"]).fs_rules == (("/a", landlock.READ, True),)


def test_an_unset_variable_is_a_problem_unless_the_path_is_optional() -> None:
    assert plan_of(fs_readable=["-${NOPE}/x"]).fs_rules == ()
    with pytest.raises(PolicyError) as caught:
        plan_of(fs_readable=["/a", "${NOPE}/x"], cwd="${NOWHERE}")
    assert [problem.field for problem in caught.value.problems] == ["program.cwd", "filesystem.read[1]"]


def test_the_marks_of_presets_stand_for_the_run() -> None:
    assert plan_of(fs_readable=["-${CWD}", "-${PROGRAM}"]).fs_rules == (
        ("/work", landlock.READ, False),
        ("/opt/tool/bin/x", landlock.READ, False),
        ("/opt/tool", landlock.READ, False),
    )
    assert plan_of(fs_readable=["-${CWD}"], cwd="sub").fs_rules == (("/work/sub", landlock.READ, False),)


@pytest.mark.parametrize(
    "cwd", ["/", "/etc", "/etc/ssh", "/home", "/home/me", "/proc/self", "/sys", "/dev", "/run/user/1", "/var/log"]
)
def test_a_place_of_the_system_is_not_granted_for_being_the_cwd(cwd: str) -> None:
    here = Context(cwd, "/home/me", ENV, 1000, 1000)
    assert resolve(Policy(fs_readable=["-${CWD}"]), NEW, here).fs_rules == ()
    assert resolve(Policy(fs_readable=["."]), NEW, here).fs_rules == ((cwd, landlock.READ, True),)


@pytest.mark.parametrize("cwd", ["/home/me/src", "/tmp/x", "/srv/app", "/var/tmp/x", "/homework", "/etcetera"])
def test_a_place_of_work_is(cwd: str) -> None:
    here = Context(cwd, "/home/me", ENV, 1000, 1000)
    assert resolve(Policy(fs_readable=["-${CWD}"]), NEW, here).fs_rules == ((cwd, landlock.READ, False),)


@pytest.mark.parametrize("path", ["/proc/self", "/proc/self/maps", "/proc//thread-self/x", "-/proc/self", "/proc/1/fd"])
def test_a_rule_cannot_follow_a_process_and_is_refused(path: str) -> None:
    assert plan_of(fs_readable=["/proc/meminfo", "/proc/sys", "/procfs/self"]).fs_rules
    for field in ("fs_readable", "fs_writable"):
        with pytest.raises(PolicyError, match="stays with the process that made the rule"):
            plan_of(**dict[str, Any]({field: [path]}))


def test_a_grant_that_shows_processes_of_others_is_said_to() -> None:
    def detail(*paths: str) -> str:
        return plan_of(fs_readable=paths).protections[0].detail

    assert "processes of others" in detail("/proc")
    assert "processes of others" in detail("/")
    assert detail("/usr", "/proc/meminfo") == ""


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/run/docker.sock", "Docker"),
        ("/run/user/1000/podman/podman.sock", "Podman"),
        ("/run/user/1000/bus", "D-Bus"),
        ("/run/dbus/system_bus_socket", "D-Bus"),
        ("/run/systemd/private", "systemd"),
        ("/tmp/ssh-Xa12/agent.77", "ssh-agent"),
        ("/tmp/.X11-unix/X0", "X11"),
        ("/run/postgresql/.s.PGSQL.5432", None),
        ("/srv/dockers.sock", None),
    ],
)
def test_a_socket_whose_server_does_anything_is_told(path: str, service: str | None) -> None:
    rows = {
        row.name: row.detail
        for row in plan_of(HostFeatures(7, ALL_FS, 3, 3, served=SERVED_NAMES), unix_allow=[path]).protections
    }
    assert (rows["unix_sockets"] == "") == (service is None)
    assert service is None or f"{service} ({path})" in rows["unix_sockets"]


def test_what_holds_the_home_is_not_granted_either() -> None:
    here = Context("/data/homes", "/data/homes/me", ENV, 1000, 1000)
    assert resolve(Policy(fs_readable=["-${CWD}"]), NEW, here).fs_rules == ()


# Every served field with a value that is not its default, so that a new one cannot be forgotten.
SERVED_VALUES: dict[str, Any] = {
    "fs_denied": ["/a"], "chroot": "/r", "fs_mount": ["/a:/b"], "fs_mount_ro": ["/a:/b"], "workdir": "/w",
    "fs_storage": "/s", "on_exit": "keep", "on_error": "keep", "net_deny": ["private"], "net_refresh": True,
    "unix_allow": ["/s"], "port_remap": True, "http_allow": ["GET a.org/*"], "http_deny": ["GET a.org/*"],
    "http_ports": [80], "http_ca": "/c", "http_key": "/k", "http_inject_ca": ["/b"], "http_ca_out": "/o",
    "credentials": ["T=env:V"], "http_auth": ["GET a.org/* bearer T"], "max_memory": "1G", "max_processes": 1,
    "num_cpus": 1, "max_disk": "1G", "random_seed": 1, "time_start": "2030-01-01T00:00:00Z",
    "deterministic_dirs": True, "name": "x", "image": "oci:/i",
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    "max_disk": {"workdir": "/w"}, "fs_storage": {"workdir": "/w"}, "on_exit": {"workdir": "/w"},
    "on_error": {"workdir": "/w"}, "http_ca": {"http_key": "/k"}, "http_key": {"http_ca": "/c"},
    "net_refresh": {"net_allow": ["tcp://:443"]}, "http_auth": {"credentials": ["T=env:V"]},
}  # fmt: skip


def test_the_list_of_served_fields_is_whole() -> None:
    assert set(SERVED_VALUES) == {field.name for field in FIELDS if field.enforced == SERVED}


@pytest.mark.parametrize("name", SERVED_VALUES)
def test_a_served_field_refuses_by_name(name: str) -> None:
    fields = {name: SERVED_VALUES[name], **NEEDS.get(name, {})}
    with pytest.raises(PolicyError) as caught:
        plan_of(**fields)
    reason = "needs namespaces" if name in NAMESPACED else "pidfd_getfd(2) is refused"
    assert any(name in problem.reason and reason in problem.reason for problem in caught.value.problems)
    with pytest.raises(PolicyError, match=reason if name in NAMESPACED else "--no-supervisor"):
        plan_of(**fields, supervisor=False)


def test_what_namespaces_show_needs_no_supervisor() -> None:
    able = features_of_abi(7, mount_namespace=True)
    plan = plan_of(
        able, chroot="/r", fs_readable=["/", "/usr"], fs_mount={"/d": "/h"}, fs_mount_ro={"/e": "/i"}, name="x"
    )
    assert plan.needs_supervisor == ()
    assert plan.fs_rules == ()  # each is added inside, where the paths are what they say
    view = plan.view
    assert view is not None
    assert (view.root, view.hostname, view.pid_namespace) == ("/r", "x", True)
    assert view.binds == (("/h", "/d", False), ("/i", "/e", True))
    assert [path for path, _, _ in view.rules] == ["/", "/usr", "/d", "/e"]
    assert plan.writable_mounts == ()  # all is read-only but the mount, which is taken before
    assert plan.cwd == "/"


def test_a_grant_of_proc_shows_the_sandbox_alone_where_it_can() -> None:
    able = features_of_abi(7, mount_namespace=True)
    plan = plan_of(able, fs_readable=["/proc", "/proc/cpuinfo", "/usr"])
    assert plan.view is not None
    assert plan.view.pid_namespace
    assert [path for path, _, _ in plan.fs_rules] == ["/usr"]
    assert plan_of(able, fs_readable=["/proc/cpuinfo", "/usr"]).view is None
    unable = plan_of(fs_readable=["/proc"])
    assert unable.view is None
    assert any("processes of others" in row.detail for row in unable.protections)


def test_generated_files_are_granted_where_they_are_laid() -> None:
    able = features_of_abi(7, mount_namespace=True)
    plan = plan_of(able, fs_readable=["/proc/cpuinfo", "/etc/hostname"], name="x", num_cpus=None)
    assert plan.view is not None
    assert plan.view.files == ("/etc/hostname",)
    assert [path for path, _, _ in plan.view.rules] == ["/etc/hostname"]


def test_all_refused_fields_are_named_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        plan_of(max_memory="1G", chroot="/r", net_allow=["example.org"], uid=0)
    assert {problem.field for problem in caught.value.problems} == {
        "limits.memory",
        "filesystem.chroot",
        "network.allow[0]",
        "program.uid",
    }


def test_with_a_supervisor_the_plan_names_what_it_must_serve() -> None:
    features = HostFeatures(7, ALL_FS, 3, 3, mount_namespace=False, served=SERVED_NAMES)
    assert plan_of(features, max_memory="1G", name="x").needs_supervisor == ("max_memory", "name")
    with pytest.raises(PolicyError, match="switches off"):
        plan_of(features, max_memory="1G", supervisor=False)


def test_pure_tcp_port_lists_need_the_kernel_alone() -> None:
    plan = plan_of(net_allow=["tcp://:443", "tcp://*:80,8000-8001"])
    connect = landlock.NET_CONNECT_TCP
    assert plan.port_rules == ((80, connect), (443, connect), (8000, connect), (8001, connect))
    assert plan.handled_net == 3
    assert plan.filter.tcp
    assert not plan.filter.listen


def test_every_tcp_port_is_a_right_that_is_not_handled() -> None:
    for rule in ("tcp://", "tcp://*", "tcp://:*", "tcp://:1-65535"):
        plan = plan_of(net_allow=[rule, "tcp://:443"])
        assert plan.handled_net == landlock.NET_BIND_TCP
        assert plan.port_rules == ()


@pytest.mark.parametrize("rule", [":443", "udp://:53", "icmp://*", "example.org", "tcp://example.org:443", "10.0.0.0/8",
                                  "tcp://private", "*"])  # fmt: skip
def test_any_other_network_rule_is_refused(rule: str) -> None:
    with pytest.raises(PolicyError) as caught:
        plan_of(net_allow=["tcp://:443", rule])
    assert [problem.field for problem in caught.value.problems] == ["network.allow[1]"]


def test_the_remedy_of_a_network_rule_keeps_its_ports() -> None:
    for rule, remedy in {":443": "tcp://:443", "example.org:80,90": "tcp://:80,90", "a.org": "tcp://:*"}.items():
        with pytest.raises(PolicyError) as caught:
            plan_of(net_allow=[rule])
        assert f"write {remedy} to allow" in caught.value.problems[0].remedy


def test_listening_needs_the_consent_to_net_listen() -> None:
    with pytest.raises(LayerMissingError) as caught:
        plan_of(net_allow_bind=[8080])
    assert (caught.value.layer, caught.value.protections) == ("supervisor", ("net_listen",))
    plan = plan_of(net_allow_bind=[8080, "9000-9001"], net_deny_bind=[9001], allow_degraded=["net_listen"])
    assert plan.port_rules == ((8080, landlock.NET_BIND_TCP), (9000, landlock.NET_BIND_TCP))
    assert plan.filter.listen
    assert states(plan)["net_listen"] == "degraded"


def test_any_port_may_be_bound_without_degrading() -> None:
    plan = plan_of(net_allow_bind=["*"])
    assert plan.handled_net == landlock.NET_CONNECT_TCP
    assert states(plan)["net_listen"] == "active"


def test_denied_ports_alone_are_refused() -> None:
    with pytest.raises(PolicyError, match="net_deny_bind alone"):
        plan_of(net_deny_bind=[22])


# ABI -> protections that the policy has to give up by name there, where there are no namespaces.
LOST = {
    7: (),
    6: (),
    5: ("scope_signal",),
    4: ("fs_ioctl_dev", "scope_signal"),
    3: ("fs_ioctl_dev", "scope_signal"),
    2: ("fs_ioctl_dev", "scope_signal"),
    1: ("fs_ioctl_dev", "scope_signal"),
    0: ("fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev", "scope_signal"),
}


@pytest.mark.parametrize("abi", LOST)
def test_an_older_kernel_is_refused_until_the_policy_agrees_by_name(abi: int) -> None:
    features = features_of_abi(abi, mount_namespace=False)
    lost = LOST[abi]
    if lost:
        with pytest.raises(LayerMissingError) as caught:
            plan_of(features, fs_readable=["/usr"])
        assert caught.value.layer == "landlock"
        assert caught.value.protections == lost
        assert f"--allow-degraded {','.join(lost)}" in caught.value.remedy
        for name in lost:  # all but one of them is not enough
            with pytest.raises(LayerMissingError):
                plan_of(features, fs_readable=["/usr"], allow_degraded=[other for other in lost if other != name])
    plan = plan_of(features, fs_readable=["/usr"], allow_degraded=lost)
    assert {name for name in lost if states(plan)[name] != "degraded"} == set()
    assert plan.handled_fs == features.landlock_fs
    assert all(access & ~plan.handled_fs == 0 for _, access, _ in plan.fs_rules)
    assert bool(plan.fs_rules) == (abi > 0)
    assert states(plan)["tree_kill"] == ("active" if abi >= 6 else "degraded")


def test_without_refer_a_kernel_is_stricter_and_nobody_has_to_agree() -> None:
    plan = plan_of(features_of_abi(1, mount_namespace=False), allow_degraded=LOST[1])
    assert states(plan)["fs_refer"] == "degraded"


def test_a_backport_with_fewer_rights_than_its_abi_is_seen() -> None:
    features = HostFeatures(6, ALL_FS & ~landlock.FS_IOCTL_DEV, 3, 3, mount_namespace=False)
    with pytest.raises(LayerMissingError) as caught:
        plan_of(features)
    assert caught.value.protections == ("fs_ioctl_dev",)


@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("writable", [(), ("/out",)])
def test_what_an_old_landlock_lacks_is_held_by_namespaces(abi: int, writable: tuple[str, ...]) -> None:
    plan = plan_of(features_of_abi(abi), fs_readable=["/usr"], fs_writable=writable)
    layers = {row.name: row.layer for row in plan.protections}
    assert {row.state for row in plan.protections if row.name != "fs_refer"} == {"active"}
    assert (layers["scope_signal"], layers["tree_kill"]) == ("namespace", "namespace")
    assert plan.view is not None
    assert (plan.view.pid_namespace, plan.view.shows_proc, plan.view.network_namespace) == (True, False, False)
    assert plan.filter.deny_input_signals
    assert layers["fs_truncate"] == ("namespace" if abi < 3 else "landlock")
    assert layers["fs_ioctl_dev"] == ("namespace" if abi < 5 else "landlock")
    assert not plan.filter.deny_truncate
    assert plan.writable_mounts == (writable if writable or abi < 5 else None)
    assert (plan.devices is not None) == (abi < 5)
    assert layers["scope_abstract"] == "seccomp"


def test_a_new_landlock_needs_none_of_it() -> None:
    plan = plan_of(features_of_abi(6), fs_readable=["/usr"], fs_writable=["/out"])
    assert (plan.view, plan.devices, plan.filter.deny_input_signals) == (None, None, False)


@pytest.mark.parametrize("fields", [{"namespaces": "off"}, {"max_disk": "1M"}])
def test_without_namespaces_an_old_kernel_says_who_does_without_them(fields: dict[str, Any]) -> None:
    with pytest.raises(LayerMissingError, match="namespaces, which this policy does without"):
        plan_of(HostFeatures(2, features_of_abi(2).landlock_fs, served=SERVED_NAMES), workdir="/w", **fields)
    with pytest.raises(LayerMissingError, match="namespaces, which this host does without"):
        plan_of(features_of_abi(2, mount_namespace=False))


def test_which_devices_are_opened_where_mounts_keep_the_program_from_them() -> None:
    features = features_of_abi(4)
    harmless = {"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}
    plan = plan_of(features, fs_readable=["/usr", "/dev/dri", "/"], fs_writable=["/dev/kvm", "/dev/shm", "/o"])
    assert plan.devices is not None
    assert {*plan.devices} == harmless | {"/dev/kvm", "/dev/shm"}
    assert plan.writable_mounts == ("/dev/shm", "/o")
    other = plan_of(features, fs_writable=["/dev/kvm"], chroot="/r").devices
    assert other is not None
    assert {*other} == {f"/r{path}" for path in (*harmless, "/dev/kvm")}


def test_where_metadata_is_free_no_mount_can_stand_for_landlock() -> None:
    features = features_of_abi(2)
    with pytest.raises(LayerMissingError, match="read-only mounts, which disable = fs_metadata does without") as caught:
        plan_of(features, fs_writable=["/out"], disable=["fs_metadata"])
    assert caught.value.protections == ("fs_ioctl_dev",)
    plan = plan_of(features, fs_writable=["/out"], disable=["fs_metadata"], allow_degraded=["fs_ioctl_dev"])
    assert (plan.writable_mounts, plan.devices, plan.filter.deny_truncate) == (None, None, True)
    assert states(plan)["fs_truncate"] == "active"


def test_abstract_names_belong_to_a_network_namespace_where_landlock_has_no_scope_for_them() -> None:
    features = features_of_abi(5)
    plan = plan_of(features, disable=["unix_sockets"])
    assert plan.view is not None
    assert plan.view.network_namespace
    assert {row.name: row.layer for row in plan.protections}["scope_abstract"] == "namespace"
    beyond: list[dict[str, Any]] = [{"net_allow": ["tcp://:443"]}, {"disable": ["unix_sockets", "scope_signal"]}]
    for fields in beyond:
        with pytest.raises(LayerMissingError) as caught:
            plan_of(features, **{"disable": ["unix_sockets"], **fields})
        assert "scope_abstract" in caught.value.protections
    served = HostFeatures(5, features.landlock_fs, 3, 0, served=(*SERVED_NAMES, "net_allow"))
    plan = plan_of(served, net_allow=["tcp://127.0.0.1:443"])
    assert {row.name: row.layer for row in plan.protections}["scope_abstract"] == "supervisor"
    assert plan.view is not None
    assert not plan.view.network_namespace


def test_port_rules_need_landlock_and_no_network_does_not() -> None:
    features = features_of_abi(3, mount_namespace=False)
    degraded = LOST[3]
    assert states(plan_of(features, allow_degraded=degraded))["net_tcp"] == "active"
    with pytest.raises(LayerMissingError) as caught:
        plan_of(features, allow_degraded=degraded, net_allow=["tcp://:443"])
    assert caught.value.protections == ("net_tcp",)


def test_before_landlock_knows_ports_the_supervisor_connects() -> None:
    old = features_of_abi(3)
    features = HostFeatures(3, old.landlock_fs, 0, 0, served=(*SERVED_NAMES, "net_allow"))
    plan = plan_of(features, net_allow=["tcp://:443"])
    assert plan.filter.served_network
    assert {row.name: row.layer for row in plan.protections}["net_tcp"] == "supervisor"
    agreed: list[dict[str, Any]] = [{"allow_degraded": ["net_tcp"]}, {"disable": ["net_tcp"]}]
    for fields in agreed:
        assert not plan_of(features, net_allow=["tcp://:443"], **fields).filter.served_network


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("fs_access", lambda plan: plan.handled_fs == 0 and plan.fs_rules == ()),
        ("fs_refer", lambda plan: ("/", landlock.FS_REFER, True) in plan.fs_rules),
        ("fs_truncate", lambda plan: not plan.handled_fs & landlock.FS_TRUNCATE),
        ("fs_ioctl_dev", lambda plan: not plan.handled_fs & landlock.FS_IOCTL_DEV),
        ("fs_metadata", lambda plan: not plan.filter.deny_metadata and plan.writable_mounts is None),
        ("net_tcp", lambda plan: plan.handled_net == 0),
        ("unix_sockets", lambda plan: plan.filter.unix_sockets),
        ("scope_abstract", lambda plan: plan.scoped == landlock.SCOPE_SIGNAL),
        ("scope_signal", lambda plan: plan.scoped == landlock.SCOPE_ABSTRACT_UNIX_SOCKET),
    ],
)
def test_a_disabled_protection_is_off_and_said_to_be(name: str, effect: Any) -> None:
    fields: dict[str, Any] = {"fs_readable": ["/usr"], "net_allow": ["tcp://:443"]}
    assert not effect(plan_of(**fields))
    plan = plan_of(**fields, disable=[name])
    assert effect(plan)
    assert states(plan)[name] == "disabled"


@pytest.mark.parametrize("name", [name for name, (_, may) in PROTECTIONS.items() if not may])
def test_what_the_promise_consists_of_cannot_be_disabled(name: str) -> None:
    with pytest.raises(PolicyError, match=f"{name} cannot be switched off"):
        Policy(disable=[name])


@pytest.mark.parametrize(
    ("user", "mount", "privileged", "possible"),
    [(None, None, False, True), (True, True, False, True), (False, True, False, False), (True, False, False, False),
     (False, True, True, True), (None, False, True, False)],
)  # fmt: skip
def test_metadata_is_kept_by_a_mount_namespace_where_there_can_be_one(
    user: bool | None, mount: bool | None, privileged: bool, possible: bool
) -> None:
    features = HostFeatures(7, ALL_FS, 3, 3, user, mount, privileged)
    plan = plan_of(features, fs_readable=["/usr"], fs_writable=["/out", "/dev/null", "-/dev/shm"])
    assert plan.writable_mounts == (("/out", "/dev/shm") if possible else None)
    assert plan.filter.deny_metadata == (not possible)
    assert plan_of(features, fs_writable=["/out"], namespaces="off").writable_mounts is None
    assert plan_of(features, fs_readable=["/usr"], fs_writable=["/dev/null"]).writable_mounts is None
    if possible:
        assert plan_of(features, namespaces="require").writable_mounts == ()
        assert plan_of(features, private_tmp=True).writable_mounts == ()
    else:
        with pytest.raises(LayerMissingError) as caught:
            plan_of(features, namespaces="require")
        assert caught.value.layer == "namespace"


def test_write_grants_are_the_only_writable_places_without_landlock_too() -> None:
    features = features_of_abi(7, mount_namespace=True)
    plan = plan_of(features, fs_readable=["/usr"], fs_writable=["/out"], disable=["fs_access"])
    assert plan.writable_mounts == ("/out",)


def test_the_environment_is_clean_unless_asked_otherwise() -> None:
    assert plan_of().env == {"PATH": "/bin", "HOME": "/home/me", "USER": "me", "LANG": "C"}
    assert plan_of(clean_env=False).env == ENV
    assert plan_of(env={"SECRET": None, "NOPE": None, "A": "1", "HOME": "/h"}).env == {
        "PATH": "/bin", "HOME": "/h", "USER": "me", "LANG": "C", "SECRET": "x", "A": "1",
    }  # fmt: skip


def test_a_credential_never_comes_through_the_environment() -> None:
    features = HostFeatures(7, ALL_FS, 3, 3, served=SERVED_NAMES)
    assert "SECRET" in plan_of(features, clean_env=False).env
    plan = plan_of(features, clean_env=False, credentials=["T=env:SECRET", "U=file:/V"])
    assert "SECRET" not in plan.env
    assert plan.env["V"] == "/v"


def test_a_caller_without_path_and_home_gets_the_usual_ones() -> None:
    bare = Context("/", "/home/me", {}, 1000, 1000)
    assert resolve(Policy(), NEW, bare).env == {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/me"}


def test_limits_go_into_the_plan() -> None:
    plan = plan_of(max_open_files=64, cpu_cores="0,2", max_cpu=50, timeout="10s", grace=1, no_huge_pages=True,
                   no_randomize_memory=True, private_tmp=True, cwd="sub")  # fmt: skip
    assert plan.rlimits == ((4, 1, 1), (7, 64, 64))
    assert (plan.affinity, plan.max_cpu, plan.timeout_s, plan.grace_s) == ((0, 2), 50, 10.0, 1.0)
    assert (plan.no_huge_pages, plan.no_randomize_memory, plan.private_tmp) == (True, True, True)
    assert plan.cwd == "/work/sub"
    assert plan_of(no_coredump=False).rlimits == ()
    assert plan_of().affinity is None


def test_system_calls_named_by_the_policy_reach_the_filter() -> None:
    plan = plan_of(extra_deny_syscalls=["getrandom"], extra_allow_syscalls=["sysv_ipc"])
    assert (plan.filter.extra_deny, plan.filter.extra_allow) == (("getrandom",), ("sysv_ipc",))


def test_graphics_processors_are_device_nodes_and_variables() -> None:
    plan = plan_of(gpu_devices="0,2")
    rules = {path: (access, required) for path, access, required in plan.fs_rules}
    assert rules["/dev/nvidia0"] == rules["/dev/dri/renderD130"] == rules["/dev/nvidiactl"] == (ALL_FS, False)
    assert "/dev/nvidia1" not in rules
    assert rules["/proc/driver/nvidia"] == (landlock.READ, False)
    assert plan.env["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert "/dev/nvidia15" in {path for path, _, _ in plan_of(gpu_devices="all").fs_rules}
    assert "CUDA_VISIBLE_DEVICES" not in plan_of(gpu_devices="all").env
    assert plan_of(gpu_devices="0", env={"CUDA_VISIBLE_DEVICES": "7"}).env["CUDA_VISIBLE_DEVICES"] == "7"


def test_resolution_is_pure() -> None:
    policy = Policy(fs_readable=["/usr"], env={"A": "1"})
    assert resolve(policy, NEW, HERE) == resolve(policy, NEW, HERE)
    assert ENV["SECRET"] == "x"
