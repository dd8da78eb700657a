"""Run tests on an extension that is compiled with sanitizers: its every memory error ends the process with a report.

    python tools/sanitize.py address [FOLDER [PYTEST OPTIONS]]     memory, undefined behaviour
    python tools/sanitize.py thread [FOLDER [PYTEST OPTIONS]]      data races

The installed package is not touched: a copy of it with the other extension comes first in PYTHONPATH. The sanitizer is
loaded into every Python process of the run, and looks at the buffers of system calls as well (sanitize/calls.h). The
guard program, which has no libc to report with, is stopped by an illegal instruction instead. Both halves run, as with
run_tests.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stage import stage
from workspace import ROOT, load

__all__ = ["CHOSEN", "main"]

HERE = Path(__file__).with_name("sanitize")
# What has C under it that reads what a program wrote; one after the other, which takes some ten minutes.
CHOSEN = (
    ("packages/sandlock-sys/tests", "-k", "not thousand_launches"),  # what was freed is kept for a while: memory grows
    ("packages/sandlock-notif/tests",),
    ("tests-integration", "-k", "test_files or network or test_paths or test_view or test_outsiders or test_lifetime"),
)
_FLAGS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
_LIBRARY = {"address": "libasan.so", "thread": "libtsan.so"}
_GUARD = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]


def main() -> None:
    """Build, run, and exit with 1 if a test failed or a sanitizer reported."""
    kind, *chosen = sys.argv[1:]
    if kind not in _FLAGS:
        sys.exit(f"{kind} is no sanitizer that this knows; say {' or '.join(_FLAGS)}")
    folder = stage() / f"sanitize-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    package = _copy(folder)
    with tempfile.TemporaryDirectory() as work:
        build(kind, package, Path(work))
    reports = folder / "reports"
    reports.mkdir()
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    reports.chmod(0o1777)
    environment = os.environ | {"SANDLOCK_SANITIZED": json.dumps(_environment(kind, folder, reports))}
    failed = False
    for arguments in [chosen] if chosen else CHOSEN:
        command = [sys.executable, str(ROOT / "tools" / "run_tests.py"), *arguments, "-o", "timeout=0"]
        failed |= subprocess.run(command, env=environment, check=False).returncode != 0
    for report in sorted(reports.iterdir()):
        print(f"== {report.name}\n{report.read_text(errors='replace')}")
        failed = True
    sys.exit(failed)


def _copy(folder: Path) -> Path:
    """Copy the package without what is compiled in it."""
    source = load()["sandlock-sys"].source
    package = folder / source.name
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "_csrc", "_ffi.abi3.so", "_guard"))
    return package


def build(kind: str, package: Path, work: Path) -> None:
    """Compile extension and guard into `package`."""
    sys.path.insert(0, str(load()["sandlock-sys"].folder))
    import build_native  # lazy: it is on no path, and needs cffi and hatchling

    options = ["-O1", "-g", "-fno-omit-frame-pointer", "-Wno-maybe-uninitialized", *_FLAGS[kind]]
    linked = []
    if kind == "address":
        linked = [str(work / "calls.o"), "-Wl,--wrap=clone,--wrap=munmap"]
        compile_calls(work / "calls.o", options)
        options += ["-include", str(HERE / "calls.h")]
    build_native.build_extension(work, package / "_ffi.abi3.so", options, linked)
    build_native.build_guard(work, package / "_guard", _GUARD)


def compile_calls(target: Path, options: list[str]) -> None:
    """Compile what looks at the buffers of system calls."""
    import build_native  # as above

    command = [*build_native.compiler(), "-std=gnu11", "-c", "-fPIC", *build_native.WARNINGS, *options]
    build_native.run([*command, f"-I{build_native.SOURCES}", str(HERE / "calls.c"), "-o", str(target)])


def _environment(kind: str, folder: Path, reports: Path) -> dict[str, str]:
    """What run_tests.py adds to the environment of the tests."""
    import build_native  # as above

    name = _LIBRARY[kind]
    found = subprocess.run([*build_native.compiler(), f"-print-file-name={name}"], capture_output=True, check=True)
    library = Path(os.fsdecode(found.stdout).strip())
    if not library.is_absolute():
        sys.exit(f"{name} is not there: install the compiler's sanitizers (Debian: apt install libgcc-12-dev)")
    common = f"abort_on_error=1:log_path={reports}/{kind}"
    return {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": str(library.resolve()),
        "PYTHONMALLOC": "malloc",  # each buffer of cffi's is a block of its own, with a border around it
        "ASAN_OPTIONS": f"detect_leaks=0:{common}",  # the interpreter keeps much to its end
        "UBSAN_OPTIONS": f"print_stacktrace=1:{common}",
        "TSAN_OPTIONS": f"halt_on_error=0:exitcode=0:suppressions={HERE / 'thread.txt'}:{common}",
    }


if __name__ == "__main__":
    main()
