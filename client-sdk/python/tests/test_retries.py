"""What is tried again, and how: against a service that breaks on purpose."""

import tempfile
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Detail
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from nora.backup.v1.backup_pb2 import Backup
from nora.backup.v1.backup_service_pb2 import (
    CancelBackupRequest,
    CancelBackupResponse,
    CreateBackupRequest,
    CreateBackupResponse,
    DownloadBackupRequest,
    DownloadBackupResponse,
    WatchBackupRequest,
    WatchBackupResponse,
)
from nora.backup.v1.backup_service_pb2_grpc import (
    BackupServiceServicer,
    add_BackupServiceServicer_to_server,
)
from nora_backup_client import Client, StreamError, reason, retry_delay

ARCHIVE = bytes(range(256)) * 40
CHUNK_BYTES = 1_000


class Breaking(BackupServiceServicer):
    """Ends as many calls as told before they, or their streams, are through."""

    def __init__(self) -> None:
        self.breaks = 0
        self.delay = timedelta(milliseconds=20)
        self.requests: list[Any] = []

    def break_off(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if self.breaks > 0:
            self.breaks -= 1
            self.refuse(context)

    def refuse(self, context: grpc.ServicerContext) -> NoReturn:
        retry = error_details_pb2.RetryInfo(retry_delay=Duration())
        retry.retry_delay.FromTimedelta(self.delay)
        info = error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", domain="nora.backup")
        details = [Detail(), Detail()]
        details[0].Pack(info)
        details[1].Pack(retry)
        status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stops", details=details)
        context.abort_with_status(rpc_status.to_status(status))

    def CreateBackup(
        self, request: CreateBackupRequest, context: grpc.ServicerContext
    ) -> CreateBackupResponse:
        self.break_off(request, context)
        return CreateBackupResponse(backup=Backup(backup_id="b"))

    def CancelBackup(
        self, request: CancelBackupRequest, context: grpc.ServicerContext
    ) -> CancelBackupResponse:
        self.break_off(request, context)
        return CancelBackupResponse()

    def WatchBackup(
        self, request: WatchBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[WatchBackupResponse]:
        yield WatchBackupResponse(backup=Backup(state=Backup.STATE_RUNNING))
        self.break_off(request, context)
        yield WatchBackupResponse(backup=Backup(state=Backup.STATE_COMPLETED))

    def DownloadBackup(
        self, request: DownloadBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[DownloadBackupResponse]:
        for offset in range(request.offset, len(ARCHIVE), CHUNK_BYTES):
            data = ARCHIVE[offset : offset + CHUNK_BYTES]
            yield DownloadBackupResponse(
                offset=offset,
                data=data,
                etag="e" if offset == request.offset else "",
                last=offset + len(data) == len(ARCHIVE),
            )
            if offset == request.offset:
                self.break_off(request, context)


class RetriesTest(unittest.TestCase):
    def setUp(self) -> None:
        # What it does not have answers UNIMPLEMENTED.
        self.service = Breaking()  # type: ignore[abstract]
        server = grpc.server(ThreadPoolExecutor(max_workers=4))
        add_BackupServiceServicer_to_server(self.service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url, "token")
        self.addCleanup(self.client.close)

    def test_a_create_is_repeated_under_one_request_id(self) -> None:
        self.service.breaks = 2
        request = CreateBackupRequest(agent_id="an-agent")
        self.client.backups.CreateBackup(request)
        first, *others = [sent.request_id for sent in self.service.requests]
        self.assertEqual(others, [first, first])
        # Another call is another backup; an id that the caller chose is kept.
        self.client.backups.CreateBackup(request)
        self.client.backups.CreateBackup(CreateBackupRequest(request_id="chosen"))
        self.assertNotIn(self.service.requests[3].request_id, ("", first))
        self.assertEqual(self.service.requests[4].request_id, "chosen")

    def test_what_is_not_safe_to_repeat_is_not_repeated(self) -> None:
        self.service.breaks = 1
        with self.assertRaises(grpc.RpcError) as broken:
            self.client.backups.CancelBackup(CancelBackupRequest(backup_id="b"))
        self.assertEqual(reason(broken.exception), "SHUTTING_DOWN")
        self.assertEqual(retry_delay(broken.exception), self.service.delay)
        self.assertEqual(len(self.service.requests), 1)

    def test_nothing_is_repeated_longer_than_wished(self) -> None:
        self.service.breaks = 10
        self.service.delay = timedelta(hours=1)
        with self.assertRaises(grpc.RpcError):
            self.client.backups.CreateBackup(CreateBackupRequest())
        self.service.delay = timedelta()
        with Client(self.url, "token", retry_seconds=0) as hasty:
            with self.assertRaises(grpc.RpcError):
                hasty.backups.CreateBackup(CreateBackupRequest())
        self.assertEqual(len(self.service.requests), 2)

    def test_a_watch_goes_on_after_a_break(self) -> None:
        self.service.breaks = 2
        seen: list[Backup] = []
        ended = self.client.watch_backup("b", seen.append)
        self.assertEqual(ended.state, Backup.STATE_COMPLETED)
        self.assertEqual([backup.state for backup in seen], [2, 2, 2, 3])

    def test_a_download_goes_on_where_it_broke(self) -> None:
        self.service.breaks = 2
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "backup.tar.zst"
            self.client.download_backup("b", path)
            self.assertEqual(path.read_bytes(), ARCHIVE)
            self.assertEqual([file.name for file in Path(folder).iterdir()], [path.name])
        asked = [(request.offset, request.etag) for request in self.service.requests]
        self.assertEqual(asked, [(0, ""), (CHUNK_BYTES, "e"), (2 * CHUNK_BYTES, "e")])

    def test_what_a_broken_download_had_stays(self) -> None:
        self.service.breaks = 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "backup.tar.zst"
            with Client(self.url, "token", retry_seconds=0) as hasty:
                with self.assertRaises(grpc.RpcError):
                    hasty.download_backup("b", path)
            self.assertFalse(path.exists())
            # Another archive than the one that the .part belongs to.
            path.with_name("backup.tar.zst.part.etag").write_text("another")
            with self.assertRaises(StreamError):
                self.client.download_backup("b", path)
            path.with_name("backup.tar.zst.part.etag").write_text("e")
            self.client.download_backup("b", path)
            self.assertEqual(path.read_bytes(), ARCHIVE)

    def test_an_address_is_checked_at_once(self) -> None:
        for url in ("", "localhost:50051", "ftp://localhost", "http://"):
            with self.assertRaises(ValueError):
                Client(url, "token")
        with self.assertRaises(ValueError):
            Client(self.url, "token", credentials=grpc.ssl_channel_credentials())


if __name__ == "__main__":
    unittest.main()
