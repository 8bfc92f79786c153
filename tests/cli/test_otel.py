"""`reliq worker` with OpenTelemetry: spans of the processes that it forks, in the trace of who has put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reliq.telemetry import otel
from tests.cli.conftest import Commands

HANDLERS = """
import reliq
from reliq.telemetry import otel

def set_up():  # in each process, before its first span
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(out=open("spans", "a"), formatter=lambda span: span.to_json(None) + "\\n")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown

otel.instrument(setup=set_up)
emails = reliq.Queue("emails")

@emails.ack
def send(body):
    pass
"""


def test_spans_of_another_process(commands: Commands, tmp_path: Path) -> None:
    """The exporter's thread starts in the forked process; its span is below that of the put, made here."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.instrument(provider)
    try:
        with commands.queue("emails") as queue:
            id = queue.put(1)
    finally:
        otel.uninstrument()
    result = commands.process("worker", "handlers", "--until-empty")
    assert result.status == 0, result.err
    (span,) = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert span["name"] == "process emails"
    assert span["attributes"]["messaging.message.id"] == id
    assert span["kind"] == "SpanKind.CONSUMER"
    (put,) = exporter.get_finished_spans()
    assert (span["context"]["trace_id"], span["parent_id"]) == (
        f"0x{put.context.trace_id:032x}",
        f"0x{put.context.span_id:016x}",
    )


def test_switched_on_by_the_environment(commands: Commands, tmp_path: Path) -> None:
    """RELIQ_OTEL=1: to the global provider; without one nothing is made, and nothing fails."""
    (tmp_path / "plain.py").write_text(
        "import reliq\nq = reliq.Queue('emails')\n@q.ack\ndef send(body):\n"
        "    print(hasattr(reliq.Queue.put, '__wrapped__'), flush=True)\n"
    )
    for switch, wrapped in (("1", "True\n"), ("0", "False\n")):
        with commands.queue("emails") as queue:
            queue.put(1)
        result = commands.process("worker", "plain", "--until-empty", RELIQ_OTEL=switch)
        assert (result.status, result.out) == (0, wrapped), result.err


def test_without_the_package(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the extra, exit status 2."""
    monkeypatch.setenv("RELIQ_OTEL", "1")
    monkeypatch.setitem(__import__("sys").modules, "reliq.telemetry.otel", None)
    monkeypatch.delattr("reliq.telemetry.otel")
    monkeypatch.chdir(tmp_path)
    result = commands("worker", "nothing")
    assert result.status == 2
    assert "pip install 'reliq[otel]'" in result.error
