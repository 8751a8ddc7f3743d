"""One fuzz test under Atheris, for some seconds of a core.

`python -m tests.fuzz.driven MODULE TEST SECONDS [FLAGS of libFuzzer]`; its last line on stdout says
how many inputs the test was given, and their CPU seconds.
"""

import os
import sys
import time
from importlib import import_module

import atheris


def main() -> None:
    """Runs it; ends the process."""
    module, test, seconds, *flags = sys.argv[1:]
    with atheris.instrument_imports(include=["usseg_ray"]):
        given = getattr(import_module(module), test)
    inputs, began = 0, time.process_time()

    def taken() -> float:
        return time.process_time() - began

    def tell() -> None:
        print(f"{inputs} inputs in {taken():.1f} s", flush=True)

    def one(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        try:
            given.hypothesis.fuzz_one_input(data)
        except BaseException:
            tell()
            raise
        if taken() > float(seconds):
            tell()
            os._exit(0)  # libFuzzer knows no other end that is a good one

    atheris.Setup(["fuzz", *flags], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
