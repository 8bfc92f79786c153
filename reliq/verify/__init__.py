"""``reliq verify``: do the promises hold on this very Redis? The faults that disturb nobody else, tried for real.

A visit is a ``Site`` (one Redis, a prefix of its own, own processes, nothing of which stays) and the ``CHECKS``,
one after the other; each ends with a ``Finding``. What would disturb others (a restart, a full memory, a failover)
is not tried: ``durability`` reads from the settings what would become of it, and ``UNTRIED`` says so.

Left alone are: every key outside of that prefix, all settings, the script cache, and the connections of others.
"""
