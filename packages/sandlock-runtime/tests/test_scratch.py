"""The private temporary directory: who may enter, that it goes, and that nothing else goes with it."""

from __future__ import annotations

import os
import re
import stat
import time
from typing import TYPE_CHECKING

import pytest
from runtime_lab import OLD_LANDLOCK, PYTHON, box, line_of

from sandlock_runtime import PIPE, ConfinementError
from sandlock_runtime.scratch import make_scratch, name_scratch, remove_scratch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that TMPDIR names."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_the_program_finds_it_by_name_writes_there_and_it_goes(base: Path) -> None:
    result = box(private_tmp=True).run(
        ["sh", "-c", "echo $TMPDIR; stat -c %a $TMPDIR; echo in > $TMPDIR/f; cat $TMPDIR/f"]
    )
    path, mode, content = result.stdout.decode().split()
    assert re.fullmatch(re.escape(str(base)) + "/sandlock-[0-9a-f]{16}", path)
    assert (mode, content) == ("700", "in")
    assert list(base.iterdir()) == []


def test_its_neighbours_are_out_of_reach(base: Path) -> None:
    (base / "other").write_text("secret")
    result = box(private_tmp=True).run(
        ["sh", "-c", "cat $TMPDIR/../other; echo x > $TMPDIR/../new; rmdir $TMPDIR; ls $TMPDIR"]
    )
    assert result.success and b"secret" not in result.stdout
    assert [path.name for path in base.iterdir()] == ["other"]


def test_each_run_has_its_own(base: Path) -> None:
    sandbox = box(private_tmp=True)
    names = [sandbox.run(["sh", "-c", "echo $TMPDIR; ls $TMPDIR; touch $TMPDIR/x"]).stdout for _ in range(3)]
    assert len(set(names)) == 3 and all(name.count(b"\n") == 1 for name in names)


def test_the_host_sees_it_as_long_as_the_program_runs(base: Path) -> None:
    with box(private_tmp=True).popen(["sh", "-c", "echo $TMPDIR; sleep 60"], stdout=PIPE) as process:
        path = line_of(process.stdout)
        status = os.stat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())
    assert not os.path.exists(path)


def test_a_folder_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/base")
    with pytest.raises(ConfinementError, match="TMPDIR") as caught:
        box(private_tmp=True).run(["true"])
    assert (caught.value.step, caught.value.errno) == ("private-tmp", 2)


def test_a_name_that_exists_is_never_taken(tmp_path: Path) -> None:
    path = name_scratch(str(tmp_path))
    os.symlink("/etc", path)
    with pytest.raises(ConfinementError):
        make_scratch(path)
    assert name_scratch("/").startswith("/sandlock-") and name_scratch("/x/") != name_scratch("/x/")


def test_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    remove_scratch(str(tmp_path / "gone"))


DEEP = "import os\nfor _ in range({depth}):\n os.mkdir('d'); os.chdir('d')\nopen('leaf', 'w').close()"
CLOSED = "for n in a b c; do mkdir -p $n/$n/$n; touch $n/$n/f; chmod 0 $n/$n/f $n/$n/$n $n/$n $n; done; chmod 0 ."
MANY = "import os\nfor n in range(10000): open(str(n), 'w').close()"
NAMES = (
    "import os\nfor n in (b'-rf', b'\\xff\\xfe', b' ', b'a\\nb', b'*', b'.x'):\n"
    " os.mkdir(n); open(n + b'/f', 'w').close()"
)


@pytest.mark.parametrize(
    "command",
    [[*PYTHON, DEEP.format(depth=3000)], ["sh", "-c", CLOSED], [*PYTHON, MANY], [*PYTHON, NAMES], ["mkfifo", "pipe"]],
    ids=["depth 3000", "mode 000", "10,000 files", "names", "a fifo"],
)
@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_hostile_contents_are_removed(command: list[str], namespaces: str, base: Path) -> None:
    started = time.monotonic()
    sandbox = box(private_tmp=True, namespaces=namespaces, allow_degraded=OLD_LANDLOCK)
    result = sandbox.run(["sh", "-c", 'cd "$TMPDIR" && exec "$@"', "sh", *command])
    if namespaces == "auto":  # without them chmod is refused, and the rest is as harmless
        assert result.success, result.stderr
    assert list(base.iterdir()) == []
    assert time.monotonic() - started < 15


def test_links_out_of_it_are_removed_and_their_targets_are_not_touched(base: Path, tree: Tree) -> None:
    folder = tree.secret / "folder"
    folder.mkdir(mode=0o751)
    folder.chmod(0o751)
    (folder / "kept").write_text("kept")
    before = folder.stat()
    code = (
        f"cd $TMPDIR; ln -s {folder} link; ln -s {tree.canary.path} file; mkdir d; ln -s {folder} d/link;"
        "ln -s . d/self; ln -s .. d/up; ln -s / root; chmod 0 d; ls -l"
    )
    result = box(private_tmp=True).run(["sh", "-c", code])
    assert b"link -> " in result.stdout, result.stderr
    assert list(base.iterdir()) == []
    after = folder.stat()
    assert (after.st_mode, after.st_ino, after.st_nlink, after.st_mtime_ns) == (
        before.st_mode, before.st_ino, before.st_nlink, before.st_mtime_ns,
    )  # fmt: skip
    assert (folder / "kept").read_text() == "kept"


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plain(path: Path, target: Path) -> None:
    path.write_text("x")


@pytest.mark.parametrize("put", [link, plain], ids=["a link", "a file"])
def test_what_was_put_in_its_place_is_removed_and_not_followed(
    put: Callable[[Path, Path], None], base: Path, tree: Tree
) -> None:
    made = base / "sandlock-0"
    put(made, tree.secret)
    remove_scratch(str(made))
    assert list(base.iterdir()) == [] and tree.canary.path.exists()


def test_a_program_that_may_write_around_it_gets_its_result_all_the_same(base: Path, tree: Tree) -> None:
    code = f'cd {base}; rmdir "$TMPDIR"; ln -s {tree.secret} "$TMPDIR"; echo done'
    sandbox = box(private_tmp=True, fs_writable=[str(base)], namespaces="off", allow_degraded=OLD_LANDLOCK)
    result = sandbox.run(["sh", "-c", code])
    assert result.stdout == b"done\n", result.stderr
    assert list(base.iterdir()) == []


def test_a_file_that_nobody_may_remove_names_the_folder_at_worst(base: Path) -> None:
    path = name_scratch(str(base))
    make_scratch(path)
    os.mkdir(f"{path}/d")
    os.chmod(path, 0)
    remove_scratch(path)
    assert list(base.iterdir()) == []
