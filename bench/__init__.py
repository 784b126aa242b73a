"""Measurements, always beside a ruler in the same run: figures of two days, or two machines, don't compare.

    floor     the ruler: the stock client at both ends, and between them a server that does nothing but pass messages on
    warm      calls and maps on a running platform, as ratios to the ruler
    spawn     how many inputs are accepted, how steadily, and what they cost in memory
    hello     where the time of a cached `modal run examples/hello.py` goes
    state     requests of dicts and queues, beside a bare RPC; what consumers cost that wait
    web       a web app, beside a null edge: first bytes, requests a second, large bodies
    cold      calls of functions of which nothing runs, beside other ways to start Python; where the time goes
    web_server  the relay to a container's own server, beside nginx
    run       all of these but the last two, one after the other (`make bench`)

Each runs as `.venv/bin/python -m bench.NAME`, prints a table, and with --json one object on stdout. The interpreter is part of the
result: an unoptimised build of Python is a third slower than Debian's.
"""
