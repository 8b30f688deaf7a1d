"""What an error of the service carries beside its code and message."""

from datetime import timedelta

import grpc
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
            return info.reason
    return ""


def retry_delay(error: grpc.RpcError) -> timedelta | None:
    """How long to wait before the same call may succeed; None when the service
    does not say that trying again helps."""
    info = error_details_pb2.RetryInfo()
    for detail in _details(error):
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta()
    return None


def _details(error: grpc.RpcError):  # type: ignore[no-untyped-def]
    status = rpc_status.from_call(error)
    return status.details if status is not None else ()
