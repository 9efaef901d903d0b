"""The step loop: one thread that owns the device, told by commands, telling by reports.

Between two steps it takes in all commands, so a cancelled request's slots are free before the next
step is planned. It never waits for those it reports to, and sleeps while there is nothing to run.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from model_svc.engine.frame_builder import FrameBuilder
from model_svc.engine.messages import (
    Command,
    Forget,
    ForgetRouter,
    Load,
    Quit,
    Report,
    Resend,
    Start,
    Stop,
)
from model_svc.engine.request import Candidate, Request
from model_svc.engine.runner import Runner
from model_svc.engine.step_pipeline import StepPipeline
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.sequence import Sequence
from model_svc.scheduling.slot_pool import SlotPool

# A router's ledger follows the load by its own count of delivered tokens; it is told of each change
# in what runs, and otherwise only now and then.
_STEPS_BETWEEN_LOADS = 32


class Meter(Protocol):
    """Counter of the engine's work."""

    def step(self, seconds: float, decodes: int, prompt_tokens: int, preempted: int) -> None:
        """Count a step."""

    def load(self, running: int, waiting: int, used_slots: int) -> None:
        """Note the load."""


class Engine:
    """Requests, their sequences and the loop that runs them."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        pool: SlotPool,
        report: Callable[[Report], None],
        meter: Meter,
    ) -> None:
        """Report through `report`, which is called on the engine's thread and must not block."""
        self._scheduler = scheduler
        self._pool = pool
        self._report = report
        self._meter = meter
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._requests: dict[int, Request] = {}
        self._candidates: dict[Sequence, Candidate] = {}
        self._pipeline = StepPipeline(runner, scheduler, self._candidates)
        self._starts: Counter[int] = Counter()
        self._arrivals = 0
        self._steps = 0
        self._step_seconds = 0.0
        self._told: tuple[object, ...] = ()
        self._told_at_step = 0
        self._quitting = False

    def post(self, command: Command) -> None:
        """Tell the engine something; returns at once, from any thread."""
        self._inbox.put(command)

    def run(self) -> None:
        """Run steps until told to quit, asleep while there is nothing to run."""
        while not self._quitting:
            if not self._busy:
                self._obey(self._inbox.get())
            self.advance()

    def advance(self) -> bool:
        """Take in all commands there are, without waiting for any, and run at most one step.

        A step is launched where there is work. The oldest is collected once more are in flight than
        the runner's depth, or where there was nothing to launch.

        Returns:
            Whether a step ran. Where none did, none will before the next command.
        """
        while not (self._quitting or self._inbox.empty()):
            self._obey(self._inbox.get())
        if self._quitting or not self._busy:
            self._tell(FrameBuilder())
            return False
        if self._pipeline.launch() and self._pipeline.in_flight <= self._pipeline.depth:
            return True
        self._collect()
        return True

    @property
    def _busy(self) -> bool:
        pipeline, scheduler = self._pipeline, self._scheduler
        return bool(scheduler.running or scheduler.waiting or pipeline.in_flight)

    def _obey(self, command: Command) -> None:
        match command:
            case Quit():
                self._quitting = True
            case Start(spec):
                self._start(Request(spec, arrival=self._arrivals))
            case Stop(handle, candidate):
                self._stop(handle, candidate)
            case Forget(handle):
                self._forget(handle)
            case ForgetRouter(router):
                for handle in [h for h in self._requests if h >> 32 == router]:
                    self._forget(handle)
                self._starts.pop(router, None)
            case Resend():
                self._resend(command)

    def _start(self, request: Request) -> None:
        spec = request.spec
        self._arrivals += 1
        self._starts[spec.handle >> 32] += 1
        self._forget(spec.handle)
        self._requests[spec.handle] = request
        builder = FrameBuilder()
        for candidate in request.candidates:
            if candidate.ending and not (candidate.finished or spec.prompt_logprobs):
                builder.add(candidate, candidate.end_without_token())
            self._candidates[candidate.sequence] = candidate
        for sequence in request.sequences():
            self._scheduler.add(sequence)
        if (frame := builder.frame()) is not None:
            self._report(Report(frame, None, None))

    def _stop(self, handle: int, index: int | None) -> None:
        request = self._requests.get(handle)
        for candidate in request.candidates if request else ():
            if index is None or candidate.index == index:
                candidate.finished = True
                self._scheduler.remove(candidate.sequence)

    def _forget(self, handle: int) -> None:
        self._stop(handle, None)
        request = self._requests.pop(handle, None)
        for candidate in request.candidates if request else ():
            del self._candidates[candidate.sequence]

    def _resend(self, wanted: Resend) -> None:
        request = self._requests.get(wanted.handle)
        if request is None or request.spec.attempt != wanted.attempt:
            return
        if wanted.candidate >= len(request.candidates):
            return
        candidate = request.candidates[wanted.candidate]
        builder = FrameBuilder()
        if candidate.index == 0:
            for row in request.prompt_rows[wanted.prompt_position :]:
                builder.add(candidate, row)
        for row in candidate.rows_from(wanted.position):
            builder.add(candidate, row)
        if (frame := builder.frame()) is not None:
            self._report(Report(frame, wanted.target, None))

    def _collect(self) -> None:
        builder = FrameBuilder()
        done = self._pipeline.collect(builder)
        self._steps += 1
        self._step_seconds += done.seconds
        self._meter.step(done.seconds, done.decodes, done.prompt_tokens, done.preempted)
        self._tell(builder)

    def _tell(self, builder: FrameBuilder) -> None:
        """Report the step's rows, and the load where it changed."""
        frame = builder.frame()
        running, waiting = self._scheduler.running, self._scheduler.waiting
        now = (running, waiting, *self._starts.items())
        load = None
        if now != self._told or self._steps - self._told_at_step >= _STEPS_BETWEEN_LOADS:
            used = self._pool.used_slots
            self._told, self._told_at_step = now, self._steps
            self._meter.load(running, waiting, used)
            load = Load(dict(self._starts), running, waiting, used, self._steps, self._step_seconds)
        if frame is not None or load is not None:
            self._report(Report(frame, None, load))
