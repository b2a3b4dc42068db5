"""What is done to the cluster and to its network? One thing at a time, each undone.

Most leave a quorum: one member in trouble, or one host cut off. Each begins
when all is well again.
"""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

from tests.faults.race.cluster import AdminError, encoded, encoded_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from tests.faults.race.cluster import LabMember
    from tests.faults.race.lab import Lab

    Trouble = Callable[[Lab, Random], None]

DEADLINE_S = 30.0
_CHAINS = (("INPUT",), ("OUTPUT",), ("INPUT", "OUTPUT"))
_PAST_K_S = (7.0, 10.0)
_FROZEN_S = ((4.0, 10.0), (16.0, 26.0))  # more: a disk could be taken over meanwhile
FILL = "/fill/"
REPLACED = "leaders with a frozen log, replaced by the others"
_FILL_BYTES = 256 << 10


def member_of(lab: Lab, rng: Random) -> LabMember:
    """Choose a member, in half of the cases the leader."""
    leader = lab.cluster.leading() if rng.random() < 0.5 else None
    return leader or rng.choice(lab.cluster.members)


def kill_member(lab: Lab, rng: Random) -> None:
    member = member_of(lab, rng)
    with lab.fault("SIGKILL member", member.name, [member.name]):
        member.kill()
        lab.pause(rng.uniform(1, 6))
        settle(lab)


def stop_member(lab: Lab, rng: Random) -> None:
    _stop(lab, [member_of(lab, rng)], rng.uniform(1, 9))


def stop_two_members(lab: Lab, rng: Random) -> None:
    """Leave no quorum; the third is asked all the while."""
    seconds = rng.uniform(*rng.choice(((1, 3), _PAST_K_S)))
    _stop(lab, rng.sample(lab.cluster.members, 2), seconds)


def _stop(lab: Lab, members: Sequence[LabMember], seconds: float) -> None:
    names = [member.name for member in members]
    with lab.fault("SIGSTOP member", " ".join(names), names):
        for member in members:
            member.send(signal.SIGSTOP)
        lab.pause(seconds)
        for member in members:
            member.send(signal.SIGCONT)


def freeze_disk(lab: Lab, rng: Random) -> None:
    """Freeze the leader's log while other clients write: it does not know that it leads no more."""
    member = lab.cluster.leading() or member_of(lab, rng)
    others = [other for other in lab.cluster.members if other is not member]
    with lab.fault("frozen WAL", member.name, [member.name]):
        member.disk.freeze()
        try:
            lab.pause(rng.uniform(*rng.choice(_FROZEN_S)))
            lab.counts[REPLACED] += any(other.leads() for other in others)
        finally:
            member.disk.thaw()


def cut_member(lab: Lab, rng: Random) -> None:
    member = member_of(lab, rng)
    chains = rng.choice(_CHAINS)
    what = f"{member.name} {'+'.join(chains)}"
    with lab.fault("partition", what, [member.name]), member.node.cut(chains):
        lab.pause(rng.uniform(2, 8))


def cut_two_members(lab: Lab, rng: Random) -> None:
    """Have two members not hear one another, or one not the other, while all others hear both."""
    one, other = rng.sample(lab.cluster.members, 2)
    chains = rng.choice(_CHAINS)
    what = f"{one.name} {'+'.join(chains)} {other.name}"
    with lab.fault("partition", what), one.node.cut(chains, other.node):
        lab.pause(rng.uniform(2, 8))


def cut_host(lab: Lab, rng: Random) -> None:
    host = rng.choice(lab.hosts)
    chains = rng.choice(_CHAINS)
    what = f"{host.name} {'+'.join(chains)}"
    with lab.fault("partition", what, hosts=[host.name]), host.cut(chains):
        lab.pause(rng.uniform(*rng.choice(((1, 3), _PAST_K_S))))


def cut_host_from_member(lab: Lab, rng: Random) -> None:
    host, member = rng.choice(lab.hosts), member_of(lab, rng)
    chains = rng.choice(_CHAINS)
    what = f"{host.name} {'+'.join(chains)} {member.name}"
    with lab.fault("partition", what), host.cut(chains, member.node):
        lab.pause(rng.uniform(2, 10))


