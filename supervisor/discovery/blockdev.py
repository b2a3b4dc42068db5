"""Which files does QEMU's graph of block nodes open, and which of them for writing?

Builds the graph as QEMU does: from options, node names, file names with a
protocol, and image headers. It must not know the options of the command line
nor the guest's devices.
"""

from __future__ import annotations

from lockplugins.contract import Mode
from supervisor.discovery import drivers, network, outside
from supervisor.discovery.errors import refusal
from supervisor.discovery.images import NAMING, Header, read_header
from supervisor.discovery.options import below, is_on, json_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.discovery.options import Value

DEEPEST = 100  # images in one chain; Python's own limit is near 200
MOST_NODES = 10_000


class Node:
    """One block node: a file or network disk (`path` is set), or a driver over other nodes."""

    __slots__ = (
        "_seen",
        "found_in",
        "offset",
        "parts",
        "passive",
        "path",
        "read_only",
        "referenced",
        "writable",
    )

    def __init__(self, found_in: str, *, read_only: bool) -> None:
        self.found_in = found_in
        self.read_only = read_only
        self.path: str | None = None
        self.passive = False
        self.offset: int | None = (
            0  # of its content in its first part; None: translated, or elsewhere
        )
        self.parts: list[tuple[Node, bool]] = []  # with: does the node write to the part?
        self.referenced = False
        self.writable = False
        self._seen = False

    @property
    def mode(self) -> str:
        return Mode.EXCLUSIVE if self.writable else Mode.SHARED

    def use(self, *, writing: bool) -> None:
        """Note that something uses the node; a format writes to its own tables regardless."""
        writing = (writing or not self.passive) and not self.read_only
        if self._seen and self.writable >= writing:
            return
        self._seen = True
        self.writable |= writing
        for part, written in self.parts:
            part.use(writing=writing and written)

    def place(self) -> tuple[str, int | None] | None:
        """Return the file that holds the node's content, and where it begins in there."""
        if self.path is not None:
            return self.path, self.offset
        if not self.parts:
            return ("", None) if self.offset is None else None
        place = self.parts[0][0].place()
        if place is None or place[1] is None or self.offset is None:
            return place and (place[0], None)
        return place[0], place[1] + self.offset


