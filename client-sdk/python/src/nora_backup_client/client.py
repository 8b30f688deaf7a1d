"""The connection, and what takes more than one call."""

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import grpc

from nora.backup.v1.agent_service_pb2_grpc import AgentServiceStub
from nora.backup.v1.backup_pb2 import Backup
from nora.backup.v1.backup_service_pb2 import (
    DownloadBackupRequest,
    DownloadBackupResponse,
    WatchBackupRequest,
    WatchVerificationRequest,
    WatchVerificationResponse,
)
from nora.backup.v1.backup_service_pb2_grpc import BackupServiceStub
from nora.backup.v1.restore_pb2 import Restore
from nora.backup.v1.restore_service_pb2 import WatchRestoreRequest
from nora.backup.v1.restore_service_pb2_grpc import RestoreServiceStub
from nora.backup.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from nora_backup_client.calls import Calls, Patience, Token
from nora_backup_client.streams import download, watch

# A page of a thousand backups with their warnings fits in.
_ANSWER_BYTES_MAX = 64 << 20


class Client:
    """The service, as one caller sees it. May be used by many threads.

    `url` is `http://HOST:PORT`, or `https://HOST:PORT` for TLS. `credentials`
    are for TLS with another authority than those that gRPC knows, or with a
    certificate of the client: see `grpc.ssl_channel_credentials`.

    A call that the service could not answer (UNAVAILABLE, or overloaded) is
    repeated for `retry_seconds` where that is safe; 0 turns it off.
    """

    agents: AgentServiceStub
    backups: BackupServiceStub
    restores: RestoreServiceStub
    schedules: ScheduleServiceStub

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        retry_seconds: float = 30.0,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._channel = _channel(url, credentials)
        channel = grpc.intercept_channel(self._channel, Calls(token, retry_seconds))
        self.agents = AgentServiceStub(channel)
        self.backups = BackupServiceStub(channel)
        self.restores = RestoreServiceStub(channel)
        self.schedules = ScheduleServiceStub(channel)

    def watch_backup(
        self,
        backup_id: str,
        on_change: Callable[[Backup], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Backup:
        """Waits until a backup has ended, and returns it: COMPLETED, FAILED (see
        `failure`) or CANCELED. Meanwhile `on_change` gets every change of it."""
        request = WatchBackupRequest(backup_id=backup_id)

        def states(left: float | None) -> Iterable[Backup]:
            return (event.backup for event in self.backups.WatchBackup(request, timeout=left))

        return watch(states, on_change, Patience(self._retry_seconds), timeout)

    def watch_restore(
        self,
        restore_id: str,
        on_change: Callable[[Restore], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Restore:
        """The same for a restore."""
        request = WatchRestoreRequest(restore_id=restore_id)

        def states(left: float | None) -> Iterable[Restore]:
            return (event.restore for event in self.restores.WatchRestore(request, timeout=left))

        return watch(states, on_change, Patience(self._retry_seconds), timeout)

    def watch_verification(
        self,
        backup_id: str,
        verification_id: str,
        on_change: Callable[[WatchVerificationResponse], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> WatchVerificationResponse:
        """The same for a verification; the last event is returned."""
        request = WatchVerificationRequest(backup_id=backup_id, verification_id=verification_id)

        def states(left: float | None) -> Iterable[WatchVerificationResponse]:
            return self.backups.WatchVerification(request, timeout=left)

        return watch(states, on_change, Patience(self._retry_seconds), timeout)

    def download_backup(
        self,
        backup_id: str,
        path: str | PathLike[str],
        on_bytes: Callable[[int], object] | None = None,
    ) -> None:
        """Brings a COMPLETED backup to a file, as .tar.zst; a file that is there
        is replaced. Meanwhile `on_bytes` gets the length so far.

        The bytes go to `<path>.part`, which gets its name once it is complete
        and on the disk. A broken stream goes on where it stopped, and so does a
        later call with the same path: `<path>.part.etag` tells whether what is
        there belongs to it."""

        def open_at(offset: int, etag: str) -> Iterable[DownloadBackupResponse]:
            return self.backups.DownloadBackup(
                DownloadBackupRequest(backup_id=backup_id, offset=offset, etag=etag)
            )

        download(open_at, Path(path), on_bytes, Patience(self._retry_seconds))

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
