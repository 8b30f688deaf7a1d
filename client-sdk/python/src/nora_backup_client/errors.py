"""What an error of the service carries beside its code and message."""

from collections.abc import Iterator
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2
from grpc_status import rpc_status

DOMAIN = "nora.backup"
"""The domain of the service's own reasons."""


def reason(error: grpc.RpcError) -> str:
    """The stable reason, for example "BACKUP_NOT_FOUND": a name of
    `nora.backup.v1.ErrorReason` without its prefix. Empty when the error is not
    the service's own, as when it cannot be reached."""
    info = error_details_pb2.ErrorInfo()
    for detail in _details(error):
        if detail.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return ""


def wrong_fields(error: grpc.RpcError) -> dict[str, str]:
    """What is wrong with which field of the request, when it is INVALID_FIELD."""
    request = error_details_pb2.BadRequest()
    return {
        violation.field: violation.description
        for detail in _details(error)
        if detail.Unpack(request)
        for violation in request.field_violations
    }


def retry_delay(error: grpc.RpcError) -> timedelta | None:
    """How long to wait before the same call may succeed; None when the service
    does not say that trying again helps."""
    info = error_details_pb2.RetryInfo()
    for detail in _details(error):
        if detail.Unpack(info):
            delay: timedelta = info.retry_delay.ToTimedelta()
            return delay
    return None


def is_passing(error: grpc.RpcError) -> bool:
    """Whether the same call may succeed later: the service cannot be reached,
    stops, or is overloaded."""
    code = error.code() if isinstance(error, grpc.Call) else None
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return retry_delay(error) is not None
    return code == grpc.StatusCode.UNAVAILABLE


def _details(error: grpc.RpcError) -> Iterator[Any]:
    status = rpc_status.from_call(error) if isinstance(error, grpc.Call) else None
    yield from status.details if status is not None else ()