def slow_link(lab: Lab, rng: Random) -> None:
    """Have the last member hear late, and be heard late; of no use to others beyond 1 s."""
    delay, name = rng.choice((0.05, 0.3, 1.0, 3.0)), lab.cluster.members[-1].name
    with lab.fault("slow link", f"{name} {delay:g} s", [name] if delay >= 1 else []):
        lab.cluster.delay(delay)
        lab.pause(rng.uniform(3, 8))
        lab.cluster.delay(0)


def step_clock(lab: Lab, rng: Random) -> None:
    """Set a host's clock, forward or back, for all that runs there; it stays so."""
    host = rng.choice(lab.hosts)
    seconds = rng.choice((-86400, -30, 30, 3600, 86400))
    with lab.fault("clock step", f"{host.name} {seconds:+d} s"):
        lab.clocks[host.name].step(seconds)
        told = host.start("date", "+%s", stdout=subprocess.PIPE).communicate(timeout=DEADLINE_S)[0]
        off = int(told) - time.time()
        assert abs(off - lab.clocks[host.name].off_s) < 15, f"{host.name} is {off} s off"


def compact(lab: Lab, _rng: Random) -> None:
    with lab.fault("compaction"):
        _compact(lab)


def fill_up(lab: Lab, rng: Random) -> None:
    """Fill the database: etcd then refuses what writes, until the alarm is disarmed."""
    with lab.fault("quota alarm"):
        value = encoded("x" * _FILL_BYTES)
        try:
            for number in range(200):
                lab.cluster.ask("kv/put", key=encoded(f"{FILL}{number}"), value=value)
        except AdminError as error:
            full = "database space exceeded" in str(error)
            lab.counts["quota alarms raised"] += full
        lab.pause(rng.uniform(1, 4))
        while not _make_room(lab) and lab.pause(0.2):
            settle(lab)


def _make_room(lab: Lab) -> bool:
    try:
        lab.cluster.ask("kv/deleterange", key=encoded(FILL), range_end=encoded_end(FILL))
        _compact(lab)
        for member in lab.cluster.members:
            member.ask("maintenance/defragment", DEADLINE_S)
        for alarm in lab.cluster.ask("maintenance/alarm", action="GET").get("alarms", ()):
            lab.cluster.ask("maintenance/alarm", action="DEACTIVATE", **alarm)
        lab.cluster.ask("kv/put", key=encoded(f"{FILL}room"), value=encoded("x"))
    except AdminError as error:
        lab.say(f"quota alarm: {error}")
        return False
    return True


def _compact(lab: Lab) -> None:
    revision = lab.cluster.ask("kv/range", key=encoded("x"))["header"]["revision"]
    try:
        lab.cluster.ask("kv/compaction", revision=revision)
    except AdminError as error:
        if "has been compacted" not in str(error):
            raise


def write_on(lab: Lab) -> None:
    """Be the other clients: a key is written, by whoever takes it, until the race ends."""
    members = lab.cluster.members
    turn = 0
    while lab.pause(0.2):
        turn += 1
        try:
            written = encoded(str(time.time()))
            members[turn % len(members)].ask("kv/put", 0.4, key=encoded("/other"), value=written)
        except AdminError:
            lab.counts["other clients: unanswered"] += 1
        else:
            lab.counts["other clients: written"] += 1


def settle(lab: Lab) -> None:
    """Return when every member answers, or the race ends; starts whom a fault has ended."""
    while not lab.cluster.all_answer() and lab.pause(0.1):
        for member in lab.cluster.members:
            if member.process is None or member.process.poll() is not None:
                lab.counts["members started again"] += 1
                lab.cluster.start(member)


ALL: tuple[Trouble, ...] = (
    kill_member, stop_member, stop_two_members, freeze_disk, cut_member, cut_two_members, cut_host,
    cut_host_from_member, slow_link, step_clock, compact, fill_up,
)  # fmt: skip
