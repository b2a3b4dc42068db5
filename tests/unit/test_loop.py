"""Does the loop do what is due, once, and otherwise nothing? With real descriptors and threads."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.guard.jobs import Jobs
from supervisor.guard.loop import READABLE, Loop, now
from supervisor.qmp.wire import WRITABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20.0


@pytest.fixture
def loop() -> Loop:
    """Give a loop that ends by itself, and fails the test, when nothing ends it in time."""
    loop = Loop()

    def late() -> None:
        pytest.fail("nothing stopped the loop in time")

    loop.at("the test's deadline", now() + DEADLINE_S, late)
    return loop


def end(loop: Loop) -> None:
    loop.done = True


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    opened = [os.pipe() for _ in range(4)]
    yield opened
    for pair in opened:
        for fd in pair:
            os.close(fd)


def test_now_runs_on_while_the_host_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= now() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_readable_descriptor_calls_back_until_it_is_forgotten(
    loop: Loop, pipes: list[tuple[int, int]]
) -> None:
    calls = []
    (read_fd, write_fd), (other_fd, _), *_ = pipes
    loop.watch(other_fd, READABLE, lambda _: pytest.fail("nothing was written there"))

    def readable(events: int) -> None:
        assert events & READABLE
        calls.append(os.read(read_fd, 1))
        if len(calls) == 3:
            loop.unwatch(read_fd)
            loop.unwatch(read_fd)  # forgotten already
            loop.post(lambda: end(loop))

    loop.watch(read_fd, READABLE, readable)
    os.write(write_fd, b"abcd")
    loop.run()
    assert calls == [b"a", b"b", b"c"]


def test_a_new_watch_replaces_the_old_one(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    _, write_fd = pipes[0]
    loop.watch(write_fd, WRITABLE, lambda _: pytest.fail("replaced"))
    loop.watch(write_fd, WRITABLE, lambda _: end(loop))
    loop.run()


def test_a_callback_may_forget_another_that_is_due(
    loop: Loop, pipes: list[tuple[int, int]]
) -> None:
    called = []

    def only_one(fd: int, _events: int) -> None:
        called.append(fd)
        for other, _ in pipes:
            loop.unwatch(other)
        loop.post(lambda: end(loop))

    for fd, write_fd in pipes:
        os.write(write_fd, b"x")
        loop.watch(fd, READABLE, partial(only_one, fd))
    loop.run()
    assert len(called) == 1


def test_the_end_of_a_pipe_is_told(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    read_fd, write_fd = pipes[0]
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, write_fd)
    os.close(null)
    loop.watch(read_fd, READABLE, lambda events: end(loop) if events else None)
    loop.run()


def test_nothing_happens_after_the_end(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    done = []

    def stop(loop: Loop, what: str) -> None:
        done.append(what)
        end(loop)

    for fd, write_fd in pipes:
        os.write(write_fd, b"x")
        loop.watch(fd, READABLE, lambda _: stop(loop, "watch"))
    loop.run()
    assert done == ["watch"]
    other = Loop()
    for name in "abc":
        other.at(name, 0, lambda: stop(other, "timer"))
        other.post(lambda: stop(other, "posted"))
    other.run()
    assert done == ["watch", "posted"]


@given(st.lists(st.floats(0, 0.003), min_size=1, max_size=6))
def test_timers_come_in_time_and_never_early(delays: list[float]) -> None:
    loop = Loop()
    start = now()
    came: dict[int, float] = {}

    def comes(number: int) -> None:
        came[number] = now()
        if len(came) == len(delays):
            end(loop)

    for number, delay in enumerate(delays):
        loop.at(str(number), start + delay, partial(comes, number))
    loop.run()
    assert all(came[number] >= start + delay for number, delay in enumerate(delays))


def test_a_timer_may_be_replaced_and_cancelled(loop: Loop) -> None:
    fired = []
    loop.at("twice", now(), lambda: fired.append("old"))
    loop.at("twice", now() + 0.001, lambda: fired.append("new"))
    loop.at("cancelled", now(), lambda: fired.append("cancelled"))
    loop.cancel("cancelled")
    loop.cancel("never set")
    loop.at("last", now() + 0.005, lambda: end(loop))
    loop.run()
    assert fired == ["new"]


def test_a_timer_that_is_due_may_cancel_another(loop: Loop) -> None:
    fired = []

    def fire(name: str, other: str) -> None:
        fired.append(name)
        loop.cancel(other)
        loop.post(lambda: end(loop))

    loop.at("a", 0, lambda: fire("a", "b"))
    loop.at("b", 0, lambda: fire("b", "a"))
    loop.run()
    assert len(fired) == 1


@pytest.mark.parametrize("far", [1e6, 3e6, 1e12, 1e300, float("inf")])
def test_a_timer_may_be_further_away_than_poll_can_wait(far: float) -> None:
    loop = Loop()
    loop.at("far", now() + far, lambda: pytest.fail("came early"))
    timer = threading.Timer(0.01, lambda: loop.post(lambda: end(loop)))
    timer.start()
    loop.run()
    timer.join()


def test_what_threads_post_is_done_once_in_each_ones_order(loop: Loop) -> None:
    done: list[tuple[int, int]] = []
    threads, each = 4, 500

    def post(thread: int) -> None:
        for number in range(each):
            loop.post(partial(done.append, (thread, number)))
        loop.post(finish)

    finished = []

    def finish() -> None:
        assert threading.current_thread() is threading.main_thread()
        finished.append(1)
        if len(finished) == threads:
            end(loop)

    started = [threading.Thread(target=post, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    loop.run()
    for thread in started:
        thread.join()
    assert len(done) == threads * each
    for thread_number in range(threads):
        own = [number for thread, number in done if thread == thread_number]
        assert own == list(range(each))


def test_jobs_run_in_order_off_the_main_thread_and_answer_on_it(loop: Loop) -> None:
    jobs = Jobs(loop)
    ran: list[int] = []
    answers: list[tuple[object, BaseException | None]] = []

    def job(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        ran.append(number)
        if number == 3:
            raise ValueError(number)
        return number

    def then(result: object, error: BaseException | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        answers.append((result, error))
        if len(answers) == 5:
            end(loop)

    for number in range(5):
        jobs.submit(partial(job, number), then)
    jobs.start()
    loop.run()
    assert ran == list(range(5))
    assert [result for result, _ in answers] == [0, 1, 2, None, 4]
    assert [repr(error) for _, error in answers if error] == ["ValueError(3)"]


def test_a_question_apart_does_not_wait_for_a_job_that_hangs(loop: Loop) -> None:
    jobs = Jobs(loop)
    jobs.start()
    gate = threading.Event()
    jobs.submit(lambda: gate.wait(DEADLINE_S), lambda _result, _error: end(loop))
    order = []

    def answered(result: object, _error: BaseException | None) -> None:
        order.append(result)
        gate.set()

    jobs.apart(lambda: "answer", answered)
    loop.run()
    assert order == ["answer"]


def test_a_failure_that_nobody_waits_for_ends_the_loop(loop: Loop) -> None:
    jobs = Jobs(loop)
    jobs.start()

    def fail() -> None:
        raise ZeroDivisionError

    jobs.submit(fail)
    with pytest.raises(ZeroDivisionError):
        loop.run()
