"""The switch: answers the system calls of apps. One thread, one loop, never waits. See ARCHITECTURE.md."""
