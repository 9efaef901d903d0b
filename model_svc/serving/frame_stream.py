"""A detokenizer's stream of token frames: through a ring it shares, or inline.

Frames in a ring are told of by its bell, where the detokenizer listens, and else in messages.

Room is bounded by what is not yet acknowledged; a frame asks for that once an eighth of the room,
or some dozens of frames, have been used since the one that last asked. A frame for which there is
none is left out and remembered as a gap, told when room comes back; the detokenizer then asks for
the rows again.

Frames come on the engine's thread, all else on the event loop. Their lock is held for as long as it
takes to write a frame, never while waiting.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Protocol

from chassis.mailbox import Mailbox, Post, at_once
from chassis.memory.doorbell import Doorbell
from chassis.memory.ring import Ring
from model_svc.engine.frame_builder import cut
from protos import model_pb2
from protos.announcement import Announcement, write_announcement
from protos.token_frame import TokenFrame, frame_bytes, write_frame

# Frames are cut so that several fit the room there is. A full room always holds one that asked to
# be acknowledged: what was used since is less than a frame may take.
_FRAMES_IN_ROOM = 4
_ACKNOWLEDGEMENTS_IN_ROOM = 8
# A full bell must hold one too: a pipe of a single page takes 170 announcements.
_FRAMES_UNASKED = 128


class NoRoom(Exception):
    """A frame does not fit what is free."""


class FrameTransport(Protocol):
    """Storage of the bytes of unacknowledged frames."""

    size: int
    transport: str

    def put(self, sequence: int, frame: TokenFrame, *, acknowledge: bool) -> model_pb2.Frame | None:
        """Place a frame, and ask to `acknowledge` it; return what is to be sent, if anything.

        Raises:
            NoRoom: nothing was placed.
        """

    def acknowledge(self, sequence: int) -> None:
        """Take back the room of frames up to and including `sequence`."""


class SharedTransport:
    """Frames in a token ring that the detokenizer sees; it may listen to `bell`."""

    transport = "shared memory"

    def __init__(self, ring: Ring, bell: Doorbell | None = None) -> None:
        self._ring = ring
        self._bell = bell
        self.size = len(ring.file.view)

    def put(self, sequence: int, frame: TokenFrame, *, acknowledge: bool) -> model_pb2.Frame | None:
        size = frame_bytes(len(frame.rows), len(frame.alternatives))
        span = self._ring.reserve(sequence, size)
        if span is None:
            raise NoRoom
        write_frame(frame, self._ring.view(span))
        if self._bell is None:
            return model_pb2.Frame(sequence=sequence, span=span, acknowledge=acknowledge)
        told = Announcement(sequence, span.offset, span.length, acknowledge)
        if not self._bell.ring(write_announcement(told)):
            raise NoRoom  # what was reserved comes back with the next that is acknowledged
        return None

    def acknowledge(self, sequence: int) -> None:
        self._ring.acknowledge(sequence)


class InlineTransport:
    """Frames inside the messages, at most `most_bytes` of them unacknowledged."""

    transport = "messages"

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes
        self._sent: deque[tuple[int, int]] = deque()
        self.size = most_bytes

    def put(self, sequence: int, frame: TokenFrame, *, acknowledge: bool) -> model_pb2.Frame | None:
        size = frame_bytes(len(frame.rows), len(frame.alternatives))
        if size > self._free:
            raise NoRoom
        self._free -= size
        self._sent.append((sequence, size))
        payload = bytearray(size)
        write_frame(frame, memoryview(payload))
        return model_pb2.Frame(sequence=sequence, inline=bytes(payload), acknowledge=acknowledge)

    def acknowledge(self, sequence: int) -> None:
        while self._sent and self._sent[0][0] <= sequence:
            self._free += self._sent.popleft()[1]


class FrameStream:
    """Frames for one detokenizer; those before it has joined are left out."""

    def __init__(self, room: FrameTransport | None = None, post: Post = at_once) -> None:
        """Send through `room`; `post` has a call made on the event loop, from any thread."""
        self._lock = Lock()
        self._room = room
        self._sequence = 0
        self._unasked_frames = 0  # since one last asked to be acknowledged
        self._unasked_bytes = 0
        self._mailbox: Mailbox[model_pb2.FramesResponse] = Mailbox(post=post)
        self.take = self._mailbox.take
        self._gaps: dict[tuple[int, int, int], None] = {}  # ordered set

    def offer(self, frame: TokenFrame) -> int:
        """Send `frame`, or as much of it as there is room for; return the rows left out."""
        with self._lock:
            room = self._room
            if room is None:
                return self._leave_out(frame)
            left_out = 0
            for part in cut(frame, room.size // _FRAMES_IN_ROOM):
                try:
                    self._put(part, room)
                except NoRoom:
                    left_out += self._leave_out(part)
            return left_out

    def _put(self, frame: TokenFrame, room: FrameTransport) -> None:
        frames = self._unasked_frames + 1
        used = self._unasked_bytes + frame_bytes(len(frame.rows), len(frame.alternatives))
        ask = used >= room.size // _ACKNOWLEDGEMENTS_IN_ROOM or frames >= _FRAMES_UNASKED
        message = room.put(self._sequence + 1, frame, acknowledge=ask)
        self._sequence += 1
        self._unasked_frames, self._unasked_bytes = (0, 0) if ask else (frames, used)
        if message is not None:
            self._mailbox.put(model_pb2.FramesResponse(frame=message))

    def _leave_out(self, frame: TokenFrame) -> int:
        rows = frame.rows[["handle", "attempt", "candidate"]].tolist()
        self._gaps.update(dict.fromkeys(rows))
        return len(rows)

    def open(self, room: FrameTransport) -> None:
        """Send through `room` from now on; tell of what was left out until now."""
        with self._lock:
            self._room = room
            self._tell_gaps()

    def close(self) -> None:
        """Send nothing more; its room is no longer touched."""
        with self._lock:
            self._room = None

    def acknowledge(self, sequence: int) -> None:
        """Note what the detokenizer has read; tell it of gaps now that there is room."""
        with self._lock:
            if self._room is not None:
                self._room.acknowledge(sequence)
                self._tell_gaps()

    def _tell_gaps(self) -> None:
        if self._gaps:
            missing = [
                model_pb2.Missing(handle=handle, attempt=attempt, candidate=candidate)
                for handle, attempt, candidate in self._gaps
            ]
            self._gaps.clear()
            gap = model_pb2.Gap(requests=missing)
            self._mailbox.put(model_pb2.FramesResponse(gap=gap))


def transport_for(
    ring: Ring | None, bell: Doorbell | None, join: model_pb2.Join, inline_bytes: int
) -> FrameTransport:
    """A shared room where the detokenizer proved that it sees the ring, else an inline one."""
    if ring is not None and ring.file.proven_by(join.proof):
        return SharedTransport(ring, bell if join.hears else None)
    return InlineTransport(inline_bytes)
