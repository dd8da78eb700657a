"""What a program needs to be readable besides itself: the folder that an interpreter is installed in."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["program_folders"]

# Presets grant these already.
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/nix/store/", "/gnu/store/")

# Managers of versions: the name of the folder that their shims are in -> what is beside it then.
_MANAGERS = {
    "shims": ("libexec/pyenv", "libexec/rbenv", "libexec/nodenv", "installs"),  # the last one: asdf and mise
    "bin": ("tools/image",),  # volta
}


def program_folders(
    program: str,
    home: str,
    *,
    exists: Callable[[str], bool] = os.path.exists,
    realpath: Callable[[str], str] = os.path.realpath,
) -> tuple[str, ...]:
    """Return the folders that `program`, an absolute path, needs to read in order to start.

    A Python in a virtual environment needs the environment and the Python that it was made from; one of pyenv, uv or
    conda, and a Node of nvm, the folder it was unpacked to; a shim of pyenv, rbenv, asdf, mise or volta all that its
    manager installed; a program below `/opt/NAME` that folder. Each is taken only where its mark is there
    (`pyvenv.cfg`, `lib/pythonX.Y`, `lib/node_modules`, `libexec/pyenv`), and never when it is `/`, `home` or holds
    `home`: `~/bin/x` must not make the home directory readable. `exists` and `realpath` are parameters so that the
    decision can be tested without a file system.
    """
    found: dict[str, None] = {}
    real = realpath(program)
    pending = [program, real]
    while pending:
        path = pending.pop(0)
        if path.startswith(_SYSTEM):
            continue
        folder = _prefix(path)
        # Not where a link leads: a project's `bin/tool` may have been planted to have another folder granted.
        named = path == program or program.startswith((*_SYSTEM, "/opt/"))
        if named and path.startswith("/opt/") and path.count("/") >= 3:
            found["/".join(path.split("/", 3)[:3])] = None
        if folder in found or folder == "/" or f"{home}/".startswith(f"{folder}/"):
            continue
        if exists(f"{folder}/pyvenv.cfg"):
            found[folder] = None
            pending.append(realpath(f"{folder}/bin/python"))
        elif _is_interpreter_home(folder, path, exists) or _is_version_manager(folder, path, exists):
            found[folder] = None
    return tuple(found)


def _prefix(path: str) -> str:
    """Return the folder above the one that holds `path`: `/x` for `/x/bin/python`."""
    return path.rpartition("/")[0].rpartition("/")[0] or "/"


def _is_interpreter_home(folder: str, path: str, exists: Callable[[str], bool]) -> bool:
    name = path.rpartition("/")[2]
    if exists(f"{folder}/conda-meta") or exists(f"{folder}/lib/node_modules"):
        return True
    # The file itself is called python3.12, and its library is lib/python3.12.
    return name.startswith("python") and exists(f"{folder}/lib/{name}")


def _is_version_manager(folder: str, path: str, exists: Callable[[str], bool]) -> bool:
    """Tell whether `path` only chooses a version and runs it, and `folder` holds the chooser and the versions."""
    marks = _MANAGERS.get(path.rpartition("/")[0].rpartition("/")[2], ())
    return any(exists(f"{folder}/{mark}") for mark in marks)
