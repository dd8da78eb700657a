"""Graphics processors: the device nodes, driver files and variables that using one takes.

A grant of a device node is enforced by Landlock alone. Nodes are named, never listed, so this stays pure: those that
are missing are skipped at launch.
"""

from __future__ import annotations

from sandlock_policy.data import landlock

__all__ = ["gpu_variables", "grant_gpus"]

_MOST = 16  # processors in one machine that `all` stands for

# Nodes that every NVIDIA or AMD program opens, whichever processor it computes on.
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset", "/dev/kfd")
# What the user-space drivers read to find the processors.
_DRIVER = ("/proc/driver/nvidia", "/sys/class/drm", "/sys/class/kfd", "/sys/bus/pci/devices", "/sys/module/nvidia",
           "/sys/module/amdgpu", "/sys/devices/virtual/kfd")  # fmt: skip
_FIRST_RENDER_NODE = 128  # drm minor numbers: DRM_MINOR_RENDER, drivers/gpu/drm/drm_drv.c

# Each vendor's own way of hiding the others, so that a program does not try what it may not open.
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def grant_gpus(devices: str | tuple[int, ...], rules: dict[str, tuple[int, bool]], handled: int) -> None:
    """Add to `rules` what the processors `devices` (`all`, or their indices) need; every path may be missing."""
    indices = range(_MOST) if isinstance(devices, str) else devices
    nodes = list(_CONTROL)
    for index in indices:
        nodes += [f"/dev/nvidia{index}", f"/dev/dri/card{index}", f"/dev/dri/renderD{_FIRST_RENDER_NODE + index}"]
    for path in nodes:
        rules.setdefault(path, (handled, False))
    for path in _DRIVER:
        rules.setdefault(path, (landlock.READ & handled, False))


def gpu_variables(devices: str | tuple[int, ...]) -> dict[str, str]:
    """Return the variables that tell each vendor's library which processors there are; none for `all`."""
    if isinstance(devices, str):
        return {}
    return dict.fromkeys(_VARIABLES, ",".join([str(index) for index in devices]))
