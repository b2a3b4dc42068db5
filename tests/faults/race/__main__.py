"""The race: `python -m tests.faults.race HOME SECONDS SEED RESULT`, in namespaces of its own.

Three members, three hosts, contenders on each, and faults, until SECONDS have
passed and enough has happened; then what was seen goes to RESULT as JSON. HOME is
empty. It must not know what is demanded of the result.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.race import announce, clocks, faults, harm, network
from tests.faults.race.cluster import LabCluster
from tests.faults.race.hosts import LOCK, NAMESPACE, Ours, Theirs
from tests.faults.race.lab import Lab
from tests.faults.race.verdict import OURS, takeovers
from tests.faults.race.watching import Watching
from tests.support import qemu, waiting
from tests.support.guest.checker import check

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    Deed = Callable[[Lab, random.Random], None]

DISKS = ("disk0", "disk1")
THEIR_DISK = LOCK
DISK_BYTES = 2 << 20
FAILOVER_S = (15, 15, 20)
BOOTED_S = (0, 100_000, 5_000_000)
LEAST_RUNS = 4
MORE_S = 75.0  # for what must have happened, where the machine is slow
DEADLINE_S = 90.0


def make_home(home: Path) -> None:
    """Make the disks, and QEMU's name for who announces guests."""
    for name in ("bin", "logs", "etcd"):
        (home / name).mkdir()
    (home / "bin" / qemu.QEMU).symlink_to(announce.__file__)
    for disk in (*DISKS, THEIR_DISK):
        (home / disk).touch()
        os.truncate(home / disk, DISK_BYTES)


def make_hosts(home: Path) -> tuple[list[network.Node], dict[str, clocks.Clock]]:
    """Make the hosts, each with clocks of its own."""
    library = clocks.build(home / "bin")
    hosts = [
        network.Node(f"h{number}", number + 11, booted_s)
        for number, booted_s in enumerate(BOOTED_S)
    ]
    found = {host.name: clocks.Clock(library, home / f"clock-{host.name}") for host in hosts}
    for host in hosts:
        host.env = found[host.name].env
    return hosts, found


def configure(home: Path, lab: Lab) -> None:
    """Have each host ask another member first, and contenders for every disk."""
    endpoints = lab.cluster.endpoints.split(",")
    for number, (host, failover_s) in enumerate(zip(lab.hosts, FAILOVER_S, strict=True)):
        turned = [*endpoints[number:], *endpoints[:number]]
        table = {"endpoints": json.dumps(turned), "namespace": json.dumps(NAMESPACE)}
        lines = [f"{key} = {value}" for key, value in table.items()]
        lines = ['plugin = "etcd"', "[etcd]", *lines, f"failover_s = {failover_s}"]
        (home / f"{host.name}.toml").write_text("\n".join(lines) + "\n")
        contenders = [Ours(lab, host, disk, DISKS, home) for disk in DISKS]
        lab.contenders += [*contenders, Theirs(lab, host, THEIR_DISK, [THEIR_DISK], home)]


def deal(
    lab: Lab, deck: Sequence[Deed], pause_s: tuple[float, float], ready: Callable[[Lab], None]
) -> None:
    """Do each of `deck` in random order, before any of it again, until the race ends."""
    rng = lab.rng(deck[0].__name__)
    left: list[Deed] = []
    while lab.pause(rng.uniform(*pause_s)):
        ready(lab)
        left = left or rng.sample(deck, len(deck))
        left.pop()(lab, rng)


def race(lab: Lab, home: Path, seconds: float) -> None:
    """Have all contend while faults are dealt; ends when all guests are dead."""
    threads = [
        threading.Thread(target=deal, args=(lab, faults.ALL, (0.5, 2.5), faults.settle)),
        threading.Thread(target=deal, args=(lab, harm.ALL, (1.0, 4.0), harm.await_guest)),
        threading.Thread(target=faults.write_on, args=(lab,)),
    ]
    everybody = [*lab.contenders, *threads]
    for thread in everybody:
        thread.start()
    end = time.monotonic() + seconds
    while lab.pause(0.5) and not lab.accused:
        late = time.monotonic() - end
        if late > MORE_S or (late > 0 and has_happened(lab, home)):
            break
    lab.ending.set()
    lab.say("the race ends")
    for thread in threads:
        thread.join(DEADLINE_S)
    waiting.until(lambda: not dismiss(lab), DEADLINE_S, "every contender ends")


def has_happened(lab: Lab, home: Path) -> bool:
    """Was there what no race goes without?"""
    ours = [run for run in lab.watching.runs() if run.side == OURS]
    written = any(check(home / disk).boots for disk in DISKS)
    taken = takeovers(ours, dict(lab.turns))
    return bool(len(ours) >= LEAST_RUNS and taken and lab.counts[harm.HEALED] and written)


def dismiss(lab: Lab) -> list[str]:
    """Tell who is left to end; returns them."""
    for one in lab.contenders:
        if one.is_alive():
            one.signal(signal.SIGTERM)
            one.join(0.1)
    for run in lab.watching.alive():
        lab.watching.signal(run, signal.SIGTERM)
    return [one.name for one in lab.contenders if one.is_alive()] + lab.watching.alive()


def result(lab: Lab, home: Path, seconds: float) -> dict[str, object]:
    images = {}
    for disk in (*DISKS, THEIR_DISK):
        report = check(home / disk)
        blocks = sum(boot.blocks for boot in report.boots)
        images[disk] = {"boots": len(report.boots), "blocks": blocks, "reasons": report.reasons}
    return {
        "seed": lab.seed,
        "began": lab.began,
        "seconds": seconds,
        "events": lab.watching.events,
        "turns": [dataclasses.asdict(turn) for turn in lab.turns.values()],
        "faults": [dataclasses.asdict(fault) for fault in lab.faults],
        "counts": dict(lab.counts),
        "accused": lab.accused,
        "images": images,
    }


def main() -> None:
    home, path = Path(sys.argv[1]), Path(sys.argv[4])
    seconds, seed = float(sys.argv[2]), int(sys.argv[3])
    make_home(home)
    network.make_bridge()
    with ExitStack() as stack:
        members = [network.Node(f"n{number}", number + 1) for number in range(3)]
        hosts, host_clocks = make_hosts(home)
        cluster = stack.enter_context(LabCluster(home / "etcd", members))
        socket = home / "judge"
        watching = Watching(socket)
        os.environ |= {announce.JUDGE: str(socket), announce.QEMU: f"/usr/bin/{qemu.QEMU}"}
        with watching:
            lab = Lab(seed, cluster, watching, hosts, host_clocks)
            threading.excepthook = lambda hook: lab.accuse(
                "".join(
                    traceback.format_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)
                )
            )
            configure(home, lab)
            race(lab, home, seconds)
        seen = result(lab, home, time.monotonic() - lab.began)
    for log in (*home.glob("logs/*"), *home.glob("etcd/*/*.log")):
        shutil.copy(log, path.parent)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(seen))
    new.rename(path)


if __name__ == "__main__":
    main()
