"""Real programs on a copy-on-write branch: dropped, nothing has happened; committed, it is what a bare run makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from sandlock import Branch, Sandbox

pytestmark = [pytest.mark.needs("landlock", level=3)]
WAYS = [pytest.param("auto", marks=pytest.mark.needs("mount_namespace")), pytest.param("off", id="served")]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "/dev/urandom"]
SYSTEM += ["-/etc/debian_version", "-/etc/os-release", "-/etc/lsb-release", "-/etc/mime.types"]  # pip reads them
PYTHON = list(dict.fromkeys([sys.prefix, sys.base_prefix, str(Path(sysconfig.get_paths()["stdlib"]))]))
ENV = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_TEMPLATE_DIR": "", "GIT_AUTHOR_DATE": "1600000000 +0000", "TZ": "UTC",
    "GIT_COMMITTER_DATE": "1600000000 +0000", "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "pack.threads", "GIT_CONFIG_VALUE_0": "1",
    "LC_ALL": "C", "PATH": os.environ["PATH"],
}  # fmt: skip

GIT = """
git -c init.defaultBranch=main init -q origin
cd origin; for i in 1 2 3; do echo $i > f$i; mkdir -p d$i; echo $i > d$i/f; git add .; git commit -qm $i; done; cd ..
git clone -q origin clone
cd clone; echo more >> f1; git mv f2 moved; git rm -q f3; git commit -qam changed; git tag one
git worktree add -q ../tree one; git branch topic; git gc -q; git push -q origin topic; git fsck --strict
test "$(git rev-list --count HEAD)" = 4; git status --short
"""
MAKE = """
mkdir src; for i in 1 2 3 4 5 6; do echo "int f$i(void) { return $i; }" > src/f$i.c; done
echo 'int f1(void); int main(void) { return f1() - 1; }' > src/main.c
cat > Makefile << 'END'
O = $(patsubst %.c,%.o,$(wildcard src/*.c))
program: libf.a src/main.o ; gcc -o $@ src/main.o libf.a
libf.a: $(O) ; ar rcD $@ $(filter-out src/main.o,$(O))
%.o: %.c ; gcc -g0 -O1 -c -o $@ $<
END
make -s -j2; ./program; touch -d '+2 seconds' src/f3.c; make -s; strip program; rm src/f1.o; make -s src/f1.o; ./program
"""
SQLITE = """
sqlite3 db 'pragma journal_mode=wal; create table t(a integer primary key, b text);' > mode
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
    sqlite3 db "insert into t(b) values (hex(zeroblob(500))); update t set b = b || $i;"
done
sqlite3 db 'pragma wal_checkpoint(truncate); delete from t where a % 3 = 0; vacuum; pragma integrity_check'
sqlite3 db .dump > dump; rm -f db db-wal db-shm
"""
TAR = """
mkdir -p a/b/c; echo 1 > a/1; ln a/1 a/b/hard; ln -s ../1 a/b/soft; chmod 640 a/1; mkfifo a/fifo; chmod 1750 a/b
truncate -s 1M a/sparse; printf x | dd of=a/sparse bs=1 seek=500000 conv=notrunc status=none
touch -d 2001-01-01 a/1 a/b/c; tar cSf a.tar --sort=name --mtime=2002-02-02 a; mkdir out; tar xpSf a.tar -C out
tar df a.tar -C out; mv a/b moved; rm -r a; tar xf a.tar; rm a.tar
"""
EDIT = """
echo one > file; for i in 1 2 3; do sed -i "s/one/one $i/" file; cp file file.new; mv file.new file; done
cp -p keep keep.bak; echo new > .keep.swp; mv .keep.swp keep; ln keep linked; echo more >> linked
cp -al sub copy; rm -r sub/deep; mv copy sub/deep; mkdir -p x/y; mv x sub/x; rmdir sub/x/y; ln -sfn file link
"""
RSYNC = """
mkdir -p from/deep; echo 1 > from/1; ln from/1 from/deep/hard; ln -s ../1 from/deep/soft; chmod 640 from/1
echo 2 > from/deep/2; truncate -s 300K from/sparse; mkfifo from/fifo; chmod 1750 from/deep
touch -d 2001-01-01 from/1 from/sparse; touch -d 2002-02-02 from/deep; echo attribute > from/attributes
rsync -aHS --itemize-changes from/ to/ | sort; rsync -aH -n --itemize-changes --delete from/ to/
echo more >> from/1; rm from/deep/2; mkdir from/new; echo 3 > from/new/3; echo left > to/deep/left
rsync -aH --delete-after --backup --backup-dir=../old from/ to/; rsync -aH --inplace --append keep to/new/
echo 4 >> from/new/3; rsync -a --link-dest=../to from/ third/; rsync -a --remove-source-files from/new/ moved/
rsync -aHcO -n --itemize-changes --delete from/ to/; find to third -type f -links +1 | sort
"""
PIP = f"""
{sys.executable} -m venv --without-pip env
PYTHONPATH={{pip}} {sys.executable} -m pip --isolated -q install --no-index --no-deps --no-compile --no-cache-dir \\
    --disable-pip-version-check --target env/lib ./many-1.0-py3-none-any.whl
PYTHONPATH=env/lib {sys.executable} -B -c 'import many.m7; assert many.m7.X == 7'
"""
# A repository that was there before: its objects are copied up when a clone shares them.
SHARING = """
git clone -q repo copy; find copy -samefile repo/.git/objects/$(cat object) | grep -q .; git -C copy fsck --strict
cp -al copy third; mv third/f1 third/f9; find . -samefile third/f2 | sort
git -C copy worktree add -q ../wt HEAD~1; echo more >> copy/f2; git -C copy commit -qam more; git -C copy gc -q
git -C repo gc -q; git -C repo fsck --strict; git -C copy fsck --strict
git -C repo status --short; git -C wt status --short
"""
SCRIPTS = {"git": GIT, "make": MAKE, "sqlite3": SQLITE, "tar": TAR, "rsync": RSYNC, "sh": EDIT}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    (work / "sub/deep").mkdir(parents=True)
    for name in ("keep", "sub/one", "sub/deep/two"):
        (work / name).write_text(f"{name}\n")
    os.link(work / "sub/one", work / "sub/other name")
    (work / "link").symlink_to("keep")
    return work


def state(work: Path, *, times: bool) -> dict[str, object]:
    """What a program could have changed; with `times` down to when, and which inode."""
    found: dict[str, object] = {}
    for path in sorted([work, *work.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(work))
        what: list[object] = [oct(status.st_mode), path.is_dir() or status.st_nlink]
        if times:
            what += [status.st_mtime_ns, status.st_ino, status.st_size]
        if path.is_symlink():
            what.append(os.readlink(path))
        elif path.is_file() and path.name != "index":  # git's has inode numbers and times
            what.append(path.read_bytes())
        found[name] = what
    return found


def compare(work: Path, script: str, way: str = "auto") -> None:
    """Run `script` bare, and on a branch: the tree is untouched first, and then, committed, the same."""
    line = ["/bin/sh", "-ec", script]
    env = {**ENV, "HOME": str(work)}
    storage = str(work.parent / "storage")
    shutil.copytree(work, work.parent / "before", symlinks=True)
    bare = subprocess.run(line, cwd=work, env=env, capture_output=True, check=False, timeout=100)
    assert bare.returncode == 0, bare
    expected = state(work, times=False)
    shutil.rmtree(work)
    subprocess.run(["cp", "-a", str(work.parent / "before"), str(work)], check=True)

    before = state(work, times=True)
    sandbox = Sandbox(
        workdir=str(work), cwd=str(work), fs_storage=storage, on_exit="keep", on_error="abort", private_tmp=True,
        namespaces=way,
        fs_readable=[*SYSTEM, *PYTHON], fs_writable=["/dev/null"], env=env,
    )  # fmt: skip
    result = sandbox.run(line, timeout=100)
    assert result.success, result.stderr.decode()[-1500:]
    assert result.stdout == bare.stdout
    assert state(work, times=True) == before, "nothing has happened to the tree"
    branch = Branch.resume(result.branch)
    branch.commit(allow_late=[change.path for change in result.changes if change.late])
    found = state(work, times=False)
    assert {name for name in expected if expected[name] != found.get(name)} == set()
    assert found.keys() == expected.keys()
    assert os.listdir(storage) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.needs(f"command:{name}")) for name in SCRIPTS if name != "sh"] + ["sh"],
)
def test_a_program_does_on_a_branch_what_it_does_bare(tree: Path, name: str, way: str) -> None:
    # A name that is written to leaves its group, as in every overlay: no script writes to one that was there before.
    (tree / "sub/other name").unlink()
    compare(tree, SCRIPTS[name], way)


@pytest.mark.needs("command:git")
def test_a_clone_shares_the_objects_of_a_real_repository(tree: Path) -> None:
    # Not on an overlay mount of an ordinary user: there a file has another number when it was copied up.
    (tree / "sub/other name").unlink()
    script = """
    git -c init.defaultBranch=main init -q repo; cd repo
    for i in 1 2 3; do echo $i > f$i; git add .; git commit -qm $i; done
    cd .git/objects; echo ??/* | cut -d' ' -f1 > ../../../object
    """
    subprocess.run(["/bin/sh", "-ec", script], cwd=tree, env={**ENV, "HOME": str(tree)}, check=True)
    compare(tree, SHARING, "off")


@pytest.mark.needs("mount_namespace")
def test_pip_installs_a_wheel_of_many_files_on_a_branch(tree: Path) -> None:
    (tree / "sub/other name").unlink()
    with zipfile.ZipFile(tree / "many-1.0-py3-none-any.whl", "w") as wheel:
        names = [f"many/m{number}.py" for number in range(1000)]
        for number, name in enumerate(names):
            wheel.writestr(name, f"X = {number}\n")
        about = "many-1.0.dist-info"
        wheel.writestr("many/__init__.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: many\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in names))
    import ensurepip

    bundled = Path(ensurepip.__file__).parent / "_bundled"
    places = [bundled, Path("/usr/share/python-wheels")]
    pips = [file for place in places for file in sorted(place.glob("pip-*.whl"))]
    assert pips, "python3-venv brings it"
    shutil.copy(pips[0], tree / "pip.whl")
    compare(tree, PIP.replace("{pip}", str(tree / "pip.whl")))
