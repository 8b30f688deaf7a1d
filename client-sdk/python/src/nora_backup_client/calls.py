"""What happens to every call: the token, and that it is tried again.

A call that creates something gets a `request_id`, unless it has one, so that
the service makes it once however often the call arrives. That makes it safe to
repeat, like those that only read; the others (cancel, delete) are left to the
caller, for whom the answer to a second one may mean something else.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from nora.backup.v1.agent_service_pb2 import RegisterAgentRequest
from nora_backup_client.errors import is_passing, retry_delay

Token: TypeAlias = str | Callable[[], str]
"""A token, or what returns the present one: asked at each call."""

# The pause before the first repetition when the service names none; doubled
# each time, up to the longest.
_PAUSE_SECONDS = 0.2
_PAUSE_SECONDS_MAX = 5.0
# Changes nothing when repeated, although it does not only read.
_REPEATABLE = ("StartRestore", "RegisterAgent")

_M = TypeVar("_M")


class Patience:
    """How long one call, or one stream since its last sign, is tried again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """It works again: from now on as at the beginning."""
        self._end = time.monotonic() + self._seconds
        self._pause = _PAUSE_SECONDS

    def wait(self, error: grpc.RpcError) -> bool:
        """Waits until the next attempt. False, without waiting, when the error
        will not pass or the time is over."""
        if not is_passing(error):
            return False
        named = retry_delay(error)
        pause = named.total_seconds() if named is not None else self._pause
        # Those whom one stop sent away do not all come back at once.
        pause *= random.uniform(1.0, 1.2)
        if time.monotonic() + pause > self._end:
            return False
        self._pause = min(self._pause * 2, _PAUSE_SECONDS_MAX)
        time.sleep(pause)
        return True


@dataclass
class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata, or another timeout."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class Calls(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds `authorization: Bearer <token>` to every call, and repeats those
    without a stream; streams are taken up again by what reads them."""

    def __init__(self, token: Token, retry_seconds: float) -> None:
        self._token = token
        self._retry_seconds = retry_seconds

    # The types of requests and answers do not reach interceptors.
    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        request = _with_request_id(request)
        repeatable = _is_repeatable(client_call_details.method, request)
        patience = Patience(self._retry_seconds)
        timeout = client_call_details.timeout
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            answer = continuation(self._with_token(client_call_details, left), request)
            if not repeatable or answer.code() == grpc.StatusCode.OK:
                return answer
            if not patience.wait(answer):
                return answer

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        details = self._with_token(client_call_details, client_call_details.timeout)
        return continuation(details, request)

    def _with_token(self, details: grpc.ClientCallDetails, timeout: float | None) -> _Details:
        token = self._token if isinstance(self._token, str) else self._token()
        metadata = (*(details.metadata or ()), ("authorization", f"Bearer {token}"))
        return _Details(
            details.method,
            timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )


def _with_request_id(request: _M) -> _M:
    if not isinstance(request, Message) or not _has(request, "request_id"):
        return request
    if getattr(request, "request_id"):
        return request
    # The caller's message stays as it is: sent again, it is another request.
    filled = type(request)()
    filled.CopyFrom(request)
    setattr(filled, "request_id", str(uuid.uuid4()))
    return filled


def _is_repeatable(method: str, request: object) -> bool:
    name = method.rpartition("/")[2]
    if isinstance(request, RegisterAgentRequest) and request.agent.etag:
        # The first one that arrives changes the etag.
        return False
    reads = name.startswith(("Get", "List"))
    return reads or name in _REPEATABLE or _has(request, "request_id")


def _has(request: object, field: str) -> bool:
    return isinstance(request, Message) and field in request.DESCRIPTOR.fields_by_name
