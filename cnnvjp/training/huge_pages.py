"""Memory in huge pages, for programs whose temporaries are large.

This file imports nothing of the package and can be run by its path, before JAX is imported.

XLA:CPU allocates the temporaries of a program anew whenever it runs. glibc returns blocks of that
size to the kernel as soon as they are free, so that every step of training has its memory mapped
and cleared again, 4 KiB at a time: a tenth to a third of a residual network's step. In pages of
2 MiB little of that is left. Linux gives them to programs that ask, and glibc (2.35 and later) asks
where the environment says GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which it reads when a process
starts.
"""

import os
import sys
from pathlib import Path

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb"


def restart_with_huge_pages(module: str | None = None) -> None:
    """Starts this program again, in this process, with glibc asking for huge pages.

    Does nothing after that, or if it would change nothing or do harm: GLIBC_TUNABLES already says
    something of huge pages; the kernel gives them to all programs or to none, or doesn't say; a
    debugger is attached; or the program was not started from a command line.

    Args:
        module: the name by which `python -m` starts the program, if it can be started so.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    try:
        asked = "[madvise]" in SETTING.read_text("utf-8")
    except OSError:
        asked = False
    named = sys.argv[0] in sys.orig_argv or module in sys.orig_argv
    if not asked or TUNABLE in tunables or sys.gettrace() or not named:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
