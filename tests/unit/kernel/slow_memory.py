"""A user's file system that never answers a read, and a page of memory behind it: PLACE; prints pid and address.

Mounted for that user by root, as fusermount3(1) does. (In a user namespace it harms nobody outside: the kernel does not
send it a request of a user whom it does not know.) The protocol is that of linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import threading

USER = 100_000 + os.getpid()  # of its own: what is ended is all that a user has
CLONE_NEWNS, MS_NOSUID_NODEV, MS_PRIVATE, MS_REC = 0x00020000, 6, 1 << 18, 1 << 14
FORGET, LOOKUP, GETATTR, OPEN, READ, INIT, BATCH_FORGET = 2, 1, 3, 14, 15, 26, 42
ENOSYS = 38
HEADER = struct.Struct("=IIQQIIIHH")
SIZE, DIRECTORY, FILE = 4096, 0o040755, 0o100644
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    """Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attributes(inode: int) -> bytes:
    """struct fuse_attr."""
    mode = DIRECTORY if inode == 1 else FILE
    return struct.pack("=6Q3I7I", inode, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, SIZE, 0)


def answer(opcode: int) -> bytes | None:
    """What a request gets, or None: ENOSYS."""
    match opcode:
        case 26:  # INIT
            return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)
        case 1:  # LOOKUP
            return struct.pack("=4Q2I", 2, 0, 100, 100, 0, 0) + attributes(2)
        case 14:  # OPEN
            return struct.pack("=QII", 1, 0, 0)
    return None


def serve(device: int) -> None:
    """Answer everything but reads."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # ENODEV: it was ended
            return
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        if opcode in (READ, FORGET, BATCH_FORGET):
            continue
        data = struct.pack("=QII", 100, 0, 0) + attributes(node) if opcode == GETATTR else answer(opcode)
        body = data or b""
        os.write(device, struct.pack("=IiQ", 16 + len(body), 0 if data is not None else -ENOSYS, unique) + body)


def main() -> None:
    """See above."""
    place = sys.argv[1].encode()
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={USER},group_id={USER}".encode()
    check(libc.mount(b"slow", place, b"fuse", MS_NOSUID_NODEV, options))
    threading.Thread(target=serve, args=(device,), daemon=True).start()
    within = os.open(place, os.O_PATH)  # whoever it becomes may not walk there
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    file = os.open("file", os.O_RDONLY, dir_fd=within)
    memory = mmap.mmap(file, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(file)  # else the end of this process would wait for this process
    print(os.getpid(), ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
    threading.Event().wait()


main()
