"""The shells of the conformance suite."""

from tests.conformance.conftest import sh

__all__ = ["sh"]
