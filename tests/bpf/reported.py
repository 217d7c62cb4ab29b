"""What `jetplane peers report` would tell of a subscriber's part of the maps, held against its published schema."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jsonschema

import jetplane
from jetplane.dataplane.about import About
from jetplane.dataplane.specialise import exits
from jetplane.model import InnerAddress
from tests.bpf.harness import Node

_SCHEMA = json.loads((Path(jetplane.__file__).parent / "privacy" / "report.schema.json").read_text())
_PLANE = {**_SCHEMA["properties"]["data_plane"], "$defs": _SCHEMA["$defs"]}


def reported(node: Node, addresses: Collection[str]) -> dict[str, Any]:
    """The data plane's part of the report on who owns these addresses."""
    told = About(node.maps, exits(node.config)).owner(list(map(InnerAddress.parse, addresses)))
    assert told is not None
    jsonschema.validate(told, _PLANE, cls=jsonschema.Draft202012Validator)
    return told
