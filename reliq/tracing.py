"""A queue that traces a share of the messages which are put by it; imported when there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from reliq.core import envelope as env
from reliq.core import trace
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.lanes import Lane
from reliq.core.ops import Confirm, Due, Only, put
from reliq.identity import host_name, program
from reliq.model import QueueOptions
from reliq.producer import Producer, Producers
from reliq.putting import PLAIN


@dataclass(frozen=True, eq=False, repr=False)
class TracingOptions(QueueOptions):
    """Those of a queue that traces a share of the messages which are put by it, 0 to 1."""

    share: float

    def _meta(
        self,
        raw_id: bytes = b"",
        id: str | None = None,
        extra: env.Meta = PLAIN,
        *,
        traced: bool = False,
        ticket: bytes = b"",
    ) -> bytes:
        traced = traced or (raw_id != b"" and trace.sampled(raw_id, self.share))
        return super()._meta(raw_id, id, extra, traced=traced, ticket=ticket)

    def _seal_all(self, ids: list[bytes], bodies: Sequence[bytes], extra: env.Meta) -> list[bytes]:
        metas = self._meta(extra=extra), self._meta(extra=extra, traced=True)
        return [
            env.seal(id + metas[trace.sampled(id, self.share)] + body)
            for id, body in zip(ids, bodies, strict=True)
        ]

    def traces(self, id: bytes) -> bool:
        return trace.sampled(id, self.share)

    def producers(self) -> Producers:
        return Producers(self.keys, partial(TracingProducer, share=self.share))

    @property
    def most_at_once(self) -> int:
        return trace.MOST_PUTS


class TracingProducer(Producer):
    """That of a queue which traces a share of its messages: of those, the put is written down."""

    def __init__(self, keys: Keys, share: float) -> None:
        super().__init__(keys)
        self.share = share

    def put(
        self,
        elements: Sequence[bytes],
        due: Due,
        marker: str,
        confirm: Confirm,
        only: Only | None = None,
        *,
        lane: Lane | None = None,
    ) -> Command:
        ids = (element[env.CHECKED_FROM : env.META_FROM] for element in elements)
        traced = [id for id in ids if trace.sampled(id, self.share)]
        if not traced:
            return super().put(elements, due, marker, confirm, only, lane=lane)
        self.sequence += 1
        told = trace.Told(f"{host_name()}:{os.getpid()}", program(), traced)
        return put(self.keys, self.name, self.sequence, elements, due, marker, confirm, told, only, lane)
