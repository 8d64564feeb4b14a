"""The lab's remote control: HTTP on loopback, for whoever can read the token in lab.json."""

import json
import secrets
from typing import Any, Protocol

from apexgpu.errors import ApexError, UsageError
from apexgpu.lab.web import Request, Response
from apexgpu.lab.world import World

_JSON = "application/json"


class Controlled(Protocol):
    """What is controlled."""

    world: World

    def status(self) -> dict[str, Any]:
        """The lab's state for people."""
        ...

    @property
    def stopping(self) -> Any:
        """The event that ends the service."""
        ...


class Control:
    """The handler of control requests."""

    def __init__(self, lab: Controlled, token: str) -> None:
        self.token = token
        self._lab = lab

    async def answer(self, request: Request) -> Response:
        """One request; errors come back as `{"error", "hint", "code"}` with status 400."""
        sent = request.headers.get("authorization", "")
        if not secrets.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
            return _json(403, {"error": "the token is not this lab's", "hint": None, "code": "refused"})
        try:
            return _json(200, self._obey(request))
        except ApexError as error:
            return _json(400, {"error": error.message, "hint": error.hint, "code": error.code})

    def _obey(self, request: Request) -> dict[str, Any]:
        world = self._lab.world
        match (request.method, request.path):
            case ("GET", "/status"):
                return self._lab.status()
            case ("POST", "/stop"):
                self._lab.stopping.set()
                return {"stopping": True}
            case ("POST", "/fault"):
                asked = _asked(request)
                where, kind = str(asked.get("host")), str(asked.get("kind"))
                if where != "iam":
                    world.host(where)
                if asked.get("clear"):
                    world.faults.clear(where, kind)
                else:
                    world.faults.set(where, kind, asked.get("times"))
                return {"faults": world.faults.listed()}
            case ("POST", "/user"):
                asked = _asked(request)
                person = world.roster.add(str(asked["name"]), asked.get("display_name"))
                return {"name": person.name, "password": person.password}
        raise UsageError(f"the lab's control knows no {request.method} {request.path}")


def _asked(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(request.body)
    except ValueError as error:
        raise UsageError(f"the request is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise UsageError("the request is no JSON object")
    return asked


def _json(status: int, value: dict[str, Any]) -> Response:
    return Response(status, json.dumps(value, ensure_ascii=False), _JSON)
