"""Faults: what must hold while the network, Redis or a process misbehaves."""
