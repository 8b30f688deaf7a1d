"""Runs programs and measures them: time, peak memory, bytes on disk."""
import os, subprocess, time
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


class Failed(Exception):
    """A program that was measured did not succeed."""


@dataclass
class Measured:
    """What one run took."""
    seconds: float
    peak_rss_bytes: int


def pipeline(commands: list[list[str]], env: dict[str, str] | None = None, cwd: Path | None = None,
             stdin: Path | None = None, stdout: Path | None = None) -> Measured:
    """Runs commands, each reading what the one before writes. Memory is the sum of their peaks."""
    environment = {**os.environ, **(env or {})}
    source = open(stdin, "rb") if stdin else subprocess.DEVNULL
    sink = open(stdout, "wb") if stdout else subprocess.DEVNULL
    errors = Path(os.environ["BENCH_LOG"]) if "BENCH_LOG" in os.environ else Path(os.devnull)
    start = time.monotonic()
    running = []
    with open(errors, "ab") as log:
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            process = subprocess.Popen(command, env=environment, cwd=cwd, stdin=source, stderr=log,
                                       stdout=sink if last else subprocess.PIPE)
            if hasattr(source, "close"):
                source.close()
            source = process.stdout
            running.append(process)
        peak, wrong = 0, []
        for process in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak += usage.ru_maxrss * 1024
            if process.returncode:
                wrong.append(f"{process.args[0]}: exit code {process.returncode}")
    seconds = time.monotonic() - start
    if stdout:
        sink.close()
    if wrong:
        raise Failed(f"{'; '.join(wrong)} (see {errors})")
    return Measured(seconds, peak)


def run(command: list[str], **how) -> Measured:
    """Runs one command."""
    return pipeline([command], **how)


def tree_bytes(path: Path) -> int:
    """Bytes of all files under a path."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def warm(path: Path) -> None:
    """Brings a folder into the page cache, and everything written so far to the disk, so that
    each one who is measured finds the same."""
    os.sync()
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            with open(file, "rb", buffering=0) as data:
                while data.read(4 * MIB):
                    pass


def peak_rss_bytes(pid: int) -> int:
    """Largest resident memory of a running process so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"process {pid} tells no VmHWM")
