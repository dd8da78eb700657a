"""How two policies become one.

What both say is added up; where they differ on one thing, the second wins:

* lists are joined, the first policy's entries before the second's, each entry once: grants and denials alike;
* mappings are joined; the second's value wins for a key that both have;
* everything else is the second's if it says anything, that is if it is not at its default, and the first's otherwise.

A policy cannot say "the default again" this way: `Policy.replace` can.
"""

from __future__ import annotations

from typing import Any

from sandlock_policy.fields import FIELD_BY_NAME
from sandlock_policy.model import Policy

__all__ = ["merge"]


def merge(first: Policy, second: Policy) -> Policy:
    """Return what `first` and `second` say together; raises PolicyError where that contradicts itself."""
    fields: dict[str, Any] = first.given()
    for name, value in second.given().items():
        shape = FIELD_BY_NAME[name].shape
        if shape == "list":
            fields[name] = (*fields.get(name, ()), *value)  # type: ignore[misc]  # the table says that it is a tuple
        elif shape == "mapping":
            fields[name] = fields.get(name, {}) | value
        else:
            fields[name] = value
    return Policy(**fields)
