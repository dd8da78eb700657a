"""An unprivileged process sandbox for Linux: `sandlock.Sandbox(...).run([...])`.

Every name is loaded from its package on first use, so importing this costs nothing that is not used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock.abi import landlock_abi_version, min_landlock_abi
    from sandlock.branch_action import BranchAction
    from sandlock_checkpoint import (
        CaptureError,
        Checkpoint,
        CheckpointError,
        Ids,
        ImageError,
        Leave,
        Restored,
        RestoreError,
        Scope,
        Store,
        Tracker,
        Unsupported,
        capture,
        load,
        restore,
    )
    from sandlock_cow import (
        Branch,
        BranchBusyError,
        BranchConflictError,
        BranchError,
        BranchLateExecutionError,
        BranchQuotaError,
        BranchStorageError,
        Change,
        Entry,
        list_preserved,
        patch,
        renames,
    )
    from sandlock_notif.context import PolicyContext
    from sandlock_notif.events import Event
    from sandlock_notif.handlers.ready import CallRecord, deny_calls, log_calls
    from sandlock_notif.handlers.user import ExceptionPolicy, Handler, HandlerCtx, NotifAction
    from sandlock_notif.syscall_event import SyscallEvent
    from sandlock_policy.errors import LayerMissingError, PolicyError, Problem, SandlockError
    from sandlock_policy.features import HostFeatures
    from sandlock_policy.model import Policy
    from sandlock_policy.plan import Protection
    from sandlock_policy.presets import PRESET_NAMES, preset
    from sandlock_policy.profile.store import (
        ProfileError,
        delete_profile,
        list_profiles,
        load_profile,
        load_profile_file,
        save_profile,
    )
    from sandlock_policy.rules.ports import parse_ports
    from sandlock_runtime.aio import AsyncProcess
    from sandlock_runtime.audit import AuditLog
    from sandlock_runtime.clones import CloneResult, Clones
    from sandlock_runtime.confine import confine
    from sandlock_runtime.errors import (
        ChildError,
        CommandNotFoundError,
        CommandNotRunnableError,
        ConfinementError,
        ForkError,
        LandlockUnavailableError,
        MemoryProtectError,
        NotifError,
        NotRunningError,
        SandboxBusyError,
        SandboxError,
        SeccompError,
        TaskError,
    )
    from sandlock_runtime.executor import SandboxExecutor
    from sandlock_runtime.features import host_features as probe
    from sandlock_runtime.images.cache import CachedImage, list_images, remove_image, unpack_image
    from sandlock_runtime.images.errors import OciImageError
    from sandlock_runtime.inputs import inputs
    from sandlock_runtime.many import run_many
    from sandlock_runtime.pipeline import Gather, Pipeline, Stage
    from sandlock_runtime.pipeline_run import PipelineResult
    from sandlock_runtime.process import Process
    from sandlock_runtime.result import Denial, Reason, Result, Usage
    from sandlock_runtime.sandbox import Sandbox
    from sandlock_runtime.streams import DEVNULL, INHERIT, PIPE, STDOUT
    from sandlock_sys.errors import SyscallError

    __version__: str

__all__ = [
    "DEVNULL",
    "INHERIT",
    "PIPE",
    "PRESET_NAMES",
    "STDOUT",
    "AsyncProcess",
    "AuditLog",
    "Branch",
    "BranchAction",
    "BranchBusyError",
    "BranchConflictError",
    "BranchError",
    "BranchLateExecutionError",
    "BranchQuotaError",
    "BranchStorageError",
    "CachedImage",
    "CallRecord",
    "CaptureError",
    "Change",
    "Checkpoint",
    "CheckpointError",
    "ChildError",
    "CloneResult",
    "Clones",
    "CommandNotFoundError",
    "CommandNotRunnableError",
    "ConfinementError",
    "Denial",
    "Entry",
    "Event",
    "ExceptionPolicy",
    "ForkError",
    "Gather",
    "Handler",
    "HandlerCtx",
    "HostFeatures",
    "Ids",
    "ImageError",
    "LandlockUnavailableError",
    "LayerMissingError",
    "Leave",
    "MemoryProtectError",
    "NotRunningError",
    "NotifAction",
    "NotifError",
    "OciImageError",
    "Pipeline",
    "PipelineResult",
    "Policy",
    "PolicyContext",
    "PolicyError",
    "Problem",
    "Process",
    "ProfileError",
    "Protection",
    "Reason",
    "RestoreError",
    "Restored",
    "Result",
    "Sandbox",
    "SandboxBusyError",
    "SandboxError",
    "SandboxExecutor",
    "SandlockError",
    "Scope",
    "SeccompError",
    "Stage",
    "Store",
    "SyscallError",
    "SyscallEvent",
    "TaskError",
    "Tracker",
    "Unsupported",
    "Usage",
    "capture",
    "confine",
    "delete_profile",
    "deny_calls",
    "inputs",
    "landlock_abi_version",
    "list_images",
    "list_preserved",
    "list_profiles",
    "load",
    "load_profile",
    "load_profile_file",
    "log_calls",
    "min_landlock_abi",
    "parse_ports",
    "patch",
    "preset",
    "probe",
    "remove_image",
    "renames",
    "restore",
    "run_many",
    "save_profile",
    "unpack_image",
]

# module -> the names it gives; `name=original` where it has another one there.
_SOURCES = {
    "sandlock.abi": "landlock_abi_version min_landlock_abi",
    "sandlock.branch_action": "BranchAction",
    "sandlock_checkpoint": (
        "CaptureError Checkpoint CheckpointError Ids ImageError Leave RestoreError Restored Scope Store Tracker "
        "Unsupported capture load restore"
    ),
    "sandlock_cow": (
        "Branch BranchBusyError BranchConflictError BranchError BranchLateExecutionError BranchQuotaError "
        "BranchStorageError Change Entry list_preserved patch renames"
    ),
    "sandlock_notif.context": "PolicyContext",
    "sandlock_notif.events": "Event",
    "sandlock_notif.handlers.ready": "CallRecord deny_calls log_calls",
    "sandlock_notif.handlers.user": "ExceptionPolicy Handler HandlerCtx NotifAction",
    "sandlock_notif.syscall_event": "SyscallEvent",
    "sandlock_policy.errors": "LayerMissingError PolicyError Problem SandlockError",
    "sandlock_policy.features": "HostFeatures",
    "sandlock_policy.model": "Policy",
    "sandlock_policy.plan": "Protection",
    "sandlock_policy.presets": "PRESET_NAMES preset",
    "sandlock_policy.profile.store": (
        "ProfileError delete_profile list_profiles load_profile load_profile_file save_profile"
    ),
    "sandlock_policy.rules.ports": "parse_ports",
    "sandlock_runtime.aio": "AsyncProcess",
    "sandlock_runtime.audit": "AuditLog",
    "sandlock_runtime.clones": "CloneResult Clones",
    "sandlock_runtime.confine": "confine",
    "sandlock_runtime.errors": (
        "ChildError CommandNotFoundError CommandNotRunnableError ConfinementError ForkError "
        "LandlockUnavailableError MemoryProtectError NotifError NotRunningError SandboxBusyError SandboxError "
        "SeccompError TaskError"
    ),
    "sandlock_runtime.executor": "SandboxExecutor",
    "sandlock_runtime.features": "probe=host_features",
    "sandlock_runtime.images.cache": "CachedImage list_images remove_image unpack_image",
    "sandlock_runtime.images.errors": "OciImageError",
    "sandlock_runtime.inputs": "inputs",
    "sandlock_runtime.many": "run_many",
    "sandlock_runtime.pipeline": "Gather Pipeline Stage",
    "sandlock_runtime.pipeline_run": "PipelineResult",
    "sandlock_runtime.process": "Process",
    "sandlock_runtime.result": "Denial Reason Result Usage",
    "sandlock_runtime.sandbox": "Sandbox",
    "sandlock_runtime.streams": "DEVNULL INHERIT PIPE STDOUT",
    "sandlock_sys.errors": "SyscallError",
}
_PLACES = {
    name.partition("=")[0]: (module, name.rpartition("=")[2])
    for module, names in _SOURCES.items()
    for name in names.split()
}


if not TYPE_CHECKING:  # a type checker that saw this would take a misspelt name for a public one

    def __getattr__(name: str) -> object:
        """Load a public name on first use, and keep it."""
        if name == "__version__":
            from importlib.metadata import version  # lazy: it takes longer than everything else here

            return version("sandlock")
        place = _PLACES.get(name)
        if place is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import sys

        __import__(place[0])
        value: object = getattr(sys.modules[place[0]], place[1])
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
