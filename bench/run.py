#!/usr/bin/env python3
"""Measures this program beside its peers, on one corpus, in one run, and compares the medians with
the goals. Works in memory (tmpfs) where there is room, so that the programs are measured and not the
disk. Prints tables; writes TARGET/bench/latest.json (rows.py)."""
import argparse, os, shutil, statistics, subprocess, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine import Container
from measure import MIB, Failed, tree_bytes, warm
from programs import Nora, Restic, TarZstdAge, install, tar_zstd_bytes
from rows import merge, table

CORPUS = Path(__file__).parent / "corpus.py"
FULL_MIB = 1024
RSS_MIB_MAX = 200
MEMORY = Path("/dev/shm")
# Room for everything at once, in corpora.
MEMORY_TIMES = 8
STEPS = ("first", "hour", "restore")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def corpus(path: Path, mib: int) -> Path:
    """The corpus of this size; made once, then kept."""
    done = path / f"corpus-{mib}.made"
    folder = path / f"corpus-{mib}"
    if not done.exists():
        say(f"making the corpus of {mib} MiB")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, CORPUS, "make", folder, "--mib", str(mib)], check=True)
        # This machine may not have that much of its own: the rest does not compress.
        number = 0
        while mib > FULL_MIB and tree_bytes(folder) < mib * MIB:
            with open(folder / "downloads" / f"more-{number}.bin", "wb") as more:
                for _ in range(16):
                    more.write(os.urandom(4 * MIB))
            number += 1
        done.touch()
    return folder


def workplace(place: Path, mib: int, disk: bool) -> tuple[Path, str]:
    """Where the programs read and write: in memory, unless that has no room or the disk is asked for."""
    if not disk and MEMORY.is_dir():
        if shutil.disk_usage(MEMORY).free > MEMORY_TIMES * mib * MIB:
            return MEMORY / f"nora-bench-{os.getpid()}", "in memory"
    return place / "work", "on disk"