class Graph:
    """The nodes of one command line; `located` turns a file name into an absolute path.

    With `allow_outside` a node may be another process's to write to.
    """

    def __init__(self, located: Callable[[str], str], *, allow_outside: bool) -> None:
        self._allow_outside = allow_outside
        self.nodes: list[Node] = []
        self.named: dict[str, Node] = {}
        self._located = located
        self._depth = 0

    def open(
        self,
        filename: str | None,
        options: Mapping[str, Value],
        found_in: str,
        *,
        read_only: bool = False,
        probe: bool = True,
    ) -> Node:
        """Add the node that QEMU would open, with all beneath it.

        `filename` may have a protocol, the option `filename` may not.
        `read_only` holds unless the options say otherwise. Without `probe` a
        node that names no driver is a file.
        """
        if filename is not None and filename.startswith("json:"):
            options = {**json_values(filename[5:], found_in), **options}
            filename = None
        if "read-only" in options:
            read_only = is_on(options["read-only"])
        node = Node(found_in, read_only=read_only)
        self.nodes.append(node)
        self._depth += 1
        if self._depth > DEEPEST or len(self.nodes) > MOST_NODES:
            raise refusal(found_in, "its images refer to each other without end")
        self._fill(node, filename, options, probe=probe)
        self._depth -= 1
        name = options.get("node-name")
        if isinstance(name, str):
            self.named[name] = node
        return node

    def _fill(
        self, node: Node, filename: str | None, options: Mapping[str, Value], *, probe: bool
    ) -> None:
        driver = options.get("driver")
        if driver is None and not probe:
            driver = drivers.protocol(filename) or "file"
        node.passive = driver in drivers.PASSIVE or driver in drivers.NETWORK
        if driver in drivers.LOCAL:
            prefix = f"{driver}:"
            name = options.get("filename") if filename is None else filename.removeprefix(prefix)
            if not isinstance(name, str):
                raise refusal(node.found_in, f"driver {driver} without a file name")
            node.path = self._located(name)
        elif driver is None or driver in drivers.FORMATS:
            self._fill_format(node, filename, options, driver)
        elif driver in drivers.FILTERS and not (filename and driver in drivers.PROTOCOL_FILTERS):
            self._fill_filter(node, filename, options, str(driver))
        elif outside.is_driver(str(driver), filename or str(options.get("filename")), options):
            if not self._allow_outside:
                raise outside.refused(node.found_in)
            node.offset = None  # what it holds, nobody can read from here
        elif driver in drivers.NETWORK:
            node.path = network.name(str(driver), filename, options, node.found_in)
            node.offset = None
        elif driver not in drivers.EMPTY:
            raise refusal(node.found_in, drivers.why_not(str(driver)))

    def _fill_format(
        self, node: Node, filename: str | None, options: Mapping[str, Value], driver: Value
    ) -> None:
        """Fill a node whose format is `driver`, or the one that its header shows."""
        place = self._part(node, "file", filename, options).place()
        header = None
        if place is not None and (driver is None or driver in NAMING):
            if place[1] is None:
                raise refusal(
                    node.found_in,
                    "its header lies inside another format, outside the guest or on the network",
                )
            header = read_header(place[0], None if driver is None else str(driver), place[1])
        image_format = str(driver or (header.format if header else "raw"))
        known = driver is not None or header is not None  # else as if it wrote by itself
        node.passive = known and image_format in drivers.PASSIVE
        node.offset = drivers.offset(options) if image_format == "raw" else None
        drivers.check_parts(image_format, options, node.found_in)
        if place is not None and image_format in NAMING:
            self._add_named_files(node, header or Header(image_format), place[0], options)
        if image_format == "luks" and ("header" in options or below(options, "header")):
            self._part(node, "header", None, options)

    def _add_named_files(
        self, node: Node, header: Header, path: str, options: Mapping[str, Value]
    ) -> None:
        """Add the backing file, data file and extents, from the options or else the header."""
        self._add_backing(node, header, path, options)
        data_file = None if below(options, "data-file") else header.data_file
        if data_file or "data-file" in options or below(options, "data-file"):
            self._part(node, "data-file", data_file, options, f"data file of {path}")
        for index, name in enumerate(header.extents):
            found_in = f"extent of {path}"
            self._part(node, f"extents.{index}", drivers.beside(path, name), options, found_in)

    def _add_backing(
        self, node: Node, header: Header, path: str, options: Mapping[str, Value]
    ) -> None:
        if "backing" in options:
            if options["backing"]:  # neither null nor ""
                part = self._referenced(options["backing"], node.found_in)
                node.parts.append((part, False))
            return
        given = below(options, "backing")
        if not header.backing and not given:
            return
        backing, found_in = None, node.found_in
        if header.backing and "file.filename" not in given:
            backing, found_in = drivers.beside(path, header.backing), f"backing file of {path}"
        if header.backing_format and "driver" not in given:
            given["driver"] = header.backing_format
        node.parts.append((self.open(backing, given, found_in, read_only=True), False))

    def _fill_filter(
        self, node: Node, filename: str | None, options: Mapping[str, Value], driver: str
    ) -> None:
        drivers.check_parts(driver, options, node.found_in)
        if driver == "quorum":
            count = 0
            while f"children.{count}" in options or below(options, f"children.{count}"):
                self._part(node, f"children.{count}", None, options)
                count += 1
            return
        for part in drivers.PARTS.get(driver, ("file",)):
            self._part(node, part, filename, options)
            filename = None

    def _part(
        self,
        node: Node,
        key: str,
        filename: str | None,
        options: Mapping[str, Value],
        found_in: str | None = None,
    ) -> Node:
        """Add the part `key` of `node`: a node by name, one by its options, or `filename`."""
        reference = options.get(key)
        if reference is None:
            given = below(options, key)
            if filename is None and not given:
                raise refusal(node.found_in, f"it names no {key}")
            part = self.open(
                filename,
                given,
                found_in if found_in and not given else node.found_in,
                read_only=node.read_only,
                probe=key.partition(".")[0] in drivers.PROBED_PARTS,
            )
        else:
            part = self._referenced(reference, node.found_in)
        node.parts.append((part, True))
        return part

    def _referenced(self, name: Value, found_in: str) -> Node:
        node = self.named.get(str(name))
        if node is None:
            raise refusal(found_in, f"it refers to the node {name}, which none before it defines")
        node.referenced = True
        return node
