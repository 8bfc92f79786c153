"""Whatever comes from outside, in every wrong shape: elements, keys, replies, URLs, command lines.

`python -m tests.fuzz.envelopes --count 1000000 --seed 1` sends a million malformed envelopes through the parser
and through a real server with a real worker, and prints what became of each kind.
"""
