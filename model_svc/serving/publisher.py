"""The engine's reports, passed on to those they concern: detokenizers and routers.

Frames go to their outlets on the engine's thread, which so need not wake the event loop; all else
runs there. A router that reads slowly gets the newest load, not each.
"""

from __future__ import annotations

from functools import partial

from chassis.mailbox import Mailbox, Post, at_once
from chassis.memory.shared_file import PeerFiles
from model_svc.engine.messages import Load, Report
from model_svc.metrics import ModelMetrics
from model_svc.serving.frame_stream import FrameStream
from protos import model_pb2


class RouterSession:
    """A router's stream: its arenas, and what is to be sent to it."""

    def __init__(self, router: int) -> None:
        self.router = router
        self.arenas = PeerFiles()
        self.shared = False
        self.refused = 0
        self._load: model_pb2.Load | None = None
        self._mailbox: Mailbox[model_pb2.RunResponse] = Mailbox(self._take_load)
        self.take = self._mailbox.take

    def send(self, response: model_pb2.RunResponse) -> None:
        """Send a response after those before it."""
        self._mailbox.put(response)

    def tell(self, load: Load) -> None:
        """Send the load, unless a newer one comes before it could be sent."""
        self._load = model_pb2.Load(
            submits_seen=load.starts.get(self.router, 0) + self.refused,
            running=load.running,
            waiting=load.waiting,
            kv_slots_used=load.used_slots,
            steps=load.steps,
            step_seconds=load.step_seconds,
        )
        self._mailbox.notify()

    def _take_load(self) -> model_pb2.RunResponse | None:
        load, self._load = self._load, None
        return None if load is None else model_pb2.RunResponse(load=load)


class ReportPublisher:
    """All outlets and leases."""

    def __init__(self, metrics: ModelMetrics, post: Post = at_once) -> None:
        """Count in `metrics`; `post` has a call made on the event loop, from any thread."""
        self._metrics = metrics
        self._post = post
        self._load: Load | None = None
        # Replaced and never changed: the engine's thread may be going through it.
        self._outlets: dict[int, FrameStream] = {}
        self._outlet_ids = 0
        self.leases: dict[int, RouterSession] = {}

    def add_outlet(self, outlet: FrameStream) -> int:
        """Send frames to `outlet` from now on; return its number."""
        self._outlet_ids += 1
        self._outlets = {**self._outlets, self._outlet_ids: outlet}
        return self._outlet_ids

    def drop_outlet(self, number: int) -> None:
        """Send it no more."""
        self._outlets = {n: outlet for n, outlet in self._outlets.items() if n != number}

    def add_lease(self, lease: RouterSession) -> None:
        """Tell `lease` of the load, now and from now on."""
        self.leases[lease.router] = lease
        if self._load is not None:
            lease.tell(self._load)

    def drop_lease(self, lease: RouterSession) -> None:
        """Tell it no more."""
        del self.leases[lease.router]
        lease.arenas.close()

    def deliver(self, report: Report) -> None:
        """Pass a report on; on the engine's thread."""
        if report.frame is not None:
            for number, outlet in self._outlets.items():
                if report.target in (None, number):
                    left_out = outlet.offer(report.frame)
                    self._metrics.left_out_rows.inc(left_out)
                    if report.target is not None:
                        self._metrics.resent_rows.inc(len(report.frame.rows) - left_out)
        if report.load is not None:
            self._post(partial(self._tell, report.load))

    def _tell(self, load: Load) -> None:
        self._load = load
        for lease in self.leases.values():
            lease.tell(load)
