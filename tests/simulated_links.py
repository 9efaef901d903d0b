"""gRPC without sockets: the calls of simulated processes, which a test may hold up, cut and stall.

A *link* is all there is between one client and one server address; it carries *streams*, one after
the other. Where the two ends of a stream find out at different times that it is cut, the client may
have opened the next while the server still works off what came over the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from simulated_lanes import CANCELLED, FINISHED, LOST, End, Gate, Lane
from simulated_loop import Process, SimulatedLoop

from chassis import channels, server
from chassis.errors import ErrorInterceptor

if TYPE_CHECKING:
    from simulated_calls import MemoryCall

CLIENT_NOTICES_S = channels.KEEPALIVE_S + channels.KEEPALIVE_TIMEOUT_S
SERVER_NOTICES_S = server.KEEPALIVE_S + server.KEEPALIVE_TIMEOUT_S


class MemoryServer:
    """Where servicers are added, as to a `grpc.aio.Server`; errors are answered as ours are."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._handlers: dict[str, Any] = {}
        self._interceptor = ErrorInterceptor()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Not needed: the registered ones are the same."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def handler(self, method: str) -> Any:
        """What answers `method`."""

        async def find(details: Any) -> Any:
            return self._handlers[method]

        details = grpc.HandlerCallDetails()
        details.method = method
        return await self._interceptor.intercept_service(find, details)


class Context:
    """A stream as its handler sees it: what we use of `grpc.aio.ServicerContext`."""

    def __init__(self, up: Lane, down: Lane, parse: Any, serialize: Any) -> None:
        self.end = FINISHED
        self._up = up
        self._down = down
        self._parse = parse
        self._serialize = serialize
        self._begun = False

    async def read(self) -> Any:
        item = await self._up.take()
        return aio.EOF if isinstance(item, End) else self._parse(item)

    async def write(self, message: Any) -> None:
        self._begun = True
        await self._down.room()
        if self._up.end is not None:
            raise aio.InternalError("the caller is gone")
        self._down.send(self._serialize(message))

    async def send_initial_metadata(self, metadata: Any) -> None:
        if self._begun:
            raise aio.UsageError("sent already")
        self._begun = True

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        self.end = End(code, details, tuple(trailing))
        raise aio.AbortError


class Stream:
    """One call on its way between its two ends."""

    def __init__(self, link: Link, serving: MemoryServer, method: str) -> None:
        self.process = serving.process
        self.up = Lane(link.up, link.loop, self._client_gone)
        self.down = Lane(link.down, link.loop, self._server_gone)
        self._link = link
        self.up.send(b"")  # the call itself
        self._task = link.loop.start(self.process, self._serve(serving, method))

    def cut(self, *, losing: bool) -> None:
        """Cut it in the middle; each end finds out as its lane lets it, or by its keepalive."""
        self.down.sever(LOST, losing=losing)
        self.up.sever(LOST, losing=losing)
        self._link.loop.call_later(CLIENT_NOTICES_S, self.down.lose, LOST)
        self._link.loop.call_later(SERVER_NOTICES_S, self.up.lose, LOST)

    def client_gives_up(self, end: End = LOST) -> None:
        """The client hears nothing more; the server finds out behind what is under way."""
        self.up.sever(end)
        self.down.lose(end)

    def server_gives_up(self) -> None:
        """The server hears nothing more; the client finds out behind what is under way."""
        self.down.sever(LOST)
        self.up.lose(LOST)

    def _client_gone(self) -> None:
        """The handler is cancelled; it may find the end of its requests first."""
        cancel: Callable[[], object] = self._task.cancel
        if self._link.network.ends_before_cancelling:
            self._link.loop.call_soon(cancel, context=self.process.context.copy())
        else:
            cancel()

    def _server_gone(self) -> None:
        self.up.sever(LOST)
        self._link.streams.remove(self)

    async def _serve(self, serving: MemoryServer, method: str) -> None:
        end = CANCELLED
        try:
            if isinstance(await self.up.take(), End):
                return
            handler = await serving.handler(method)
            parse, serialize = handler.request_deserializer, handler.response_serializer
            context = Context(self.up, self.down, parse, serialize)
            try:
                await self._answer(handler, context)
            except aio.AbortError:
                pass
            except aio.InternalError:
                return  # the caller is gone
            end = context.end
        finally:
            self.down.sever(end)
            self.up.lose(FINISHED)

    async def _answer(self, handler: Any, context: Context) -> None:
        if handler.response_streaming:
            await handler.stream_stream(None, context)
        else:
            request = await self.up.take()
            self.down.send(await handler.unary_unary(request, context))


