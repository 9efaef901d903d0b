"""What a stream amounts to."""

from triptych.client import CandidateText, Delta, FinishReason, Usage
from triptych.commands.stream_stats import StreamStats


def test_rate_counts_the_tokens_after_the_first_message():
    tally = StreamStats(started=0.0, first=1.0, last=3.0, usage=Usage(5, 9, 0))

    assert tally.ttft_s == 1.0
    assert tally.tokens_per_s == 4.0


def test_one_token_has_no_rate_and_no_token_has_no_ttft():
    assert StreamStats(started=0.0, first=1.0, last=1.0, usage=Usage(5, 1, 0)).tokens_per_s is None
    assert StreamStats().ttft_s is None


def test_the_summary_is_about_the_first_candidate():
    tally = StreamStats()
    parts = (CandidateText(1, "other"), CandidateText(0, "mine", (4,), FinishReason.LENGTH))

    tally.see(Delta("r", parts, Usage(5, 1, 0)))

    summary = tally.summary()
    assert (summary["text"], summary["token_ids"]) == ("mine", [4])
    assert (summary["finish_reason"], summary["request_id"]) == ("length", "r")
