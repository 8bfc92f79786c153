"""The command line: one module per verb, each with a ``VERB``; what they share stands beside them."""

from reliq.cli.program import main

__all__ = ["main"]
