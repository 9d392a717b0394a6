"""The worker process: a queue of packets in, verdicts out, counters, and what it does when there is more than it can
do.
"""
