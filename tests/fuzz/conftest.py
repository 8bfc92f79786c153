"""The fixture `sh` of tests/conformance: a test runs in the blocking shell and in that of asyncio."""

from tests.conformance.conftest import sh

__all__ = ["sh"]
