"""What does lock-supervisor do for a guest? The main job, on a real one, with timings.

A Linux guest under TCG writes to its disk without pause. It is started under
its lease, refused a second time, asked for, bereft of its supervisor, started
again and stopped; then the disk is read for any sign of two writers.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.guest.checker import check
from tests.support.qemu import guest_argv, wait_ready

ROOT = Path(__file__).parents[2]
COMMAND = str(ROOT / "bin" / "lock-supervisor")
IMAGE_BYTES = 64 << 20
WRITING_S = 2.0
PATIENCE_S = 30.0


class Demo:
    """One disk, one runtime directory, and what is said about them."""

    def __init__(self, directory: str) -> None:
        self.image = os.path.join(directory, "disk.img")
        with open(self.image, "wb") as image:
            image.truncate(IMAGE_BYTES)
        self.environment = {**os.environ, "LOCK_SUPERVISOR_RUNTIME_DIR": directory + "/run"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands to its end and show it with what it said."""
        began = time.monotonic()
        done = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            check=False,
        )
        shown = [a for a in arguments if a != self.image]
        short = " ".join(shown[:4]) + (" …" if len(shown) > len(arguments[:4]) else "")
        say(f"$ lock-supervisor {short}", time.monotonic() - began)
        for line in done.stdout.splitlines():
            print(f"    {line}")
        print(f"    (exit {done.returncode})", flush=True)
        return done

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start the writing guest under its lease; returns its supervisor once it writes."""
        began = time.monotonic()
        supervisor = subprocess.Popen(
            [COMMAND, "run", "--name", name, "--", *guest_argv(self.image)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert supervisor.stdout is not None
        wait_ready(supervisor.stdout, deadline_s=PATIENCE_S)
        say(f"guest {name} runs under its lease and writes", time.monotonic() - began)
        return supervisor


def say(what: str, took_s: float | None = None) -> None:
    """Print one step, with how long it took."""
    print(f"{what:64}{'' if took_s is None else f'{took_s * 1000:9.1f} ms'}", flush=True)


def gone_after(pidfd: int, began: float) -> float:
    """Return how many seconds after `began` the kernel says the process is gone."""
    if not select.select([pidfd], [], [], PATIENCE_S)[0]:
        sys.exit(f"demo: cannot go on: a process is still there after {PATIENCE_S} s")
    return time.monotonic() - began


def expect(condition: object, what: str) -> None:
    """End the demo where it does not go as it should."""
    if not condition:
        sys.exit(f"demo: cannot go on: {what}")


def main() -> None:
    """Show it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lock-supervisor-demo.") as directory:
        demo = Demo(directory)
        first = demo.start("web1")

        refused = demo.run("run", "--name", "web2", "--", *guest_argv(demo.image))
        expect(refused.returncode == 110 and "web1" in refused.stdout, "it was not refused")

        child = demo.run("child", "web1")
        expect(child.returncode == 0, "there is no child")
        guest_pidfd = os.pidfd_open(int(child.stdout))
        demo.run("status", "web1")

        killed = time.monotonic()
        first.send_signal(signal.SIGKILL)
        say("SIGKILL of the supervisor: guest gone after", gone_after(guest_pidfd, killed))
        free = subprocess.run(
            [COMMAND, "run", "--name", "web3", "--wait", "10", "--disk", demo.image, "--", "true"],
            env=demo.environment,
            timeout=PATIENCE_S,
            check=False,
        )
        say("its lease free, taken and given back after", time.monotonic() - killed)
        expect(free.returncode == 0, "the lease did not come free")
        first.wait()

        second = demo.start("web1")
        writing = os.pidfd_open(second.pid)
        select.select([writing], [], [], WRITING_S)
        stopped = demo.run("stop", "web1")
        expect(stopped.returncode == 0 and second.wait() == 0, "it was not stopped")

        report = check(demo.image)
        expect(not report.interleaved, f"two writers: {report.reasons}")
        blocks = sum(boot.blocks for boot in report.boots)
        say(f"the disk: {len(report.boots)} boots, {blocks} blocks, never two writers at once")
    say("all in all", time.monotonic() - began)


if __name__ == "__main__":
    main()
