"""Sounds: what a cell of recorded audio is, and how the bytes of a file become one."""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from math import gcd

import numpy as np

from nearfar.errors import need

EXTRA = "audio"
"""The extra of nearfar that brings the library for sound files."""
SHORTEST = 0.025
"""Seconds that a sound must last: one frame of speech, which is what the usual encoders read at least."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound with one channel. Sounds of equal samples and rate are equal.

    Attributes:
        samples: float32 [T], in [-1, 1] where the file holds integers.
        rate: samples a second.
    """

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sound):
            return NotImplemented
        return self.rate == other.rate and np.array_equal(self.samples, other.samples)

    def __hash__(self) -> int:
        return hash((self.rate, hashlib.blake2b(self.samples.tobytes(), digest_size=16).digest()))


def resampled(sound: Sound, rate: int) -> np.ndarray:
    """The samples of a sound at another rate: float32 [ceil(T * rate / sound.rate)].

    A polyphase filter of SciPy (`scipy.signal.resample_poly`, a Kaiser window) takes out what the new rate
    cannot carry.
    """
    if rate == sound.rate:
        return sound.samples
    from scipy.signal import resample_poly

    shared = gcd(rate, sound.rate)
    return resample_poly(sound.samples, rate // shared, sound.rate // shared).astype(np.float32)


def decoded(encoded: bytes) -> Sound:
    """Decode a file of sound (WAV, FLAC, OGG, MP3, AIFF); several channels become their mean.

    Raises:
        ValueError: it is no sound, is cut off, holds no sample, or one that is not finite.
        MissingExtra: the library for sound files is not installed.
    """
    soundfile = need("soundfile", EXTRA)
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            promised, rate = file.frames, file.samplerate
            channels = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as broken:
        why = str(broken).rstrip(".").split(": ")[-1]
        raise ValueError(f"cannot be decoded ({why})") from None
    if len(channels) < promised or len(encoded) < _promised_bytes(encoded):
        raise ValueError("is cut off: its header promises more than is there")
    if not len(channels):
        raise ValueError("holds no sample")
    if not np.isfinite(channels).all():
        raise ValueError("holds a sample that is not finite")
    return Sound(np.ascontiguousarray(channels.mean(axis=1, dtype=np.float32)), int(rate))


def _promised_bytes(encoded: bytes) -> int:
    """How long a WAV file says that it is (libsndfile reads one that was cut without a word); else 0."""
    said = int.from_bytes(encoded[4:8], "little")
    streamed = said == 2**32 - 1  # written by a program that did not know the end
    return said + 8 if encoded[:4] == b"RIFF" and not streamed else 0


def encoded(sound: Sound) -> bytes:
    """A WAV file of float32 samples: `decoded` gives the same sound back. Equal sounds give equal bytes.

    Written here, because libsndfile puts the time of writing into files of floats.
    """
    data = sound.samples.astype("<f4").tobytes()
    floats, channels, width = 3, 1, 4
    about = struct.pack("<HHIIHH", floats, channels, sound.rate, sound.rate * width, width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(about)) + about + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def starts_like_sound(start: bytes) -> bool:
    """Whether these first bytes of a file (12 at least) are those of a sound."""
    if start[:4] in (b"RIFF", b"FORM"):
        return start[8:12] in (b"WAVE", b"AIFF", b"AIFC")
    return start.startswith((b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"))
