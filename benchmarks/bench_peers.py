"""What a confined start and a file tree cost here, and under the other tools that this machine has; bare is the base.

python benchmarks/bench_peers.py --install    the Rust project's wheel of the same names, from PyPI, into build/peers

bwrap, firejail and runsc are measured where they are installed, each as its manual has it for a program that may read
the system and has no network; who is absent is named on stderr. The Rust wheel is used by its public API, in its own
environment. They do not enforce the same things: the README compares that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from measure import compare, report

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = Path(__file__).resolve().parent.parent / "build" / "peers"
RUST = "sandlock==0.9.0"
READABLE = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")

# The same words of one public API, under either library: a line in, a run, a line out.
SERVE = """
import sys
from sandlock import Sandbox
box = Sandbox(fs_readable=[path for path in sys.argv[2:]])
for line in sys.stdin:
    result = box.run(line.split())
    print(result.success, flush=True)
"""


class Library:
    """A process that imported a library once, and runs what it is told."""

    def __init__(self, python: str) -> None:
        readable = [path for path in READABLE if Path(path).exists()]
        self._process = subprocess.Popen(
            # Isolated: a PYTHONPATH of the caller's would lead both to the same library.
            [python, "-I", "-c", SERVE, "-", *readable],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str]) -> None:
        """Run `command` in a sandbox; SystemExit where that failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*command, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "True\n":
            raise SystemExit(f"{' '.join(command)} failed in a sandbox")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def prefixes() -> dict[str, list[str]]:
    """Return the tools that are here, each with the words before a command."""
    command = str(Path(sys.executable).with_name("sandlock"))
    grants = [word for path in READABLE for word in ("-r", f"-{path}")]
    known = {
        "sandlock run": [command, "run", *grants, "--"],
        "bwrap": ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all",
                  "--die-with-parent", "--new-session"],
        "firejail": ["firejail", "--quiet", "--noprofile", "--net=none", "--caps.drop=all", "--seccomp",
                     "--nonewprivs"],
        "runsc do": ["runsc", "--rootless", "--network=none", "do"],
    }  # fmt: skip
    found = {}
    for name, words in known.items():
        works = shutil.which(words[0]) and not subprocess.run([*words, "/bin/true"], check=False).returncode
        if works:
            found[name] = words
        else:
            print(f"{name} is left out: it is absent, or does not run /bin/true here", file=sys.stderr)
    return found


def start(command: list[str]) -> None:
    """Run `command`, and read what it prints."""
    subprocess.run(command, check=True, stdout=subprocess.PIPE)


def main() -> None:
    """Measure who is there."""
    if "--install" in sys.argv:
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        subprocess.run([str(PEERS / "bin" / "pip"), "install", "--quiet", RUST], check=True)
        return
    pythons = {"sandlock, the library": sys.executable, f"{RUST} of PyPI, the library": str(PEERS / "bin" / "python")}
    libraries = {name: Library(python) for name, python in pythons.items() if Path(python).exists()}
    tools = prefixes()
    for title, command in (
        ("Peers: start", ["/bin/true"]),
        ("Peers: a file tree", ["find", "/usr/share", "-maxdepth", "2", "-newer", "/usr"]),
    ):
        cases: dict[str, tuple[Callable[[], object], float | None]] = {}
        for name, library in libraries.items():
            cases[name] = (partial(library.run, command), None)
        for name, words in tools.items():
            cases[name] = (partial(start, [*words, *command]), None)
        bare = (f"bare {command[0]}", partial(start, command))
        report(title, compare(bare, cases, rounds=5 if "--quick" in sys.argv else 40))
    for library in libraries.values():
        library.close()


if __name__ == "__main__":
    main()
