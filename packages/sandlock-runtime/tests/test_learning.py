"""What becomes of a record of a run: grants of paths, rules for peers."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from sandlock_notif.observed import Observed
from sandlock_runtime.interpreters import interpreters_of
from sandlock_runtime.learned_network import network_rules
from sandlock_runtime.learned_paths import Place, fold, is_sensitive
from sandlock_runtime.learning import own_folders, propose

if TYPE_CHECKING:
    from pathlib import Path

HOME = Place("/home/me", ("/home/me/.venvs/x",))


def folded(*paths: str, folders: tuple[str, ...] = (), exact: bool = False) -> tuple[list[str], list[str]]:
    return fold(paths, HOME, is_folder=lambda path: path in folders, exact=exact, programs=True)


def test_programs_and_libraries_are_granted_by_their_folder() -> None:
    paths = ("/usr/bin/ls", "/usr/lib/libc.so.6", "/home/me/.venvs/x/lib/a.py", "/nix/store/abc-z/bin/z", "/etc/hosts")
    assert folded(*paths)[0] == ["/etc/hosts", "/home/me/.venvs/x", "/nix/store/abc-z", "/usr"]
    assert folded(*paths, exact=True)[0] == sorted(paths)


def test_many_files_of_a_folder_are_granted_by_the_folder_and_few_by_name() -> None:
    few, many = [f"/srv/few/{n}" for n in range(3)], [f"/srv/many/{n}" for n in range(20)]
    assert folded(*few, *many)[0] == [*few, "/srv/many"]
    deep = [f"/srv/app/{part}/{n}" for part in "abcdefghij" for n in range(20)]
    assert folded(*deep)[0] == ["/srv/app"]


@pytest.mark.parametrize("folder", ["/", "/etc", "/home", "/home/me", "/home/me/.config", "/home/me/.ssh", "/tmp"])
def test_no_broad_folder_is_granted_because_it_was_listed_or_much_used(folder: str) -> None:
    assert folded(folder, folders=(folder,)) == ([], [folder])
    files = [f"{folder.rstrip('/')}/file{n}" for n in range(30)]
    assert sorted(folded(*files)[0]) == sorted(files)
    assert folded("/srv/x", folders=("/srv/x",)) == (["/srv/x"], []), "the control: another one is"


def test_secrets_keep_their_names_in_a_folder_of_many() -> None:
    assert is_sensitive("/home/me/.ssh/id_ed25519")
    assert is_sensitive("/srv/app/server.key")
    assert not is_sensitive("/etc/ssl/certs/ca.pem")
    assert not is_sensitive("/srv/app/keyboard")


def test_processes_stand_for_proc() -> None:
    assert folded("/proc/123/status", "/proc/meminfo")[0] == ["/proc"]
    assert folded("/proc/meminfo")[0] == ["/proc/meminfo"]


def test_a_peer_is_named_where_its_name_is_known() -> None:
    seen = Observed()
    seen.connect("tcp", "192.0.2.1", 443)
    seen.connect("tcp", "::ffff:192.0.2.1", 80)
    seen.connect("tcp", "198.51.100.7", 22)
    seen.connect("tcp", "2001:db8::1", 22)
    seen.send("udp", "203.0.113.1", 53, "example.org")
    seen.send("udp", "203.0.113.1", 53, "example.org.lan")
    seen.connect("udp", "192.0.2.1", 443)  # what getaddrinfo does
    use = network_rules(seen, {"example.org": {"192.0.2.1"}})
    assert use.allow == ("tcp://198.51.100.7:22", "tcp://[2001:db8::1]:22", "tcp://example.org:80,443")
    assert [note.split()[0] for note in use.notes] == ["198.51.100.7", "2001:db8::1"]


def test_a_name_server_stays_where_names_were_only_looked_up() -> None:
    seen = Observed()
    seen.send("udp", "203.0.113.1", 53, "example.org")
    assert network_rules(seen, {}).allow == ("udp://203.0.113.1:53",)
    seen.connect("udp", "198.51.100.7", 123)
    assert "udp://198.51.100.7:123" in network_rules(seen, {}).allow


def test_what_the_program_itself_listens_on_needs_no_rule() -> None:
    seen = Observed()
    seen.bind(0)
    seen.listen(40000)
    seen.connect("tcp", "127.0.0.1", 40000)
    seen.connect("tcp", "127.0.0.1", 5432)
    use = network_rules(seen, {})
    assert (use.allow, use.bind) == (("tcp://127.0.0.1:5432",), (0,))


def test_interpreters_are_found(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\n")
    shell = os.path.realpath("/bin/sh")
    assert interpreters_of(str(script))[0] == shell
    assert "ld" in os.path.basename(interpreters_of(str(script))[1])
    assert interpreters_of(os.path.realpath(sys.executable))
    script.write_bytes(b"\x7fELF" + bytes(range(200)))
    assert interpreters_of(str(script)) == ()
    assert interpreters_of(str(tmp_path / "none")) == ()


def test_compiled_modules_are_never_granted_for_writing(tmp_path: Path) -> None:
    seen = Observed()
    (tmp_path / "pkg/__pycache__").mkdir(parents=True)
    seen.make(f"{tmp_path}/pkg/__pycache__/x.pyc")
    learned = propose(seen, HOME, {}, {}, exact=False)
    assert learned.policy.fs_writable == ()
    assert any("__pycache__" in note for note in learned.notes)
    seen.make(f"{tmp_path}/pkg/x")
    assert propose(seen, HOME, {}, {}, exact=False).policy.fs_writable == (f"{tmp_path}/pkg",), "the control"


def test_what_a_grant_would_let_run_later_is_told(tmp_path: Path) -> None:
    seen = Observed()
    hooks = tmp_path / ".git/hooks"
    hooks.mkdir(parents=True)
    seen.make(f"{hooks}/pre-commit")
    learned = propose(seen, HOME, {}, {}, exact=False)
    assert any("runs later outside" in note for note in learned.notes)


def test_what_became_a_link_is_not_granted(tmp_path: Path) -> None:
    """The program has its user's rights while it is watched: a grant of its link would be of what it chose."""
    (tmp_path / "secret").mkdir()
    for name in ("data", "kept"):
        (tmp_path / name).mkdir()
    seen = Observed()
    for number in range(20):
        for name in ("data", "kept"):
            (tmp_path / name / f"f{number}").write_text("")
            seen.read(f"{tmp_path}/{name}/f{number}")
    for name in ("link", "file"):
        (tmp_path / name).write_text("")
        seen.make(f"{tmp_path}/{name}")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").symlink_to(tmp_path / "secret")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    learned = propose(seen, Place(str(tmp_path)), {}, {}, exact=False)
    assert learned.policy.fs_readable == ("~/kept",)
    assert learned.policy.fs_writable == ("-~/file",)
    assert len([note for note in learned.notes if "has become a link" in note]) == 2


def test_sandlocks_own_files_are_never_granted_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profiles = tmp_path / "config/sandlock/profiles"
    profiles.mkdir(parents=True)
    (tmp_path / "config/other").mkdir()
    seen = Observed()
    seen.make(str(profiles / "web.toml"))
    seen.make(str(tmp_path / "config"))
    seen.make(str(tmp_path / "config/other/file"))
    learned = propose(seen, Place("/home/me", own=own_folders()), {}, {}, exact=False)
    assert learned.policy.fs_writable == (f"{tmp_path}/config/other",)
    assert any("sandlock's own files" in note for note in learned.notes)


def test_odd_names_are_told_and_left_out(tmp_path: Path) -> None:
    seen = Observed()
    for name in ("plain", "a\nb", "${HOME}"):
        (tmp_path / name).write_text("")
        seen.read(str(tmp_path / name))
    learned = propose(seen, HOME, {}, {}, exact=True)
    assert learned.policy.fs_readable == (f"-{tmp_path}/plain",)
    assert sum("cannot be written in a profile" in note for note in learned.notes) == 2
