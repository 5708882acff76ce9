#!/usr/bin/env python
"""Train one network, or with -m a study of several: see `python train.py --help`. The same as `segstudy train`."""

from segstudy.train import main

if __name__ == "__main__":
    main()
