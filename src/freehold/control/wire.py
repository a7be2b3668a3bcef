"""The control plane's wire: the service model of bedrock-agentcore-control, in the domain's words for failures.

For: `control.app`. Not for the protocol itself (`freehold.aws`), nor for what operations do. Invariant: parameters that
come out of `parse` keep to every constraint of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from freehold.aws import model, validate
from freehold.aws.model import Operation, Service, UnsupportedModel
from freehold.aws.parse import Headers, Parser, Unparseable
from freehold.aws.router import BadPath, Match, NoRoute, Router, UnknownPath, WrongMethod
from freehold.aws.serialize import Serializer
from freehold.aws.validate import Invalid, Validator
from freehold.control import operations
from freehold.control.errors import UnknownOperation
from freehold.domain.errors import FieldProblem, ValidationFailed

SERVICE: Final = "bedrock-agentcore-control"
DATA_PLANE: Final = "bedrock-agentcore"


@dataclass(frozen=True, slots=True)
class Routed:
    """An operation that was asked for, and the labels of its path."""

    operation: Operation
    path_params: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of the operation, in the service model."""
        return self.operation.name


class Wire:
    """Reads requests to the control plane and writes its answers."""

    def __init__(self, service: Service, data_plane: Service) -> None:
        """`data_plane`: so that what nobody answers is called by its name."""
        self._data_plane = Router(data_plane)
        self._router = Router(service)
        self._parser = Parser(service)
        self._validator = Validator(service)
        self._serializer = Serializer(service)

    @classmethod
    def load(cls) -> Wire:
        """From botocore's model. Raises UnsupportedModel when it lacks, or says in a new way, what Freehold serves."""
        service = model.load(SERVICE)
        missing = sorted(set(operations.OPERATIONS) - set(service.operations))
        if missing:
            raise UnsupportedModel("; ".join(service.left_out.get(name, f"no operation {name}") for name in missing))
        unchecked = validate.untranslatable(service.subset(operations.OPERATIONS))
        if unchecked:
            raise UnsupportedModel("; ".join(f"pattern of {name}: {why}" for name, why in unchecked.items()))
        return cls(service, model.load(DATA_PLANE))

    def route(self, method: str, raw_path: bytes) -> Routed:
        """The operation, of either plane: a path that control has comes first.

        Raises UnknownOperation (404, or 405 with the methods allowed), ValidationFailed.
        """
        try:
            match = self._match(method, raw_path)
        except UnknownPath as unknown:
            raise UnknownOperation(unknown.message, status=404) from None
        except WrongMethod as wrong:
            raise UnknownOperation(wrong.message, status=405, allowed=wrong.allowed) from None
        except BadPath as bad:
            raise _failed(bad.message, "CannotParse", [("path", bad.message)]) from None
        return Routed(match.operation, match.path_params)

    def _match(self, method: str, raw_path: bytes) -> Match:
        try:
            return self._router.match(method, raw_path)
        except (UnknownPath, WrongMethod):
            try:
                return self._data_plane.match(method, raw_path)
            except NoRoute:
                pass
            raise

    def parse(self, routed: Routed, query: bytes, headers: Headers, body: bytes) -> dict[str, Any]:
        """The operation's parameters, by the model's names, valid. Raises ValidationFailed."""
        try:
            params = self._parser.parse(routed.operation, routed.path_params, query, headers, body)
            self._validator.check(routed.operation, params)
        except (Unparseable, Invalid) as error:
            raise _failed(error.message, error.reason, error.fields) from None
        return params

    def serialize(self, routed: Routed, output: Mapping[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """(status, headers, body) of a successful answer. Raises OutputMismatch, which is a bug."""
        response = self._serializer.output(routed.operation, output)
        return response.status, response.headers, response.body


def _failed(message: str, reason: str, fields: Iterable[tuple[str, str]]) -> ValidationFailed:
    return ValidationFailed(message, reason=reason, fields=tuple(FieldProblem(*problem) for problem in fields))
