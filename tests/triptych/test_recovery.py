"""What the services' metrics say of recovery."""

from prometheus_client import CollectorRegistry, Counter, generate_latest

from detokenizer_svc.model_link import LinkMetrics
from router.metrics import RecoveryMetrics
from triptych.recovery import Recovery, read_from, summed


def test_counters_are_read_and_the_rest_is_left():
    registry = CollectorRegistry()
    Counter("triptych_router_resubmissions", ".", ["outcome"], registry=registry).labels("a").inc(2)
    Counter("triptych_router_requests", ".", registry=registry).inc(9)
    Counter("triptych_detokenizer_replays", ".", registry=registry).inc(3)

    text = generate_latest(registry).decode()

    assert read_from(text) == Recovery(resubmissions=2, replays=3)


def test_the_services_count_under_the_names_that_are_read():
    registry = CollectorRegistry()
    router, detokenizer = RecoveryMetrics(registry), LinkMetrics(registry, int)
    router.resubmissions.inc(1)
    router.reregistrations.inc(2)
    detokenizer.replays.inc(3)
    router.fenced_deltas.inc(4)
    detokenizer.fenced.inc(5)
    router.crash_implications.inc(6)

    assert read_from(generate_latest(registry).decode()) == Recovery(1, 2, 3, 4, 5, 6)


def test_a_service_that_counts_nothing_of_it_counts_as_0():
    assert read_from("# TYPE a gauge\na 1.0\n") == Recovery()


def test_parts_are_summed_figure_by_figure():
    parts = [
        Recovery(1, 2, 3, 4, 5, 6),
        Recovery(resubmissions=10, fenced_rows=10),
        Recovery(crash_implications=1),
    ]

    assert summed(parts) == Recovery(11, 2, 3, 4, 15, 7)
