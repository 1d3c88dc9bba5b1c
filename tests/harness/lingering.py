"""Source that scripts of tests begin with: a socket whose close(2) would take ten minutes. socket(7), SO_LINGER."""

LINGERING = """
import socket, struct

def lingering():
    # A listener that does not read, and a connection to it that has something to send which nobody takes.
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one = socket.create_connection(listener.getsockname())
    one.setblocking(False)
    try:
        while True:
            one.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    one.setblocking(True)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
    return listener, one
"""
