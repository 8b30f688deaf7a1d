"""The whole way of a backup, against a running service.

Set in the environment: NORA_BACKUP_SERVER, NORA_BACKUP_CONTROL_TOKEN (role
service), NORA_BACKUP_TOKEN and NORA_BACKUP_OWNER (a user), NORA_BACKUP_POOL, and
NORA_BACKUP_AGENT_DIR, an empty folder that the service's workers may read.
"""

import os
import tarfile
import tempfile
import unittest
import uuid
from pathlib import Path

import grpc
import zstandard

from nora.backup.v1.agent_pb2 import Agent, DirectorySource, Source
from nora.backup.v1.agent_service_pb2 import RegisterAgentRequest
from nora.backup.v1.backup_pb2 import Backup
from nora.backup.v1.backup_service_pb2 import (
    CreateBackupRequest,
    GetBackupRequest,
    ListBackupEntriesRequest,
    ListBackupsRequest,
)
from nora_backup_client import Client, reason, wrong_fields

SERVER = os.environ["NORA_BACKUP_SERVER"]
TOKEN = os.environ["NORA_BACKUP_TOKEN"]
# For a job to end, on a busy machine.
JOB_SECONDS_MAX = 100


class ClientTest(unittest.TestCase):
    def test_a_backup_is_made_watched_listed_and_downloaded(self) -> None:
        source = Path(os.environ["NORA_BACKUP_AGENT_DIR"])
        size_bytes = fill(source)
        agent = Agent(
            agent_id=f"python-{uuid.uuid4().hex[:12]}",
            owner_id=os.environ["NORA_BACKUP_OWNER"],
            pool=os.environ["NORA_BACKUP_POOL"],
            source=Source(directory=DirectorySource(path=str(source))),
        )
        # The token may also be a function.
        with Client(SERVER, lambda: os.environ["NORA_BACKUP_CONTROL_TOKEN"]) as control:
            self.assertTrue(control.agents.RegisterAgent(RegisterAgentRequest(agent=agent)).created)

        with Client(SERVER, TOKEN) as user:
            request = CreateBackupRequest(agent_id=agent.agent_id)
            created = user.backups.CreateBackup(request).backup
            seen: list[Backup] = []
            ended = user.watch_backup(created.backup_id, seen.append, timeout=JOB_SECONDS_MAX)
            self.assertEqual(ended.state, Backup.STATE_COMPLETED, ended)
            self.assertEqual(ended, seen[-1])
            self.assertEqual(ended.size_bytes, size_bytes)

            listed = user.backups.ListBackups(ListBackupsRequest(agent_id=agent.agent_id))
            self.assertEqual([backup.backup_id for backup in listed.backups], [ended.backup_id])
            entries = user.backups.ListBackupEntries(
                ListBackupEntriesRequest(backup_id=ended.backup_id, recursive=True)
            ).entries
            self.assertIn("notes/data.bin", [entry.path_text for entry in entries])

            with tempfile.TemporaryDirectory() as folder:
                self.download(user, ended.backup_id, Path(folder), source)

    def download(self, user: Client, backup_id: str, folder: Path, source: Path) -> None:
        path = folder / "backup.tar.zst"
        etags: set[str] = set()
        etag_path = folder / "backup.tar.zst.part.etag"
        user.download_backup(backup_id, path, lambda _: etags.add(etag_path.read_text()))
        archive = path.read_bytes()
        self.assertEqual(contents(unpacked(path, folder)), contents(source))

        # What an interrupted download left behind is not fetched again.
        half = len(archive) // 2
        (folder / "backup.tar.zst.part").write_bytes(archive[:half])
        [etag] = etags
        etag_path.write_text(etag)
        lengths: list[int] = []
        user.download_backup(backup_id, path, lengths.append)
        self.assertGreater(lengths[0], half)
        self.assertEqual(path.read_bytes(), archive)

        # What belongs to another backup is not gone on with.
        (folder / "backup.tar.zst.part").write_bytes(b"other bytes")
        etag_path.write_text("another")
        user.download_backup(backup_id, path)
        self.assertEqual(path.read_bytes(), archive)
        self.assertEqual([file.name for file in folder.glob("backup*")], [path.name])

    def test_errors_have_reasons(self) -> None:
        with Client(SERVER, TOKEN) as user:
            with self.assertRaises(grpc.RpcError) as missing:
                user.backups.GetBackup(GetBackupRequest(backup_id=str(uuid.uuid4())))
            self.assertEqual(reason(missing.exception), "BACKUP_NOT_FOUND")
            with self.assertRaises(grpc.RpcError) as refused:
                user.agents.RegisterAgent(RegisterAgentRequest(agent=Agent(agent_id="an-agent")))
            self.assertEqual(reason(refused.exception), "ROLE_NOT_ALLOWED")
            with self.assertRaises(grpc.RpcError) as wrong:
                user.backups.ListBackups(ListBackupsRequest(page_size=-1))
            self.assertEqual(reason(wrong.exception), "INVALID_FIELD")
            self.assertEqual(list(wrong_fields(wrong.exception)), ["page_size"])
        with Client(SERVER, "not-a-token") as nobody:
            with self.assertRaises(grpc.RpcError) as unknown:
                nobody.backups.GetBackup(GetBackupRequest(backup_id=str(uuid.uuid4())))
            self.assertEqual(reason(unknown.exception), "TOKEN_INVALID")


def fill(folder: Path) -> int:
    """Makes an agent's files; returns their bytes."""
    files = {
        "notes/data.bin": os.urandom(3 << 20),
        "notes/empty": b"",
        "Grüße/memory.json": b'{"known": true}\n' * 10_000,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "notes" / "run").symlink_to("../notes/data.bin")
    return sum(len(content) for content in files.values())


def unpacked(archive: Path, folder: Path) -> Path:
    """The folder that a .tar.zst holds."""
    target = folder / "unpacked"
    with open(archive, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            # All of it is this test's own.
            tar.extractall(target, filter="fully_trusted")
    return target


def contents(folder: Path) -> dict[str, bytes | str]:
    """What lies where: contents of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = "a folder" if path.is_dir() else path.read_bytes()
    return found


if __name__ == "__main__":
    unittest.main()
