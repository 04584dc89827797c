"""What workers promise: nothing lives on, nothing is lost, nothing is counted that was no attempt."""

from __future__ import annotations

from typing import Final

from mutant import Mutant

_STOPPING: Final = "tests/workers/test_stopping.py::"
_LIMITS: Final = "tests/workers/test_limits.py::"
_ABUSE: Final = "tests/workers/test_abuse.py::"
_ELSEWHERE: Final = "tests/workers/test_elsewhere.py::"
_SOFT: Final = "tests/workers/test_soft_limits.py::"
_HANDLERS: Final = "tests/workers/test_handlers.py::"
_SUPERVISOR: Final = "mailq/workers/supervisor.py"
_PROCESS_TREE: Final = "mailq/workers/process_tree.py"
_HEARTBEAT: Final = "mailq/workers/heartbeat.py"
_FORKSERVER: Final = "mailq/workers/forkserver.py"
_PROCESS_POOL: Final = "mailq/workers/processes.py"
_HANDLER: Final = "mailq/workers/handler.py"
_JOB_INPUT: Final = "mailq/workers/job_input.py"
_OUTCOMES: Final = "mailq/workers/outcomes.py"
_CALLABLES: Final = "mailq/workers/callables.py"

PROCESSES: Final = (
    Mutant(
        "the leases of threads are not extended",
        _HEARTBEAT,
        "            self._queue(lease.queue).extend(lease.receipt, lease.seconds)\n",
        "            pass\n",
        (f"{_LIMITS}test_a_job_in_a_thread_that_holds_the_gil_keeps_its_lease",),
    ),
    Mutant(
        "a job's children live on at its limit",
        _PROCESS_TREE,
        "        os.killpg(leader, number)\n",
        "        os.kill(leader, number)\n",
        (f"{_LIMITS}test_a_hung_job_is_killed_at_its_limit_with_all_its_children",),
    ),
    Mutant(
        "what a dead process has started lives on",
        _PROCESS_TREE,
        "                kill_group(found.si_pid, signal.SIGKILL)\n",
        "                pass\n",
        (f"{_ELSEWHERE}test_what_a_dead_child_has_started_dies_with_it[here]",),
    ),
    Mutant(
        "what a dead process has started lives on where there is no waitid",
        _PROCESS_TREE,
        "                kill_group(pid, signal.SIGKILL)\n",
        "                pass\n",
        (f"{_ELSEWHERE}test_what_a_dead_child_has_started_dies_with_it[macos]",),
    ),
    Mutant(
        "nothing dies with its parent",
        _PROCESS_TREE,
        "        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if number is None else number)\n",
        "        pass\n",
        (f"{_STOPPING}test_when_supervisor_and_fork_server_are_killed_at_once_nothing_runs_on",),
        stalls=True,
    ),
    Mutant(
        "a child does not die with the fork server",
        _FORKSERVER,
        "        die_with_parent(signal.SIGKILL)\n",
        "",
        (f"{_STOPPING}test_when_supervisor_and_fork_server_are_killed_at_once_nothing_runs_on[arguments0]",),
        stalls=True,
    ),
    Mutant(
        "a command does not die with the fork server",
        "mailq/workers/command.py",
        "                preexec_fn=die_with_parent if self._supervised else None,",
        "                preexec_fn=None,",
        (f"{_STOPPING}test_when_supervisor_and_fork_server_are_killed_at_once_nothing_runs_on[arguments1]",),
        stalls=True,
    ),
    Mutant(
        "the fork server does not die with the supervisor",
        _FORKSERVER,
        "    die_with_parent(signal.SIGUSR1)\n",
        "",
        (f"{_ABUSE}test_a_fork_of_the_program_does_not_keep_its_dead_workers_alive",),
        stalls=True,
    ),
    Mutant(
        "the keeper of leases does not die with the supervisor",
        _HEARTBEAT,
        "    die_with_parent()\n",
        "",
        (f"{_ABUSE}test_a_fork_of_the_program_does_not_keep_its_dead_workers_alive",),
        stalls=True,
    ),
    Mutant(
        "the fork server kills no process when the supervisor is gone",
        _FORKSERVER,
        """                if key.fileobj is self._supervisor and not self._serve():
                    self._kill_all()
""",
        "                if key.fileobj is self._supervisor and not self._serve():\n",
        (f"{_STOPPING}test_a_killed_supervisor_takes_everything_with_it_and_its_messages_are_back_in_seconds",),
        stalls=True,
    ),
    Mutant(
        "what is said of an old job counts for the next",
        _PROCESS_POOL,
        "        elif job is None or job.number != number:\n",
        "        elif job is None:\n",
        (f"{_ABUSE}test_what_a_child_of_an_old_job_says_is_not_of_the_next",),
    ),
    Mutant(
        "a child that a signal is on its way to gets another job",
        _PROCESS_POOL,
        "            child.killed  # a signal may still be on its way, which must not hit another job\n",
        "            False\n",
        (f"{_ABUSE}test_a_late_signal_does_not_hit_the_next_job",),
    ),
    Mutant(
        "a job that never began is counted",
        _PROCESS_POOL,
        "        if child.job is not None and child.channel.unread:\n",
        "        if child.job is not None and False:\n",
        (f"{_ABUSE}test_a_job_that_never_began_is_given_back_uncounted",),
    ),
    Mutant(
        "leases are kept past the limit of their jobs",
        _HEARTBEAT,
        "                if now >= lease.end_at:\n",
        "                if False:\n",
        (f"{_LIMITS}test_a_worker_that_stands_still_past_its_limit_keeps_no_message",),
    ),
)

