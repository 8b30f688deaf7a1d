"""Streams that are read to their end, however often they break."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import grpc

from nora_backup_client.calls import Patience
from nora_backup_client.errors import reason

T = TypeVar("T")

# What the service answers when what lies in a .part is no beginning of what it
# would send.
_OTHER_BYTES = ("DOWNLOAD_CHANGED", "OFFSET_OUT_OF_RANGE")


class StreamError(Exception):
    """The service sent something else than it promises."""


class Chunk(Protocol):
    """One message of a download."""

    offset: int
    data: bytes
    etag: str
    last: bool


def watch(
    states: Callable[[float | None], Iterable[T]],
    on_change: Callable[[T], object] | None,
    patience: Patience,
    timeout: float | None,
) -> T:
    """Reads the states of something until there are no more; returns the last."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if end is None else max(end - time.monotonic(), 0.0)
        seen: list[T] = []
        try:
            for state in states(left):
                patience.renew()
                seen = [state]
                if on_change is not None:
                    on_change(state)
        except grpc.RpcError as error:
            # A stream begins with the present state: nothing is missed.
            if not patience.wait(error):
                raise
            continue
        if not seen:
            raise StreamError("the service closed a stream in which it had told nothing")
        return seen[0]


def download(
    open_at: Callable[[int, str], Iterable[Chunk]],
    path: Path,
    on_bytes: Callable[[int], object] | None,
    patience: Patience,
) -> None:
    """Brings a stream of bytes to a file."""
    part = path.with_name(path.name + ".part")
    with open(part, "ab") as file:
        download = _Download(file, path.with_name(path.name + ".part.etag"))
        began_again = False
        while True:
            try:
                for chunk in open_at(download.position, download.etag):
                    download.take(chunk)
                    patience.renew()
                    if on_bytes is not None:
                        on_bytes(download.position)
                if not download.complete:
                    raise StreamError("the service closed a download before its end")
                break
            except grpc.RpcError as error:
                if reason(error) in _OTHER_BYTES and not began_again:
                    began_again = True
                    download.begin_again()
                elif not patience.wait(error):
                    raise
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    download.etag_path.unlink(missing_ok=True)


class _Download:
    """What of a download has come."""

    def __init__(self, file: BinaryIO, etag_path: Path) -> None:
        self._file = file
        self.etag_path = etag_path
        self.position = file.tell()
        self.complete = False
        self.etag = ""
        if self.position > 0:
            try:
                self.etag = etag_path.read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                pass
        if not self.etag:
            self.begin_again()

    def begin_again(self) -> None:
        """Whatever lies there belongs to something else."""
        self._file.truncate(0)
        self._file.seek(0)
        self.position = 0
        self.etag = ""

    def take(self, chunk: Chunk) -> None:
        """Appends what follows on what is there."""
        if self.complete:
            raise StreamError("the service sent more after the end of a download")
        if chunk.etag and not self.etag:
            self.etag = chunk.etag
            self.etag_path.write_text(chunk.etag, encoding="utf-8")
        if chunk.etag not in ("", self.etag):
            raise StreamError(f"the service sent {chunk.etag!r} instead of {self.etag!r}")
        if chunk.offset != self.position and chunk.data:
            raise StreamError(
                f"the service sent bytes for offset {chunk.offset}, where {self.position} was due"
            )
        self._file.write(chunk.data)
        self.position += len(chunk.data)
        self.complete = chunk.last
