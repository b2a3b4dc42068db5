"""What happens next? The guest's life as a pure table: state x event -> state, action.

Every pair is present; a test proves it. An action is the name of a method of
`supervise.Supervisor`. It must not do anything itself.
"""


class State:
    """Where the guest is between the supervisor's start and its end."""

    ACQUIRING = "acquiring"  # the child waits, leases are being acquired
    ACQUIRED = "acquired"  # every lease held, the child waits for GO
    LAUNCHING = "launching"  # told to exec, not heard of yet
    RUNNING = "running"
    INCOMING = "incoming"  # a migration's destination, not yet the owner of its disks
    PARKED = "parked"  # stopped at a client's request, its leases held
    PARKING = "parking"  # being brought to a standstill, so that its leases can be given up
    UNLEASED = "unleased"  # it stands still, its leases given up: it may not run
    MIGRATING_OUT = "migrating-out"  # a migration is prepared; still the owner
    MIGRATED = "migrated"  # stopped for good, unless cancelled; the destination may be the owner
    STOPPING = "stopping"  # asked to end, the stop timer runs
    FENCING = "fencing"  # SIGKILL sent, not yet proven dead
    RELEASING = "releasing"  # proven dead
    ENDED = "ended"
    ALL = (
        ACQUIRING, ACQUIRED, LAUNCHING, RUNNING, INCOMING, PARKED, PARKING, UNLEASED,
        MIGRATING_OUT, MIGRATED, STOPPING, FENCING, RELEASING, ENDED,
    )  # fmt: skip


class Event:
    """What can happen to a guest or its supervisor."""

    LEASED = "leased"  # all leases held and published
    GO = "go"  # the launcher agrees
    RECEIVING = "receiving"  # a migration's destination executes
    UP = "up"  # the guest executes; a destination: and is watched
    PARKED = "parked"  # QEMU says that it has stopped, or the kernel that it stands still
    PARKING = "parking"  # its leases are lost, or to be given up, and it can stand still meanwhile
    RESUMED = "resumed"  # somebody has it run again, or its leases are back
    PREPARED = "prepared"  # a client means to migrate the guest
    HANDED = "handed"  # it has stopped for good, and its leases can be the destination's
    CANCELLED = "cancelled"  # the source owns again, or the destination gives up
    ARRIVED = "arrived"  # the destination is the owner
    AWAY = "away"  # the source's guest is not needed any more
    FAILED = "failed"  # refused, no go, no exec, our own fault: the outcome says which
    STOP = "stop"  # a signal or a client asks the guest to end
    INSIST = "insist"  # the stop timer ran out
    LOST = "lost"  # a lease is lost, or its proof came too late
    DEAD = "dead"  # the kernel says so: a readable pidfd
    RELEASED = "released"
    ALL = (
        LEASED, GO, RECEIVING, UP, PARKED, PARKING, RESUMED, PREPARED, HANDED, CANCELLED,
        ARRIVED, AWAY, FAILED, STOP, INSIST, LOST, DEAD, RELEASED,
    )  # fmt: skip


class Action:
    """What the supervisor does on the way into the next state."""

    NOTHING = "nothing"
    OFFER = "offer"  # handshake, or go at once
    LAUNCH = "launch"
    RECEIVE = "receive"  # watch a destination, then it is up
    ANNOUNCE = "announce"
    TIME_STOP = "time_stop"
    FENCE = "fence"
    RELEASE = "release"
    FINISH = "finish"
    ALL = (NOTHING, OFFER, LAUNCH, RECEIVE, ANNOUNCE, TIME_STOP, FENCE, RELEASE, FINISH)


def _row(state: str, moves: dict[str, tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Complete one state's row: what is not a move changes nothing."""
    return {(state, event): moves.get(event, (state, Action.NOTHING)) for event in Event.ALL}


_FENCED = (State.FENCING, Action.FENCE)
_DEAD = (State.RELEASING, Action.RELEASE)
_ALWAYS = {Event.FAILED: _FENCED, Event.LOST: _FENCED, Event.DEAD: _DEAD}
_AT_ONCE = _ALWAYS | {Event.STOP: _FENCED}
_AFTER_GO = _ALWAYS | {Event.STOP: (State.STOPPING, Action.TIME_STOP)}
_BACK = {Event.RESUMED: (State.RUNNING, Action.NOTHING)}
_LEAVING = _AFTER_GO | {Event.CANCELLED: (State.RUNNING, Action.NOTHING), Event.AWAY: _FENCED}

TABLE: dict[tuple[str, str], tuple[str, str]] = (
    _row(State.ACQUIRING, _AT_ONCE | {Event.LEASED: (State.ACQUIRED, Action.OFFER)})
    | _row(State.ACQUIRED, _AT_ONCE | {Event.GO: (State.LAUNCHING, Action.LAUNCH)})
    | _row(
        State.LAUNCHING,
        _AFTER_GO
        | {
            Event.UP: (State.RUNNING, Action.ANNOUNCE),
            Event.RECEIVING: (State.INCOMING, Action.RECEIVE),
        },
    )
    | _row(
        State.RUNNING,
        _AFTER_GO
        | {
            Event.PARKED: (State.PARKED, Action.NOTHING),
            Event.PARKING: (State.PARKING, Action.NOTHING),
            Event.PREPARED: (State.MIGRATING_OUT, Action.NOTHING),
        },
    )
    | _row(State.PARKED, _AFTER_GO | _BACK)
    | _row(State.PARKING, _AT_ONCE | _BACK | {Event.PARKED: (State.UNLEASED, Action.NOTHING)})
    | _row(State.UNLEASED, _AT_ONCE | _BACK)
    | _row(
        State.INCOMING,
        _AFTER_GO
        | {
            Event.UP: (State.INCOMING, Action.ANNOUNCE),
            Event.ARRIVED: (State.RUNNING, Action.NOTHING),
            Event.CANCELLED: _FENCED,
        },
    )
    | _row(State.MIGRATING_OUT, _LEAVING | {Event.HANDED: (State.MIGRATED, Action.NOTHING)})
    | _row(State.MIGRATED, _LEAVING)
    | _row(
        State.STOPPING,
        _ALWAYS
        | {
            Event.UP: (State.STOPPING, Action.ANNOUNCE),
            Event.RECEIVING: (State.STOPPING, Action.RECEIVE),
            Event.INSIST: _FENCED,
        },
    )
    | _row(State.FENCING, {Event.DEAD: _DEAD})
    | _row(State.RELEASING, {Event.RELEASED: (State.ENDED, Action.FINISH)})
    | _row(State.ENDED, {})
)

# What clients see (cli.md's words), where it is not the state's own name.
PUBLIC_STATE = {state: state for state in State.ALL} | {
    State.LAUNCHING: State.ACQUIRED,
    State.PARKING: State.RUNNING,
    State.UNLEASED: State.PARKED,
    State.FENCING: State.STOPPING,
    State.RELEASING: State.STOPPING,
    State.ENDED: State.STOPPING,
}
