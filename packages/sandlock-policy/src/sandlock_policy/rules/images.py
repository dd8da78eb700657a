"""Root file systems: `oci:DIR` or `oci-archive:FILE`."""

from __future__ import annotations

from sandlock_policy.errors import RuleError
from sandlock_policy.paths import parse_path

__all__ = ["parse_image"]

_SCHEMES = ("oci", "oci-archive")


def parse_image(value: object) -> str:
    """Return the reference of an image, as it was written."""
    scheme, colon, path = value.partition(":") if isinstance(value, str) else ("", "", "")
    if scheme not in _SCHEMES or not colon or not path:
        raise RuleError(f"{value!r} is not an image", "write oci:DIR or oci-archive:FILE")
    return f"{scheme}:{parse_path(path)}"
