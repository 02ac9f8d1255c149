"""Write the lock files from the requirements: every package that pip installs, with the digests of its files.

``make lock`` runs it with uv, which resolves without installing. The pins of the requirements stay as they are; what
these need in turn keeps the version that the lock has, or else takes the newest.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# PyTorch publishes its CPU builds apart from the package index: this one is for CPython 3.11, x86-64.
CPU_TORCH = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
# What the CUDA build of torch needs beside the CPU build, which is the one to have on a machine without a GPU.
CUDA = re.compile(r"nvidia-|cuda-|triton")
HEADERS = {
    "lock.txt": "What a study needs, and all that this needs in turn",
    "lock-cpu.txt": "The CPU build of torch, where pip is told of a place that has it",
    "lock-cuda.txt": "What the CUDA build of torch needs besides",
    "lock-dev.txt": "What the checks need beside lock.txt",
    "lock-lens.txt": "TransformerLens, and no more of what it needs than is imported here",
    "lock-torchao.txt": "torchao, which needs no more than lock.txt",
}


def resolve(*requirements: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    """Package name to its lines of a lock file: version, marker and digests."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("\n".join(line for name in HEADERS if name != "lock-cpu.txt" for line in locked(FOLDER / name)))
        command = [
            *("uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--quiet", *options, "--constraints", pins),
            *(FOLDER / name for name in requirements),
        ]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return {re.split(r"[=\[ ]", block)[0]: block for block in blocks if block.strip()}


def locked(path: Path) -> list[str]:
    """The pins of a lock file, without digests; none where there is no such file yet."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return re.findall(r"^[\w.-]+==[^\s;\\]+", text, flags=re.MULTILINE)


def version(block: str) -> str:
    """The version that a package's lines pin."""
    return re.split(r"[ ;]", block.partition("==")[2])[0]


def main() -> None:
    """Write the lock files."""
    everything = resolve("requirements.txt", "requirements-dev.txt")
    runtime = resolve("requirements.txt")
    files = {
        "lock.txt": [block for name, block in runtime.items() if not CUDA.match(name)],
        "lock-cpu.txt": [f"torch=={version(runtime['torch'])}+cpu --hash={CPU_TORCH}\n"],
        "lock-cuda.txt": [block for name, block in runtime.items() if CUDA.match(name)],
        "lock-dev.txt": [block for name, block in everything.items() if name not in runtime],
        **{
            f"lock-{name}.txt": list(resolve(f"requirements-{name}.txt", options=("--no-deps",)).values())
            for name in ("lens", "torchao")
        },
    }
    for name, blocks in files.items():
        header = f"# {HEADERS[name]}, with the digests of all their files. Made by `make lock`; do not edit.\n"
        (FOLDER / name).write_text(header + "".join(blocks), encoding="utf-8")
        print(f"{name}: {len(blocks)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
