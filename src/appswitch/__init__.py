"""AppSwitch: the network calls of unmodified programs, decided by a daemon; their data untouched."""

__version__ = "0.1.0"
