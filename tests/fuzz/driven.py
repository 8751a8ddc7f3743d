"""One fuzz test under Atheris, for some seconds of a core.

`python -m tests.fuzz.driven MODULE TEST SECONDS [FLAGS of libFuzzer]`; its last line on stdout says
how many inputs the test was given.
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

    def one(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        try:
            given.hypothesis.fuzz_one_input(data)
        except BaseException:
            print(inputs, flush=True)
            raise
        if time.process_time() - began > float(seconds):
            print(inputs, flush=True)
            os._exit(0)  # libFuzzer knows no other end that is a good one

    atheris.Setup(["fuzz", *flags], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
