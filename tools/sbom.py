"""Write a bill of materials (CycloneDX 1.6, JSON) beside each wheel of the wheelhouse.

python tools/sbom.py      for every published wheel; run where they are installed with what they require

It says what a wheel is (by hash) and which versions of what else it was built and tested with. The same wheels and
versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from wheelhouse import EPOCH, wheels
from workspace import TESTKIT, load

__all__ = ["bill", "main"]


def bill(name: str, wheel: Path) -> str:
    """Return the bill of the installed distribution `name`, which `wheel` is the file of."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    root = _component(distribution(name), digest)
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)), UTC)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}"),
        metadata=BomMetaData(component=root, timestamp=made),
    )
    known = {canonicalize_name(name): root}
    waiting = [canonicalize_name(name)]
    while waiting:
        above = waiting.pop()
        needed = []
        for below in _required(distribution(above)):
            if below not in known:
                known[below] = _component(distribution(below))
                bom.components.add(known[below])
                waiting.append(below)
            needed.append(known[below])
        bom.register_dependency(known[above], needed)
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise SystemExit(f"the bill of {name} breaks the schema: {fault}")
    return text


def _required(found: Distribution) -> list[NormalizedName]:
    """The distributions that this one requires here, without extras."""
    requirements = [Requirement(word) for word in found.requires or ()]
    here = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return sorted({canonicalize_name(one.name) for one in here})


def _component(found: Distribution, digest: str = "") -> Component:
    meta = found.metadata
    name = canonicalize_name(meta["Name"])
    licence = (meta.get_all("License-Expression") or [""])[0]
    return Component(
        name=name,
        version=found.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{found.version}",
        description=(meta.get_all("Summary") or [None])[0],
        purl=PackageURL("pypi", None, name, found.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else (),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else (),
    )


def main() -> None:
    """Write all of them, twice, and say where."""
    for name in load():
        if name == TESTKIT:
            continue
        wheel = Path(wheels(name)[-1])  # those it requires come before it
        text = bill(name, wheel)
        if text != bill(name, wheel):
            sys.exit(f"the bill of {name} differs when it is written again")
        target = wheel.with_name(f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json")
        target.write_text(text, encoding="utf-8")
        print(f"{target.name}: {text.count('bom-ref')} components")


if __name__ == "__main__":
    main()
