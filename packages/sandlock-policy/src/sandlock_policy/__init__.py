"""What a sandbox may do: the policy model, profiles, resolution and the BPF compiler."""

from __future__ import annotations

from sandlock_policy.errors import LayerMissingError, PolicyError, Problem, SandlockError
from sandlock_policy.features import HostFeatures
from sandlock_policy.model import Policy
from sandlock_policy.plan import Context, Plan, Protection
from sandlock_policy.presets import PRESET_NAMES, preset
from sandlock_policy.resolve import resolve

__all__ = [
    "PRESET_NAMES",
    "Context",
    "HostFeatures",
    "LayerMissingError",
    "Plan",
    "Policy",
    "PolicyError",
    "Problem",
    "Protection",
    "SandlockError",
    "preset",
    "resolve",
]
