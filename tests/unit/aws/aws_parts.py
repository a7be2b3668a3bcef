"""What the protocol's tests share: the two services, and random parameters and outputs that a model allows by type."""

from __future__ import annotations

import functools
import random
import string
from datetime import UTC, datetime, timedelta
from typing import Any

from freehold.aws import model
from freehold.aws.model import Member, Service, Shape

CONTROL = "bedrock-agentcore-control"
DATA = "bedrock-agentcore"
SERVICES = (CONTROL, DATA)
MAX_DEPTH = 5

_LABEL_TEXT = string.ascii_letters + "/:%+ ?#&=~äß€"
_HEADER_TEXT = string.ascii_letters + string.digits + "/:;=+-_"
_ANY_TEXT = string.printable + "äß€\U0001f600\u2028"


@functools.cache
def service(name: str) -> Service:
    return model.load(name)


def operations() -> list[tuple[str, str]]:
    return [(name, operation) for name in SERVICES for operation in service(name).operations]


class Maker:
    """Values of the right types, not of the right lengths; the same for the same seed."""

    def __init__(self, of: Service, seed: int) -> None:
        self._service = of
        self._random = random.Random(seed)

    def structure(self, name: str, depth: int = 0) -> dict[str, Any]:
        shape = self._service.shapes[name]
        if shape.union:
            # Exactly one, however deep.
            name = self._random.choice(list(shape.members))
            member = shape.members[name]
            return {name: self.value(self._service.shapes[member.shape], member, depth + 1)}
        names = [n for n in shape.members if n in shape.required or self._random.random() < 0.7]
        made: dict[str, Any] = {}
        for member_name in names:
            member = shape.members[member_name]
            inner = self._service.shapes[member.shape]
            if depth < MAX_DEPTH or inner.type not in ("structure", "list", "map"):
                made[member_name] = self.value(inner, member, depth + 1)
        return made

    def value(self, shape: Shape, member: Member | None, depth: int) -> Any:
        if shape.document:
            return {"any": [1, 2.5, "x", None, {"deep": True}]}
        location = "body" if member is None else member.location
        chance = self._random
        match shape.type:
            case "structure":
                return self.structure(shape.name, depth)
            case "list":
                inner = self._service.shapes[shape.element]
                return [self.value(inner, None, depth + 1) for _ in range(chance.randint(1, 3))]
            case "map":
                inner = self._service.shapes[shape.value]
                return {self.text(_ANY_TEXT): self.value(inner, None, depth + 1) for _ in range(chance.randint(1, 3))}
            case "string":
                return self.text({"uri": _LABEL_TEXT, "header": _HEADER_TEXT}.get(location, _ANY_TEXT))
            case "blob":
                return chance.randbytes(chance.randint(0, 40))
            case "boolean":
                return chance.random() < 0.5
            case "integer":
                return 200 if location == "statusCode" else chance.randint(-(2**31), 2**31 - 1)
            case "long":
                return chance.randint(-(2**63), 2**63 - 1)
            case "float" | "double":
                return chance.choice([0.0, -1.5, 1e300, chance.random()])
            case "timestamp":
                return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=chance.randint(-(10**9), 10**9))

    def text(self, alphabet: str) -> str:
        return "".join(self._random.choices(alphabet, k=self._random.randint(1, 20)))
