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
    STOPPING = "stopping"  # asked to end, the stop timer runs
    FENCING = "fencing"  # SIGKILL sent, not yet proven dead
    RELEASING = "releasing"  # proven dead
    ENDED = "ended"
    ALL = (ACQUIRING, ACQUIRED, LAUNCHING, RUNNING, STOPPING, FENCING, RELEASING, ENDED)


class Event:
    """What can happen to a guest or its supervisor."""

    LEASED = "leased"  # all leases held and published
    GO = "go"  # the launcher agrees
    UP = "up"  # the guest executes
    FAILED = "failed"  # refused, no go, no exec, our own fault: the outcome says which
    STOP = "stop"  # a signal or a client asks the guest to end
    INSIST = "insist"  # the stop timer ran out
    LOST = "lost"  # a lease is lost, or its proof came too late
    DEAD = "dead"  # the kernel says so: a readable pidfd
    RELEASED = "released"
    ALL = (LEASED, GO, UP, FAILED, STOP, INSIST, LOST, DEAD, RELEASED)


class Action:
    """What the supervisor does on the way into the next state."""

    NOTHING = "nothing"
    OFFER = "offer"  # handshake, or go at once
    LAUNCH = "launch"
    ANNOUNCE = "announce"
    TIME_STOP = "time_stop"
    FENCE = "fence"
    RELEASE = "release"
    FINISH = "finish"
    ALL = (NOTHING, OFFER, LAUNCH, ANNOUNCE, TIME_STOP, FENCE, RELEASE, FINISH)


def _row(state: str, moves: dict[str, tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Complete one state's row: what is not a move changes nothing."""
    return {(state, event): moves.get(event, (state, Action.NOTHING)) for event in Event.ALL}


_FENCED = (State.FENCING, Action.FENCE)
_DEAD = (State.RELEASING, Action.RELEASE)
_ALWAYS = {Event.FAILED: _FENCED, Event.LOST: _FENCED, Event.DEAD: _DEAD}
_BEFORE_GO = _ALWAYS | {Event.STOP: _FENCED}
_AFTER_GO = _ALWAYS | {Event.STOP: (State.STOPPING, Action.TIME_STOP)}

TABLE: dict[tuple[str, str], tuple[str, str]] = (
    _row(State.ACQUIRING, _BEFORE_GO | {Event.LEASED: (State.ACQUIRED, Action.OFFER)})
    | _row(State.ACQUIRED, _BEFORE_GO | {Event.GO: (State.LAUNCHING, Action.LAUNCH)})
    | _row(State.LAUNCHING, _AFTER_GO | {Event.UP: (State.RUNNING, Action.ANNOUNCE)})
    | _row(State.RUNNING, _AFTER_GO)
    | _row(
        State.STOPPING,
        _ALWAYS | {Event.UP: (State.STOPPING, Action.ANNOUNCE), Event.INSIST: _FENCED},
    )
    | _row(State.FENCING, {Event.DEAD: _DEAD})
    | _row(State.RELEASING, {Event.RELEASED: (State.ENDED, Action.FINISH)})
    | _row(State.ENDED, {})
)

# What clients see (cli.md's words), where it is not the state's own name.
PUBLIC_STATE = {state: state for state in State.ALL} | {
    State.LAUNCHING: State.ACQUIRED,
    State.FENCING: State.STOPPING,
    State.RELEASING: State.STOPPING,
    State.ENDED: State.STOPPING,
}
