"""How fast reliq is: each bar measured beside what it is compared with, in turn, in one run.

One file per group of bars. A group has ``BARS`` and ``measure(lab)``, which returns a Figure for each bar by name;
how a bar is measured stands in the docstring of its file. ``textbook`` and ``limit`` are what reliq is compared
with, ``ours`` and ``child`` run reliq, ``report`` and ``plots`` show what came out.
"""
