"""Imports what a run needs, in the server from which the processes of runs side by side are forked."""

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the study's own ends the others
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else a run's log would be coloured, as for the study's terminal

import torch.utils.tensorboard  # noqa: E402, F401

import segstudy.train  # noqa: E402, F401
