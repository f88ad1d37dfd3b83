"""What command lines print where standard output is closed, full, or read no longer."""

import io
import os
import signal
import sys

import pytest

from cnnvjp._output import command, put, to_output

PIPE = 128 + signal.SIGPIPE


def unread():
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full():
    return open("/dev/full", "w")


@pytest.mark.parametrize(
    "stream, status, message",
    [
        (unread, PIPE, ""),
        (full, 1, "program: standard output cannot be written: No space left on device\n"),
    ],
)
def test_output_that_cannot_be_written(monkeypatch, capsys, stream, status, message):
    """At once, or held until help has been printed and the program wants to end well."""
    for ends in (False, True):
        with stream() as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            with pytest.raises(SystemExit) as stop, command("program"):
                if ends:
                    with to_output():
                        print("held back")
                        raise SystemExit(0)
                put("line")
        assert stop.value.code == status  # and what is held is given up without an error
        assert capsys.readouterr().err == message


def test_other_errors_are_left_alone(capsys):
    with pytest.raises(FileNotFoundError), command("program"):
        raise FileNotFoundError(2, "nowhere")
    assert capsys.readouterr().err == ""


def test_closed_streams_and_poor_encodings(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with command("program"):
        put("unheard")
        print("unheard", file=sys.stderr)
    sys.stdout.close()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with command("program"):
        put("28×28 in caf\udce9")
    sys.stderr.close()
    assert written.getvalue() == b"28\\xd728 in caf\\udce9\n"
