"""The whole way of a backup, against a running service.

Set in the environment: NORA_BACKUP_SERVER, NORA_BACKUP_CONTROL_TOKEN (role
service), NORA_BACKUP_TOKEN and NORA_BACKUP_OWNER (a user), NORA_BACKUP_POOL, and
NORA_BACKUP_AGENT_DIR, an empty folder that the service's workers may read.
"""

import os
import subprocess
import tempfile
import unittest
import uuid
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from nora.backup.v1.agent_pb2 import Agent, DirectorySource, Source
from nora.backup.v1.agent_service_pb2 import RegisterAgentRequest
from nora.backup.v1.backup_pb2 import Backup
from nora.backup.v1.backup_service_pb2 import (
    CreateBackupRequest,
    DownloadBackupRequest,
    GetBackupRequest,
    ListBackupEntriesRequest,
    ListBackupsRequest,
    WatchBackupRequest,
)
from nora_backup_client import Client, reason

ZSTD_MAGIC = bytes.fromhex("28b52ffd")
SERVER = os.environ["NORA_BACKUP_SERVER"]
# For a job to end, on a busy machine.
JOB_SECONDS_MAX = 120


class ClientTest(unittest.TestCase):
    def test_a_backup_is_made_watched_listed_and_downloaded(self) -> None:
        agent_id = f"python-{uuid.uuid4().hex[:12]}"
        folder = Path(os.environ["NORA_BACKUP_AGENT_DIR"])
        content = os.urandom(3 << 20)
        (folder / "notes").mkdir()
        (folder / "notes" / "data.bin").write_bytes(content)
        agent = Agent(
            agent_id=agent_id,
            owner_id=os.environ["NORA_BACKUP_OWNER"],
            pool=os.environ["NORA_BACKUP_POOL"],
            source=Source(directory=DirectorySource(path=str(folder))),
        )

        with Client(SERVER, os.environ["NORA_BACKUP_TOKEN"]) as user:
            with self.assertRaises(grpc.RpcError) as refused:
                user.agents.RegisterAgent(RegisterAgentRequest(agent=agent))
            self.assertEqual(reason(refused.exception), "ROLE_NOT_ALLOWED")
            # The token may also be a function.
            with Client(SERVER, lambda: os.environ["NORA_BACKUP_CONTROL_TOKEN"]) as control:
                registered = control.agents.RegisterAgent(RegisterAgentRequest(agent=agent))
            self.assertTrue(registered.created)

            request = CreateBackupRequest(agent_id=agent_id, request_id=str(uuid.uuid4()))
            created = user.backups.CreateBackup(request).backup
            self.assertEqual(user.backups.CreateBackup(request).backup.backup_id, created.backup_id)
            watched = WatchBackupRequest(backup_id=created.backup_id)
            events = list(user.backups.WatchBackup(watched, timeout=JOB_SECONDS_MAX))
            ended = events[-1].backup
            self.assertEqual(ended.state, Backup.STATE_COMPLETED, ended)
            self.assertEqual(ended.size_bytes, len(content))
            self.assertGreater(ended.end_time.ToNanoseconds(), Timestamp().ToNanoseconds())

            listed = user.backups.ListBackups(ListBackupsRequest(agent_id=agent_id))
            self.assertEqual([backup.backup_id for backup in listed.backups], [ended.backup_id])
            entries = user.backups.ListBackupEntries(
                ListBackupEntriesRequest(backup_id=ended.backup_id, recursive=True)
            ).entries
            self.assertIn("notes/data.bin", [entry.path_text for entry in entries])

            archive = self.download(user, ended.backup_id)
            self.assertEqual(archive[:4], ZSTD_MAGIC)
            self.assertEqual(unpacked(archive, "data.bin"), content)

            with self.assertRaises(grpc.RpcError) as missing:
                user.backups.GetBackup(GetBackupRequest(backup_id=str(uuid.uuid4())))
            self.assertEqual(reason(missing.exception), "BACKUP_NOT_FOUND")

        with Client(SERVER, "not a token") as nobody:
            with self.assertRaises(grpc.RpcError) as unknown:
                nobody.backups.GetBackup(GetBackupRequest(backup_id=ended.backup_id))
            self.assertEqual(reason(unknown.exception), "TOKEN_INVALID")

    def download(self, user: Client, backup_id: str) -> bytes:
        archive = bytearray()
        request = DownloadBackupRequest(backup_id=backup_id)
        last = False
        for chunk in user.backups.DownloadBackup(request, timeout=JOB_SECONDS_MAX):
            self.assertFalse(last, "nothing follows the last chunk")
            self.assertEqual(chunk.offset, len(archive))
            archive += chunk.data
            last = chunk.last
        self.assertTrue(last, "the stream ends with the last chunk")
        return bytes(archive)


def unpacked(archive: bytes, name: str) -> bytes:
    """The content of a file of this name in a .tar.zst."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "--zstd", "-x", "-C", folder], input=archive, check=True)
        [path] = Path(folder).rglob(name)
        return path.read_bytes()


if __name__ == "__main__":
    unittest.main()
