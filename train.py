#!/usr/bin/env python
"""Train one network, or with -m a study of several: see `python train.py --help`. The same as `segstudy train`."""

from segstudy.entry import train

if __name__ == "__main__":
    train()
