"""Emulated links between an edge and a cloud on one machine: bandwidth, delay, jitter and loss.

Two network namespaces are joined by a veth pair and shaped by the kernel. A relay in user space
(`relay.py`) does what the kernel lacks, and everything where namespaces are not permitted.
"""
