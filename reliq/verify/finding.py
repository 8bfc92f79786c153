"""What a check is, and what it finds: one promise, what was done to it, and whether it holds on this Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from reliq.core.reasons import Reason
from reliq.errors import AccessDenied, ReliqError

if TYPE_CHECKING:
    from reliq.verify.site import Site

_REPORT: Final = "report it, with this text and the version of reliq"
#: An outage is no broken promise.
_RESTARTED: Final = "Redis was restarted, or another one took over, in the middle of it"
_AGAIN: Final = "run it again"


class Verdict(str, Enum):
    """``CANNOT``: this server does not give what it needs, whatever reliq does. ``BROKEN``: reliq's own fault."""

    HOLDS = "holds"
    CANNOT = "cannot hold here"
    SKIPPED = "skipped"
    BROKEN = "broken"


class Ruling(Exception):
    """Ends a check with another verdict than HOLDS. ``next``: what to do now; ``code``: of ``reliq errors``."""

    verdict = Verdict.BROKEN

    def __init__(self, reason: str, next: str = "", code: Reason | None = None) -> None:
        super().__init__(reason)
        self.reason, self.next, self.code = reason, next, code


class Broken(Ruling):
    """The promise was seen not to hold; the reason is the evidence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, _REPORT)


class Cannot(Ruling):
    """The server does not give what the promise needs; ``next`` is the setting to change."""

    verdict = Verdict.CANNOT

    @classmethod
    def because(cls, code: Reason, reason: str) -> Cannot:
        """For a reason of the vocabulary, which knows the remedy."""
        return cls(reason, code.remedy, code)


class Skipped(Ruling):
    """It could not be tried here, or should not be; the reason says why."""

    verdict = Verdict.SKIPPED


class Unusable(AccessDenied):
    """reliq cannot work on this Redis as this user, so nothing can be tried. Ends the visit."""


class Finding(NamedTuple):
    """The outcome of one check. ``reason``: what was seen; ``next``: what to do now, if anything; ``code``: of the
    reason, if it has one; ``seconds``: how long it took."""

    check: str
    promise: str
    did: str
    verdict: Verdict
    reason: str
    next: str = ""
    code: Reason | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """One promise and the way to try it. ``run`` does what ``did`` says and returns what was seen, if the promise
    held; else it raises a Ruling."""

    name: str
    promise: str
    did: str
    run: Callable[[Site], str]

    def examine(self, site: Site) -> Finding:
        """Try it. Raises only what ends the whole visit: Redis is gone or unusable, or the user wants to stop."""
        started, server = time.monotonic(), site.incarnation()
        found = self._find(site)
        if found.verdict is Verdict.BROKEN and site.incarnation() != server:  # raises if it does not answer
            found = found._replace(verdict=Verdict.SKIPPED, reason=f"{_RESTARTED}; {found.reason}", next=_AGAIN)
        return found._replace(seconds=round(time.monotonic() - started, 3))

    def _find(self, site: Site) -> Finding:
        found = Finding(self.name, self.promise, self.did, Verdict.HOLDS, "")
        try:
            return found._replace(reason=self.run(site))
        except Unusable:
            raise
        except Ruling as ruling:
            return found._replace(verdict=ruling.verdict, reason=ruling.reason, next=ruling.next, code=ruling.code)
        except AccessDenied as error:
            return found._replace(verdict=Verdict.SKIPPED, reason=str(error), next=Reason.MISSING_RIGHTS.remedy)
        except Exception as error:  # noqa: BLE001 - whatever a broken build raises is the finding
            kind = error.code if isinstance(error, ReliqError) else type(error).__name__
            return found._replace(verdict=Verdict.BROKEN, reason=f"{kind}: {error}", next=_REPORT)


def check(name: str, promise: str, did: str) -> Callable[[Callable[[Site], str]], Check]:
    """Make a Check of the function that runs it."""
    return lambda run: Check(name, promise, did, run)
