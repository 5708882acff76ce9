"""Imports what a run needs, in the server from which the processes of runs side by side are forked."""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the study's own ends the others

import segstudy.train  # noqa: E402, F401
