"""Hints: what a command mentions, and what is said about it; never more than is known."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_cli.failure import warn
from sandlock_cli.hints import hints_after
from sandlock_cli.mentions import PathMention, read_command
from sandlock_cli.program_hints import listening_ports
from sandlock_policy import preset
from sandlock_runtime import Result, host_features
from sandlock_runtime.prepare import make_context, plan_for
from sandlock_runtime.result import Denial

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Typed

    from sandlock_testkit import Identity, Outsider

needs_sandbox = pytest.mark.needs("landlock", level=2)


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        (["cat", "/etc/shadow"], [PathMention("/etc/shadow")]),
        (["cat", "--", "-"], []),
        (["tar", "--file=/srv/a.tar", "x"], [PathMention("/srv/a.tar")]),
        (["cat", "../x/./y"], [PathMention("/base/x/y")]),
        (["touch", "new"], [PathMention("/base/work/new", writes=True)]),
        (["grep", "word"], []),
        (["python3", "-c", "open('/root/x','w')"], [PathMention("/root/x", writes=True, in_code=True)]),
        (["python3", "-c", 'open("rel", mode="ab")'], [PathMention("/base/work/rel", writes=True, in_code=True)]),
        (["python3", "-c", "open('/root/x').read()"], [PathMention("/root/x", in_code=True)]),
        (["sh", "-c", "echo a >>/var/log/x"], [PathMention("/var/log/x", writes=True, in_code=True)]),
        (["sh", "-c", "cat /etc/shadow|sort"], [PathMention("/etc/shadow", in_code=True)]),
        (["sh", "-c", "echo $HOME/x a/b //c ${X}/y 4/2"], []),
        (["sh", "-c", "curl https://example.org/a/b"], []),
    ],
)
def test_paths_are_found_in_words_and_in_code(command: list[str], paths: list[PathMention]) -> None:
    assert read_command(command, "/base/work").paths == paths


@pytest.mark.parametrize(
    ("command", "endpoints"),
    [
        (["curl", "https://example.org/x"], [("example.org", 443)]),
        (["curl", "http://user:pw@10.0.0.1:8080/"], [("10.0.0.1", 8080)]),
        (["prog", "example.org:5432"], [("example.org", 5432)]),
        (["prog", "[::1]:53"], [("::1", 53)]),
        (["prog", "12:30"], []),
        (["python3", "-c", "create_connection(('127.0.0.1', 80))"], [("127.0.0.1", 80)]),
        (["bash", "-c", "echo >/dev/tcp/10.0.0.2/25"], [("10.0.0.2", 25)]),
        (["prog", "file:///etc/passwd"], []),
        (["prog", "host.example:99999"], []),
    ],
)
def test_hosts_and_ports_are_found(command: list[str], endpoints: list[tuple[str, int]]) -> None:
    assert read_command(command, "/").endpoints == endpoints


def test_programs_and_code_of_the_network_and_of_signals_are_known() -> None:
    assert read_command(["/usr/bin/ssh", "host"], "/").network
    assert read_command(["sh", "-c", "cd x && git pull"], "/").network
    assert read_command(["python3", "-c", "import socket; f()"], "/").network
    assert not read_command(["sh", "-c", "echo git is a program"], "/").network
    assert read_command(["kill", "1"], "/").kills
    assert read_command(["python3", "-c", "os.kill(1, 9)"], "/").kills
    assert not read_command(["sh", "-c", "echo skill"], "/").kills


@pytest.mark.parametrize(
    ("command", "ports"),
    [
        (["python3", "-m", "http.server"], [8000]),
        (["python3", "-m", "http.server", "-b", "127.0.0.1", "18555"], [18555]),
        (["/usr/bin/python3.11", "-m", "http.server", "9000", "-d", "x"], [9000]),
        (["uvicorn", "app:app", "--host", "127.0.0.1", "--port", "80"], [80]),
        (["uvicorn", "app:app", "--workers", "4"], []),
        (["gunicorn", "-w", "4", "-b", "0.0.0.0:8001", "app:app"], [8001]),
        (["flask", "run", "--port=5000"], [5000]),
        (["node", "-e", 'require("http").createServer().listen(8181)'], [8181]),
        (["python3", "-c", "s.bind(('', 7000)); s.listen()"], [7000]),
        (["python3", "-c", "s.listen(99999)"], []),
        (["python3", "-m", "json.tool", "80"], None),
        (["cat", "listen(80)"], None),
        (["uvicorn", "--port", "²", "--port", "1" * 5000], []),
    ],
)
def test_a_program_that_listens_is_known(command: list[str], ports: list[int] | None) -> None:
    assert listening_ports(command) == ports


def test_a_word_and_a_number_in_code_are_no_address() -> None:
    assert read_command(["node", "-e", 'pad("a",4)'], "/").endpoints == []
    assert read_command(["python3", "-c", 'import socket; c(("db",5432))'], "/").endpoints == [("db", 5432)]


@needs_sandbox
@pytest.mark.needs("command:ps")
def test_programs_that_need_more_than_files_are_told_which_option(sandlock: Typed, tmp_path: Path) -> None:
    """Each option is right: with it the program does what it could not."""
    done = sandlock("run", "--", "ps")
    assert done.stderr.splitlines()[-1].endswith("--fs-read /proc would allow that")
    assert sandlock("run", "-r", "/proc", "--", "ps").returncode == 0
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1])"
    done = sandlock("run", "--", "python3", "-c", code)
    assert done.stderr.splitlines()[-1].endswith("--net-allow-bind PORT would allow it")
    assert sandlock("run", "--net-allow-bind", "0", "--", "python3", "-c", code).returncode == 0
    done = sandlock("run", "--", "cat", "/proc/self/status")
    assert "--fs-read /proc would allow reading it" in done.stderr.splitlines()[-1]
    assert sandlock("run", "-r", "/proc", "--", "cat", "/proc/self/status").returncode == 0
    tracer = tmp_path / "strace"  # stands for it: what is said depends on the name
    tracer.write_text("#!/bin/sh\nexit 1\n")
    tracer.chmod(0o755)
    done = sandlock("run", "--", str(tracer))
    assert done.stderr.splitlines()[-1].endswith("--extra-allow-syscalls ptrace would allow that inside")


@needs_sandbox
@pytest.mark.needs("command:git")
def test_a_linked_worktree_is_told_where_its_repository_is(sandlock: Typed, tmp_path: Path) -> None:
    store, tree = tmp_path / "store", tmp_path / "tree"
    environment = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "EMAIL"), "x") | {"HOME": str(tmp_path)}
    for words in (["init", "-q", "store"], ["-C", "store", "commit", "-q", "--allow-empty", "-m", "x"],
                  ["-C", "store", "worktree", "add", "-q", "../tree"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=tmp_path, env={**os.environ, **environment}, check=True)
    for command in (["git", "status"], ["sh", "-c", "git status"]):
        done = sandlock("run", "--", *command, cwd=tree)
        assert f"--fs-read {store}/.git would let git read its repository" in done.stderr, done.stderr
    assert (
        sandlock("run", "--preset", "default", "-r", f"{store}/.git", "--", "git", "status", cwd=tree).returncode == 0
    )
    (tree / ".git").write_text(f"gitdir: {tmp_path}/a/b\n")  # what is no repository is not advised
    assert "would let git read" not in sandlock("run", "--", "git", "status", cwd=tree).stderr


@needs_sandbox
@pytest.mark.timeout(20)
def test_a_worktree_that_somebody_made_up_is_no_advice(sandlock: Typed, tmp_path: Path) -> None:
    """SEC: a FIFO held the command up, a NUL byte ended it, and other words than a path were advised."""
    tree, store = tmp_path / "tree", tmp_path / "s --fs-write ~ x"
    entry = store / "worktrees/tree"
    tree.mkdir()
    entry.mkdir(parents=True)
    for name in ("HEAD", "objects"):
        (store / name).mkdir()
    link = tree / ".git"

    def told() -> str:
        return sandlock("run", "--", "sh", "-c", "exit 3; git", cwd=tree).stderr

    os.mkfifo(link)
    assert "git read" not in told()
    link.unlink()
    for text in ("gitdir: a\0b", "\0", f"gitdir: {entry}"):  # the last is one of a repository that knows nothing of it
        link.write_text(text)
        assert "git read" not in told(), text
    (entry / "gitdir").write_text(f"{link}\n")
    assert f"--fs-read '{store}' would let git read its repository" in told()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a-", "open('", "/a", "a.", "bind(", "(", "[::", "> ", "a://", "('a", "~/", " "])
def test_a_long_hostile_text_takes_no_time(unit: str) -> None:
    read_command(["sh", "-c", unit * 40_000 + " ;"], "/")
    listening_ports(["sh", "-c", unit * 40_000 + " ;"])


@needs_sandbox
def test_a_file_outside_the_policy_and_the_option_that_would_allow_it(sandlock: Typed, as_user: Identity) -> None:
    done = sandlock("run", "--", "cat", "/etc/shadow")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    line = "sandlock: /etc/shadow is outside the policy; --fs-read /etc/shadow would allow reading it"
    last = done.stderr.splitlines()[-1]
    assert last == line if as_user.is_root else last.startswith(line + ", but your account may not")


@needs_sandbox
def test_a_write_outside_the_policy_names_the_folder_to_grant(sandlock: Typed, tmp_path: Path) -> None:
    target = tmp_path / "made"
    done = sandlock("run", "--", "python3", "-c", f"open('{target}','w')")
    assert done.returncode == 1
    assert f"--fs-write {tmp_path} would allow creating it" in done.stderr
    assert sandlock("run", "--fs-write", str(tmp_path), "--", "python3", "-c", f"open('{target}','w')").returncode == 0
    assert target.exists()


@needs_sandbox
def test_a_grant_behind_a_link_says_where_it_leads(sandlock: Typed, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("x")
    link = tmp_path / "work" / "link"
    link.symlink_to(tmp_path / "private")  # as a program could have made it that was here before
    real = os.path.realpath(tmp_path / "private")
    told = sandlock("run", "--", "sh", "-c", "echo x > link/new").stderr
    assert f"--fs-write {link} would allow creating it (it leads to {real}, and that is what would be granted)" in told
    told = sandlock("run", "--", "cat", "link/key").stderr
    assert f"--fs-read {link}/key would allow reading it (it leads to {real}/key," in told
    assert "leads to" not in sandlock("run", "--", "sh", "-c", "echo x > new").stderr


@needs_sandbox
def test_a_grant_of_more_than_was_asked_for_says_so(sandlock: Typed, tmp_path: Path) -> None:
    told = sandlock("run", "--", "sh", "-c", "echo x > /tmp/sandlock-hint-of-nobody").stderr
    assert "--fs-write /tmp would allow creating it; everybody's temporary files are there, and TMPDIR names" in told
    told = sandlock("run", "--", "sh", "-c", "echo x > ~/sandlock-hint-of-nobody").stderr
    assert "that is all of your home directory, so rather a folder in it" in told
    assert "rather" not in sandlock("run", "--", "sh", "-c", "echo x > new").stderr


@needs_sandbox
@pytest.mark.needs("command:git")
def test_a_program_that_works_in_its_directory_hears_that_it_cannot_write_there(
    sandlock: Typed, tmp_path: Path
) -> None:
    done = sandlock("run", "--", "git", "init", "-q", "new")
    assert done.returncode
    work = os.path.realpath(tmp_path / "work")
    assert f"{work} is outside the policy for writing; --fs-write . would allow it" in done.stderr
    done = sandlock("run", "--preset", "default", "-w", ".", "--", "git", "init", "-q", "new")
    assert done.returncode == 0, done.stderr
    assert "for writing" not in sandlock("run", "--preset", "default", "-w", ".", "--", "git", "nonsense").stderr


@needs_sandbox
def test_the_home_of_root_is_named_too(sandlock: Typed) -> None:
    done = sandlock("run", "--", "python3", "-c", "open('/root/x','w')")
    assert done.returncode == 1
    assert "--fs-write /root " in done.stderr


@needs_sandbox
def test_a_readable_file_that_was_to_be_changed(sandlock: Typed, tmp_path: Path) -> None:
    file = tmp_path / "work" / "file"
    file.write_text("x")
    done = sandlock("run", "--", "rm", "-f", "file")
    assert file.exists()
    assert f"{file} can be read only; --fs-write {file.parent} would allow removing it" in done.stderr
    assert sandlock("run", "-w", str(file.parent), "--", "rm", "-f", "file").returncode == 0
    assert not file.exists()


@needs_sandbox
def test_signals_reach_nobody_outside_and_no_option_is_named(sandlock: Typed, outsider: Outsider) -> None:
    if host_features().landlock_abi < 6:  # they are in a PID namespace, where nobody outside has a number
        done = sandlock("run", "--", "sh", "-c", f"echo $PPID; kill -9 {outsider.pid}")
        assert (done.returncode, done.stdout) == (1, "0\n")
        assert "No such process" in done.stderr
        assert outsider.alive()
        return
    for script in ("kill -9 $PPID", f"kill -9 {outsider.pid}"):
        done = sandlock("run", "--", "sh", "-c", script)
        assert done.returncode == 1
        assert "not permitted" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("sandlock: signals reach processes of the sandbox only")
    assert outsider.alive()


@needs_sandbox
def test_a_connection_names_the_rule_that_allows_it(sandlock: Typed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        done = sandlock("run", "--", "python3", "-c", script)
        assert done.returncode == 1
        assert "PermissionError" in done.stderr
        assert f"--net-allow tcp://:{port} would allow connecting there" in done.stderr
        assert "UDP" not in done.stderr, "an address needs no lookup"
        assert sandlock("run", "--net-allow", f"tcp://:{port}", "--", "python3", "-c", script).returncode == 0
        other = sandlock("run", "--net-allow", "tcp://:1", "--", "python3", "-c", script)
        assert f"TCP port {port} is outside the policy" in other.stderr or (
            f"--net-allow tcp://127.0.0.1:{port} would allow it" in other.stderr  # before Landlock ABI 4
        )


@needs_sandbox
def test_a_name_that_must_be_looked_up_is_no_empty_promise(sandlock: Typed) -> None:
    script = "import urllib.request as u; u.urlopen('http://example.org/')"
    done = sandlock("run", "--", "python3", "-c", script)
    assert done.returncode == 1
    assert "--net-allow example.org:80 would allow" in done.stderr, "the supervisor gives the name to the program"
    alone = sandlock("run", "--no-supervisor", "--", "python3", "-c", script)
    assert "--net-allow tcp://:80" in alone.stderr
    assert "looking up example.org takes UDP" in alone.stderr


@needs_sandbox
def test_a_unix_socket_is_called_one(sandlock: Typed, tmp_path: Path) -> None:
    path = str(tmp_path / "work" / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        done = sandlock("run", "--", "python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')")
    assert "--disable unix_sockets" in done.stderr


@needs_sandbox
def test_nothing_is_said_about_what_is_granted_or_not_there(sandlock: Typed, tmp_path: Path) -> None:
    (tmp_path / "work" / "file").write_text("x")
    done = sandlock("run", "--", "grep", "nothing", "file", "/usr/no-such-file")
    assert done.returncode in {1, 2}
    hints = [line for line in done.stderr.splitlines() if line.startswith("sandlock: ")]
    assert len(hints) == 1
    assert hints[0].startswith("sandlock: no policy was named")
    assert all(flag in hints[0] for flag in ("--fs-read", "--fs-write", "--net-allow", "--explain"))
    named = sandlock("run", "--preset", "default", "--", "grep", "nothing", "file")
    assert named.stderr == ""


@needs_sandbox
@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_nothing_is_said_about_paths_that_something_else_is_shown_at(
    sandlock: Typed, tmp_path: Path, namespaces: str
) -> None:
    for name in ("tree", "shown", "place"):
        (tmp_path / "work" / name).mkdir()
    run = ["run", "--preset", "default", "--namespaces", namespaces]
    if namespaces == "off":
        run += ["--allow-degraded", "scope_signal,fs_ioctl_dev"]  # what Linux 6.1 gives up then
    place, shown, tree = (str(tmp_path / "work" / name) for name in ("place", "shown", "tree"))
    script = "echo x > {0}/made; rm {0}/made; cat {0}/no-such; false"
    for fields, path in ((("--workdir", tree), tree), (("--fs-mount", f"{place}:{shown}"), place)):
        done = sandlock(*run, *fields, "--", "sh", "-c", script.format(path))
        assert done.returncode == 1
        assert "outside the policy" not in done.stderr
        assert "read only" not in done.stderr
    control = sandlock(*run, "--", "sh", "-c", script.format(tree))
    assert f"--fs-write {tree} would allow" in control.stderr


@needs_sandbox
def test_hints_can_be_silenced_and_success_has_none(sandlock: Typed) -> None:
    for flag in ("-q", "--quiet", "--no-hints"):
        assert "sandlock:" not in sandlock("run", flag, "--", "cat", "/etc/shadow").stderr
    assert sandlock("run", "-e", "cat /etc/shadow 2>/dev/null; true").stderr == ""


@needs_sandbox
def test_hints_are_in_the_json_and_not_on_stderr(sandlock: Typed) -> None:
    done = sandlock("run", "--json", "--", "cat", "/etc/shadow")
    assert done.stderr == ""
    assert "--fs-read /etc/shadow" in json.loads(done.stdout)["hints"][0]


@needs_sandbox
def test_a_timeout_is_named_instead(sandlock: Typed) -> None:
    done = sandlock("run", "-t", "0.2", "-e", "cat /etc/shadow; sleep 20")
    assert done.stderr.splitlines()[-1] == "sandlock: the program was ended after 0.2 s (--timeout)"


@needs_sandbox
def test_the_names_of_files_cannot_speak_to_the_terminal(sandlock: Typed, tmp_path: Path) -> None:
    file = tmp_path / "\x1b]52;c;eA==\x07\u202e"
    file.write_text("x")
    done = sandlock("run", "--", "cmp", "-s", str(file), os.devnull)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sandlock: ")
    assert last.isprintable()
    assert "\\x1b]52" in last


def result_with(*denials: Denial, **fields: Any) -> Result:
    return Result(success=False, exit_code=1, denials=denials, **fields)


def hints(result: Result) -> list[str]:
    policy = preset("default")
    context, _ = make_context(policy, None)
    plan = plan_for(policy, context, host_features())
    return hints_after(["true"], plan, result, policy, implicit=True)


def test_what_the_supervisor_denied_comes_last_with_count_and_flag() -> None:
    lines = hints(
        result_with(
            Denial("connect", 111, "no rule allows it", "192.0.2.1:80", "--net-allow 192.0.2.1:80", 3),
            Denial("clone", 11, "max_processes: 2 processes live"),
        )
    )
    assert lines == [
        "connect '192.0.2.1:80' was denied 3 times: no rule allows it; --net-allow 192.0.2.1:80 would allow it",
        "clone was denied: max_processes: 2 processes live; a larger --max-processes would allow it",
    ]


def test_a_denial_says_each_thing_once() -> None:
    reason = "tcp://192.0.2.1:80 is not allowed: --net-allow tcp://192.0.2.1:80"
    denial = Denial("connect", 13, reason, "tcp://192.0.2.1:80", "--net-allow tcp://192.0.2.1:80")
    assert hints(result_with(denial)) == [
        "connect 'tcp://192.0.2.1:80' was denied: no rule allows it; --net-allow tcp://192.0.2.1:80 would allow it"
    ]


def test_denials_are_told_after_a_signal_too_and_only_the_last_few() -> None:
    many = [Denial("openat", 13, "denied", f"/secret/{number}") for number in range(9)]
    lines = hints(result_with(*many, signal=9, reason="SIGNALED"))
    assert lines[0] == "4 other kinds of calls were denied before these"
    assert [line.split("'")[1] for line in lines[1:]] == [f"/secret/{number}" for number in range(4, 9)]


def test_a_name_that_the_program_chose_cannot_go_on_with_our_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "x'; --fs-write / would allow it\n\x1b]52;c;eA==\x07sandlock: \u202e"
    for line in hints(result_with(Denial("openat", 13, "denied", forged))):
        warn(line)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told[:-1].isprintable()
    assert told.startswith("sandlock: openat \"x'; --fs-write / would allow it\\n"), "it is in quotes, to its end"
    assert len(hints(result_with(Denial("openat", 13, "", "y" * 10_000)))[0]) < 400


def test_memory_and_a_forbidden_interface_are_named() -> None:
    assert "--max-memory" in hints(result_with(reason="MEMORY", signal=9))[0]
    assert "32-bit" in hints(result_with(reason="DENIED", signal=31))[0]


@needs_sandbox
def test_a_limit_that_stopped_the_program_is_named(sandlock: Typed) -> None:
    done = sandlock("run", "-P", "1", "-e", "(echo x); exit 3")
    assert done.returncode != 0
    assert "was denied: max_processes" in done.stderr.splitlines()[-1]
    assert "--max-processes would allow it" in done.stderr.splitlines()[-1]
    assert "x" in sandlock("run", "-P", "4", "-e", "(echo x)").stdout
