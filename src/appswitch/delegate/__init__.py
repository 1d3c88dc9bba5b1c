"""Socket delegation: live sockets, and what is known of them, go from the daemon to a proxy. See docs/delegation.md.

- `server.Delegation`: a proxy's side, an asynchronous iterator of connections
- `client`: a program hands its own sockets over
- `proxyprotocol`, `metadata`, `messages`: the bytes, as functions without I/O
"""
