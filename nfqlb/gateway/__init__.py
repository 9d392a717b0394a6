"""The running gateway: its processes, the memory that they share, and what they tell the kernel. Lowest floor first:
host, shm, runtime, stats, netfilter, worker, then a package for each topic (health, dns, bans, ha, backends),
preflight, plan, supervisor. Of a topic, `plan` is what the configuration wants (frozen values) and `manager` what the
supervisor does about it.
"""