JOBS: Final = (
    Mutant(
        "a job's lease is not extended",
        _SUPERVISOR,
        "            job.delivery.extend(job.lease)\n",
        "            pass\n",
        (f"{_LIMITS}test_the_lease_of_a_running_job_is_kept[processes]",),
    ),
    Mutant(
        "what a stop interrupts is counted",
        _SUPERVISOR,
        """    if job.ending or stopping:
        return Result("release")
""",
        """    if job.ending or stopping:
        return Result("nack")
""",
        (f"{_STOPPING}test_what_is_not_finished_within_the_grace_is_released_uncounted",),
    ),
    Mutant(
        "a paused queue delivers",
        "mailq/engines/maildir/engine.py",
        "        if self._is_paused():\n",
        "        if False:\n",
        ("tests/workers/test_months.py::test_a_paused_queue_is_not_worked_and_costs_nothing",),
    ),
    Mutant(
        "a message is acked before its reply is written",
        _SUPERVISOR,
        """            if result.reply is not None:
                delivery.put_reply(result.reply.encode())
            delivery.ack()
""",
        """            delivery.ack()
            if result.reply is not None:
                delivery.put_reply(result.reply.encode())
""",
        ("tests/workers/test_outcomes.py::test_what_cannot_be_answered_is_not_acked",),
    ),
    Mutant(
        "what comes during a look is forgotten",
        "mailq/workers/job.py",
        """        self._notified = False  # before the poll: what comes during it must be polled again
        deliveries = self.queue.poll(limit, lease=lease)
""",
        """        deliveries = self.queue.poll(limit, lease=lease)
        self._notified = False
""",
        ("tests/workers/test_jobs.py::test_what_comes_during_a_look_is_looked_for_again",),
    ),
    Mutant(
        "a drain does not see what its own jobs push",
        _SUPERVISOR,
        "                source.poll_again()\n",
        "                pass\n",
        (f"{_ABUSE}test_drain_sees_what_its_own_jobs_push_also_without_inotify",),
    ),
    Mutant(
        "a message that its handler settles is taken for lost by a heartbeat that comes before the word of it",
        _SUPERVISOR,
        "        if not job.in_doubt:\n",
        "        if False:\n",
        (f"{_ABUSE}test_a_heartbeat_between_the_settling_and_the_word_of_it_takes_no_lease_for_lost",),
    ),
    Mutant(
        "a job whose lease is lost is settled",
        _SUPERVISOR,
        """        if job.lost:
            result = Result("lost")
""",
        "",
        (f"{_LIMITS}test_a_job_whose_lease_is_lost_is_told_from_outside",),
        stalls=True,
    ),
    Mutant(
        "an unknown task is given back at once",
        "mailq/tasks.py",
        "delay=_UNKNOWN_DELAY",
        "delay=0.0",
        ("tests/workers/test_app.py::test_an_unknown_task_is_given_back_with_a_delay_and_told",),
    ),
    Mutant(
        "a second signal is ignored",
        _SUPERVISOR,
        "        wanted = Stage.KILLING if self._stops > 1 else Stage.FINISHING\n",
        "        wanted = Stage.FINISHING\n",
        (f"{_STOPPING}test_a_second_signal_ends_it_at_once",),
        stalls=True,
    ),
    Mutant(
        "a process is interrupted in the middle of what it says",
        "mailq/workers/child.py",
        "            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGALRM))\n",
        "            pass\n",
        ("tests/workers/test_child.py::test_an_interruption_waits_for_the_end_of_a_line",),
    ),
    Mutant(
        "whoever waits for a reply does nothing but look",
        "mailq/reply.py",
        "                next_check = looked + max(_CHECK, (looked - now) / _SHARE)\n",
        "                next_check = looked + _CHECK\n",
        ("tests/unit/test_reply.py::test_looking_whether_a_message_is_alive_takes_a_small_part_of_the_time",),
    ),
    Mutant(
        "a worker's status hides its identity",
        "mailq/cli/workers.py",
        '{**known.pop("status"), **known}',
        '{**known, **known.pop("status")}',
        (f"{_ABUSE}test_a_foreign_story_cannot_pass_itself_off_as_another",),
    ),
    Mutant(
        "leases are kept by a process where none can be forked",
        "mailq/workers/threads.py",
        "    return can_fork() and not",
        "    return not",
        (f"{_ELSEWHERE}test_without_processes_the_worker_itself_keeps_the_leases_of_threads",),
    ),
    Mutant(
        "a time limit is an error of the system",
        "mailq/errors.py",
        "class TimeLimit(BaseException):\n",
        "class TimeLimit(TimeoutError):\n",
        (f"{_SOFT}test_whatever_a_job_is_doing_it_is_reported_as_a_timeout",),
    ),
    Mutant(
        "a job that makes another error of its limit is reported by that",
        _HANDLER,
        "            result = failed(error, given.interruption)\n",
        "            result = failed(error)\n",
        (f"{_SOFT}test_whatever_a_job_is_doing_it_is_reported_as_a_timeout[threads-1]",),
    ),
    Mutant(
        "a limit that Python ignored does not come again",
        _HANDLER,
        "            self._once_more(ignored.exc_value)\n",
        "            pass\n",
        (f"{_SOFT}test_whatever_a_job_is_doing_it_is_reported_as_a_timeout[processes-1]",),
    ),
    Mutant(
        "an interruption is raised in the midst of an event loop",
        _JOB_INPUT,
        "            if running is not None:\n",
        "            if False:\n",
        (f"{_SOFT}test_whatever_a_job_is_doing_it_is_reported_as_a_timeout",),
    ),
    Mutant(
        "an interruption that an event loop catches is lost",
        "mailq/workers/threads.py",
        "        given.arrived(sys._getframe(1))",
        "        pass",
        (f"{_SOFT}test_an_interruption_that_an_event_loop_catches_ends_what_that_runs",),
    ),
    Mutant(
        "a coroutine that keeps its loop from everything is not interrupted",
        _JOB_INPUT,
        "(running is None or not _is_of_the_loop(frame))\n",
        "running is None\n",
        (f"{_SOFT}test_whatever_a_job_is_doing_it_is_reported_as_a_timeout",),
    ),
    Mutant(
        "what a cancelled coroutine has started runs on",
        "mailq/workers/coroutines.py",
        "                self._end(asyncio.all_tasks(self._loop) - earlier)\n",
        "                pass\n",
        (f"{_SOFT}test_an_event_loop_outlives_a_coroutine_that_is_cancelled_and_what_that_has_started_does_not",),
    ),
    Mutant(
        "a block that a limit interrupts releases the message",
        "mailq/delivery.py",
        "            elif not self.in_worker:",
        "            else:",
        (f"{_SOFT}test_a_limit_counts_although_the_handler_settles_by_a_block",),
        stalls=True,
    ),
    Mutant(
        "a generator is a handler",
        _CALLABLES,
        "    if any(inspect.isgeneratorfunction(layer) or ",
        "    if any(",
        (f"{_HANDLERS}test_what_cannot_work_is_refused_before_anything_is_popped",),
    ),
    Mutant(
        "a generator behind a decorator is a handler",
        _CALLABLES,
        '        value = getattr(value, "__wrapped__", getattr(called, "__wrapped__", None))\n',
        "        value = None\n",
        (f"{_HANDLERS}test_what_cannot_work_is_refused_before_anything_is_popped",),
    ),
    Mutant(
        "a class is a task",
        _CALLABLES,
        "    if inspect.isclass(value):\n",
        "    if False:\n",
        (f"{_HANDLERS}test_a_task_that_cannot_work_is_refused_where_it_is_made",),
    ),
    Mutant(
        "a handler may want two arguments",
        _CALLABLES,
        "        signature.bind(None)\n",
        "        pass\n",
        (f"{_HANDLERS}test_what_cannot_work_is_refused_before_anything_is_popped",),
    ),
    Mutant(
        "a decorated handler is called as what is decorated",
        _CALLABLES,
        "        signature = inspect.signature(value, follow_wrapped=False)\n",
        "        signature = inspect.signature(value)\n",
        (f"{_HANDLERS}test_what_can_work_is_not_refused",),
    ),
    Mutant(
        "a returned class is no outcome",
        _OUTCOMES,
        "    if inspect.isclass(value) and issubclass(value, Retry | Reject):\n",
        "    if False:\n",
        (f"{_HANDLERS}test_an_outcome_counts_returned_as_a_class_or_raised",),
    ),
    Mutant(
        "a generator that is returned is acked",
        _OUTCOMES,
        "    if inspect.isgenerator(value) or ",
        "    if ",
        (f"{_HANDLERS}test_a_generator_that_is_returned_is_a_failure_and_not_an_ack",),
    ),
    Mutant(
        "a raised outcome is an error",
        _HANDLER,
        "    if isinstance(outcome, Retry | Reject):\n",
        "    if False:\n",
        (f"{_HANDLERS}test_an_outcome_counts_returned_as_a_class_or_raised",),
    ),
    Mutant(
        "a block gives a rejected message back",
        "mailq/delivery.py",
        "                self.reject(reason_of(error))\n",
        "                self.nack(error=reason_of(error))\n",
        (f"{_HANDLERS}test_a_block_settles_by_the_outcome_that_is_raised_in_it",),
    ),
)
