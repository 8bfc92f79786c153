"""The blocking shell: the pure core over redis-py's sync connections, threads and processes."""
