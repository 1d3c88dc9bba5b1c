"""Linux as typed Python: everything here knows the kernel and nothing of AppSwitch."""
