"""The command line: reads arguments and the clock, calls a use case, shows what it gives. Heavy imports wait for a command."""
