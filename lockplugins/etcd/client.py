"""What does an etcd cluster answer, whichever of its members can be asked?

Rotates over the endpoints until one has answered or the caller's instant has
come, and keeps apart what etcd refuses, what nobody could be asked, and what
may or may not have been done. It must not know what keys mean, nor of leases
on disks.
"""

from __future__ import annotations

from lockplugins.contract import ConfigError, LeaseUnknownError, LockError, cause
from lockplugins.etcd.connection import (
    Connection,
    Endpoint,
    NoAnswerError,
    NotSentError,
    now,
    pause,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockplugins.etcd.trust import Trust

    Message = dict[str, object]

TRY_S = 0.4  # a leader's death costs 1 to 2 s: ask the next one early, and often
PAUSE_S = 0.1
LOGIN_S = 2.0  # at least: etcd hashes the password for a good part of a second, on purpose
_OK = 200
_AUTHENTICATE = "/v3/auth/authenticate"
# google.rpc.Code, as the gateway's `code` has it.
_INVALID, _NOT_FOUND, _EXISTS, _DENIED, _EXHAUSTED = 3, 5, 6, 7, 8
_PRECONDITION, _OUT_OF_RANGE, _UNIMPLEMENTED, _UNAUTHENTICATED = 9, 11, 12, 16
_FINAL = {
    _INVALID, _NOT_FOUND, _EXISTS, _DENIED, _EXHAUSTED, _PRECONDITION, _OUT_OF_RANGE,
    _UNIMPLEMENTED, _UNAUTHENTICATED,
}  # fmt: skip
_BUSY = "too many requests"
_TOKEN = "invalid auth token"  # noqa: S105  # etcd's words
_REVISION = "revision of auth store is old"
_NO_SPACE = "database space exceeded"


class RefusedError(LockError):
    """Etcd says no: nothing was done by this request."""


class UnreachableError(LockError):
    """No member could be asked in time: nothing was done."""


class UnknownOutcomeError(LeaseUnknownError):
    """Asked, and not answered in time: it may have been done, or be done later."""


class Answer:
    """What the cluster said.

    `sent`: instant of CLOCK_BOOTTIME before the answered request left. `doubtful`: earlier tries
    of the same request had no answer, and may have been done, too, or be done later.
    """

    __slots__ = ("doubtful", "endpoint", "message", "sent")

    def __init__(self, message: Message, sent: float, endpoint: str, *, doubtful: bool) -> None:
        self.message = message
        self.sent = sent
        self.endpoint = endpoint
        self.doubtful = doubtful


class Login:
    """A user of etcd; the password is read from its file whenever it is needed.

    `token` is etcd's last, for all of one guest's clients: each costs a member a hash.
    """

    def __init__(self, username: str, password_file: str) -> None:
        self.username = username
        self.token = ""
        self._password_file = password_file

    def password(self) -> str:
        try:
            with open(self._password_file, encoding="utf-8") as file:
                return file.read().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = cause(error) if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError("read", f"password_file {self._password_file}", why) from error


class Believed:
    """Which cluster have all of one guest's clients asked? `cluster` is its id, once known."""

    def __init__(self) -> None:
        self.cluster: object = None

    def check(self, found: Message) -> None:
        """Raise NotSentError for a member of another cluster: that has its own owners."""
        cluster = cluster_of(found)
        self.cluster = self.cluster or cluster
        if cluster is not None and cluster != self.cluster:
            raise NotSentError(f"it is of another cluster ({cluster}) than {self.cluster}")


def cluster_of(found: Message) -> object:
    """Return the id of the cluster whose member has answered, None if it does not say."""
    header = found.get("header")
    return header.get("cluster_id") if isinstance(header, dict) else None


class Client:
    """One user of a cluster, for one thread; `close` closes its connections."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        trust: Trust | None = None,
        login: Login | None = None,
        believed: Believed | None = None,
        try_s: float = TRY_S,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._connections = [Connection(endpoint, trust) for endpoint in endpoints]
        self._login = login
        self._believed = believed or Believed()
        self._try_s = try_s
        self._turn = 0

    def ask(self, path: str, message: Message, until: float, what: str) -> Answer:
        """Ask the members in turn until one has answered; `what` names the matter in errors.

        `until`: an instant of CLOCK_BOOTTIME. Raises RefusedError, UnreachableError,
        UnknownOutcomeError.
        """
        doubts: dict[str, str] = {}
        doubtful = False
        asked = 0
        while True:
            which = (self._turn + asked) % len(self._connections)
            endpoint = str(self._endpoints[which])
            # Turn by turn more patient: who is slow, or works off a storm, would never answer.
            patience_s = self._try_s * (1 + asked // len(self._connections))
            try:
                answer = self._try(which, path, message, until, what, patience_s=patience_s)
            except NotSentError as error:
                doubts[endpoint] = str(error)
            except NoAnswerError as error:
                doubts[endpoint] = str(error)
                doubtful = True
            except RefusedError as error:
                if not doubtful:
                    raise
                doubts[endpoint] = error.reason  # of this try; an earlier one may have been done
                until = now()
            else:
                self._turn = which
                answer.doubtful = doubtful
                return answer
            asked += 1
            if asked % len(self._connections) == 0:
                pause(min(PAUSE_S, until - now()))
            if now() >= until:
                said = "; ".join(f"{name}: {doubt}" for name, doubt in doubts.items())
                if doubtful:
                    why = f"asked, and no answer: {said}"
                    raise UnknownOutcomeError("be sure of", what, why, "see doctor")
                raise UnreachableError("reach", f"etcd for {what}", said, "see doctor")

    def _try(
        self, which: int, path: str, message: Message, until: float, what: str, *, patience_s: float
    ) -> Answer:
        """Ask one member once, with a token of today."""
        connection, endpoint = self._connections[which], str(self._endpoints[which])
        for fresh in (False, True):
            headers = {}
            if (login := self._login) is not None:
                token = login.token
                if not token:
                    # A member that hashes for hundreds at once answers all of them late; given
                    # up and asked anew, it would answer nobody.
                    patience = min(until, now() + max(LOGIN_S, (until - now()) / 2))
                    login.token = token = self._authenticate(connection, login, patience)
                headers["Authorization"] = token
            sent = now()
            status, found = connection.ask(path, message, headers, min(until, sent + patience_s))
            if status == _OK:
                self._believed.check(found)
                return Answer(found, sent, endpoint, doubtful=False)
            refusal = _refusal(what, endpoint, status, found)
            is_stale = _TOKEN in refusal.reason or _REVISION in refusal.reason
            if fresh or login is None or not is_stale:
                raise refusal
            if login.token == token:  # else another thread has a new one by now
                login.token = ""
        raise AssertionError

    def _authenticate(self, connection: Connection, login: Login, until: float) -> str:
        """Return a token; whatever goes wrong, nothing was done of what was asked."""
        message: Message = {"name": login.username, "password": login.password()}
        try:
            status, found = connection.ask(_AUTHENTICATE, message, {}, until)
            if status != _OK:
                raise _refusal(f"user {login.username}", "etcd", status, found)
        except NoAnswerError as error:
            raise NotSentError(f"no token: {error}") from error
        return str(found.get("token", ""))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def _refusal(what: str, endpoint: str, status: int, found: Message) -> RefusedError:
    """Return what etcd refuses for good; raises NoAnswerError if another try may be answered.

    An error of the member itself (its leader gone, a time-out) says nothing of what was done.
    """
    code = found.get("code")
    reason = str(found.get("message") or found.get("error") or f"HTTP {status}")
    number = code if isinstance(code, int) else -1
    if number not in _FINAL or _BUSY in reason:
        raise NoAnswerError(reason)
    advice = ""
    if _NO_SPACE in reason:
        advice = "compact and defragment it, then etcdctl alarm disarm"
    elif number == _DENIED:
        advice = "see the role of the user, and the namespace"
    elif number == _UNAUTHENTICATED or "authentication" in reason:
        advice = "see username and password_file"
    return RefusedError("get", what, f"{endpoint}: {reason} (code {number})", advice)
