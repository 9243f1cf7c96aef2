"""Fuzz one target with atheris: `python -m tests.faults.fuzz TARGET FOLDER [options of libFuzzer]`.

The run starts with the target's seeds, and stores inputs that reach new code in the folder. It exits with 0 when the time is
up. After a finding it exits with libFuzzer's code and stores the input in a file.
"""

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

# It is only there where there is a wheel of it.
atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["minibill", "jwt"]):
    from tests.faults.fuzz.seeds import SEEDS, WORDS
    from tests.faults.fuzz.targets import TARGETS

# A body is read whole before it is parsed; what breaks a parser is short.
BYTES_MAX = 8_192
# One input takes some microseconds, a whole request some milliseconds: more is a hang.
SECONDS_MAX = 10


def main(name: str, folder: str, *options: str) -> None:
    """Never returns: the fuzzer ends the process."""
    # A service logs what it refuses; here that is nearly everything.
    logging.disable()
    with TARGETS[name]() as target:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        words = Path(folder).with_suffix(".words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS[name]))
        limits = [f"-dict={words}", f"-max_len={BYTES_MAX}", f"-timeout={SECONDS_MAX}", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *limits, *options, folder], target)
        atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
