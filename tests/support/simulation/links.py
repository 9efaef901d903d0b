"""gRPC without sockets: the links of simulated processes, which a test may hold, cut and stall.

A *link* is all there is between one client and one server address. It carries *streams*, each a
call, one after the other, and its gates let their messages through or hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from support.simulation.lanes import LOST, Gate
from support.simulation.loop import Process, SimulatedLoop
from support.simulation.streams import (
    CLIENT_NOTICES_S,
    SERVER_NOTICES_S,
    MemoryServer,
    Stream,
    UnderWay,
)

if TYPE_CHECKING:
    from support.simulation.calls import MemoryCall


class Connection:
    """What carries the calls of a link until it breaks."""

    def __init__(self, link: Link, serving: MemoryServer) -> None:
        self.process = serving.process
        self._link = link
        self._serving = serving
        self._broken = False
        self._streams: list[Stream] = []

    def open(self, call: MemoryCall) -> None:
        """Begin `call`; where the client does not know yet that this is broken, in vain."""
        stream = Stream(self._link, self._serving, call.method, self._heard_end)
        self._streams.append(stream)
        self._link.streams.append(stream)
        call.opened(stream)
        if self._broken:
            stream.cut(UnderWay.ARRIVES)

    def cut(self, under_way: UnderWay) -> None:
        """Break; each end finds out as its lanes let it, or by its keepalive."""
        self.leave()
        for stream in self._streams:
            stream.cut(under_way)
        self.find_broken(CLIENT_NOTICES_S, self.client_gives_up)
        self.find_broken(SERVER_NOTICES_S, self.server_gives_up)

    def leave(self) -> None:
        """Begin no further call."""
        self._broken = True
        if not self._link.streams:  # with none to hear of it
            self._forget()

    def find_broken(
        self, after_s: float, give_up: Callable[[], None], still: Callable[[], bool] = lambda: True
    ) -> None:
        """Have an end's keepalive give up after so long, if `still` then."""
        self._link.loop.call_later(after_s, lambda: give_up() if still() else None)

    def client_gives_up(self) -> None:
        """The client hears nothing more; the server finds out behind what is under way."""
        for stream in self._streams:
            stream.client_gives_up()
        self.leave()

    def server_gives_up(self) -> None:
        """The server hears nothing more; the client finds out behind what is under way."""
        for stream in self._streams:
            stream.server_gives_up()
        self.leave()

    def _heard_end(self, stream: Stream) -> None:
        """The client has heard the end of a call."""
        self._link.streams.remove(stream)
        if stream.down.end is LOST or (self._broken and not self._link.streams):
            self._forget()

    def _forget(self) -> None:
        """Let the client's next call go over another."""
        if self._link.connection is self:
            self._link.connection = None
            self._link.connect()


class Link:
    """What there is between one client and one address.

    Attributes:
        up, down: its gates, towards the server and back.
        connection: what the client takes for one that works.
        streams: calls of which the client has not heard the end.
    """

    def __init__(self, network: Network, client: Process, address: str) -> None:
        self.network = network
        self.loop = network.loop
        self.client = client
        self.address = address
        self.up, self.down = Gate(), Gate()
        self.connection: Connection | None = None
        self.streams: list[Stream] = []
        self._waiting: list[MemoryCall] = []
        self._stalls = 0

    @property
    def reachable(self) -> bool:
        """Whether a call can begin."""
        if self.connection is not None:
            return True
        serving = self.network.servers.get(self.address)
        return serving is not None and not serving.process.paused and not self.up.stalled

    def open(self, call: MemoryCall) -> None:
        """Begin `call` as soon as the server can be reached."""
        self._waiting.append(call)
        self.connect()

    def connect(self) -> None:
        """Begin the calls that wait, if the server can be reached."""
        calls = [call for call in self._waiting if not call.done()]
        if not (calls and self.reachable):
            return
        self._waiting = []
        if self.connection is None:
            self.connection = Connection(self, self.network.servers[self.address])
        for call in calls:
            self.connection.open(call)

    def cut(self, under_way: UnderWay = UnderWay.ARRIVES) -> None:
        """Break the connection, if there is one."""
        if self.connection is not None:
            self.connection.cut(under_way)

    def stall(self) -> None:
        """Let nothing pass until `unstall`; nobody is told, but for what keepalive finds."""
        self._stalls += 1
        now = self._stalls
        self.up.stalled = self.down.stalled = True

        def still() -> bool:
            return self.up.stalled and now == self._stalls

        if self.connection is not None:
            self.connection.find_broken(CLIENT_NOTICES_S, self.connection.client_gives_up, still)
            self.connection.find_broken(SERVER_NOTICES_S, self.connection.server_gives_up, still)

    def unstall(self) -> None:
        """Let things pass again."""
        self.up.stalled = self.down.stalled = False
        self.up.flush()
        self.down.flush()
        self.connect()

    def mend(self) -> None:
        """Let all pass, what was held too, and what is late at last."""
        self.up.shut = self.down.shut = False
        self.unstall()
        self.up.let_late()


class Network:
    """All links, and who serves where.

    Attributes:
        reads_before_end: whether a handler whose caller is gone reads what has arrived before it is
            cancelled; gRPC does either.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.links: dict[str, Link] = {}
        self.servers: dict[str, MemoryServer] = {}
        self.reads_before_end = False

    def link(self, name: str, client: Process, address: str) -> Link:
        """The link `name`, from now on between `client` and `address`."""
        link = self.links.setdefault(name, Link(self, client, address))
        link.client = client
        return link

    def serve(self, address: str, serving: MemoryServer) -> None:
        """Have `serving` answer at `address`."""
        self.servers[address] = serving
        self._connect()

    def pause(self, process: Process) -> None:
        """Stop a process where it is."""
        self.loop.pause(process)
        pauses = process.pauses

        def still() -> bool:
            return process.paused and process.pauses == pauses

        for link in self.links.values():
            connection = link.connection
            if connection is not None and link.client is process:
                connection.find_broken(SERVER_NOTICES_S, connection.server_gives_up, still)
            elif connection is not None and connection.process is process:
                connection.find_broken(CLIENT_NOTICES_S, connection.client_gives_up, still)

    def resume(self, process: Process) -> None:
        """Let it go on."""
        self.loop.resume(process)
        self._connect()

    def leave(self, process: Process) -> None:
        """Let no further call begin with `process`."""
        for link in self.links.values():
            if self._serves(process, link.address):
                del self.servers[link.address]
            if link.connection is not None and link.connection.process is process:
                link.connection.leave()

    def kill(self, process: Process) -> None:
        """End a process at once: its peers find out behind what it has sent."""
        self.leave(process)
        for link in self.links.values():
            connection = link.connection
            if connection is not None and link.client is process:
                connection.client_gives_up()
            elif connection is not None and connection.process is process:
                connection.server_gives_up()
        self.loop.kill(process)

    def _serves(self, process: Process, address: str) -> bool:
        serving = self.servers.get(address)
        return serving is not None and serving.process is process

    def _connect(self) -> None:
        for link in self.links.values():
            link.connect()
