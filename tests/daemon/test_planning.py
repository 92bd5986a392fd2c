"""What the loops decide: which taps and jobs begin and end, what becomes of a source, what is due to be learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adumbra.daemon.jobs import to_begin
from adumbra.daemon.learning import Schedule, Seen, due, last_failures
from adumbra.daemon.loops import pause_s
from adumbra.daemon.taps import AT_ONCE, STEADY_S, Ended, after, plan
from adumbra.schema.jobs import JobKind, JobRecord, JobState, Place, SourceRecord, SourceState

S = 10**9
HOUR = 3600 * S
DAY = 24 * HOUR


def source(number: int, network: str = "shop", state: SourceState = SourceState.WAITING, **other: object) -> SourceRecord:
    made = SourceRecord(
        number, network, f"live:eth{number}", {}, Place.SERVER, state, "", "", "", 0, "", {}, 0, None, None
    )  # fmt: skip
    return replace(made, **other)  # type: ignore[arg-type]


def job(number: int, network: str = "shop", kind: JobKind = JobKind.TRAIN, state: JobState = JobState.QUEUED) -> JobRecord:
    return JobRecord(number, network, kind, {}, state, None, "", None, "", 0, "", "", 0, None, None)


def owned(name: str) -> bool:
    return name != "other"


class TestTaps:
    def test_what_waits_begins_and_what_nobody_wants_ends(self) -> None:
        decided = plan([source(1), source(2)], {2: "shop", 3: "shop"}, owned, "host", 0)
        assert [each.id for each in decided.begin] == [1]
        assert decided.end == (3,)
        assert decided.cut == ()

    def test_a_network_of_another_server_is_left_to_it_at_once(self) -> None:
        decided = plan([source(1, "other"), source(2, "other")], {2: "other"}, owned, "host", 0)
        assert decided.begin == ()
        assert (decided.end, decided.cut) == ((), (2,))

    def test_one_that_failed_waits_for_its_time(self) -> None:
        waiting = source(1, next_ns=5 * S)
        assert plan([waiting], {}, owned, "host", 4 * S).begin == ()
        assert plan([waiting], {}, owned, "host", 5 * S).begin == (waiting,)

    def test_one_whose_time_was_told_by_a_clock_that_has_gone_back_waits_no_longer_than_any(self) -> None:
        waiting = source(1, next_ns=3_600 * S)
        assert plan([waiting], {}, owned, "host", 3_590 * S).begin == ()
        assert plan([waiting], {}, owned, "host", 10 * S).begin == (waiting,)

    def test_one_whose_server_died_begins_at_once(self) -> None:
        left = source(1, state=SourceState.RUNNING, process="gone")
        assert plan([left], {}, owned, "host", 0).begin == (left,)

    def test_a_source_of_a_host_begins_there_only(self) -> None:
        of_host = source(1, host="tap-1")
        assert plan([of_host], {}, owned, "tap-2", 0).begin == ()
        assert plan([of_host], {}, owned, "tap-1", 0).begin == (of_host,)

    def test_there_are_never_too_many(self) -> None:
        wanted = [source(number) for number in range(AT_ONCE + 10)]
        running = dict.fromkeys(range(5), "shop")
        assert len(plan(wanted, running, owned, "host", 0).begin) == AT_ONCE - 5

    @pytest.mark.parametrize(
        ("ended", "state", "in_a_row"),
        [
            (Ended(0, 3.0, 0, ""), SourceState.DONE, 0),
            (Ended(2, 1.0, 0, "eth7: no such device"), SourceState.FAILED, 0),
            (Ended(1, 1.0, 2, "it broke"), SourceState.WAITING, 3),
            (Ended(-9, STEADY_S, 7, ""), SourceState.WAITING, 1),
            (Ended(-15, 5.0, 7, "", asked=True), SourceState.WAITING, 0),
        ],
    )
    def test_what_becomes_of_a_source(self, ended: Ended, state: SourceState, in_a_row: int) -> None:
        found = after("live:eth7", ended)
        assert (found.state, found.in_a_row) == (state, in_a_row)
        assert found.wait_s == pause_s(in_a_row)

    def test_what_went_wrong_is_told(self) -> None:
        assert after("live:eth7", Ended(2, 1.0, 0, "eth7: no such device")).trouble == "eth7: no such device"
        assert "signal 9" in after("live:eth7", Ended(-9, 1.0, 0, "")).trouble


def test_pauses_grow_to_a_bound() -> None:
    assert [pause_s(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_s(10_000) == 60


class TestJobs:
    def test_the_oldest_begin_first_up_to_the_bound(self) -> None:
        waiting = [job(1, "a"), job(2, "b"), job(3, "c")]
        assert [each.id for each in to_begin(waiting, [], owned, 2)] == [1, 2]
        assert [each.id for each in to_begin(waiting, [job(9, "z")], owned, 2)] == [1]
        assert to_begin(waiting, [], owned, 0) == ()

    def test_a_network_has_one_at_a_time_but_for_what_changes_nothing(self) -> None:
        waiting = [job(1), job(2, kind=JobKind.PROFILE), job(3, kind=JobKind.WHATIF)]
        assert [each.id for each in to_begin(waiting, [], owned, 4)] == [1, 3]
        assert [each.id for each in to_begin(waiting, [job(8)], owned, 4)] == [3]

    def test_only_what_waits_in_owned_networks(self) -> None:
        assert to_begin([job(1, "other"), job(2, state=JobState.RUNNING)], [], owned, 4) == ()


class TestLearning:
    schedule = Schedule(every_s=86_400.0, first_s=600.0, growth=0.5, retry_s=3_600.0)

    def kind(self, seen: Seen, now_ns: int, schedule: Schedule | None = None) -> JobKind | None:
        found = due(seen, schedule or self.schedule, now_ns)
        return found.kind if found else None

    def test_nothing_is_due_where_too_little_was_seen(self) -> None:
        assert self.kind(Seen(), DAY) is None
        assert self.kind(Seen(0, 599 * S), DAY) is None
        assert self.kind(Seen(0, 600 * S), DAY) is JobKind.TRAIN

    def test_a_first_training_is_followed_by_a_profile(self) -> None:
        trained = Seen(0, HOUR, HOUR, HOUR, 3600.0, HOUR)
        assert self.kind(trained, HOUR + S) is JobKind.PROFILE
        assert self.kind(replace(trained, profiled_ns=HOUR + S), HOUR + 2 * S) is None

    def test_half_as_much_again_is_learned_from_early(self) -> None:
        seen = Seen(0, HOUR, HOUR, HOUR, 3600.0, HOUR, HOUR)
        assert self.kind(replace(seen, end_ns=HOUR + 1799 * S), 2 * HOUR) is None
        assert self.kind(replace(seen, end_ns=HOUR + 1800 * S), 2 * HOUR) is JobKind.TRAIN

    def test_what_is_old_is_trained_again_where_there_is_anything_new(self) -> None:
        seen = Seen(0, 100 * DAY, 100 * DAY, 100 * DAY, 100 * 86_400.0, 100 * DAY, 100 * DAY)
        assert self.kind(seen, 102 * DAY) is None
        assert self.kind(replace(seen, end_ns=101 * DAY - S), 101 * DAY - S) is None
        assert self.kind(replace(seen, end_ns=101 * DAY), 101 * DAY) is JobKind.TRAIN

    def test_a_training_that_does_not_serve_counts_as_one_all_the_same(self) -> None:
        seen = Seen(0, DAY, DAY, DAY, 86_400.0, HOUR, 2 * HOUR)
        assert self.kind(seen, DAY + HOUR) is None

    def test_a_new_spec_takes_a_new_profile(self) -> None:
        seen = Seen(0, HOUR, HOUR, HOUR, 3600.0, HOUR, 2 * HOUR, declared_ns=3 * HOUR)
        assert self.kind(seen, 3 * HOUR) is JobKind.PROFILE

    def test_what_failed_is_tried_again_later(self) -> None:
        seen = Seen(0, HOUR, failed_ns={JobKind.TRAIN: 2 * HOUR})
        assert self.kind(seen, 3 * HOUR - 1) is None
        assert self.kind(seen, 3 * HOUR) is JobKind.TRAIN
        assert self.kind(seen, HOUR) is JobKind.TRAIN  # the clock has gone back

    @pytest.mark.parametrize("busy", [JobKind.TRAIN, JobKind.PROFILE, JobKind.CALIBRATE])
    def test_one_thing_at_a_time(self, busy: JobKind) -> None:
        assert self.kind(Seen(0, HOUR, busy=frozenset({busy})), DAY) is None

    def test_never_is_never(self) -> None:
        assert self.kind(Seen(0, HOUR, HOUR, HOUR, 3600.0, HOUR), DAY, replace(self.schedule, every_s=math.inf)) is None

    def test_the_newest_of_a_kind_says_whether_it_failed(self) -> None:
        ended = [
            replace(job(3, state=JobState.DONE), finished_ns=30), replace(job(2, state=JobState.FAILED), finished_ns=20),
            replace(job(1, kind=JobKind.PROFILE, state=JobState.CANCELLED), finished_ns=10), job(4, kind=JobKind.WHATIF),
        ]  # fmt: skip
        assert last_failures(ended) == {JobKind.PROFILE: 10}
