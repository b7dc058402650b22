"""The command line: ``edgeseg VERB ...``. Each verb parses and calls one API function."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from edgeseg import __version__
from edgeseg.errors import EdgesegError, UsageError

__all__ = ["main", "parse_arguments"]

VERBS = ("fit", "build", "run", "segment", "eval", "bench", "inspect", "report", "doctor", "demo")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeseg",
        description="Turn a trained DINOv3 segmentation checkpoint into an FP16/INT8 engine, "
        "check it, and run it on endoscopy video.",
        epilog="Not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"edgeseg {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks and debug logging")
    common.add_argument("--quiet", "-q", action="store_true", help="no progress bars, no tables")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        module = importlib.import_module(f"edgeseg.cli.{verb}_verb")
        text = module.SUMMARY
        sub = verbs.add_parser(
            verb,
            help=text,
            description=text,
            parents=[common],
            epilog=getattr(module, "EPILOG", ""),
        )
        module.add_arguments(sub)
        sub.set_defaults(execute=module.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 not meant, 130 stopped."""
    arguments = parse_arguments(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        code = arguments.execute(arguments)
    except EdgesegError as error:
        if arguments.debug:
            raise
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if arguments.debug:
            raise
        _complain(f"{type(error).__name__}: {error} (a defect of edgeseg; --debug shows where)")
        return 1
    return int(code or 0)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Understand a command line; ends the program with code 2 where it means nothing.

    Outputs may also stand behind options, where argparse does not expect them.

    Args:
        argv: without the program's name; None for this process's.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    outputs = getattr(arguments, "output", None)
    if rest and isinstance(outputs, list) and not any(_is_option(word) for word in rest):
        outputs.extend(rest)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _complain(message: str) -> None:
    sys.stderr.write("edgeseg: " + " ".join(message.split()) + "\n")


def parse_size(text: str) -> tuple[int, int]:
    """``N`` or ``HxW`` as (height, width) in pixels.

    Raises:
        UsageError: it is neither.
    """
    parts = text.lower().split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(n < 1 for n in numbers):
        raise UsageError(f"size {text!r}: write one number for a square, or HEIGHTxWIDTH")
    return numbers[0], numbers[-1]


def parse_integers(text: str, count: int, what: str) -> tuple[int, ...]:
    """``count`` comma-separated integers.

    Raises:
        UsageError: the text is something else; ``what`` says what was wanted.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise UsageError(f"{text!r}: expected {what}")
    return numbers


def parse_range(text: str) -> tuple[int, int]:
    """``FIRST:END`` as two numbers, the end excluded.

    Raises:
        UsageError: the text is something else.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"slices {text!r}: write FIRST:END, such as 40:90")
    return int(parts[0]), int(parts[1])