class Link:
    """What there is between one client and one address.

    Attributes:
        up, down: its gates, towards the server and back.
        streams: those of which the client has not heard the end.
    """

    def __init__(self, network: Network, name: str, client: Process, address: str) -> None:
        self.network = network
        self.loop = network.loop
        self.name = name
        self.client = client
        self.address = address
        self.up, self.down = Gate(), Gate()
        self.streams: list[Stream] = []
        self._calls: list[MemoryCall] = []  # that wait for the server
        self._stalls = 0

    @property
    def reachable(self) -> bool:
        """Whether a call can begin."""
        serving = self.network.servers.get(self.address)
        return serving is not None and not serving.process.paused and not self.up.stalled

    def open(self, call: MemoryCall) -> None:
        """Begin `call` as soon as the server can be reached."""
        self._calls.append(call)
        self.connect()

    def connect(self) -> None:
        """Begin the calls that wait, if the server can be reached."""
        if not self.reachable:
            return
        serving = self.network.servers[self.address]
        calls, self._calls = self._calls, []
        for call in calls:
            if not call.done():
                stream = Stream(self, serving, call.method)
                self.streams.append(stream)
                call.opened(stream)

    def cut(self, *, losing: bool = False) -> None:
        """Cut all streams; what is under way is lost, or else arrives before each end finds out."""
        for stream in list(self.streams):
            stream.cut(losing=losing)

    def stall(self) -> None:
        """Let nothing pass until `unstall`; nobody is told, but for what keepalive finds."""
        self._stalls += 1
        self.up.stalled = self.down.stalled = True
        now = self._stalls
        self.give_up_after(
            CLIENT_NOTICES_S,
            Stream.client_gives_up,
            lambda: self.up.stalled and now == self._stalls,
        )
        self.give_up_after(
            SERVER_NOTICES_S,
            Stream.server_gives_up,
            lambda: self.up.stalled and now == self._stalls,
        )

    def unstall(self) -> None:
        """Let things pass again."""
        self.up.stalled = self.down.stalled = False
        self.up.flush()
        self.down.flush()
        self.connect()

    def mend(self) -> None:
        """Let all pass, what was held too."""
        self.up.shut = self.down.shut = False
        self.unstall()

    def give_up_after(
        self, seconds: float, give_up: Callable[[Stream], None], still: Callable[[], bool]
    ) -> None:
        """Have an end of all streams give up after so long, if `still` then."""
        streams = list(self.streams)

        def look() -> None:
            for stream in streams if still() else ():
                give_up(stream)

        self.loop.call_later(seconds, look)


class Network:
    """All links, and who serves where.

    Attributes:
        ends_before_cancelling: whether a handler whose caller is gone finds the end of its
            requests before it is cancelled; gRPC does either.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.links: dict[str, Link] = {}
        self.servers: dict[str, MemoryServer] = {}
        self.ends_before_cancelling = False

    def link(self, name: str, client: Process, address: str) -> Link:
        """The link `name`, from now on between `client` and `address`."""
        link = self.links.setdefault(name, Link(self, name, client, address))
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
            if link.client is process:
                link.give_up_after(SERVER_NOTICES_S, Stream.server_gives_up, still)
            elif self._serves(process, link.address):
                link.give_up_after(CLIENT_NOTICES_S, Stream.client_gives_up, still)

    def resume(self, process: Process) -> None:
        """Let it go on."""
        self.loop.resume(process)
        self._connect()

    def leave(self, process: Process) -> None:
        """Let no further call begin with `process`."""
        for link in self.links.values():
            if self._serves(process, link.address):
                del self.servers[link.address]

    def kill(self, process: Process) -> None:
        """End a process at once: its peers find out behind what it has sent."""
        self.leave(process)
        for link in self.links.values():
            for stream in list(link.streams):
                if link.client is process:
                    stream.client_gives_up()
                elif stream.process is process:
                    stream.server_gives_up()
        self.loop.kill(process)

    def _serves(self, process: Process, address: str) -> bool:
        serving = self.servers.get(address)
        return serving is not None and serving.process is process

    def _connect(self) -> None:
        for link in self.links.values():
            link.connect()
