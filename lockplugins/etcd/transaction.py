"""What does one transaction demand, do, and read? Words for etcd's Txn, and its answer.

It must not know what keys mean, nor how an answer is got.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from lockplugins.etcd.client import UnknownOutcomeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lockplugins.etcd.client import Answer, Client, Message

TXN = "/v3/kv/txn"
MOST_OPERATIONS = 128  # etcd's --max-txn-ops, for demands and for each branch


class KeyValue:
    """One key as etcd has it; revisions count every change of the whole cluster."""

    __slots__ = ("create_revision", "key", "lease", "mod_revision", "value")

    def __init__(self, found: Message) -> None:
        self.key = b64decode(str(found["key"])).decode()
        self.value = b64decode(str(found.get("value", ""))).decode(errors="surrogateescape")
        # int64 are strings, and what is 0 is left out.
        self.create_revision = int(str(found.get("create_revision", 0)))
        self.mod_revision = int(str(found.get("mod_revision", 0)))
        self.lease = int(str(found.get("lease", 0)))


class Outcome:
    """What became of a transaction: `read` holds a list of keys for each read of its branch."""

    __slots__ = ("read", "revision", "sent", "succeeded")

    def __init__(self, answer: Answer) -> None:
        self.succeeded = answer.message.get("succeeded") is True
        self.sent = answer.sent
        self.read: list[list[KeyValue]] = []
        try:
            self._understand(answer.message)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"its answer is no transaction's: {error!r}"
            raise UnknownOutcomeError("understand", answer.endpoint, why, "is it etcd?") from error

    def _understand(self, message: Any) -> None:  # noqa: ANN401  # whatever was answered
        self.revision = int(message["header"]["revision"])
        for response in message.get("responses", ()):
            if "response_range" in response:
                kvs = response["response_range"].get("kvs", ())
                self.read.append([KeyValue(found) for found in kvs])

    def found(self) -> dict[str, KeyValue]:
        """Return what was read, by key."""
        return {kept.key: kept for found in self.read for kept in found}


class Transaction:
    """If every demand is met, do and read one branch, else read the other; in one instant."""

    def __init__(self) -> None:
        self._demands: list[Message] = []
        self._met: list[Message] = []
        self._unmet: list[Message] = []

    def demand_created(self, key: str, revision: int) -> None:
        """Demand that the key was created by that revision; 0: that there is none."""
        self._demand(key, "CREATE", "create_revision", str(revision))

    def demand_unchanged(self, key: str, revision: int) -> None:
        self._demand(key, "MOD", "mod_revision", str(revision))

    def demand_value(self, key: str, value: str) -> None:
        self._demand(key, "VALUE", "value", _encoded(value))

    def demand_none_below(self, prefix: str) -> None:
        """Demand that no key begins with `prefix`."""
        # A range that holds nothing meets every demand, one key created by 0 none.
        self._demand(prefix, "CREATE", "create_revision", "0", _encoded_end(prefix))

    def demand_none_newer(self, prefix: str, revision: int) -> None:
        """Demand that no key that begins with `prefix` was changed after that revision."""
        before = {"target": "MOD", "result": "LESS", "mod_revision": str(revision + 1)}
        self._demands.append(_named(prefix, below=True) | before)

    def _demand(self, key: str, target: str, field: str, value: str, end: str = "") -> None:
        demand: Message = {"key": _encoded(key), "target": target, "result": "EQUAL", field: value}
        self._demands.append(demand | ({"range_end": end} if end else {}))

    def put(self, key: str, value: str, lease: int = 0) -> None:
        request: Message = {"key": _encoded(key), "value": _encoded(value)}
        self._met.append({"request_put": request | ({"lease": str(lease)} if lease else {})})

    def delete(self, key: str, *, below: bool = False) -> None:
        """Delete a key, or what begins with it."""
        self._met.append({"request_delete_range": _named(key, below=below)})

    def read(self, key: str, *, below: bool = False) -> None:
        """Read a key, or what begins with it, in the branch of success; linearizable."""
        self._met.append(_range(key, below=below))

    def read_otherwise(self, key: str, *, below: bool = False) -> None:
        """The same in the branch of failure."""
        self._unmet.append(_range(key, below=below))

    def operations(self) -> int:
        """Return how many operations the fullest part has, to be at most MOST_OPERATIONS."""
        return max(len(self._demands), len(self._met), len(self._unmet))

    def commit(self, client: Client, until: float, what: str) -> Outcome:
        """Have the cluster do it; raises the client's errors.

        Refuses what neither changes anything nor reads in both branches: a
        member answers mere demands from its own state, without a quorum.
        """
        reads = all(any("request_range" in o for o in part) for part in (self._met, self._unmet))
        if not reads and all("request_range" in operation for operation in self._met):
            raise AssertionError("a transaction without linearizable reads proves nothing")
        return self._ask(client, until, what)

    def commit_read(self, client: Client, until: float, what: str) -> Outcome:
        """Have the cluster read one instant's state; with no demands, and nothing to change."""
        if self._demands or not self._met:
            raise AssertionError("that demands something, or reads nothing")
        return self._ask(client, until, what)

    def _ask(self, client: Client, until: float, what: str) -> Outcome:
        message: Message = {
            "compare": self._demands, "success": self._met, "failure": self._unmet,
        }  # fmt: skip
        return Outcome(client.ask(TXN, message, until, what))


def _range(key: str, *, below: bool) -> Message:
    return {"request_range": _named(key, below=below)}


def _named(key: str, *, below: bool) -> Message:
    named: Message = {"key": _encoded(key)}
    return named | ({"range_end": _encoded_end(key)} if below else {})


def _encoded(text: str) -> str:
    return b64encode(text.encode(errors="surrogateescape")).decode()  # as it was read


def _encoded_end(prefix: str) -> str:
    """Return the first key after all that begin with `prefix` (whose last byte is no 0xFF)."""
    raw = prefix.encode()
    return b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()
