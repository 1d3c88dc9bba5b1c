"""The daemon's asyncio half: REST for users, registrations, and a mirror of what the switch knows.

It is a process of its own so that system calls never wait for an interpreter lock that a request holds, and it may be
restarted at any time: what apps are and have is known to the switch, which tells it again (`link.SwitchLink`).
"""
