"""Memory in huge pages, for programs whose temporaries are large.

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


def restart_with_huge_pages() -> None:
    """Starts this script again, in this process, with glibc asking for huge pages.

    Returns where that was done already, or where it would change nothing or harm: GLIBC_TUNABLES
    says what it wants of them; the kernel gives them to all programs or to none, or doesn't say;
    a debugger is watching; or something else than a command line runs the script.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    try:
        asked = "[madvise]" in SETTING.read_text()
    except OSError:
        asked = False
    if not asked or TUNABLE in tunables or sys.gettrace() or sys.argv[0] not in sys.orig_argv:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
