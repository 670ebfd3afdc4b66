"""Links between an edge and a cloud on one machine: bandwidth, delay, jitter and loss.

Two network namespaces joined by veth, shaped by the kernel as far as it can; what it lacks, a relay
in user space does (`relay.py`), which also does everything where namespaces are not permitted.
"""
