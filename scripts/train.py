"""Trains a network on images.

    python scripts/train.py [--data fashion-mnist] [--model resnet] [--help]
    python scripts/train.py --resume runs/resnet-20261121-193000

Without options it trains LeNet-5 on the 1797 digits that scikit-learn brings along. Results go to
a folder of their own; `cnnvjp.training.files` says what is in it. A run that is stopped, by Ctrl-C,
by SIGTERM or by force, goes on by `--resume` and ends as if it hadn't been, bit for bit. So does
one that a full disk stopped, with a line on standard error and status 1, or a closed pipe, as in
`train.py | head -1`, without a line and with status 141.

One seed gives the same numbers every time, on the same machine and versions. Several devices, and
several processes on one machine or many, divide each batch among themselves and give the numbers
of one device, up to rounding.
"""

import runpy
from pathlib import Path

HUGE_PAGES = Path(__file__).parents[1] / "cnnvjp" / "training" / "huge_pages.py"

if __name__ == "__main__":
    # By its path, since importing the package takes seconds.
    runpy.run_path(str(HUGE_PAGES))["restart_with_huge_pages"]()

    from cnnvjp.training.commands import train_main

    train_main()
