"""Steps travel as bytes, and give the same in another process."""

import multiprocessing

import numpy as np
from support.engine_harness import Arithmetic, Harness, spec

from model_svc.engine.messages import Start
from model_svc.sampling.params import SamplingParams
from model_svc.scheduling import step_codec
from model_svc.scheduling.step import Admission, Chunks, Scores, StepInput, StepOutput
from protos.token_frame import ALTERNATIVE

SLOTS = 64


def chunks(**changes):
    values = {
        "kinds": np.array([0, 1, 2], np.uint8),
        "rows": np.array([3, 1, 0]),
        "starts": np.array([7, 2, 0]),
        "counts": np.array([1, 3, 2]),
        "slots": np.arange(6, dtype=np.int32),
        "drafts": np.array([5, 6], np.int32),
        "draw_chunks": np.array([0, 1]),
        "draw_rows": np.array([3, 1]),
    }
    return Chunks(**(values | changes))


def assert_equal(one, other):
    """The same classes, types and contents."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    elif isinstance(one, SamplingParams) or not hasattr(one, "__dataclass_fields__"):
        assert one == other
    else:
        for name in one.__dataclass_fields__:
            assert_equal(getattr(one, name), getattr(other, name))


def test_a_step_is_the_same_after_its_journey():
    sampling = SamplingParams(
        seed=2**64 - 1,
        temperature=0.3,
        logit_bias={3: -np.inf, 9: 2.5},
        bad_sequences=((1, 2), (7,)),
        suppressed_ids=(4,),
        logprobs=2,
    )
    admission = Admission(
        3, 2**63, np.arange(9, dtype=np.int32), np.empty(0, np.int32), np.empty(0, np.int32), 1,
        sampling,
    )  # fmt: skip
    step = StepInput((admission,), chunks(), np.array([2]))

    assert_equal(step_codec.decode_input(step_codec.encode(step)), step)


def test_an_outcome_is_the_same_after_its_journey():
    records = np.array([(3, -0.5), (4, -1.5)], ALTERNATIVE)
    scores = Scores(np.array([-1.0, np.nan], np.float32), (records, records[:0]))
    for counts in (None, np.array([1, 2])):
        output = StepOutput(
            np.array([1, 2, 3], np.int32),
            np.array([np.nan, -np.inf, -1.0], np.float32),
            (records, records[:1], records[:0]),
            counts,
            (scores,),
        )
        assert_equal(step_codec.decode_output(step_codec.encode(output)), output)


def serve(pipe):
    """A runner of its own process, whose steps and outcomes are bytes."""
    runner = Arithmetic(SLOTS, 8, 512)
    while data := pipe.recv_bytes():
        pipe.send_bytes(step_codec.encode(runner.compute(step_codec.decode_input(data))))


class Elsewhere:
    """A runner that has its steps computed by another process."""

    depth = 0

    def __init__(self, pipe):
        self._pipe = pipe

    def launch(self, step):
        self._pipe.send_bytes(step_codec.encode(step))
        return None

    def collect(self, ticket):
        return step_codec.decode_output(self._pipe.recv_bytes())


def outputs(runner):
    harness = Harness(SLOTS, budget=12, runner=runner)
    for handle, length in enumerate((3, 20, 9, 1)):
        values = {"candidates": 1 + handle % 2, "prompt_logprobs": handle == 2}
        harness.do(Start(spec(handle, range(handle, handle + length), 12, **values)))
        harness.step()
    harness.idle()
    assert harness.meter.preempted > 0
    return harness.rows


def test_the_same_steps_in_another_process_give_the_same_rows():
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
    process.start()
    try:
        elsewhere = outputs(lambda *sizes: Elsewhere(here))
    finally:
        here.send_bytes(b"")
        process.join()

    # NaN is equal to nothing.
    assert str(elsewhere) == str(outputs(Arithmetic))
