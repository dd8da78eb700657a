"""What a launch is to see of the machine, beyond what is read-only: filled into its memory for `_csrc/view.c`."""

from __future__ import annotations

from sandlock_sys._buffers import hold, readable, string, strings
from sandlock_sys._ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_sys._ffi import CData
    from sandlock_sys.spawn import SpawnRequest

__all__ = ["MAX_OVERLAID", "fill_view", "place_of"]

MAX_OVERLAID = 1 << 20  # bytes of generated files together; the largest real one has some ten thousand
_MOUNT_NS, _PID_NS, _NET_NS = 1 << 3, 1 << 7, 1 << 9  # SL_SPAWN_*


def fill_view(memory: CData, request: SpawnRequest, held: list[object]) -> int:
    """Fill `memory`, a struct sl_spawn, and return its flags.

    Raises:
        ValueError: a NUL byte in a path, too many bytes of generated files, or a domain around the guard where it must
            reach the init of a pid namespace.

    """
    if request.pid_namespace and request.guard_ruleset >= 0:
        raise ValueError("with a pid namespace there is no guard_ruleset: the guard must reach the namespace's init")
    if request.root is not None:
        memory.root = string(request.root, held)
    if request.branch is not None:
        memory.branch, memory.branch_options = (string(text, held) for text in request.branch)
    if request.binds:
        binds = [(string(source, held), string(target, held), only) for source, target, only in request.binds]
        memory.n_binds = len(binds)
        memory.binds = hold(ffi.new("struct sl_bind[]", binds), held)
    if request.overlays:
        if sum([len(content) for _, content in request.overlays]) > MAX_OVERLAID:
            raise ValueError(f"the generated files have more than {MAX_OVERLAID} bytes together")
        files = [
            (string(target, held), hold(readable(content), held), len(content), request.live.get(target, 0))
            for target, content in request.overlays
        ]
        memory.n_overlays = len(files)
        memory.overlays = hold(ffi.new("struct sl_overlay[]", files), held)
    if request.rules:
        memory.rules = strings([path for path, _ in request.rules], held)[0]
        memory.n_rules = len(request.rules)
        memory.rule_accesses = hold(ffi.new("uint64_t[]", [access for _, access in request.rules]), held)
    mounts = request.root is not None or request.branch is not None or request.binds or request.overlays
    if request.pid_namespace:
        return _MOUNT_NS | _PID_NS | (_NET_NS if request.network_namespace else 0)
    return _MOUNT_NS if mounts else 0


def place_of(request: SpawnRequest, step: str, index: int) -> bytes:
    """Return the path that a failed step was at, or b"" for none."""
    paths: Sequence[bytes] = ()
    if step == "root":
        paths = [request.root or b""]
    elif step == "branch" and request.branch is not None:
        paths = [request.branch[0]]
    elif step == "bind":
        paths = [source + b" at " + target for source, target, _ in request.binds]
    elif step == "overlay":
        paths = [target for target, _ in request.overlays]
    elif step == "rule":
        paths = [path for path, _ in request.rules]
    return paths[index] if index < len(paths) else b""
