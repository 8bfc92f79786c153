"""What other queues call what reliq has, for whoever comes from there: an AttributeError that says its name here.

Imported when the first such name is met.
"""

from __future__ import annotations

from typing import Final

_HERE: Final = {
    "put(body)": (
        "add add_job add_task append apply apply_async basic_publish call delay dispatch enqueue enqueue_job kick "
        "kiq lpush produce publish push put_nowait queue_task rpush schedule_task send send_message send_task "
        "submit submit_job"
    ),
    "put(body, delay=seconds), or at= a datetime with a zone": (
        "delayed enqueue_after enqueue_at enqueue_in perform_at perform_in put_in put_at schedule_once "
        "send_with_options"
    ),
    "put_many(bodies)": "add_bulk add_many bulk_add enqueue_all enqueue_many extend push_many put_all send_many",
    "ack, a decorator: @q.ack": (
        "actor consume handle handler job listen on process register register_task subscribe subscriber task"
    ),
    "consumer(): with q.consumer() as c: for lease in c: with lease: …": (
        "blpop brpop claim dequeue fetch get get_message get_nowait lease lpop peek_lock pop receive "
        "receive_messages reserve rpop"
    ),
    "size(), which has .ready .doing .later .dead": "count depth empty full is_empty len length llen qsize stats",
    "ack of what was claimed, not of the queue: lease.ack()": "complete done nack reject task_done",
    "a Worker of the handler: reliq.Worker(handler).run(), or reliq worker module": (
        "perform run run_worker serve start start_worker work worker"
    ),
    "a Worker that stops at empty: reliq.Worker(handler, until_empty=True).run()": "burst join run_until_empty",
    "schedule(name, body, cron=), or every= seconds": (
        "add_periodic_task cron cron_task every interval periodic periodic_task repeat_every scheduled"
    ),
    "cancel(id)": "abort abort_job cancel_job delete discard kill remove revoke",
    "explain(id)": "fetch_job find find_job get_job get_status inspect job_status lookup status",
    "result(id, timeout)": "async_result fetch_result get_result wait_for",
    "purge()": "clear delete_all drop empty_queue flush obliterate truncate",
    "revive(id), and reliq dead ls shows what died": (
        "dead dead_letters dlq failed failed_jobs get_failed redrive requeue retry retry_job"
    ),
    "limit(rate=, concurrency=)": "rate_limit set_limit set_rate throttle",
    "reschedule(id, delay=)": "change_delay change_visibility postpone promote snooze",
    "pause()": "hold stop suspend",
    "resume()": "unpause",
}
_NAMES: Final = {name: here for here, names in _HERE.items() for name in names.split()}


def unknown(asked: object, name: str) -> AttributeError:
    """For a name that a queue has not."""
    said = f"{type(asked).__name__!r} object has no attribute {name!r}"
    here = _NAMES.get(name)
    if here is not None:
        said += f"; in reliq it is {here}"
    return AttributeError(said, name=name, obj=asked)
