"""The audit: which test fails if this rule of the design is missing?

Every row of its part 4 (promises under faults), every hard case of part 9 and every row of the README's table of
promises stands here with its tests. All of them have to be collected by pytest under exactly these names; so a
test that is renamed or lost is missed here, and a promise without a test cannot be added to the README.

A clause that ``is_open`` is one that the library does not keep today: its test is a strict xfail, which turns red
as soon as the rule is there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.docs import documents
from tests.docs.documents import ROOT

ROUND = "faults/test_rounds.py::test_nothing_is_lost_and_every_invariant_is_kept"
BROKEN = "faults/test_checker.py::test_a_broken_build_turns_the_checker_red"
PROCESSES, NETWORK = "faults/test_processes.py::test_", "faults/test_network.py::test_"
CASES = "test_promises_cases.py::test_"
FAULTS, AIO, CLAIM = (f"conformance/test_{name}.py::test_" for name in ("faults", "aio", "claim"))
PUT, REAP, SETTLE, WORKER = (f"conformance/test_{name}.py::test_" for name in ("put", "reap", "settle", "worker"))
STATE, ENVELOPE, KEYS, OPS = (f"core/test_{name}.py::test_" for name in ("consumer", "envelope", "keys", "ops"))
TRIP, LUA_REAP, LUA_PUT = (f"lua/test_{name}.py::test_" for name in ("trip", "reap", "put"))
SCRIPTS, ERRORS, LEAVE = (f"lua/test_{name}.py::test_" for name in ("every_script", "errors", "registration"))
EXCLUSIVE, LUA_EXCLUSIVE = "conformance/test_exclusive.py::test_", "lua/test_exclusive.py::test_"
EXCLUSIVE_FAULTS = "faults/test_exclusive.py::test_"
BESIDE, LUA_BESIDE = "conformance/test_beside.py::test_", "lua/test_beside.py::test_"
SENTINEL, CLUSTER, DURABLE = (f"replicated/test_{name}.py::test_" for name in ("sentinel", "cluster", "durable"))
MODEL = "model/test_model.py::test_the_model_holds_and_every_broken_variant_is_found"


class Clause(NamedTuple):
    """One thing that has to hold, and the tests (below tests/, without servers and shells) that say so."""

    what: str
    tests: tuple[str, ...]
    kept: bool = True


def holds(what: str, *tests: str) -> Clause:
    return Clause(what, tests)


def is_open(what: str, *tests: str) -> Clause:
    """The library does not keep this one yet."""
    return Clause(what, tests, kept=False)


def rounds(*kinds: str) -> tuple[str, ...]:
    """Rounds of the fault lab."""
    return tuple(f"{ROUND}[{kind}]" for kind in kinds)


def builds(*names: str) -> tuple[str, ...]:
    """Builds of the library without this rule, each of which a round of the lab has to find."""
    return tuple(f"{BROKEN}[{name}]" for name in names)


# -- part 4: promises under faults --------------------------------------------------------------------------

PROMISES: dict[str, list[Clause]] = {
    "handler raises or calls sys.exit": [
        holds(
            "the worker lives, and the retry policy decides",
            f"{PROCESSES}nothing_that_a_handler_raises_ends_the_worker",
            f"{WORKER}whatever_a_handler_raises_is_a_failed_attempt",
            f"{SETTLE}exception_is_retried_by_the_policy",
        ),
    ],
    "handler hangs, leaks memory, holds the GIL, segfaults": [
        holds(
            "hangs: supervised, its process is replaced",
            f"{PROCESSES}a_hung_handler_is_replaced_under_the_supervisor",
        ),
        holds(
            "leaks memory: it costs its process and nothing else",
            f"{PROCESSES}a_handler_that_leaks_memory_costs_its_process_and_nothing_else",
        ),
        holds(
            "holds the GIL: its lease is renewed",
            f"{PROCESSES}a_held_gil_does_not_cost_the_lease_under_the_supervisor",
        ),
        holds("segfaults: the service lives", f"{PROCESSES}one_segfaulting_message_dies_alone", *rounds("poison")),
        holds(
            "in a plain worker a stuck thread is reported once, with its stack, and costs its slot",
            f"{WORKER}a_stuck_plain_handler_is_reported_once_and_costs_one_slot",
        ),
    ],
    "kill -9 of one worker process under the supervisor": [
        holds(
            "ready again in < 250 ms",
            f"{PROCESSES}kill_9_of_a_supervised_process_brings_its_messages_back_at_once",
            *rounds("kill-workers"),
        ),
    ],
    "kill -9 of the supervisor": [
        holds(
            "children notice, give back, exit; nobody renews for the dead",
            f"{PROCESSES}kill_9_of_the_supervisor_ends_its_children_and_they_give_back",
            *rounds("kill-supervisors", "stop-supervisors-children-die"),
        ),
    ],
    "kill -9 of the whole host": [
        holds(
            "by any other worker within the lease and a second",
            f"{PROCESSES}any_other_worker_brings_back_what_a_lost_host_held",
            f"{REAP}pulling_consumers_reap_without_a_reaper",
            *rounds("kill-plain-workers"),
        ),
        holds(
            "by the cron reaper after the lease",
            f"{PROCESSES}without_supervisor_the_cron_reaper_brings_all_back_in_order",
        ),
    ],
    "SIGSTOP past the lease, then SIGCONT": [
        holds(
            "others finish the work, late acks are refused, it carries on",
            f"{PROCESSES}a_stopped_worker_loses_its_messages_and_carries_on_cleanly",
            f"{REAP}expired_but_living_consumer_goes_on",
            f"{REAP}declared_dead_consumer_goes_on_under_another_name",
            *rounds("stop-workers"),
            *builds("late_acks_are_accepted"),
        ),
        holds(
            "what BLMOVE put into its list meanwhile is not stranded",
            *rounds("stop-idle-workers"),
            *builds("reaper_forgets_the_inbox"),
        ),
    ],
    "reply of put / claim / ack / retry / reap lost after Redis ran it": [
        holds(
            "put: no second copy", f"{FAULTS}lost_reply_of_a_put", f"{NETWORK}a_put_whose_reply_is_lost_is_in_once"
        ),
        holds(
            "claim: the same consumer delivers it at once",
            f"{FAULTS}lost_reply_of_a_claim",
            f"{FAULTS}lost_reply_of_blmove",
            f"{NETWORK}a_lost_reply_is_delivered_by_the_same_worker_within_a_second_once",
            *builds("claim_without_reconcile"),
        ),
        holds("ack, retry, release, bury: once, never late", f"{FAULTS}lost_reply_of_a_settle"),
        holds("reap: each message is back once", f"{FAULTS}lost_reply_of_a_reap"),
        holds(
            "all of them at once, at work",
            f"{NETWORK}every_tenth_reply_lost_loses_and_doubles_nothing",
            *rounds("lost-replies", "lost-requests", "cut-replies", "resets"),
        ),
    ],
    "Redis killed -9 and restarted (AOF)": [
        holds(
            "reconnect with backoff and jitter, reconcile, go on",
            f"{NETWORK}redis_killed_and_restarted_loses_nothing_that_was_confirmed",
            f"{FAULTS}restart_is_survived",
            f"{WORKER}a_worker_goes_on_after_redis_was_away",
            "core/test_retry.py::test_backoff_is_bounded",
        ),
        holds("with appendfsync always nothing is lost", *rounds("kill-redis")),
        holds(
            "with everysec only the last second, and the lab names each put that it cost",
            *rounds("power-cut-everysec", "restart-redis"),
            "faults/test_checker.py::test_the_report_says_exactly_which_acknowledged_puts_a_rollback_took_back",
        ),
        holds("doctor says which one you have", "cli/test_doctor_server.py::test_choices_are_notes"),
    ],
    "Sentinel failover, Cluster failover, slot migration, and the errors that say not now": [
        holds(
            "Sentinel: workers resume by themselves, losses are what no replica had",
            f"{SENTINEL}workers_go_on_by_themselves",
            f"{SENTINEL}an_open_consumer_goes_on_after_a_failover",
            *rounds("sentinel-failover"),
        ),
        holds(
            "Cluster: the same",
            f"{CLUSTER}workers_go_on_after_kill_9_of_the_primary",
            f"{CLUSTER}a_dead_primary_is_left_for_its_heir",
            *rounds("cluster-failover"),
        ),
        holds(
            "a migrating slot costs nothing: MOVED, ASK, TRYAGAIN",
            f"{CLUSTER}workers_go_on_while_a_slot_is_migrated",
            *rounds("slot-migration"),
        ),
        holds(
            "UNBLOCKED, READONLY, MASTERDOWN",
            f"{DURABLE}a_primary_that_becomes_a_replica_and_back",
            *rounds("read-only-replica"),
        ),
        holds("NOREPLICAS, READONLY, OOM of a real server", f"{ERRORS}writes_that_are_refused"),
        holds("LOADING", f"{FAULTS}full_is_told_apart"),
        holds("BUSY", f"{ERRORS}busy", *rounds("busy-script")),
        holds("NOSCRIPT", f"{SCRIPTS}script_flush", *rounds("script-flush")),
        holds("MISCONF", f"{ERRORS}unable_to_save"),
        holds(
            "each of them told apart: refused or unknown",
            "core/test_outcome.py::test_refused",
            "core/test_outcome.py::test_unknown",
            *rounds("refusals"),
        ),
    ],
    "Redis out of memory (noeviction)": [
        holds(
            "puts are QueueFull; claim, ack, retry, reap and bury work, so the queue drains",
            f"{NETWORK}a_full_redis_refuses_puts_and_is_drained",
            f"{FAULTS}full_redis_drains",
            f"{SCRIPTS}out_of_memory",
            f"{SCRIPTS}drained_while_out_of_memory",
            *rounds("out-of-memory"),
        ),
    ],
    "partition, half-open connection, 200 ms latency, 1 byte at a time": [
        holds(
            "no loss",
            f"{FAULTS}unanswered_settle_is_told_and_done_later",
            *rounds("half-open", "black-hole", "latency", "delays", "trickle"),
        ),
        holds(
            "the lease is kept while a round trip takes less than a third of it",
            f"{NETWORK}a_lease_is_kept_while_a_round_trip_takes_less_than_a_third_of_it",
        ),
        holds(
            "otherwise the handler is told before the lease ends",
            f"{NETWORK}a_handler_that_is_cut_off_is_told_before_its_lease_ends",
        ),
    ],
    "client clocks wrong by hours": [
        holds(
            "no effect: only the server's clock counts",
            f"{TRIP}first_trip_of_an_idle_queue",
            f"{LUA_PUT}delay_and_time",
            f"{PUT}delay_counts_by_the_servers_clock",
            *rounds("clock-skew", "clock-skew-kill"),
            *builds("lease_by_the_clients_clock"),
        ),
    ],
    "poison message that kills every worker": [
        holds(
            "dead-lettered after N losses, with that cause",
            f"{REAP}poison_is_dead_lettered_after_so_many_losses",
            f"{LUA_REAP}poison_is_buried",
        ),
        holds(
            "what never reached a handler counts no loss",
            f"{LUA_REAP}only_what_was_started_is_charged",
            f"{LUA_REAP}nothing_started_charges_nothing",
            f"{LUA_REAP}inbox_counts_nothing",
            "test_supervisor.py::test_a_reap_that_failed_still_knows_what_had_started",
        ),
        holds(
            "a message with a loss is handed out alone",
            f"{REAP}suspect_is_handed_out_alone",
            f"{STATE}suspect_comes_alone",
            f"{PROCESSES}neighbours_of_a_poison_message_that_takes_long_are_not_buried_with_it",
        ),
        holds(
            "one among 1,000 at concurrency 8: exactly that one dies",
            f"{PROCESSES}one_segfaulting_message_dies_alone",
        ),
    ],
    "undecodable, truncated, 0-byte, 512 MB, wrong-version, wrong-type-key input": [
        holds(
            "kept and dead-lettered, never a crash loop",
            f"{NETWORK}garbage_among_good_messages_is_dead_lettered_each_with_its_reason",
            f"{CLAIM}undecodable_is_dead_lettered_with_its_reason",
            f"{CLAIM}unsupported_version_is_kept_as_it_is",
            f"{CLAIM}wrong_length_and_unknown_codec_die_as_such",
        ),
        holds(
            "near what the protocol can carry, too",
            f"{TRIP}raw_element_too_large_to_be_sent_back_is_kept_unread",
            f"{TRIP}huge_element_comes_alone",
        ),
        holds(
            "a key of another type is a clear error",
            f"{CLAIM}wrong_type_of_a_key_loses_nothing",
            f"{CLAIM}consumer_of_a_wrong_key_says_so_at_once",
            f"{PUT}key_of_another_type_is_refused",
        ),
        holds(
            "never blocks recovery",
            f"{REAP}undecodable_elements_do_not_stop_recovery",
            f"{LUA_REAP}undecodable_elements_stop_nothing",
        ),
    ],
    "SIGTERM": [
        holds(
            "finish within the grace, give back the rest in order, exit 0",
            f"{PROCESSES}sigterm_finishes_gives_back_and_exits_0",
            f"{WORKER}stop_finishes_what_runs_and_gives_back_the_rest_in_order",
            "cli/test_worker.py::test_sigterm_ends_it_with_0",
            *rounds("term-workers", "give-back-in-order"),
            *builds("release_goes_to_the_tail"),
        ),
        holds(
            "a second signal gives back at once",
            f"{PROCESSES}a_second_sigterm_gives_back_at_once",
            "cli/test_worker.py::test_second_signal_gives_back_at_once",
        ),
    ],
    "durability per put": [
        holds(
            "replicas=1 waits, and the receipt says what was confirmed",
            f"{DURABLE}the_receipt_says_what_was_confirmed",
            f"{DURABLE}a_shortfall_is_unknown_and_says_how_many",
        ),
        holds(
            "with exactly one replica, one failover loses no put that it has confirmed",
            *rounds("sentinel-failover-replicas", "cluster-failover-replicas"),
            *builds("a_put_does_not_wait"),
            "faults/test_checker.py::test_no_rollback_excuses_the_loss_of_what_a_replica_had",
        ),
        holds("fsync=True needs 7.2, and says so below", f"{DURABLE}fsync_needs_a_server_that_has_it"),
    ],
}

# -- part 9: hard cases -------------------------------------------------------------------------------------

HARD: dict[int, list[Clause]] = {
    1: [  # a check is not a hold
        holds(
            "a hand-over starts only while the lease, counted from sending, leaves margin",
            f"{STATE}lease_counts_from_sending",
            f"{STATE}the_lease_is_confirmed_after_what_was_lost_is_marked",
        ),
        holds(
            "by a clock that counts through suspend",
            f"{CASES}leases_are_counted_by_a_clock_that_goes_on_through_suspend",
        ),
        holds(
            "else a trip comes first", "test_loop.py::test_what_was_put_off_starts_when_its_lease_is_certain_again"
        ),
        holds(
            "the settle of a stale delivery is refused",
            f"{SETTLE}lost_lease_refuses_the_late_ack",
            f"{SETTLE}every_late_settle_is_refused",
            *builds("late_acks_are_accepted"),
        ),
        holds(
            "no claim succeeds after an accepted ack; the order is that of the server",
            "faults/test_checker.py::test_i5_claimed_after_an_accepted_ack",
            "faults/test_checker.py::test_i3_fences_out_of_order_at_the_server",
            MODEL,
        ),
    ],
    2: [  # what the server forgets
        holds(
            "a consumer makes its recent settles again and does not deliver them",
            f"{STATE}settles_survive_a_rollback",
            f"{STATE}another_server_is_asked_for_the_whole_list",
            f"{SENTINEL}what_a_failover_brings_back_is_settled_again",
        ),
        holds(
            "only after a rollback, and bounded",
            f"{STATE}ghosts_only_after_a_change_of_server",
            f"{STATE}an_id_put_again_is_no_ghost",
            f"{STATE}memory_of_settles_is_bounded",
        ),
        holds(
            "also where the same process comes back with another history (replid)",
            f"{DURABLE}a_primary_that_comes_back_without_its_last_acks",
        ),
        holds(
            "what else is delivered again has the cause rollback",
            f"{SENTINEL}what_is_delivered_again_after_a_failover_has_a_cause",
        ),
        holds("and is counted, and named by the lab", *rounds("power-cut-everysec", "sentinel-failover")),
    ],
    3: [  # atomic is not transactional
        holds(
            "types are checked and elements parsed before the first write",
            f"{SCRIPTS}wrong_type_loses_nothing",
            f"{CLAIM}wrong_type_of_a_key_loses_nothing",
            "lua/test_dead.py::test_an_element_that_begins_nowhere_writes_nothing",
        ),
        holds("ledger and counters fail nothing", f"{SCRIPTS}broken_ledger_stops_nothing"),
        holds("an error after a write is unknown", "core/test_outcome.py::test_unknown", f"{ERRORS}others"),
    ],
    4: [  # repeats need a sequence
        holds(
            "the last trip again returns the stored answer",
            f"{TRIP}repeat_changes_nothing",
            f"{STATE}unanswered_trip_is_repeated_unchanged",
            f"{STATE}lost_trip",
            f"{STATE}late_settle_of_a_lost_trip_stays_late",
            *builds("a_repeated_trip_runs_again"),
        ),
        holds(
            "an older one changes nothing, even after the goodbye",
            f"{TRIP}older_trip_is_stale",
            f"{STATE}ghost_of_an_old_trip_changes_nothing",
            f"{LEAVE}a_copy_of_a_trip_that_comes_after_the_goodbye",
            *rounds("ghosts"),
        ),
        holds(
            "claims and reads of the list are one script, at the primary",
            *builds("move_in_two_commands"),
            "lua/test_machine.py::test_model_and_scripts_agree",
        ),
    ],
    5: [  # puts
        holds("one put outstanding per series", f"{CASES}puts_at_once_have_series_of_their_own"),
        holds(
            "an unknown outcome freezes its series, and can be repeated after later puts",
            f"{CASES}a_series_whose_put_is_unknown_is_frozen",
            f"{FAULTS}unknown_put_can_be_repeated",
            f"{FAULTS}unknown_put_that_never_ran",
            f"{LUA_PUT}repeat_adds_nothing",
            *builds("put_is_a_bare_lpush", "unknown_counts_as_refused"),
        ),
        holds(
            "from another process by id=, which alone costs a marker",
            f"{PUT}explicit_id_adds_no_second_copy",
            f"{LUA_PUT}marker_dedupes_for_anybody",
        ),
        holds("idle producers are swept", f"{LUA_PUT}idle_producers_are_swept"),
        holds("put_many lists accepted, refused and unknown", f"{FAULTS}put_many_in_part"),
        holds("a producer that dies", *rounds("kill-producers")),
    ],
    6: [  # reconcile both ways
        holds("equal length hides no swap", f"{STATE}equal_length_hides_no_swap", f"{TRIP}epoch_after_a_reap"),
        holds(
            "held but absent: lost, and the handler is told",
            f"{STATE}held_but_absent_is_lost",
            f"{SETTLE}handler_learns_that_its_lease_is_lost",
        ),
        holds(
            "present but unknown is delivered",
            f"{STATE}present_but_unknown_is_delivered",
            f"{TRIP}belief_is_checked",
        ),
        holds(
            "present with an unknown settle: the settle again, no delivery",
            f"{STATE}lost_trip",
            f"{FAULTS}unanswered_settle_is_told_and_done_later",
        ),
    ],
    7: [  # two connections
        holds(
            "acks do not wait behind a block",
            f"{CASES}an_ack_does_not_wait_behind_a_claim_that_blocks",
            f"{CASES}a_worker_settles_while_its_bell_blocks",
        ),
        holds(
            "a trip every second while anything is in hand",
            f"{SETTLE}handler_learns_that_its_lease_is_lost",
            f"{FAULTS}lost_reply_of_a_claim",
        ),
        holds("settles of all threads pass through the loop", f"{SETTLE}settles_of_several_share_trips"),
        holds(
            "a BLMOVE that nobody read is no riddle",
            f"{FAULTS}lost_reply_of_blmove",
            f"{LUA_REAP}inbox_counts_nothing",
        ),
    ],
    8: [  # goodbye
        holds(
            "ends its own BLMOVE first, on lost connections too",
            "conformance/test_goodbye.py::test_goodbye_ends_the_blmoves_of_lost_connections_too",
            "conformance/test_bell.py::test_stop_before_the_bell_has_connected",
        ),
        holds(
            "else it only marks that it leaves",
            f"{LEAVE}leave_while_a_bell_may_ring",
            f"{LEAVE}leave_with_something_in_hand",
            f"{CASES}what_its_ghost_takes_after_a_goodbye_that_nobody_heard_comes_back",
        ),
        holds("renew is an upsert", f"{CASES}a_registration_that_is_gone_comes_back_with_the_next_trip"),
        holds(
            "lists that nobody registered are found by reapers and by workers",
            f"{REAP}lists_without_a_registration_are_adopted",
            f"{CASES}a_worker_finds_lists_that_nobody_registered",
            f"{LUA_REAP}stray_list_is_adopted",
            f"{LUA_REAP}strays_are_found",
            f"{TRIP}one_consumer_a_second_sweeps",
        ),
        holds("the index is written at each registration", f"{CASES}the_entry_in_the_index_is_written_again"),
    ],
    9: [  # names are never reused
        holds("host, pid, and a random incarnation", f"{CASES}names_are_never_used_again"),
        holds(
            "a dead name changes nothing any more",
            f"{TRIP}dead_name",
            f"{STATE}dead_name",
            f"{LUA_REAP}dead_mark",
            f"{LUA_REAP}dead_before_it_was_registered",
            f"{LEAVE}mark_of_a_dead_name_outlives_its_goodbye",
        ),
        holds(
            "a grandchild that keeps the socket takes nothing with it",
            f"{PROCESSES}a_grandchild_that_keeps_the_sockets_takes_no_message_with_it",
        ),
    ],
    10: [  # an outage longer than the lease
        holds(
            "no reap by lease until the server was up, or primary, for one",
            f"{REAP}no_reap_before_the_server_was_up_for_a_lease",
            f"{LUA_REAP}outage_expires_nobody",
            f"{LUA_REAP}outage_of_a_known_server",
            f"{TRIP}server_since_is_kept",
            f"{NETWORK}an_outage_longer_than_the_lease_expires_nobody",
        ),
        holds(
            "nor after Redis was silent",
            f"{OPS}no_lease_is_believed_to_be_over_for_one_lease_after_redis_was_silent",
            f"{NETWORK}a_reaper_doubts_an_answer_that_came_late",
            f"{NETWORK}a_redis_that_stood_still_expires_nobody",
            "test_outage.py::test_a_silence_of_half_a_lease_counts_as_cut_off",
            *rounds("pause-redis"),
        ),
        holds("nor after a jump of its clock", f"{CASES}a_jump_of_the_servers_clock_ends_nobodys_lease"),
        holds(
            "it comes back a lease later by itself",
            f"{REAP}who_died_long_before_the_server_started_waits_no_longer_than_a_lease",
        ),
        holds("the living are left alone", *rounds("idle-reapers"), *builds("reaper_does_not_look_at_the_lease")),
    ],
    11: [  # stopped is not alive
        holds("a stopped child is not renewed for", f"{PROCESSES}a_stopped_child_is_not_renewed_for"),
        holds(
            "nor one whose handler is past its timeout",
            f"{PROCESSES}a_hung_handler_is_replaced_under_the_supervisor",
            "test_supervisor.py::test_who_helps_itself_is_killed_only_after_the_grace",
        ),
        holds(
            "the cap on a held GIL is finite and documented",
            f"{CASES}a_silent_child_is_renewed_for_up_to_the_cap",
            "docs/test_defaults.py::test_table_of_defaults",
        ),
        holds(
            "children close the pipe's other end",
            f"{PROCESSES}kill_9_of_the_supervisor_ends_its_children_and_they_give_back",
        ),
        holds("and set PR_SET_PDEATHSIG", f"{CASES}the_kernel_tells_children_that_their_supervisor_is_gone"),
        holds("a stopped supervisor costs nothing", *rounds("stop-supervisors")),
    ],
    12: [  # poison isolation must not strand
        holds(
            "without a record that it started, a claimed message of a dead host counts as lost once",
            f"{REAP}reaper_returns_what_the_dead_held_in_order",
            f"{LUA_REAP}expired_consumer_is_reaped",
        ),
        holds(
            "hands that do not become empty decline suspects, uncounted and in order",
            f"{STATE}suspect_is_left_to_others",
            f"{STATE}patience_starts_anew",
            f"{TRIP}suspects_are_declined_in_order",
        ),
        holds(
            "with nobody else alive it runs beside the stuck slot",
            f"{PROCESSES}a_suspect_is_run_beside_a_stuck_slot_if_nobody_else_lives",
            f"{STATE}suspect_does_not_strand",
            f"{TRIP}suspect_beside_others",
        ),
        holds("what waits behind it is no hot loop", f"{WORKER}a_suspect_at_work_makes_no_hot_loop"),
    ],
    13: [  # identity
        holds(
            "raw bytes never enter later or dead",
            f"{CASES}equal_raw_messages_stay_two_in_a_sorted_set",
            f"{TRIP}raw_elements_are_wrapped",
            f"{STATE}equal_unreadable_messages_are_several_dead_letters",
        ),
        holds(
            "every return bumps, revive included",
            f"{ENVELOPE}bump",
            f"{STATE}counters_go_back_with_the_message",
            "lua/test_dead.py::test_attempts_begin_anew_and_the_fence_goes_on",
            *builds("no_fence"),
        ),
        holds("the fence has 32 bits", f"{ENVELOPE}vector_bump", "core/test_documents.py::test_offsets_are_right"),
        holds("promote pushes left", f"{TRIP}due_messages_go_behind"),
        holds("a Release that a handler raises waits a little", f"{SETTLE}a_handlers_verdicts"),
        holds(
            "causes live in the envelope as well as in the ledger",
            f"{ENVELOPE}deliveries_count_what_reached_a_handler",
        ),
        holds(
            "identical elements are told apart",
            f"{CLAIM}identical_foreign_elements_are_different_messages",
            f"{CLAIM}identical_envelopes_are_delivered_one_after_the_other",
            f"{NETWORK}identical_raw_messages_of_a_foreign_producer_are_each_processed",
        ),
    ],
    14: [  # recognising an envelope
        holds(
            "a header that is frozen across versions", f"{ENVELOPE}header_is_frozen", f"{ENVELOPE}vector_element"
        ),
        holds(
            "a valid checksum with a wrong length or version dies as such",
            f"{ENVELOPE}vector_undecodable",
            f"{ENVELOPE}every_bit_flip_is_seen",
            f"{CLAIM}wrong_length_and_unknown_codec_die_as_such",
        ),
        holds(
            "no valid checksum is a raw body", f"{ENVELOPE}every_truncation_is_a_raw_body", f"{ENVELOPE}vector_raw"
        ),
        holds(
            "Lua bumps only after this check",
            f"{LUA_REAP}undecodable_elements_stop_nothing",
            f"{TRIP}envelopes_are_left_as_they_are",
            f"{LUA_REAP}counters_stay_at_their_ends",
        ),
    ],
    15: [  # time in Redis
        holds(
            "at most so many elements or bytes a call",
            f"{TRIP}claim_is_bounded_by_bytes",
            f"{TRIP}promotion_is_bounded",
            f"{LUA_REAP}reap_is_bounded_by_bytes",
            f"{STATE}settles_are_bounded",
            f"{OPS}chunks_keep_order_and_bounds",
            "lua/test_dead.py::test_calls_are_bounded",
        ),
        holds(
            "one larger element goes alone",
            f"{TRIP}huge_element_comes_alone",
            f"{LUA_REAP}huge_element_goes_alone",
        ),
        holds(
            "and is quick",
            f"{SCRIPTS}a_thousand_settles_are_quick",
            f"{TRIP}large_elements_behind_small_ones_are_not_read_in_vain",
        ),
        holds("order is kept over several calls", f"{LUA_REAP}order_is_kept_over_bounded_calls"),
    ],
    16: [  # tags
        holds(
            "all keys of a queue in one slot, and none shared",
            f"{KEYS}one_slot",
            f"{KEYS}tags",
            f"{KEYS}two_queues_that_share_a_tag_share_no_key",
            f"{SCRIPTS}every_key_is_declared",
        ),
        holds(
            "a key whose slot no tag has is refused on Cluster",
            f"{CLUSTER}a_list_whose_slot_no_tag_has_is_refused",
        ),
    ],
    17: [  # slot migration
        holds(
            "TRYAGAIN, MOVED and ASK are certainly not executed, and tried again",
            f"{CLUSTER}a_put_waits_for_the_end_of_a_migration",
            f"{CLUSTER}a_command_that_asks_aside_is_run_there",
            f"{CLUSTER}an_idle_consumer_is_woken_after_its_slot_has_moved",
        ),
        holds("each is classed", "core/test_outcome.py::test_refused", "core/test_topology.py::test_redirections"),
    ],
    18: [  # WAIT
        holds(
            "script and WAIT share a connection, and a repeat writes too",
            f"{DURABLE}a_repeat_waits_too",
            f"{LUA_PUT}repeat_is_a_write",
        ),
        holds("a shortfall is unknown, with the receipt", f"{DURABLE}a_shortfall_is_unknown_and_says_how_many"),
    ],
    19: [  # claim check
        holds(
            "one script makes body and message last, or neither",
            f"{LUA_BESIDE}a_put_writes_message_and_body",
            f"{LUA_BESIDE}a_full_redis_refuses_a_put_whole",
            f"{BESIDE}a_body_that_cannot_be_brought_is_a_refusal",
            f"{BESIDE}a_late_copy_ends_no_body",
        ),
        holds(
            "only an accepted ack deletes the body",
            f"{LUA_BESIDE}an_accepted_ack_drops_the_body",
            f"{LUA_BESIDE}a_late_ack_drops_nothing",
        ),
        holds(
            "a missing body means reconcile, then LeaseLost",
            f"{BESIDE}a_body_that_somebody_has_acked_is_a_lost_lease",
        ),
        holds("bodies have no TTL", f"{LUA_BESIDE}a_put_writes_message_and_body"),
    ],
    20: [  # exclusive mode
        holds("a repeated trim, and what is pushed between the read and the trim, as a model", MODEL),
        holds(
            "each batch has a number, and the last one's answer is kept: repeats and old copies remove nothing",
            f"{LUA_EXCLUSIVE}an_ack_removes_exactly_the_batch_once",
            f"{LUA_EXCLUSIVE}a_repeated_read_is_the_same_batch_and_an_older_one_nothing",
            f"{LUA_EXCLUSIVE}nothing_is_lost_or_removed_unread",
            f"{EXCLUSIVE_FAULTS}lost_replies_lose_and_double_nothing",
        ),
        holds(
            "a trim compares the tail with what was read",
            f"{LUA_EXCLUSIVE}nothing_is_removed_or_marked_if_the_head_is_another",
            f"{EXCLUSIVE}what_was_pushed_to_the_head_meanwhile",
            f"{EXCLUSIVE_FAULTS}pushes_to_the_head_reaps_and_sleepers_beside_it",
        ),
        holds(
            "granted only while no consumer holds anything; registering is refused while it is held",
            f"{LUA_EXCLUSIVE}not_while_others_live_or_hold_anything",
            f"{LUA_EXCLUSIVE}nobody_registers_or_claims_while_it_is_held",
            f"{EXCLUSIVE}there_is_one_holder_and_no_consumer_beside_it",
        ),
        holds("elements are enveloped in place", f"{LUA_EXCLUSIVE}a_batch_stays_where_it_is"),
        holds(
            "a takeover bumps fence and loss, then halves down to the poison",
            f"{LUA_EXCLUSIVE}a_poison_is_found_by_halves_and_its_neighbours_live",
            f"{LUA_EXCLUSIVE}losses_in_company_never_bury",
            f"{EXCLUSIVE_FAULTS}rows_are_copied_in_order_through_kills",
            f"{EXCLUSIVE_FAULTS}who_wakes_up_after_a_takeover_removes_nothing",
        ),
    ],
    21: [  # cron reaper
        holds(
            "recovery is lease plus period; the sweep of a second is for workers and Reaper.run()",
            f"{PROCESSES}without_supervisor_the_cron_reaper_brings_all_back_in_order",
            f"{REAP}running_reaper_stops",
            "cli/test_status.py::test_a_dead_workers_messages_come_back",
        ),
    ],
}

DOCUMENTS_SAY = {
    2: "puts of that time can be gone, acked messages can appear again, and fences may repeat",
    20: "it takes is gone, and order is too",
    21: "within the lease (15 s) plus the time between two passes",
}
"""What a case wants README.md, or a document in docs/, to say."""

# -- the README's table -------------------------------------------------------------------------------------

README: dict[str, list[str]] = {
    "a handler raises, or calls `sys.exit`": ["handler raises or calls sys.exit"],
    "a handler segfaults, hangs past its `timeout`, or keeps the GIL": [
        "handler hangs, leaks memory, holds the GIL, segfaults"
    ],
    "`kill -9` of a supervised worker process": ["kill -9 of one worker process under the supervisor"],
    "`kill -9` of the supervisor": ["kill -9 of the supervisor"],
    "loss of a whole host": ["kill -9 of the whole host"],
    "a process sleeps through its lease (SIGSTOP, suspend)": ["SIGSTOP past the lease, then SIGCONT"],
    "the reply of a put, claim, settle or reap is lost after Redis ran it": [
        "reply of put / claim / ack / retry / reap lost after Redis ran it"
    ],
    "Redis is killed and restarted, or away for longer than a lease": [
        "Redis killed -9 and restarted (AOF)",
        "9.10",
    ],
    "Redis is out of memory (`noeviction`)": ["Redis out of memory (noeviction)"],
    "a message kills every worker": ["poison message that kills every worker"],
    "garbage, cut or foreign bytes, a later format, 0 bytes, 10 MB": [
        "undecodable, truncated, 0-byte, 512 MB, wrong-version, wrong-type-key input"
    ],
    "a clock of a worker or producer is wrong": ["client clocks wrong by hours"],
    "SIGTERM": ["SIGTERM"],
    "a task is cancelled in a claim, a handler or an ack": ["cancelled"],
    "the primary fails over, by Sentinel or in a Cluster": [
        "Sentinel failover, Cluster failover, slot migration, and the errors that say not now",
        "durability per put",
    ],
    "a Cluster slot is migrated": [
        "Sentinel failover, Cluster failover, slot migration, and the errors that say not now"
    ],
    "an exclusive holder dies, sleeps or loses replies, or somebody pushes to the head": ["9.20"],
    "whoever fires the ticks of schedules dies at any moment, or replies are lost": ["ticks"],
    "a worker of several queues or levels dies, or loses replies": ["priorities"],
    "workers, or producers, of groups die, or lose replies": ["groups"],
    "workers of messages of tenants die, or lose replies": ["tenants"],
    "workers of messages with ordering keys die, or lose replies": ["ordering keys"],
    "workers or producers of unique messages die, or lose replies": ["unique"],
    "workers die, or lose replies, while their results are waited for": ["results"],
    "workers of an idempotent handler die, or lose replies": ["idempotent"],
    "workers of a queue with a limit die, or lose replies": ["limits"],
    "whoever cancels, or has the cancelled message in hand, dies, or a claim comes between": ["called off"],
    "a worker dies in the middle of a batch": ["batches"],
    "workers that have no handler for a type die, or lose replies": ["unrouted"],
    "a process forks": ["forked"],
}
"""Row of the README -> the promises (and cases) that it stands for."""

MORE: dict[str, list[Clause]] = {
    "cancelled": [
        holds(
            "nothing is stranded; an ack is still made",
            f"{AIO}cancelled_claim_strands_nothing",
            f"{AIO}cancelled_handler_releases",
            f"{AIO}cancelled_ack_is_done",
            f"{AIO}cancellation_at_any_point",
        ),
    ],
    "ticks": [
        holds(
            "each tick is exactly one message",
            "faults/test_schedules.py::test_each_tick_is_one_message_through_kills_and_lost_replies",
            "faults/test_schedules.py::test_workers_are_schedulers",
            "faults/test_schedules.py::test_killed_at_its_worst_moment",
            "faults/test_schedules.py::test_copies_that_run_late",
            "lua/test_schedules.py::test_each_tick_once",
            "core/test_schedule.py::test_any_interleaving_gives_each_tick_once",
        ),
        holds(
            "none is left out by a crash, a failover or a full Redis",
            "core/test_schedule.py::test_a_little_late_is_not_missed",
            "lua/test_schedules.py::test_out_of_memory_keeps_the_tick",
            "conformance/test_schedule.py::test_out_of_memory_and_restart",
            "replicated/test_schedules.py::test_ticks_go_on_after_a_failover",
        ),
    ],
    "priorities": [
        holds(
            "nothing lost, and the order holds",
            "faults/test_priorities.py::test_kill_9_with_messages_of_several_levels_claimed_ahead",
            "faults/test_priorities.py::test_every_tenth_reply_lost_of_several_levels",
        ),
    ],
    "groups": [
        holds(
            "each is handled, and none is out of sight",
            "faults/test_groups.py::test_groups_outlive_kills_and_lost_replies",
            "lua/test_groups.py::test_a_repeated_put_adds_nothing",
            "lua/test_groups.py::test_a_large_group_comes_in_parts",
        ),
    ],
    "tenants": [
        holds(
            "no more in hand than the limit, and no place leaks",
            "faults/test_tenants.py::test_limits_outlive_kills_and_lost_replies",
            "lua/test_shares.py::test_no_more_in_hand_than_the_limit",
            "lua/test_shares.py::test_a_late_settle_gives_no_place",
            "lua/test_shares.py::test_repeated_trip_counts_once",
        ),
        holds(
            "nobody starves",
            "lua/test_shares.py::test_each_gets_its_share",
            "lua/test_shares.py::test_many_tenants",
        ),
    ],
    "ordering keys": [
        holds(
            "one at a time, in order, and no turn is lost",
            "faults/test_ordering.py::test_order_outlives_kills_and_lost_replies",
            "lua/test_lanes.py::test_what_ends_one_gives_the_turn_to_the_next",
            "lua/test_lanes.py::test_what_goes_back_keeps_its_turn",
            "lua/test_lanes.py::test_a_repeated_trip_passes_it_once",
        ),
    ],
    "unique": [
        holds(
            "keys are free in the end, and held by one",
            "faults/test_unique.py::test_keys_are_free_in_the_end",
            "lua/test_unique.py::test_one_per_key",
            "lua/test_unique.py::test_a_repeat_is_told_the_same",
            "lua/test_unique.py::test_poison",
            "conformance/test_unique.py::test_lost_replies",
        ),
    ],
    "results": [
        holds(
            "each wait ends, with the right result",
            "faults/test_results.py::test_every_wait_ends_with_what_was_done",
        ),
    ],
    "idempotent": [
        holds("once for each key, and none stays locked", "faults/test_idempotent.py::test_a_key_is_done_once"),
    ],
    "limits": [
        holds(
            "never more, and hardly ever fewer",
            "faults/test_gate.py::test_never_eleven_and_hardly_ever_fewer_than_nine",
            "lua/test_gate.py::test_at_once",
            "lua/test_gate.py::test_a_repeat_spends_nothing",
        ),
    ],
    "batches": [
        holds(
            "each is handled, and only what was in that batch again",
            "faults/test_batches.py::test_kill_9_in_the_middle_of_a_batch",
            "faults/test_batches.py::test_a_batch_that_hangs",
            "faults/test_batches.py::test_a_host_that_is_lost_with_what_was_gathering",
        ),
        holds(
            "poison dies alone",
            "faults/test_batches.py::test_one_poisonous_message_of_a_batch_dies_alone",
            "conformance/test_batches.py::test_a_suspect_is_a_batch_of_its_own",
            "test_batching.py::test_a_suspect_goes_alone",
        ),
    ],
    "unrouted": [
        holds(
            "kept for whoever handles it",
            "faults/test_routing.py::test_kept_for_whoever_handles_it",
            "lua/test_trip.py::test_what_nobody_handles_waits",
            "conformance/test_routing.py::test_a_type_that_nobody_handles_waits",
        ),
    ],
    "called off": [
        holds(
            "handled or cancelled",
            "faults/test_waiting.py::test_handled_or_cancelled_never_both_never_neither",
            "faults/test_waiting.py::test_a_cancelled_message_ends_if_its_worker_is_killed",
            "faults/test_waiting.py::test_kill_9_of_who_cancels",
        ),
    ],
    "forked": [
        holds("own connections; an inherited consumer raises", "conformance/test_fork.py::test_fork"),
        holds("under a running event loop, too", f"{AIO}fork_under_a_running_loop"),
    ],
}
"""What the README promises beyond parts 4 and 9."""


def of(name: str) -> list[Clause]:
    """The clauses of a promise, or of a case as "9.10"."""
    return HARD[int(name[2:])] if name.startswith("9.") else (PROMISES | MORE)[name]


def everything() -> Iterator[Clause]:
    for clauses in (*PROMISES.values(), *HARD.values(), *MORE.values()):
        yield from clauses


# -- the audit ----------------------------------------------------------------------------------------------

COLLECT = """
import sys, json, pytest