class Bench:
    def __init__(self, args: argparse.Namespace):
        self.args, self.place = args, args.target / "bench"
        self.place.mkdir(parents=True, exist_ok=True)
        self.log = self.place / "log"
        self.log.write_text("")
        self.work, self.medium = workplace(self.place, args.mib, args.disk)
        os.environ["BENCH_LOG"] = str(self.log)
        self.program = args.program or args.target / "release" / "nora-backup"
        self.figures: dict[tuple[str, str, str], list[float]] = {}
        self.missing: list[str] = []

    def note(self, program: str, step: str, what: str, value: float) -> None:
        self.figures.setdefault((program, step, what), []).append(value)

    def median(self, program: str, step: str, what: str) -> float | None:
        values = self.figures.get((program, step, what))
        return statistics.median(values) if values else None

    def directories(self) -> None:
        """First backup, an hour's work and a second backup, restore; all programs in turn."""
        peers = [peer for peer in (Restic, TarZstdAge) if peer.available() or self.missing.append(peer.name)]
        source = corpus(self.place, self.args.mib)
        for number in range(self.args.runs):
            say(f"run {number + 1} of {self.args.runs}")
            work = fresh(self.work)
            subprocess.run(["cp", "-a", source, work / "agent"], check=True)
            everyone = [Nora(self.program, work / "nora", self.log), *(peer(work / peer.name.replace("|", "-")) for peer in peers)]
            # Whoever goes first finds another machine than who goes last: take turns.
            turn = number % len(everyone)
            everyone = everyone[turn:] + everyone[:turn]
            try:
                self.one_run(work, everyone, check=number == 0)
            finally:
                for program in everyone:
                    program.close()
            shutil.rmtree(work)

    def one_run(self, work: Path, everyone: list, check: bool) -> None:
        size = tree_bytes(work / "agent")
        if check and "tar|zstd|age" not in self.missing:
            self.note("tar|zstd", "first", "stored", tar_zstd_bytes(work, self.place / "tar.zst"))
        for step in STEPS:
            if step == "hour":
                subprocess.run([sys.executable, CORPUS, "hour", work / "agent"], check=True)
            for program in everyone:
                warm(work / "agent")
                before = program.stored() if step == "hour" else 0
                target = work / f"restored-{everyone.index(program)}"
                taken = program.restore(target) if step == "restore" else program.backup(work)
                self.note(program.name, step, "seconds", taken.seconds)
                self.note(program.name, step, "rate", size / MIB / taken.seconds)
                self.note(program.name, step, "rss", taken.peak_rss_bytes)
                if step != "restore":
                    whole_again = program.name == TarZstdAge.name
                    self.note(program.name, step, "stored", program.stored() - (0 if whole_again else before))
                    continue
                if check:
                    same = subprocess.run(["diff", "-r", "--no-dereference", work / "agent", program.restored(target)],
                                          stdout=subprocess.DEVNULL)
                    if same.returncode:
                        raise Failed(f"{program.name} restored something else")
                shutil.rmtree(target)

    def big(self) -> None:
        """Memory at a much larger size."""
        work = fresh(self.place / "work")
        source = corpus(self.place, self.args.big)
        os.rename(source, work / "agent")
        nora = Nora(self.program, work / "nora", self.log)
        try:
            say(f"memory at {self.args.big} MiB")
            self.note(nora.name, "big", "seconds", nora.backup(work).seconds)
            self.note(nora.name, "big", "rss", nora.restore(work / "restored").peak_rss_bytes)
        finally:
            nora.close()
            os.rename(work / "agent", source)
            shutil.rmtree(work)

    def docker(self) -> None:
        """A container as the source, beside reading the same paths raw."""
        host = os.environ.get("NORA_TEST_DOCKER_HOST")
        if not host or not install("curl", "curl"):
            self.missing.append("Docker Engine" if not host else "curl")
            return
        say("a container as the source")
        container = Container(host, "nora-bench", corpus(self.place, self.args.mib))
        nora = None
        try:
            nora = Nora(self.program, fresh(self.work) / "nora", self.log, {"NORA_BACKUP_DOCKER_HOST": host})
            container.read_raw()
            for number in range(self.args.runs):
                self.note("raw read", "docker", "seconds", container.read_raw().seconds)
                agent = f"boxed-{number}"
                nora.register(agent, "--container", container.name, "--path", "/data")
                self.note("nora-backup", "docker", "seconds", nora.backup_registered(agent).seconds)
                self.note("nora-backup", "docker again", "seconds", nora.backup_registered(agent).seconds)
        finally:
            if nora:
                nora.close()
            container.remove()
            shutil.rmtree(self.work, ignore_errors=True)

    def rows(self) -> list[dict]:
        """One row for each figure that has a goal."""
        nora = "nora-backup"

        def ratio(top, bottom):
            above, below = self.median(*top), self.median(*bottom)
            return above / below if above is not None and below else None

        def row(measure, value, unit, sign, bound):
            holds = {">=": lambda: value >= bound, "<=": lambda: value <= bound, "<": lambda: value < bound,
                     "+-": lambda: abs(value - 1) <= bound}[sign]
            goal = f"1 +- {bound}" if sign == "+-" else f"{sign} {bound}"
            return {"measure": measure, "value": None if value is None else round(value, 3), "unit": unit, "goal": goal,
                    "met": None if value is None else holds()}

        rss = [self.median(nora, step, "rss") for step in STEPS]
        peak = max((value for value in rss if value is not None), default=None)
        big = self.median(nora, "big", "rss")
        return [
            row("first backup: speed against tar|zstd|age", ratio(("tar|zstd|age", "first", "seconds"), (nora, "first", "seconds")), "x", ">=", 1.1),
            row("first backup: speed against restic", ratio(("restic", "first", "seconds"), (nora, "first", "seconds")), "x", ">=", 2.2),
            row("stored bytes against tar|zstd", ratio((nora, "first", "stored"), ("tar|zstd", "first", "stored")), "x", "<=", 1.01),
            row("stored bytes against restic", ratio((nora, "first", "stored"), ("restic", "first", "stored")), "x", "<", 1),
            row("after an hour: time against restic", ratio((nora, "hour", "seconds"), ("restic", "hour", "seconds")), "x", "<=", 1),
            row("after an hour: added bytes against restic", ratio((nora, "hour", "stored"), ("restic", "hour", "stored")), "x", "<=", 0.5),
            row("restore: speed against restic", ratio(("restic", "restore", "seconds"), (nora, "restore", "seconds")), "x", ">=", 1.5),
            row(f"peak RSS of the standalone at {self.args.mib} MiB", peak and peak / MIB, "MiB", "<=", RSS_MIB_MAX),
            row("peak RSS at 8 GiB against 1 GiB", big / peak if big and peak else None, "x", "+-", 0.2),
            row("Docker source: time of a second backup against a raw read", ratio((nora, "docker again", "seconds"), ("raw read", "docker", "seconds")), "x", "<=", 1.3),
            row("Docker source: time of a first backup against a raw read", ratio((nora, "docker", "seconds"), ("raw read", "docker", "seconds")), "x", "<=", 1.3),
        ]

    def report(self) -> None:
        print(f"\ncorpus of {self.args.mib} MiB, medians of {self.args.runs}, {os.cpu_count()} cores, {self.medium}\n")
        print(f"{'':14} {'step':8} {'time s':>8} {'MB/s':>8} {'peak RSS MiB':>13} {'stored MiB':>11}")
        for step in STEPS:
            for name in dict.fromkeys(program for program, at, what in self.figures if at == step and what == "seconds"):
                stored = self.median(name, step, "stored")
                print(f"{name:14} {step:8} {self.median(name, step, 'seconds'):8.2f} {self.median(name, step, 'rate') * MIB / 1e6:8.1f} "
                      f"{self.median(name, step, 'rss') / MIB:13.1f} {'' if stored is None else f'{stored / MIB:11.2f}'}")
        for name, step in (("nora-backup", "docker"), ("nora-backup", "docker again"), ("raw read", "docker")):
            if (seconds := self.median(name, step, "seconds")) is not None:
                print(f"{name:14} {step:12} {seconds:4.2f}")
        rows = self.rows()
        table(rows)
        for name in dict.fromkeys(self.missing):
            print(f"missing: {name}: it is not installed and could not be")
        if self.args.mib < FULL_MIB:
            print(f"a try: the goals are those of a corpus of {FULL_MIB} MiB")
        merge(self.place / "latest.json", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=lambda text: Path(text).resolve(), required=True, help="cargo's target folder")
    parser.add_argument("--program", type=Path, help="the program under test [default: TARGET/release/nora-backup]")
    parser.add_argument("--mib", type=int, default=FULL_MIB, help="size of the corpus")
    parser.add_argument("--runs", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--disk", action="store_true", help="work on the disk, not in memory")
    parser.add_argument("--big", type=int, default=0, help="MiB at which memory is measured again; 0: not")
    bench = Bench(parser.parse_args())
    try:
        bench.directories()
        bench.docker()
        if bench.args.big:
            bench.big()
    except Failed as cause:
        bench.report()
        sys.exit(f"bench: {cause}")
    bench.report()


if __name__ == "__main__":
    main()
