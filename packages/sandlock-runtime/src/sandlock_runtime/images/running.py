"""Running in an image: its root below the policy's own rules, and its configuration below the policy's fields."""

from __future__ import annotations

import os
from stat import S_ISREG

from sandlock_policy.errors import PolicyError, Problem, RuleError
from sandlock_policy.paths import expand_path
from sandlock_runtime.images.cache import find_image, unpack_image
from sandlock_runtime.images.unpack import INSIDE
from sandlock_sys.errors import SyscallError
from sandlock_sys.openat2 import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandlock_policy import Policy
    from sandlock_runtime.images.cache import Progress
    from sandlock_runtime.images.manifest import ImageConfig
    from sandlock_runtime.prepare import Command

__all__ = ["as_in_image", "image_path", "in_image"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what container engines set
_MOST_USERS = 1 << 20  # bytes of its /etc/passwd that are read


def image_path(reference: str) -> str:
    """Return the reference of an image with its path absolute, `~` and `${VAR}` replaced.

    Raises:
        PolicyError: a variable in it is not set.

    """
    kind, _, path = reference.partition(":")
    try:
        full = expand_path(path, cwd=os.getcwd(), home=os.environ.get("HOME", ""), variables=os.environ)
    except RuleError as fault:
        raise PolicyError([Problem("image", reference, str(fault), fault.remedy)]) from fault
    return f"{kind}:{full}"


def in_image(policy: Policy, command: Command, *, progress: Progress | None = None) -> tuple[Policy, Command]:
    """Unpack the image that `policy` names, and return the policy and the command for a run in it.

    The root is a copy-on-write branch over the unpacked image, dropped at the end; everything in it may be read and
    written, whatever the policy grants, and there is a /proc of its own. Variables and the working directory of the
    image hold where the policy says nothing; its entry point and command are run where `command` is empty.

    `progress` is as for `unpack_image`.

    Raises:
        PolicyError: the reference has a variable that is not set, or the image names no command.
        OciImageError: the image cannot be used.

    """
    reference = _reference(policy)
    image = unpack_image(reference, progress)
    words = _words(command, image.config)
    if not words:
        raise PolicyError([Problem("image", reference, "the image names no command", "give one")])
    return _policy_in(policy, image.root, image.config, _home_of(image.root, image.config.user)), words


def as_in_image(policy: Policy, command: Command) -> tuple[Policy, Command]:
    """Return as much of what `in_image` does as can be known while nothing is unpacked: for a look at the policy.

    Raises:
        PolicyError, OciImageError: as `in_image`, but for a command that nobody names.

    """
    root, config = find_image(_reference(policy))
    return _policy_in(policy, root, config, "/"), _words(command, config)


def _reference(policy: Policy) -> str:
    assert policy.image is not None  # noqa: S101  # why we are here
    return image_path(policy.image)


def _words(command: Command, config: ImageConfig) -> Command:
    return list(command) or [*config.entrypoint, *config.command]


def _policy_in(policy: Policy, root: str, config: ImageConfig, home: str) -> Policy:
    fields: dict[str, Any] = {
        "image": None,
        "chroot": root,
        "workdir": root,
        "on_exit": "abort",
        "on_error": "abort",
        "cwd": policy.cwd or config.cwd,
        "env": {"PATH": _PATH, "HOME": home, **config.env, **policy.env},
        # The branch grants all of the root, so other grants add nothing; those of a preset name paths of the host.
        "fs_readable": ("/proc",),
        "fs_writable": (),
    }
    return policy.replace(**fields)


def _home_of(root: str, user: str) -> str:
    """Return the home that the root's /etc/passwd gives `user`, a name or a number; "/" where it knows none."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(folder, b"etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, INSIDE)
    except SyscallError:
        return "/"  # it has none, or a link that leads nowhere: as container engines take it
    finally:
        os.close(folder)
    try:
        content = os.read(fd, _MOST_USERS) if S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    wanted = user.partition(":")[0] or "0"
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and wanted in (fields[0], fields[2]) and fields[5][:1] == "/":
            return fields[5]
    return "/"