class Names:
    def pytest_collection_finish(self, session):
        found = {item.nodeid: item.get_closest_marker("xfail") is not None for item in session.items}
        print("COLLECTED", json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Names()]))
"""


@pytest.fixture(scope="module")
def collected() -> dict[str, list[bool]]:
    """Name of a test, with and without its parameters -> for each of its items whether it is an xfail."""
    files = sorted({f"tests/{test.partition('::')[0]}" for clause in everything() for test in clause.tests})
    run = subprocess.run([sys.executable, "-c", COLLECT, *files], cwd=ROOT, capture_output=True, text=True)
    listed = re.search("^COLLECTED (.*)$", run.stdout, re.MULTILINE)
    assert listed, run.stdout[-3000:] + run.stderr[-3000:]
    names: dict[str, list[bool]] = {}
    for node, xfail in json.loads(listed[1]).items():
        name = node.removeprefix("tests/")
        for each in {name, name.partition("[")[0]}:
            names.setdefault(each, []).append(xfail)
    return names


def test_every_clause_has_tests_that_exist(collected: dict[str, list[bool]]) -> None:
    """Under exactly these names, or somebody has taken the proof away."""
    assert [clause.what for clause in everything() if not clause.tests] == []
    missing = sorted({test for clause in everything() for test in clause.tests if test not in collected})
    assert missing == []


def test_what_is_not_kept_is_known(collected: dict[str, list[bool]]) -> None:
    """Exactly the open clauses rest on strict xfails: none hides in a kept one, and none is open that works."""
    for clause in everything():
        marks = [mark for test in clause.tests for mark in collected.get(test, [])]
        assert any(marks) is not clause.kept, clause.what


def test_no_case_is_left_out() -> None:
    """Part 9 has 21 of them."""
    assert sorted(HARD) == list(range(1, 22))


def test_the_documents_say_what_cases_want_them_to_say() -> None:
    """A limit that only the tests know is a trap."""
    text = " ".join(documents.everything().split())
    assert [case for case, words in DOCUMENTS_SAY.items() if words not in text] == []


def rows() -> dict[str, list[str]]:
    """The README's table of promises: what happens -> the files that it names."""
    section = documents.README.read_text("utf-8").partition("\n## Promises\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {line[0].strip(): re.findall("`tests/([^`]+)`", line[2]) for line in lines[1:]}


def test_every_promise_of_the_readme_is_here() -> None:
    """Row by row, in its words; and every file that a row names has a test of that promise."""
    assert list(rows()) == list(README)
    for row, files in rows().items():
        known = {test.partition("::")[0] for name in README[row] for c in of(name) if c.kept for test in c.tests}
        assert files, row
        assert set(files) <= known, row
