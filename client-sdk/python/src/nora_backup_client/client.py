"""The connection: address, certificates, token."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import grpc

from nora.backup.v1.agent_service_pb2_grpc import AgentServiceStub
from nora.backup.v1.backup_service_pb2_grpc import BackupServiceStub
from nora.backup.v1.restore_service_pb2_grpc import RestoreServiceStub

Token: TypeAlias = str | Callable[[], str]
"""A token, or what returns the present one: asked at each call."""

# A page of a thousand backups with their warnings fits in.
_ANSWER_BYTES_MAX = 64 << 20


class Client:
    """The service, as one caller sees it.

    `url` is `http://HOST:PORT`, or `https://HOST:PORT` for TLS. `credentials`
    are for TLS with another authority than the system's, or with a certificate
    of the client: see `grpc.ssl_channel_credentials`.
    """

    agents: AgentServiceStub
    backups: BackupServiceStub
    restores: RestoreServiceStub

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._channel = _channel(url, credentials)
        channel = grpc.intercept_channel(self._channel, _Bearer(token))
        self.agents = AgentServiceStub(channel)
        self.backups = BackupServiceStub(channel)
        self.restores = RestoreServiceStub(channel)

    def close(self) -> None:
        """Ends the connection, and the streams on it."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _channel(url: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not http://HOST:PORT or https://HOST:PORT")
    options = [("grpc.max_receive_message_length", _ANSWER_BYTES_MAX)]
    if parts.scheme == "https":
        credentials = credentials or grpc.ssl_channel_credentials()
        return grpc.secure_channel(parts.netloc, credentials, options)
    if credentials is not None:
        raise ValueError(f"credentials are for https, not for {url!r}")
    return grpc.insecure_channel(parts.netloc, options)


class _Details(NamedTuple):
    """A call's details with other metadata."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Adds `authorization: Bearer <token>` to every call."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def _with_token(self, details: Any) -> _Details:
        token = self._token if isinstance(self._token, str) else self._token()
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {token}")]
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
