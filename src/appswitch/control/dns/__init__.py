"""The DNS server that apps are answered by: names of apps from what runs, the rest from upstream servers.

::

    intake    sockets come from the switch       ─┐
    server    UDP and TCP, an app's limits        │ sockets and asyncio
    upstream  one exchange with one server       ─┘
    resolver  what is asked, to what is answered: quick, zone, cache, forward, permits
    query, render, zone, apps, cache, quick, answer, asker    pure: no socket, no clock of their own
"""
