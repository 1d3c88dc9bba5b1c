"""Pure decisions: a flow and the tables give a verdict. No socket, no clock, no randomness of its own."""
