"""The lab's remote control: HTTP on loopback, for whoever can read the token in lab.json."""

import json
import secrets
from typing import Any, Protocol

from apexgpu.errors import ApexError, UsageError
from apexgpu_lab.faults import IAM
from apexgpu_lab.labstate import LabState
from apexgpu_lab.web import Request, Response

_JSON = "application/json"


class ControlledLab(Protocol):
    """What is controlled."""

    lab_state: LabState

    def status(self) -> dict[str, Any]:
        """The lab's state for people."""
        ...

    @property
    def stopping(self) -> Any:
        """The event that ends the service."""
        ...


class Control:
    """The handler of control requests."""

    def __init__(self, lab: ControlledLab, token: str) -> None:
        self.token = token
        self._lab = lab

    async def answer(self, request: Request) -> Response:
        """One request; errors come back as `{"error", "hint", "code"}` with status 400."""
        sent = request.headers.get("authorization", "")
        if not secrets.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
            return _json(
                403, {"error": "the token is not this lab's", "hint": None, "code": "refused"}
            )
        try:
            return _json(200, self._dispatch(request))
        except ApexError as error:
            return _json(400, {"error": error.message, "hint": error.hint, "code": error.code})

    def _dispatch(self, request: Request) -> dict[str, Any]:
        match (request.method, request.path):
            case ("GET", "/status"):
                return self._lab.status()
            case ("POST", "/stop"):
                self._lab.stopping.set()
                return {"stopping": True}
            case ("POST", "/fault"):
                return self._fault(_json_body(request))
            case ("POST", "/user"):
                return self._user(_json_body(request))
        raise UsageError(f"the lab's control knows no {request.method} {request.path}")

    def _fault(self, asked: dict[str, Any]) -> dict[str, Any]:
        lab_state = self._lab.lab_state
        where, kind, times = str(asked.get("host")), str(asked.get("kind")), asked.get("times")
        if where != IAM:
            lab_state.host(where)
        if asked.get("clear"):
            lab_state.faults.clear(where, kind)
        elif times is None or isinstance(times, int):
            lab_state.faults.set(where, kind, times)
        else:
            raise UsageError(f"{times!r} is not a number of times")
        return {"faults": lab_state.faults.to_json()}

    def _user(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, display_name = asked.get("name"), asked.get("display_name")
        if not isinstance(name, str) or not name or not isinstance(display_name, str | None):
            raise UsageError("a user has a name, and perhaps a display name")
        person = self._lab.lab_state.users.add(name, display_name)
        return {"name": person.name, "password": person.password}


def _json_body(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(request.body)
    except ValueError as error:
        raise UsageError(f"the request is not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise UsageError("the request is not a JSON object")
    return asked


def _json(status: int, value: dict[str, Any]) -> Response:
    return Response(status, json.dumps(value, ensure_ascii=False), _JSON)
